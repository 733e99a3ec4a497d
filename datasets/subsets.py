"""Nested, balanced subsets of training images, for boards that ask how much data a model needs."""

from __future__ import annotations

import numpy as np


def balanced_subset(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Which images a seed takes where it may take `count`: the same for all models.

    The images are drawn in one random order, which `seed` alone decides. From it come the first image of each class, then
    the second of each, and so on; a class that has no more is passed over. So the subsets of one seed are nested, and the
    numbers of images of two classes differ by at most 1, as long as both have some left.

    Args:
        labels: (n,) of the images that there are.
        count: from 0 to n.

    Returns:
        Indices, rising, (count,).

    Raises:
        ValueError: there are not so many images.
    """
    if not 0 <= count <= len(labels):
        raise ValueError(f"{count} images cannot be taken from {len(labels)}")
    order = np.random.RandomState(seed % 2**32).permutation(len(labels))
    drawn = labels[order]
    by_class = np.argsort(drawn, kind="stable")
    starts = np.searchsorted(drawn[by_class], drawn[by_class])  # where the class of each begins
    turn = np.empty(len(labels), dtype=np.int64)  # how many of its class were drawn before it
    turn[by_class] = np.arange(len(labels)) - starts
    return np.sort(order[np.argsort(turn, kind="stable")][:count])
