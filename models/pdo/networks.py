"""What PDO-eConv networks are built from: trunks, heads and residual units, over any group and stencil."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from ..groups import PlanarGroup
from .fields import FibreBatchNorm, GroupPool
from .layers import GroupConv1x1, PDOConv, PDOLift
from .stencils import DEFAULT_WIDTHS

#: Defaults of TensorFlow's contrib batch normalisation, which the official scripts leave in place.
TF_BN = {"eps": 1e-3, "momentum": 0.001}
#: Frame offset that the official code uses for every group. Over C8 it gives all frames the same gain.
PAPER_OFFSET = math.pi / 8


class MnistTrunk(nn.Sequential):
    """The trunk for 28 pixels: 28 -> 26 -> 24 -> pool 12 -> 10 -> 8 -> 6 -> 4 with six layers.

    Each layer is a PDO layer padded so that it eats one pixel a side (5x5 with padding 1), fibre batch
    normalisation and ReLU; 2x2 max-pooling after the second, dropout after the others. At even sizes every step
    keeps the symmetries of the grid exactly.

    Args:
        in_channels: channels of the image.
        image_size: its side in pixels.
        group, offset, stencil: as `PDOConv`.
        widths: fields of the layers.
        dropout: probability of dropping an element.
        bn: arguments of the batch normalisation.

    Attributes:
        out_size: side of the output in pixels.

    Raises:
        ValueError: the image is too small for the layers.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        *,
        group: str,
        stencil: str,
        widths: tuple[int, ...],
        offset: float = PAPER_OFFSET,
        dropout: float = 0.0,
        bn: dict[str, float] | None = None,
    ) -> None:
        out_size = (image_size - 4) // 2 - 2 * (len(widths) - 2)
        if out_size < 1:
            raise ValueError(
                f"image_size={image_size}: {len(widths)} layers of this trunk need {4 * len(widths) - 2} or more"
            )
        layers: list[nn.Module] = []
        for index, width in enumerate(widths):
            options: dict[str, Any] = {"group": group, "offset": offset, "stencil": stencil}
            options["padding"] = DEFAULT_WIDTHS.get(stencil, 5) // 2 - 1
            conv = PDOConv(widths[index - 1], width, **options) if index else PDOLift(in_channels, width, **options)
            layers += [conv, FibreBatchNorm(width, group=group, **(bn or {}))]
            # The maximum commutes with ReLU, and a quarter of the pixels is left for it.
            layers += [nn.MaxPool2d(2)] * (index == 1) + [nn.ReLU(inplace=True)]
            if dropout and index != 1:
                layers.append(nn.Dropout(dropout))
        super().__init__(*layers)
        self.out_size = out_size


class OrdinaryHead(nn.Conv2d):
    """The published MNIST head: an ordinary convolution over all channels and all that is left of space, no bias.

    It weighs every orientation and position on its own, so that the logits are not invariant. (B, C, n, n) ->
    (B, classes); Xavier initialisation.
    """

    def __init__(self, channels: int, num_classes: int, size: int) -> None:
        super().__init__(channels, num_classes, size, bias=False)
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flatten(1)


class InvariantHead(nn.Module):
    """Logits that no grid symmetry of the group changes.

    1x1 group layer to `hidden` fields, fibre batch normalisation, ReLU, maximum over the group at every pixel, mean
    over space, linear layer. (B, fields * |G|, H, W) -> (B, classes).
    """

    def __init__(self, fields: int, hidden: int, num_classes: int, *, group: str) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            GroupConv1x1(fields, hidden, group=group), FibreBatchNorm(hidden, group=group), nn.ReLU(inplace=True)
        )
        self.pool = GroupPool(group, "max")
        self.classify = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.pool(self.mix(x)).mean((-2, -1)))


class PreActUnit(nn.Module):
    """Pre-activation residual unit: BN-ReLU-conv(down)-BN-ReLU-conv, shortcut from the input or, where the width or
    the size changes, a 1x1 group layer on the pre-activated input.

    Args:
        in_fields, out_fields: fields.
        down: ``{}`` to keep the size, ``{"stride": 2}`` or ``{"pooled": True}`` to halve it.
        bn: arguments of the batch normalisation.
        options: group, offset and stencil of `PDOConv`.
    """

    def __init__(
        self, in_fields: int, out_fields: int, *, down: dict[str, Any], bn: dict[str, float], **options: Any
    ) -> None:
        super().__init__()
        group = options["group"]
        self.activate = nn.Sequential(FibreBatchNorm(in_fields, group=group, **bn), nn.ReLU(inplace=True))
        self.residual = nn.Sequential(
            PDOConv(in_fields, out_fields, **down, **options),
            FibreBatchNorm(out_fields, group=group, **bn),
            nn.ReLU(inplace=True),
            PDOConv(out_fields, out_fields, **options),
        )
        changes = in_fields != out_fields or down
        self.shortcut = GroupConv1x1(in_fields, out_fields, group=group, **down) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.activate(x)
        return (x if self.shortcut is None else self.shortcut(active)) + self.residual(active)


class PDOResNet(nn.Module):
    """Pre-activation ResNet of 6 n + 2 layers: lifting layer, three stages of n units, BN-ReLU, head.

    Args:
        in_channels: channels of the image.
        num_classes: classes.
        depth: 6 n + 2.
        widths: fields of the stages; the lifting layer has those of the first.
        group, offset, stencil: as `PDOConv`.
        corrected: False for the published network: halve the size by stride 2 (off-centre on even maps) and classify
            the spatial means of all channels, orientations apart. True: halve it by 2x2 means, which keeps the
            symmetries of the grid at sizes divisible by four, and take the maximum over the group at every pixel
            before the mean over space, which makes the logits invariant.
        bn: arguments of the batch normalisation.

    Shapes:
        (B, in_channels, H, W) -> (B, num_classes).

    Raises:
        ValueError: the depth is no 6 n + 2.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        depth: int,
        widths: tuple[int, int, int],
        group: str,
        stencil: str,
        offset: float,
        corrected: bool,
        bn: dict[str, float] | None = None,
    ) -> None:
        super().__init__()
        units, rest = divmod(depth - 2, 6)
        if rest or units < 1:
            raise ValueError(f"depth={depth}: a network of three stages has 6 n + 2 layers, as 8, 26, 44")
        bn = bn or {}
        options: dict[str, Any] = {"group": group, "offset": offset, "stencil": stencil}
        halve: dict[str, Any] = {"pooled": True} if corrected else {"stride": 2}
        layers: list[nn.Module] = [PDOLift(in_channels, widths[0], **options)]
        for stage, width in enumerate(widths):
            for unit in range(units):
                before = widths[stage - 1] if stage and not unit else width
                down = halve if stage and not unit else {}
                layers.append(PreActUnit(before, width, down=down, bn=bn, **options))
        layers += [FibreBatchNorm(widths[-1], group=group, **bn), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.pool = GroupPool(group, "max") if corrected else None
        channels = widths[-1] * (1 if corrected else PlanarGroup.parse(group).order)
        self.classify = nn.Linear(channels, num_classes)
        nn.init.xavier_uniform_(self.classify.weight)
        nn.init.constant_(self.classify.bias, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        if self.pool is not None:
            features = self.pool(features)
        return self.classify(features.mean((-2, -1)))
