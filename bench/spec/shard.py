"""Shares of a suite's runs. Machines that run different shares together do each run once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from ...registry import UserError

T = TypeVar("T")
#: A larger number is a mistake.
MOST_SHARDS = 100_000
_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


@dataclass(frozen=True)
class Shard:
    """One of several shares of the planned runs. The plan alone determines the runs of a share.

    A share consists of consecutive runs, so the models of a seed stay together. Most paired differences then come from
    one machine.

    Attributes:
        number: from 1 to `count`.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``2/4`` is the second of four shares. Raises UserError for any other text."""
        found = _SHARD.fullmatch(text)
        number, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= count <= MOST_SHARDS:
            raise UserError(f"--shard {text[:40]!r}: give the number of the share and of all shares, as 2/4")
        return cls(number, count)

    def of(self, runs: Sequence[T]) -> list[T]:
        """The runs of this share: the number of runs divided by the number of shares, rounded down or up."""
        low, high = (len(runs) * number // self.count for number in (self.number - 1, self.number))
        return list(runs[low:high])

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
