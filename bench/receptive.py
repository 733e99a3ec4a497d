"""The receptive field of a network, followed through its operations without computing anything.

Every tensor that comes from the image carries, for each axis of the image, how many pixels one of its units sees and
how many pixels lie between neighbouring units (Dumoulin and Visin 2016, arXiv:1603.07285, relationship 6 and
section 4): a kernel of k taps, dilation d, adds (k − 1)·d·jump pixels; a stride of s multiplies the jump by s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

#: What one unit sees and how far neighbours lie apart, in pixels, along one axis.
Axis = tuple[int, int]
#: Operations that mix pixels in a way that is not followed.
_OPAQUE = ("grid_sampler", "im2col", "col2im", "_fft", "fft", "upsample", "roll", "gather", "index", "take", "scatter", "unfold")


@dataclass(frozen=True)
class ReceptiveField:
    """Of one unit of the last map that still has positions.

    Attributes:
        pixels: side of the square of the input that it sees, had the image no border; None where an operation mixes
            pixels in a way that is not followed, which `unknown` names.
        image, map: side of the image and of the map.
        stride: pixels of the image between neighbouring units of the map.
    """

    pixels: int | None
    image: int
    map: int
    stride: int | None
    unknown: str = ""


def receptive_field(model: nn.Module, images: Tensor) -> ReceptiveField:
    """The receptive field of a network of plain tensor operations.

    Args:
        model: on the device of the images; ``meta`` will do.
        images: (b, c, n, n).
    """
    with torch.no_grad(), _Follow(images) as follow:
        model(images)
    image = images.shape[-1]
    if follow.unknown:
        return ReceptiveField(None, image, follow.side, None, follow.unknown)
    (pixels, jump), other = follow.last
    return ReceptiveField(max(pixels, other[0]), image, follow.side, max(jump, other[1]))


class _Follow(TorchDispatchMode):
    """Carries the axes (rows, columns) of every tensor that comes from the image."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        # Tensors are kept alive, so that no id is given out again.
        self._known: dict[int, tuple[Tensor, tuple[Axis, Axis]]] = {id(images): (images, ((1, 1), (1, 1)))}
        self.last: tuple[Axis, Axis] = ((1, 1), (1, 1))
        self.side = images.shape[-1]
        self.unknown = ""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, see `lean`

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sources = [t for t in _tensors(args) if id(t) in self._known]
        if sources:
            axes = [self._known[id(t)][1] for t in sources]
            after = self._after(func, args, sources[0], out, (_widest(a[0] for a in axes), _widest(a[1] for a in axes)))
            for tensor in _tensors([out]):
                self._known[id(tensor)] = (tensor, after)
                if tensor.dim() >= 4 and tensor.shape[-1] == tensor.shape[-2] > 1:
                    self.last, self.side = after, tensor.shape[-1]
        return out

    def _after(self, func: Any, args: Any, source: Tensor, out: Any, axes: tuple[Axis, Axis]) -> tuple[Axis, Axis]:
        name = func.overloadpacket.__name__
        if func is aten.convolution.default:
            if args[6]:
                self._lose("transposed convolution")
            return _window(axes, args[1].shape[-2:], args[3], args[5])
        if "max_pool" in name and "adaptive" not in name:
            return _window(axes, args[1], args[2] if len(args) > 2 and args[2] else args[1], args[4] if len(args) > 4 else 1)
        if "avg_pool" in name and "adaptive" not in name:
            return _window(axes, args[1], args[2] if len(args) > 2 and args[2] else args[1], 1)
        if "adaptive" in name and out_side(out) > 1:
            size = source.shape[-1] // out_side(out)
            return _window(axes, size, size, 1)
        if name == "slice" and len(args) > 4 and args[4] > 1:
            axis = (args[1] if len(args) > 1 else 0) % source.dim() - source.dim()
            step = (args[4] if axis == -2 else 1, args[4] if axis == -1 else 1)
            return _window(axes, 1, step, 1)
        if name.startswith(_OPAQUE) and not _same_places(source, out):
            self._lose(name)
        return axes

    def _lose(self, name: str) -> None:
        self.unknown = self.unknown or name.strip("_")


def out_side(out: Any) -> int:
    """Side of the first tensor of what an operation returns."""
    return int(_tensors([out])[0].shape[-1])


def _same_places(source: Tensor, out: Any) -> bool:
    """Whether an operation left the last two axes, the positions, as they were."""
    tensors = _tensors([out])
    return bool(tensors) and source.dim() >= 4 and all(t.shape[-2:] == source.shape[-2:] for t in tensors)


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    return [t for v in values for t in _tensors(v)] if isinstance(values, list | tuple) else []


def _widest(axes: Any) -> Axis:
    pairs = list(axes)
    return max(p[0] for p in pairs), max(p[1] for p in pairs)


def _window(axes: tuple[Axis, Axis], kernel: Any, stride: Any, dilation: Any) -> tuple[Axis, Axis]:
    parts = zip(axes, _pair(kernel), _pair(stride), _pair(dilation), strict=True)
    rows, columns = ((seen + (k - 1) * d * jump, jump * s) for (seen, jump), k, s, d in parts)
    return rows, columns


def _pair(value: Any) -> tuple[int, int]:
    """The part for rows and columns of an argument that may be one number, or have a place for orientations first."""
    numbers = [value] if isinstance(value, int) else list(value)
    return int(numbers[-2 if len(numbers) > 1 else -1]), int(numbers[-1])
