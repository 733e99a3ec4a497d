"""Suites (named comparisons) and run specifications (one training run each)."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ...registry import DATASETS, MODELS, UserError, nearest, option
from ..tools.files import results_root, shipped, shipped_names
from ..tools.schema import NAME, Count, Strict, Text, parse, parse_toml, read_text, short_hash
from ..tools.text import follow_up_command, given_option, suite_as_given
from .accepted_sizes import check_sizes
from .budget import Budget, find_budget
from .recipe import COMMON, PAPER, TUNED, Recipe, check_recipe, find_recipe, is_tuned

#: Version of the training loop, the schedule, the augmentation and the definitions of the metrics. It increases when a
#: change of one of them changes a figure. Then new boards start.
PROTOCOL = 2

#: Largest relative distance from the reference count in a matched suite.
MATCHED = 0.05
#: Keys of a suite file that may be lists: the axes of a family of boards.
AXES = ("budget", "train_images")
#: Name of the values of a command or a call that is not about a suite.
AD_HOC = "ad-hoc"
#: Prefix of the recipes of tuning trials, see `tune`.
TUNING = "tuning"
#: Largest length of a board's name, in characters. The name is also used for folders and files.
LONGEST_BOARD = 180
#: Upper limits of the numbers of models and seeds, against mistakes and attacks.
MOST_MODELS, MOST_SEEDS = 10_000, 100_000
#: Every JSON parser represents integers up to this one exactly.
LARGEST_SEED = 2**53

_SAFE = re.compile(NAME)
#: The part of a board's name with the number of training images; a recipe's name must not end like this.
_IMAGES = re.compile(r"-n[0-9]+img(-|$)")


class RunSpec(Strict):
    """Everything that determines the result of one run.

    Attributes:
        fit: the training images: ``train`` (without the validation images) or ``train+val``.
        steps: optimiser steps N.
        profile: execution profile, ``strict`` or ``fast``.
        protocol: protocol version, see `PROTOCOL`.
        hardware_key: the hardware of a T run's calibration; None on other boards.
        train_images: size of the training subset, which depends on the seed (see `datasets.subsets`); None for all.
    """

    model: str
    dataset: str
    fit: Literal["train", "train+val"]
    budget: Budget
    steps: Count = Field(gt=0)
    recipe: Recipe
    profile: Literal["strict", "fast"]
    seed: int = Field(ge=0, le=LARGEST_SEED)
    protocol: int = Field(ge=1, le=10**6)
    hardware_key: Text | None = Field(default=None, max_length=300)
    train_images: Count | None = Field(default=None, gt=0)

    @field_validator("model", "dataset")
    @classmethod
    def _safe(cls, name: str) -> str:
        if not _SAFE.fullmatch(name) or ".." in name:
            raise ValueError("names have at most 100 letters, digits and . _ + -, and do not start with a sign")
        return name

    @model_validator(mode="after")
    def _has_a_board(self) -> RunSpec:
        if not _SAFE.fullmatch(self.recipe.name):
            raise ValueError(f"the recipe's name {self.recipe.name!r:.80} may have only letters, digits and . _ + -")
        if _IMAGES.search(self.recipe.name):
            raise ValueError(f"the recipe's name {self.recipe.name!r:.80} reads like a number of training images")
        if len(self.board) > LONGEST_BOARD:
            raise ValueError(f"the name of its board would have more than {LONGEST_BOARD} characters")
        if self.budget.kind == "smoke" and self.steps != self.budget.steps:
            raise ValueError(f"'steps' is {self.steps}, but the budget says {self.budget.steps}")
        return self

    @property
    def is_trial(self) -> bool:
        """Whether the run is a trial of a learning rate."""
        return self.recipe.name.startswith(TUNING)

    @property
    def board(self) -> str:
        """Name of the run's board. It contains all settings that must agree between its rows."""
        return board_name(
            self.dataset, self.fit, self.budget.name, self.recipe.name, self.profile, self.protocol, self.hardware_key,
            self.train_images,
        )  # fmt: skip


