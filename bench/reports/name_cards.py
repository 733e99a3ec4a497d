"""Find out what a name means; cards of suites and recipes. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...registry import DATASETS, MODELS, UnknownName, UserError, nearest
from ..boards.families import find_points
from ..records.find import matches_a_run
from ..records.store import board_names
from ..spec.recipe import PAPER, named_recipes, paper_recipes
from ..spec.suite import suite_names
from ..tools.text import fitted_table, follow_up_command, plural, wrapped


def kind_of(name: str, root: Path) -> str:
    """``run``, ``model``, ``data set``, ``suite``, ``board`` or ``recipe``.

    Raises:
        UserError: nothing has this name.
    """
    if matches_a_run(name, root):
        return "run"
    try:
        MODELS.find(name)
        return "model"
    except UserError as error:
        why = error
    boards = board_names(root)
    known = {
        "data set": list(DATASETS.entries()),
        "suite": suite_names(),
        "board": [*boards, *(board.rpartition("-v")[0] for board in boards)],
        "recipe": [*named_recipes(), PAPER],
    }
    found = next((kind for kind, names in known.items() if name in names), "")
    if found or name.endswith(".toml"):
        return found or "suite"
    if "+" in name or not isinstance(why, UnknownName):  # a model with wrappers, or no possible name of a model
        raise why
    kinds = {n: kind for kind, names in reversed([("model", [*MODELS.entries()]), *known.items()]) for n in names}
    run = f"no run's id begins with {name!r}, and " if all(c in "0123456789abcdef." for c in name) else ""
    none = f"there is no model, data set, suite, board or recipe {name[:80]!r}{MODELS.include_hint('model')}"
    listing = "equibench list models, datasets, suites or recipes"
    raise UserError(f"{run}{none}; {nearest(name, kinds, listing, kinds)}")


def suite_card(name: str) -> dict[str, Any]:
    """A suite, or a family of suites, with the registered facts of its models."""
    points = find_points(name)
    suite = points[0]
    card: dict[str, Any] = {"suite": suite.name, "title": suite.title, "dataset": suite.dataset}
    card |= {"budget": ", ".join(dict.fromkeys(p.budget for p in points)), "recipe": suite.recipe}
    card |= {"profile": suite.profile, "fit": suite.fit, "seeds": suite.seed_list, "reference": suite.reference_model}
    models = []
    for model_name in suite.models:
        model = MODELS.find(model_name)
        row = {"model": model_name, "group": model.get("group", ""), "invariant": model.get("invariant", "")}
        row["parameters"] = next((f"{n:,}" for n in (model.get("params") or {}).values()), "")
        models.append(row | {"source": model.get("source", "")})
    return {**card, "boards": [point.board() for point in points], "models": models}


def suite_text(name: str, width: int | None) -> str:
    """The card of a suite for a terminal."""
    card = suite_card(name)
    head = f"{card['suite']}: {card['title']}" if card["title"] else card["suite"]
    facts = [f"{key} {card[key]}" for key in ("dataset", "budget", "recipe", "profile", "fit")]
    facts += [plural(len(card["seeds"]), "seed"), f"reference {card['reference'] or 'none'}"]
    lines = [head, ", ".join(facts), f"{plural(len(card['boards']), 'board')}: {', '.join(card['boards'])}", ""]
    lines += [fitted_table(card["models"], ("model", "parameters", "invariant", "group", "source"), width), ""]
    return "\n".join([*lines, f"to run it: {follow_up_command('run', name)}"])


def recipe_rows() -> list[dict[str, Any]]:
    """All recipes: those for every model, the ``paper`` recipes of single models, and the tuned ones."""
    keys = ("optimizer", "lr", "batch", "epochs", "augment", "batch_norm")
    rows = [
        {"name": name, **{key: getattr(recipe, key) for key in keys}, "models": "all", "note": recipe.note}
        for name, recipe in named_recipes().items()
    ]
    for name, (patterns, recipe) in paper_recipes().items():
        row = {"name": PAPER, **{key: getattr(recipe, key) for key in keys}}
        rows.append(row | {"models": ", ".join(patterns), "note": recipe.note or name})
    tuned = {"name": "tuned", **dict.fromkeys(keys, ""), "models": "those of equibench tune"}
    rows.append(tuned | {"note": "common, with a rate for each model, chosen on validation images"})
    return [{key: ", ".join(v) if isinstance(v, list) else v for key, v in row.items()} for row in rows]


def recipe_text(rows: Sequence[dict[str, Any]], width: int | None) -> str:
    """Some of `recipe_rows` for a terminal, one paragraph each."""
    paragraphs = [[f"{key.replace('_', ' ')}: {value}" for key, value in row.items() if value] for row in rows]
    return "\n\n".join("\n".join(wrapped(line, width) for line in lines) for lines in paragraphs)
