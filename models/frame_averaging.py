"""Averaging a model over a group: the control that makes any network invariant, at the price of |G| evaluations.

The logits are the mean of the model's logits over all transformed copies of the image (the group average that Puny
et al., "Frame Averaging for Invariant and Equivariant Network Design", ICLR 2022, start from: a frame that is the
whole group). Training goes through all copies as well.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor, nn

from ..registry import register_wrapper


def quarter_turns(x: Tensor) -> list[Tensor]:
    """The four rotations of images (B, C, n, n) by multiples of 90 degrees; no interpolation."""
    return [x.rot90(k, (-2, -1)) for k in range(4)]


@functools.lru_cache(maxsize=16)
def eighth_turn_taps(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cubic interpolation (Keys 1981, a = -1/2) of an image of side `size`, rotated by 45 degrees about its middle.

    Returns:
        Indices (size * size, 16) of flattened source pixels and their weights, which sum to 1 in each row. Points
        outside the image take the value of the nearest border pixel, so that an even background stays even.
    """
    axis = np.arange(size) - (size - 1) / 2
    rows, columns = np.meshgrid(axis, axis, indexing="ij")
    half = np.sqrt(0.5)
    source = np.stack([half * (rows + columns), half * (columns - rows)]) + (size - 1) / 2
    base = np.floor(source).astype(np.int64)
    offsets = np.arange(-1, 3)
    distance = np.abs((source - base)[..., None] - offsets)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    weights = np.where(distance <= 1, near, far)
    places = np.clip(base[..., None] + offsets, 0, size - 1)
    indices = places[0][..., :, None] * size + places[1][..., None, :]
    products = weights[0][..., :, None] * weights[1][..., None, :]
    return indices.reshape(size * size, 16), products.reshape(size * size, 16)


class FrameAverage(nn.Module):
    """The mean of a model's logits over all images of a group.

    The copies are one batch of |G| times the size, so that batch normalisation sees them together.

    Args:
        model: (B, C, n, n) -> (B, classes).
        group: ``"C4"``, ``"D4"``, or ``"C8"`` (whose odd elements interpolate).

    Shapes:
        (B, C, n, n) -> (B, classes).

    Raises:
        ValueError: unknown group; or, in the forward pass, an image that is not square.
    """

    def __init__(self, model: nn.Module, group: str) -> None:
        super().__init__()
        if group not in ("C4", "D4", "C8"):
            raise ValueError(f"group={group!r}: frames are averaged over 'C4', 'D4' or 'C8'")
        self.model, self.group = model, group
        self._taps: dict[tuple[int, torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def frames(self, x: Tensor) -> list[Tensor]:
        """All transformed copies of the images; the first is the image itself."""
        if x.shape[-1] != x.shape[-2]:
            raise ValueError(f"frames of {tuple(x.shape[-2:])} images: only square images can be rotated")
        if self.group == "C4":
            return quarter_turns(x)
        return quarter_turns(x) + quarter_turns(x.flip(-2) if self.group == "D4" else self._eighth_turn(x))

    def _eighth_turn(self, x: Tensor) -> Tensor:
        # Not `grid_sample`, which has no forward-mode derivative.
        size, key = x.shape[-1], (x.shape[-1], x.device, x.dtype)
        if key not in self._taps:
            indices, weights = eighth_turn_taps(size)
            with torch.inference_mode(False):
                taps = torch.tensor(indices, device=x.device), torch.tensor(weights, device=x.device, dtype=x.dtype)
            self._taps[key] = taps
        indices, weights = self._taps[key]
        taken = x.flatten(2).index_select(2, indices.flatten()).unflatten(2, indices.shape)
        return (taken * weights).sum(-1).view_as(x)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.frames(x)
        return self.model(torch.cat(frames)).unflatten(0, (len(frames), -1)).mean(0)


@register_wrapper("frame-c4", source="arXiv:2110.03336", invariant="C4", note="4 evaluations an image")
def frame_c4(model: nn.Module) -> nn.Module:
    """Mean of the logits over the four quarter turns of the image: exactly C4-invariant at every size."""
    return FrameAverage(model, "C4")


@register_wrapper("frame-d4", source="arXiv:2110.03336", invariant="D4", note="8 evaluations an image")
def frame_d4(model: nn.Module) -> nn.Module:
    """Mean of the logits over quarter turns and reflections: exactly D4-invariant at every size."""
    return FrameAverage(model, "D4")


@register_wrapper(
    "frame-c8",
    source="arXiv:2110.03336",
    invariant="C4",
    note="8 evaluations an image; rotations by odd multiples of 45 degrees interpolate, so the invariance is to C4",
)
def frame_c8(model: nn.Module) -> nn.Module:
    """Mean of the logits over eight rotations: exactly C4-invariant, and nearly so under 45 degrees.

    The image is turned by 45 degrees once, with cubic interpolation, and both it and the result by quarter turns;
    since the interpolation commutes with quarter turns, so does the mean.
    """
    return FrameAverage(model, "C8")
