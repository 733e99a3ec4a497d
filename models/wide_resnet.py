"""Wide residual networks (Zagoruyko & Komodakis, BMVC 2016), of any depth 6n + 4 and any width."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import register_model


class PreActBlock(nn.Module):
    """BN-ReLU-conv3x3-BN-ReLU-(dropout)-conv3x3 plus a shortcut.

    The shortcut is the identity, or, where width or size change, a 1x1 convolution of the activated input.

    Args:
        in_channels, out_channels: channels before and after.
        stride: of the first 3x3 and of the shortcut.
        dropout: probability between the convolutions.

    Shapes:
        (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.dropout = dropout
        changed = stride != 1 or in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False) if changed else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        y = F.relu(self.norm2(self.conv1(active)))
        if self.dropout:
            y = F.dropout(y, self.dropout, self.training)
        return self.conv2(y) + (x if self.shortcut is None else self.shortcut(active))


class PreActResNet(nn.Module):
    """A stem convolution, three stages of pre-activation blocks (strides 1, 2, 2), BN-ReLU, mean, linear.

    Args:
        in_channels: channels of the image.
        num_classes: number of logits.
        stem: channels of the first convolution, 3x3, without bias or normalisation.
        widths: channels of the three stages.
        blocks: blocks a stage.
        dropout: probability inside the blocks.
        uniform_scales: whether the scales of batch normalisation start uniformly in [0, 1] instead of at 1.

    Shapes:
        (B, in_channels, H, W) -> (B, num_classes).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        stem: int,
        widths: Sequence[int],
        blocks: int,
        dropout: float = 0.0,
        uniform_scales: bool = False,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)
        layers, channels = [], stem
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(PreActBlock(channels, width, 2 if stage and not block else 1, dropout))
                channels = width
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(channels)
        self.classify = nn.Linear(channels, num_classes)
        self.uniform_scales = uniform_scales
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He's normal initialisation over the fan-in (variance 2 / (k * k * n_in)); the linear bias is zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=math.sqrt(2 / (module.in_channels * module.kernel_size[0] ** 2)))
            elif isinstance(module, nn.BatchNorm2d) and self.uniform_scales:
                nn.init.uniform_(module.weight)
        nn.init.zeros_(self.classify.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.blocks(self.stem(x))))
        return self.classify(x.mean((-2, -1)))


def blocks_of(depth: int) -> int:
    """Blocks a stage of a Wide ResNet of this depth (depth = 6n + 4).

    Raises:
        ValueError: the depth is not 6n + 4 with n >= 1.
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise ValueError(f"depth={depth}: a Wide ResNet has 6n + 4 layers, as 10, 16, 22, 28, 40")
    return blocks


@register_model(
    "wrn-{depth}-{width}",
    group="none",
    invariant="none",
    family="wide-resnet",
    source="arXiv:1605.07146",
    members={
        "wrn-10-1": {"params": {"3x32x32->10": 77_850, "3x32x32->100": 83_700, "1x28x28->10": 77_562}},
        "wrn-16-4": {"params": {"3x32x32->10": 2_748_890, "3x32x32->100": 2_772_020}, "status": "published"},
        "wrn-16-8": {"params": {"3x32x32->10": 10_961_370, "3x32x32->100": 11_007_540}, "status": "published"},
        "wrn-22-8": {"params": {"3x32x32->10": 17_158_106}, "status": "published"},
        "wrn-22-10": {"params": {"3x32x32->10": 26_797_914, "3x32x32->100": 26_855_604}},
        "wrn-28-10": {"params": {"3x32x32->10": 36_479_194, "3x32x32->100": 36_536_884}, "status": "published"},
        "wrn-28-10-dropout": {
            "args": {"depth": 28, "width": 10, "dropout": 0.3},
            "params": {"3x32x32->10": 36_479_194, "3x32x32->100": 36_536_884},
            "status": "published",
        },
        "wrn-40-1": {"params": {"3x32x32->10": 563_930}, "status": "published"},
        "wrn-40-2": {"params": {"3x32x32->10": 2_243_546}, "status": "published"},
        "wrn-40-4": {"params": {"3x32x32->10": 8_949_210, "3x32x32->100": 8_972_340}, "status": "published"},
    },
)
def wrn(
    in_channels: int, num_classes: int, image_size: int, *, depth: int, width: int, dropout: float = 0.0
) -> nn.Module:
    """Wide ResNet of `depth` 6n + 4 layers and widening factor `width`: stages of 16, 32, 64 times the factor.

    As published: stem of 16 channels, block, dropout, fan-in initialisation, scales of batch normalisation uniform
    in [0, 1] and zero shifts (defaults of Torch7, in which the authors worked, and their PyTorch port's), zero bias
    of the classifier. The mean is over all that is left of space: 8x8 at 32 pixels, as published.
    """
    widths = (16 * width, 32 * width, 64 * width)
    return PreActResNet(
        in_channels,
        num_classes,
        stem=16,
        widths=widths,
        blocks=blocks_of(depth),
        dropout=dropout,
        uniform_scales=True,
    )


@register_model(
    "wrn-{depth}-b{base}",
    group="none",
    invariant="none",
    family="wide-resnet",
    source="arXiv:1605.07146",
    note="a Wide ResNet made narrow: its stages have base, 2 base, 4 base channels",
    members={"wrn-10-b9": {"params": {"1x28x28->10": 24_859}, "note": "base 9 instead of 16, for the 25K class"}},
)
def wrn_base(in_channels: int, num_classes: int, image_size: int, *, depth: int, base: int) -> nn.Module:
    """Wide ResNet of `depth` 6n + 4 layers whose stem and stages have base, base, 2 base, 4 base channels.

    As published: block, strides, initial filters. Differs: the widths, to fit classes of fewer parameters than the
    published nets have; the scales of batch normalisation start at 1, because the published uniform start slows
    short runs down (59 against 67 % on 1,000 rotated digits after 372 steps, mean of two seeds) and these nets are
    there to be strong baselines of such.
    """
    widths = (base, 2 * base, 4 * base)
    return PreActResNet(in_channels, num_classes, stem=base, widths=widths, blocks=blocks_of(depth))


#: Channels of the three stages by depth.
PLAIN_WIDTHS = {26: (16, 32, 64), 44: (32, 64, 128)}


@register_model(
    "resnet-{depth}",
    group="none",
    invariant="none",
    family="resnet",
    source="arXiv:2007.10408",
    note="the planar baseline in the tables of PDO-eConv",
    members={
        "resnet-26": {"params": {"3x32x32->10": 369_498}, "status": "inferred"},
        "resnet-44": {"params": {"3x32x32->10": 2_636_074}, "status": "inferred"},
    },
)
def resnet(in_channels: int, num_classes: int, image_size: int, *, depth: int) -> nn.Module:
    """Plain pre-activation ResNet-26 (16/32/64 channels) and -44 (32/64/128), the planar rows of PDO-eConv's tables.

    The unit of the PDO-eConv code (no biases, 1x1 shortcut of the activated input) with ordinary convolutions; the
    counts agree with the published 0.37M and 2.64M. Its authors quote these rows from other papers, whose nets
    differ in such details, and released no code for them. Initialisation: He, fan-in.
    """
    if depth not in PLAIN_WIDTHS:
        raise ValueError(f"depth={depth}: this family has depths {', '.join(map(str, PLAIN_WIDTHS))}")
    widths = PLAIN_WIDTHS[depth]
    return PreActResNet(in_channels, num_classes, stem=widths[0], widths=widths, blocks=(depth - 2) // 6)
