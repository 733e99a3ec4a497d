"""Messages between a parent and its worker processes: jobs to a worker, and events back."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal, TextIO

from pydantic import Field

from ..records.record import Context
from ..spec.suite import RunSpec
from ..tools.machine import Machine
from ..tools.schema import Strict


class Job(Strict):
    """The job of a worker process that executes one attempt at one run.

    Attributes:
        data_root, include, command, checkpoint_s: as in `Machine`.
        equivariance: ``full`` also writes the sidecar of the full equivariance profile.
        sharing: the largest number of runs on the GPU at a time, this one included.
    """

    kind: Literal["run"] = "run"
    spec: RunSpec
    attempt: int
    context: Context
    device: str
    threads: int
    results: str
    data_root: str | None
    include: list[str]
    command: str
    equivariance: Literal["core", "full"] = "core"
    checkpoint_s: float = 60.0
    sharing: int = Field(default=1, ge=1)

    @classmethod
    def on(cls, machine: Machine, root: Path, spec: RunSpec, attempt: int, context: Context, **more: Any) -> Job:
        """The job of an attempt, on the device of `machine`."""
        return cls(
            spec=spec, attempt=attempt, context=context, device=machine.device, threads=machine.threads,
            results=str(root), data_root=machine.data_folder, include=machine.files, command=machine.command,
            checkpoint_s=machine.checkpoint_s, **more,
        )  # fmt: skip

    @property
    def key(self) -> str:
        """The run id of the attempt, as in its record."""
        return f"{self.spec.digest()}.{self.attempt}"


class Probe(Strict):
    """Build models and inspect them, without training."""

    kind: Literal["probe"] = "probe"
    models: list[str]
    channels: int
    size: int
    classes: int
    include: list[str]


class Check(Strict):
    """Check whether a model is acceptable.

    Attributes:
        inputs: declared inputs, as ``1x28x28->10``; that of the board is first.
        dataset: of the board that the row is for; None if no data set has the input.
        steps: of the budget; None if it counts seconds, or if there is no data set.
        reference: the model for comparisons of cost.
        only_weights: only build the model and report the digest of its weights.
    """

    kind: Literal["check"] = "check"
    model: str
    inputs: list[str]
    dataset: str | None
    budget: str
    steps: int | None
    recipe: str
    reference: str | None
    include: list[str]
    threads: int = 1
    only_weights: bool = False


class StepTiming(Strict):
    """Measure the step time of one model: one block of steps for each request of the parent.

    Attributes:
        before_mib: see `gpu_processes.memory_held_mib`; None on a CPU.
    """

    kind: Literal["stopwatch"] = "stopwatch"
    spec: RunSpec
    device: str
    threads: int
    data_root: str | None
    include: list[str]
    before_mib: float | None = None


class Examination(Strict):
    """Execute the requests of the doctor on one device; see `doctor.operations`."""

    kind: Literal["doctor"] = "doctor"
    device: str
    threads: int
    data_root: str | None


class Events:
    """Sends lines of JSON from a worker process to its parent.

    Attributes:
        needed: whether the process ends if its parent is gone. A run continues: its record is the result.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.needed = stream, True

    def send(self, event: str, **values: Any) -> None:
        """Send one event."""
        try:
            self._stream.write(json.dumps({"event": event, **values}) + "\n")
            self._stream.flush()
        except (BrokenPipeError, ValueError):
            if self.needed:
                sys.exit("the parent process is gone")
