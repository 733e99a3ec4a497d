"""What known libraries do inside, as data: where it breaks no number here, a check notes it and names a page."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..records.verdict import Finding, noted


@dataclass(frozen=True)
class Habit:
    """What a library does that a check would fail in a model's own code.

    Attributes:
        does: a clause: what it does.
        therefore: a clause: why no figure of a board depends on it, or which ones are out of reach.
    """

    does: str
    therefore: str


_ESCNN = {
    "accounted for": Habit(
        "keeps tables of indices in plain attributes",
        "they are whole numbers that nothing trains, and index tensors on any device",
    ),
    "deep copy": Habit(
        "keeps filters with their graph in evaluation, which copy.deepcopy refuses",
        "runs build a model again and copy none; call train() before you copy it",
    ),
    "bfloat16": Habit(
        "keeps filters of one type in evaluation, which autocast does not convert",
        "boards of profile strict are float32; those of profile fast are out of reach",
    ),
}
_TIMM = {
    "deep copy": Habit(
        "keeps attention biases with their graph in evaluation, which copy.deepcopy refuses",
        "runs build a model again and copy none; call train() before you copy it",
    ),
}
#: By the name of the package, then by the check. What is not here counts as code of the model's own: networks of
#: torchvision pass as they are.
HABITS: dict[str, dict[str, Habit]] = {"escnn": _ESCNN, "e2cnn": _ESCNN, "timm": _TIMM, "torchvision": {}}
#: The page on these libraries.
PAGE = "docs/escnn-models.md"


def package_of(thing: Any) -> str:
    """The top-level package that the class of an object is from."""
    return type(thing).__module__.partition(".")[0]


def is_habit(check: str, packages: Iterable[str]) -> bool:
    """Whether all these packages are known to do what the check would fail; not so where there is none."""
    found = set(packages)
    return bool(found) and all(check in HABITS.get(package, {}) for package in found)


def habit_text(check: str, packages: Iterable[str]) -> str:
    """What these packages do, and why it is no failure."""
    parts = [f"{p} {HABITS[p][check].does}: {HABITS[p][check].therefore}" for p in sorted(set(packages))]
    return "; ".join(parts)


#: What an author is to do about a habit.
NOTHING = f"nothing to do; see {PAGE}"


def noted_habit(check: str, packages: Iterable[str]) -> Finding:
    """The note on what these packages do."""
    found = set(packages)
    return noted(habit_text(check, found), NOTHING)


def raised_in(error: BaseException) -> str:
    """The package whose code raised: that of the innermost frame outside torch; empty for one of no package."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.name.startswith("__torch_"):  # a hook on the calls of torch, which raises nothing
            continue
        parts = Path(frame.filename).parts
        place = next((i for i, part in enumerate(parts) if part in ("site-packages", "dist-packages")), None)
        package = parts[place + 1] if place is not None and place + 1 < len(parts) else _known(parts)
        if package != "torch":
            return package
    return ""


def _known(parts: tuple[str, ...]) -> str:
    """A known library that is not installed where packages usually are."""
    return next((part for part in reversed(parts[:-1]) if part in HABITS), "")
