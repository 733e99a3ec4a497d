"""Repeats runs whose model, data or recipe has changed. They become new attempts; the old records stay."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ...registry import UserError, nearest
from ..boards.board import Board, find_board, load_board
from ..records.record import RunRecord
from ..spec.suite import RunSpec, Suite
from ..tools.machine import Machine
from ..tools.schema import parse
from ..tools.text import is_selected
from .admission import refuse_joining
from .head_to_head import Listener
from .head_to_head import run as run_suite


@dataclass
class Refreshed:
    """The board after a refresh.

    Attributes:
        stale: the stale runs, as (model, seed, what had changed).
        ran: (status, reason) of the new attempts, by run id.
    """

    board: Board
    stale: list[tuple[str, int, str]]
    ran: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def left(self) -> list[tuple[str, int, str]]:
        """Runs of `stale` that are still stale, or have no result."""
        wanted = {(model, seed) for model, seed, _ in self.stale}
        rows = [(r.spec.model, r.spec.seed, stale or r.status) for r, stale in self.board.chosen]
        return [row for row in rows if row[:2] in wanted and row[2] != "ok"]


def stale_runs(board: Board, patterns: Sequence[str] = ()) -> list[tuple[RunRecord, str]]:
    """The stale runs of a board, and what has changed; only of models that fit a shell pattern, if there are any."""
    return [(record, why) for record, why in board.chosen if why and is_selected(record.spec.model, patterns)]


def refresh(
    name: str, root: Path, *, patterns: Iterable[str] = (), machine: Machine | None = None,
    listener: Listener | None = None, only_say: bool = False,
) -> Refreshed:  # fmt: skip
    """Run the stale rows of a board again, each as a further attempt with the current recipe.

    Args:
        name: the board, with or without its version.
        root: results folder.
        patterns: shell patterns of models; empty for all models.
        only_say: only find the stale runs; train nothing.

    Raises:
        UserError: the board or a model does not exist, or the board cannot be continued here.
    """
    name = find_board(name, root)
    board, patterns, machine = load_board(root, name), list(patterns), machine or Machine()
    models = sorted({r.spec.model for r, _ in board.chosen})
    for pattern in patterns:
        if not fnmatch.filter(models, pattern):
            raise UserError(f"board {name} has no model {pattern!r}; {nearest(pattern, models)}")
    found = stale_runs(board, patterns)
    done = Refreshed(board, [(r.spec.model, r.spec.seed, why) for r, why in found])
    if found and not only_say:
        refuse_joining(found[0][0], machine.device)
        for suite, wanted in _suites(found, board):
            chosen = partial(_only, wanted=wanted, board=name)
            outcome = run_suite(suite, results=root, machine=machine, listener=listener, trials=chosen, refresh=True)
            done.ran |= outcome.ran
        done.board = load_board(root, name)
    return done


def _suites(found: list[tuple[RunRecord, str]], board: Board) -> list[tuple[Suite, set[tuple[str, int]]]]:
    """The suites of the runs, reconstructed from their records, each with the wanted (model, seed)."""
    by_context: dict[str, list[RunRecord]] = {}
    for record, _ in found:
        by_context.setdefault(record.context.model_dump_json(), []).append(record)
    suites = []
    for records in by_context.values():
        spec, context = records[0].spec, records[0].context
        values = {
            **spec.model_dump(include={"dataset", "profile", "fit", "train_images"}),
            **context.model_dump(include={"reference_parameters", "reference_model"}),
            "name": context.suite,
            "budget": spec.budget.name,
            "recipe": spec.recipe.name,
            "seeds": sorted({r.spec.seed for r in records}),
            "class": context.parameter_class,
            "equivariance": "full" if any(r.run_id in board.sidecars for r in records) else "core",
            "models": list(dict.fromkeys(r.spec.model for r in records)),
        }
        suite = parse(Suite, values, f"the records of board {spec.board}")
        suites.append((suite, {(r.spec.model, r.spec.seed) for r in records}))
    return suites


def _only(specs: list[RunSpec], wanted: set[tuple[str, int]], board: str) -> list[RunSpec]:
    """The wanted runs among the planned ones."""
    if specs[0].board != board:
        raise UserError(f"board {board} cannot be continued here: its runs would now belong to board {specs[0].board}")
    return [s for s in specs if (s.model, s.seed) in wanted]
