"""The proof of the claims about intervals, p and ranks, on simulated networks: ``equibench verify statistics``.

A simulated network is right on an image with probability 1 / (1 + e^-x). x is the sum of its quality, the effect of the
seed and the difficulty of the image. Both effects have a part that all networks share and a part of the single network.
Outcomes are drawn one by one, and the true accuracies are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..boards.random_effects import Spread, detectable, half_widths, p_values, spread_of_pairs, spread_of_table
from ..boards.statistics import holm

Row = dict[str, Any]

PARTS = ("coverage", "family", "power")
SEEDS = (3, 5, 8)
#: By number of test images: numbers of equal models, and numbers of experiments per row. ``--quick`` uses only the
#: smallest number of test images, with `QUICK_TRIALS` experiments.
MODELS = {1500: (2, 3, 5, 8, 12), 50_000: (2, 5, 12)}
TRIALS, QUICK_TRIALS = {1500: 2000, 50_000: 1000}, 200
#: Distributions of the seed effects. ``alike``: every seed makes the same predictions.
NORMAL, SKEWED, NONE, ALIKE = "normal", "skewed", "none", "alike"
EQUAL, UNEQUAL = "equal", "unequal"
_START = 20_260_101

#: On the scale of x: the quality, the standard deviation of each part of the seed effect, and the difficulties.
_QUALITY, _SEED_EFFECT = 2.6, 0.05
_SHARED, _OWN = np.array([-3.0, -1.5, 0.0, 1.0, 1.5, 2.0]), np.array([-1.2, -0.4, 0.4, 1.2])
#: Number of draws of the seed effect over which the true accuracies are averaged.
_DRAWS = 40_000
#: Claimed coverage for normal seed effects, and the largest probability of any wrong decision.
LOWEST, HIGHEST, WRONG = 0.94, 0.99, 0.05


@dataclass(frozen=True)
class Case:
    """One kind of experiment.

    Attributes:
        seeds, images: numbers of seeds and images in an experiment.
        effects: distribution of the seed effects.
        difficulty: difficulty of the images, `EQUAL` or `UNEQUAL`.
        worse: by how much each network is worse than the best one, on the scale of x.
    """

    seeds: int
    images: int
    effects: str = NORMAL
    difficulty: str = UNEQUAL
    worse: tuple[float, ...] = (0.0, 0.0)


class Simulation:
    """The simulated networks of a case: their true accuracies, and experiments with them."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.rng = np.random.Generator(np.random.PCG64(_START))
        unequal = case.difficulty == UNEQUAL
        self._shared: NDArray[np.float64] = _SHARED if unequal else np.zeros(1)
        self._own: NDArray[np.float64] = _OWN if unequal else np.zeros(1)
        # x of every kind of image (ordered by shared part), without the quality and the seed effect.
        self._kinds = (self._shared[:, None] + self._own).ravel()
        effects = self._effects(_DRAWS, 1)[:, 0]
        #: Mean over seeds of the accuracy of every network on every kind of image, (networks, kinds).
        self.by_kind = np.stack(
            [_sigmoid(_QUALITY - w + effects[:, None] + self._kinds).mean(axis=0) for w in case.worse]
        )
        #: True accuracy over new seeds and new images, in %.
        self.accuracy = 100 * self.by_kind.mean(axis=1)

    def _effects(self, seeds: int, networks: int) -> np.ndarray:
        """Seed effects (seeds, networks): the sum of a shared part and a part of each network."""
        if self.case.effects in (NONE, ALIKE):
            return np.zeros((seeds, networks))
        sizes = ((seeds, 1), (seeds, networks))
        if self.case.effects == NORMAL:
            shared, own = (self.rng.normal(size=size) for size in sizes)
        else:  # skewed: most seeds are slightly above the mean, few are far below
            shared, own = (1 - self.rng.exponential(size=size) for size in sizes)
        return _SEED_EFFECT * (shared + own)

    def experiment(self) -> tuple[list[np.ndarray], np.ndarray]:
        """For each seed the outcomes (networks, images) of 0 and 1, and the true accuracies on these images, in %."""
        case, networks = self.case, len(self.case.worse)
        if len(self._kinds) == 1:
            kinds = np.zeros((networks, 1), dtype=np.intp)
        else:
            shared = self.rng.integers(len(self._shared), size=case.images)
            kinds = shared * len(self._own) + self.rng.integers(len(self._own), size=(networks, case.images))
        effects = self._effects(case.seeds, networks)
        here = 100 * np.array(
            [np.bincount(k, minlength=len(self._kinds)) @ b for k, b in zip(kinds, self.by_kind, strict=True)]
        )
        places = kinds + len(self._kinds) * np.arange(networks)[:, None]
        right: list[np.ndarray] = []
        for seed in range(case.seeds):
            if case.effects == ALIKE and right:
                right.append(right[0])
                continue
            x = _QUALITY - np.array(case.worse)[:, None] + effects[seed][:, None] + self._kinds
            limits = np.round(65536 * _sigmoid(x)).clip(0, 65535).astype(np.uint16)
            drawn = np.frombuffer(self.rng.bytes(2 * networks * case.images), dtype=np.uint16).reshape(networks, -1)
            right.append((drawn < limits.ravel().take(places, mode="clip")).view(np.uint8))
        return right, here / kinds.shape[1]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def verify(
    parts: Sequence[str], on_part: Callable[[str], None] = lambda _: None, quick: bool = False
) -> dict[str, list[Row]]:
    """Rows of the parts; ``ok`` in each row says whether the claim holds. Every call gives the same values.

    Args:
        quick: use `QUICK_TRIALS` experiments per row and only small test sets; this proves less.
    """
    trials = {min(TRIALS): QUICK_TRIALS} if quick else TRIALS
    made = {"coverage": coverage, "family": family}
    rows: dict[str, list[Row]] = {}
    for part in parts:
        on_part(part)
        cases = [(case, trials[images]) for images in trials for case in _cases(part, images)]
        if part == "power":
            rows[part] = [row for case in cases for row in observed_power(*case)]
        else:
            rows[part] = [made[part](*case) for case in cases]
    return rows


