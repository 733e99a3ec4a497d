"""The original MNIST-rot-12k."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..registry import UserError, register_dataset
from .digits import digits_rot
from .fetch import Download, downloads, obtain
from .images import ImageData, Split

#: Larochelle, Erhan, Courville, Bergstra, Bengio, ICML 2007; the corrected ("new") files, which all later papers use.
AMAT_ARCHIVE = Download(
    "mnist-rot/mnist_rotation_new.zip",
    ("http://www.iro.umontreal.ca/~lisa/icml2007data/mnist_rotation_new.zip",),
    md5="0f9a947ff3d30e95cd685462cbf3b847",
)
#: The texts in it: training and validation images, then test images.
AMAT_FILES = (
    "mnist_all_rotation_normalized_float_train_valid.amat", "mnist_all_rotation_normalized_float_test.amat",
)  # fmt: skip
_PIXELS = 28 * 28


@register_dataset(
    "mnist-rot",
    shape=(1, 28, 28),
    classes=10,
    sizes=(10_000, 2_000, 50_000),
    source="MNIST-rot-12k, Larochelle et al., ICML 2007",
    rotation=True,
    task="digits",
    licence="none stated",
    citation="Larochelle, Erhan, Courville, Bergstra, Bengio, An empirical evaluation of deep architectures on"
    " problems with"
    " many factors of variation, ICML 2007",
    note="the original files, in their order: first 10,000 for training, next 2,000 for validation",
)
@downloads(AMAT_ARCHIVE)
def mnist_rot(root: Path) -> ImageData:
    """MNIST-rot-12k as published; pixels are floats in the files.

    Raises:
        UserError: the archive is missing and cannot be downloaded, or is damaged.
    """
    return read_archive("mnist-rot", obtain(root, AMAT_ARCHIVE), (10_000, 2_000, 50_000), digits_rot(root).train)


def read_archive(name: str, archive: Path, sizes: tuple[int, int, int], known: Split) -> ImageData:
    """The data set in an archive of the format of MNIST-rot-12k.

    Args:
        name: of the data set.
        sizes: images in train, validation, test. The first text holds train, then validation.
        known: rotated digits that are not mirrored, see `is_mirrored`.

    Raises:
        UserError: as `read_amat_member`.
    """
    rows = (sizes[0] + sizes[1], sizes[2])
    (fit, fit_labels), (test, test_labels) = (read_amat_member(archive, *f) for f in zip(AMAT_FILES, rows, strict=True))
    if is_mirrored(fit[:1000], fit_labels[:1000], known):
        fit, test = fit.transpose(0, 2, 1), test.transpose(0, 2, 1)
    (fit, test), maximum = to_integers([fit[:, None], test[:, None]])
    train, val = (Split(fit[part], fit_labels[part]) for part in (slice(sizes[0]), slice(sizes[0], None)))
    return ImageData(name, train, val, Split(test, test_labels), 10, maximum)


def read_amat_member(archive: Path, name: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 (rows, 28, 28) in 0…1 and labels int64 (rows,) of an ``.amat`` file in a zip archive.

    Raises:
        UserError: as `read_amat`; or the archive is damaged or has no such file.
    """
    try:
        with zipfile.ZipFile(archive) as files, files.open(name) as stream:
            return read_amat(io.BufferedReader(stream), f"{archive}, {name}", rows)
    except KeyError as error:
        raise UserError(f"{archive} holds no {name}; delete it and fetch the data set again") from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{archive} cannot be unpacked ({error}); delete it and fetch the data set again") from error


def read_amat(lines: Iterable[bytes], where: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a text with one example a line: 784 intensities in 0…1 and a label in 0…9.

    Args:
        lines: the text.
        where: name of the file, for messages.
        rows: number of lines that there must be.

    Returns:
        float32 (rows, 28, 28) in the order of the file, int64 (rows,).

    Raises:
        UserError: anything else, with file and line.
    """
    table, number, numbers = np.empty((rows, _PIXELS + 1), np.float32), 0, _Numbers()
    for number, line in enumerate(lines, 1):
        if number > rows:
            raise UserError(f"{where}: line {number} is one too many; expected {rows:,} lines")
        words = line.split()
        if len(words) != _PIXELS + 1:
            cut = ", and is cut off" if not line.endswith(b"\n") else ""
            raise UserError(f"{where}: line {number} has {len(words)} numbers instead of {_PIXELS + 1}{cut}")
        try:
            table[number - 1] = [numbers[w] for w in words]
        except ValueError as error:
            raise UserError(f"{where}: line {number} holds something that is no number ({error})") from error
        fault = _fault(table[number - 1])
        if fault:
            raise UserError(f"{where}: line {number} {fault}")
    if number != rows:
        raise UserError(f"{where} ends after line {number:,}; expected {rows:,} lines")
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int64)


class _Numbers(dict[bytes, float]):
    """Words as numbers; remembered, because most pixels are the same zero. Twice as fast as numpy's own reader."""

    def __missing__(self, word: bytes) -> float:
        value = float(word)
        if len(self) < 100_000:
            self[word] = value
        return value


def _fault(row: np.ndarray) -> str:
    """What is wrong with intensities and a label, empty if nothing is."""
    pixels, label = row[:-1], row[-1]
    if not (pixels.min() >= 0 and pixels.max() <= 1):  # so written that what is no number fails too
        wrong = pixels[~((pixels >= 0) & (pixels <= 1))]
        return f"has the intensity {wrong[0]:g}, outside 0 to 1"
    return "" if label in range(10) else f"has the label {label:g}, which is no digit"


def to_integers(images: list[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """Intensities 0…1 as integers, and the integer that stands for 1.

    uint8 only if every intensity is a multiple of 1/255, up to the digits that a text keeps; else uint16, which
    rounds by at most 1/131,070.
    """
    eight_bits = all(np.abs(i * 255 - np.rint(i * 255)).max(initial=0) < 1e-3 for i in images)
    maximum, kind = (255, np.uint8) if eight_bits else (65_535, np.uint16)
    return [np.rint(i * np.float32(maximum)).astype(kind) for i in images], maximum


def is_mirrored(images: np.ndarray, labels: np.ndarray, known: Split) -> bool:
    """Whether rotated digits are mirror images, as they are where columns are stored in place of rows.

    The texts do not say in which order the pixels stand, and programs that read them differ. The digits themselves
    decide: four in five lie nearer to a known rotated digit of their class if neither or both are mirrored. (More
    than mirroring cannot be told, nor does it matter: a quarter turn is undone by the random angle.)

    Args:
        images: (n, 28, 28) in 0…1; some hundreds.
        labels: (n,).
        known: rotated digits that are not mirrored.

    Raises:
        UserError: the digits do not decide, so they are no digits.
    """
    right, nearer = known.images[:, 0].astype(np.float32) / known.images.max(), 0
    for digit in np.unique(labels):
        own, same = images[labels == digit], right[known.labels == digit]
        nearer += int((_nearest(own, same.transpose(0, 2, 1)) < _nearest(own, same)).sum())
    share = nearer / len(labels)
    if 0.4 < share < 0.6:
        raise UserError(f"of the rotated digits {share:.0%} look mirrored; expected few, or nearly all")
    return share > 0.5


def _nearest(images: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Squared distance of each image to the nearest known one, up to a constant of the image; (n,)."""
    a, b = images.reshape(len(images), -1), known.reshape(len(known), -1)
    return ((b * b).sum(1) - 2 * (a @ b.T)).min(1, initial=np.inf)
