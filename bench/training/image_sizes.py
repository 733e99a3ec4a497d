"""Finds the models that can be built for the images of a data set: by their registration, or by building them."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ...registry import Entry, allows, build_model
from ..tools.own_process import ProcessDied, in_own_process
from .prepare import check_output

#: Other image sizes that are tried if a model cannot be built: those of our data sets.
USUAL = (28, 32, 64)


def fitting(entries: list[Entry], channels: int, classes: int, size: int) -> list[Entry]:
    """The models that can be built for such images. Templates without registered sizes are left out."""
    images, declared = (channels, classes, size), {e.name: e.fields["sizes"] for e in entries if e.fields.get("sizes")}
    undeclared = [e for e in entries if not (e.name in declared or e.is_template)]
    why: dict[str, str] = {}
    for origin in dict.fromkeys(
        e.origin for e in undeclared
    ):  # one process for all models of an origin: they share cached computations
        names = [e.name for e in undeclared if e.origin == origin]
        try:
            why |= in_own_process(_why_not, names, *images)
        except (ProcessDied, RuntimeError):
            why |= {name: why_not(name, *images) for name in names}
    return [e for e in entries if (allows(declared[e.name], size) if e.name in declared else why.get(e.name) == "")]


def why_not(name: str, channels: int, classes: int, size: int) -> str:
    """Why a model cannot be built for such images; empty if it can. It is built in a process of its own."""
    try:
        return in_own_process(_why_not, [name], channels, classes, size)[name]
    except (ProcessDied, RuntimeError) as error:
        return str(error)


def _why_not(names: Iterable[str], channels: int, classes: int, size: int) -> dict[str, str]:
    found = {}
    for name in names:
        # On the device "meta", without weights and activations, building most models takes hundredths of a second. A
        # model that needs real tensors is built on the CPU.
        for device in ("meta", "cpu"):
            try:
                with torch.device(device):
                    check_output(build_model(name, channels, classes, size), channels, classes, size)
                found[name] = ""
                break
            except Exception as error:  # a model may raise any exception
                found[name] = f"{type(error).__name__}: {error}"
    return found


def size_that_builds(name: str, channels: int, classes: int, size: int) -> int | None:
    """Another size in `USUAL` that a model can be built for; None if there is none."""
    others = (other for other in USUAL if other != size)
    return next((other for other in others if not _why_not([name], channels, classes, other)[name]), None)
