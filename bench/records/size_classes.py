"""The rule for networks of matched size, for planned and finished runs alike.

The class belongs to a suite, or to ``--reference-parameters``; records do not store it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...registry import UserError, option
from ..spec.suite import MATCHED, Suite
from .record import Size

#: What has the counts of a network: an event of `probe` or of a check, or a record's size; None for no counts.
Counted = Mapping[str, Any] | Size | None


def limits(reference: int) -> tuple[int, int]:
    """Smallest and largest parameter count that is matched to a reference: whole numbers within ±5 %."""
    return -(-reference * round(100 * (1 - MATCHED)) // 100), reference * round(100 * (1 + MATCHED)) // 100


def why_not_matched(reference: int, found: Counted) -> str:
    """Why a network is not matched to a reference count; empty if it is matched, or if nothing was counted."""
    values = found.model_dump() if isinstance(found, Size) else found or {}
    parameters, frozen, learned_buffers = (values.get(key) for key in ("parameters", "frozen", "learned_buffers"))
    low, high = limits(reference)
    if parameters is not None and not low <= parameters <= high:
        return (
            f"has {parameters:,} parameters, outside {low:,} to {high:,} (±5 % of {reference:,}) of the matched class"
        )
    if frozen:
        return f"has {frozen:,} frozen parameters; the matched class does not allow them"
    if learned_buffers:
        return (
            f"has {learned_buffers:,} numbers in buffers that training changes, other than the statistics of"
            " normalisation layers of torch; the matched class does not allow them"
        )
    return ""


def why_not_in(suite: Suite, found: Counted) -> str:
    """As `why_not_matched`, for the class of a suite; empty if it has none."""
    if suite.parameter_class != "matched" or suite.reference_parameters is None:
        return ""
    return why_not_matched(suite.reference_parameters, found)


def refuse_unmatched(suite: Suite, model: str, found: Counted) -> None:
    """Check that a model belongs to the class of a suite; UserError if it does not."""
    if why := why_not_in(suite, found):
        raise UserError(f"model {model!r} {why}; change it, or run it with {option('class', 'as-published')}")
