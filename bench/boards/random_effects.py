"""Crossed random effects of two sources of variation: the training seeds and the test images.

The table of a model has n rows (seeds) and m columns (test images). An entry is 1 if the prediction is right, else 0.
The table of a paired difference has the entries -1, 0 and 1. Both follow the model of crossed random effects (Scheffé
1959, The Analysis of Variance, chapter 7; Searle, Casella and McCulloch 1992, Variance Components)::

    y_ij = μ + seed_i + image_j + rest_ij

The mean squares are MS_seeds = m · var(seed means), MS_images = n · var(image means) and MS_rest. Their expectations
are σ²_rest + m σ²_seed, σ²_rest + n σ²_image and σ²_rest. The variance of the grand mean is the expectation of
(MS_seeds + MS_images - MS_rest) / (n m).

All values in this module are in percent points.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Percent points of an entry 1 in a table.
_POINTS = 100.0
#: Number of quantiles of chi-square over which the power is averaged.
_QUANTILES = 200


@dataclass(frozen=True)
class Spread:
    """Mean squares of the tables of some models, or of some pairs of models.

    Attributes:
        seeds, images: n and m.
        of_seeds: MS_seeds of each table, at least the value of `rounding`.
        of_images: max(MS_images - MS_rest, 0) of each table; 0 if outcomes by image are not known.
    """

    seeds: int
    images: int
    of_seeds: NDArray[Any]
    of_images: NDArray[Any]

    def without_images(self) -> Spread:
        """The mean squares for new seeds on the same images."""
        return Spread(self.seeds, self.images, self.of_seeds, 0 * self.of_images)

    def with_seeds(self, seeds: int) -> Spread:
        """Mean squares expected with n seeds: E MS_seeds does not change, E (MS_images - MS_rest) is n σ²_image."""
        return Spread(seeds, self.images, self.of_seeds, self.of_images * (seeds / self.seeds))


def rounding(images: int) -> float:
    """MS_seeds of rounding to steps of 1/m: m · step² / 12 (Sheppard 1898).

    An accuracy over m images is a multiple of 1/m. If the accuracies (or differences) of all seeds are equal, they may
    still differ by less than a step.
    """
    return _POINTS**2 / (12 * images)


def spread_of_means(means: NDArray[Any], images: int) -> Spread:
    """The spread if only the means of the seeds are known, (…, n) in percent; `of_images` is 0."""
    of_seeds = np.maximum(images * means.var(axis=-1, ddof=1), rounding(images))
    return Spread(means.shape[-1], images, of_seeds, np.zeros_like(of_seeds))


def spread_of_sums(by_seed: NDArray[Any], squares: NDArray[Any], by_image_squares: NDArray[Any], images: int) -> Spread:
    """The spread of tables y, from sums of whole numbers, so that there are no rounding errors.

    Args:
        by_seed: Σ_j y_ij, (…, n).
        squares: Σ_ij y²_ij, (…).
        by_image_squares: Σ_j (Σ_i y_ij)², (…).
        images: m.
    """
    seeds = by_seed.shape[-1]
    total = by_seed.sum(axis=-1)
    middle = total**2 / (seeds * images)
    ss_seeds = (by_seed**2).sum(axis=-1) / images - middle
    ss_images = by_image_squares / seeds - middle
    ss_rest = squares - middle - ss_seeds - ss_images
    ms_seeds, ms_images = ss_seeds / (seeds - 1), ss_images / max(images - 1, 1)
    ms_rest = ss_rest / ((seeds - 1) * max(images - 1, 1))
    of_seeds = np.maximum(_POINTS**2 * ms_seeds, rounding(images))
    return Spread(seeds, images, of_seeds, _POINTS**2 * np.maximum(ms_images - ms_rest, 0.0))


def spread_of_pairs(right: Iterable[NDArray[Any]], first: NDArray[Any], second: NDArray[Any]) -> Spread:
    """The spread of the differences of pairs of models.

    Args:
        right: for each seed, whether each model is right on each image, (models, m) of 0 and 1.
        first, second: the pairs as row numbers of `right`, (pairs,).
    """
    # Σ_ij a_ij b_ij and Σ_j a_j b_j of all pairs are matrix products.
    sums: list[NDArray[Any]] = []
    together: Any = 0.0
    by_image: Any = 0.0
    for seed in right:
        rows = seed.astype(np.float32)
        sums.append(rows.sum(axis=1, dtype=np.float64))
        together, by_image = together + _products(rows), by_image + rows
    grams = together, _products(by_image)
    squares, image_squares = (g.diagonal()[first] + g.diagonal()[second] - 2 * g[first, second] for g in grams)
    by_seed = np.stack(sums, axis=1)
    return spread_of_sums(by_seed[first] - by_seed[second], squares, image_squares, by_image.shape[1])


def _products(rows: NDArray[Any]) -> NDArray[Any]:
    """Exact rows @ rows.T of small whole numbers: sums over pieces that are exact in float32, added in float64."""
    largest = float(rows.max(initial=0.0)) ** 2
    piece = max(1, int(2**24 // max(largest, 1.0)))
    total = np.zeros((len(rows), len(rows)))
    for start in range(0, rows.shape[1], piece):
        part = rows[:, start : start + piece]
        total += part @ part.T
    return total


def spread_of_table(right: NDArray[Any]) -> Spread:
    """The spread of the table of one model, (n, m) of 0 and 1."""
    by_seed, by_image = right.sum(axis=1, dtype=np.float64), right.sum(axis=0, dtype=np.float64)
    return spread_of_sums(by_seed, by_seed.sum(), (by_image**2).sum(), right.shape[1])


def half_widths(spread: Spread, level: float = 0.05) -> NDArray[Any]:
    """Half-widths of intervals for the mean over new seeds and new images, with confidence 1 - `level`.

    √((t²_{n-1} · MS_seeds + z² · max(MS_images - MS_rest, 0)) / (n m)), in percent points. This follows Cochran
    (1964, Biometrics 20, 191-195): each source of variation has the quantile of its own degrees of freedom. MS_rest is
    never subtracted from MS_seeds, and no degrees of freedom are estimated. With few seeds, both would give wrong tail
    probabilities.
    """
    t, z = _t(spread.seeds - 1, level), _z(level)
    return np.sqrt((t**2 * spread.of_seeds + z**2 * spread.of_images) / (spread.seeds * spread.images))


@cache
def _t(freedom: int, level: float) -> float:
    from scipy.special import stdtrit  # only the quantile, because the import of scipy.stats takes a second

    return float(-stdtrit(freedom, level / 2))


@cache
def _z(level: float) -> float:
    from scipy.special import ndtri

    return float(-ndtri(level / 2))


def p_values(differences: NDArray[Any], spread: Spread) -> NDArray[Any]:
    """Two-sided p for a mean of 0 over new seeds and new images: the level at which `half_widths` is |difference|.

    Args:
        differences: means of the tables, in percent points.
    """
    from scipy.special import ndtri, stdtr

    freedom = spread.seeds - 1
    wanted = np.asarray(differences, dtype=float) ** 2 * (spread.seeds * spread.images)
    a, b = np.broadcast_arrays(spread.of_seeds, spread.of_images)
    # Solve for the quantile t of p. The normal quantile z is smaller than t, which gives a lower and an upper bound.
    low, high = np.sqrt(wanted / (a + b)), np.sqrt(wanted / a)
    t = low
    for _ in range(200):
        tail = np.maximum(stdtr(freedom, -t), 1e-300)
        z = -ndtri(tail)
        excess = t**2 * a + z**2 * b - wanted
        low, high = np.where(excess < 0, t, low), np.where(excess < 0, high, t)
        slope = 2 * t * a + 2 * z * b * _density(t, freedom) / np.maximum(
            np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi), 1e-300
        )
        step = t - excess / np.maximum(slope, 1e-300)
        t = np.where((step >= low) & (step <= high), step, (low + high) / 2)
        if np.all((np.abs(excess) <= 1e-11 * wanted) | (high - low <= 1e-13 * high)):
            break
    return np.minimum(2 * np.maximum(stdtr(freedom, -t), 1e-300), 1.0)


def _density(t: NDArray[Any], freedom: int) -> NDArray[Any]:
    """Density of Student's t."""
    log = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
    return np.exp(log - (freedom + 1) / 2 * np.log1p(t**2 / freedom))


