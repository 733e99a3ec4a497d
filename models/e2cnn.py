"""Networks of Weiler & Cesa, "General E(2)-Equivariant Steerable CNNs" (NeurIPS 2019), for MNIST.

Sources: the paper and its authors' training code; kernels come from escnn through `escnn_adapter`. The Wide
ResNets are in `e2cnn_wide`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from ..registry import register_model
from .escnn_adapter import Restrict, SteerableConv2d, order_of
from .g_conv import FibreBatchNorm2d, GroupPool


def steerable_layers(
    in_channels: int,
    fields: Sequence[int],
    *,
    groups: Sequence[str],
    kernels: Sequence[int],
    paddings: Sequence[int],
    pooled: Sequence[int],
    activation: type[nn.Module] = nn.ELU,
    bias: bool = True,
    norm_before_pool: bool = True,
) -> nn.Sequential:
    """Convolutions between regular fields, each with batch normalisation and a nonlinearity; the last is invariant.

    Where a layer has 2x2 max-pooling it comes before the nonlinearity. The authors' benchmark net has it after;
    for an increasing nonlinearity both are the same function, and this is a quarter of the work.

    Args:
        in_channels: channels of the image, trivial fields.
        fields: regular fields of each layer, counted under the group of its convolution.
        groups: group of each layer; where the next is smaller, the fields are restricted to it.
        kernels, paddings: of each layer.
        pooled: numbers, from 1, of the layers with pooling.
        activation: the nonlinearity.
        bias: whether the convolutions have one number a field.
        norm_before_pool: whether the last layer is normalised before the maximum over the group.

    Shapes:
        (B, in_channels, H, W) -> (B, fields[-1], H', W').
    """
    layers: list[nn.Module] = []
    before, last = in_channels, len(fields)
    for layer, (width, group) in enumerate(zip(fields, groups, strict=True), start=1):
        layers.append(
            SteerableConv2d(
                before,
                width,
                kernels[layer - 1],
                group=group,
                in_kind="trivial" if layer == 1 else "regular",
                padding=paddings[layer - 1],
                bias=bias,
            )
        )
        # escnn 1.0.11 leaves a restricted field whole, so that it keeps one scale and shift.
        final: list[nn.Module] = [FibreBatchNorm2d(width)]
        after = groups[min(layer, last - 1)]
        if after != group:
            layers.append(Restrict(group, after))
            width = width * order_of(group) // order_of(after)
        if layer == last:
            final.insert(1 if norm_before_pool else 0, GroupPool(order_of(group)))
        if layer in pooled:
            final.append(nn.MaxPool2d(2))
        layers += [*final, activation()]
        before = width
    return nn.Sequential(*layers)


class SteerableClassifier(nn.Module):
    """Steerable layers, the maximum over what is left of space, and a head on the invariant features.

    Args:
        features: (B, channels, H, W) -> (B, width, H', W').
        head: (B, width) -> (B, num_classes).
    """

    def __init__(self, features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.features, self.head = features, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).amax((-2, -1)))


def _small(in_channels: int, num_classes: int, group: str, fields: tuple[int, ...]) -> nn.Module:
    """Six 5x5 layers without bias, ReLU, one linear layer; the maps shrink as in the benchmark net."""
    features = steerable_layers(
        in_channels,
        fields,
        groups=6 * [group],
        kernels=6 * [5],
        paddings=(0, 2, 2, 2, 2, 0),
        pooled=(2, 4),
        activation=nn.ReLU,
        bias=False,
    )
    return SteerableClassifier(features, nn.Linear(fields[-1], num_classes))


@register_model(
    "e2cnn-c8-25k",
    group="C8",
    invariant="C4",
    family="e2cnn",
    source="arXiv:1911.08251",
    params={"1x28x28->10": 25_596},
    status="ours",
    note="a small net with the layout of the authors' MNIST nets; its widths are ours, for the 25K class",
)
def e2cnn_c8_25k(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """Six C8-steerable 5x5 layers with 4, 5, 6, 8, 10, 11 regular fields, in the 25K class.

    As published: kernels, initialisation, batch normalisation over fields, sizes of the maps (28 pixels become
    24, 12, 6, 2), pooling over group and space. Differs from the benchmark net: widths, 5x5 in layer 1, no biases,
    ReLU for ELU, one linear layer for two.

    The widths are ours. They grow towards the small maps, as the published ones do: eight fields everywhere have as
    many parameters, take more than twice the operations, and were less accurate (90.1 against 92.5 % after 5 epochs of
    rotated digits, one seed).
    """
    return _small(in_channels, num_classes, "C8", (4, 5, 6, 8, 10, 11))


@register_model(
    "e2cnn-c16-25k",
    group="C16",
    invariant="C4",
    family="e2cnn",
    source="arXiv:1911.08251",
    params={"1x28x28->10": 25_705},
    status="ours",
    note="as e2cnn-c8-25k, over 16 rotations",
)
def e2cnn_c16_25k(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """Six C16-steerable 5x5 layers with 3, 3, 4, 5, 8, 8 regular fields, in the 25K class. See `e2cnn_c8_25k`.

    Against 5, 5, 6, 5, 6, 5 fields: half the operations, and 93.9 against 87.3 % after 5 epochs of rotated digits.
    """
    return _small(in_channels, num_classes, "C16", (3, 3, 4, 5, 8, 8))


@register_model(
    "e2cnn-bench-c16",
    group="C16",
    invariant="C4",
    family="e2cnn",
    source="arXiv:1911.08251",
    params={"1x28x28->10": 1_199_858},
    status="published",
    note="the net of the paper's comparison tables; layers 2 to 5 are scaled by sqrt(16 / |G|) for other groups",
    members={
        "e2cnn-bench-c1": {
            "args": {"group": "C1"},
            "group": "C1",
            "invariant": "none",
            "params": {"1x28x28->10": 744_890},
            "status": "published",
        },
        "e2cnn-bench-c4": {
            "args": {"group": "C4"},
            "group": "C4",
            "params": {"1x28x28->10": 896_138},
            "status": "published",
        },
        "e2cnn-bench-c8": {
            "args": {"group": "C8"},
            "group": "C8",
            "params": {"1x28x28->10": 1_019_010},
            "status": "published",
        },
        "e2cnn-bench-d8": {
            "args": {"group": "D8"},
            "group": "D8",
            "invariant": "D4",
            "params": {"1x28x28->10": 1_199_858},
            "status": "published",
        },
        "e2cnn-bench-d16": {
            "args": {"group": "D16"},
            "group": "D16",
            "invariant": "D4",
            "params": {"1x28x28->10": 1_466_557},
            "status": "published",
        },
    },
)
def e2cnn_bench(in_channels: int, num_classes: int, image_size: int, *, group: str = "C16") -> nn.Module:
    """The MNIST benchmark net: 16, 24, 32, 32, 48, 64 regular fields for C16, kernels 7 and five times 5.

    As published: paddings 1, 2, 2, 2, 2, 0, pooling after layers 2 and 4, biases, maximum over the group before
    the normalisation of layer 6, ELU, then Linear-BN-ELU-Linear with 64 features. Differs: pooling before ELU
    (the same function); the published counts of |G| != 16 follow the authors' rounding of the widths.
    """
    scale = math.sqrt(16 / order_of(group))
    fields = (16, *(round(width * scale) for width in (24, 32, 32, 48)), 64)
    features = steerable_layers(
        in_channels,
        fields,
        groups=6 * [group],
        kernels=(7, 5, 5, 5, 5, 5),
        paddings=(1, 2, 2, 2, 2, 0),
        pooled=(2, 4),
        norm_before_pool=False,
    )
    head = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ELU(), nn.Linear(64, num_classes))
    return SteerableClassifier(features, head)


@register_model(
    "e2cnn-c16",
    group="C16",
    invariant="C4",
    family="e2cnn",
    source="arXiv:1911.08251",
    params={"1x28x28->10": 2_692_690},
    status="published",
    note="the competitive net of the paper",
    members={
        "e2cnn-d16-c16": {
            "args": {"group": "D16"},
            "group": "D16",
            "params": {"1x28x28->10": 3_069_353},
            "status": "published",
            "note": "the paper's D16|5C16: reflections up to layer 5, then rotations only",
        },
    },
)
def e2cnn_competitive(in_channels: int, num_classes: int, image_size: int, *, group: str = "C16") -> nn.Module:
    """The competitive MNIST-rot net: kernels 9, four times 7, 5; fields 24, 32, 36, 36, 64, 96 for C16.

    As published: no padding in layers 1 and 6 (28 pixels become 20, 10, 5, 1), pooling after layers 2 and 4 before
    ELU, biases, a head of three linear layers with dropout of 0.3 before each. Under D16 the widths of layers 1 to
    5 are divided by sqrt(2) and truncated, and the fields restricted to C16 after the fifth convolution.
    """
    scale = math.sqrt(16 / order_of(group))
    fields = (*(int(width * scale) for width in (24, 32, 36, 36, 64)), 96)
    features = steerable_layers(
        in_channels,
        fields,
        groups=[*5 * [group], "C16"],
        kernels=(9, 7, 7, 7, 7, 5),
        paddings=(0, 3, 3, 3, 3, 0),
        pooled=(2, 4),
    )
    head: list[nn.Module] = []
    for _ in range(2):
        head += [nn.Dropout(0.3), nn.Linear(96, 96), nn.BatchNorm1d(96), nn.ELU()]
    head += [nn.Dropout(0.3), nn.Linear(96, num_classes)]
    return SteerableClassifier(features, nn.Sequential(*head))
