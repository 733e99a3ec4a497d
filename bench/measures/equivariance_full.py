"""Equivariance error of logits: the ``full`` profile, measured on kept weights.

As in `equivariance`, f = logits in float32 and evaluation mode, s = mean of ‖f(x) − f(x′)‖ over all pairs of different
inputs, and the values of a collapsed model are None. The definitions:

* ``eq_rot_data``: mean over test images x and the 23 angles θ = 15, 30, …, 345 of ‖f(R_θ x) − f(R_0 x)‖ / s, with
  R as in `rotation.ImageRotator`.
* ``eq_floor``: mean of ‖f(R₋θ R_θ x) − f(R₀ R₀ x)‖ / s over the same images and angles: an image that is rotated and
  rotated back. An ``eq_rot_data`` below twice the floor cannot be resolved: interpolation alone may explain it.
* Measures that other publications use, on the same images and angles: ``eq_rot_data_abs``, the mean of
  ‖f(R_θ x) − f(R_0 x)‖ itself; ``nv_rot_data``, see `normalised_variance`; ``kl_rot_data_nats``, see `divergence_nats`.
* ``lee_rot_per_deg``: mean of ‖d/dθ f(R_θ x)‖ / s at θ = 0 on closed-form images, per degree;
  ``lee_shift_per_px``: the same for shifts along x and y, per pixel. See `lie_derivative`.
* ``consistency_pct``: share of pairs (x, θ ≠ 0) whose predictions for R_θ x and R_0 x agree.
* ``acc_by_angle_pct``: accuracy at each of the 24 angles of `rotation.ORBIT_DEGREES`; ``acc_orbit_pct`` and
  ``acc_worst_angle_pct``: their mean and their minimum. Only if labels stay correct when images are rotated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..records.sidecar import FullPoint
from ..tools.out_of_memory import out_of_memory_message
from ..tools.text import first_line
from .accuracy import EVAL_BATCH, accuracy_pct, logits
from .angle_and_depth import angle_curve, feature_errors
from .equivariance import Scene, reference_arithmetic, relative_error, scale_of, zero_logits
from .lie_derivative import lie_errors
from .rotation import ORBIT_DEGREES, ImageRotator

#: Number of closed-form images, and of real images, for the errors.
FULL_DRAWS = 256
#: Number of test images, balanced by class, for consistency and accuracies (or all test images if there are fewer).
ORBIT_IMAGES = 2000


@dataclass(frozen=True)
class Inputs:
    """Inputs of the full profile, on the device.

    Attributes:
        images: integers (n, c, size, size), with labels (n,); any prefix is balanced by class.
        scene: for the closed-form images of the same size; its `prepare` normalises the `images` too.
        rotation: whether a label stays correct under any rotation of its image.
    """

    images: torch.Tensor
    labels: torch.Tensor
    scene: Scene
    rotation: bool


def measure_full(
    model: nn.Module, inputs: Inputs, predictions: bool = True, draws: int = FULL_DRAWS, batch: int = EVAL_BATCH
) -> tuple[FullPoint, str]:
    """The ``full`` profile of a model, and the reason if a requested value could not be measured (else empty).

    Values are None if the model is collapsed, if they are not requested, or if they have no meaning.

    Args:
        predictions: whether consistency and accuracies are measured; they take most of the time.
        draws: number of closed-form images, and of real images, for the errors.
        batch: images per forward pass.
    """
    scene, note = inputs.scene, ""
    with reference_arithmetic():
        origin = zero_logits(model, inputs.images)
        images = inputs.images if predictions else inputs.images[:draws]
        orbit = _orbit_logits(model, images, inputs, batch)
        floor = _floor(model, inputs, draws, batch)
        try:
            rotating, shifting = lie_errors(model, scene, draws, origin)
        except RuntimeError as error:
            if out_of_memory_message(error):
                raise
            # A layer of a user may have no forward-mode derivative; the other values are still valid.
            rotating, shifting, note = None, None, f"no Lie derivative: {first_line(error)}"
    errors = orbit[:, :draws]
    scale = scale_of(errors[0], origin)
    rotated = relative_error(list(errors), origin)
    collapsed = rotated is None or (rotating is None and not note)
    point = FullPoint(
        eq_rot_data=rotated,
        eq_floor=None if scale is None or not math.isfinite(floor) else floor / scale,
        eq_rot_data_abs=None if rotated is None or scale is None else rotated * scale,
        nv_rot_data=None if rotated is None else normalised_variance(errors),
        kl_rot_data_nats=None if rotated is None else divergence_nats(errors),
        lee_rot_per_deg=rotating,
        lee_shift_per_px=shifting,
        consistency_pct=_consistency_pct(orbit) if predictions and not collapsed else None,
        **_accuracies(orbit, inputs, predictions),
        collapsed=collapsed,
        curve=angle_curve(model, scene),
        layers=feature_errors(model, scene),
    )
    return point, note


def normalised_variance(orbit: torch.Tensor) -> float | None:
    """Normalised variance of Quiroga et al. ("Invariance measures for neural networks", arXiv:2310.17404).

    For each logit, two numbers are divided. The numerator is the standard deviation over the transformations of an
    image, averaged over the images. The denominator is the standard deviation over the images under one transformation,
    averaged over the transformations. As in the authors' package ``tmeasures``, these are (unbiased) standard
    deviations, not variances, and a logit that never changes counts as 1. The result is the mean over the logits. 0
    means invariant; 1 means that a transformation changes a logit as much as another image does. None: a logit changes
    only with the transformation. The logits are (transformations, n, classes), the identity among them.
    """
    orbit = orbit.double()
    by_transformation, by_image = orbit.std(0).mean(0), orbit.std(1).mean(0)
    ratio = torch.where((by_transformation == 0) & (by_image == 0), 1.0, by_transformation / by_image)
    mean = float(ratio.mean())
    return mean if math.isfinite(mean) else None


def divergence_nats(orbit: torch.Tensor) -> float | None:
    """Mean over images and g ≠ e of KL(p(x) ‖ p(gx)) in nats, p the softmax of the logits.

    Unlike the errors, it depends on the scale of the logits: it measures how much the predicted probabilities change.
    The logits are (transformations, n, classes), the identity first.
    """
    logs = orbit.double().log_softmax(-1)
    divergences = (logs[0].exp() * (logs[0] - logs[1:])).sum(-1)
    # Rounding may make a value slightly negative.
    mean = float(divergences.clamp(min=0).mean())
    return mean if math.isfinite(mean) else None


def _orbit_logits(model: nn.Module, images: torch.Tensor, inputs: Inputs, batch: int) -> torch.Tensor:
    """Logits (angles, n, classes) of the rotated images."""
    parts = []
    for chunk in images.split(batch):
        table = _rotator(chunk, inputs)
        parts.append(torch.stack([logits(model, table.rotated(t), inputs.scene.prepare, batch) for t in ORBIT_DEGREES]))
    return torch.cat(parts, 1)


def _floor(model: nn.Module, inputs: Inputs, draws: int, batch: int) -> float:
    """Mean over images and angles ≠ 0 of ‖f(R₋θ R_θ x) − f(R₀ R₀ x)‖."""
    total, count = 0.0, 0
    for chunk in inputs.images[:draws].split(batch):
        table = _rotator(chunk, inputs)
        plain = logits(model, table.back_and_forth(0), inputs.scene.prepare, batch).double()
        # Quarter turns cancel: angles that differ by 90, 180 or 270 degrees have the same result.
        for angle in (t for t in ORBIT_DEGREES if 0 < t < 90):
            moved = logits(model, table.back_and_forth(angle), inputs.scene.prepare, batch).double()
            total += 4 * float((moved - plain).norm(dim=1).sum())
        count += len(chunk)
    return total / (count * (len(ORBIT_DEGREES) - 1))


def _rotator(images: torch.Tensor, inputs: Inputs) -> ImageRotator:
    return ImageRotator(images, [b * inputs.scene.maximum for b in inputs.scene.background])


def _consistency_pct(orbit: torch.Tensor) -> float | None:
    """Consistency in percent; a prediction from non-finite logits agrees with no other prediction."""
    classes, finite = orbit.argmax(-1), orbit.isfinite().all(-1)
    agree = (classes[1:] == classes[0]) & finite[1:] & finite[0]
    return 100.0 * float(agree.double().mean())


def _accuracies(orbit: torch.Tensor, inputs: Inputs, predictions: bool) -> dict[str, Any]:
    if not predictions or not inputs.rotation:
        return {"acc_orbit_pct": None, "acc_worst_angle_pct": None, "acc_by_angle_pct": []}
    each = [accuracy_pct(scores, inputs.labels) for scores in orbit]
    return {"acc_orbit_pct": sum(each) / len(each), "acc_worst_angle_pct": min(each), "acc_by_angle_pct": each}
