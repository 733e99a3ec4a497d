"""Statistics against scipy, by enumeration and by simulation."""

from itertools import combinations, product

import numpy as np
import pytest
from equibench.bench import statistics
from equibench.bench.statistics import (
    DRAWS,
    EXACT_PAIRS,
    binomial_error_pct,
    compare,
    compare_all,
    directions,
    holm,
    interval,
    mean,
    prediction_interval,
    ranks,
    sign_flip,
    smallest_p,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

differences = st.lists(st.integers(-50, 50).map(lambda i: i / 10), min_size=1, max_size=8)
p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(st.lists(st.floats(0, 100), min_size=3, max_size=20), st.floats(0.5, 0.99))
def test_the_interval_is_scipys(values: list[float], confidence: float) -> None:
    half = interval(values, confidence)
    if np.std(values, ddof=1) < 1e-9:
        assert half == pytest.approx(0, abs=1e-6)
        return
    low, high = stats.t.interval(confidence, len(values) - 1, np.mean(values), stats.sem(values))
    assert half == pytest.approx((high - low) / 2, rel=1e-6)


def test_below_three_values_there_is_no_interval() -> None:
    assert interval([90.0, 91.0]) is None and prediction_interval([90.0, 91.0]) is None


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    draws = np.random.RandomState(0).normal(90, 2, size=(4000, 3))
    covered = np.mean([abs(row.mean() - 90) <= interval(row.tolist()) for row in draws])
    assert abs(covered - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 4000)


def test_the_prediction_interval_covers_a_further_value_as_often_as_it_says() -> None:
    draws = np.random.RandomState(2).normal(90, 2, size=(4000, 5))
    inside = [low <= row[4] <= high for row in draws for low, high in [prediction_interval(row[:4].tolist())]]
    assert abs(np.mean(inside) - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 4000)


def test_the_binomial_error_is_that_of_counting() -> None:
    right = np.random.RandomState(1).binomial(1500, 0.9, size=20_000) / 15
    assert binomial_error_pct(90, 1500) == pytest.approx(right.std(), rel=0.03)


def test_the_mean_leaves_out_what_is_missing() -> None:
    assert mean([1.0, None, 3.0]) == 2.0 and mean([None]) is None


@given(differences)
def test_the_sign_flip_test_counts_all_signs(d: list[float]) -> None:
    """Counted in whole tenths, where equal sums are equal."""
    tenths = [round(10 * x) for x in d]
    hits = [abs(sum(s * x for s, x in zip(signs, tenths))) >= abs(sum(tenths)) for signs in product((1, -1), repeat=len(d))]
    assert sign_flip(d) == pytest.approx(np.mean(hits), abs=1e-12)


def test_the_sign_flip_test_is_scipys() -> None:
    d = np.random.RandomState(3).normal(0.6, 1, 12)
    theirs = stats.permutation_test((d,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(d) == pytest.approx(theirs.pvalue, abs=1e-12)


def test_beyond_sixteen_pairs_signs_are_drawn_and_agree_with_all_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    d = np.random.RandomState(4).normal(0.5, 1, EXACT_PAIRS + 1)
    drawn = sign_flip(d)
    assert drawn == sign_flip(d)  # the same every time
    monkeypatch.setattr(statistics, "EXACT_PAIRS", EXACT_PAIRS + 1)
    exact = sign_flip(d)
    assert abs(drawn - exact) < 4 * np.sqrt(exact * (1 - exact) / DRAWS) + 1 / DRAWS


def test_no_difference_at_all_is_no_evidence() -> None:
    assert sign_flip([0.0, 0.0, 0.0]) == 1.0
    with pytest.raises(ValueError, match="at least one"):
        sign_flip([])


@pytest.mark.parametrize(("comparisons", "pairs"), [(1, 6), (4, 8), (10, 9)])
def test_the_floor_needs_as_many_seeds_as_the_design_says(comparisons: int, pairs: int) -> None:
    assert smallest_p(pairs, comparisons) <= 0.05 < smallest_p(pairs - 1, comparisons)


@pytest.mark.parametrize("pairs", [1, 4, 9, EXACT_PAIRS, EXACT_PAIRS + 8])
def test_the_floor_is_reached_by_the_clearest_data_and_never_passed(pairs: int) -> None:
    values = {"a": {s: 99.0 + s / 100 for s in range(pairs)}} | {m: dict.fromkeys(range(pairs), 1.0) for m in "bcd"}
    for c in compare(values, "a"):
        assert c.p_holm == pytest.approx(c.p_smallest, rel=1e-9 if pairs <= EXACT_PAIRS else 3)
        assert c.p_holm >= c.p_smallest * (1 - 1e-9)


def test_holm_on_an_example_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(p_values)
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float]) -> None:
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for step, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
            if p[index] * (len(p) - step) > level:
                break
            rejected.add(index)
        assert {i for i, q in enumerate(holm(p)) if q <= level} == rejected


def test_the_family_is_wrong_no_more_often_than_it_says() -> None:
    """No model differs: how often does any of four corrected comparisons fall below the level?"""
    rng = np.random.RandomState(5)
    trials, wrong = 500, 0
    for _ in range(trials):
        shared = rng.normal(0, 1, 8)  # a seed is easy or hard for all
        values = {m: dict(enumerate(90 + shared + rng.normal(0, 1, 8))) for m in "abcde"}
        wrong += any(c.p_holm <= 0.05 for c in compare(values, "a"))
    assert wrong / trials < 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)


