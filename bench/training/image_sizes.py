"""Which models can be built for the images of a data set: as they register it, else as building them tells."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ...registry import Entry, allows, build_model
from ..tools.own_process import ProcessDied, in_own_process
from .prepare import check_output

#: Sizes at which it is tried whether a model that cannot be built at one is built at all: those of the data sets here.
USUAL = (28, 32, 64)


def fitting(entries: list[Entry], channels: int, classes: int, size: int) -> list[Entry]:
    """Those of the models that can be built; of a template that does not register its sizes nobody knows."""
    images, said = (channels, classes, size), {e.name: e.fields["sizes"] for e in entries if e.fields.get("sizes")}
    unsaid = [e for e in entries if not (e.name in said or e.is_template)]
    why: dict[str, str] = {}
    for origin in dict.fromkeys(
        e.origin for e in unsaid
    ):  # ours in one process: what they compute in common is kept there
        names = [e.name for e in unsaid if e.origin == origin]
        try:
            why |= in_own_process(_why_not, names, *images)
        except (ProcessDied, RuntimeError):
            why |= {name: why_not(name, *images) for name in names}
    return [e for e in entries if (allows(said[e.name], size) if e.name in said else why.get(e.name) == "")]


def why_not(name: str, channels: int, classes: int, size: int) -> str:
    """Why a model cannot be built for such images, tried in a process of its own; empty if it can."""
    try:
        return in_own_process(_why_not, [name], channels, classes, size)[name]
    except (ProcessDied, RuntimeError) as error:
        return str(error)


def _why_not(names: Iterable[str], channels: int, classes: int, size: int) -> dict[str, str]:
    found = {}
    for name in names:
        # Without weights and activations most models take hundredths of a second; what cannot do without is built
        # whole.
        for device in ("meta", "cpu"):
            try:
                with torch.device(device):
                    check_output(build_model(name, channels, classes, size), channels, classes, size)
                found[name] = ""
                break
            except Exception as error:  # a model may raise anything
                found[name] = f"{type(error).__name__}: {error}"
    return found


def size_that_builds(name: str, channels: int, classes: int, size: int) -> int | None:
    """Another usual size that a model can be built for; None where it can be built for none."""
    others = (other for other in USUAL if other != size)
    return next((other for other in others if not _why_not([name], channels, classes, other)[name]), None)
