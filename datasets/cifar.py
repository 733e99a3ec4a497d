"""CIFAR-10 and CIFAR-100, upright, as published but for validation images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..registry import register_dataset
from .fetch import downloads
from .images import ImageData, Split
from .subsets import split_stratified
from .vision import CIFAR10, CIFAR100

PUBLISHED = {10: CIFAR10, 100: CIFAR100}


@register_dataset(
    "cifar10",
    shape=(3, 32, 32),
    classes=10,
    sizes=(45_000, 5_000, 10_000),
    source="CIFAR-10, Krizhevsky 2009",
    task="photographs",
    licence="none stated; drawn from 80 Million Tiny Images, which its authors withdrew in 2020",
    citation="Krizhevsky, Learning multiple layers of features from tiny images, 2009",
    note="500 images of each class are kept apart for validation, drawn with seed 0",
    members={
        "cifar100": {
            "args": {"classes": 100},
            "classes": 100,
            "source": "CIFAR-100, Krizhevsky 2009",
            "note": "fine labels; 50 images of each class are kept apart for validation, drawn with seed 0",
        }
    },
)
@downloads(lambda root, classes=10: PUBLISHED[classes].files(root))
def cifar(root: Path, *, classes: int = 10) -> ImageData:
    """CIFAR-10 or CIFAR-100: classes of colour photographs, with their fine labels.

    Raises:
        UserError: the archive is missing and cannot be downloaded, or is not the published one.
    """
    return with_validation(f"cifar{classes}", *PUBLISHED[classes].parts(root), classes)


def with_validation(name: str, fit: Split, test: Split, classes: int) -> ImageData:
    """A data set whose validation images are a tenth of the published training images, stratified by class."""
    sizes = (len(fit.labels) - len(fit.labels) // 10, len(fit.labels) // 10)
    train, val = split_stratified(fit.labels, sizes, np.random.RandomState(0))
    own = [Split(fit.images[rows], fit.labels[rows]) for rows in (train, val)]
    return ImageData(name, *own, test, classes, 255)
