"""PDO-eConv layers that leave out the zeros of their filters, where the frames make many of them.

At multiples of 90 degrees a finite-difference filter fills the inner 3x3 of its 5x5 pixels, and at 45 degrees it adds
four taps to these, two pixels from the centre along the axes. So without an offset, the 5x5 filters over C8 and D8 are

* a 3x3 filter in every frame, and
* in every other frame, at 45 degrees to the rest, four single taps: a 1x1 filter each, whose outputs are shifted and
  added, which costs less than a sparse filter of larger size.

That is 11 multiplications on average instead of 25, and the same sum. Other offsets and the Gaussian stencils fill the
5x5 pixels, and layers over C4 are 3x3 altogether: such layers stay as they are.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import PDOConv


def split_frames(model: nn.Module) -> nn.Module:
    """Let every group layer of a network leave out the zeros of its filters, where that is worth it.

    The same function of the same weights, under the same names, up to the order in which products are added. Faster on
    a CPU (``benchmarks/layers.py``), for about 1.4 times the memory of the dense layer, as the products of the single
    taps are maps of their own until they are added (``benchmarks/memory.py``). On a GPU it has not been measured: two
    convolutions are launched in place of one, which may cost a small network more than the products that it is spared.

    Returns:
        The model, changed in place.
    """
    for module in model.modules():
        if type(module) is PDOConv and (first := first_spread(module)) is not None:
            module.__class__ = SplitPDOConv  # parameters, hooks and the place in the network stay what they are
            module._first = first
    return model


#: Rows and columns, of five, of the taps two pixels from the centre.
_FAR = (0, 4, 2, 2), (2, 2, 0, 4)


def first_spread(layer: PDOConv) -> int | None:
    """Whether every other filter of a layer is 3x3, and the rest have further taps only two pixels along the axes.

    Returns:
        The first element of the group whose filter has further taps, 0 or 1; None where a layer is not of this kind.
    """
    taken = np.abs(layer.basis).max(1) > 0
    if taken.shape[-1] != 5:
        return None
    taken[:, 1:4, 1:4] = False
    spread = np.flatnonzero(taken.any((1, 2)))
    taken[:, *_FAR] = False
    alternate = 2 * len(spread) == len(taken) and np.array_equal(spread, np.arange(spread[0], len(taken), 2))
    return int(spread[0]) if alternate and not taken.any() else None


class SplitPDOConv(PDOConv):
    """A `PDOConv` whose filters are split, as `split_frames` does it. Shapes and errors are the same."""

    _first: int | None

    def _set_frames(self, frames: np.ndarray) -> None:
        super()._set_frames(frames)
        self._first = first_spread(self)

    def forward(self, x: Tensor) -> Tensor:
        if self._first is None or x.shape[1] != self.in_fields * self.in_order:
            return super().forward(x)  # the dense layer, or its error
        dense = self.filters()
        near = dense[..., 1:4, 1:4].contiguous()
        inner, padding = (x, self.padding - 1) if self.padding else (x[..., 1:-1, 1:-1], 0)
        out = F.conv2d(inner, near, None, self.stride, padding)
        # In turn stand elements of the group without and with further taps.
        out.unflatten(1, (-1, 2)).select(2, self._first).add_(self._further(x, dense[self._first :: 2], out.shape[-2:]))
        return out

    def _further(self, x: Tensor, filters: Tensor, size: torch.Size) -> Tensor:
        """What the taps two pixels from the centre contribute, for filters (n, channels, 5, 5)."""
        # Slices, not lists of indices: those are copied to the device, which waits for the copy.
        far = torch.cat([filters[..., ::4, 2], filters[..., 2, ::4]], -1)
        taps = far.permute(2, 0, 1).flatten(0, 1)
        every = F.pad(F.conv2d(x, taps[..., None, None]), (self.padding,) * 4)
        height, width = (self.stride * (n - 1) + 1 for n in size)
        parts = [
            part[..., row : row + height : self.stride, column : column + width : self.stride]
            for part, row, column in zip(every.chunk(4, 1), *_FAR, strict=True)
        ]
        return parts[0] + parts[1] + parts[2] + parts[3]
