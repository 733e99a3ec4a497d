"""Budgets: how much training every model on a board may use, and the rules that keep it equal."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache
from typing import Literal

from pydantic import Field, model_validator

from ...registry import UserError, nearest
from ..tools.files import shipped
from ..tools.schema import NAME, Strict, Text, parse, parse_toml

#: A T run is invalid if its device time differs from its budget by more than this share (design: +-3 %).
DRIFT = 0.03
#: A T run is stopped when it has used this multiple of its budget.
HARD_STOP = 1.05
#: Upper limits of epochs and device-seconds, and of training examples.
MOST, MOST_EXAMPLES = 1e7, 10**12

#: Each amount has exactly one spelling (e5, not e5.0), because the budget's name is part of the board's name.
_AMOUNT = re.compile(r"[et](?:0|[1-9][0-9]{0,7})(?:\.[0-9]{0,5}[1-9])?|n(?:0|[1-9][0-9]{0,12})")
_KINDS = {"e": "epochs", "t": "seconds", "n": "examples"}


class Budget(Strict):
    """A named budget.

    Attributes:
        kind: ``E`` equal examples, ``T`` equal device-seconds, ``P`` as published (each recipe's own
            epochs), ``smoke`` a few fixed steps. Tables never show smoke runs.
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
                "an E budget has only epochs or examples, a T budget only seconds, a smoke budget only steps"
            )
        # The name of the budget is part of the board's name, so both must agree.
        if _AMOUNT.fullmatch(self.name):
            what, amount = _KINDS[self.name[0]], self.name[1:]
            if amounts[what] != float(amount):
                raise ValueError(f"a budget called {self.name!r} is {amount} {what}")
        return self

    def steps_for(self, images: int, batch: int, published: float | None = None) -> int:
        """Optimiser steps of an E, P or smoke budget for this number of images; `published` epochs are those of the
        authors (P).

        Raises:
            UserError: the budget is less than one step, or a P budget has no published epochs.
        """
        if self.kind == "smoke":
            return int(self.steps or 0)
        if self.kind == "P" and published is None:
            raise UserError(f"budget {self.name!r} needs a recipe with a published number of epochs")
        count = self.whole_batches_of(images, batch, published)
        if count < 1:
            raise UserError(f"budget {self.name!r} of {images} images is less than one batch of {batch}")
        return count

    def whole_batches_of(self, images: int, batch: int, published: float | None = None) -> int:
        """floor(epochs · images / batch) of an E or P budget, see `exact`; arguments as for `steps_for`."""
        if self.examples is not None:
            return self.examples // batch
        return int(exact((published if self.kind == "P" else self.epochs) or 0) * images // batch)


@cache
def named_budgets() -> dict[str, Budget]:
    """The shipped budgets."""
    table = parse_toml(shipped("bench", "spec", "budgets.toml"), "budgets.toml")
    return {n: parse(Budget, {"name": n, **v}, f"budgets.toml [{n}]") for n, v in table.items()}


def find_budget(name: str) -> Budget:
    """A named budget, or ``e<epochs>``, ``n<examples>`` or ``t<seconds>``. Raises UserError for anything else."""
    if name in named_budgets():
        return named_budgets()[name]
    if not _AMOUNT.fullmatch(name):
        raise UserError(
            f"{name[:40]!r} is not a budget; write e<epochs> (e20), n<examples> (n100000) or t<seconds> (t120), or"
            f" {nearest(name, named_budgets())}"
        )
    what, number = _KINDS[name[0]], name[1:]
    amount, most = (int(number), MOST_EXAMPLES) if what == "examples" else (float(number), MOST)
    if not 0 < amount <= most:
        units = "examples" if what == "examples" else "epochs or seconds"
        raise UserError(f"budget {name!r} is {'zero; give more' if amount == 0 else f'more than {most:,.0f} {units}'}")
    return Budget.model_validate({"name": name, "kind": "T" if what == "seconds" else "E", what: amount})


def exact(amount: float) -> Fraction:
    """The exact decimal number behind a float that was read from at most 15 digits: 9.12 becomes 228/25.

    Python prints a float with the fewest digits that give the same float. These are the digits that were read.
    """
    return Fraction(repr(amount))


def steps_in(seconds: float, step_s: float | Fraction) -> int:
    """N = floor(budget / mean step time), the number of steps of every run of a model on a T board; at least 1.

    Whether these steps take the budget, is for `drifted`.

    Args:
        seconds: the budget, read as a decimal number, see `exact`.
        step_s: seconds per step; a float is also read as a decimal number.
    """
    return max(1, int(exact(seconds) // (step_s if isinstance(step_s, Fraction) else exact(step_s))))


def drifted(elapsed_s: float, seconds: float) -> bool:
    """Whether a T run differs from its budget by more than 3 %."""
    return abs(elapsed_s / seconds - 1) > DRIFT


def must_stop(elapsed_s: float, seconds: float | None) -> bool:
    """Whether a run has reached the hard stop at 105 % of its device-seconds (`None`: no limit)."""
    return seconds is not None and elapsed_s >= HARD_STOP * seconds
