"""Networks of Cohen & Welling, "Group Equivariant Convolutional Networks" (ICML 2016), and their planar twins.

Sources: the paper and its authors' training code (Chainer), whose defaults are kept where they enter the function
that is learned: batch-norm epsilon 2e-5 and running averages with weight 0.1, normal initialisation with standard
deviation ``gain / sqrt(fan_in)``, zero biases. HexaConv (Hoogeboom et al., ICLR 2018) uses the residual net with
other widths.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import register_model
from .g_conv import FibreBatchNorm2d, GroupConv2d, GroupPool, order_of

#: Epsilon of Chainer's batch normalisation.
CHAINER_EPS = 2e-5
#: Gain of He's initialisation, which the authors use in the residual nets only.
HE_GAIN = 2**0.5


def _norm(fields: int) -> FibreBatchNorm2d:
    return FibreBatchNorm2d(fields, eps=CHAINER_EPS)


def _conv_bn_relu(in_fields: int, out_fields: int, **options: Any) -> nn.Sequential:
    """Convolution with bias, one batch-norm channel a field, ReLU."""
    return nn.Sequential(GroupConv2d(in_fields, out_fields, **options), _norm(out_fields), nn.ReLU())


class MnistRotNet(nn.Module):
    """The seven-layer net for MNIST-rot, over any group of `g_conv`.

    Without padding, at 28 pixels: 3x3 to 26, 3x3 to 24, max-pool to 12, four 3x3 to 4, and a 4x4 convolution to
    one field a class. The logits are the maxima over the group and over what is left of space (one pixel at 28).
    Layers 1 to 6 have batch normalisation and ReLU; the classifier is bare.

    Args:
        in_channels: channels of the image.
        num_classes: fields of the last layer.
        image_size: side of the image in pixels, at least 28.
        group: ``"none"``, ``"C4"`` or ``"D4"``.
        width: fields of layers 1 to 6.
        dropout: probability after layers 1, 3, 4, 5, 6.
        pool_each: whether every layer lifts its input and takes the maximum over the group at once.

    Shapes:
        (B, in_channels, H, W) -> (B, num_classes).

    Raises:
        ValueError: the image is too small.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int,
        *,
        group: str,
        width: int,
        dropout: float = 0.0,
        pool_each: bool = False,
    ) -> None:
        super().__init__()
        if image_size < 28:
            raise ValueError(f"image_size={image_size}: the unpadded layers need 28 pixels or more")
        self.pool = GroupPool(order_of(group))
        layers: list[nn.Module] = []
        for layer in range(1, 7):
            fields, lifting = (in_channels if layer == 1 else width), layer == 1 or pool_each
            layers.append(_conv_bn_relu(fields, width, kernel_size=3, group=group, lifting=lifting))
            if pool_each:
                layers.append(self.pool)
            if layer == 2:
                layers.append(nn.MaxPool2d(2))
            elif dropout:
                layers.append(nn.Dropout(dropout))
        self.features = nn.Sequential(*layers)
        self.classify = GroupConv2d(width, num_classes, 4, group=group, lifting=pool_each)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.classify(self.features(x))).amax((-2, -1))


