"""Whether what a model was registered with is what its runs measured."""

from __future__ import annotations

import math
from typing import Any

#: Largest error that counts as exact: rounding in float32.
EXACT = 1e-4
#: The measured error of a claimed group; other groups are measured by `equibench check` alone.
_MEASURED = {"C4": "eq_exact_c4", "D4": "eq_exact_d4"}


def broken_claim(row: dict[str, Any]) -> float | None:
    """The error under the group that a row of a board claims to be invariant under, if it is none of rounding."""
    metric = _MEASURED.get(row["invariant"])
    errors = [row[f"{metric}_init"], row[metric]] if metric else []
    found = max((e for e in errors if e is not None and not math.isnan(e)), default=0.0)
    return found if found > EXACT else None


def claim_notes(rows: list[dict[str, Any]]) -> list[str]:
    """A sentence on each row whose claim its runs contradict."""
    broken = [(row, error) for row in rows if (error := broken_claim(row)) is not None]
    return [
        f"{row['model']} claims to be invariant under {row['invariant']}, which its runs contradict: its logits change by"
        f" {error:.2g} of their spread"
        for row, error in broken
    ]
