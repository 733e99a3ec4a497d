"""Relaxed group convolution of Wang, Walters & Yu (ICML 2022, arXiv:2201.11969), in the layers of `g_conv`.

A group convolution turns one filter bank by every element g of the group. A relaxed one has L banks psi_l and mixes
them by weights that depend on the element: the filter for output element g is ``sum_l w_l(g) (g psi_l)``. The paper's
formula, as others restate it, has w_l(h) at the input element; the authors' code has w_l(g), and so has this file. The
layer is equivariant exactly when no w_l depends on g. It begins so; training may move it away from the symmetry where
the data ask for it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import UserError, register_model
from .g_cnn import MnistRotNet
from .g_conv import GroupConv2d


class RelaxedGroupConv2d(GroupConv2d):
    """A group convolution with L filter banks, mixed by weights that depend on the output element.

    All mixing weights begin at ``L ** -0.5``: the layer begins exactly equivariant, and its filters with the variance
    of those of a `GroupConv2d`.

    Args:
        in_fields, out_fields, kernel_size: as `GroupConv2d`.
        banks: L, at least 1.
        options: all other arguments of `GroupConv2d`.

    Shapes:
        (B, in_fields * |H|, H, W) -> (B, out_fields * |G|, H', W'). Weight: (L * out_fields, in_fields * |H|, k, k),
        bank by bank. Mixing weights: (|G|, L), shared by all fields.

    Raises:
        ValueError: there is no bank, or the group is unknown.
    """

    def __init__(self, in_fields: int, out_fields: int, kernel_size: int, *, banks: int, **options: Any) -> None:
        if banks < 1:
            raise ValueError(f"banks={banks}: a relaxed group convolution has at least one filter bank")
        super().__init__(in_fields, banks * out_fields, kernel_size, **options)
        self.banks = banks
        if self.bias is not None:
            self.bias = nn.Parameter(torch.zeros(out_fields))
        self.mixing = nn.Parameter(torch.full((self.order, banks), banks**-0.5))

    def mixed(self) -> Tensor:
        """The dense filter (out_fields * |G|, in_fields * |H|, k, k), differentiable by banks and mixing weights.

        Only the banks are kept between evaluations; the sum over them follows the mixing weights of the moment.
        """
        banks = self.filters()
        banks = banks.reshape(self.banks, -1, self.order, *banks.shape[1:])
        return (banks * self.mixing.T[:, None, :, None, None, None]).sum(0).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.repeat_interleave(self.order)
        return F.conv2d(x, self.mixed(), bias, self.stride, self.padding)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, banks={self.banks} of {self.out_fields // self.banks} fields"


def relaxed(network: nn.Module, banks: int) -> nn.Module:
    """The same network, changed in place, with a relaxed layer of `banks` new banks for each of its group
    convolutions.
    """
    for module in list(network.modules()):
        for name, layer in module.named_children():
            if type(layer) is GroupConv2d:
                options: dict[str, Any] = dict(group=layer.group, lifting=layer.in_order < layer.order, gain=layer.gain)
                options |= dict(stride=layer.stride, padding=layer.padding, bias=layer.bias is not None)
                fields = layer.in_fields, layer.out_fields
                setattr(module, name, RelaxedGroupConv2d(*fields, layer.kernel_size, banks=banks, **options))
    return network


@register_model(
    "relaxed-p4cnn-w{width}-l{banks}",
    group="C4",
    invariant="none",
    family="g-cnn",
    source="arXiv:2201.11969",
    note="P4CNN whose layers are equivariant as they are initialised and may leave the symmetry in training",
    members={"relaxed-p4cnn": {"args": {"width": 7, "banks": 2}, "params": {"1x28x28->10": 26_918}}},
)
def relaxed_p4cnn(in_channels: int, num_classes: int, image_size: int, *, width: int, banks: int) -> nn.Module:
    """P4CNN for MNIST-rot with relaxed group convolutions: `banks` filter banks a layer, mixed by element of the group.

    The paper has no network for classification: depth and geometry are those of P4CNN, the width is ours. The
    classifier is relaxed as well. With one bank and mixing weights of 1, where it begins, it is P4CNN. Left out: the
    penalty on differences of mixing weights, which later work adds to the loss.

    Raises:
        UserError: there is no bank.
    """
    if banks < 1 or width < 1:
        raise UserError(
            f"relaxed-p4cnn-w{width}-l{banks}: it has at least one field a layer (w1) and one filter bank (l1)"
        )
    return relaxed(MnistRotNet(in_channels, num_classes, image_size, group="C4", width=width), banks)
