"""Crossed random effects against slow references and by simulation."""

import numpy as np
import pytest
from equibench.bench.boards.random_effects import (
    Spread,
    detectable,
    half_widths,
    p_values,
    power,
    rounding,
    spread_of_means,
    spread_of_pairs,
    spread_of_table,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats


def mean_squares(table: np.ndarray) -> tuple[float, float, float]:
    """MS_seeds, MS_images and MS_rest of an (n, m) table, entry by entry."""
    n, m = table.shape
    grand = sum(table[i, j] for i in range(n) for j in range(m)) / (n * m)
    seeds = [sum(table[i]) / m for i in range(n)]
    images = [sum(table[:, j]) / n for j in range(m)]
    of_seeds = m * sum((s - grand) ** 2 for s in seeds) / (n - 1)
    of_images = n * sum((b - grand) ** 2 for b in images) / (m - 1)
    rest = sum((table[i, j] - seeds[i] - images[j] + grand) ** 2 for i in range(n) for j in range(m))
    return of_seeds, of_images, rest / ((n - 1) * (m - 1))


def slow_half(table: np.ndarray, level: float) -> float:
    """The form as it is written, in the unit of the table."""
    n, m = table.shape
    seeds, images, rest = mean_squares(table)
    t, z = stats.t.isf(level / 2, n - 1), stats.norm.isf(level / 2)
    return float(np.sqrt((t**2 * max(seeds, 1 / (12 * m)) + z**2 * max(images - rest, 0)) / (n * m)))


def bits(rng: np.random.RandomState, models: int, seeds: int, images: int) -> list[np.ndarray]:
    """Of each seed (models, images): images are hard or easy, for each model in its own way."""
    hard = rng.normal(1, 1, images) + rng.normal(0, 0.7, (models, images))
    return [
        (rng.logistic(size=(models, images)) < hard + rng.normal(0, 0.2, (models, 1))).astype(np.uint8)
        for _ in range(seeds)
    ]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 6), st.integers(2, 40), st.sampled_from([0.5, 0.05, 0.003]))
def test_the_half_widths_are_the_form_entry_by_entry(seed: int, seeds: int, images: int, level: float) -> None:
    right = bits(np.random.RandomState(seed), 3, seeds, images)
    first, second = np.array([0, 0, 1]), np.array([1, 2, 2])
    halves = half_widths(spread_of_pairs(right, first, second), level)
    for half, a, b in zip(halves, first, second, strict=True):
        table = np.array([r[a].astype(float) - r[b] for r in right])
        assert half == pytest.approx(100 * slow_half(table, level), rel=1e-9)
    for model in range(3):
        own = np.array([r[model] for r in right])
        assert half_widths(spread_of_table(own), level) == pytest.approx(
            100 * slow_half(own.astype(float), level), rel=1e-9
        )


def test_the_variance_of_the_grand_mean_is_that_of_many_tables() -> None:
    """The scale of the mean squares: (MS_seeds + MS_images - MS_rest) / (n m) is the variance over new seeds and
    images.
    """
    rng = np.random.RandomState(0)
    means, said = [], []
    for _ in range(4000):
        table = (rng.normal(0, 0.5, (4, 1)) + rng.normal(0, 1, (1, 30)) + rng.normal(0, 0.7, (4, 30)) > 0).astype(float)
        means.append(table.mean())
        seeds, images, rest = mean_squares_fast(table)
        said.append((seeds + images - rest) / table.size)
    assert np.mean(said) == pytest.approx(np.var(means), rel=0.06)


