"""CIFAR-10 and CIFAR-100, from the published binary archives.

These are read rather than the archives for Python because they hold bytes alone: nothing is unpickled, nothing is
unpacked to disk, and torchvision is not needed.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from pathlib import Path

import numpy as np

from ..registry import UserError, register_dataset
from .digits import split_stratified
from .fetch import Download, downloads, obtain
from .images import ImageData, Split

CIFAR10_ARCHIVE = Download(
    "cifar10/cifar-10-binary.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    md5="c32a1d4ab5d03f1284b67883e8d87530",
)
CIFAR100_ARCHIVE = Download(
    "cifar100/cifar-100-binary.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
    md5="03b5dce01913d631647c71ecec9e9cb8",
)
_SHAPE = (3, 32, 32)


@register_dataset(
    "cifar10",
    shape=(3, 32, 32),
    classes=10,
    sizes=(45_000, 5_000, 10_000),
    source="CIFAR-10, Krizhevsky 2009",
    note="500 images of each class are kept apart for validation, drawn with seed 0",
)
@downloads(CIFAR10_ARCHIVE)
def cifar10(root: Path) -> ImageData:
    """CIFAR-10: 10 classes of colour photographs.

    Raises:
        UserError: the archive is missing and cannot be downloaded, or is damaged.
    """
    archive = obtain(root, CIFAR10_ARCHIVE)
    names = [f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)]
    parts = read_members(archive, [*names, "cifar-10-batches-bin/test_batch.bin"], [10_000] * 6, 1, 10)
    return _data("cifar10", parts, 10)


@register_dataset(
    "cifar100",
    shape=(3, 32, 32),
    classes=100,
    sizes=(45_000, 5_000, 10_000),
    source="CIFAR-100, Krizhevsky 2009",
    note="fine labels; 50 images of each class are kept apart for validation, drawn with seed 0",
)
@downloads(CIFAR100_ARCHIVE)
def cifar100(root: Path) -> ImageData:
    """CIFAR-100: 100 classes of colour photographs, with their fine labels.

    Raises:
        UserError: the archive is missing and cannot be downloaded, or is damaged.
    """
    archive = obtain(root, CIFAR100_ARCHIVE)
    names = ["cifar-100-binary/train.bin", "cifar-100-binary/test.bin"]
    return _data("cifar100", read_members(archive, names, [50_000, 10_000], 2, 100), 100)


def _data(name: str, parts: list[Split], classes: int) -> ImageData:
    """All parts but the last are training images; a tenth of them, stratified by class, becomes validation."""
    images = np.concatenate([p.images for p in parts[:-1]])
    labels = np.concatenate([p.labels for p in parts[:-1]])
    sizes = (len(labels) - len(labels) // 10, len(labels) // 10)
    train, val = split_stratified(labels, sizes, np.random.RandomState(0))
    own = [Split(images[rows], labels[rows]) for rows in (train, val)]
    return ImageData(name, *own, parts[-1], classes, 255)


def read_members(
    archive: Path, names: list[str], counts: list[int], label_bytes: int, classes: int
) -> list[Split]:
    """Files of a CIFAR archive: records of the labels, then the red, green and blue plane, row by row.

    Args:
        archive: a gzipped tar file.
        names: files in it, in the order of the result.
        counts: images in each.
        label_bytes: labels of a record, a byte each; the last one is taken (CIFAR-100: the fine one).
        classes: labels lie below.

    Returns:
        images uint8 (n, 3, 32, 32) and labels int64 (n,) of each file.

    Raises:
        UserError: the archive is damaged, a file is missing or of another length, or a label is too large.
    """
    repair = "delete it and fetch the data set again"
    try:
        with gzip.open(archive) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as files:
                raw = {m.name: _bytes(files, m) for m in files if m.name in names}
            while stream.read(1 << 20):  # up to the checksum at the end
                pass
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise UserError(f"{archive} cannot be unpacked ({error}); {repair}") from error
    parts = []
    for name, count in zip(names, counts, strict=True):
        if name not in raw:
            raise UserError(f"{archive} holds no {name}; {repair}")
        expected = count * (label_bytes + int(np.prod(_SHAPE)))
        if len(raw[name]) != expected:
            raise UserError(f"{archive}, {name}: expected {expected:,} bytes, got {len(raw[name]):,}; {repair}")
        records = np.frombuffer(raw[name], np.uint8).reshape(count, -1)
        labels = records[:, label_bytes - 1].astype(np.int64)
        if labels.max(initial=0) >= classes:
            raise UserError(f"{archive}, {name}: found the label {labels.max()}, expected 0 to {classes - 1}; {repair}")
        parts.append(Split(records[:, label_bytes:].reshape(count, *_SHAPE), labels))
    return parts


def _bytes(files: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = files.extractfile(member) if member.isfile() else None
    return stream.read() if stream else b""
