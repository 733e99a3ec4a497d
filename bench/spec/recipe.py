"""Recipes: optimiser, learning rate, schedule, batch size, augmentation and batch-norm rule, as data.

``recipes.toml`` has the recipes that are the same for every model of a board. The recipe ``paper`` depends on the
network: each table in the files ``recipes_*.toml`` is the recipe of the models that it names. The recipe ``tuned`` is
``common`` with a learning rate for each model. `tune` chooses the rates on validation images and writes them to the
results folder.
"""

from __future__ import annotations

import fnmatch
from bisect import bisect_right
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from ...registry import UserError, nearest
from ..tools.files import shipped, shipped_names
from ..tools.schema import Amount, Strict, Text, parse, parse_toml, read_text
from ..tools.text import follow_up_command

#: The recipe of each network's authors; prefix of tuned recipes, and of the recipes that they are derived from.
PAPER, TUNED, COMMON = "paper", "tuned", "common"


class Schedule(Strict):
    """The learning rate as a fraction of its maximum. It depends only on the progress p in [0, 1].

    Attributes:
        shape: ``linear`` interpolates between the knots, ``step`` holds each until the next.
        knots: pairs (progress, factor), progress ascending from 0.
    """

    shape: Literal["linear", "step"]
    knots: list[list[float]] = Field(max_length=10_000)

    @model_validator(mode="after")
    def _ascending(self) -> Schedule:
        progress = [k[0] for k in self.knots if len(k) == 2]
        if len(progress) != len(self.knots) or not progress or progress[0] != 0 or progress != sorted(set(progress)):
            raise ValueError("knots are pairs [progress, factor], and the progress increases from 0")
        if progress[-1] > 1 or (self.shape == "linear" and progress[-1] != 1):
            raise ValueError("progress must not exceed 1")
        return self

    def factor(self, progress: float) -> float:
        """The factor at `progress` in [0, 1]."""
        index = bisect_right([k[0] for k in self.knots], progress) - 1
        here = self.knots[index]
        if self.shape == "step" or index + 1 == len(self.knots):
            return here[1]
        there = self.knots[index + 1]
        share = (progress - here[0]) / (there[0] - here[0])
        return here[1] + share * (there[1] - here[1])


