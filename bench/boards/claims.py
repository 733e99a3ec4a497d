"""Whether what a model was registered with is what its runs measured.

A claim is a group under which the logits are exactly invariant, so it is one that moves pixels onto pixels (`CLAIMS`).
Every run measures its claim under exactly its elements, before and after training.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from ..records.record import EXACT, CorePoint, RunRecord
from ..tools.text import error_text
from .statistics import mean

#: What a claim may be: groups that carry the square grid into itself.
CLAIMS = ("none", "C2", "C4", "D1", "D2", "D4")
#: Groups that every run is measured under, whatever its claim.
_ALWAYS = {"C4": "eq_exact_c4", "D4": "eq_exact_d4"}


def exact_part(claim: str) -> str:
    """The largest group in ``"C<N>"`` or ``"D<N>"`` that moves pixels onto pixels, as ``"C4"`` of ``"C8"``."""
    found = re.fullmatch("([CD])([1-9][0-9]{0,5})", claim)
    return f"{found[1]}{math.gcd(int(found[2]), 4)}" if found else claim


def claim_errors_of(record: RunRecord, claim: str) -> tuple[float | None, float | None]:
    """Errors of a run under a claim, before and after training.

    None if the run has not measured it: the model was registered with another then, its logits did not depend on the
    input, or the record is of protocol 1, in which C4 and D4 alone were measured.
    """
    if record.results is None:
        return None, None
    same = record.provenance.registered.get("invariant", "") == claim

    def at(point: CorePoint) -> float | None:
        own = point.eq_claimed if same else None
        return getattr(point, _ALWAYS.get(claim, ""), None) if own is None else own

    return at(record.results.init), at(record.results.trained)


def claim_columns(records: Iterable[RunRecord], claim: str) -> dict[str, Any]:
    """Columns of a board: what these runs say of a claim.

    ``claim`` is the claim as every output shows it. It has words beside it where it is not simply true: ``broken``
    where an error is none of rounding, the part of it that can be checked where some elements move pixels off the grid,
    ``not measured`` where no run measured it.

    Returns:
        ``claim``; ``eq_claimed_init`` and ``eq_claimed``, means over the runs; ``eq_claimed_worst``, the largest of
        all.
    """
    measured = [r for r in records if r.results is not None]
    errors = [claim_errors_of(r, claim) for r in measured]
    worst, part = max((e for pair in errors for e in pair if e is not None), default=None), exact_part(claim)
    if worst is not None and worst > EXACT:
        said = f"{claim} (broken)"
    elif part not in ("", "none", "C1") and measured and worst is None:
        said = f"{claim} (not measured)"
    elif part != claim:
        said = f"{claim} (only {part} checked)" if part != "C1" else f"{claim} (cannot be checked)"
    else:
        said = claim
    before, after = (mean([pair[i] for pair in errors]) for i in (0, 1))
    return {"claim": said, "eq_claimed_init": before, "eq_claimed": after, "eq_claimed_worst": worst}


def is_broken(row: dict[str, Any]) -> bool:
    """Whether the runs of a row of a board contradict its claim."""
    error = row["eq_claimed_worst"]
    return error is not None and error > EXACT


def claim_notes(rows: list[dict[str, Any]]) -> list[str]:
    """A sentence on each row whose claim its runs contradict, and on each that claims more than can be true.

    The errors quoted are those that tables show: means over the runs, each with its moment.
    """
    notes = [
        f"{row['model']} claims to be invariant under {row['invariant']}, which its runs contradict: its logits"
        f" change by {_quoted(row)} of the distance between those of two images"
        for row in rows
        if is_broken(row)
    ]
    off = [row for row in rows if exact_part(row["invariant"]) != row["invariant"]]
    return notes + [
        f"{row['model']} claims {row['invariant']}, some elements of which move pixels off the grid: no logits are"
        " exactly"
        f" invariant under them, and its runs are measured under {exact_part(row['invariant'])}"
        for row in off
    ]


def _quoted(row: dict[str, Any]) -> str:
    """The errors under the claim, from the columns that tables show where they show that group."""
    column = _ALWAYS.get(row["invariant"], "eq_claimed")
    before, after = row[f"{column}_init"], row[column]
    text = f"{error_text(before)} at initialisation and {error_text(after)} after training"
    if max((e for e in (before, after) if e is not None and e == e), default=0.0) > EXACT:
        return text
    return f"{text} in the mean, and by {error_text(row['eq_claimed_worst'])} in one run,"
