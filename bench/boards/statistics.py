"""Statistics for a few seeds and many test images: intervals, paired differences, corrections, ranks.

For one seed, every model of a board sees the same images in the same order, and is tested on the same images. So the
runs of two models are paired by seed, and differences are computed per seed and per image. ``docs/statistics.md``
explains the values and how they were checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .random_effects import Spread

#: With fewer seeds than this, the values of the seeds are shown instead of an interval.
SMALLEST_SAMPLE = 3
#: Significance level of every decision: p (Holm) is at most this.
LEVEL = 0.05

#: Up to this number of pairs the sign-flip test uses all signs; above, `DRAWS` random signs.
EXACT_PAIRS = 16
DRAWS = 20_000
_DRAW_SEED = 20_200_702


@dataclass(frozen=True)
class Sample:
    """The runs of one model.

    Attributes:
        values: test accuracy in %, by seed.
        images: number of test images.
        right: by seed, whether the prediction is right, (images,) of 0 and 1; empty if outcomes by image are
            missing.
        test_set: identifier of the test set of the outcomes; outcomes of two models are paired if it is the same.
        void: why a normal distribution cannot describe these values (such as a diverged run); empty if it may.
    """

    values: Mapping[int, float]
    images: int
    right: Mapping[int, NDArray[Any]] = field(default_factory=dict)
    test_set: str = ""
    void: str = ""

    @property
    def is_by_image(self) -> bool:
        """Whether the outcomes of all runs are known."""
        return bool(self.right) and self.right.keys() >= self.values.keys()

    @property
    def has_interval(self) -> bool:
        """Whether there are enough seeds for an interval, and the interval is valid."""
        return len(self.values) >= SMALLEST_SAMPLE and not self.void


#: Runs by model.
Samples = Mapping[str, Sample]


@dataclass(frozen=True)
class Comparison:
    """A model against another one, seed by seed.

    Attributes:
        pairs: number of common seeds.
        difference: mean of (model - reference), in percent points.
        interval: half-width of the 95 % interval over new seeds and new images, or over new seeds only if outcomes by
            image are missing (see `by_image`). None below `SMALLEST_SAMPLE` pairs, or if a normal distribution cannot
            describe the values.
        interval_seeds: half-width of the 95 % interval over new seeds on the same images.
        by_image: whether outcomes by image are known.
        p: two-sided p, the level at which `interval` would end at zero; None without an interval.
        p_holm: p corrected for the family of comparisons.
        family: number of comparisons that were corrected together.
        p_sign_flip: two-sided p of the sign-flip test over seeds, which assumes no distribution; not corrected.
        p_smallest: the smallest possible `p_sign_flip` with this number of pairs.
        detectable: the smallest true difference, in points, that is detected with a power of 80 % (p times `family` at
            most 0.05); None without an interval, and in `compare_all`.
    """

    model: str
    reference: str
    pairs: int
    difference: float
    interval: float | None
    interval_seeds: float | None
    by_image: bool
    p: float | None
    p_holm: float | None
    family: int
    p_sign_flip: float
    p_smallest: float
    detectable: float | None


def prediction_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Prediction interval: it contains one further value with probability `confidence`. None below `SMALLEST_SAMPLE`
    values.

    mean ± t_{(1+c)/2, n-1} · s · √(1 + 1/n), for normal values (Hahn and Meeker, Statistical Intervals, 1991,
    section 4.7).
    """
    from scipy.special import stdtrit  # only the quantile, because the import of scipy.stats takes a second

    count = len(values)
    if count < SMALLEST_SAMPLE:
        return None
    half = float(stdtrit(count - 1, (1 + confidence) / 2)) * stdev(values) * math.sqrt(1 + 1 / count)
    return fmean(values) - half, fmean(values) + half


