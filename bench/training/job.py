"""What the parent tells the process of a run, and the events that the process tells back."""

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
    """One attempt at one run, as a process needs it.

    Attributes:
        results: results folder.
        data_root: folder of the data sets, None for the default.
        include: files that register models or data sets.
        command: the command line that asked for it, for the record.
        equivariance: ``full`` also writes the sidecar of the full equivariance profile.
        checkpoint_s: seconds from one checkpoint to the next.
        sharing: the most runs at a time on the GPU, this one included.
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
    def on(cls, machine: Machine, root: Path, spec: RunSpec, attempt: int, context: Context) -> Job:
        """The job of an attempt, on the device that `machine` names."""
        return cls(
            spec=spec, attempt=attempt, context=context, device=machine.device, threads=machine.threads,
            results=str(root), data_root=machine.data_folder, include=machine.files, command=machine.command,
            checkpoint_s=machine.checkpoint_s,
        )  # fmt: skip

    @property
    def key(self) -> str:
        """What identifies the attempt: the id of its run, as in the record."""
        return f"{self.spec.digest()}.{self.attempt}"


class Probe(Strict):
    """Build models and look at them, without training.

    Attributes:
        models: names of models.
    """

    kind: Literal["probe"] = "probe"
    models: list[str]
    channels: int
    size: int
    classes: int
    include: list[str]


class Check(Strict):
    """Look whether a model is acceptable.

    Attributes:
        inputs: declared inputs, as ``1x28x28->10``; the one of the board first.
        dataset: of the board that its row is for; None where none has the input.
        steps: of the budget; None where it counts seconds or there is no data set.
        reference: the model that its cost is compared with.
        only_weights: build it and tell the digest of its weights, nothing else.
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


class Stopwatch(Strict):
    """Measure the step of one model, block by block, whenever the parent asks for one."""

    kind: Literal["stopwatch"] = "stopwatch"
    spec: RunSpec
    device: str
    threads: int
    data_root: str | None
    include: list[str]


class Examination(Strict):
    """Do what the doctor asks for, request by request, on one device; see `doctor.operations`."""

    kind: Literal["doctor"] = "doctor"
    device: str
    threads: int
    data_root: str | None


class Events:
    """Lines of JSON from the process of a run to its parent.

    Args:
        stream: where they go.

    Attributes:
        needed: whether the process is of no use where nobody listens. A run is: its record is what counts.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.needed = stream, True

    def send(self, event: str, **values: Any) -> None:
        """Send one event; ends a process that is of no use where nobody listens any more."""
        try:
            self._stream.write(json.dumps({"event": event, **values}) + "\n")
            self._stream.flush()
        except (BrokenPipeError, ValueError):
            if self.needed:
                sys.exit("the parent process is gone")
