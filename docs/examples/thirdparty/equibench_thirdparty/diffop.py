"""Steerable PDOs by their authors' own layer: `R2Diffop` of e2cnn 0.2.3."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from equibench import register_model
from equibench.models.filters import ExpandedLayer
from equibench.models.g_conv import FibreBatchNorm2d, GroupPool
from equibench.registry import UserError
from torch import Tensor, nn

#: The arguments of `R2Diffop` by the name of the discretisation; the settings of Gaussians are the authors', by width.
SMOOTHING = {3: 1.0, 5: 1.3}
DISCRETISATIONS = ("fd", "rbf", "gauss")


@cache
def authors_basis(rotations: int, lifting: bool, order: int, discretisation: str, kernel_size: int) -> np.ndarray:
    """The filters that `R2Diffop` makes of each of its weights: (weights, |G|, |H|, k, k), float64; read-only.

    Of one field on either side, regular behind and trivial (`lifting`, |H| = 1) or regular before. The layer keeps
    bases in its space and in a table of its module, both without the discretisation: so each call has a space of its
    own, and the table is written again.

    Args:
        rotations: N of C_N.
        order: highest total order of the operators.
        discretisation: one of `DISCRETISATIONS`; all but ``fd`` need the package RBF.
        kernel_size: k, above the order.

    Raises:
        UserError: e2cnn, or RBF, is not there, or the discretisation is unknown.
    """
    arguments: dict[str, Any] = {"fd": {}, "rbf": {"rbffd": True}, "gauss": {"smoothing": SMOOTHING.get(kernel_size)}}
    if discretisation not in DISCRETISATIONS or arguments["gauss"]["smoothing"] is None:
        raise UserError(
            f"discretisation {discretisation!r} on {kernel_size} pixels: it is one of {', '.join(DISCRETISATIONS)},"
            " on 3 or 5 pixels"
        )
    _import_rbf()
    try:
        from e2cnn import gspaces
        from e2cnn import nn as e2nn
        from e2cnn.diffops import utils
    except ImportError as error:
        raise UserError(f"R2Diffop needs e2cnn 0.2.3, which cannot be imported ({error})") from error
    if discretisation != "fd" and not utils._RBF_AVAILABLE:
        raise UserError(f"R2Diffop needs the package RBF (github.com/treverhines/RBF) for {discretisation!r}")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # in which its bases are kept
    try:
        with torch.device("cpu"):
            space = gspaces.Rot2dOnR2(rotations)
            behind, front = (e2nn.FieldType(space, [r]) for r in (space.regular_repr, space.trivial_repr))
            options = {"kernel_size": kernel_size, "maximum_order": order, "bias": False, "initialize": False}
            options |= arguments[discretisation]
            layer = e2nn.R2Diffop(front if lifting else behind, behind, recompute=True, **options)
            units = torch.eye(layer.weights.numel())
            found = np.stack([layer.basisexpansion(unit).detach().numpy() for unit in units])
    finally:
        torch.set_default_dtype(before)
    found = found.reshape(len(units), rotations, 1 if lifting else rotations, kernel_size, kernel_size)
    found.setflags(write=False)
    return found


def _import_rbf() -> None:
    """Import RBF, if it is there, as e2cnn wants it: newer versions have one way to evaluate and no switch for it."""
    try:
        from rbf import basis
    except ImportError:
        return
    if not hasattr(basis, "set_symbolic_to_numeric_method"):
        basis.set_symbolic_to_numeric_method = lambda _: None


class DiffopConv(ExpandedLayer):
    """A convolution with the filters of `R2Diffop`: from images (`lifting`) or regular fields of C_N to regular fields.

    Its modules do not pass `equibench check`: they keep filters that go stale, under names that change with the mode.
    So only their bases are taken. He initialisation: filters have the variance 2 / fan-in.

    Shapes:
        (B, in_fields * |H|, H, W) -> (B, out_fields * |G|, H', W'). Weight: (out_fields, in_fields, weights of a pair).
    """

    def __init__(
        self, in_fields: int, out_fields: int, *, rotations: int, lifting: bool, padding: int, **basis: Any
    ) -> None:
        super().__init__()
        found = torch.tensor(authors_basis(rotations, lifting, **basis), dtype=torch.get_default_dtype(), device="cpu")
        self.padding = padding
        self.register_buffer("basis", found.to(torch.empty(0).device), persistent=False)
        weights, _, elements, size, _ = found.shape
        energy = float((found**2).sum((0, 2, 3, 4)).mean()) / (
            elements * size**2
        )  # of a tap, with weights of variance 1
        self.weight = nn.Parameter(torch.empty(out_fields, in_fields, weights))
        nn.init.normal_(self.weight, std=(2 / (in_fields * elements * size**2 * energy)) ** 0.5)

    def expanded(self) -> Tensor:
        """The dense filter (out_fields * |G|, in_fields * |H|, k, k)."""
        return torch.einsum("ocw,wghyx->ogchyx", self.weight, self.basis).flatten(0, 1).flatten(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.filters(), padding=self.padding)


@register_model(
    "r2diffop-c8-o{order}-{discretisation}-k{size}-w{width}",
    group="C8",
    invariant="C4",
    source="arXiv:2106.10163",
    family="r2diffop",
    members={
        "r2diffop-c8-3-fd": {
            "args": {"order": 3, "discretisation": "fd", "size": 5, "width": 8},
            "params": {"1x28x28->10": 25_866},
        },
    },
    note="the authors' filters in the network of steerable-pdo-c8-3-fd, whose filters span the same space",
)
def r2diffop(
    in_channels: int, num_classes: int, image_size: int, *, order: int, discretisation: str, size: int, width: int
) -> nn.Module:
    """Steerable PDOs of Jenner & Weiler (ICLR 2022) on regular fields of C8, by the bases of `R2Diffop`.

    Depth and geometry are those of equibench's own `steerable-pdo-c8-…`, so that the two differ in the weights that
    make the same filters. As there, all frequencies are kept (`maximum_offset` None).

    Raises:
        UserError: e2cnn, or RBF, is not there, or the image is too small.
    """
    if image_size < 22:
        raise UserError(f"r2diffop: six layers need images of 22 pixels or more, not {image_size}")
    basis = {"order": order, "discretisation": discretisation, "kernel_size": size}
    layers: list[nn.Module] = []
    for index in range(6):
        before = width if index else in_channels
        conv = DiffopConv(before, width, rotations=8, lifting=index == 0, padding=size // 2 - 1, **basis)
        layers += [conv, FibreBatchNorm2d(width)] + [nn.MaxPool2d(2)] * (index == 1) + [nn.ReLU(inplace=True)]
    head = [GroupPool(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)]
    return nn.Sequential(*layers, *head)
