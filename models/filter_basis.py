"""Group convolutions whose filters are sums of given functions, and a network of them for MNIST-rot.

The functions are known at every point of the plane, so that a filter is turned by evaluating them at turned points:
``K[o, g, c, h](x) = sum_r W[o, c, g^-1 h, r] b_r(g^-1 x)``. `steerable_pdo` and `f_conv` differ only in the functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..registry import UserError
from .filters import ExpandedLayer
from .groups import PlanarGroup
from .pdo.fields import FibreBatchNorm, GroupPool
from .pdo.layers import PDOConv

#: Frames, orthogonal matrices (m, 2, 2), to the functions in each of them at the pixels of a filter, (m, r, k, k): row
#: 0 is the top, y = +k // 2. In the frame A the function b is b(A^-1 x).
Basis = Callable[[np.ndarray], np.ndarray]


class BasisConv(PDOConv):
    """A convolution from images (`lifting`) or regular fields to regular fields, with the filters of a basis.

    It is a `PDOConv` in all but where its basis comes from. He initialisation: filters have the variance 2 / fan-in
    where the functions have norm 1 on the mean of the group.

    Args:
        in_fields: channels of an image for a lifting layer, else fields of the input.
        out_fields: fields of the output.
        group: C_N or D_N.
        basis: see `Basis`.
        lifting: whether the input is an image.
        padding: zeros on every side; None keeps the size.

    Shapes:
        (B, in_fields * |H|, H, W) -> (B, out_fields * |G|, H', W'), |H| = 1 for a lifting layer. Weight:
        (out_fields, in_fields * |H|, r), field-major and indexed by ``g^-1 h`` along the second axis.

    Raises:
        ValueError: for numbers of fields below 1; in the forward pass for channels that are no ``in_fields * |H|``.
    """

    def __init__(
        self,
        in_fields: int,
        out_fields: int,
        *,
        group: str | PlanarGroup,
        basis: Basis,
        lifting: bool = False,
        padding: int | None = None,
    ) -> None:
        ExpandedLayer.__init__(self)
        if min(in_fields, out_fields) < 1:
            raise ValueError(f"{in_fields} fields to {out_fields}: a layer has at least one field on either side")
        self.group = PlanarGroup.parse(group)
        self.in_fields, self.out_fields = in_fields, out_fields
        self.in_order = 1 if lifting else self.group.order
        self.basis_of = basis
        self._set_frames(self.group.frames())
        self.kernel_size, self.stride = self.basis.shape[-1], 1
        self.padding = self.kernel_size // 2 if padding is None else padding
        self.weight = nn.Parameter(torch.empty(out_fields, in_fields * self.in_order, self.basis.shape[1]))
        self.reset_parameters()

    def _set_frames(self, frames: np.ndarray) -> None:
        self.frames, self.basis, self._margin = frames, self.basis_of(frames), 0
        self._constants, self._kept = None, None

    def coefficients(self) -> Tensor:
        """There are none: these filters are sums of functions, not of operators with units of their own."""
        raise NotImplementedError("the weights of a BasisConv are its coefficients")

    def extra_repr(self) -> str:
        return (
            f"{self.in_fields}x{self.in_order}, {self.out_fields}x{self.group.order}, group={self.group.name!r}, "
            f"functions={self.basis.shape[1]}, kernel_size={self.kernel_size}, padding={self.padding}"
        )


def mnist_rot_net(
    in_channels: int, num_classes: int, image_size: int, *, group: str, basis: Basis, widths: Sequence[int]
) -> nn.Sequential:
    """A network of `BasisConv` layers whose logits no grid symmetry of the group changes, at even sizes.

    The geometry of P4CNN: 28 -> 26 -> 24 -> pool 12 -> 10 -> 8 -> 6 -> 4 with six layers, each padded so that it eats
    one pixel a side. Layers are convolution, batch normalisation by field, ReLU; 2x2 maximum after the second. Then
    maximum over the group, mean over space, linear layer.

    Args:
        group, basis: as `BasisConv`; filters of 3 pixels or more.
        widths: fields of the layers, at least two.

    Raises:
        UserError: the image is too small.
    """
    if image_size < 4 * len(widths) - 2:
        raise UserError(
            f"image_size={image_size}: {len(widths)} layers of this network need {4 * len(widths) - 2} or more"
        )
    layers: list[nn.Module] = []
    for index, width in enumerate(widths):
        before = widths[index - 1] if index else in_channels
        conv = BasisConv(before, width, group=group, basis=basis, lifting=index == 0)
        conv.padding -= 1
        # The maximum commutes with ReLU, and a quarter of the pixels is left for it.
        layers += (
            [conv, FibreBatchNorm(width, group=group)] + [nn.MaxPool2d(2)] * (index == 1) + [nn.ReLU(inplace=True)]
        )
    head = [GroupPool(group, "max"), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes)]
    return nn.Sequential(*layers, *head)
