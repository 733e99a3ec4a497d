"""Words beside numbers."""

from __future__ import annotations


def some(count: int, noun: str) -> str:
    """``"1 run"``, ``"2 runs"``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
