"""The slope of the error on logarithmic axes: against least squares, analysis of variance by loops, and simulation."""

import math
from statistics import mean, stdev

import numpy as np
import pytest
from equibench.bench.boards.slopes import exponents, half_width, slope_of
from equibench.bench.boards.statistics import Sample
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, t

X = [250, 1000, 4000, 10_000]


def samples(errors: np.ndarray, wrong: np.ndarray | None = None, **changes: str) -> list[Sample]:
    """Of errors (seeds, points), and outcomes (seeds, points, images) if known."""
    found = []
    for k in range(errors.shape[1]):
        values = {seed: 100 * (1 - float(e)) for seed, e in enumerate(errors[:, k])}
        right = {} if wrong is None else {seed: 1 - w for seed, w in enumerate(wrong[:, k])}
        found.append(Sample(values, 1000 if wrong is None else wrong.shape[-1], right, "one", **changes))
    return found


@given(st.floats(-1, 3), st.floats(0.01, 0.9))
def test_a_power_gives_its_exponent(alpha: float, scale: float) -> None:
    errors = scale * (np.array(X) / X[0]) ** -alpha
    if (errors < 1).all():
        found = slope_of(X, samples(np.stack([errors, errors, errors])))
        assert found.exponent == pytest.approx(alpha, abs=1e-6) and found.interval is not None and found.interval > 0


def test_it_is_the_mean_of_each_seeds_least_squares_with_the_t_interval() -> None:
    errors = np.random.RandomState(0).uniform(0.02, 0.5, (5, 4))
    found = slope_of(X, samples(errors))
    each = [-np.polyfit(np.log(X), np.log(own), 1)[0] for own in errors]
    assert found.exponent == pytest.approx(mean(each)) and (found.seeds, found.points, found.over) == (5, 4, "seeds")
    assert found.interval == pytest.approx(t.ppf(0.975, 4) * stdev(each) / math.sqrt(5))


def test_the_unit_of_what_was_spent_does_not_matter() -> None:
    errors = np.random.RandomState(1).uniform(0.02, 0.5, (3, 4))
    assert slope_of(X, samples(errors)).exponent == pytest.approx(
        slope_of([7e9 * x for x in X], samples(errors)).exponent
    )


def made(random: np.random.RandomState, seeds: int, images: int, alpha: float = 0.4, spread: float = 0.1) -> np.ndarray:
    """Outcomes: an image of difficulty u is wrong with a probability that has the mean error of its seed and point."""
    log = np.log(0.4) - alpha * np.log(np.array(X) / X[0])[:, None] + spread * random.randn(seeds, len(X), 1)
    ease = random.exponential(size=images)  # mean 1
    return (random.uniform(size=(seeds, len(X), images)) < np.minimum(np.exp(log) * ease, 1)).astype(np.uint8)


def test_the_part_of_the_images_is_analysis_of_variance_of_what_each_image_adds() -> None:
    wrong = made(np.random.RandomState(2), 4, 300)
    errors = wrong.mean(axis=2)
    logs = [math.log(x) for x in X]
    weight = [-(v - mean(logs)) / sum((u - mean(logs)) ** 2 for u in logs) for v in logs]
    table = [
        [
            sum(weight[k] * (math.log(errors[s, k]) + wrong[s, k, j] / errors[s, k] - 1) for k in range(4))
            for j in range(300)
        ]
        for s in range(4)
    ]
    rows, columns = [mean(row) for row in table], [mean(table[s][j] for s in range(4)) for j in range(300)]
    assert rows == pytest.approx(exponents(np.array(X, float), errors))
    grand = mean(rows)
    ms_seeds = 300 * sum((r - grand) ** 2 for r in rows) / 3
    ms_images = 4 * sum((c - grand) ** 2 for c in columns) / 299
    rest = sum((table[s][j] - rows[s] - columns[j] + grand) ** 2 for s in range(4) for j in range(300)) / (3 * 299)
    wanted = math.sqrt((t.ppf(0.975, 3) ** 2 * ms_seeds + norm.ppf(0.975) ** 2 * max(ms_images - rest, 0)) / (4 * 300))
    assert half_width(np.array(X, float), errors, wrong, 300) == pytest.approx(wanted)
    assert slope_of(X, samples(errors, wrong)).over == "seeds and images"


def test_the_interval_covers_the_slope_of_new_seeds_and_new_images() -> None:
    """The images differ so much that the seeds alone say too little: their interval covers far less."""
    random, hits, alone, rounds = np.random.RandomState(3), 0, 0, 300
    truth = slope_of(X, samples((big := made(random, 1, 2_000_000, spread=0.0)).mean(axis=2), big)).exponent
    assert truth is not None
    for _ in range(rounds):
        wrong = made(random, 5, 400, spread=0.02)
        errors = wrong.mean(axis=2)
        both, seeds = slope_of(X, samples(errors, wrong)), slope_of(X, samples(errors))
        assert both.exponent is not None and both.interval is not None and seeds.interval is not None
        hits += abs(both.exponent - truth) <= both.interval
        alone += abs(both.exponent - truth) <= seeds.interval
    assert hits / rounds >= 0.94 - 2 * math.sqrt(0.95 * 0.05 / rounds)
    assert alone < hits


def test_an_error_of_0_a_diverged_run_and_too_few_seeds() -> None:
    errors = np.full((3, 4), 0.1)
    errors[1, 2] = 0.0
    found = slope_of(X, samples(errors))
    assert found.exponent is None and found.why_not == "an error is 0 (at 4,000), which has no logarithm"
    assert slope_of(X, samples(np.full((3, 4), 0.1), void="1 of 3 runs diverged")).why_not == "1 of 3 runs diverged"
    two = slope_of(X, samples(np.random.RandomState(0).uniform(0.1, 0.2, (2, 4))))
    assert two.exponent is not None and two.interval is None and two.over == ""


def test_only_seeds_with_a_result_at_all_points_count() -> None:
    runs = samples(np.random.RandomState(4).uniform(0.1, 0.5, (4, 4)))
    runs[1] = Sample({s: v for s, v in runs[1].values.items() if s != 2}, 1000)
    assert slope_of(X, runs).seeds == 3
    assert (
        slope_of(X[:2], [Sample({0: 90.0}, 10), Sample({1: 90.0}, 10)]).why_not == "no seed has a result at all points"
    )
