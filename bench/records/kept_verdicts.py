"""The last verdict of ``equibench check`` on a model's source, kept in the results folder for runs and boards.

The verdicts on equibench's own models are shipped in ``models/checks``. In a checkout, ``equibench check NAME --results
models`` writes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from ...registry import UserError
from ..spec.suite import PROTOCOL
from ..tools.files import write_atomically
from ..tools.schema import Hash, Strict, Text, Version, parse_json, read_text
from .provenance import harness_hash
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
    """Write a verdict; it replaces an earlier verdict on the same source.

    Raises:
        WriteError: this is not possible.
    """
    names = [f.check for f in verdict.findings if f.status == "fail"]
    if not verdict.accepted and not names:
        names = [f.check for f in verdict.findings if f.status == "skip"]
    kept = Checked(
        model=verdict.model, source_hash=verdict.source_hash, failed=names, input=verdict.input,
        dataset=verdict.dataset,
        budget=verdict.budget, protocol=PROTOCOL, harness_hash=harness_hash(),
    )  # fmt: skip
    path = verdict_path(root, verdict.model, verdict.source_hash)
    write_atomically(path, kept.canonical().encode() + b"\n")
    return path


def kept_verdict(root: Path, model: str, source: str) -> str:
    """``yes``, ``no`` (this source was never checked under this protocol) or ``failed: gradients, …``."""
    if not source:
        return NO
    return next(
        (v for folder in (root, SHIPPED) if (v := _read(verdict_path(folder, model, source), model, source)) != NO), NO
    )


def _read(path: Path, model: str, source: str) -> str:
    if not path.is_file():
        return NO
    try:
        kept = parse_json(Checked, read_text(path, link=False), str(path))
    except UserError:  # a damaged verdict does not count
        return NO
    if (kept.model, kept.source_hash, kept.protocol) != (model, source, PROTOCOL):
        return NO
    return f"failed: {', '.join(kept.failed)}" if kept.failed else YES


def worst_verdict(verdicts: Iterable[str]) -> str:
    """The worst verdict on a row's runs; empty if a run has no verdict, because it is old, and no verdict is bad."""
    found = set(verdicts)
    return max(found, key=lambda v: (v not in ("", NO, YES), v == NO, v == "", v), default="")


def checked_notes(rows: Iterable[dict[str, str]]) -> list[str]:
    """One sentence on the models of a board that were not checked, one on those that failed."""
    rows = list(rows)
    unchecked = [row["model"] for row in rows if row["checked"] == NO]
    broken = [
        f"{row['model']} ({row['checked'].removeprefix('failed: ')})"
        for row in rows
        if row["checked"].startswith("failed")
    ]
    notes = [f"failed equibench check: {_some(broken)}"] if broken else []
    return [*notes, *([f"not checked by equibench check: {_some(unchecked)}"] if unchecked else [])]


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