def board_name(
    dataset: str,
    fit: str,
    budget: str,
    recipe: str,
    profile: str,
    protocol: int = PROTOCOL,
    hardware_key: str | None = None,
    train_images: int | None = None,
) -> str:
    """``<dataset>-<budget>-<recipe>[-n<images>img][-trainval][-fast][-<hardware>]-v<protocol>``."""
    parts = [dataset, budget, recipe]
    parts += [f"n{train_images}img"] if train_images is not None else []
    parts += ["trainval"] if fit == "train+val" else []
    parts += ["fast"] if profile == "fast" else []
    if hardware_key is not None:
        words = re.sub(r"[^a-z0-9]+", "-", hardware_key.split(";")[0].lower()).strip("-")
        parts += [words, short_hash(hardware_key)[:4]]
    return "-".join([*parts, f"v{protocol}"])


class Suite(Strict):
    """A named comparison: models x data set x budget x seeds. Each field has a description."""

    name: Text
    title: Text = Field(
        default="", description="The question of the suite, in one line.", examples=["Do better stencils help?"]
    )
    dataset: Text = Field(description="Name of a data set (`equibench list datasets`).", examples=["digits-rot"])
    budget: Text = Field(
        description="Training of every model: `e20` is 20 epochs, `n40000` is 40,000 training examples, `t120` is 120"
        " seconds of a GPU. Or a name (`equibench list budgets`). A list makes a family of boards.",
        examples=["e20"],
    )
    recipe: Text = Field(
        default="common",
        description="`common`: the same for all models; `tuned`: `common` with learning rates of `equibench tune`;"
        " `paper`: as the authors of each model trained it.",
        examples=["paper"],
    )
    profile: Literal["strict", "fast"] = Field(
        default="strict",
        description="`strict`: float32, and a repetition gives the same bits; `fast`: bfloat16 and TF32. They have"
        " separate boards.",
        examples=["fast"],
    )
    fit: Literal["train", "train+val"] = Field(
        default="train",
        description="Images to train on: `train` is without the validation images, `train+val` with them. They have"
        " separate boards.",
        examples=["train+val"],
    )
    train_images: Count | None = Field(
        default=None,
        gt=0,
        description="Number of training images: a random subset for each seed, stratified by class. Default: all"
        " images. A list makes a family of boards.",
        examples=[2000],
    )
    seeds: Annotated[int, Field(le=MOST_SEEDS)] | Annotated[list[int], Field(max_length=MOST_SEEDS)] = Field(
        default=3, description="Number of seeds (0, 1, …), or a list of seeds, as `[0, 4, 7]`.", examples=[5]
    )
    parameter_class: Literal["matched", "as-published"] = Field(
        default="as-published",
        alias="class",
        description="`matched`: refuse models whose number of parameters is not within 5 % of `reference_parameters`.",
        examples=["matched"],
    )
    reference_parameters: Count | None = Field(
        default=None, gt=0, description="Number of parameters of the class `matched`.", examples=[25_700]
    )
    reference_model: Text | None = Field(
        default=None, description="Model that all others are compared with.", examples=["z2cnn-22"]
    )
    equivariance: Literal["core", "full"] = Field(
        default="core",
        description="`full`: measure the full profile of equivariance errors of every run.",
        examples=["full"],
    )
    models: list[Text] = Field(
        max_length=MOST_MODELS,
        description="Names of models (`equibench list models`). Wrappers are added as in `z2cnn-22+frame-c4`.",
        examples=[["p4cnn", "z2cnn-22"]],
    )
    note: Text = Field(
        default="", description="Text for readers of the file. No board shows it.", examples=["A trial."]
    )

    @field_validator("seeds", mode="before")
    @classmethod
    def _are_numbers(cls, seeds: object) -> object:
        if not all(type(s) is int for s in (seeds if isinstance(seeds, list) else [seeds])):
            raise ValueError("seeds must be a number of seeds (3), or a list of seeds ([0, 4, 7])")
        return seeds

    @model_validator(mode="after")
    def _consistent(self) -> Suite:
        if not self.models:
            raise ValueError("a suite needs at least one model")
        if twice := _twice(self.models):
            raise ValueError(f"a model is listed twice: {twice}")
        if not self.seed_list or min(self.seed_list) < 0:
            raise ValueError("a suite needs at least one seed, and seeds are not negative")
        if max(self.seed_list) > LARGEST_SEED:
            raise ValueError(f"seeds are at most {LARGEST_SEED:,}")
        if twice := _twice(self.seed_list):
            raise ValueError(f"a seed is listed twice: {twice}")
        if self.parameter_class == "matched" and self.reference_parameters is None:
            raise ValueError(
                f"the class 'matched' needs a number of parameters: {option('reference-parameters', 'N')}, or"
                " reference_parameters = N in the suite file"
            )
        return self

    @property
    def seed_list(self) -> list[int]:
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)

    def board(self, hardware_key: str | None = None) -> str:
        """Name of the suite's board; T boards belong to a hardware key."""
        return board_name(
            self.dataset, self.fit, self.budget, self.recipe, self.profile, hardware_key=hardware_key,
            train_images=subset_of(self),
        )  # fmt: skip


