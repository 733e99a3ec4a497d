"""What a check finds, and what the checks come to together. No torch here: the command line reads it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

#: ``pass``; ``fail``: not acceptable; ``note``: reported, never failed; ``skip``: could not be looked at.
Status = Literal["pass", "fail", "note", "skip"]
#: The checks in the order in which they are made; functions of these names are in `runner.CHECKS`.
NAMES = (
    "citation", "build", "output", "parameter count", "state entries", "training", "repeatable", "gradients",
    "accounted for", "seeds",
    "deterministic", "train and eval", "batch independence", "memory", "fresh weights", "state dictionary", "deep copy",
    "bfloat16",
    "global state", "data files", "invariance", "other sizes", "other angles", "batch norm", "cost", "budget",
)  # fmt: skip
#: Made by `bench.check.session`, which starts a second process: right after "seeds".
OTHER_PROCESS = "another process"


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        says: one sentence: what was found.
        do: what the author should do about it; always there for a failure.
        check: name of the check.
    """

    status: Status
    says: str
    do: str = ""
    check: str = ""


def passed(says: str) -> Finding:
    """It holds."""
    return Finding("pass", says)


def failed(says: str, do: str) -> Finding:
    """It does not hold, and what to do."""
    return Finding("fail", says, do)


def noted(says: str, do: str = "") -> Finding:
    """Reported, never failed."""
    return Finding("note", says, do)


def skipped(check: str, why: str) -> Finding:
    """It could not be looked at; something else failed before."""
    return Finding("skip", why, check=check)


@dataclass
class Verdict:
    """All findings about one model.

    Attributes:
        input: channels x size x size -> classes.
        dataset: the data set of the board that the row is for; empty if none has this input.
        source_hash: of the model as it was checked, with the files that it opened.
        row: the row of that board, by column, without what only training tells; empty if it cannot be built.
        cells: the same as the table of a board shows it.
        seconds: wall clock of the whole.
    """

    model: str
    input: str
    dataset: str
    budget: str
    source_hash: str = ""
    findings: list[Finding] = field(default_factory=list)
    row: dict[str, Any] = field(default_factory=dict)
    cells: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def accepted(self) -> bool:
        """Whether the model may enter the registry."""
        return all(f.status in ("pass", "note") for f in self.findings)

    def count(self, status: Status) -> int:
        return sum(f.status == status for f in self.findings)

    def document(self) -> dict[str, Any]:
        """As one JSON document."""
        values = {k: v for k, v in asdict(self).items() if k not in ("findings", "cells")}
        return {"accepted": self.accepted, **values, "checks": [asdict(f) for f in self.findings]}
