"""The estimated cost of a suite: runs, examples, operations, and time if step times are known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ...datasets.images import data_root
from ...registry import DATASETS, MODELS, UserError
from ...side_files import files_beside, lines_of
from ...source import source_hash
from ..measures.compiler import avoid_compiler
from ..measures.cost import count_parameters, step_operations
from ..records.provenance import hardware
from ..records.record import read_board
from ..records.store import board_names
from ..spec.budget import find_budget
from ..spec.suite import RunSpec, Suite, plan
from ..tools.gpus import one_device
from ..tools.own_process import in_own_process
from ..tools.text import duration, plain_table
from ..training.prepare import initial_model


def this_device(device: str = "auto") -> str:
    """Hardware key of a device, by default the first GPU if there is one, else the processor."""
    return hardware(one_device(device))["hardware_key"]


@dataclass(frozen=True)
class ModelCost:
    """The cost of all runs of one model of a suite.

    Attributes:
        runs, steps, batch: number of runs, optimiser steps of a run, images of a step.
        step_flops: operations of a training step: forward, backward, expansion of filters.
        step_s: device-seconds of a step on this kind of hardware; None if it was never measured.
    """

    model: str
    runs: int
    steps: int
    batch: int
    parameters: int
    step_flops: int
    step_s: float | None

    @property
    def examples(self) -> int:
        """Images that all runs see together."""
        return self.runs * self.steps * self.batch

    @property
    def flops(self) -> int:
        """Operations of all training steps of all runs."""
        return self.runs * self.steps * self.step_flops

    @property
    def train_s(self) -> float | None:
        """Device-seconds of training of all runs; None if the step was never measured."""
        return None if self.step_s is None else self.runs * self.steps * self.step_s


def step_flops(model: str, shape: tuple[int, int, int], classes: int, batch: int) -> tuple[int, int]:
    """Operations of one training step on images of a shape (channels, height, width); the number of parameters."""
    network = initial_model(model, shape[0], classes, shape[1])
    flops, _ = step_operations(network, torch.randn(3, *shape), torch.arange(3) % classes, batch)
    return flops, count_parameters(network)


def estimate(suite: Suite, root: Path, hardware_key: str) -> Iterator[ModelCost]:
    """The cost of a suite, one entry per model, as soon as it is known.

    Args:
        root: results folder with records, which have step times.
        hardware_key: of the device for the time.

    Raises:
        UserError: a name is unknown, or the budget is given in device-seconds.
    """
    if find_budget(suite.budget).kind == "T":
        raise UserError(f"budget {suite.budget!r} is given in device-seconds, so the cost of each run is already known")
    avoid_compiler()
    measured = step_times(root, hardware_key)
    fields = DATASETS.find(suite.dataset).entry.fields
    for spec in plan(suite.model_copy(update={"seeds": suite.seed_list[:1]}), root=root):
        shape, classes, batch = fields["shape"], fields["classes"], spec.recipe.batch
        flops, parameters = in_own_process(step_flops, spec.model, shape, classes, batch)
        model = MODELS.find(spec.model)
        source = source_hash(model, lines_of(files_beside(model.files, model.opened, (root, data_root()))))
        seconds = measured.get(_key(spec, source))
        yield ModelCost(spec.model, len(suite.seed_list), spec.steps, batch, parameters, flops, seconds)


def _key(spec: RunSpec, source: str) -> tuple[str, ...]:
    """Facts that determine a step time, except the hardware."""
    return spec.model, source, spec.dataset, str(spec.recipe.batch), spec.profile


def step_times(root: Path, hardware_key: str) -> dict[tuple[str, ...], float]:
    """Seconds of a step from records, the shortest for each model; runs that shared their device do not count."""
    found: dict[tuple[str, ...], float] = {}
    for board in board_names(root):
        for record in read_board(root, board)[0]:
            here = record.provenance.hardware.get("hardware_key") == hardware_key
            if here and record.status == "ok" and record.results and record.runs_on_device == 1:
                key, seconds = _key(record.spec, record.provenance.source_hash), record.results.step_ms / 1000
                found[key] = min(seconds, found.get(key, seconds))
    return found


def cost_table(name: str, costs: list[ModelCost], device: str) -> str:
    """The cost of a suite as a table, one row per model, and the sum."""
    rows = [
        {
            "model": c.model, "parameters": f"{c.parameters:,}", "runs": c.runs, "steps": f"{c.steps:,}",
            "examples": f"{c.examples:,}", "GFLOPs/step": f"{c.step_flops / 1e9:,.2f}",
            "TFLOPs": f"{c.flops / 1e12:,.1f}", "time": "unknown" if c.train_s is None else duration(c.train_s),
        }
        for c in costs
    ]  # fmt: skip
    known = [c.train_s for c in costs if c.train_s is not None]
    total = f"{sum(c.runs for c in costs)} runs, {sum(c.examples for c in costs):,} examples"
    total += f", {sum(c.flops for c in costs) / 1e12:,.1f} TFLOPs"
    if known:
        total += f"; {duration(sum(known))} of training for {len(known)} of {len(costs)} models, one run at a time"
    if len(known) < len(costs):
        total += "; the time is known after a first run on this device (--seeds 1)"
    return f"{name} on {device}\n\n{plain_table(rows)}\n\n{total}"