def _twice(values: Sequence[object]) -> str:
    """The first value that is listed more than once; empty if there is none."""
    return next((f"{value}" for value, count in Counter(values).items() if count > 1), "")


def suite_names() -> list[str]:
    """Names of the shipped suites."""
    return shipped_names("bench", "spec", "suites", suffix=".toml")


def find_suite(name: str) -> Suite:
    """A shipped suite by name, or a suite file by its path (.toml). Raises UserError if it is missing or wrong."""
    where, text = suite_text(name)
    return parse_suite(Path(name).stem if name.endswith(".toml") else name, text, where)


def suite_text(name: str) -> tuple[str, str]:
    """The name of a suite (for messages), and the text of its file. Raises UserError if it cannot be read."""
    if name.endswith(".toml"):
        if not os.path.isfile(name):
            raise UserError(f"there is no suite file {name[:200]}")
        return name, read_text(Path(name))
    if name not in suite_names():
        raise UserError(
            f"there is no suite {name[:80]!r} (the path of a suite file ends in .toml); {nearest(name, suite_names())}"
        )
    return f"suite {name!r}", shipped("bench", "spec", "suites", f"{name}.toml")


def parse_suite(name: str, text: str, where: str) -> Suite:
    """A suite from the text of its TOML file. Raises UserError if a key or value is wrong."""
    values = parse_toml(text, where)
    if "name" in values:
        raise UserError(f"{where}: unknown key 'name'; the name of a suite is the name of its file")
    for key in AXES:
        if isinstance(values.get(key), list):
            family = "is a list, so this is a family of boards, but this command needs one board"
            raise UserError(f"{where}: {key!r} {family}")
    return parse(Suite, {"name": name, **values}, where)


def check_names(suite: Suite) -> None:
    """Refuse (UserError) a suite with unknown names, or with models that do not accept the size of its images."""
    check_sizes(suite.models, suite.dataset)
    subset_of(suite)
    check_recipe(suite.recipe)
    if find_budget(suite.budget).kind == "P" and suite.recipe != PAPER:
        raise UserError(f"budget {suite.budget!r} uses each author's own epochs; it needs the recipe 'paper'")
    for model in suite.models if suite.recipe == PAPER else []:
        find_recipe(PAPER, model)
    if suite.reference_model is not None:
        MODELS.find(suite.reference_model)


def training_images(dataset: str, fit: str, subset: int | None = None) -> int:
    """Number of images that a board trains on: `subset` of them, else all."""
    train, val, _ = DATASETS.find(dataset).entry.fields["sizes"]
    return subset or train + (val if fit == "train+val" else 0)


