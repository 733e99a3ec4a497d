"""Budgets: what every model on a board may spend, and the rules that keep it equal."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache
from typing import Literal

from pydantic import Field, model_validator

from ...registry import UserError, nearest
from ..tools.files import shipped
from ..tools.schema import NAME, Strict, Text, parse, parse_toml

#: A T run whose elapsed device time leaves this band around its budget is invalid (design: +-3 %).
DRIFT = 0.03
#: A T run is stopped hard when it has spent this multiple of its budget.
HARD_STOP = 1.05
#: More epochs or device-seconds than anybody waits for.
MOST = 1e7

#: More training examples than anybody waits for.
MOST_EXAMPLES = 10**12

#: Every amount has one spelling, because the name of the budget is part of the board's: e5, e0.5; not e05, e5.0.
_AMOUNT = re.compile(r"([et])((?:0|[1-9][0-9]{0,7})(?:\.[0-9]{0,5}[1-9])?)|(n)(0|[1-9][0-9]{0,12})")
_KINDS = {"e": "epochs", "t": "seconds", "n": "examples"}


class Budget(Strict):
    """A named budget.

    Attributes:
        kind: ``E`` equal examples, ``T`` equal device-seconds, ``P`` as published (each recipe's own
            epochs), ``smoke`` a fixed few steps, barred from tables.
        epochs: passes over the board's training set (E).
        examples: training examples, instead of epochs (E).
        seconds: device-seconds of training (T).
        steps: optimiser steps (smoke).
    """

    name: str = Field(pattern=f"^{NAME}$")
    kind: Literal["E", "T", "P", "smoke"]
    epochs: float | None = Field(default=None, gt=0, le=MOST)
    examples: int | None = Field(default=None, gt=0, le=MOST_EXAMPLES)
    seconds: float | None = Field(default=None, gt=0, le=MOST)
    steps: int | None = Field(default=None, gt=0, le=10**6)
    note: Text = ""

    @model_validator(mode="after")
    def _says_its_amount(self) -> Budget:
        amounts = {"epochs": self.epochs, "examples": self.examples, "seconds": self.seconds, "steps": self.steps}
        given = [what for what, amount in amounts.items() if amount is not None]
        allowed = {"E": (["epochs"], ["examples"]), "T": (["seconds"],), "smoke": (["steps"],), "P": ([],)}[self.kind]
        if given not in allowed:
            raise ValueError(
                "an E budget has epochs or examples, a T budget seconds, a smoke budget steps, and none another's"
            )
        # The name stands for the budget in the name of the board: it must not promise something else.
        found = _AMOUNT.fullmatch(self.name)
        if found:
            what, amount = _KINDS[found[1] or found[3]], found[2] or found[4]
            if amounts[what] != float(amount):
                raise ValueError(f"a budget called {self.name!r} is {amount} {what}")
        return self

    def steps_for(self, images: int, batch: int, published: float | None = None) -> int:
        """Number of optimiser steps of an E, P or smoke budget for `images` training images.

        Args:
            published: epochs that the authors of a recipe trained for (P).

        Raises:
            UserError: the budget does not reach a single step, or a P budget has no published epochs.
        """
        if self.kind == "smoke":
            return int(self.steps or 0)
        if self.kind == "P" and published is None:
            raise UserError(f"budget {self.name!r} needs a recipe that says its published number of epochs")
        count = self.whole_batches_of(images, batch, published)
        if count < 1:
            raise UserError(f"budget {self.name!r} of {images} images is less than one batch of {batch}")
        return count

    def whole_batches_of(self, images: int, batch: int, published: float | None = None) -> int:
        """Whole batches that an E or P budget pays for, computed without rounding; arguments as of `steps_for`."""
        if self.examples is not None:
            return self.examples // batch
        return whole_batches((published if self.kind == "P" else self.epochs) or 0, images, batch)


@cache
def named_budgets() -> dict[str, Budget]:
    """The budgets that are shipped."""
    table = parse_toml(shipped("bench", "spec", "budgets.toml"), "budgets.toml")
    return {n: parse(Budget, {"name": n, **v}, f"budgets.toml [{n}]") for n, v in table.items()}


def find_budget(name: str) -> Budget:
    """A named budget, or ``e<epochs>``, ``n<examples>`` or ``t<seconds>``.

    Raises:
        UserError: it is neither, or nothing could be spent.
    """
    if name in named_budgets():
        return named_budgets()[name]
    found = _AMOUNT.fullmatch(name)
    if not found:
        raise UserError(
            f"{name[:40]!r} is no budget; write e<epochs> (e20), n<examples> (n100000) or t<seconds> (t120), or"
            f" {nearest(name, named_budgets())}"
        )
    if found[3]:
        examples = int(found[4])
        if not 0 < examples <= MOST_EXAMPLES:
            what = "empty; examples are above zero" if examples == 0 else f"more than {MOST_EXAMPLES:,} examples"
            raise UserError(f"budget {name!r} is {what}")
        return Budget(name=name, kind="E", examples=examples)
    amount = float(found[2])
    if not 0 < amount <= MOST:
        what = "empty; epochs and seconds are above zero" if amount == 0 else f"more than {MOST:,.0f} epochs or seconds"
        raise UserError(f"budget {name!r} is {what}")
    if found[1] == "e":
        return Budget(name=name, kind="E", epochs=amount)
    return Budget(name=name, kind="T", seconds=amount)


def exact(amount: float) -> Fraction:
    """The number that somebody wrote, where a float is only near it: 9.12 is 228/25.

    A float is written with the fewest digits that lead back to it. These are the digits that it was read from, if they
    were at most 15.
    """
    return Fraction(repr(amount))


def whole_batches(epochs: float, images: int, batch: int) -> int:
    """floor(epochs · images / batch), computed without rounding: the optimiser steps of so many epochs.

    Args:
        epochs: passes over the training set, at least 0; taken as it was written, see `exact`.
        images: number of training images.
        batch: images a step.
    """
    return int(exact(epochs) * images // batch)


def steps_in(seconds: float, step_s: float | Fraction) -> int:
    """N = floor(budget / mean step time), the number of steps of every run of a model on a T board.

    Args:
        seconds: the budget, taken as it was written, see `exact`.
        step_s: seconds of a step; a float is taken as it was written too.

    Raises:
        UserError: not even one step fits.
    """
    count = int(exact(seconds) // (step_s if isinstance(step_s, Fraction) else exact(step_s)))
    if count < 1:
        raise UserError(f"a budget of {seconds:g} s is less than one step of {float(step_s):.3g} s")
    return count


def drifted(elapsed_s: float, seconds: float) -> bool:
    """Whether a T run left the band of +-3 % around its budget."""
    return abs(elapsed_s / seconds - 1) > DRIFT


def must_stop(elapsed_s: float, seconds: float | None) -> bool:
    """Whether a run has reached the hard stop at 105 % of its device-seconds (`None`: no limit)."""
    return seconds is not None and elapsed_s >= HARD_STOP * seconds