def power(differences: NDArray[Any] | float, spread: Spread, level: float = 0.05) -> NDArray[Any]:
    """Power to detect a true difference at this level, if `spread` has the true mean squares.

    The mean is normal. MS_seeds is independent of the mean and has a chi-square distribution with n - 1 degrees of
    freedom. The power is averaged over `_QUANTILES` quantiles of this distribution.
    """
    from scipy.special import gammaincinv, ndtr

    shares = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    factor = 2 * gammaincinv((spread.seeds - 1) / 2, shares) / (spread.seeds - 1)  # quantiles of chi-square
    seeds, images = np.asarray(spread.of_seeds)[..., None], np.asarray(spread.of_images)[..., None]
    cells = spread.seeds * spread.images
    half = np.sqrt((_t(spread.seeds - 1, level) ** 2 * seeds * factor + _z(level) ** 2 * images) / cells)
    error, difference = np.sqrt((seeds + images) / cells), np.asarray(differences, dtype=float)[..., None]
    return (ndtr((difference - half) / error) + ndtr((-difference - half) / error)).mean(axis=-1)


def detectable(spread: Spread, level: float = 0.05, wanted: float = 0.8) -> NDArray[Any]:
    """The smallest true differences, in percent points, that are detected with power `wanted` (by bisection)."""
    error = np.sqrt((spread.of_seeds + spread.of_images) / (spread.seeds * spread.images))
    low, high = np.zeros_like(error), error.copy()
    while np.any(short := power(high, spread, level) < wanted):
        high = np.where(short, 2 * high, high)
    for _ in range(40):
        middle = (low + high) / 2
        short = power(middle, spread, level) < wanted
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return high
