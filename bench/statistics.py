"""Statistics of a few seeds: intervals, paired differences, corrections, ranks.

Every model of a board sees, for one seed, the same images in the same order; runs of two models are therefore
paired by their seed, and differences are taken seed by seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from statistics import fmean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

#: Below this number of seeds the seeds' own values are shown instead of an interval.
SMALLEST_SAMPLE = 3

#: Up to this number of pairs the sign-flip test looks at all signs; beyond, at `DRAWS` drawn ones.
EXACT_PAIRS = 16
DRAWS = 20_000
_DRAW_SEED = 20_200_702

#: Seeds and their values (accuracy in %), by model.
Values = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Comparison:
    """A model against another one, seed by seed.

    Attributes:
        pairs: seeds that both have.
        difference: mean of (model - reference), in the unit of the values.
        interval: half-width of the 95 % paired t-interval; None below `SMALLEST_SAMPLE` pairs.
        p: two-sided, of the sign-flip test.
        p_holm: the same, corrected over the family that was compared together.
        p_smallest: what `p_holm` could not go below, however large the difference.
    """

    model: str
    reference: str
    pairs: int
    difference: float
    interval: float | None
    p: float
    p_holm: float
    p_smallest: float

    @property
    def direction(self) -> int:
        """1 or -1 where the paired interval lies above or below zero, else 0."""
        if self.interval is None or abs(self.difference) <= self.interval:
            return 0
        return 1 if self.difference > 0 else -1


def interval(values: Sequence[float], confidence: float = 0.95) -> float | None:
    """Half-width of the t-interval of the mean, or None below `SMALLEST_SAMPLE` values.

    t_{(1+c)/2, n-1} · s / √n, with the sample standard deviation s (Student 1908). It covers the
    randomness of training (initial weights, order of examples), not of the choice of test images.
    """
    if len(values) < SMALLEST_SAMPLE:
        return None
    return _t(len(values), confidence) * stdev(values) / math.sqrt(len(values))


def prediction_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Where one further value lies with probability `confidence`, or None below `SMALLEST_SAMPLE` values.

    mean ± t_{(1+c)/2, n-1} · s · √(1 + 1/n), for normal values (Hahn and Meeker, Statistical Intervals, 1991,
    section 4.7).
    """
    if len(values) < SMALLEST_SAMPLE:
        return None
    half = _t(len(values), confidence) * stdev(values) * math.sqrt(1 + 1 / len(values))
    return fmean(values) - half, fmean(values) + half


@cache
def _t(count: int, confidence: float) -> float:
    """Quantile of Student's t with `count` - 1 degrees of freedom."""
    from scipy.special import stdtrit  # the quantile alone: scipy.stats takes a second to import

    return float(stdtrit(count - 1, (1 + confidence) / 2))


def binomial_error_pct(accuracy_pct: float, images: int) -> float:
    """Standard error of an accuracy over `images` independent test images, in percent points."""
    share = accuracy_pct / 100
    return 100 * math.sqrt(share * (1 - share) / images)


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are there; None where there are none."""
    there = [v for v in values if v is not None]
    return fmean(there) if there else None


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p of the sign-flip test that paired differences are symmetric about zero.

    The share of all 2ⁿ choices of signs for which |Σ ±d| is at least |Σ d| (Fisher 1935, The Design of
    Experiments, section 21; Pitman 1937). Up to `EXACT_PAIRS` pairs all of them are looked at; beyond, `DRAWS`
    drawn from a fixed seed, and p = (1 + hits) / (1 + draws), which is valid at every level (Phipson and
    Smyth 2010, equation 2).

    Raises:
        ValueError: there are no differences.
    """
    import numpy as np

    if not len(differences):
        raise ValueError("the sign-flip test needs at least one difference, not 0")
    return float(_sign_flips(np.asarray([differences], dtype=float))[0])


def _sign_flips(differences: np.ndarray) -> np.ndarray:
    """`sign_flip` of every row of (comparisons, pairs)."""
    import numpy as np

    rows, pairs = differences.shape
    exact = pairs <= EXACT_PAIRS
    signs = _all_signs(pairs) if exact else _drawn_signs(pairs)
    # Sums that differ by rounding alone count as equal.
    tolerance = 1e-9 * np.abs(differences).sum(axis=1) + 1e-12
    least = np.abs(differences.sum(axis=1)) - tolerance
    p = np.empty(rows)
    at_a_time = max(1, 2**22 // len(signs))
    for start in range(0, rows, at_a_time):
        part = slice(start, start + at_a_time)
        hits = (np.abs(differences[part] @ signs.T) >= least[part, None]).sum(axis=1)
        p[part] = hits / len(signs) if exact else (1 + hits) / (1 + len(signs))
    return p


def _all_signs(pairs: int) -> np.ndarray:
    """All signs, (2ⁿ⁻¹, n): the first is +, because flipping all of them changes no absolute sum."""
    import numpy as np

    bits = (np.arange(2 ** (pairs - 1))[:, None] >> np.arange(pairs)) & 1
    return np.roll(1.0 - 2.0 * bits, 1, axis=1)


def _drawn_signs(pairs: int) -> np.ndarray:
    import numpy as np

    return 1.0 - 2.0 * np.random.RandomState(_DRAW_SEED).randint(0, 2, size=(DRAWS, pairs))


def smallest_p(pairs: int, comparisons: int = 1) -> float:
    """What a Holm-corrected sign-flip p cannot go below with this number of pairs and comparisons: m · 2 / 2ⁿ.

    The first step of Holm multiplies the smallest p of the family by its size m.
    """
    single = 2.0 ** (1 - pairs)
    if pairs > EXACT_PAIRS:
        single = 1 / (1 + DRAWS)
    return min(1.0, comparisons * single)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of a family, corrected so that the chance of any false positive stays below the level.

    max_{j ≤ i} min(1, (m - j + 1) · p_(j)) over the sorted p (Holm 1979, Scand. J. Statist. 6, 65-70).
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for done, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - done) * p_values[index]))
        corrected[index] = highest
    return corrected


