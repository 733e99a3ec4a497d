"""Chooses a learning rate for each model: the same grid for all models, one seed, scored on validation images.

A trial is an ordinary run with the budget of the suite. All trials are records of the suite's tuning board, which has
no table: its test accuracies must not influence the choice, and this module does not read them. The chosen rates are
written to one file of the results folder. The recipe ``tuned`` reads this file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...registry import UserError, include
from ..boards.board import Board
from ..records.record import FINAL
from ..records.store import lock_path
from ..spec.recipe import COMMON, TUNED, Recipe, read_tuned
from ..spec.suite import TUNING, RunSpec, Suite, tuned_file
from ..tools.files import results_root, write_atomically
from ..tools.machine import Machine
from .admission import base_recipe, refuse_tuning
from .head_to_head import Listener, Outcome, run

#: Learning rates that every model is trained with.
GRID = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
#: Seed of all trials. Measured runs may use it too: the choice is fair because it uses validation images only.
SEED = 0


@dataclass(frozen=True)
class Tuning:
    """The result of tuning a suite.

    Attributes:
        recipe: name of the tuned recipe.
        scores: validation accuracy in percent of each model at each rate; None if the run failed.
        chosen: the best rate of each model.
        path: file of the tuned recipes.
    """

    outcome: Outcome
    recipe: str
    scores: dict[str, dict[float, float | None]]
    chosen: dict[str, float]
    path: Path

    @property
    def at_the_edge(self) -> list[str]:
        """Models whose best rate is at an edge of the grid: a better one may lie outside."""
        return [m for m, rate in self.chosen.items() if rate in (GRID[0], GRID[-1])]


def trials(suite: Suite, specs: list[RunSpec]) -> list[RunSpec]:
    """The trials for planned runs of the base recipe: every model with each rate, everything else equal."""
    base = base_recipe(suite)
    name = TUNING + base.name.removeprefix(COMMON)
    return [
        spec.model_copy(update={"recipe": base.bare.model_copy(update={"name": name, "lr": rate})})
        for rate in GRID
        for spec in specs
    ]


def tune(
    suite: Suite, *, results: str | Path | None = None, machine: Machine | None = None, listener: Listener | None = None
) -> Tuning:
    """Try `GRID` with every model of a suite and write the file of the tuned recipes.

    Finished trials are kept. Trials whose source, data or recipe has changed are repeated. The arguments are those of
    `head_to_head.run`.

    Raises:
        UserError: the suite's recipe cannot be tuned, or no trial of a model has a validation accuracy.
    """
    base, machine = base_recipe(suite), machine or Machine()
    include(machine.files)
    refuse_tuning(suite)
    values = {**suite.model_dump(by_alias=True), "recipe": base.name, "seeds": [SEED]}
    outcome = run(
        Suite.model_validate(values), results=results, machine=machine, listener=listener,
        trials=partial(trials, suite), refresh=True,
    )  # fmt: skip
    scores = validation_scores(outcome.board, suite.models)
    chosen = {model: best_rate(model, scores[model]) for model in suite.models}
    hardware_key = outcome.board.chosen[0][0].spec.hardware_key
    tuned = suite.model_copy(update={"recipe": TUNED + base.name.removeprefix(COMMON)})
    path = tuned_file(results_root(results), tuned.board(hardware_key))
    write_tuned(path, base, chosen, scores)
    return Tuning(outcome, tuned.recipe, scores, chosen, path)


def validation_scores(board: Board, models: list[str]) -> dict[str, dict[float, float | None]]:
    """Validation accuracy of each model at each rate, from the records of a tuning board that are not stale."""
    scores: dict[str, dict[float, float | None]] = {m: dict.fromkeys(GRID) for m in models}
    for record, stale in board.chosen:
        rates, rate = scores.get(record.spec.model, {}), record.spec.recipe.lr
        if not stale and rate in rates and record.status in FINAL and record.results:
            rates[rate] = record.results.val_acc_pct
    return scores


def best_rate(model: str, scores: dict[float, float | None]) -> float:
    """The rate with the highest validation accuracy, the smallest if there are several; UserError if there is none."""
    known = {rate: score for rate, score in scores.items() if score is not None}
    if not known:
        raise UserError(f"no trial of model {model!r} was finished, so no rate can be chosen; try it with `run`")
    return min(known, key=lambda rate: (-known[rate], rate))


def write_tuned(
    path: Path, base: Recipe, chosen: dict[str, float], scores: dict[str, dict[float, float | None]]
) -> None:
    """Write the tuned recipe of each model; recipes of other models in the file stay."""
    own: dict[str, Any] = {}
    for model, rate in chosen.items():
        shown = ", ".join(f"{r:g}: {'failed' if s is None else f'{s:.2f}'}" for r, s in scores[model].items())
        note = f"validation accuracy in % by rate: {shown}"
        recipe = base.model_copy(update={"lr": rate, "trials": len(GRID), "note": note})
        own[model] = recipe.model_dump(exclude={"name"}, exclude_none=True)
    add_tuned(path, own)


def add_tuned(path: Path, own: dict[str, Any]) -> None:
    """Write the tables of models into a file of tuned recipes; tables of other models in the file stay."""
    from filelock import FileLock

    with FileLock(lock_path(path.parent, path.stem)):  # two processes may tune models of one board
        table = read_tuned(path) | own
        note = "# Recipes with a rate for each model, chosen on validation images by `equibench tune`."
        write_atomically(path, f"{note}\n{tables_text(table)}".encode())


def tables_text(table: dict[str, Any]) -> str:
    """Tables by their names as TOML."""
    lines: list[str] = []
    for name in sorted(table):
        lines += ["", f"[{_toml(name)}]", *(f"{key} = {_toml(value)}" for key, value in table[name].items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A value of a recipe, or of a suite, as TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(own)}" for key, own in value.items()) + " }"
    # JSON and TOML write numbers, strings, booleans and lists of these alike if no character needs a surrogate pair.
    return json.dumps(value, ensure_ascii=False)
