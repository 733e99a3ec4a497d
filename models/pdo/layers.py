"""PDO-eConv layers: convolutions whose filters are differential operators, equivariant over any C_N or D_N.

Maths (arXiv:2007.10408, section 4). Write ``d^(A) = A^T grad`` for the derivatives along the columns of a frame A,
and let the frames be ``g A0`` for g in the group and a fixed ``A0 = R(offset)``. With polynomials H in d,

* the lifting layer  ``Psi[f](x, g) = H(d^(g A0)) f(x)``  and
* the group layer  ``Phi[e](x, g) = sum_h H_(g^-1 h)(d^(g A0)) e(x, h)``

commute with every s of the group, acting by ``[s f](x) = f(s^-1 x)`` and ``[s e](x, h) = e(s^-1 x, s^-1 h)``: exactly
on the plane, exactly on the grid for the s that carry the grid into itself, with an error of second order in the
grid step otherwise. A layer is one ordinary dense convolution with filters that are expanded from the weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..filters import ExpandedLayer, gather, gather_tables
from ..groups import PlanarGroup
from .operators import PAPER_OPERATORS, Operator, check_operators, filter_basis, weights_to_coefficients
from .stencils import check_stencil

#: Standard deviation of a unit normal cut off at two, by which the initial weights are divided.
_TRUNCATED_STD = 0.87962566103423978
#: Entries of a basis below this share of its largest are rounding errors of zeros.
_ZERO = 1e-13


class PDOConv(ExpandedLayer):
    """The group layer Phi: regular fields to regular fields.

    The weights are expanded to a dense filter by one matrix product, see `ExpandedLayer`.

    Args:
        in_fields: fields of the input (channels are ``in_fields * |G|``).
        out_fields: fields of the output.
        group: ``"C8"``, ``"D6"``, ``"p8"``, …, or a `PlanarGroup`; any N.
        offset: angle of the frame of the identity in radians. Pi / 8 gives all frames of C8 the same gain.
        operators: pairs (i, j) of ∂x^i ∂y^j, total order up to four.
        stencil: ``"fd"``, ``"gauss"`` or ``"gauss7"``, see `stencils`.
        kernel_size: width of the stencils, odd; None for the usual width of the family.
        weights: ``"taps"`` or ``"coefficients"``, see `operators.weights_to_coefficients`.
        stride: as `torch.nn.Conv2d`. Stride 2 keeps the symmetries of the grid exact at odd sizes only.
        padding: zeros on every side; None keeps the size (at stride 1).
        pooled: halve the resolution by the mean over 2x2 outputs at stride 1, as a single convolution with stride 2;
            it keeps the symmetries of the grid exact at even sizes.

    Shapes:
        (B, in_fields * |G|, H, W) -> (B, out_fields * |G|, H', W'); values of any range. Weight:
        (out_fields, in_fields * |G|, 9 or operators), field-major and indexed by ``g^-1 h`` along the second axis.

    Raises:
        ValueError: for a group order below 1, an even kernel, operators that do not fit, numbers of fields or strides
            below 1, ``pooled`` with a stride; in the forward pass for channels that are no ``in_fields * |G|``.
    """

    def __init__(
        self,
        in_fields: int,
        out_fields: int,
        *,
        group: str | PlanarGroup,
        offset: float = 0.0,
        operators: Sequence[Operator] = PAPER_OPERATORS,
        stencil: str = "fd",
        kernel_size: int | None = None,
        weights: str = "taps",
        stride: int = 1,
        padding: int | None = None,
        pooled: bool = False,
    ) -> None:
        super().__init__()
        if min(in_fields, out_fields) < 1:
            raise ValueError(f"{in_fields} fields to {out_fields}: a layer has at least one field on either side")
        if stride < 1 or (pooled and stride != 1):
            raise ValueError(f"stride={stride}, pooled={pooled}: a stride is 1 or more, and 1 with pooling")
        self.group = PlanarGroup.parse(group)
        self.in_fields, self.out_fields, self.in_order = in_fields, out_fields, self._input_order()
        self.offset, self.stencil, self.weights, self.pooled = offset, stencil, weights, pooled
        self.operators = check_operators(operators)
        self.kernel_size = check_stencil(stencil, kernel_size, max(i + j for i, j in self.operators))
        self.stride = 2 if pooled else stride
        self.padding = self.kernel_size // 2 if padding is None else padding
        self._set_frames(self.group.frames(offset))
        # Three axes: `.to(memory_format=…)` rearranges tensors of four, which are taken for images.
        self.weight = nn.Parameter(torch.empty(out_fields, in_fields * self.in_order, self.basis.shape[1]))
        self.reset_parameters()

    def _input_order(self) -> int:
        return self.group.order

    def _set_frames(self, frames: np.ndarray) -> None:
        basis = filter_basis(
            frames, self.operators, stencil=self.stencil, kernel_size=self.kernel_size, weights=self.weights
        )
        basis, self._margin = _crop(basis)
        #: Orthogonal matrices (|G|, 2, 2).
        self.frames = frames
        #: Filters (|G|, weights, k, k) in float64: what a weight adds to the filter of each output element.
        self.basis = _mean_of_four(basis) if self.pooled else basis
        self._constants: tuple[Tensor, Tensor, Tensor] | None = None
        self._kept = None

    def reset_parameters(self) -> None:
        """He initialisation of the weights themselves, as the official code: truncated normal, fan-in."""
        std = math.sqrt(2 / (self.weight.shape[1] * self.weight.shape[2])) / _TRUNCATED_STD
        nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)

    def coefficients(self) -> Tensor:
        """Coefficients (out_fields, channels, operators) of the polynomials H, at unit grid step."""
        matrix = weights_to_coefficients(
            self.operators, stencil=self.stencil, kernel_size=self.kernel_size, weights=self.weights
        )
        return self.weight @ torch.from_numpy(matrix).to(self.weight)

    def turned(self, transform: np.ndarray) -> PDOConv:
        """The same layer, sharing its weights, with every frame A replaced by ``Q^-1 A``.

        For any orthogonal Q, in the group or not, and an input f moved by Q, the layer's output at (Q x, A) is what
        the turned layer makes of f at (x, Q^-1 A), up to the error of the stencils. This is how equivariance is
        tested off the group.

        Args:
            transform: Q, an orthogonal matrix (2, 2).
        """
        other = copy.copy(self)
        other._set_frames(np.asarray(transform).T @ self.frames)
        return other

    def expanded(self) -> Tensor:
        """The dense filter (out_fields * |G|, channels, k, k), differentiable with respect to the weights."""
        basis, *tables = self._constants_like(self.weight)
        weight = self.weight.reshape(-1, self.weight.shape[-1])
        # Devices without storage have no autocast, and torch raises when it is asked.
        if not weight.is_meta and torch.is_autocast_enabled(weight.device.type):
            # Reduced precision would cost the derivatives their vanishing moments, and it saves nothing here.
            with torch.autocast(weight.device.type, enabled=False):
                every = weight @ basis
        else:
            every = weight @ basis
        group, size = self.group.order, self.basis.shape[-1]
        every = every.view(self.out_fields * self.in_fields, self.in_order * group, size * size)
        if self.in_order > 1:
            every = gather(every, 1, *tables)
        every = every.view(self.out_fields, self.in_fields, group, self.in_order, size * size)
        return every.transpose(1, 2).reshape(self.out_fields * group, self.in_fields * self.in_order, size, size)

    def _constants_like(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The basis as a matrix (weights, |G| * k * k), and where the filter of (g, h) stands: at ``g^-1 h``, g.

        The last two are tables of `gather`.
        """
        constants = self._constants
        if constants is None or constants[0].dtype != weight.dtype or constants[0].device != weight.device:
            matrix = self.basis.transpose(1, 0, 2, 3).reshape(self.basis.shape[1], -1)
            group = self.group.order
            tables = gather_tables((self.group.relative() * group + np.arange(group)[:, None]).reshape(-1))
            with torch.inference_mode(False):
                index, readers = (table.to(weight.device) for table in tables)
                constants = torch.from_numpy(matrix).to(weight.device, weight.dtype), index, readers
            self._constants = constants
        return constants

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.in_fields * self.in_order:
            raise ValueError(
                f"{x.shape[1]} channels: this layer takes {self.in_fields * self.in_order},"
                f" {self.in_fields} fields of {self.in_order}"
            )
        padding = self.padding - self._margin
        if padding < 0:  # the outer rings of the filter are zero, so the pixels under them are not seen
            x, padding = x[..., -padding:padding, -padding:padding], 0
        return F.conv2d(x, self.filters(), None, self.stride, padding)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_constants": None}

    def extra_repr(self) -> str:
        return (
            f"{self.in_fields}x{self.in_order}, {self.out_fields}x{self.group.order}, group={self.group.name!r}, "
            f"offset={self.offset:.4g}, stencil={self.stencil!r}, kernel_size={self.kernel_size}, "
            f"weights={self.weights!r}, stride={self.stride}, padding={self.padding}, pooled={self.pooled}"
        )


