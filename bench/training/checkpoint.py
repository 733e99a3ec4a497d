"""Checkpoints: an interrupted run continues from its last one. On a CPU, its result then has the same bits.

A checkpoint is the file ``runs/<board>/checkpoints/<spec hash>.<attempt>.<step>.<content hash>.pt``. `torch.save` wrote
it, with tensors, numbers and one JSON text. It is read with ``weights_only``, so no code in it is executed. It also
holds the plain Python attributes of modules; if training changed other attributes, the checkpoint is not used. If a
file does not match the hash in its name, the previous checkpoint is used. After a change of its `Origin`, a checkpoint
is not used, because the record could not describe the origin of such weights.
"""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import nn

from ..records.record import CorePoint, CurvePoint, Size
from ..records.store import checkpoint_folder, checkpoints_of
from ..tools.files import WriteError, remove_parts, write_atomically
from ..tools.gpu_processes import OtherProcesses
from ..tools.schema import Strict, short_hash
from .module_attributes import changed, contents, plain_attributes, put_attributes
from .prepare import outline
from .stopping import Stop
from .train import Training

#: Number of checkpoints that are kept of a run.
KEPT = 2


class Origin(Strict):
    """The origin of a checkpoint. A run continues from it only if all fields agree."""

    spec: str
    source_hash: str
    data_digest: str
    versions: dict[str, str]
    hardware_key: str
    threads: int

    def changed(self, other: Origin) -> str:
        """The differences to another origin, in words; empty if there are none."""
        words = {"source_hash": "source", "data_digest": "data", "hardware_key": "processor", "threads": "threads"}
        found = [word for name, word in words.items() if getattr(self, name) != getattr(other, name)]
        if self.versions != other.versions:
            names = sorted({*self.versions, *other.versions})
            found.append("version of " + ", ".join(n for n in names if self.versions.get(n) != other.versions.get(n)))
        return ", ".join(found) or ("spec" if self.spec != other.spec else "")


class Facts(Strict):
    """The content of a checkpoint without its tensors.

    Attributes:
        step: number of optimiser steps done; `device_s` are their device-seconds.
        stopped, waited_s: as in `train.Training`.
        finished: whether the training has ended and only the evaluation is missing.
        phases: seconds of all processes of this run so far, as in `clock.Phases.total`.
        resumed: the steps after which processes of this run continued from a checkpoint.
        started: start time of the first process of this run.
        sharing: the largest number of runs that shared the GPU with this one, itself included.
        company: other processes that were found on the GPU so far; None if nobody looked.
        unkept: attributes of modules that training changed and that the checkpoint does not hold.
    """

    schema_version: Literal[1]
    origin: Origin
    attempt: int = Field(ge=1)
    step: int = Field(ge=0)
    stopped: Literal["", "diverged"]
    finished: bool
    device_s: float = Field(ge=0)
    curve: list[CurvePoint]
    phases: dict[str, float]
    resumed: list[int]
    init: CorePoint
    cost: Size
    peak_mib: float
    started: str
    warnings: list[str]
    sharing: int = 1
    company: OtherProcesses | None = None
    waited_s: float = 0.0
    unkept: list[str] = []


@dataclass
class Saved:
    """A checkpoint that was read. `tensors` is the result of `state_of`."""

    facts: Facts
    tensors: dict[str, Any]


class Unusable(ValueError):
    """A checkpoint cannot be read."""


def to_bytes(facts: Facts, tensors: dict[str, Any]) -> memoryview:
    """A checkpoint as the content of a file."""
    stream = io.BytesIO()
    torch.save({"facts": facts.canonical(), **tensors}, stream)
    return stream.getbuffer()


