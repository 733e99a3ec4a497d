"""Rotated versions of data sets of upright images, all by the recipe of `make_rotated` with seed 0."""

from __future__ import annotations

from pathlib import Path

from ..registry import register_dataset
from .fetch import downloads
from .images import ImageData
from .rotation import make_rotated
from .vision import CIFAR10, FASHION_MNIST, MNIST


@register_dataset(
    "mnist-rot-gen",
    shape=(1, 28, 28),
    classes=10,
    sizes=(10_000, 2_000, 50_000),
    source="MNIST (LeCun, Cortes, Burges), rotated with seed 0",
    digest="a4abd63200db8f4affc218588b30e95d94af5ce880b78633d8633206ec06137d",
    rotation=True,
    task="digits",
    licence="copyright of Y. LeCun and C. Cortes; commonly distributed under CC BY-SA 3.0",
    citation="LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition, 1998",
    note="generated here; not MNIST-rot-12k, and not comparable with figures published on it",
)
@downloads(MNIST.files)
def mnist_rot_gen(root: Path) -> ImageData:
    """62,000 of the 70,000 MNIST digits, each turned once.

    Raises:
        UserError: a file is missing and cannot be downloaded, or is not the published one.
    """
    return make_rotated("mnist-rot-gen", MNIST.parts(root), (10_000, 2_000, 50_000), 10)


@register_dataset(
    "fashion-rot-gen",
    shape=(1, 28, 28),
    classes=10,
    sizes=(10_000, 2_000, 50_000),
    source="Fashion-MNIST (arXiv:1708.07747), rotated with seed 0",
    digest="ed93585f38f72ac1e940532173bfba679eef53a2911ef38ff6e6b931135fec00",
    rotation=True,
    task="garments",
    licence="MIT",
    citation="Xiao, Rasul, Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking machine learning"
    " algorithms, 2017",
    note="generated here; not comparable with figures published on Fashion-MNIST",
)
@downloads(FASHION_MNIST.files)
def fashion_rot_gen(root: Path) -> ImageData:
    """62,000 of the 70,000 garments of Fashion-MNIST, each turned once.

    Raises:
        UserError: a file is missing and cannot be downloaded, or is not the published one.
    """
    return make_rotated("fashion-rot-gen", FASHION_MNIST.parts(root), (10_000, 2_000, 50_000), 10)


@register_dataset(
    "cifar10-rot-gen",
    shape=(3, 32, 32),
    classes=10,
    sizes=(10_000, 2_000, 48_000),
    source="CIFAR-10, Krizhevsky 2009, rotated with seed 0",
    rotation=True,
    task="photographs",
    licence="none stated; drawn from 80 Million Tiny Images, which its authors withdrew in 2020",
    citation="Krizhevsky, Learning multiple layers of features from tiny images, 2009",
    note="generated here, inside a disc on a plain ground; not comparable with figures published on CIFAR-10",
)
@downloads(CIFAR10.files)
def cifar10_rot_gen(root: Path) -> ImageData:
    """The 60,000 photographs of CIFAR-10, each turned once inside a disc, so that no corner tells the angle.

    Raises:
        UserError: the archive is missing and cannot be downloaded, or is not the published one.
    """
    return make_rotated("cifar10-rot-gen", CIFAR10.parts(root), (10_000, 2_000, 48_000), 10, disc=True)