class AllCNN(nn.Module):
    """All-CNN-C over any group of `g_conv`: seven 3x3 and two 1x1 convolutions, each with BN and ReLU, then the mean.

    Layers 3 and 6 have stride 2. Dropout: 0.2 on the image, 0.5 after layers 3 and 6. Even the last layer has
    batch normalisation and ReLU, as the authors' code says of Springenberg et al. (2015).

    Args:
        in_channels: channels of the image.
        num_classes: fields of the last layer.
        group: ``"none"``, ``"C4"`` or ``"D4"``.
        width: fields of layers 1 to 3; the layers after them have twice as many.
        std: standard deviation of all initial weights.

    Shapes:
        (B, in_channels, H, W) -> (B, num_classes); logits are not negative.
    """

    def __init__(self, in_channels: int, num_classes: int, *, group: str, width: int, std: float) -> None:
        super().__init__()
        widths = [in_channels] + 3 * [width] + 5 * [2 * width] + [num_classes]
        layers: list[nn.Module] = [nn.Dropout(0.2)]
        for layer in range(1, 10):
            size, stride = (3 if layer <= 7 else 1), (2 if layer in (3, 6) else 1)
            options = dict(kernel_size=size, stride=stride, padding=size // 2, group=group, lifting=layer == 1)
            layers.append(_conv_bn_relu(widths[layer - 1], widths[layer], **options))
            nn.init.normal_(layers[-1][0].weight, std=std)
            if stride == 2:
                layers.append(nn.Dropout(0.5))
        self.features = nn.Sequential(*layers)
        self.pool = GroupPool(order_of(group), "mean")

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.features(x)).mean((-2, -1))


class GroupResBlock(nn.Module):
    """BN-ReLU-conv3x3(stride)-BN-ReLU-conv3x3 plus a shortcut; all convolutions with bias.

    The shortcut is the identity or, at the start of a stage, a 1x1 convolution of the raw input (a Wide ResNet
    takes the activated one).

    Args:
        in_fields, out_fields: fields before and after.
        group: ``"none"``, ``"C4"`` or ``"D4"``.
        stride: of the first 3x3 and of the shortcut.

    Shapes:
        (B, in_fields * |G|, H, W) -> (B, out_fields * |G|, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_fields: int, out_fields: int, *, group: str, stride: int = 1) -> None:
        super().__init__()
        options: dict[str, Any] = dict(group=group, gain=HE_GAIN)
        self.norm1, self.norm2 = _norm(in_fields), _norm(out_fields)
        self.conv1 = GroupConv2d(in_fields, out_fields, 3, stride=stride, padding=1, **options)
        self.conv2 = GroupConv2d(out_fields, out_fields, 3, padding=1, **options)
        changed = stride != 1 or in_fields != out_fields
        self.shortcut = GroupConv2d(in_fields, out_fields, 1, stride=stride, **options) if changed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return self.conv2(F.relu(self.norm2(y))) + self.shortcut(x)


class GroupResNet(nn.Module):
    """Pre-activation ResNet of 6n + 2 layers over any group of `g_conv`, with the authors' head.

    A stem, three stages of n blocks (strides 1, 2, 2), BN-ReLU, mean over space, and a dense layer on all
    ``fields * |G|`` channels: the head does not pool over the group, so that the logits are not invariant.

    Args:
        in_channels: channels of the image.
        num_classes: number of logits.
        group: ``"none"``, ``"C4"`` or ``"D4"``.
        depth: 6n + 2.
        widths: fields of the three stages.

    Shapes:
        (B, in_channels, H, W) -> (B, num_classes).

    Raises:
        ValueError: the depth is not 6n + 2.
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, group: str, depth: int, widths: tuple[int, int, int]
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth={depth}: these residual nets have 6n + 2 layers, as 8, 14, 20, 26, 44")
        fields = widths[0]
        layers: list[nn.Module] = [
            GroupConv2d(in_channels, fields, 3, group=group, lifting=True, padding=1, gain=HE_GAIN)
        ]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(GroupResBlock(fields, width, group=group, stride=2 if stage and not block else 1))
                fields = width
        self.features = nn.Sequential(*layers, _norm(fields), nn.ReLU())
        self.classify = nn.Linear(fields * order_of(group), num_classes)
        nn.init.normal_(self.classify.weight, std=HE_GAIN / self.classify.in_features**0.5)
        nn.init.zeros_(self.classify.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x).mean((-2, -1)))


#: Fields of the three stages by depth.
PLANAR_WIDTHS = {44: (32, 64, 128), 26: (71, 142, 284)}
P4M_WIDTHS = {44: (11, 23, 45), 26: (25, 50, 100)}


