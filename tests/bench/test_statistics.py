"""Intervals against scipy and by simulation."""

import numpy as np
import pytest
from equibench.bench.statistics import binomial_error_pct, interval, mean
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats


@given(st.lists(st.floats(0, 100), min_size=3, max_size=20), st.floats(0.5, 0.99))
def test_the_interval_is_scipys(values: list[float], confidence: float) -> None:
    half = interval(values, confidence)
    if np.std(values, ddof=1) < 1e-9:
        assert half == pytest.approx(0, abs=1e-6)
        return
    low, high = stats.t.interval(confidence, len(values) - 1, np.mean(values), stats.sem(values))
    assert half == pytest.approx((high - low) / 2, rel=1e-6)


def test_below_three_values_there_is_no_interval() -> None:
    assert interval([90.0, 91.0]) is None


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    draws = np.random.RandomState(0).normal(90, 2, size=(4000, 3))
    covered = np.mean([abs(row.mean() - 90) <= interval(row.tolist()) for row in draws])
    assert abs(covered - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 4000)


def test_the_binomial_error_is_that_of_counting() -> None:
    right = np.random.RandomState(1).binomial(1500, 0.9, size=20_000) / 15
    assert binomial_error_pct(90, 1500) == pytest.approx(right.std(), rel=0.03)


def test_the_mean_leaves_out_what_is_missing() -> None:
    assert mean([1.0, None, 3.0]) == 2.0 and mean([None]) is None
