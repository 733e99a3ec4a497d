"""Comparison of claimed invariances with measurements.

A claim is a group under which the logits are exactly invariant, so it must move pixels onto pixels (`CLAIMS`). Every
run measures its claim under exactly the elements of the group, before and after training.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from ..records.record import EXACT, CorePoint, RunRecord
from ..tools.text import error_text
from .statistics import mean

#: Possible claims: groups that map the square grid to itself.
CLAIMS = ("none", "C2", "C4", "D1", "D2", "D4")
#: Every run is measured under these groups.
_ALWAYS = {"C4": "eq_exact_c4", "D4": "eq_exact_d4"}


def exact_part(claim: str) -> str:
    """The largest subgroup of ``"C<N>"`` or ``"D<N>"`` that moves pixels onto pixels: ``"C4"`` for ``"C8"``."""
    found = re.fullmatch("([CD])([1-9][0-9]{0,5})", claim)
    return f"{found[1]}{math.gcd(int(found[2]), 4)}" if found else claim


def _errors_of(record: RunRecord, claim: str) -> tuple[float | None, float | None]:
    """Errors of a run under a claim, before and after training; None if the run has not measured it."""
    if record.results is None:
        return None, None
    same = record.provenance.registered.get("invariant", "") == claim

    def at(point: CorePoint) -> float | None:
        if same and point.eq_claimed is not None:
            return point.eq_claimed
        always: float | None = getattr(point, _ALWAYS.get(claim, ""), None)
        return always

    return at(record.results.init), at(record.results.trained)


def claim_columns(records: Iterable[RunRecord], claim: str) -> dict[str, Any]:
    """Columns of a board about a claim, from these runs.

    ``claim`` is the claim as every output shows it. It has a remark if it is not simply true: ``broken`` if an error is
    larger than rounding; the part that can be checked if some elements move pixels off the grid; ``not measured`` if no
    run measured it.

    Returns:
        ``claim``; ``eq_claimed_init`` and ``eq_claimed``, means over the runs; ``eq_claimed_worst``, the largest of
        all.
    """
    measured = [r for r in records if r.results is not None]
    errors = [_errors_of(r, claim) for r in measured]
    worst, part = max((e for pair in errors for e in pair if e is not None), default=None), exact_part(claim)
    said = claim
    if worst is not None and worst > EXACT:
        said += " (broken)"
    elif part not in ("", "none", "C1") and measured and worst is None:
        said += " (not measured)"
    elif part != claim:
        said += f" (only {part} checked)" if part != "C1" else " (cannot be checked)"
    before, after = (mean([pair[i] for pair in errors]) for i in (0, 1))
    return {"claim": said, "eq_claimed_init": before, "eq_claimed": after, "eq_claimed_worst": worst}


def is_broken(row: dict[str, Any]) -> bool:
    """Whether the runs of a row of a board contradict its claim."""
    error = row["eq_claimed_worst"]
    return error is not None and error > EXACT


def claim_notes(rows: list[dict[str, Any]]) -> list[str]:
    """A sentence on each row whose claim is contradicted by its runs, and on each claim that cannot be exact.

    The quoted errors are those of tables: means over the runs, before and after training.
    """
    broken = [
        f"{row['model']} claims to be invariant under {row['invariant']}, but its runs contradict this: its logits"
        f" change by {_quoted(row)} of the distance between those of two images"
        for row in rows
        if is_broken(row)
    ]
    return broken + [
        f"{row['model']} claims {row['invariant']}, but some of its elements move pixels off the grid: no logits are"
        f" exactly invariant under them, so its runs are measured under {exact_part(row['invariant'])}"
        for row in rows
        if exact_part(row["invariant"]) != row["invariant"]
    ]


def _quoted(row: dict[str, Any]) -> str:
    """The errors under the claim, from the columns that tables show for that group."""
    column = _ALWAYS.get(row["invariant"], "eq_claimed")
    before, after = row[f"{column}_init"], row[column]
    text = f"{error_text(before)} at initialisation and {error_text(after)} after training"
    if max((e for e in (before, after) if e is not None and e == e), default=0.0) > EXACT:
        return text
    return f"{text} on average, and by {error_text(row['eq_claimed_worst'])} in one run,"