class Recipe(Strict):
    """How a model is trained.

    Attributes:
        optimizer: ``adam`` adds the weight decay to the gradient (L2), ``adamw`` decouples it.
        lr: maximal learning rate.
        weight_decay: coefficient of the L2 penalty.
        decayed: ``weights``: weights of convolutions and linear layers; ``all``: also normalisation and biases.
        l1: coefficient of the L1 penalty on the same weights.
        batch: images per step.
        augment: names of augmentations in `datasets.batches`, applied in this order.
        batch_norm: ``reestimate``: compute the statistics again after the last step, by one pass over 500 unaugmented
            training images (a seeded sample, stratified by class); ``running``: keep the running averages of training.
        batch_norm_momentum: torch's momentum of the running averages; the model's own if absent.
        epochs: passes over the training set in the authors' training, used by P budgets.
        trials: number of runs that were made to choose the learning rate of each model.
    """

    name: Text
    optimizer: Literal["adam", "adamw", "sgd"]
    lr: Amount = Field(gt=0)
    momentum: Amount = 0.0
    nesterov: bool = False
    weight_decay: Amount = 0.0
    decayed: Literal["weights", "all"] = "weights"
    l1: Amount = 0.0
    batch: int = Field(gt=0, le=2**31)
    schedule: Schedule
    augment: list[Text] = Field(default=[], max_length=100)
    batch_norm: Literal["reestimate", "running"]
    batch_norm_momentum: float | None = None
    epochs: Amount | None = Field(default=None, gt=0)
    trials: int = Field(default=0, ge=0, le=10**6)
    note: Text = ""

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step number `step` (from 0) of `steps`.

        The schedule is evaluated at the middle of the step, p = (step + 1/2) / steps, so that no step has a rate of
        exactly zero.
        """
        return self.lr * self.schedule.factor((step + 0.5) / steps)

    @property
    def bare(self) -> Recipe:
        """The recipe without fields that do not change a result: texts, and epochs, which the steps contain."""
        return self.model_copy(update={"note": "", "epochs": None})


@cache
def named_recipes() -> dict[str, Recipe]:
    """The shipped recipes that are the same for every model."""
    table = parse_toml(shipped("bench", "spec", "recipes.toml"), "recipes.toml")
    return {n: parse(Recipe, {"name": n, **v}, f"recipes.toml [{n}]") for n, v in table.items()}


@cache
def paper_recipes() -> dict[str, tuple[tuple[str, ...], Recipe]]:
    """The tables of ``recipes_*.toml``: patterns of models (default: the table's name), and their recipe."""
    found: dict[str, tuple[tuple[str, ...], Recipe]] = {}
    for stem in shipped_names("bench", "spec", suffix=".toml"):
        if stem.startswith("recipes_"):
            for name, values in parse_toml(shipped("bench", "spec", f"{stem}.toml"), f"{stem}.toml").items():
                patterns = tuple(values.pop("models", [name]))
                found[name] = patterns, parse(Recipe, {"name": PAPER, **values}, f"{stem}.toml [{name}]")
    return found


def check_recipe(name: str) -> None:
    """Refuse (UserError) a recipe that exists for no model."""
    if name not in named_recipes() and name != PAPER and not is_tuned(name):
        raise UserError(f"there is no recipe {name[:60]!r}; {nearest(name, [*named_recipes(), PAPER, TUNED])}")


def is_tuned(name: str) -> bool:
    """Whether a recipe is a tuned version of one of `named_recipes`: ``tuned`` of ``common``, and so on."""
    return name.startswith(TUNED) and COMMON + name.removeprefix(TUNED) in named_recipes()


def find_recipe(name: str, model: str = "", tuned: Path | None = None, tune: str = "") -> Recipe:
    """The recipe of this name for a model. Raises UserError if there is none.

    Args:
        model: matters if the recipe is ``paper`` or tuned; a wrapper (``+…``) has the recipe of the model that it
            wraps.
        tuned: file with the tuned recipes of the board.
        tune: the command that writes this file, for messages.
    """
    check_recipe(name)
    if name in named_recipes():
        return named_recipes()[name]
    return _paper_recipe(model) if name == PAPER else _tuned_recipe(name, model, tuned, tune)


def _paper_recipe(model: str) -> Recipe:
    base = model.partition("+")[0]
    for patterns, recipe in paper_recipes().values():
        if any(fnmatch.fnmatchcase(base, p) for p in patterns):
            return recipe
    raise UserError(f"recipe 'paper': no published recipe is known for model {model!r}; train it with 'common'")


def _tuned_recipe(name: str, model: str, path: Path | None, tune: str) -> Recipe:
    table = read_tuned(path) if path is not None else {}
    if path is None or model not in table:
        what = f"recipe {name!r}: no rate was tuned for model {model!r} on this board"
        raise UserError(f"{what}; choose one with {tune or follow_up_command('tune')}")
    return tuned_recipe(name, model, table, path)


def read_tuned(path: Path) -> dict[str, Any]:
    """The tables of a file of tuned recipes, by model; empty if there is no file. Raises `UserError`."""
    return parse_toml(read_text(path), str(path)) if path.is_file() else {}


def tuned_recipe(name: str, model: str, tables: dict[str, Any], path: Path) -> Recipe:
    """The recipe of a model, with this name, from the tables of a file of tuned recipes; UserError if it is wrong."""
    if not isinstance(tables[model], dict):
        raise UserError(f"{path}: {model!r:.100} must be a table, as [{model:.100}]")
    return parse(Recipe, {"name": name, **tables[model]}, f"{path} [{model:.100}]")
