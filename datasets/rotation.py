"""How a rotated data set is made from upright images: pooled, split by source image, each turned once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .images import ImageData, Split
from .subsets import split_stratified


def make_rotated(
    name: str, parts: Sequence[Split], sizes: tuple[int, int, int], classes: int, *, seed: int = 0, disc: bool = False
) -> ImageData:
    """A data set of upright images, each turned once by an angle of its own.

    The parts are put together. Then the images are split, stratified by class and shuffled, so that no source image
    is in two parts. Last every one is rotated by an angle drawn uniformly from the circle.

    Args:
        name: of the data set.
        parts: upright images, uint8 (n, channels, size, size), and labels.
        sizes: images in train, validation, test; together at most as many as there are.
        classes: number of classes.
        seed: of the generator, whose stream numpy guarantees never to change (`numpy.random.RandomState`).
        disc: see `rotate_images`; for images whose background is not black.

    Raises:
        ValueError: more images are asked for than there are.
    """
    images, labels = np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts])
    random = np.random.RandomState(seed)
    rows = split_stratified(labels, sizes, random)
    angles = random.uniform(0.0, 2 * math.pi, len(labels))
    return ImageData(name, *(Split(rotate_images(images[r], angles[r], disc), labels[r]) for r in rows), classes, 255)


def rotate_images(images: np.ndarray, angles: np.ndarray, disc: bool = False) -> np.ndarray:
    """Each image turned about its middle, resampled once by cubic splines.

    A cubic spline passes through the pixels, so that quarter turns are exact; its error on turned digits is several
    times below that of bilinear interpolation, which also blurs.

    Args:
        images: uint8 (n, size, size) or (n, channels, size, size).
        angles: (n,) in radians, counter-clockwise as seen with row 0 at the top.
        disc: without, what comes from outside of an image is black. With, a turned image is kept inside the disc that
            touches the middles of its outermost pixels, and everything outside is the median of the upright image's
            border pixels, channel by channel; the rim is one pixel wide and the same for every image. Then neither
            corners nor edges tell the angle.

    Returns:
        uint8 of the same shape, rounded and cut off to 0…255.
    """
    from scipy.ndimage import affine_transform

    middle = (np.array(images.shape[-2:]) - 1) / 2
    # Inside the disc no value comes from outside of the image: how it is continued there does not matter.
    mode, inside = ("mirror", _disc(images.shape[-1])) if disc else ("grid-constant", None)
    turned = np.empty_like(images)
    for image, out, angle in zip(images, turned, angles, strict=True):
        c, s = math.cos(angle), math.sin(angle)
        # Where an output pixel (row, column) comes from; rows grow downwards, so this turns the image
        # counter-clockwise.
        back = np.array([[c, s], [-s, c]])
        for channel in np.ndindex(image.shape[:-2]):
            plane = image[channel].astype(np.float64)
            values = affine_transform(plane, back, middle - back @ middle, order=3, mode=mode)
            if inside is not None:
                ground = np.median(np.concatenate([plane[0], plane[-1], plane[1:-1, 0], plane[1:-1, -1]]))
                values = ground + inside * (values - ground)
            out[channel] = np.clip(np.rint(values), 0, 255)
    return turned


def _disc(size: int) -> np.ndarray:
    """(size, size): 1 inside a disc about the middle, 0 from the distance (size - 1) / 2 on, linear over one pixel."""
    place = np.arange(size) - (size - 1) / 2
    return np.clip((size - 1) / 2 - np.hypot(place[:, None], place), 0.0, 1.0)
