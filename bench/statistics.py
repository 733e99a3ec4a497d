"""Statistics of a few seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

#: Below this number of seeds the seeds' own values are shown instead of an interval.
SMALLEST_SAMPLE = 3


def interval(values: Sequence[float], confidence: float = 0.95) -> float | None:
    """Half-width of the t-interval of the mean, or None below `SMALLEST_SAMPLE` values.

    t_{(1+c)/2, n-1} · s / √n, with the sample standard deviation s (Student 1908). It covers the
    randomness of training (initial weights, order of examples), not of the choice of test images.
    """
    if len(values) < SMALLEST_SAMPLE:
        return None
    from scipy.special import stdtrit  # the quantile alone: scipy.stats takes a second to import

    return float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * stdev(values) / math.sqrt(len(values))


def binomial_error_pct(accuracy_pct: float, images: int) -> float:
    """Standard error of an accuracy over `images` independent test images, in percent points."""
    share = accuracy_pct / 100
    return 100 * math.sqrt(share * (1 - share) / images)


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are there; None where there are none."""
    there = [v for v in values if v is not None]
    return fmean(there) if there else None
