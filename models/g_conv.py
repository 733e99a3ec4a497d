"""Group-equivariant convolutions over the symmetries of the pixel grid (Cohen & Welling, ICML 2016).

Two groups leave the square grid in place: C4 (the four quarter turns; with translations the wallpaper group p4)
and D4 (quarter turns and reflections; p4m). Their action needs no interpolation, so every layer here is exactly
equivariant wherever the layout of the sampling grid is symmetric too (unstrided convolutions at every size,
stride 2 with odd kernels at odd sizes, 2x2 pooling at even sizes).

A feature map over the group has ``fields * |G|`` channels, field-major: channel ``c * |G| + g`` holds field c
at element g. Elements are ordered ``|C4| * m + r`` for ``mirror^m * rotation^r``: first the counter-clockwise
rotation by r quarter turns, then, for m = 1, the reflection that reverses the rows. D4 holds the reflection that
reverses the columns as well, as the D4 of `groups` does: the same elements in another order.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .filters import ExpandedLayer, gather, gather_tables

#: Groups that the pixel grid carries exactly, and the number of their elements. ``"none"`` is the ordinary plane.
ORDERS = {"none": 1, "C4": 4, "D4": 8}


def order_of(group: str) -> int:
    """Number of elements of a group of this module.

    Raises:
        ValueError: `group` is none of ``"none"``, ``"C4"``, ``"D4"``.
    """
    if group not in ORDERS:
        raise ValueError(f"group={group!r}: these layers know {', '.join(map(repr, ORDERS))}")
    return ORDERS[group]


def transform_image(image: np.ndarray, element: int) -> np.ndarray:
    """An array (…, k, k) moved by a group element: rotated counter-clockwise, then its rows reversed.

    Args:
        image: any array whose last two axes are rows and columns.
        element: index ``4 * m + r``; below 4 for C4.
    """
    mirror, turns = divmod(element, 4)
    image = np.rot90(image, turns, axes=(-2, -1))
    return image[..., ::-1, :] if mirror else image


@lru_cache(maxsize=None)
def relative_elements(group: str) -> np.ndarray:
    """Table (|G|, |G|) of ``g^-1 h`` for output element g and input element h.

    It follows from how the elements act on a test image without symmetry, so that it cannot disagree with
    `transform_image`.
    """
    order = order_of(group)
    test = np.arange(9).reshape(3, 3)
    by_image = {transform_image(test, g).tobytes(): g for g in range(order)}
    table = np.empty((order, order), dtype=np.int64)
    for g in range(order):
        for relative in range(order):
            product = transform_image(transform_image(test, relative), g)  # g after `relative`
            table[g, by_image[product.tobytes()]] = relative
    return table


@lru_cache(maxsize=None)
def filter_indices(group: str, in_order: int, kernel_size: int) -> np.ndarray:
    """For each output element, which entry of a filter (in_order, k, k) stands where in its transformed copy.

    Returns:
        Integers (|G| * in_order * k * k): entry ``[g, h, y, x]`` is the flat position in the filter of the value
        that the filter for output element g has at input element h, row y, column x. The filter is moved by g and
        its input elements are relabelled from h to ``g^-1 h`` (Cohen & Welling 2016, section 6.2).
    """
    flat = np.arange(in_order * kernel_size**2).reshape(in_order, kernel_size, kernel_size)
    copies = []
    for g in range(order_of(group)):
        source = flat[relative_elements(group)[g]] if in_order > 1 else flat
        copies.append(transform_image(source, g))
    return np.stack(copies).reshape(-1)


class GroupConv2d(ExpandedLayer):
    """A convolution from the plane (`lifting`) or from the group to the group.

    The weight (out, in * |H|, k, k), with |H| = 1 for a lifting layer, is expanded to |G| moved copies by one gather,
    see `ExpandedLayer`.

    Args:
        in_fields: channels of an image for a lifting layer, else fields of the input.
        out_fields: fields of the output.
        kernel_size: odd or even; an even one is equivariant as well, about its own centre.
        group: ``"C4"`` or ``"D4"``; ``"none"`` gives an ordinary convolution.
        lifting: whether the input is an image.
        stride: as `torch.nn.Conv2d`; 2 keeps the equivariance exact only where the samples lie symmetrically.
        padding: zeros on every side.
        bias: one number a field.
        gain: standard deviation of the initial weights is ``gain / sqrt(fan_in)``, fan_in = in * |H| * k * k.

    Shapes:
        (B, in_fields * |H|, H, W) -> (B, out_fields * |G|, H', W'); values of any range.

    Raises:
        ValueError: the group is unknown.
    """

    def __init__(
        self,
        in_fields: int,
        out_fields: int,
        kernel_size: int,
        *,
        group: str,
        lifting: bool = False,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.in_fields, self.out_fields, self.kernel_size = in_fields, out_fields, kernel_size
        self.group, self.order = group, order_of(group)
        self.in_order = 1 if lifting else self.order
        self.stride, self.padding, self.gain = stride, padding, gain
        # Four axes, as an ordinary filter, so that the layer follows `.to(memory_format=…)`.
        self.weight = nn.Parameter(torch.empty(out_fields, in_fields * self.in_order, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(out_fields)) if bias else None
        if self.order > 1:
            index, readers = gather_tables(filter_indices(group, self.in_order, kernel_size))
            self.register_buffer("_index", index, persistent=False)
            self.register_buffer("_readers", readers, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw normal weights from torch's global generator; biases are zero."""
        fan_in = self.in_fields * self.in_order * self.kernel_size**2
        nn.init.normal_(self.weight, std=self.gain / math.sqrt(fan_in))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def expanded(self) -> Tensor:
        """The dense filter (out * |G|, in * |H|, k, k) of the ordinary convolution."""
        if self.order == 1:
            return self.weight
        k = self.kernel_size
        copies = gather(self.weight.reshape(self.out_fields, self.in_fields, -1), 2, self._index, self._readers)
        copies = copies.view(self.out_fields, self.in_fields, self.order, self.in_order, k, k)
        return copies.transpose(1, 2).reshape(self.out_fields * self.order, self.in_fields * self.in_order, k, k)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if self.order > 1:
            weight, bias = self.filters(), None if bias is None else bias.repeat_interleave(self.order)
        return F.conv2d(x, weight, bias, self.stride, self.padding)

    def extra_repr(self) -> str:
        return (
            f"{self.in_fields}x{self.in_order}, {self.out_fields}x{self.order}, kernel_size={self.kernel_size}, "
            f"group={self.group!r}, stride={self.stride}, padding={self.padding}, bias={self.bias is not None}"
        )


class FibreBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation with one scale, shift, mean and variance a field.

    The statistics run over the batch, space and the elements of the group, so that the layer commutes with the
    action, which only permutes those. It is torch's own layer on a view of the input.

    Args:
        fields: number of fields.
        eps, momentum: as `torch.nn.BatchNorm2d`.

    Shapes:
        (B, fields * n, H, W) -> the same, for any n.
    """

    def __init__(self, fields: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(fields, eps=eps, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        return super().forward(x.reshape(batch, self.num_features, -1, width)).view(batch, -1, height, width)


class GroupPool(nn.Module):
    """Maximum or mean over the elements of the group, field by field: (B, C * |G|, H, W) -> (B, C, H, W).

    Args:
        order: number of elements |G|.
        mode: ``"max"`` or ``"mean"``.

    Raises:
        ValueError: the mode is neither.
    """

    def __init__(self, order: int, mode: str = "max") -> None:
        super().__init__()
        if mode not in ("max", "mean"):
            raise ValueError(f"mode={mode!r}: the group is pooled by 'max' or 'mean'")
        self.order, self.mode = order, mode

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (-1, self.order))
        return x.amax(2) if self.mode == "max" else x.mean(2)

    def extra_repr(self) -> str:
        return f"order={self.order}, mode={self.mode!r}"