class PDOLift(PDOConv):
    """The lifting layer Psi: an image to regular fields.

    Arguments are those of `PDOConv`; `in_fields` counts the channels of the image.

    Shapes:
        (B, in_fields, H, W) -> (B, out_fields * |G|, H', W'). Weight: (out_fields, in_fields, 9 or operators).
    """

    def _input_order(self) -> int:
        return 1


class GroupConv1x1(PDOConv):
    """A group convolution that looks at one pixel: the group layer with the identity as its only operator.

    Shapes:
        (B, in_fields * |G|, H, W) -> (B, out_fields * |G|, H', W'). Weight: (out_fields, in_fields * |G|, 1).
    """

    def __init__(
        self, in_fields: int, out_fields: int, *, group: str | PlanarGroup, stride: int = 1, pooled: bool = False
    ) -> None:
        super().__init__(
            in_fields,
            out_fields,
            group=group,
            operators=((0, 0),),
            kernel_size=1,
            weights="coefficients",
            stride=stride,
            pooled=pooled,
        )


def _crop(basis: np.ndarray) -> tuple[np.ndarray, int]:
    """The basis without the outer rings that are zero throughout, and how many they are."""
    basis = np.where(np.abs(basis) < _ZERO * np.abs(basis).max(), 0.0, basis)
    size = basis.shape[-1]
    ring = np.maximum.reduce(np.abs(np.indices((size, size)) - size // 2))
    margin = size // 2 - int(ring[np.abs(basis).max((0, 1)) > 0].max())
    return np.ascontiguousarray(basis[..., margin : size - margin, margin : size - margin]), margin


def _mean_of_four(basis: np.ndarray) -> np.ndarray:
    """Filters one pixel wider whose output at stride 2 is the 2x2 mean of the output at stride 1."""
    padded = np.pad(basis, ((0, 0), (0, 0), (1, 1), (1, 1)))
    size = basis.shape[-1] + 1
    return sum(padded[..., y : y + size, x : x + size] for y in (0, 1) for x in (0, 1)) / 4
