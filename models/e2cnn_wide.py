"""Steerable Wide ResNets of Weiler & Cesa (NeurIPS 2019) for CIFAR and STL-10.

The three stages have groups of their own, as D8, D4, D1; between them the fields are restricted to the smaller one.
Stages with eight rotations have 5x5 kernels, the others 3x3, as in the code of the paper. The example that is
shipped with escnn gives 5x5 kernels to stages of rotation order 1 as well, and so 79.7 million parameters to
28-10 D8D4D1, which has 37.2 million here.
"""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import register_model
from .escnn_adapter import Restrict, SteerableConv2d, order_of, parse_group
from .g_conv import FibreBatchNorm2d
from .wide_resnet import blocks_of

#: Angular frequencies up to pi * r at radius r, delta-orthogonal initial weights.
KERNELS: dict[str, Any] = {"cutoff": math.pi, "init": "delta-orthogonal"}
#: Width of the rings in pixels on CIFAR. On STL-10 the authors leave escnn's own, `None`.
RINGS = 0.45


def regular_fields(planes: int, group: str) -> int:
    """Regular fields with about as many parameters as `planes` ordinary channels: ``planes / sqrt(|G|)``, truncated."""
    order = order_of(group)
    return int(planes * math.sqrt(order) / order)


def trivial_fields(planes: int, group: str) -> int:
    """Invariant channels with about as many parameters as `planes` ordinary ones: ``planes * sqrt(|G|)``."""
    return int(planes * math.sqrt(order_of(group)))


class SteerableBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-dropout-conv(stride) plus a shortcut, a 1x1 of the activated input where types differ.

    Args:
        in_fields, inner_fields, out_fields: numbers of fields.
        group: group of the stage; its number of rotations gives the kernel size, 5 for eight and 3 for less.
        out_kind: ``"regular"``, or ``"trivial"`` for the block that ends in invariant channels.
        stride: of the second convolution, as in the authors' code, and of the shortcut.
        dropout: probability.
        norm_fields: scales and shifts of the first normalisation, `in_fields` unless the input was restricted.
        sigma: width of the kernels' rings in pixels; None takes escnn's.

    Shapes:
        (B, in_fields * |G|, H, W) -> (B, out channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self,
        in_fields: int,
        inner_fields: int,
        out_fields: int,
        *,
        group: str,
        out_kind: str = "regular",
        stride: int = 1,
        dropout: float = 0.3,
        norm_fields: int | None = None,
        sigma: float | None = RINGS,
    ) -> None:
        super().__init__()
        size = 5 if parse_group(group)[1] >= 8 else 3
        same: dict[str, Any] = dict(group=group, padding=size // 2, sigma=sigma, **KERNELS)
        self.norm1 = FibreBatchNorm2d(norm_fields or in_fields)
        self.conv1 = SteerableConv2d(in_fields, inner_fields, size, **same)
        self.norm2 = FibreBatchNorm2d(inner_fields)
        self.conv2 = SteerableConv2d(inner_fields, out_fields, size, out_kind=out_kind, stride=stride, **same)
        self.dropout = dropout
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_fields != out_fields or out_kind != "regular" or norm_fields:
            self.shortcut = SteerableConv2d(
                in_fields, out_fields, 1, group=group, out_kind=out_kind, stride=stride, sigma=sigma, **KERNELS
            )

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        y = F.relu(self.norm2(self.conv1(active)))
        y = self.conv2(F.dropout(y, self.dropout, self.training))
        return y + (x if self.shortcut is None else self.shortcut(active))


class SteerableWideResNet(nn.Module):
    """A Wide ResNet of steerable blocks whose last block maps to invariant channels; BN-ReLU, mean, linear.

    Args:
        in_channels: channels of the image.
        num_classes: number of logits.
        depth: 6n + 4.
        width: widening factor of the ordinary net with about as many parameters.
        groups: of the three stages, each a subgroup of the one before.
        stride: of the first stage.
        dropout: probability inside the blocks.
        sigma: width of the kernels' rings in pixels; None takes escnn's.

    Shapes:
        (B, in_channels, H, W) -> (B, num_classes).

    Raises:
        ValueError: the depth is not 6n + 4, or a group is no subgroup of the one before.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        depth: int,
        width: int,
        groups: tuple[str, str, str],
        stride: int = 1,
        dropout: float = 0.3,
        sigma: float | None = RINGS,
    ) -> None:
        super().__init__()
        blocks = blocks_of(depth)
        group = groups[0]
        fields = regular_fields(16, group)
        layers: list[nn.Module] = [
            SteerableConv2d(in_channels, fields, 5, group=group, in_kind="trivial", padding=2, sigma=sigma, **KERNELS)
        ]
        for stage, after in enumerate(groups):
            norm_fields = None
            if after != group:
                layers.append(Restrict(group, after))
                # escnn 1.0.11 leaves a restricted field whole, so that it keeps one scale and shift.
                norm_fields, fields = fields, fields * order_of(group) // order_of(after)
                group = after
            planes = 16 * width * 2**stage
            inner = regular_fields(planes, group)
            for block in range(blocks):
                final = stage == 2 and block == blocks - 1
                out = trivial_fields(planes, group) if final else inner
                layers.append(
                    SteerableBlock(
                        fields,
                        inner,
                        out,
                        group=group,
                        out_kind="trivial" if final else "regular",
                        stride=1 if block else (2 if stage else stride),
                        dropout=dropout,
                        norm_fields=None if block else norm_fields,
                        sigma=sigma,
                    )
                )
                fields = out
        self.features = nn.Sequential(*layers)
        # The authors' momentum; torch counts the weight of the new batch, so that this hardly averages.
        self.norm = FibreBatchNorm2d(fields, momentum=0.9)
        self.classify = nn.Linear(fields, num_classes)
        nn.init.zeros_(self.classify.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.features(x)))
        return self.classify(x.mean((-2, -1)))


@register_model(
    "e2wrn-28-10-d8d4d1",
    group="D8",
    invariant="none",
    family="e2cnn",
    source="arXiv:1911.08251",
    params={"3x32x32->10": 37_183_014},
    status="published",
    note="invariant by its last convolution, but even sizes break the strides; groups shrink from stage to stage",
    members={
        "e2wrn-28-7-d8d4d1": {
            "args": {"width": 7},
            "params": {"3x32x32->10": 18_195_726},
            "status": "published",
        },
        "e2wrn-28-10-c8c4c1": {
            "args": {"groups": ("C8", "C4", "C1")},
            "group": "C8",
            "params": {"3x32x32->10": 37_170_767},
            "status": "published",
        },
        "e2wrn-28-10-d1d1d1": {
            "args": {"groups": ("D1", "D1", "D1")},
            "group": "D1",
            "params": {"3x32x32->10": 32_789_495},
            "status": "published",
        },
        "e2wrn-28-1-d8d4d1": {
            "args": {"width": 1, "dropout": 0.0},
            "params": {"3x32x32->10": 372_262, "3x32x32->100": 380_452},
            "status": "ours",
            "note": "narrow, for the class of 0.37 million parameters; without dropout, as the planar nets there",
        },
        "e2wrn-22-3-d8d4d1": {
            "args": {"depth": 22, "width": 3, "dropout": 0.0},
            "params": {"3x32x32->10": 2_486_157, "3x32x32->100": 2_510_637},
            "status": "ours",
            "note": "shallow, narrow, without dropout, as the planar nets of the class of 2.6 million parameters",
        },
        "e2wrn-16-8-d8d4d1": {
            "args": {"depth": 16, "width": 8, "stride": 2, "sigma": None},
            "params": {"3x96x96->10": 11_957_234},
            "status": "published",
            "note": "for STL-10: the first stage has stride 2 as well",
        },
        "e2wrn-16-8-d1d1d1": {
            "args": {"depth": 16, "width": 8, "stride": 2, "sigma": None, "groups": ("D1", "D1", "D1")},
            "group": "D1",
            "params": {"3x96x96->10": 10_017_717},
            "status": "published",
            "note": "for STL-10: the first stage has stride 2 as well",
        },
    },
)
def e2wrn(
    in_channels: int,
    num_classes: int,
    image_size: int,
    *,
    depth: int = 28,
    width: int = 10,
    groups: tuple[str, str, str] = ("D8", "D4", "D1"),
    stride: int = 1,
    dropout: float = 0.3,
    sigma: float | None = RINGS,
) -> nn.Module:
    """Steerable Wide ResNet 28-10, 28-7 or 16-8 with one group a stage.

    As published: widths (parameters of the ordinary net), kernel sizes, frequencies, ring widths (0.45 pixels on
    CIFAR, the library's own on STL-10), delta-orthogonal initialisation, dropout 0.3, stride in the second convolution
    of a block, invariant channels after the last block, momentum 0.9 of the last normalisation. Differs: nothing known.
    """
    return SteerableWideResNet(
        in_channels, num_classes, depth=depth, width=width, groups=groups, stride=stride, dropout=dropout, sigma=sigma
    )
