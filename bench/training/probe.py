"""Inspection of models before any training: whether they can be built, their output and their cost."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import Any

import torch

from ...registry import UserError, build_model, include
from ..measures.compiler import avoid_compiler
from ..measures.cost import count_numbers, evaluation_operations, learned_buffers
from ..tools.gpus import usable_gpus
from ..tools.own_process import ProcessDied, in_own_process
from .image_sizes import size_that_builds, why_not
from .job import Events, Probe
from .prepare import WrongShape, check_output


def probe(job: Probe, events: Events) -> None:
    """Build every model and send one event for each: ``flops`` and the counts for its class, or an error.

    ``wrong_shape`` means that the model breaks its contract. ``builds_at`` is another image size that the model can be
    built for, if it cannot be built for this one. ``refused`` is the reason why the model itself refuses to be built.
    All other errors are left to the model's own runs, whose rows show them.
    """
    torch.set_num_threads(1)
    avoid_compiler()
    include(job.include)
    for name in job.models:
        try:
            found = in_own_process(_look, name, job.channels, job.classes, job.size)
            events.send("model", model=name, **found, **(_size(name, job) if "refused" in found else {}))
        except (ProcessDied, RuntimeError) as error:  # the runs of the model will meet and record the same error
            events.send("model", model=name, error=str(error), **_size(name, job))
    # After the forks: once a process has initialised the GPU, its forked children may be unable to use it.
    events.send("devices", gpus=usable_gpus().model_dump())
    events.send("done", status="ok")


def _size(name: str, job: Probe) -> dict[str, Any]:
    """``builds_at``, another image size, if a model cannot be built only because of the size."""
    if not why_not(name, job.channels, job.classes, job.size):
        return {}  # something else went wrong
    with suppress(ProcessDied, RuntimeError):
        if other := in_own_process(size_that_builds, name, job.channels, job.classes, job.size):
            return {"builds_at": other}
    return {}


def _look(name: str, channels: int, classes: int, size: int) -> dict[str, Any]:
    torch.manual_seed(0)
    try:
        model = build_model(name, channels, classes, size)
    except UserError as error:  # the model itself refuses this input
        return {"refused": str(error), "error": str(error)}
    try:
        check_output(model, channels, classes, size)
    except WrongShape as error:
        return {"wrong_shape": str(error)}
    images, labels = torch.randn(2, channels, size, size), torch.arange(2) % classes
    numbers = asdict(count_numbers(model.train()))
    flops = evaluation_operations(model, images).flops_per_image
    try:
        learned = learned_buffers(model, images, labels)
    except Exception as error:  # its runs will raise this too; the counts are valid
        return {**numbers, "flops": flops, "error": f"{type(error).__name__}: {error}"}
    return {**numbers, "flops": flops, "learned_buffers": learned}