def compare(values: Values, reference: str) -> list[Comparison]:
    """Every other model against `reference`, corrected by Holm over this family, in the order of `values`.

    Models that share no seed with it are left out.

    Raises:
        KeyError: the reference has no values.
    """
    values[reference]  # noqa: B018  an unknown reference is an error even where it is alone
    return _family(values, [(model, reference) for model in values if model != reference])


def compare_all(values: Values) -> list[Comparison]:
    """Every model against every later one in the order of `values`, corrected by Holm over all pairs."""
    return _family(values, list(combinations(values, 2)))


def _family(values: Values, couples: Sequence[tuple[str, str]]) -> list[Comparison]:
    """Comparisons of one family; those with the same number of pairs are computed together."""
    import numpy as np

    # Sorted, so that the order in which records were read changes no digit.
    seeds = {model: tuple(sorted(own)) for model, own in values.items()}
    groups: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for index, (model, other) in enumerate(couples):
        groups.setdefault((seeds[model], seeds[other]), []).append(index)
    measured: dict[int, tuple[int, float, float | None, float]] = {}
    for (own, his), rows in groups.items():
        common = [s for s in own if s in set(his)]
        if not common:
            continue
        at = {model: i for i, model in enumerate(dict.fromkeys(m for index in rows for m in couples[index]))}
        table = np.array([[values[model][s] for s in common] for model in at])
        differences = table[[at[couples[i][0]] for i in rows]] - table[[at[couples[i][1]] for i in rows]]
        halves = [None] * len(rows) if len(common) < SMALLEST_SAMPLE else _halves(differences).tolist()
        means, p_values = differences.mean(axis=1).tolist(), _sign_flips(differences).tolist()
        for index, mean_, half, p in zip(rows, means, halves, p_values, strict=True):
            measured[index] = (len(common), mean_, half, p)
    family = [(couples[index], measured[index]) for index in sorted(measured)]
    corrected = holm([p for _, (_, _, _, p) in family])
    floors = {pairs: smallest_p(pairs, len(family)) for pairs in {known[0] for _, known in family}}
    return [
        Comparison(*couple, *known, p_holm, floors[known[0]]) for (couple, known), p_holm in zip(family, corrected, strict=True)
    ]


def _halves(differences: np.ndarray) -> np.ndarray:
    """`interval` of (…, pairs) along the last axis."""
    pairs = differences.shape[-1]
    return _t(pairs, 0.95) * differences.std(axis=-1, ddof=1) / math.sqrt(pairs)


def directions(values: Values) -> np.ndarray:
    """Which models can be told apart, pair by pair.

    Returns:
        (models, models) in the order of `values`: 1 or -1 where the 95 % interval of the paired differences
        row - column lies above or below zero, 0 where it does not, NaN where the pair is too short for one. Not
        corrected for the number of pairs.
    """
    import numpy as np

    names = list(values)
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(tuple(sorted(values[name])), []).append(index)
    told = np.full((len(names), len(names)), np.nan)
    for seeds, rows in groups.items():
        for others, columns in groups.items():
            common = [s for s in seeds if s in set(others)]
            if len(common) < SMALLEST_SAMPLE:
                continue
            own = np.array([[values[names[i]][s] for s in common] for i in rows])
            his = np.array([[values[names[i]][s] for s in common] for i in columns])
            differences = own[:, None] - his
            mean_ = differences.mean(axis=-1)
            told[np.ix_(rows, columns)] = np.where(np.abs(mean_) > _halves(differences), np.sign(mean_), 0.0)
    return told


def ranks(values: Values) -> dict[str, int | None]:
    """1 + the number of models that are better (see `directions`); models that cannot be told apart share a rank.

    None where no pair of the model is long enough for an interval.
    """
    import numpy as np

    told = directions(values)
    np.fill_diagonal(told, np.nan)
    judged, worse = ~np.isnan(told).all(axis=1), (told < 0).sum(axis=1)
    return {model: 1 + int(n) if known else None for model, n, known in zip(values, worse, judged, strict=True)}