def _cases(part: str, images: int) -> list[Case]:
    kinds = [Case(0, images)]
    if part == "coverage":
        effects = [*product((NORMAL, NONE, SKEWED), (EQUAL, UNEQUAL)), (ALIKE, UNEQUAL)]
        kinds = [Case(0, images, *kind) for kind in effects]
    elif part == "family":
        kinds = [Case(0, images, worse=(0.0,) * models) for models in MODELS[images]]
        kinds.append(Case(0, images, NONE, EQUAL, worse=(0.0,) * MODELS[images][-1]))
        kinds.append(Case(0, images, worse=(0.0,) * 4 + (0.15,) * 4))
    return [replace(kind, seeds=seeds) for kind in kinds for seeds in SEEDS]


def coverage(case: Case, trials: int) -> Row:
    """Coverage of 95 % intervals for an accuracy and a paired difference, over new seeds, and new seeds and images.

    If all seeds make the same predictions, coverage over new seeds on the same images is not defined: None.
    """
    world, pair = Simulation(case), (np.array([0]), np.array([1]))
    names = ("accuracy, seeds", "accuracy, both", "difference, seeds", "difference, both")
    held = dict.fromkeys(names, 0)
    for _ in range(trials):
        right, here = world.experiment()
        own, both = spread_of_table(np.stack([r[0] for r in right])), spread_of_pairs(right, *pair)
        means = 100 * np.mean([r.mean(axis=1) for r in right], axis=0)
        for name, spread, seen, new, same in (
            ("accuracy", own, means[0], world.accuracy[0], here[0]),
            ("difference", both, means[0] - means[1], world.accuracy[0] - world.accuracy[1], here[0] - here[1]),
        ):
            held[f"{name}, seeds"] += bool(abs(seen - same) <= half_widths(spread.without_images()))
            held[f"{name}, both"] += bool(abs(seen - new) <= half_widths(spread))
    nothing = case.effects == ALIKE
    shares = {name: None if nothing and name.endswith("seeds") else count / trials for name, count in held.items()}
    low, high = LOWEST - _two_standard_errors(LOWEST, trials), HIGHEST + _two_standard_errors(HIGHEST, trials)
    fits = all(low <= share <= high for share in shares.values() if share is not None)
    shown = case.effects == SKEWED  # coverage is shown, but nothing is claimed
    return {**_named(case), **shares, "trials": trials, "ok": fits or shown}


def _two_standard_errors(share: float, trials: int) -> float:
    return 2 * float(np.sqrt(share * (1 - share) / trials))


def _named(case: Case) -> Row:
    return {"images": case.images, "seeds": case.seeds, "seed effects": case.effects, "difficulty": case.difficulty}


