"""How many seeds a suite needs to detect a difference, from the spread of earlier records, and their cost."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path

from ...registry import UserError
from ..boards.board import Board, load_board
from ..boards.random_effects import Spread, detectable, power
from ..boards.statistics import LEVEL, SMALLEST_SAMPLE, spreads
from ..records.store import board_names
from ..spec.budget import find_budget
from ..spec.suite import Suite
from ..tools.text import plain_table
from .estimate import estimate

#: The required power, and the largest number of seeds that is considered.
POWER, MOST_SEEDS = 0.8, 200


@dataclass(frozen=True)
class SeedNeed:
    """The number of seeds that one model of a suite needs.

    Attributes:
        recorded: number of seeds in earlier records; if it is 0, the largest spread of the other models is used.
        detectable: the smallest difference in points that the suite's seeds detect; None below 3 seeds.
        seeds: the smallest number of seeds that detects the difference; None if `MOST_SEEDS` are too few.
        floor: the smallest difference in points that `MOST_SEEDS` seeds detect; the test images limit it.
        run_s: device-seconds of one run; None if unknown on this device.
    """

    model: str
    recorded: int
    detectable: float | None
    seeds: int | None
    floor: float
    run_s: float | None


@dataclass(frozen=True)
class SeedPlan:
    """The plan of a suite.

    Attributes:
        board: board with the earlier records.
        level: significance level of one comparison: 0.05 / number of comparisons, the first step of Holm.
        by_image: whether outcomes by image are known for all these records.
        reference_s: device-seconds of one run of the reference; None if unknown on this device.
    """

    suite: str
    board: str
    reference: str
    difference: float
    level: float
    by_image: bool
    reference_s: float | None
    needs: list[SeedNeed]

    @property
    def seeds(self) -> int | None:
        """Number of seeds for all models: the largest number that a model needs; None if no number is enough."""
        found = [need.seeds for need in self.needs if need.seeds is not None]
        return max(found) if len(found) == len(self.needs) else None

    @property
    def hours(self) -> float | None:
        """Device-hours of training of all models with this number of seeds; None if a time is unknown."""
        times = [t for t in (self.reference_s, *(need.run_s for need in self.needs)) if t is not None]
        if self.seeds is None or len(times) <= len(self.needs):
            return None
        return self.seeds * sum(times) / 3600


def plan_seeds(suite: Suite, root: Path, difference: float, hardware_key: str) -> SeedPlan:
    """The number of seeds that detects a difference between each model of a suite and the reference.

    Args:
        difference: in percent points.
        hardware_key: of the device for the time.

    Raises:
        UserError: the suite has only one model, or no earlier records have three common seeds of two models.
    """
    if len(suite.models) < 2:
        raise UserError(f"suite {suite.name!r} has only one model; a difference needs two")
    board, known = _earlier(suite, root, hardware_key)
    reference = suite.reference_model or suite.models[0]
    most = max(known, key=lambda m: len(known[m]))
    compared_with = next((m for m in (reference, board.reference) if m in known), most)
    found, others = known[compared_with or ""], [m for m in suite.models if m != reference]
    level, widest = LEVEL / len(others), max(found.values(), key=lambda s: float(detectable(s)))
    seconds = find_budget(suite.budget).seconds  # of a run
    times = dict.fromkeys(suite.models, seconds)
    if seconds is None:
        times = {c.model: c.step_s and c.steps * c.step_s for c in estimate(suite, root, hardware_key)}
    needs = []
    for model in others:
        spread, now = found.get(model, widest), len(suite.seed_list)
        recorded = spread.seeds if model in found else 0
        detects = float(detectable(spread.with_seeds(now), level)) if now >= SMALLEST_SAMPLE else None
        floor = float(detectable(spread.with_seeds(MOST_SEEDS), level))
        seeds = seeds_for(difference, spread, level)
        needs.append(SeedNeed(model, recorded, detects, seeds, floor, times.get(model)))
    by_image = all(s.is_by_image for s in board.samples.values() if s.has_interval)
    return SeedPlan(suite.name, board.name, reference, difference, level, by_image, times.get(reference), needs)


def seeds_for(difference: float, spread: Spread, level: float) -> int | None:
    """The smallest number of seeds (at least 3) with a power of 80 %; None above `MOST_SEEDS`."""

    def enough(seeds: int) -> bool:
        return bool(power(difference, spread.with_seeds(seeds), level) >= POWER)

    found = bisect_left(range(SMALLEST_SAMPLE, MOST_SEEDS), True, key=enough) + SMALLEST_SAMPLE
    return found if found < MOST_SEEDS or enough(found) else None


def _earlier(suite: Suite, root: Path, hardware_key: str) -> tuple[Board, dict[str, dict[str, Spread]]]:
    """The suite's own board, else that of its data set with the most known spreads; and these, by reference, model."""
    own = suite.board(hardware_key if find_budget(suite.budget).kind == "T" else None)
    names = board_names(root)
    if own in names and (found := _spreads(board := load_board(root, own))):
        return board, found
    boards = (load_board(root, name) for name in names if name.startswith(f"{suite.dataset}-"))
    like = [board for board in boards if board.is_table and board.chosen[0][0].spec.dataset == suite.dataset]
    known = [(board, found) for board in like if (found := _spreads(board))]
    if not known:
        why = f"no records in {root} have {SMALLEST_SAMPLE} common seeds of two models on {suite.dataset!r}"
        do = f"run the suite with --seeds {SMALLEST_SAMPLE} first"
        raise UserError(f"{why}, so the spread is unknown; {do}")
    return max(reversed(known), key=lambda one: len(one[1]))  # of equal ones the last


