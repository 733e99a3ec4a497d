"""Networks of PDO-eConv (Shen, He, Lin & Ma, ICML 2020), as published and corrected.

Sources: arXiv:2007.10408, the authors' TensorFlow scripts for MNIST and CIFAR, and their table of results. What the
scripts fix is built exactly ("published"); where only the table is left, widths are found from its parameter counts
("inferred"), or nothing could be checked ("unverified").

The published heads weigh every orientation on its own, so their logits are not invariant under rotation although
the trunk is equivariant; and the CIFAR networks halve even maps off-centre. Names that end in ``-paper`` keep that.
The corrected networks keep trunk, depth and size and change what breaks the symmetry: the head pools over the group,
the map is halved by 2x2 means, and the stencils are moment-fixed Gaussian derivatives instead of finite differences.
"""

from __future__ import annotations

from torch import nn

from ..registry import register_model
from .pdo.networks import PAPER_OFFSET, TF_BN, InvariantHead, MnistTrunk, OrdinaryHead, PDOResNet

#: Depth and widths of the CIFAR networks.
_P8_44 = {"group": "p8", "depth": 44, "widths": (11, 23, 45)}
_P8_26_WIDE = {"group": "p8", "depth": 26, "widths": (20, 40, 80)}
_P6_26 = {"group": "p6", "depth": 26, "widths": (6, 13, 26)}
_P6M_26 = {"group": "p6m", "depth": 26, "widths": (5, 10, 18)}


def _mnist_paper(in_channels: int, num_classes: int, image_size: int, width: int, stencil: str) -> nn.Module:
    trunk = MnistTrunk(in_channels, image_size, group="p8", stencil=stencil, widths=(width,) * 6, dropout=0.2, bn=TF_BN)
    return nn.Sequential(trunk, OrdinaryHead(8 * width, num_classes, trunk.out_size))


def _resnet_paper(in_channels: int, num_classes: int, **shape: object) -> nn.Module:
    return PDOResNet(in_channels, num_classes, stencil="fd", offset=PAPER_OFFSET, corrected=False, bn=TF_BN, **shape)


def _resnet(in_channels: int, num_classes: int, offset: float, **shape: object) -> nn.Module:
    return PDOResNet(in_channels, num_classes, stencil="gauss", offset=offset, corrected=True, **shape)


@register_model(
    "pdo-econv-p8-paper-{stencil}",
    group="C8",
    invariant="none",
    family="pdo-econv",
    source="arXiv:2007.10408",
    note="the published network with other stencils; its head is not rotation-invariant",
    members={
        "pdo-econv-p8-paper": {
            "args": {"stencil": "fd"},
            "params": {"1x28x28->10": 26_747},
            "status": "published",
            "note": "as published; its head is not rotation-invariant; 1.87 % error on MNIST-rot-12k by its authors",
        },
        "pdo-econv-p8-paper-gauss": {
            "params": {"1x28x28->10": 26_747},
            "note": "the published network with moment-fixed Gaussian stencils; its head is not rotation-invariant",
        },
    },
)
def mnist_p8_paper(in_channels: int, num_classes: int, image_size: int, *, stencil: str) -> nn.Module:
    """PDO-eConv p8 for MNIST-rot exactly as the official code builds it (with stencil `fd`).

    Published (code): six layers of seven fields, frame offset pi / 8, finite differences, batch normalisation with
    TensorFlow's defaults, dropout of 0.2 after all layers but the second, and a 4x4 convolution over all 56 channels
    as the head, which makes the logits depend on the orientation. Inferred: nothing.
    """
    return _mnist_paper(in_channels, num_classes, image_size, 7, stencil)


@register_model(
    "pdo-econv-p8-{stencil}",
    group="C8",
    invariant="C4",
    family="pdo-econv",
    source="arXiv:2007.10408",
    note="the corrected network with other stencils",
    members={
        "pdo-econv-p8": {
            "args": {"stencil": "gauss"},
            "params": {"1x28x28->10": 25_696},
            "note": "rotation-invariant head, moment-fixed Gaussian stencils, narrower first layer",
        },
        "pdo-econv-p8-fd": {
            "params": {"1x28x28->10": 25_696},
            "note": "the corrected network with the finite differences of the paper",
        },
    },
)
def mnist_p8(in_channels: int, num_classes: int, image_size: int, *, stencil: str) -> nn.Module:
    """PDO-eConv p8 for MNIST-rot with an invariant head (with stencil `gauss` by default).

    Published: the trunk's depth, geometry, group and offset. Ours: Gaussian stencils; a head that pools over
    orientations (1x1 group layer to 42 fields, maximum over the group, mean over space, linear layer); widths
    4-6-8-9-9-9 instead of seven throughout, because the first layer's fields cost most of the time and matter least;
    no dropout, which slows short trainings; torch's defaults for batch normalisation. At even sizes the logits are
    exactly C4-invariant.
    """
    trunk = MnistTrunk(in_channels, image_size, group="p8", stencil=stencil, widths=(4, 6, 8, 9, 9, 9))
    return nn.Sequential(trunk, InvariantHead(9, 42, num_classes, group="p8"))


