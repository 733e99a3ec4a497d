"""Known properties of libraries that change no measured value: a check gives a note instead of a failure."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..records.verdict import Finding, noted

_COPIES = "runs build a new model instead of a copy; call train() before you copy it"
_ESCNN = {
    "accounted for": "keeps tables of indices in plain attributes: they are whole numbers that are not trained, and can"
    " index tensors on any device",
    "deep copy": f"keeps filters with their graph in evaluation, which copy.deepcopy refuses: {_COPIES}",
    "bfloat16": "keeps filters of one type in evaluation, which autocast does not convert: boards of profile strict use"
    " float32; boards of profile fast are not possible",
}
#: Package -> check -> the property that the check would fail in a model's own code, and why no value of a board depends
#: on it, or which boards are not possible. Packages that are not in this table count as the model's own code. Networks
#: of torchvision pass without exceptions.
LIBRARY_PROPERTIES: dict[str, dict[str, str]] = {
    "escnn": _ESCNN,
    "e2cnn": _ESCNN,
    "timm": {
        "deep copy": f"keeps attention biases with their graph in evaluation, which copy.deepcopy refuses: {_COPIES}"
    },
    "torchvision": {},
}
PAGE = "docs/escnn-models.md"


def package_of(thing: Any) -> str:
    """The top-level package of the class of an object."""
    return type(thing).__module__.partition(".")[0]


def is_library_property(check: str, packages: Iterable[str]) -> bool:
    """Whether all these packages are known to have the property that the check would fail; False without packages."""
    found = set(packages)
    return bool(found) and all(check in LIBRARY_PROPERTIES.get(package, {}) for package in found)


def library_text(check: str, packages: Iterable[str]) -> str:
    """The properties of these packages, and why they are no failures."""
    return "; ".join(f"{package} {LIBRARY_PROPERTIES[package][check]}" for package in sorted(set(packages)))


#: Advice to authors about such properties.
NOTHING = f"nothing to do; see {PAGE}"


def library_note(check: str, packages: Iterable[str]) -> Finding:
    """The note about the properties of these packages."""
    return noted(library_text(check, packages), NOTHING)


def raised_in(error: BaseException) -> str:
    """The package whose code raised the error: that of the innermost frame outside torch; empty if it is in none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.name.startswith("__torch_"):  # a hook on torch's calls, which raises nothing itself
            continue
        parts = Path(frame.filename).parts
        place = next((i for i, part in enumerate(parts[:-1]) if part in ("site-packages", "dist-packages")), None)
        known = (part for part in reversed(parts[:-1]) if part in LIBRARY_PROPERTIES)  # installed elsewhere
        package = next(known, "") if place is None else parts[place + 1]
        if package != "torch":
            return package
    return ""