def subset_of(suite: Suite) -> int | None:
    """How many training images the runs of a suite use; None means all. Raises UserError for too many or too few."""
    if suite.train_images is None:
        return None
    available, classes = training_images(suite.dataset, suite.fit), DATASETS.find(suite.dataset).entry.fields["classes"]
    has = f"suite {suite.name!r}: train_images {suite.train_images:,}: data set {suite.dataset!r} has"
    if suite.train_images > available:
        raise UserError(f"{has} {available:,} training images (fit {suite.fit}); use at most this number")
    if suite.train_images < classes:
        raise UserError(f"{has} {classes:,} classes; use at least one image per class")
    return None if suite.train_images == available else suite.train_images


def tuned_file(root: Path, board: str) -> Path:
    """The file with the tuned recipes of a board."""
    return root / TUNED / f"{board}.toml"


def recipe_of(suite: Suite, model: str, root: Path | None = None, hardware_key: str | None = None) -> Recipe:
    """The recipe that a suite trains a model with; arguments as for `plan`. Raises UserError if there is none."""
    tuned = tuned_file(results_root(root), suite.board(hardware_key)) if is_tuned(suite.recipe) else None
    return find_recipe(suite.recipe, model, tuned, tune_command(suite) if tuned else "")


def tune_command(suite: Suite) -> str:
    """The command that tunes the rates of a suite: by its name, or with options if there is no file that says all."""
    values = {
        "models": ",".join(suite.models), "dataset": suite.dataset, "budget": suite.budget,
        "train_images": suite.train_images, "profile": suite.profile if suite.profile != "strict" else "",
    }  # fmt: skip
    name = suite_as_given(suite.name)
    is_changed = any(given_option(key) is not None for key in values)
    words = [name] if name and suite.name != AD_HOC and not is_changed else []
    if not words:
        words = [word for key, value in values.items() if value for word in (f"--{key.replace('_', '-')}", str(value))]
    if suite.recipe != TUNED:
        words += ["--recipe", COMMON + suite.recipe.removeprefix(TUNED)]
    return follow_up_command("tune", *words)


def examples_of(suite: Suite) -> int | None:
    """Training examples of all runs of a suite; None if a calibration (T board) or a tuned recipe is missing."""
    budget, images = find_budget(suite.budget), training_images(suite.dataset, suite.fit, subset_of(suite))
    if budget.kind == "T":
        return None
    try:
        recipes = [recipe_of(suite, model) for model in suite.models]
    except UserError:
        return None
    return sum(budget.steps_for(images, r.batch, r.epochs) * r.batch for r in recipes) * len(suite.seed_list)


def plan(
    suite: Suite, steps: dict[str, int] | None = None, hardware_key: str | None = None, root: Path | None = None
) -> list[RunSpec]:
    """The runs of a suite: first one seed of all models, then the next seed.

    Args:
        steps: optimiser steps of each model, from calibration (T boards).
        hardware_key: the hardware of the calibration.
        root: results folder with tuned recipes; None for the default.

    Raises UserError if a name is unknown, or the budget is too small.
    """
    check_names(suite)
    # Notes are left out because they do not change a result.
    budget = find_budget(suite.budget).model_copy(update={"note": ""})
    recipes = {model: recipe_of(suite, model, root, hardware_key) for model in suite.models}
    if steps is None:
        images = training_images(suite.dataset, suite.fit, subset_of(suite))
        steps = {model: budget.steps_for(images, r.batch, r.epochs) for model, r in recipes.items()}
    return [
        RunSpec(
            model=model, dataset=suite.dataset, fit=suite.fit, budget=budget, steps=steps[model],
            recipe=recipes[model].bare, profile=suite.profile, seed=seed, protocol=PROTOCOL, hardware_key=hardware_key,
            train_images=subset_of(suite),
        )
        for seed in suite.seed_list
        for model in suite.models
    ]  # fmt: skip