def _spreads(board: Board) -> dict[str, dict[str, Spread]]:
    found = {reference: spreads(board.samples, reference) for reference in board.samples}
    return {reference: own for reference, own in found.items() if own}


def plan_text(planned: SeedPlan, device: str) -> str:
    """A plan as a table, with its sum and its assumptions."""
    rows = [
        {
            "model": n.model,
            "recorded seeds": n.recorded or "none",
            "detectable now": "" if n.detectable is None else f"{n.detectable:.2f}",
            "seeds needed": n.seeds if n.seeds is not None else f"over {MOST_SEEDS}",
            "s/run": "unknown" if n.run_s is None else f"{n.run_s:.0f}",
        }
        for n in planned.needs
    ]
    difference = f"{planned.difference:g} {'point' if planned.difference == 1 else 'points'}"
    lines = [
        f"{planned.suite}: to detect a difference to {planned.reference} of {difference}, on {device}",
        "", plain_table(rows), "",
    ]  # fmt: skip
    if planned.seeds is None:
        enough, floor = [n.seeds for n in planned.needs if n.seeds is not None], max(n.floor for n in planned.needs)
        lines.append(f"{MOST_SEEDS} seeds are not enough for all models: they detect differences of {floor:.2f} points")
        lines += [f"{max(enough)} seeds are enough for {len(enough)} of {len(planned.needs)} models"] if enough else []
    else:
        hours = "the time is known after a first run on this device"
        if planned.hours is not None:
            hours = f"{planned.hours:.2f} device-hours"
        models = len(planned.needs) + 1
        lines.append(f"{planned.seeds} seeds of all {models} models: {hours} of training, one run at a time")
    lines.append(
        f"estimated from the spread of {planned.board}; detectable: with a power of 80 % and p at most"
        f" {planned.level:.2g}, the first step of Holm over {len(planned.needs)} comparisons; now: with the seeds of"
        " the suite"
    )
    if any(not n.recorded for n in planned.needs):
        lines.append("for models without records, the largest spread of the other models is used")
    if not planned.by_image:
        unknown = "some outcomes by image are unknown: for them the choice of the test images is ignored"
        lines.append(f"{unknown}, so more seeds are needed")
    return "\n".join(lines)