def family(case: Case, trials: int) -> Row:
    """How often any decision is wrong: equal models are declared different, or a worse model is declared better.

    Counted for p against the first model, corrected by Holm, and for the rank sets (all pairs); and for comparison, for
    t-tests over the seeds only.
    """
    world, models = Simulation(case), len(case.worse)
    first, second = np.triu_indices(models, 1)
    # 1 if the first of the pair is better, 0 if both are equal.
    better = np.sign(np.array(case.worse)[second] - np.array(case.worse)[first])
    against = first == 0
    wrong = {"p": 0, "rank sets": 0, "p, seeds alone": 0, "rank sets, seeds alone": 0}
    for _ in range(trials):
        right, _ = world.experiment()
        spread = spread_of_pairs(right, first, second)
        means = 100 * np.mean([r.mean(axis=1) for r in right], axis=0)
        difference = means[first] - means[second]
        for name, used in (("", spread), (", seeds alone", spread.without_images())):
            p = p_values(difference, used)
            for what, chosen in (("p", against), ("rank sets", np.ones_like(against))):
                rejected = np.array(holm(p[chosen].tolist())) <= 0.05
                wrong[f"{what}{name}"] += bool((rejected & (np.sign(difference) != better)[chosen]).any())
    shares = {name: count / trials for name, count in wrong.items()}
    fits = max(shares["p"], shares["rank sets"]) <= WRONG + _two_standard_errors(WRONG, trials)
    equal = case.worse.count(0.0)
    kind = f"{equal} equal" + (f", {models - equal} worse" if equal < models else "")
    return {"models": kind, **_named(case), **shares, "trials": trials, "ok": fits}


def observed_power(case: Case, trials: int) -> Iterator[Row]:
    """The observed power for a difference with a planned power of 80 %, and for a difference of half that size."""
    pair = np.array([0]), np.array([1])
    smallest = 0.0
    for count in (100, 100, 800):  # the spread depends a little on the difference
        world = _simulation_with_difference(case, smallest)
        spreads = [spread_of_pairs(world.experiment()[0], *pair) for _ in range(min(count, 4 * trials))]
        parts = (np.mean([getattr(s, part) for s in spreads], axis=0) for part in ("of_seeds", "of_images"))
        smallest = float(detectable(Spread(case.seeds, case.images, *parts))[0])
    for share, said in ((1.0, 0.8), (0.5, None)):
        world = _simulation_with_difference(case, share * smallest)
        difference = float(world.accuracy[0] - world.accuracy[1])
        found = 0
        for _ in range(trials):
            right, _ = world.experiment()
            means = 100 * np.mean([r.mean(axis=1) for r in right], axis=0)
            found += bool(p_values(np.array([means[0] - means[1]]), spread_of_pairs(right, *pair))[0] <= 0.05)
        fits = said is None or abs(found / trials - said) <= 0.05 + _two_standard_errors(said, trials)
        figures = {"difference": difference, "planned": said, "power": found / trials}
        yield {**_named(case), **figures, "trials": trials, "ok": fits}


def _simulation_with_difference(case: Case, difference: float) -> Simulation:
    """A simulation of two networks whose true accuracies differ by `difference` points (by bisection)."""
    low, high = 0.0, 4.0
    for _ in range(14):
        middle = (low + high) / 2
        world = Simulation(replace(case, worse=(0.0, middle)))
        low, high = (middle, high) if world.accuracy[0] - world.accuracy[1] < difference else (low, middle)
    return Simulation(replace(case, worse=(0.0, high)))


_TITLES = {
    "coverage": (
        f"Coverage of 95 % intervals (claimed if seed effects are normal or none: {100 * LOWEST:g} to"
        f" {100 * HIGHEST:g})\n"
        "seeds: over new seeds on the same images; both: over new seeds and new images"
    ),
    "family": f"Experiments with any wrong decision (claimed: at most {100 * WRONG:g}); for comparison: t-tests over"
    " the seeds only",
    "power": "Power to detect a difference (one comparison); planned: the power in the board's note and in equibench"
    " plan",
}


def summary(rows: dict[str, list[Row]]) -> list[tuple[str, list[Row]]]:
    """Titles and tables (rows of strings and numbers) of the parts in `rows`."""
    tables = []
    for part, own in rows.items():
        counts = ", ".join(dict.fromkeys(f"{row['trials']:,} ({row['images']:,} images)" for row in own))
        about = f"in percent of {counts} experiments; in each cell with {', '.join(map(str, SEEDS))} seeds"
        tables.append((f"{_TITLES[part]}\n{about}; claims hold within two standard errors", _table(own)))
    return tables


def plot(rows: dict[str, list[Row]]) -> None:
    """There is nothing to draw."""


def _table(rows: list[Row]) -> list[Row]:
    """Rows that differ only in their number of seeds, combined into one row."""
    named = ("models", "images", "seed effects", "difficulty", "planned")
    lines: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        lines.setdefault(tuple(row.get(key) for key in named), []).append(row)
    table = []
    for key, own in lines.items():
        line: Row = {name: value for name, value in zip(named, key, strict=True) if value is not None}
        line["images"] = f"{line['images']:,}"
        if "power" in own[0]:
            line["planned"] = "" if key[-1] is None else f"{100 * key[-1]:g}"
        for name in own[0]:
            if name not in (*named, "seeds", "trials", "ok"):
                line[name] = " / ".join(_cell(name, row[name]) for row in own)
        table.append({**line, "ok": "yes" if all(row["ok"] for row in own) else "NO"})
    return table


def _cell(name: str, value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if name == "difference" else f"{100 * value:.1f}"
