"""Recipes: optimiser, rate, schedule, batch, augmentation and batch-norm rule, as data."""

from __future__ import annotations

from bisect import bisect_right
from functools import cache
from typing import Literal

from pydantic import Field, model_validator

from ..registry import UserError, nearest
from .files import shipped
from .schema import Strict, parse, parse_toml


class Schedule(Strict):
    """The rate as a factor of its maximum, a function of progress p in [0, 1] alone.

    Attributes:
        shape: ``linear`` interpolates between the knots, ``step`` holds each until the next.
        knots: pairs (progress, factor), progress ascending from 0.
    """

    shape: Literal["linear", "step"]
    knots: list[list[float]]

    @model_validator(mode="after")
    def _ascending(self) -> Schedule:
        progress = [k[0] for k in self.knots if len(k) == 2]
        if len(progress) != len(self.knots) or not progress or progress[0] != 0 or progress != sorted(set(progress)):
            raise ValueError("knots are pairs [progress, factor] whose progress ascends from 0")
        if progress[-1] > 1 or (self.shape == "linear" and progress[-1] != 1):
            raise ValueError("progress ends at 1")
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
        optimizer: ``adam`` couples the decay with the gradient (L2), ``adamw`` does not.
        lr: maximal learning rate.
        weight_decay: on the weights of convolutions and linear layers only, never on normalisation or bias.
        batch: images a step.
        augment: names of augmentations in `datasets.batches`, applied in this order.
        batch_norm: ``reestimate`` the statistics after the last step by one pass over a fixed,
            unaugmented slice of the training data, or keep the ``running`` averages of training.
        batch_norm_momentum: torch's momentum of the running averages; the model's own if absent.
    """

    name: str
    optimizer: Literal["adam", "adamw", "sgd"]
    lr: float = Field(gt=0)
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0)
    batch: int = Field(gt=0)
    schedule: Schedule
    augment: list[str] = []
    batch_norm: Literal["reestimate", "running"]
    batch_norm_momentum: float | None = None
    note: str = ""

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step number `step` (from 0) of `steps`.

        The schedule is read at the middle of the step, p = (step + 1/2) / steps, so that no step of the
        warm-up or of the end is spent at a rate of exactly zero.
        """
        return self.lr * self.schedule.factor((step + 0.5) / steps)


@cache
def named_recipes() -> dict[str, Recipe]:
    """The recipes that are shipped."""
    table = parse_toml(shipped("bench", "recipes.toml"), "recipes.toml")
    return {n: parse(Recipe, {"name": n, **v}, f"recipes.toml [{n}]") for n, v in table.items()}


def find_recipe(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        UserError: there is none of this name.
    """
    if name not in named_recipes():
        raise UserError(f"there is no recipe {name!r}; {nearest(name, named_recipes())}")
    return named_recipes()[name]
