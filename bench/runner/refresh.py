"""Running again what has changed since it was measured: new attempts, while the old records stay."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ...registry import UserError, nearest
from ..boards.board import Board, find_board, load_board
from ..records.record import Context, RunRecord
from ..spec.suite import RunSpec, Suite
from ..tools.machine import Machine
from ..tools.schema import parse
from .admission import refuse_joining
from .head_to_head import Listener
from .head_to_head import run as run_suite


@dataclass
class Refreshed:
    """What a refresh came to.

    Attributes:
        stale: what was stale, as (model, seed, what had changed).
        ran: new attempts by their run's id, as (status, reason).
        board: the board afterwards.
    """

    board: Board
    stale: list[tuple[str, int, str]]
    ran: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def left(self) -> list[tuple[str, int, str]]:
        """What was to be run again and is stale, or without a result, still."""
        wanted = {(model, seed) for model, seed, _ in self.stale}
        rows = [
            (r.spec.model, r.spec.seed, stale or r.status)
            for r, stale in self.board.chosen
            if stale or r.status != "ok"
        ]
        return [row for row in rows if row[:2] in wanted]


def stale_runs(board: Board, patterns: Iterable[str] = ()) -> list[tuple[RunRecord, str]]:
    """The runs of a board that are stale, with what has changed, of models that fit any of the patterns (all
    without).
    """
    patterns = list(patterns) or ["*"]
    return [(r, why) for r, why in board.chosen if why and any(fnmatch.fnmatchcase(r.spec.model, p) for p in patterns)]


def refresh(
    name: str,
    root: Path,
    *,
    patterns: Iterable[str] = (),
    machine: Machine | None = None,
    listener: Listener | None = None,
    only_say: bool = False,
) -> Refreshed:
    """Run the stale rows of a board again, each as a further attempt with the recipe as it is now.

    Included files must be known to the registry already.

    Args:
        name: the board, with or without its version.
        root: results folder.
        patterns: models, as in a shell; all without.
        only_say: train nothing.

    Raises:
        UserError: there is no such board or model on it, or it cannot be continued here.
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
            outcome = run_suite(
                suite,
                results=root,
                machine=machine,
                listener=listener,
                trials=lambda specs, wanted=wanted: _only(specs, wanted, name),  # type: ignore[misc]
                refresh=True,
            )
            done.ran |= outcome.ran
        done.board = load_board(root, name)
    return done


def _suites(found: list[tuple[RunRecord, str]], board: Board) -> list[tuple[Suite, set[tuple[str, int]]]]:
    """What asked for the runs, made anew from their records, and which (model, seed) of each are wanted."""
    by_context: dict[str, list[RunRecord]] = {}
    for record, _ in found:
        by_context.setdefault(record.context.model_dump_json(), []).append(record)
    suites = []
    for records in by_context.values():
        full = any(r.run_id in board.sidecars for r in records)
        suites.append((_suite(records, records[0].context, full), {(r.spec.model, r.spec.seed) for r in records}))
    return suites


def _suite(records: list[RunRecord], context: Context, full: bool) -> Suite:
    spec = records[0].spec
    values = {
        "name": context.suite,
        "dataset": spec.dataset,
        "budget": spec.budget.name,
        "recipe": spec.recipe.name,
        "profile": spec.profile,
        "fit": spec.fit,
        "train_images": spec.train_images,
        "seeds": sorted({r.spec.seed for r in records}),
        "class": context.parameter_class,
        "reference_parameters": context.reference_parameters,
        "reference_model": context.reference_model,
        "equivariance": "full" if full else "core",
        "models": list(dict.fromkeys(r.spec.model for r in records)),
    }
    return parse(Suite, values, f"the records of board {spec.board}")


def _only(specs: list[RunSpec], wanted: set[tuple[str, int]], board: str) -> list[RunSpec]:
    """Of planned runs those that are wanted."""
    if specs[0].board != board:
        raise UserError(f"board {board} cannot be continued here: its runs would now belong to board {specs[0].board}")
    return [s for s in specs if (s.model, s.seed) in wanted]