def test_the_paired_interval_covers_the_difference_as_often_as_it_says() -> None:
    rng = np.random.RandomState(6)
    hits = []
    for _ in range(1500):
        shared = rng.normal(0, 3, 5)
        values = {"a": dict(enumerate(shared + rng.normal(1, 1, 5))), "b": dict(enumerate(shared + rng.normal(0, 1, 5)))}
        (c,) = compare(values, "b")
        hits.append(abs(c.difference - 1) <= c.interval)
    assert abs(np.mean(hits) - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 1500)


def test_only_seeds_that_both_have_are_paired() -> None:
    values = {"a": {0: 91.0, 1: 92.0, 2: 93.0, 7: 10.0}, "b": {2: 90.0, 1: 91.0, 0: 90.5}, "alone": {9: 50.0}}
    (c,) = compare(values, "b")
    assert (c.model, c.pairs, c.difference) == ("a", 3, pytest.approx((0.5 + 1 + 3) / 3))
    assert c.interval == pytest.approx(interval([0.5, 1.0, 3.0]))
    assert compare(values, "alone") == []
    with pytest.raises(KeyError):
        compare(values, "nobody")


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_all_pairs_are_the_single_comparisons_with_a_larger_correction(seed: int) -> None:
    rng = np.random.RandomState(seed)
    values = {m: {s: float(rng.normal(90, 1)) for s in range(6) if rng.rand() > 0.2} for m in "abcd"}
    pairs = {(c.model, c.reference): c for c in compare_all(values)}
    for a, b in combinations("abcd", 2):
        single = [c for c in compare({a: values[a], b: values[b]}, b) if values[a] and values[b]]
        assert ((a, b) in pairs) == bool(single)
        for c in single:
            both = pairs[a, b]
            assert both.p == pytest.approx(c.p) and both.difference == pytest.approx(c.difference)
            assert both.p_holm >= c.p - 1e-12 and both.p_holm <= min(1, len(pairs) * c.p) + 1e-12


def test_models_that_cannot_be_told_apart_share_a_rank() -> None:
    shared = [0.0, 2.0, 1.0, -1.0]
    values = {
        "first": {s: 95 + x for s, x in enumerate(shared)},
        "tied": {s: 95 + x + e for (s, x), e in zip(enumerate(shared), [0.3, -0.3, 0.2, -0.1])},
        "third": {s: 80 + x + e for (s, x), e in zip(enumerate(shared), [0.1, 0.0, -0.1, 0.05])},
        "too short": {0: 99.0, 1: 99.0},
    }
    assert ranks(values) == {"first": 1, "tied": 1, "third": 3, "too short": None}


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_directions_are_those_of_the_single_comparisons(seed: int) -> None:
    rng = np.random.RandomState(seed)
    values = {m: {s: float(rng.normal(i, 1)) for s in range(5) if rng.rand() > 0.2} for i, m in enumerate("abcd")}
    told, names = directions(values), list(values)
    found = {(c.model, c.reference): c for c in compare_all(values)}
    for (i, a), (j, b) in combinations(enumerate(names), 2):
        c = found.get((a, b))
        if c is None or c.interval is None:
            assert np.isnan(told[i, j]) and np.isnan(told[j, i])
        else:
            assert told[i, j] == c.direction == -told[j, i]
