"""Which images belong to a part: stratified splits, and nested, balanced subsets of training images."""

from __future__ import annotations

import numpy as np


def balanced_subset(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Which images a seed takes where it may take `count`: the same for all models.

    The images are drawn in one random order, which `seed` alone decides. From it come the first image of each class,
    then the second of each, and so on; a class that has no more is passed over. So the subsets of one seed are nested,
    and the numbers of images of two classes differ by at most 1, as long as both have some left.

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


def split_stratified(labels: np.ndarray, sizes: tuple[int, ...], random: np.random.RandomState) -> list[np.ndarray]:
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
