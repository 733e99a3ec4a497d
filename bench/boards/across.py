"""Several boards side by side: differences to one reference, improvability and rank sets. No significance test is made
over boards.

The values of a model are the same as on the boards. Means over boards use only models with a result on every board, so
missing models change no mean. The other models are listed with the missing results.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean

from ...registry import UserError
from ..records.record import FINAL
from ..tools.text import follow_up_command, listed, plural
from .board import Board
from .notes import board_heading
from .statistics import compare

#: Largest number of names of models or boards in one sentence.
_NAMED = 6
#: Reason of a missing cell if the board does not have the model.
NOT_THERE = "not on this board"


@dataclass(frozen=True)
class Entry:
    """The figures of a model on a board.

    Attributes:
        accuracy: mean test accuracy in %; None without a result.
        difference: mean of the paired differences to the reference, in points; 0 for the reference itself, None if
            there is none.
        interval: half-width of its 95 % interval; None below three seeds, or if no normal interval is valid.
        by_image: whether the interval is over new seeds and new test images, not over new seeds alone.
        rank: lowest and highest possible rank among all models of the board; None if there is none.
        missing: why there is no difference; empty if there is one.
        remarks: remarks on the figures: runs that diverged or failed.
        stale: whether its runs are stale.
    """

    accuracy: float | None = None
    difference: float | None = None
    interval: float | None = None
    by_image: bool = False
    rank: tuple[int, int] | None = None
    missing: str = ""
    remarks: tuple[str, ...] = ()
    stale: bool = False


@dataclass(frozen=True)
class Side:
    """The part of a board that a summary needs.

    Attributes:
        heading: one line that describes the board.
        reference: the reference of `Entry.difference`.
        kind: recipe, profile, fit, kind of budget, protocol; automatic summaries need boards of one kind.
        entries: by model.
    """

    name: str
    heading: str
    reference: str | None
    protocol: int
    kind: tuple[str, ...]
    entries: Mapping[str, Entry]


def side_of(board: Board, against: str = "") -> Side:
    """The figures of each model on a board that has a table.

    Args:
        against: the reference, instead of the board's own.

    Raises:
        UserError: `against` has no result on the board.
    """
    if against and against not in board.samples:
        raise UserError(
            f"--against {against!r}: it has no result on {board.name}, and the reference needs one on every board"
        )
    reference, spec = against or board.reference, board.chosen[0][0].spec
    own = reference == board.reference
    family = () if reference is None else board.against_reference if own else compare(board.samples, reference)
    compared = {c.model: c for c in family}
    entries = {}
    for model, runs in board.runs.items():
        sample, c = board.samples.get(model), compared.get(model)
        if sample is None:
            entries[model] = Entry(missing=_why_no_result(board, model))
            continue
        entry = Entry(
            fmean(sample.values.values()),
            rank=board.ranks.get(model),
            remarks=tuple(_remarks(board, model)),
            stale=any(stale for _, stale in runs),
        )
        if model == reference:
            entry = replace(entry, difference=0.0)
        elif c is not None:
            entry = replace(entry, difference=c.difference, interval=c.interval, by_image=c.by_image)
        else:
            why = f"no seed in common with {reference}" if reference else "no reference"
            entry = replace(entry, missing=why)
        entries[model] = entry
    fit = "trained on train+val" if spec.fit == "train+val" else ""
    kind = (spec.recipe.name, spec.profile, fit, spec.budget.kind, f"protocol {spec.protocol}")
    return Side(board.name, board_heading(board), reference, spec.protocol, kind, entries)


def _why_no_result(board: Board, model: str) -> str:
    if model in board.mixed:
        return "its runs are of different networks"
    failed = next((r.status for r in board.counted[model] if r.status not in FINAL), "")
    return f"no result ({failed})" if failed else "no result"


def _remarks(board: Board, model: str) -> Iterator[str]:
    counted = board.counted[model]
    if void := board.samples[model].void:
        yield f"{void}: there is no valid interval"
    if failed := [r.status for r in counted if r.status not in FINAL]:
        yield f"{len(failed)} of {plural(len(counted), 'run')} failed ({', '.join(sorted(set(failed)))})"


@dataclass(frozen=True)
class BoardsSummary:
    """A summary of several boards.

    Attributes:
        sides: the boards, by name.
        reference: the common reference.
        models: those with a cell on every board, including the reference; the best mean difference first.
        missing: for every other model, the reasons of missing cells, by board.
    """

    sides: tuple[Side, ...]
    reference: str
    models: tuple[str, ...]
    missing: Mapping[str, Mapping[str, str]]

    def difference(self, model: str) -> float:
        """Mean over the boards of the difference to the reference, in points; each board has the same weight."""
        # fmean rounds once, so the order of boards changes no digit.
        return fmean(d for side in self.sides if (d := side.entries[model].difference) is not None)

    def improvability(self, model: str, side: Side | None = None) -> float:
        """1 - error of the best / error of the model, in %, where the best is one of `models`.

        It is 0 for the best itself. If the error of the best is 0, it is 100 for every other model (Erickson et al.
        2025, TabArena, arXiv:2506.16791).

        Args:
            side: a board; None means the mean over all boards.
        """
        if side is None:
            return fmean(self.improvability(model, each) for each in self.sides)
        error, least = _error(side, model), self._least[side.name]
        return 0.0 if error <= least else 100 * (1 - least / error)

    @cached_property
    def _least(self) -> dict[str, float]:
        return {side.name: min(_error(side, m) for m in self.models) for side in self.sides}

    @cached_property
    def labels(self) -> dict[str, str]:
        """Short names of the boards, by name."""
        return short_names([side.name for side in self.sides])

    @cached_property
    def perfect(self) -> tuple[Side, ...]:
        """Boards on which the best error is 0."""
        return tuple(side for side in self.sides if self._least[side.name] <= 0)


def _error(side: Side, model: str) -> float:
    accuracy = side.entries[model].accuracy
    assert accuracy is not None  # of complete models only
    return 100 - accuracy


def summarise(boards: Iterable[Side]) -> BoardsSummary:
    """The summary of some boards.

    Raises:
        UserError: there is only one board, or the boards have different protocols or references, or share no model.
    """
    sides = tuple(sorted(boards, key=lambda side: side.name))
    if not sides:
        raise UserError("none of these boards has a table: smoke runs and trials have none")
    if len(sides) < 2:
        only = sides[0].name
        raise UserError(f"a summary needs several boards, but {only} is one; equibench leaderboard {only} shows it")
    protocols = sorted({side.protocol for side in sides})
    if len(protocols) > 1:
        numbers = " and ".join(map(str, protocols))
        raise UserError(
            f"boards of protocols {numbers} cannot be combined, because their figures have different definitions;"
            f" choose the boards of one protocol, such as '*-v{protocols[-1]}'"
        )
    names = listed([side.name for side in sides], _NAMED)
    shared = set.intersection(*({m for m, e in side.entries.items() if e.accuracy is not None} for side in sides))
    if not shared:
        raise UserError(f"boards without a common model cannot be combined: no model has a result on all of {names}")
    references = {side.reference for side in sides}
    if len(references) > 1 or None in references:
        words = ["leaderboard", *(word for side in sides for word in ("--across", side.name))]
        named = listed([f"{side.name}: {side.reference or 'none'}" for side in sides], _NAMED)
        raise UserError(
            f"these boards have no common reference ({named});"
            f" {follow_up_command(*words, '--against', sorted(shared)[0])} chooses one; all of them have"
            f" {listed(sorted(shared), _NAMED)}"
        )
    reference = sides[0].reference or ""
    complete = [m for m in shared if not any(side.entries[m].missing for side in sides)]
    if not set(complete) - {reference}:
        raise UserError(
            f"boards without a common model cannot be combined: only the reference {reference} has a result on all"
            f" of {names}"
        )
    every = sorted({m for side in sides for m in side.entries} - set(complete))
    reasons = {m: {side.name: side.entries.get(m, Entry(missing=NOT_THERE)).missing for side in sides} for m in every}
    missing = {model: {name: why for name, why in own.items() if why} for model, own in reasons.items()}
    summary = BoardsSummary(sides, reference, tuple(complete), missing)
    return replace(summary, models=tuple(sorted(complete, key=lambda m: (-summary.difference(m), m))))


def groups(sides: Iterable[Side]) -> dict[tuple[str, ...], list[Side]]:
    """Groups of at least two boards that differ only in data set and budget, by what they have in common."""
    found: dict[tuple[str, ...], list[Side]] = {}
    for side in sorted(sides, key=lambda s: s.name):
        found.setdefault(side.kind, []).append(side)
    return {kind: own for kind, own in found.items() if len(own) > 1}


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names of boards without common first and last words; each keeps at least one word."""
    words = [name.split("-") for name in names]
    least = min(len(own) for own in words)
    start = next((i for i in range(least) if len({own[i] for own in words}) > 1), least)
    end = next((i for i in range(least) if len({own[-1 - i] for own in words}) > 1), least)
    short = {name: "-".join(own[start : len(own) - end]) for name, own in zip(names, words, strict=True)}
    return short if all(short.values()) else {name: name for name in names}
