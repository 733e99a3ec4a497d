"""Findings of single checks, and the verdict of all checks. Imports no torch, because the command line reads it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

#: ``pass``; ``fail``: not acceptable; ``note``: for information; ``skip``: not possible.
Status = Literal["pass", "fail", "note", "skip"]
#: The checks in their order; the functions of these names are in `runner.CHECKS`.
NAMES = (
    "citation", "build", "output", "parameter count", "state entries", "training", "repeatable", "gradients",
    "accounted for", "seeds", "deterministic", "train and eval", "batch independence", "memory", "fresh weights",
    "state dictionary", "deep copy", "bfloat16", "global state", "data files", "invariance", "other sizes",
    "other angles", "batch norm", "cost", "budget",
)  # fmt: skip
#: `bench.check.session` makes this check in a second process, right after "seeds".
OTHER_PROCESS = "another process"


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        says: the finding in one sentence.
        do: what the author should do; never empty for a failure.
        check: name of the check.
    """

    status: Status
    says: str
    do: str = ""
    check: str = ""


def passed(says: str) -> Finding:
    """A check that passed."""
    return Finding("pass", says)


def failed(says: str, do: str) -> Finding:
    """A check that failed, with advice."""
    return Finding("fail", says, do)


def noted(says: str, do: str = "") -> Finding:
    """Information that is neither a pass nor a failure."""
    return Finding("note", says, do)


def skipped(check: str, why: str) -> Finding:
    """A check that was not possible, because another check failed before."""
    return Finding("skip", why, check=check)


@dataclass
class Verdict:
    """All findings about one model.

    Attributes:
        input: channels x size x size -> classes.
        dataset: the data set of the row's board; empty if none has this input.
        source_hash: hash of the checked model's source, including its side files.
        row: the row of that board, by column, without values that need training; empty if the model cannot be built.
        cells: the same row as shown in the table of a board.
        seconds: wall-clock time of all checks.
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
        """The verdict as a JSON document."""
        values = {k: v for k, v in asdict(self).items() if k not in ("findings", "cells")}
        return {"accepted": self.accepted, **values, "checks": [asdict(f) for f in self.findings]}