def read_checkpoint(path: Path) -> Saved:
    """Read a checkpoint and check it against its name. Raises Unusable: with the reason."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unusable(f"it cannot be read ({error.strerror})") from error
    if short_hash(data) != path.name.split(".")[-2]:
        raise Unusable("its content does not match the hash in its name: it was cut off or changed")
    try:
        tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        facts = Facts.model_validate_json(tensors.pop("facts"))
    except ValidationError as error:
        raise Unusable(f"its fields are not those of a checkpoint ({error.errors()[0]['msg']})") from error
    except Exception as error:  # a foreign file may make torch raise any exception
        raise Unusable(f"it is not a checkpoint ({type(error).__name__})") from error
    if set(tensors) != {"model", "loose", "attributes", "optimizer", "rng", "losses"}:
        raise Unusable("its parts are not those of a checkpoint")
    return Saved(facts, tensors)


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer | None, done: Training) -> dict[str, Any]:
    """Everything that the rest of a training depends on.

    A state dictionary leaves out non-persistent buffers, such as the sampled bases of steerable kernels. They are kept
    as ``loose``. Plain attributes of modules and the names of trained parameters are kept too.
    """
    device = _device_of(model)
    return {
        **_tensors_of(model),
        "attributes": {
            "modules": plain_attributes(model),
            "trained": [name for name, parameter in model.named_parameters() if parameter.requires_grad],
        },
        "optimizer": optimizer.state_dict() if optimizer is not None else None,
        "rng": {
            "python": random.getstate(),
            "numpy": tuple(p.tolist() if isinstance(p, np.ndarray) else p for p in np.random.get_state()),
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        },
        "losses": torch.stack(done.losses) if done.losses else torch.zeros(0),
    }


@torch.no_grad()
def put_back(tensors: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Restore the state of `state_of`; returns the losses of the current block, on the model's device."""
    model.load_state_dict(tensors["model"])
    buffers = dict(model.named_buffers())
    for name, value in tensors["loose"].items():
        buffers[name].copy_(value)
    put_attributes(model, tensors["attributes"]["modules"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in tensors["attributes"]["trained"])
    if tensors["optimizer"] is not None:
        optimizer.load_state_dict(tensors["optimizer"])
    device = _device_of(model)
    random.setstate(tensors["rng"]["python"])
    np.random.set_state(tensors["rng"]["numpy"])
    torch.set_rng_state(tensors["rng"]["cpu"])
    if tensors["rng"]["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(tensors["rng"]["cuda"], device)
    return list(tensors["losses"].to(device).unbind())


def fits(tensors: dict[str, Any], model: nn.Module) -> bool:
    """Whether the tensors have the names and shapes of the model's tensors."""
    shapes = all(outline(own) == outline(tensors[part]) for part, own in _tensors_of(model).items())
    return shapes and [name for name, _ in model.named_modules()] == list(tensors["attributes"]["modules"])


def _tensors_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    state = model.state_dict()
    return {"model": state, "loose": {name: b for name, b in model.named_buffers() if name not in state}}


def _device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


class Checkpoints:
    """The checkpoints of one run; a `train.Keeper`.

    Args:
        root: results folder.
        every_s: seconds between two checkpoints.
        facts: returns the content without the tensors, from the training and whether it is finished.
        writing: returns a context manager that is active while a checkpoint is written.

    Attributes:
        saved: the checkpoint from which the run continues, or None.
        kept: paths of the checkpoints that this process wrote or accepted; the newest is last.
        notes: sentences for the record.
        safe: whether a checkpoint of the finished training exists: then only the evaluation would be repeated.
        begun: `contents` of the model before its training.
    """

    def __init__(
        self, root: Path, board: str, origin: Origin, attempt: int, every_s: float, stop: Stop,
        facts: Callable[[Training, bool], Facts], writing: Callable[[], Any],
    ) -> None:  # fmt: skip
        self._root, self._board, self._origin, self._attempt = root, board, origin, attempt
        self._folder = checkpoint_folder(root, board)
        self._every_s, self._stop, self._facts, self._writing = every_s, stop, facts, writing
        self._next = time.monotonic() + every_s
        self.saved: Saved | None = None
        self.kept: list[Path] = []
        self.notes: list[str] = []
        self.safe = False
        self.begun: dict[str, str] = {}
        self._find()

    def _find(self) -> None:
        """Choose the newest checkpoint of this run that is undamaged and has the same origin."""
        remove_parts(self._folder, self._origin.spec)
        paths = checkpoints_of(self._root, self._board, self._origin.spec)
        while paths:
            try:
                saved = self._read(paths[-1])
            except Unusable as error:
                self.notes.append(f"the checkpoint of step {paths.pop().name.split('.')[2]} was not used: {error}")
                continue
            self.saved, self.safe = saved, saved.facts.finished
            self.kept = paths  # a process may have been killed before it removed the older ones
            self._drop_all_but(KEPT)
            self.notes = list(dict.fromkeys([*saved.facts.warnings, *self.notes]))
            return

    def _read(self, path: Path) -> Saved:
        saved = read_checkpoint(path)
        if changed := self._origin.changed(saved.facts.origin):
            raise Unusable(f"its {changed} changed since")
        if unkept := saved.facts.unkept[:5]:
            says = f"training changes {', '.join(unkept)}, which no checkpoint keeps"
            raise Unusable(f"{says}; make it a buffer, a number, a text, or a list of these")
        return saved

    @property
    def finished(self) -> bool:
        """Whether the training has ended already."""
        return self.saved is not None and self.saved.facts.finished

    def due(self) -> bool:
        return self._stop.asked or time.monotonic() >= self._next

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Training:
        with self._writing():
            self.begun = contents(model)
        if self.saved is None:
            return Training()
        facts = self.saved.facts
        if not fits(self.saved.tensors, model):
            self.notes.append(f"the checkpoint of step {facts.step} was not used: it does not fit the model")
            self.saved = None
            return Training()
        losses = put_back(self.saved.tensors, model, optimizer)
        self.saved.tensors = {}  # frees the memory of model and optimiser
        return Training(facts.step, facts.device_s, facts.stopped, list(facts.curve), losses, facts.waited_s)

    def keep(self, model: nn.Module, optimizer: torch.optim.Optimizer | None, done: Training) -> None:
        """Write a checkpoint, or a note for the record if the disk is full; then end if it was asked (`Stopped`)."""
        finished = optimizer is None
        with self._writing():
            facts = self._facts(done, finished).model_copy(update={"unkept": changed(self.begun, model)})
            data = to_bytes(facts, state_of(model, optimizer, done))
            self.safe = self._write(data, done.steps) and finished and not facts.unkept
        self._next = time.monotonic() + self._every_s
        self._stop.check(finished)

    def _write(self, data: memoryview, step: int) -> bool:
        name = f"{self._origin.spec}.{self._attempt}.{step}.{short_hash(data)}.pt"
        for last_try in (False, True):
            try:
                write_atomically(self._folder / name, data)
                break
            except WriteError as error:
                # The older of two checkpoints may be removed to make room, but never the only one.
                if last_try or len(self.kept) < KEPT:
                    self.notes.append(f"the checkpoint of step {step} could not be written: {error.why}")
                    return False
                self._drop_all_but(KEPT - 1)
        self.kept.append(self._folder / name)
        self._drop_all_but(KEPT)
        return True

    def _drop_all_but(self, count: int) -> None:
        while len(self.kept) > count:
            with suppress(OSError):
                self.kept.pop(0).unlink()