def binomial_error_pct(accuracy_pct: float, images: int) -> float:
    """Standard error of an accuracy over `images` independent test images, in percent points."""
    share = accuracy_pct / 100
    return 100 * math.sqrt(share * (1 - share) / images)


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are not None; None if there are none."""
    there = [v for v in values if v is not None]
    return fmean(there) if there else None


def sign_flip(differences: NDArray[Any]) -> NDArray[Any]:
    """Two-sided p of the sign-flip test that paired differences are symmetric about zero, for each of some models.

    The share of all 2ⁿ choices of signs for which |Σ ±d| is at least |Σ d| (Fisher 1935, The Design of
    Experiments, section 21; Pitman 1937). Up to `EXACT_PAIRS` pairs, all choices are used. Above, `DRAWS` choices are
    drawn with a fixed seed, and p = (1 + hits) / (1 + draws), which is valid at every level (Phipson and Smyth 2010,
    equation 2).

    Args:
        differences: (models, pairs), with at least one pair.
    """
    import numpy as np

    rows, pairs = differences.shape
    exact = pairs <= EXACT_PAIRS
    if exact:
        # The first sign is +, because flipping all of them changes no absolute sum.
        bits = (np.arange(2 ** (pairs - 1))[:, None] >> np.arange(pairs)) & 1
        signs = np.roll(1.0 - 2.0 * bits, 1, axis=1)
    else:
        signs = 1.0 - 2.0 * np.random.RandomState(_DRAW_SEED).randint(0, 2, size=(DRAWS, pairs))
    # Sums that differ only by rounding count as equal.
    tolerance = 1e-9 * np.abs(differences).sum(axis=1) + 1e-12
    least = np.abs(differences.sum(axis=1)) - tolerance
    p = np.empty(rows)
    at_a_time = max(1, 2**22 // len(signs))
    for start in range(0, rows, at_a_time):
        part = slice(start, start + at_a_time)
        hits = (np.abs(differences[part] @ signs.T) >= least[part, None]).sum(axis=1)
        p[part] = hits / len(signs) if exact else (1 + hits) / (1 + len(signs))
    return p


def smallest_p(pairs: int) -> float:
    """The smallest possible sign-flip p with this number of pairs: 2 / 2ⁿ."""
    return 2.0 ** (1 - pairs) if pairs <= EXACT_PAIRS else 1 / (1 + DRAWS)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of a family, corrected so that the probability of any false positive stays below the level.

    max_{j ≤ i} min(1, (m - j + 1) · p_(j)) over the sorted p (Holm 1979, Scand. J. Statist. 6, 65-70).
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for done, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - done) * p_values[index]))
        corrected[index] = highest
    return corrected


def compare(samples: Samples, reference: str) -> list[Comparison]:
    """Every other model against `reference`, corrected by Holm over this family, in the order of `samples`.

    Models that share no seed with it are left out.

    Raises:
        KeyError: the reference has no values.
    """
    samples[reference]  # raises KeyError for an unknown reference, also without other models
    return _family(samples, [(model, reference) for model in samples if model != reference], plan=True)


def compare_all(samples: Samples) -> list[Comparison]:
    """Every model against every later one in the order of `samples`, corrected by Holm over all pairs."""
    return _family(samples, list(combinations(samples, 2)))


def spreads(samples: Samples, reference: str) -> dict[str, Spread]:
    """The spread of the paired differences to `reference`, for every other model that has a p."""
    from .random_effects import Spread

    couples = [(model, reference) for model in samples if model != reference]
    return {
        couples[index][0]: Spread(s.seeds, s.images, s.of_seeds[place], s.of_images[place])
        for g in _groups(samples, couples)
        if (s := g.spread) is not None
        for place, index in enumerate(g.rows)
    }


@dataclass(frozen=True)
class _Group:
    """Pairs of models with the same common seeds, all with outcomes by image or all without."""

    rows: list[int]  # positions among the given pairs
    differences: NDArray[Any]  # (pairs, seeds)
    by_image: bool
    spread: Spread | None  # of the differences; None if there is no interval


def _groups(samples: Samples, couples: Sequence[tuple[str, str]]) -> list[_Group]:
    """The measured differences of pairs of models; pairs without a common seed are left out."""
    import numpy as np

    from .random_effects import spread_of_means, spread_of_pairs

    # Sorted, so that the result does not depend on the order of the records.
    kinds = {
        model: (tuple(sorted(s.values)), s.test_set if s.is_by_image else "", s.images, bool(s.void))
        for model, s in samples.items()
    }
    alike: dict[tuple[object, ...], list[int]] = {}
    for index, (model, other) in enumerate(couples):
        alike.setdefault((kinds[model], kinds[other]), []).append(index)
    found = []
    for rows in alike.values():
        (own, own_set, images, own_void), (his, his_set, his_images, his_void) = (kinds[m] for m in couples[rows[0]])
        common = [s for s in own if s in set(his)]
        if not common:
            continue
        at = {model: i for i, model in enumerate(dict.fromkeys(m for index in rows for m in couples[index]))}
        first, second = (np.array([at[couples[index][k]] for index in rows]) for k in (0, 1))
        table = np.array([[samples[model].values[s] for s in common] for model in at])
        differences = table[first] - table[second]
        by_image = bool(own_set) and own_set == his_set and images == his_images
        if len(common) < SMALLEST_SAMPLE or own_void or his_void:
            spread = None
        elif by_image:
            spread = spread_of_pairs((np.stack([samples[m].right[s] for m in at]) for s in common), first, second)
        else:
            spread = spread_of_means(differences, min(images, his_images))
        found.append(_Group(rows, differences, by_image, spread))
    return found


def _family(samples: Samples, couples: Sequence[tuple[str, str]], plan: bool = False) -> list[Comparison]:
    """Comparisons of one family, in the order of the pairs; with `detectable`, which takes a while, only for a plan."""
    from .random_effects import detectable, half_widths, p_values

    groups = _groups(samples, couples)
    family = sum(len(g.rows) for g in groups if g.spread is not None)
    found: dict[int, dict[str, Any]] = {}
    for g in groups:
        pairs, means = g.differences.shape[1], g.differences.mean(axis=1)
        columns: dict[str, list[Any]] = {"difference": means.tolist(), "p_sign_flip": sign_flip(g.differences).tolist()}
        columns |= {key: [None] * len(g.rows) for key in ("interval", "interval_seeds", "p", "detectable")}
        if g.spread is not None:
            columns["interval"] = half_widths(g.spread, LEVEL).tolist()
            columns["interval_seeds"] = half_widths(g.spread.without_images(), LEVEL).tolist()
            columns["p"] = p_values(means, g.spread).tolist()
            if plan:
                columns["detectable"] = detectable(g.spread, LEVEL / family).tolist()
        for place, index in enumerate(g.rows):
            found[index] = {key: values[place] for key, values in columns.items()}
            found[index] |= {"pairs": pairs, "by_image": g.by_image, "p_smallest": smallest_p(pairs)}
    tested = [index for index in sorted(found) if found[index]["p"] is not None]
    corrected = dict(zip(tested, holm([found[i]["p"] for i in tested]), strict=True))
    return [Comparison(*couples[i], **found[i], p_holm=corrected.get(i), family=family) for i in sorted(found)]


def accuracy_intervals(sample: Sample) -> tuple[float, float] | None:
    """Half-widths of the 95 % intervals of a model's accuracy; None if there are none, see `Sample.has_interval`.

    Returns:
        The half-width over new seeds and new images (over new seeds only if outcomes by image are unknown), and the
        half-width over new seeds on the same images.
    """
    import numpy as np

    from .random_effects import half_widths, spread_of_means, spread_of_table

    if not sample.has_interval:
        return None
    seeds = sorted(sample.values)
    if sample.is_by_image:
        spread = spread_of_table(np.stack([sample.right[s] for s in seeds]))
    else:
        spread = spread_of_means(np.array([sample.values[s] for s in seeds]), sample.images)
    return float(half_widths(spread, LEVEL)), float(half_widths(spread.without_images(), LEVEL))


def significant_differences(samples: Samples) -> NDArray[Any]:
    """Which models differ significantly, after the Holm correction over all pairs.

    Returns:
        (models, models) in the order of `samples`: 1 or -1 if row - column is above or below zero with p (Holm, all
        pairs) at most `LEVEL`; 0 if p is larger; NaN if the pair has no p.
    """
    import numpy as np

    from .random_effects import p_values

    couples = list(combinations(range(len(samples)), 2))
    names = list(samples)
    significance = np.full((len(names), len(names)), np.nan)
    rows: list[int] = []
    means: list[NDArray[Any]] = []
    p: list[float] = []
    for g in _groups(samples, [(names[i], names[j]) for i, j in couples]):
        if g.spread is not None:
            rows += g.rows
            means.append(g.differences.mean(axis=1))
            p += p_values(means[-1], g.spread).tolist()
    if rows:
        first, second = np.array([couples[row] for row in rows]).T
        found = np.array(holm(p)) <= LEVEL
        significance[first, second] = np.where(found, np.sign(np.concatenate(means)), 0.0)
        significance[second, first] = -significance[first, second]
    return significance


def rank_sets(significance: NDArray[Any]) -> list[tuple[int, int] | None]:
    """Simultaneous 95 % confidence sets for ranks: from 1 + the number of surely better models to K - the number of
    surely worse models.

    All sets are correct together with probability 95 % (Mogstad, Romano, Shaikh and Wilhelm 2024, Review of Economic
    Studies 91, 476-518): they are correct if no pair has a false positive.

    Args:
        significance: see `significant_differences`. K is the number of models that have a p with another model.

    Returns:
        Lowest and highest rank, by model; None for a model that has no p.
    """
    import numpy as np

    judged = ~np.isnan(significance).all(axis=1) if len(significance) else np.zeros(0, dtype=bool)
    better, worse = (significance < 0).sum(axis=1), (significance > 0).sum(axis=1)
    count = int(judged.sum())
    return [(1 + int(b), count - int(w)) if known else None for known, b, w in zip(judged, better, worse, strict=True)]
