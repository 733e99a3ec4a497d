"""Files of suites, and commands, with which a reader can repeat a board or a family of boards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ...registry import MODELS, UserError
from ..boards.board import Board
from ..boards.families import BoardFamily
from ..records.record import RunRecord
from ..spec.recipe import is_tuned
from ..spec.suite import AXES, PROTOCOL, Suite
from ..tools.text import listed

#: Results folder of a repetition. In the original folder, the runs would count as finished.
RESULTS = "repeated"


def suites_of(board: Board) -> dict[str, Suite]:
    """The suites that give exactly the runs of a board, by the names of their files.

    There is one suite, unless models have different seeds, classes or equivariance profiles.
    """
    alike: dict[tuple[Any, ...], list[str]] = {}
    for model, runs in board.runs.items():
        alike.setdefault(_asked([record for record, _ in runs], board), []).append(model)
    names = [board.name] if len(alike) == 1 else [f"{board.name}-{i + 1}" for i in range(len(alike))]
    named = zip(names, alike.items(), strict=True)
    return {name: _suite(name, board, models, *asked) for name, (asked, models) in named}


def _asked(records: list[RunRecord], board: Board) -> tuple[Any, ...]:
    """The requested values of a model's runs: seeds, class, reference count, equivariance profile."""
    seeds = tuple(sorted(r.spec.seed for r in records))
    contexts = {(r.context.parameter_class, r.context.reference_parameters) for r in records}
    size = contexts.pop() if len(contexts) == 1 else ("as-published", None)
    full = all(r.run_id in board.sidecars for r in records if r.results is not None) and bool(board.sidecars)
    return seeds, *size, "full" if full else "core"


def _suite(
    name: str, board: Board, models: list[str], seeds: tuple[int, ...], size: str, count: int | None, profile: str
) -> Suite:
    spec = board.chosen[0][0].spec
    values = {
        "name": name, "title": f"The runs of board {board.name}", "dataset": spec.dataset,
        "budget": spec.budget.name, "recipe": spec.recipe.name, "profile": spec.profile, "fit": spec.fit,
        "train_images": spec.train_images, "class": size, "reference_parameters": count,
        "reference_model": board.reference, "equivariance": profile, "models": models,
        "seeds": len(seeds) if seeds == tuple(range(len(seeds))) else list(seeds),
    }  # fmt: skip
    return Suite.model_validate(values)


def suite_file(suite: Suite, several: Mapping[str, list[Any]] | None = None) -> str:
    """The file of a suite; keys with default values are left out.

    Args:
        several: for a family of boards, the values of `suite.AXES`.
    """
    values = suite.model_dump(by_alias=True, exclude_defaults=True, exclude={"name"})
    values |= {"seeds": suite.seeds, **(several or {})}
    # Texts, numbers and lists of JSON are also valid TOML.
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())


def family_file(family: BoardFamily) -> str:
    """The file of the suite of a family of boards."""
    suites = [p.suite for p in family.points]
    several = {axis: list(dict.fromkeys(getattr(s, axis) for s in suites)) for axis in AXES}
    return suite_file(suites[0], {axis: values for axis, values in several.items() if len(values) > 1})


def commands(names: Iterable[str], recipe: str, board: str = "") -> list[str]:
    """The commands that run suites from downloaded files, and show the resulting board."""
    files = [f"{name}.toml" for name in names]
    asked = [f"equibench tune {file} --results {RESULTS}" for file in files if is_tuned(recipe)]
    asked += [f"equibench run {file} --results {RESULTS}" for file in files]
    return asked + ([f"equibench leaderboard {board} --results {RESULTS}"] if len(files) > 1 else [])


def cautions(board: Board) -> list[str]:
    """Important information for readers who repeat a board."""
    spec = board.chosen[0][0].spec
    found = []
    if unknown := [m for m in board.runs if not _is_registered(m)]:
        found.append(f"Not included in equibench: {listed(unknown)}. Give their files with --include FILE.")
    if spec.budget.kind == "T":
        found.append("Step times are measured again: another kind of device gives a separate board.")
    if spec.protocol != PROTOCOL:
        found.append(f"The board is of protocol {spec.protocol}; runs are now made under protocol {PROTOCOL}.")
    return found


def _is_registered(model: str) -> bool:
    try:
        MODELS.find(model)
    except UserError:
        return False
    return True
