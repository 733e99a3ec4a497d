"""Merges tuned recipes: adds models without a recipe to the board's file, and keeps all existing recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from ...registry import UserError
from ..records.store import board_folder
from ..runner.tune import add_tuned, read_tuned
from ..spec.recipe import TUNED, Recipe
from ..spec.suite import tuned_file
from ..tools.schema import parse, parse_toml, read_text

State = Literal["new", "known", "refused"]


def merge_tuned(folder: Path, root: Path) -> list[tuple[str, str, State, str]]:
    """Add the tuned recipes of a results folder.

    Returns:
        Board, file name, state and reason, as in `merge.MergedFile`.
    """
    found: list[tuple[str, str, State, str]] = []
    for path in sorted((folder / "tuned").glob("*.toml")):
        why = ""
        try:
            board_folder(root, path.stem)  # refuses names that are not names of boards
            state = _take(path, tuned_file(root, path.stem))
        except UserError as error:
            state, why = "refused", str(error).replace(f"{folder}/", "")
        found.append((path.stem, path.name, state, why))
    return found


def _take(path: Path, ours: Path) -> State:
    theirs, there = _recipes(path, parse_toml(read_text(path, link=False), str(path))), _recipes(ours, read_tuned(ours))
    new = {model: recipe for model, recipe in theirs.items() if model not in there}
    if new:
        add_tuned(ours, new)
    others = [model for model, recipe in theirs.items() if there.get(model, recipe) != recipe]
    if others:
        raise UserError(f"{path.name}: {', '.join(others[:5])} has another tuned recipe here, which is kept")
    return "new" if new else "known"


def _recipes(path: Path, table: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for model, values in table.items():
        if not isinstance(values, dict):
            raise UserError(f"{path}: {model!r:.100} must be a table, as [{model:.100}]")
        recipe = parse(Recipe, {"name": TUNED, **values}, f"{path} [{model:.100}]")
        found[model] = recipe.model_dump(exclude={"name"}, exclude_none=True)
    return found
