"""TI-pooling of Laptev, Savinov, Buhmann & Pollefeys (CVPR 2016, arXiv:1604.06318), around any network.

The features of every turned copy of the image, from one network, are pooled by their maximum, number by number, before
the classifier: ``g_k(x) = max_phi f_k(phi(x))``. Over a group of turns the pooled features are exactly
invariant for every network, because a turned image has the same copies in another order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..registry import UserError, register_wrapper
from .filters import ExpandedLayer
from .frame_averaging import FrameAverage

#: Layers whose weights make features or logits; what follows the last of them is taken for a part of the classifier.
_WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd, ExpandedLayer)


class TIPooling(FrameAverage):
    """A network whose last layer with weights sees the maximum of its input over turned copies of the image.

    That layer is the classifier, a linear layer or a convolution. Where it takes maps, their pixels are pooled each by
    itself. All copies are one batch, so that batch normalisation sees them together. The maximum sends its gradient to
    the copy that has it; copies that tie share it.

    Args:
        model: (B, C, n, n) -> (B, classes); its last layer with weights is called once a pass, and last.
        group: ``"C4"``, or ``"C8"`` (whose odd elements interpolate).

    Shapes:
        (B, C, n, n) -> (B, classes).

    Raises:
        UserError: no layer has weights; or, in the first forward pass, the layer that was registered last is not the
            one that is called last, once.
        ValueError: unknown group; or, in the forward pass, an image that is not square.
    """

    def __init__(self, model: nn.Module, group: str) -> None:
        if group not in ("C4", "C8"):
            raise ValueError(f"group={group!r}: copies are pooled over 'C4' or 'C8'")
        super().__init__(model, group)
        layers = [(name, m) for name, m in model.named_modules() if isinstance(m, _WEIGHTED)]
        if not layers:
            raise UserError(
                "TI-pooling: the model has no linear or convolutional layer, so no classifier to pool before"
            )
        self._name, classifier = layers[-1]
        self._copies = 0  # of each image in the batch; 0 outside a forward pass of this wrapper
        self._seen = False  # whether a pass has shown that the classifier is called last
        classifier.register_forward_pre_hook(self._pool)

    def _pool(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        copies, self._copies = self._copies, 0
        if not copies:
            return inputs
        features, *rest = inputs
        return features.unflatten(0, (-1, copies)).amax(1), *rest

    def forward(self, x: Tensor) -> Tensor:
        return self._pooled(x) if self._seen else self._first(x)

    def _pooled(self, x: Tensor) -> Tensor:
        frames = self.frames(x)
        # Copies of an image lie side by side: wrappers further in put theirs around them, and are pooled before.
        self._copies = len(frames)
        try:
            out: Tensor = self.model(torch.stack(frames, 1).flatten(0, 1))
        finally:
            self._copies = 0
        return out

    def _first(self, x: Tensor) -> Tensor:
        """A forward pass that looks at the order in which the layers are called."""
        called: list[str] = []
        hooks = [
            m.register_forward_pre_hook(lambda *_, name=name: called.append(name))
            for name, m in self.model.named_modules()
            if isinstance(m, _WEIGHTED)
        ]
        failed, out = None, x[:0]
        try:
            out = self._pooled(x)
        except RuntimeError as error:  # torch's words for batches that do not fit
            failed = error
        finally:
            for hook in hooks:
                hook.remove()
        wrong = bool(called) and (called[-1] != self._name or called.count(self._name) != 1)
        if failed is not None and not wrong:
            raise failed
        if wrong or len(out) > len(x):  # copies that met the pooled ones by broadcasting; a wrapper around leaves fewer
            raise UserError(
                f"TI-pooling: {self._name!r}, the layer with weights that is registered last, must be called last,"
                " once, and"
                f" alone make the logits; the calls end with {', '.join(map(repr, called[-2:])) or 'none'}"
            ) from failed
        self._seen = True
        return out


@register_wrapper("ti-c4", source="arXiv:1604.06318", invariant="C4", note="4 evaluations of all but the classifier")
def ti_c4(model: nn.Module) -> nn.Module:
    """Maximum over the four quarter turns of the image before the last layer: exactly C4-invariant at every size."""
    return TIPooling(model, "C4")


@register_wrapper(
    "ti-c8",
    source="arXiv:1604.06318",
    invariant="C4",
    note="8 evaluations of all but the classifier; odd multiples of 45 degrees interpolate, so the invariance is to C4",
)
def ti_c8(model: nn.Module) -> nn.Module:
    """Maximum over eight rotations of the image before the last layer: exactly C4-invariant, and nearly so under 45
    degrees. Rotations as in `frame_averaging.frame_c8`.
    """
    return TIPooling(model, "C8")
