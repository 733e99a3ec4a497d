"""A look at models before anything is trained: do they build, what do they return, what do they cost."""

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
    """Build every model and send one event each: ``flops`` and the counts of its class, or what went wrong.

    An event with ``wrong_shape`` says that the model breaks its contract, one with ``builds_at`` that it can be built
    for images of that size, but not for these, one with ``refused`` why the model itself refuses to be built. Any other
    error is left to the model's own runs, whose rows will say it.
    """
    torch.set_num_threads(1)
    avoid_compiler()
    include(job.include)
    for name in job.models:
        try:
            found = in_own_process(_look, name, job.channels, job.classes, job.size)
            events.send("model", model=name, **found, **(_size(name, job) if "refused" in found else {}))
        except (ProcessDied, RuntimeError) as error:  # the runs of the model will meet the same and record it
            events.send("model", model=name, error=str(error), **_size(name, job))
    # After the forks: a process that has looked for a GPU may leave its children none.
    events.send("devices", gpus=usable_gpus().model_dump())
    events.send("done", status="ok")


def _size(name: str, job: Probe) -> dict[str, Any]:
    """``builds_at``, another size of images, where it is their size alone that keeps a model from being built."""
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
    except UserError as error:  # the model itself says what it cannot do
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
    except Exception as error:  # its runs will raise it too; what was counted holds
        return {**numbers, "flops": flops, "error": f"{type(error).__name__}: {error}"}
    return {**numbers, "flops": flops, "learned_buffers": learned}
