"""A share of a suite's runs, so that several machines that know nothing of each other do all of them once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from ...registry import UserError

T = TypeVar("T")
#: More of them is a mistake.
MOST_SHARDS = 100_000
_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


@dataclass(frozen=True)
class Shard:
    """The n-th of so many shares, which are consecutive runs of the plan: all models of a seed stay together.

    So the paired differences of a seed are mostly of one machine. Which runs they are depends on the plan alone.

    Attributes:
        number: from 1 to `count`.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``2/4`` is the second of four.

        Raises:
            UserError: it is no such share.
        """
        found = _SHARD.fullmatch(text)
        number, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= count <= MOST_SHARDS:
            raise UserError(f"--shard {text[:40]!r}: give which of how many shares, from 1/4 to 4/4")
        return cls(number, count)

    def of(self, runs: Sequence[T]) -> list[T]:
        """Its share of runs: their number divided by that of shares, rounded down or up."""
        low, high = (len(runs) * number // self.count for number in (self.number - 1, self.number))
        return list(runs[low:high])

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
