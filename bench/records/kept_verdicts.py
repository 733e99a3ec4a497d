"""The last verdict of ``equibench check`` on a model's source, kept in the results folder for runs and boards.

The verdicts on equibench's own models are shipped in ``models/checks``. In a checkout, ``equibench check NAME --results
models`` writes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pydantic import Field

from ...registry import UserError
from ..spec.suite import PROTOCOL
from ..tools.files import write_atomically
from ..tools.schema import Hash, Strict, Text, Version
from ..tools.text import listed
from .provenance import harness_hash
from .record import read_document
from .store import verdict_path
from .verdict import Verdict

#: No verdict on this source.
NO = "no"
#: The folder whose verdicts are shipped.
SHIPPED = Path(__file__).resolve().parents[2] / "models"
#: Every check passed.
YES = "yes"


class Checked(Strict):
    """A verdict on one source of one model.

    Attributes:
        source_hash: including data files, as in a run's provenance.
        failed: names of the checks that failed; empty if the model is acceptable.
        input, dataset, budget: of the board for which it was checked.
        protocol, harness_hash: protocol number and harness of the checks.
    """

    schema_version: Version = 1
    model: Text
    source_hash: Hash
    failed: list[Text] = Field(max_length=1000)
    input: Text
    dataset: Text
    budget: Text
    protocol: int
    harness_hash: Hash


def keep_verdict(root: Path, verdict: Verdict) -> Path:
    """Write a verdict; it replaces an earlier verdict on the same source. Raises WriteError if this is not possible."""
    names = [f.check for f in verdict.findings if f.status == "fail"]
    if not verdict.accepted and not names:
        names = [f.check for f in verdict.findings if f.status == "skip"]
    kept = Checked(
        model=verdict.model, source_hash=verdict.source_hash, failed=names, input=verdict.input,
        dataset=verdict.dataset, budget=verdict.budget, protocol=PROTOCOL, harness_hash=harness_hash(),
    )  # fmt: skip
    path = verdict_path(root, verdict.model, verdict.source_hash)
    write_atomically(path, kept.canonical().encode() + b"\n")
    return path


def kept_verdict(root: Path, model: str, source: str) -> str:
    """``yes``, ``no`` (this source was never checked under this protocol) or ``failed: gradients, …``."""
    for path in (verdict_path(folder, model, source) for folder in (root, SHIPPED) if source):
        with suppress(UserError):  # a damaged verdict does not count
            kept = read_document(path, Checked)[1] if path.is_file() else None
            if kept and (kept.model, kept.source_hash, kept.protocol) == (model, source, PROTOCOL):
                return f"failed: {', '.join(kept.failed)}" if kept.failed else YES
    return NO


def worst_verdict(verdicts: Iterable[str]) -> str:
    """The worst verdict on a row's runs; empty if a run has no verdict, because it is old, and no verdict is bad."""
    found = set(verdicts)
    return max(found, key=lambda v: (v not in ("", NO, YES), v == NO, v == "", v), default="")


def checked_notes(rows: Iterable[dict[str, str]]) -> list[str]:
    """One sentence on the models of a board that were not checked, one on those that failed."""
    found = {row["model"]: row["checked"] for row in rows}
    broken = [f"{m} ({c.removeprefix('failed: ')})" for m, c in found.items() if c.startswith("failed")]
    unchecked = [model for model, checked in found.items() if checked == NO]
    notes = {"failed equibench check": broken, "not checked by equibench check": unchecked}
    return [f"{what}: {listed(models, 6)}" for what, models in notes.items() if models]