@register_model(
    "pdo-econv-p8-large-paper",
    group="C8",
    invariant="none",
    family="pdo-econv",
    source="arXiv:2007.10408",
    status="unverified",
    params={"1x28x28->10": 658_501},
    note="network behind 0.709 % with augmentation: no code was released, its size is from memory",
)
def mnist_p8_large_paper(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """PDO-eConv p8 for the augmented row of MNIST-rot: the published six-layer network at 41 fields.

    Published: the test error only. Unverified: the size, about 0.65 million parameters, and that the architecture is
    that of the small network; 41 fields come closest to it (40 make 628,040).
    """
    return _mnist_paper(in_channels, num_classes, image_size, 41, "fd")


@register_model(
    "pdo-econv-p8-large",
    group="C8",
    invariant="C4",
    family="pdo-econv",
    source="arXiv:2007.10408",
    params={"1x28x28->10": 658_293},
    note="rotation-invariant head, moment-fixed Gaussian stencils",
)
def mnist_p8_large(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """The corrected p8 network at the size of the augmented row of MNIST-rot, about 0.65 million parameters.

    Published: the trunk's depth, geometry, group and offset. Ours: as `pdo-econv-p8`, with widths 21-42-42-42-46-46,
    a head of 128 fields, and the dropout of 0.2 of the paper, since this size is trained for long.
    """
    trunk = MnistTrunk(
        in_channels, image_size, group="p8", stencil="gauss", widths=(21, 42, 42, 42, 46, 46), dropout=0.2
    )
    return nn.Sequential(trunk, InvariantHead(46, 128, num_classes, group="p8"))


@register_model(
    "pdo-econv-p8-44-paper",
    group="C8",
    invariant="none",
    family="pdo-econv",
    source="arXiv:2007.10408",
    status="published",
    params={"3x32x32->10": 2_621_693, "3x32x32->100": 2_654_183},
    note="as published; its head is not rotation-invariant and it halves even maps off-centre",
)
def cifar_p8_44_paper(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """PDO-eConv p8 ResNet-44 for CIFAR exactly as the official code builds it.

    Published (code): widths 11-23-45, frame offset pi / 8, finite differences, stride 2, batch normalisation with
    TensorFlow's defaults, spatial mean and linear layer over all 360 channels. Inferred: nothing. The error is 3.68 %
    and 20.01 % on CIFAR-10 and -100 by its authors.
    """
    return _resnet_paper(in_channels, num_classes, **_P8_44)


@register_model(
    "pdo-econv-p8-44",
    group="C8",
    invariant="C4",
    family="pdo-econv",
    source="arXiv:2007.10408",
    params={"3x32x32->10": 2_618_543, "3x32x32->100": 2_622_683},
    note="rotation-invariant head, 2x2 means instead of strides, moment-fixed Gaussian stencils",
)
def cifar_p8_44(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """PDO-eConv p8 ResNet-44 for CIFAR with exact down-sampling and an invariant head.

    Published: depth, widths 11-23-45, group and offset. Ours: maximum over the group before the spatial mean, 2x2
    means instead of strides, Gaussian stencils, torch's defaults for batch normalisation.
    """
    return _resnet(in_channels, num_classes, PAPER_OFFSET, **_P8_44)


@register_model(
    "pdo-econv-p8-26-wide-paper",
    group="C8",
    invariant="none",
    family="pdo-econv",
    source="arXiv:2007.10408",
    status="inferred",
    params={"3x32x32->10": 4_591_630, "3x32x32->100": 4_649_320},
    note="widths inferred from the published 4.6M; its head is not rotation-invariant",
)
def cifar_p8_26_wide_paper(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """PDO-eConv p8 wide ResNet-26 for CIFAR, as far as the paper says.

    Published: group, depth 26, 4.6M parameters (12.6 % of a Wide ResNet's 36.5M), errors of 3.50 % and 18.40 %.
    Inferred, very likely: widths 20-40-80, whose 160-320-640 channels are those of WRN-28-10. All else as the
    published ResNet-44.
    """
    return _resnet_paper(in_channels, num_classes, **_P8_26_WIDE)


@register_model(
    "pdo-econv-p8-26-wide",
    group="C8",
    invariant="C4",
    family="pdo-econv",
    source="arXiv:2007.10408",
    params={"3x32x32->10": 4_586_030, "3x32x32->100": 4_593_320},
    note="rotation-invariant head, 2x2 means instead of strides, moment-fixed Gaussian stencils",
)
def cifar_p8_26_wide(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """PDO-eConv p8 wide ResNet-26 for CIFAR with exact down-sampling and an invariant head.

    Published: depth and group. Inferred: widths 20-40-80. Ours: as `pdo-econv-p8-44`.
    """
    return _resnet(in_channels, num_classes, PAPER_OFFSET, **_P8_26_WIDE)


@register_model(
    "pdo-econv-p6-26-paper",
    group="C6",
    invariant="none",
    family="pdo-econv",
    source="arXiv:2007.10408",
    status="inferred",
    params={"3x32x32->10": 362_386, "3x32x32->100": 376_516},
    note="widths inferred from the published 0.36M; its head is not rotation-invariant",
)
def cifar_p6_26_paper(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """PDO-eConv p6 ResNet-26 for CIFAR, as far as the paper says.

    Published: group, depth, 0.36M parameters, errors of 5.65 % and 27.13 %. Inferred: widths 6-13-26 (7-14-25 with
    360,835 parameters fits as well) and the offset of pi / 8, which the official code uses for every group. All else
    as the published ResNet-44.
    """
    return _resnet_paper(in_channels, num_classes, **_P6_26)


@register_model(
    "pdo-econv-p6-26",
    group="C6",
    invariant="C2",
    family="pdo-econv",
    source="arXiv:2007.10408",
    params={"3x32x32->10": 361_086, "3x32x32->100": 363_516},
    note="rotation-invariant head, 2x2 means instead of strides, moment-fixed Gaussian stencils, no offset",
)
def cifar_p6_26(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """PDO-eConv p6 ResNet-26 for CIFAR with exact down-sampling and an invariant head.

    Published: depth and group. Inferred: widths 6-13-26. Ours: as `pdo-econv-p8-44`, without the offset, which has no
    effect on the equivariance error of p6. On the square grid p6 is exact for half turns only.
    """
    return _resnet(in_channels, num_classes, 0.0, **_P6_26)


@register_model(
    "pdo-econv-p6m-26-paper",
    group="D6",
    invariant="none",
    family="pdo-econv",
    source="arXiv:2007.10408",
    status="inferred",
    params={"3x32x32->10": 372_587, "3x32x32->100": 392_117},
    note="widths inferred from the published 0.37M; its head is not rotation-invariant",
)
def cifar_p6m_26_paper(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """PDO-eConv p6m ResNet-26 for CIFAR, as far as the paper says.

    Published: group, depth, 0.37M parameters, errors of 5.38 % and 27.00 %. Inferred, not unique: widths 5-10-18
    (4-9-19 makes 375,734), the offset of pi / 8, and frames as a left coset, so that flips are exact; no code for
    groups with reflections was released. All else as the published ResNet-44.
    """
    return _resnet_paper(in_channels, num_classes, **_P6M_26)


@register_model(
    "pdo-econv-p6m-26",
    group="D6",
    invariant="D2",
    family="pdo-econv",
    source="arXiv:2007.10408",
    params={"3x32x32->10": 370_607, "3x32x32->100": 372_317},
    note="invariant head, 2x2 means instead of strides, moment-fixed Gaussian stencils, no offset",
)
def cifar_p6m_26(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """PDO-eConv p6m ResNet-26 for CIFAR with exact down-sampling and an invariant head.

    Published: depth and group. Inferred: widths 5-10-18. Ours: as `pdo-econv-p8-44`, without the offset. On the square
    grid p6m is exact for half turns and for both flips.
    """
    return _resnet(in_channels, num_classes, 0.0, **_P6M_26)
