"""Cards: what is known of a model, and of a run."""

from __future__ import annotations

from typing import Any

from ..registry import MODELS, UserError
from .files import results_root
from .record import board_folder, board_names, read_record


def model_card(name: str) -> dict[str, Any]:
    """What the registration of a model says.

    Raises:
        UserError: there is no such model.
    """
    resolved = MODELS.find(name)
    keys = ("family", "group", "invariant", "status", "source", "note", "params")
    card = {"model": name, **{key: resolved.get(key) for key in keys}}
    card |= {"arguments": resolved.arguments, "wrappers": [w.name for w in resolved.wrappers]}
    return {**card, "file": f"{resolved.entry.path.name}:{resolved.entry.line}", "about": resolved.entry.doc}


def run_card(run: str, results: str | None = None) -> dict[str, Any] | None:
    """The record of the run whose id begins with `run`; None if there is none.

    Raises:
        UserError: several begin so.
    """
    root = results_root(results)
    if len(run) < 4 or not all(c in "0123456789abcdef." for c in run):
        return None
    paths = [p for board in board_names(root) for p in board_folder(root, board).glob(f"{run}*.json")]
    if len(paths) > 1:
        raise UserError(f"{run!r} begins {len(paths)} runs: " + ", ".join(sorted(p.name for p in paths)[:5]))
    return read_record(paths[0]).model_dump(mode="json") if paths else None
