"""Inspection of models before any training: for which images they can be built, their output and their cost."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch

from ...registry import Entry, UserError, allows, build_model, include
from ..measures.compiler import avoid_compiler
from ..measures.cost import count_numbers, evaluation_operations, learned_buffers
from ..tools.gpus import usable_gpus
from ..tools.own_process import ProcessDied, in_own_process
from ..tools.text import error_line
from .job import Events, Probe
from .prepare import WrongShape, check_output, initial_model

#: Other image sizes that are tried if a model cannot be built: those of our data sets.
USUAL = (28, 32, 64)


def probe(job: Probe, events: Events) -> None:
    """Build every model and send one event for each: ``flops`` and the counts for its class, or an error.

    ``wrong_shape`` means that the model breaks its contract. ``builds_at`` is another image size that the model can be
    built for, if it cannot be built for this one. ``refused`` is the reason why the model itself refuses to be built.
    All other errors are left to the model's own runs, whose rows show them.
    """
    torch.set_num_threads(1)
    avoid_compiler()
    include(job.include)
    with suppress(ProcessDied, RuntimeError):
        # In a fork: once a process has initialised the GPU, its forked children may be unable to use it.
        events.send("devices", gpus=in_own_process(_gpus))
    for name in job.models:
        try:
            found = in_own_process(_look, name, job.channels, job.classes, job.size)
        except (ProcessDied, RuntimeError) as error:  # the runs of the model will meet and record the same error
            found = {"error": str(error)}
        images = (name, job.channels, job.classes, job.size)
        if "refused" in found or list(found) == ["error"]:  # because of the size alone?
            with suppress(ProcessDied, RuntimeError):
                if why_not(*images) and (other := in_own_process(size_that_builds, *images)):
                    found["builds_at"] = other
        events.send("model", model=name, **found)
    events.send("done", status="ok")


def _gpus() -> dict[str, Any]:
    return usable_gpus().model_dump()


def _look(name: str, channels: int, classes: int, size: int) -> dict[str, Any]:
    try:
        model = initial_model(name, channels, classes, size)
    except UserError as error:  # the model itself refuses this input
        return {"refused": str(error), "error": str(error)}
    except WrongShape as error:
        return {"wrong_shape": str(error)}
    images, labels = torch.randn(2, channels, size, size), torch.arange(2) % classes
    numbers = count_numbers(model.train())
    flops = evaluation_operations(model, images).flops_per_image
    try:
        learned = learned_buffers(model, images, labels)
    except Exception as error:  # its runs will raise this too; the counts are valid
        return {**numbers, "flops": flops, "error": error_line(error)}
    return {**numbers, "flops": flops, "learned_buffers": learned}


def fitting(entries: list[Entry], channels: int, classes: int, size: int) -> list[Entry]:
    """The models that can be built for such images. Templates without registered sizes are left out."""
    images, declared = (channels, classes, size), {e.name: e.fields["sizes"] for e in entries if e.fields.get("sizes")}
    undeclared = [e for e in entries if not (e.name in declared or e.is_template)]
    why: dict[str, str] = {}
    # One process for all models of an origin: they share cached computations.
    for origin in dict.fromkeys(e.origin for e in undeclared):
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
                found[name] = error_line(error)
    return found


def size_that_builds(name: str, channels: int, classes: int, size: int) -> int | None:
    """Another size in `USUAL` that a model can be built for; None if there is none."""
    others = (other for other in USUAL if other != size)
    return next((other for other in others if not _why_not([name], channels, classes, other)[name]), None)