def mean_squares_fast(table: np.ndarray) -> tuple[float, float, float]:
    n, m = table.shape
    rest = table - table.mean(0) - table.mean(1)[:, None] + table.mean()
    return m * table.mean(1).var(ddof=1), n * table.mean(0).var(ddof=1), (rest**2).sum() / ((n - 1) * (m - 1))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(3, 30), st.floats(1e-4, 1e4), st.floats(0, 1e4), st.floats(1e-4, 1e2), st.integers(100, 50_000),
)  # fmt: skip
def test_p_is_the_level_at_which_the_interval_ends_at_zero(n: int, a: float, b: float, d: float, m: int) -> None:
    spread = Spread(n, m, np.array([a]), np.array([b]))
    (p,) = p_values(np.array([d]), spread)
    assert 0 < p <= 1
    if p > 1e-12:
        assert half_widths(spread, float(p))[0] == pytest.approx(d, rel=1e-6)


def test_p_without_images_is_that_of_the_paired_t_test_and_without_seeds_that_of_the_normal() -> None:
    d = np.random.RandomState(1).normal(0.4, 1, (5, 6))
    theirs = stats.ttest_1samp(d, 0, axis=1).pvalue
    assert p_values(d.mean(1), spread_of_means(d, 10**6)) == pytest.approx(theirs, rel=1e-8)
    only_images = Spread(5, 1000, np.array([1e-9]), np.array([900.0]))
    z = 0.9 / np.sqrt(900 / 5000)
    assert p_values(np.array([0.9]), only_images) == pytest.approx([2 * stats.norm.sf(z)], rel=1e-4)


def test_equal_seeds_are_no_certainty() -> None:
    """Seeds that differ by less than a step of the accuracy may still differ."""
    constant = np.full((1, 4), 0.5)
    spread = spread_of_means(constant, 1500)
    step = 100 / 1500
    assert spread.of_seeds[0] == pytest.approx(1500 * step**2 / 12) == rounding(1500)
    assert 0 < p_values(np.array([0.5]), spread)[0] < 1 and half_widths(spread)[0] > 0
    # Networks that do the same for every seed: what is left is the choice of the images.
    own = np.tile(np.arange(1000) % 10 > 0, (3, 1))
    error = stats.norm.isf(0.025) * 100 * np.std(own[0], ddof=1) / np.sqrt(1000)
    assert half_widths(spread_of_table(own)) == pytest.approx(error, rel=1e-3)


def test_the_power_is_that_of_drawn_experiments() -> None:
    rng, n, m, trials = np.random.RandomState(2), 4, 500, 20_000
    of_seeds, of_images, difference = 300.0, 400.0, 3.0
    means = rng.normal(difference, np.sqrt((of_seeds + of_images) / (n * m)), trials)
    drawn = Spread(n, m, of_seeds * rng.chisquare(n - 1, trials) / (n - 1), np.full(trials, of_images))
    found = np.mean(p_values(means, drawn) <= 0.05)
    said = power(np.array([difference]), Spread(n, m, np.array([of_seeds]), np.array([of_images])))[0]
    assert abs(found - said) < 4 * np.sqrt(said * (1 - said) / trials)


@given(st.integers(3, 12), st.floats(0.1, 1e3), st.floats(0, 1e3), st.sampled_from([0.05, 0.005]))
@settings(max_examples=25, deadline=None)
def test_the_detectable_difference_has_the_power_that_was_asked_for(n: int, a: float, b: float, level: float) -> None:
    spread = Spread(n, 1500, np.array([a]), np.array([b]))
    found = detectable(spread, level)
    assert power(found, spread, level)[0] == pytest.approx(0.8, abs=1e-4)
    more = detectable(spread.with_seeds(2 * n), level)
    assert more[0] < found[0]


def test_without_images_the_power_is_that_of_the_t_test() -> None:
    n, error = 5, 0.4
    spread = Spread(n, 1500, np.array([error**2 * n * 1500]), np.array([0.0]))
    t = stats.t.isf(0.025, n - 1)
    theirs = stats.nct.sf(t, n - 1, 1.2 / error) + stats.nct.cdf(-t, n - 1, 1.2 / error)
    assert power(np.array([1.2]), spread)[0] == pytest.approx(theirs, abs=2e-3)
