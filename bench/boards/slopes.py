"""The slope of the error on logarithmic axes, error ∝ x^-α, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .random_effects import Spread, half_widths
from .statistics import SMALLEST_SAMPLE, Sample


@dataclass(frozen=True)
class Slope:
    """The slope of a model's error.

    Attributes:
        exponent: α, the mean over the seeds; above 0 if the error falls. None if there is none.
        interval: half-width of its 95 % interval; None below 3 seeds.
        over: sources of variation of the interval, ``seeds and images`` or ``seeds``; empty without an interval.
        seeds, points: numbers of seeds and points.
        why_not: why there is no slope; empty if there is one.
    """

    exponent: float | None
    interval: float | None
    over: str
    seeds: int
    points: int
    why_not: str = ""


def slope_of(x: Sequence[float], samples: Sequence[Sample]) -> Slope:
    """The slope of a model's error over the points of a line.

    For each seed, a least-squares line is fitted to log(error) over log(x); α is the mean of -slope over the seeds.
    This assumes that the error is a power of x in the measured range.

    Args:
        x: the effort at each point, above 0 and not all equal.
        samples: the runs at each point.
    """
    seeds = sorted(set.intersection(*(set(s.values) for s in samples)))
    void = next((s.void for s in samples if s.void), "")
    if void or not seeds:
        return Slope(None, None, "", len(seeds), len(x), void or "no seed has a result at all points")
    errors = np.array([[100 - s.values[seed] for s in samples] for seed in seeds]) / 100
    if (errors <= 0).any():
        zero = x[int(np.argwhere(errors <= 0)[0][1])]
        return Slope(None, None, "", len(seeds), len(x), f"an error is 0 (at {zero:,.6g}), which has no logarithm")
    by_image = all(s.is_by_image and s.right for s in samples) and len({s.test_set for s in samples}) == 1
    wrong = np.stack([[1 - s.right[seed] for s in samples] for seed in seeds]) if by_image else None
    effort = np.asarray(x, dtype=float)
    exponent = float(exponents(effort, errors).mean())
    if len(seeds) < SMALLEST_SAMPLE:
        return Slope(exponent, None, "", len(seeds), len(x))
    half = half_width(effort, errors, wrong, samples[0].images)
    return Slope(exponent, half, "seeds and images" if by_image else "seeds", len(seeds), len(x))


def weights(x: NDArray[Any]) -> NDArray[Any]:
    """Weights (k,) of the logarithms of the errors in the sum α: -(l - mean l) / Σ(l - mean l)², l = log x."""
    centred = np.log(x) - np.log(x).mean()
    return np.asarray(-centred / (centred**2).sum())


def exponents(x: NDArray[Any], errors: NDArray[Any]) -> NDArray[Any]:
    """α of each seed, (n,), from the efforts (k,) and the errors (n, k) above 0."""
    return np.asarray(np.log(errors) @ weights(x))


def half_width(x: NDArray[Any], errors: NDArray[Any], wrong: NDArray[Any] | None, images: int) -> float:
    """Half-width of the 95 % interval of the mean of α.

    Over new seeds it is the t-interval. If outcomes by image are known, it also covers new images. α is a smooth
    function of the errors. So near these errors, an image adds Σ_k w_k · wrong_k / error_k to the α of its seed (delta
    method; see van der Vaart, Asymptotic Statistics, 1998, chapter 3). The table of these terms by seeds and images is
    treated as crossed random effects, like the table of an accuracy (`random_effects.half_widths`).

    Args:
        x: (k,).
        errors: (n, k), above 0.
        wrong: (n, k, m) of 0 and 1; None if outcomes by image are not known.
        images: m.
    """
    count, w = len(errors), weights(x)
    of_seeds = images * exponents(x, errors).var(ddof=1)
    # Errors are multiples of one image; seeds with equal errors may still differ by less than that.
    of_seeds = max(of_seeds, float((w**2 / errors.mean(axis=0) ** 2).sum()) / (12 * images))
    of_images = 0.0
    if wrong is not None:
        parts = np.einsum("k,nkm->nm", w, wrong / errors[:, :, None])
        rest = parts - parts.mean(axis=1, keepdims=True)
        by_image = rest.mean(axis=0)
        of_rest = ((rest - by_image) ** 2).sum() / ((count - 1) * max(images - 1, 1))
        of_images = max(count * (by_image**2).sum() / max(images - 1, 1) - of_rest, 0.0)
    return float(half_widths(Spread(count, images, np.array(of_seeds), np.array(of_images))))
