"""Equivariance error by angle and by depth, on closed-form images, so that nothing is resampled."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import nn

from ...models.features import FeatureLayer, feature_layers
from ..records.sidecar import LayerPoint
from .accuracy import logits
from .equivariance import BLOB_DRAWS, Scene, reference_arithmetic, relative_error, zero_logits

#: Angles of the angle curve in degrees.
CURVE_DEGREES = tuple(range(0, 360, 5))
#: Number of closed-form images for comparing features. It is small because the features of all layers are in memory.
FEATURE_DRAWS = 16


def angle_curve(
    model: nn.Module, scene: Scene, degrees: Sequence[float] = CURVE_DEGREES, draws: int = BLOB_DRAWS
) -> list[float | None]:
    """Mean of ‖f(R_θ x) − f(x)‖ / s for each angle θ; None if collapsed."""
    blobs = scene.blobs(draws)
    with reference_arithmetic():
        plain = logits(model, scene.image(blobs, 0.0), scene.prepare)
        origin = zero_logits(model, scene.image(blobs, 0.0))
        turned = [logits(model, scene.image(blobs, angle), scene.prepare) for angle in degrees]
    return [relative_error([plain, moved], origin) for moved in turned]


def feature_errors(model: nn.Module, scene: Scene, draws: int = FEATURE_DRAWS) -> list[LayerPoint]:
    """The error of every layer that defines how rotations act on it, from input to output; empty if none does."""
    layers = list(feature_layers(model))
    if not layers:
        return []
    blobs = scene.blobs(draws)
    with reference_arithmetic():
        plain = _outputs(model, layers, scene.prepare(scene.image(blobs, 0.0)))
        origin = _outputs(model, layers, torch.zeros_like(scene.image(blobs, 0.0)))
        layers = sorted((la for la in layers if la.name in plain), key=lambda la: list(plain).index(la.name))
        exact: dict[str, list[torch.Tensor]] = {name: [values] for name, values in plain.items()}
        fibre = {name: [values.mean((2, 3))] for name, values in plain.items()}
        for angle in sorted({360 * k / la.rotations for la in layers for k in range(1, la.rotations)}):
            moved = _outputs(model, layers, scene.prepare(scene.image(blobs, angle)))
            for layer in layers:
                steps, rest = divmod(angle * layer.rotations / 360, 1)
                if rest == 0:
                    back = layer.permuted(moved[layer.name], -int(steps))
                    if angle % 90 == 0:
                        exact[layer.name].append(torch.rot90(back, -int(angle // 90), (-2, -1)))
                    else:
                        fibre[layer.name].append(back.mean((2, 3)))
    return [
        LayerPoint(
            layer=layer.name,
            eq_feat_exact=_error(exact[layer.name], origin[layer.name]),
            eq_feat_fibre=_error(fibre[layer.name], origin[layer.name].mean((2, 3))),
        )
        for layer in layers
    ]


def _error(orbit: list[torch.Tensor], origin: torch.Tensor) -> float | None:
    return relative_error([o.flatten(1) for o in orbit], origin[:1].flatten(1)) if len(orbit) > 1 else None


@torch.no_grad()
def _outputs(model: nn.Module, layers: Sequence[FeatureLayer], images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs of the layers in the order of computation, without layers that are called several times or get another
    batch than the images (such as inside a wrapper).
    """
    seen: dict[str, list[torch.Tensor]] = {}

    def keep(name: str, output: torch.Tensor) -> None:
        seen.setdefault(name, []).append(output.detach().clone())  # activations may work in place

    model.eval()
    with ExitStack() as hooks:
        for layer in layers:
            hook = layer.module.register_forward_hook(lambda _m, _i, o, name=layer.name: keep(name, o))
            hooks.enter_context(hook)
        model(images)
    return {n: o[0] for n, o in seen.items() if len(o) == 1 and o[0].dim() == 4 and len(o[0]) == len(images)}
