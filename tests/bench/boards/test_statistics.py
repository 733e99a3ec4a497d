"""Statistics against scipy, by enumeration and by simulation."""

from itertools import combinations, product

import numpy as np
import pytest
from equibench.bench.boards import statistics
from equibench.bench.boards.statistics import (
    DRAWS,
    EXACT_PAIRS,
    Sample,
    binomial_error_pct,
    compare,
    compare_all,
    holm,
    mean,
    prediction_interval,
    rank_sets,
    sign_flip,
    significant_differences,
    smallest_p,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

IMAGES = 100_000


def samples(values: dict[str, dict[int, float]]) -> dict[str, Sample]:
    """Runs of which only the accuracies are known."""
    return {model: Sample(own, IMAGES) for model, own in values.items()}


def by_image(right: dict[str, np.ndarray], void: str = "") -> dict[str, Sample]:
    """Runs whose outcomes are known: (seeds, images) of 0 and 1 by model."""
    return {
        m: Sample(
            {s: 100 * float(r[s].mean()) for s in range(len(r))},
            r.shape[1],
            dict(enumerate(r)),
            "set",
            void * (m == "a"),
        )
        for m, r in right.items()
    }


differences = st.lists(st.integers(-50, 50).map(lambda i: i / 10), min_size=1, max_size=8)
p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_below_three_values_there_is_no_interval() -> None:
    assert prediction_interval([90.0, 91.0]) is None


def test_the_prediction_interval_covers_a_further_value_as_often_as_it_says() -> None:
    draws = np.random.RandomState(2).normal(90, 2, size=(4000, 5))
    inside = [low <= row[4] <= high for row in draws for low, high in [prediction_interval(row[:4].tolist())]]
    assert abs(np.mean(inside) - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 4000)


def test_the_binomial_error_is_that_of_counting() -> None:
    right = np.random.RandomState(1).binomial(1500, 0.9, size=20_000) / 15
    assert binomial_error_pct(90, 1500) == pytest.approx(right.std(), rel=0.03)


def test_the_mean_leaves_out_what_is_missing() -> None:
    assert mean([1.0, None, 3.0]) == 2.0 and mean([None]) is None


def one_sign_flip(d: list[float]) -> float:
    return float(sign_flip(np.array([d]))[0])


@given(differences)
def test_the_sign_flip_test_counts_all_signs(d: list[float]) -> None:
    """Counted in whole tenths, where equal sums are equal."""
    tenths = [round(10 * x) for x in d]
    hits = [
        abs(sum(s * x for s, x in zip(signs, tenths, strict=True))) >= abs(sum(tenths))
        for signs in product((1, -1), repeat=len(d))
    ]
    assert one_sign_flip(d) == pytest.approx(np.mean(hits), abs=1e-12)


def test_the_sign_flip_test_is_scipys() -> None:
    d = np.random.RandomState(3).normal(0.6, 1, 12)
    theirs = stats.permutation_test((d,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert one_sign_flip(d) == pytest.approx(theirs.pvalue, abs=1e-12)


def test_beyond_sixteen_pairs_signs_are_drawn_and_agree_with_all_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    d = np.random.RandomState(4).normal(0.5, 1, EXACT_PAIRS + 1)
    drawn = one_sign_flip(d)
    assert drawn == one_sign_flip(d)  # the same every time
    monkeypatch.setattr(statistics, "EXACT_PAIRS", EXACT_PAIRS + 1)
    exact = one_sign_flip(d)
    assert abs(drawn - exact) < 4 * np.sqrt(exact * (1 - exact) / DRAWS) + 1 / DRAWS


def test_no_difference_at_all_is_no_evidence() -> None:
    assert one_sign_flip([0.0, 0.0, 0.0]) == 1.0


@pytest.mark.parametrize("pairs", [1, 4, 9, EXACT_PAIRS, EXACT_PAIRS + 8])
def test_the_floor_is_reached_by_the_clearest_data_and_never_passed(pairs: int) -> None:
    values = {"a": {s: 99.0 + s / 100 for s in range(pairs)}} | {m: dict.fromkeys(range(pairs), 1.0) for m in "bcd"}
    for c in compare(samples(values), "a"):
        assert c.p_smallest == smallest_p(pairs)
        assert c.p_sign_flip == pytest.approx(c.p_smallest, rel=1e-9 if pairs <= EXACT_PAIRS else 3)
        assert c.p_sign_flip >= c.p_smallest * (1 - 1e-9)


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


def test_only_seeds_that_both_have_are_paired() -> None:
    values = {"a": {0: 91.0, 1: 92.0, 2: 93.0, 7: 10.0}, "b": {2: 90.0, 1: 91.0, 0: 90.5}, "alone": {9: 50.0}}
    (c,) = compare(samples(values), "b")
    assert (c.model, c.pairs, c.difference) == ("a", 3, pytest.approx((0.5 + 1 + 3) / 3))
    theirs = stats.t.ppf(0.975, 2) * stats.sem([0.5, 1.0, 3.0])
    assert c.interval == pytest.approx(theirs) and c.interval_seeds == pytest.approx(theirs)
    assert c.p == pytest.approx(stats.ttest_1samp([0.5, 1.0, 3.0], 0).pvalue) and not c.by_image
    assert compare(samples(values), "alone") == []
    with pytest.raises(KeyError):
        compare(samples(values), "nobody")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_all_pairs_are_the_single_comparisons_with_a_larger_correction(seed: int) -> None:
    rng = np.random.RandomState(seed)
    values = {m: {s: float(rng.normal(90, 1)) for s in range(6) if rng.rand() > 0.2} for m in "abcd"}
    runs = samples(values)
    pairs = {(c.model, c.reference): c for c in compare_all(runs)}
    family = sum(c.p is not None for c in pairs.values())
    for a, b in combinations("abcd", 2):
        single = [c for c in compare({a: runs[a], b: runs[b]}, b) if values[a] and values[b]]
        assert ((a, b) in pairs) == bool(single)
        for c in single:
            both = pairs[a, b]
            assert both.difference == pytest.approx(c.difference) and both.p_sign_flip == pytest.approx(c.p_sign_flip)
            assert both.family == family and (both.p is None) == (c.p is None) == (c.pairs < 3)
            if c.p is not None:
                assert both.p == pytest.approx(c.p) and c.p_holm == pytest.approx(c.p)
                assert both.p_holm >= c.p - 1e-12 and both.p_holm <= min(1, family * c.p) + 1e-12


def drawn(seed: int, gaps: tuple[float, ...], seeds: int = 4, images: int = 400) -> dict[str, np.ndarray]:
    rng = np.random.RandomState(seed)
    hard = rng.normal(1, 1, images)
    return {
        m: (rng.logistic(size=(seeds, images)) < hard + gap + rng.normal(0, 0.1, (seeds, 1))).astype(np.uint8)
        for m, gap in zip("abcdef", gaps, strict=False)
    }


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_outcomes_by_image_widen_the_interval_and_the_p(seed: int) -> None:
    right = drawn(seed, (0.0, 0.4, 1.0))
    with_images = compare(by_image(right), "a")
    means = {m: s.values for m, s in by_image(right).items()}
    alone = compare({m: Sample(v, right["a"].shape[1]) for m, v in means.items()}, "a")
    for both, seeds in zip(with_images, alone, strict=True):
        assert both.by_image and not seeds.by_image and both.difference == pytest.approx(seeds.difference)
        assert both.interval_seeds == pytest.approx(seeds.interval) and both.interval >= both.interval_seeds - 1e-12
        assert both.p >= seeds.p - 1e-12 and both.detectable >= seeds.detectable - 1e-9


def test_models_of_two_test_sets_are_compared_by_their_seeds_alone() -> None:
    runs = by_image(drawn(0, (0.0, 0.5, 1.0)))
    b = runs["b"]
    runs["b"] = Sample(b.values, b.images, b.right, "another set")
    assert {c.model: c.by_image for c in compare(runs, "a")} == {"b": False, "c": True}
    runs["b"] = Sample(b.values, b.images, {0: b.right[0]}, b.test_set)  # the outcomes of one run only
    assert {c.model: c.by_image for c in compare(runs, "a")} == {"b": False, "c": True}


def test_runs_that_no_normal_distribution_describes_have_no_p_and_no_rank() -> None:
    runs = by_image(drawn(1, (0.0, 0.5, 1.5)), void="a run diverged")
    found = {(c.model, c.reference): c for c in compare_all(runs)}
    for couple, c in found.items():
        assert (c.p is None) == (c.interval is None) == (c.p_holm is None) == ("a" in couple)
        assert c.family == 1 and 0 < c.p_sign_flip <= 1
    sets = rank_sets(significant_differences(runs))
    assert sets[0] is None and sets[1][1] <= 2 and sets[2][0] >= 1


def brute_force(runs: dict[str, Sample]) -> dict[str, tuple[int, int] | None]:
    """Step down through all pairs by hand, then count for every model who is surely better and surely worse."""
    open_pairs = [(c.p, c.model, c.reference, c.difference) for c in compare_all(runs) if c.p is not None]
    judged = {m for _, a, b, _ in open_pairs for m in (a, b)}
    better: dict[str, set[str]] = {m: set() for m in runs}
    while open_pairs:
        p, a, b, difference = min(open_pairs)
        if p * len(open_pairs) > 0.05:
            break
        open_pairs.remove((p, a, b, difference))
        winner, loser = (a, b) if difference > 0 else (b, a)
        better[loser].add(winner)
    return {
        m: (1 + len(better[m]), len(judged) - sum(m in others for others in better.values())) if m in judged else None
        for m in runs
    }


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 1.0]), st.booleans())
def test_rank_sets_are_those_of_stepping_down_by_hand(seed: int, gap: float, known: bool) -> None:
    runs = by_image(drawn(seed, tuple(gap * i for i in range(5))))
    if not known:
        rng = np.random.RandomState(seed)
        runs = samples({m: {s: v for s, v in r.values.items() if rng.rand() > 0.15} for m, r in runs.items()})
    assert dict(zip(runs, rank_sets(significant_differences(runs)), strict=True)) == brute_force(runs)


def test_far_apart_models_have_sharp_ranks_and_equal_ones_share_them() -> None:
    rng = np.random.RandomState(3)
    table = (rng.rand(4, 4000) < 0.9).astype(np.uint8)
    runs = by_image(
        {"worst": table * (rng.rand(4000) < 0.5), "a": table, "b": (rng.rand(4, 4000) < 0.9).astype(np.uint8)}
    )
    worst, a, b = rank_sets(significant_differences(runs))
    assert (worst, a, b) == ((3, 3), (1, 2), (1, 2))


def test_equal_seeds_are_no_certainty() -> None:
    runs = {m: Sample(dict.fromkeys(range(4), v), 1500) for m, v in {"a": 90.0, "b": 90.2}.items()}
    (c,) = compare(runs, "a")
    assert c.interval > 0 and 0 < c.p < 1 and c.p_sign_flip == c.p_smallest == 0.125