def _published_widths(known: dict[int, tuple[int, int, int]], depth: int) -> tuple[int, int, int]:
    if depth not in known:
        raise ValueError(f"depth={depth}: published depths are {', '.join(map(str, known))}; give widths for others")
    return known[depth]


@register_model(
    "p4cnn-{width}",
    group="C4",
    invariant="C4",
    family="g-cnn",
    source="arXiv:1602.07576",
    note="own layers; its authors report a test error of 2.28 % on MNIST-rot-12k",
    members={"p4cnn": {"args": {"width": 10}, "params": {"1x28x28->10": 24_680}, "status": "published"}},
)
def p4cnn(in_channels: int, num_classes: int, image_size: int, *, width: int) -> nn.Module:
    """P4CNN for MNIST-rot: seven p4 convolutions of `width` fields, maximum over rotations and space.

    As published (width 10): widths, biases, batch normalisation over fields, no dropout (its lines are commented
    out in the authors' code), no dense layer, initialisation. The logits are exactly C4-invariant where the 2x2
    pooling is exact: at even sizes.
    """
    return MnistRotNet(in_channels, num_classes, image_size, group="C4", width=width)


@register_model(
    "p4cnn-rp",
    group="C4",
    invariant="C4",
    family="g-cnn",
    source="arXiv:1602.07576",
    params={"1x28x28->10": 21_750},
    status="published",
    note="every layer is rotation-invariant: it lifts its input and takes the maximum over rotations",
)
def p4cnn_rp(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """P4CNN-RP for MNIST-rot ("rotation pooling"): Z2CNN with its filters in four orientations, maximum in each layer.

    As published: 20 fields, biases, batch normalisation before the maximum, no dropout (commented out in the
    authors' code).
    """
    return MnistRotNet(in_channels, num_classes, image_size, group="C4", width=20, pool_each=True)


@register_model(
    "z2cnn-{width}",
    group="none",
    invariant="none",
    family="cnn",
    source="arXiv:1602.07576",
    note="the planar baseline of G-CNN; its authors report a test error of 5.03 % on MNIST-rot-12k",
    members={
        "z2cnn": {
            "args": {"width": 20, "dropout": 0.3},
            "params": {"1x28x28->10": 21_750},
            "status": "published",
        },
        "z2cnn-22": {
            "params": {"1x28x28->10": 25_904},
            "note": "widened from 20 to match the 25K class, and without dropout, as P4CNN is",
        },
    },
)
def z2cnn(in_channels: int, num_classes: int, image_size: int, *, width: int, dropout: float = 0.0) -> nn.Module:
    """Z2CNN for MNIST-rot: the planar twin of P4CNN, with `width` channels.

    As published (width 20): layers, biases, dropout of 0.3 after layers 1, 3, 4, 5, 6, maximum over space,
    initialisation. Other widths have no dropout, so that they differ from P4CNN in the group alone: its authors train
    300 epochs with it, and in a few epochs it costs tens of points.
    """
    return MnistRotNet(in_channels, num_classes, image_size, group="none", width=width, dropout=dropout)


@register_model(
    "p4m-resnet-{depth}",
    group="D4",
    invariant="none",
    family="g-cnn",
    source="arXiv:1602.07576",
    note="the published head is dense over all orientations: no invariance, and even sizes break the strides",
    members={
        "p4m-resnet-44": {"params": {"3x32x32->10": 2_622_878}, "status": "published"},
        "p4m-resnet-26": {"params": {"3x32x32->10": 7_173_110}, "status": "published"},
        "hexaconv-p4m-26": {
            "args": {"depth": 26, "widths": (5, 12, 21)},
            "params": {"3x32x32->10": 336_985},
            "source": "arXiv:1803.02108",
            "status": "published",
        },
    },
)
def p4m_resnet(
    in_channels: int, num_classes: int, image_size: int, *, depth: int, widths: tuple[int, int, int] | None = None
) -> nn.Module:
    """p4m ResNet-44 and -26 for CIFAR-10: 11/23/45 and 25/50/100 fields over quarter turns and reflections.

    As published: blocks, biases, widths, initialisation, head. Differs: the authors' last batch normalisation uses
    the statistics of the test batch (they omit its flag); here it uses running averages as all others do.
    """
    widths = widths or _published_widths(P4M_WIDTHS, depth)
    return GroupResNet(in_channels, num_classes, group="D4", depth=depth, widths=widths)


@register_model(
    "hexaconv-p4-26",
    group="C4",
    invariant="none",
    family="g-cnn",
    source="arXiv:1803.02108",
    params={"3x32x32->10": 336_856},
    status="published",
    note="the published head is dense over all orientations: no invariance, and even sizes break the strides",
)
def hexaconv_p4(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """The p4 ResNet-26 that HexaConv compares with: 8/16/30 fields. As `p4m_resnet`, over quarter turns."""
    return GroupResNet(in_channels, num_classes, group="C4", depth=26, widths=(8, 16, 30))


@register_model(
    "z2-resnet-{depth}",
    group="none",
    invariant="none",
    family="resnet",
    source="arXiv:1602.07576",
    note="the planar twin of the p4m ResNet, with its biases and raw shortcuts",
    members={
        "z2-resnet-44": {"params": {"3x32x32->10": 2_639_434}, "status": "published"},
        "z2-resnet-26": {"params": {"3x32x32->10": 7_236_046}, "status": "published"},
        "hexaconv-z2-26": {
            "args": {"depth": 26, "widths": (15, 31, 61)},
            "params": {"3x32x32->10": 338_456},
            "source": "arXiv:1803.02108",
            "status": "published",
        },
    },
)
def z2_resnet(
    in_channels: int, num_classes: int, image_size: int, *, depth: int, widths: tuple[int, int, int] | None = None
) -> nn.Module:
    """Z2 ResNet-44 and -26 for CIFAR-10: 32/64/128 and 71/142/284 channels. See `p4m_resnet`."""
    widths = widths or _published_widths(PLANAR_WIDTHS, depth)
    return GroupResNet(in_channels, num_classes, group="none", depth=depth, widths=widths)


@register_model(
    "all-cnn-c",
    group="none",
    invariant="none",
    family="cnn",
    source="arXiv:1602.07576",
    params={"3x32x32->10": 1_372_254},
    status="published",
)
def all_cnn_c(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """All-CNN-C as Cohen & Welling trained it: 96/192 channels, initial standard deviation 0.05. See `AllCNN`."""
    return AllCNN(in_channels, num_classes, group="none", width=96, std=0.05)


@register_model(
    "p4-all-cnn-c",
    group="C4",
    invariant="none",
    family="g-cnn",
    source="arXiv:1602.07576",
    params={"3x32x32->10": 1_371_006},
    status="published",
    note="pools over the group, but its strides are not symmetric at even sizes; exactly C4-invariant at 33 pixels",
)
def p4_all_cnn_c(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """All-CNN-C over quarter turns: 48/96 fields, initial standard deviation 0.035. See `AllCNN`."""
    return AllCNN(in_channels, num_classes, group="C4", width=48, std=0.035)


@register_model(
    "p4m-all-cnn-c",
    group="D4",
    invariant="none",
    family="g-cnn",
    source="arXiv:1602.07576",
    params={"3x32x32->10": 1_219_678},
    status="published",
    note="pools over the group, but its strides are not symmetric at even sizes; exactly D4-invariant at 33 pixels",
)
def p4m_all_cnn_c(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """All-CNN-C over quarter turns and reflections: 32/64 fields, standard deviation 0.035. See `AllCNN`."""
    return AllCNN(in_channels, num_classes, group="D4", width=32, std=0.035)
