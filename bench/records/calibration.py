"""Step times on a device, and the number of steps for a budget of device-seconds.

Each model is measured in a separate process (`stopwatch`). The processes take turns, block by block, so that slow
periods of the machine affect all of them. Every GPU that runs a model's seeds is measured. Results are written once and
never changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Protocol

from pydantic import Field

from ...registry import UserError, option
from ..spec.budget import exact
from ..tools.schema import Amount, Hash, Strict, Text, Version, short_hash
from .record import Status, read_document, write_document
from .store import calibrations_folder

BLOCKS = 3
BLOCK_STEPS = 30
BLOCK_SECONDS = 2.0
#: A second measurement of a model, or one on another device, must agree with its record within this share.
AGREEMENT = 0.03


class Block(Strict):
    """One block of steps: their number, their device-seconds, and the UUID of the GPU."""

    steps: int = Field(gt=0, le=10**9)
    seconds: Amount = Field(gt=0)
    gpu: Text = ""


class Calibration(Strict):
    """The step time of one model on one device, as a record that is written once.

    Attributes:
        sequence: 1 for the first calibration, higher after runs that drifted.
        beside: the other models that took turns with it.
        confirms: hash of the calibration that this one confirms on further GPUs; then it does not determine a number
            of steps.
        opened: data files that the model is made from, as in `record.Provenance`; part of `source_hash`.
    """

    schema_version: Version = 1
    model: Text
    source_hash: Text
    dataset: Text
    batch: int
    profile: Text
    hardware_key: Text
    sequence: int = Field(ge=0, le=10**6)
    blocks: list[Block] = Field(max_length=1000)
    beside: list[Text] = Field(max_length=10_000)
    opened: dict[Text, Hash] = {}
    confirms: Text = ""

    @property
    def step_s(self) -> float:
        """Mean device-seconds of a step."""
        return float(self.exact_step_s)

    @property
    def exact_step_s(self) -> Fraction:
        """The exact mean, not rounded to a float; it determines the number of steps."""
        return sum((exact(b.seconds) for b in self.blocks), Fraction()) / sum(b.steps for b in self.blocks)

    def same_subject(self, other: Calibration) -> bool:
        """Whether both measured the same thing."""
        left, right = (c.model_dump(exclude={"sequence", "blocks", "beside"}) for c in (self, other))
        return left == right


class TrainingFailed(Exception):
    """A model cannot be trained, so it has no step time; `status` and `reason` are those of its runs."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Session(Protocol):
    """A process that measures one model's step on request. Raises TrainingFailed if the model cannot be trained."""

    def ready(self) -> None:
        """Wait until everything is loaded."""

    def block(self) -> Block:
        """Measure at least 30 steps and 2 s."""


@dataclass
class Turns:
    """Results of sessions: the blocks of each model, and the reasons of models that failed."""

    blocks: dict[str, list[Block]] = field(default_factory=dict)
    failed: dict[str, TrainingFailed] = field(default_factory=dict)


def take_turns(sessions: Mapping[str, Session]) -> Turns:
    """`BLOCKS` blocks of every session, in turns; a session that fails takes no further turn."""
    turns = Turns({name: [] for name in sessions})
    for turn in range(BLOCKS + 1):
        for name, session in sessions.items():
            if name in turns.failed:
                continue
            try:
                # Measuring starts when all have loaded.
                if turn == 0:
                    session.ready()
                else:
                    turns.blocks[name].append(session.block())
            except TrainingFailed as failed:
                turns.failed[name] = failed
    return turns


def _check_reference(old: Calibration, new: Calibration, where: str) -> None:
    """Check that a reference model still has the step time of its record; `where` is the device in words."""
    ratio = new.step_s / old.step_s
    if not math.isclose(ratio, 1.0, abs_tol=AGREEMENT):
        raise UserError(
            f"{new.model} now takes {1000 * new.step_s:.3f} ms a step{where}, but this board's record says"
            f" {1000 * old.step_s:.3f} ms ({100 * (ratio - 1):+.1f} %, allowed ±3 %): the device is busy or was"
            f" changed; free it, or start a new board with another results folder ({option('results', 'DIR')})"
        )


def write_calibration(root: Path, board: str, calibration: Calibration) -> Path:
    """Write a calibration under the hash of its content."""
    return write_document(calibrations_folder(root, board) / f"{short_hash(calibration.canonical())}.json", calibration)


def read_calibrations(root: Path, board: str) -> list[Calibration]:
    """All calibrations of a board, in order of sequence. Raises UserError as `read_calibration`."""
    found = [read_calibration(path) for path in sorted(calibrations_folder(root, board).glob("*.json"))]
    return sorted(found, key=lambda c: (c.model, c.sequence))


def read_calibration(path: Path) -> Calibration:
    """One calibration. Raises UserError if the file does not match the hash in its name, or its schema."""
    text, calibration = read_document(path, Calibration)
    if path.stem not in (short_hash(text.removesuffix("\n")), short_hash(calibration.canonical())):
        raise UserError(f"{path}: the content does not match the hash in the name")
    if not calibration.blocks:
        raise UserError(f"{path}: the key 'blocks' is empty")
    return calibration


def latest(calibrations: list[Calibration]) -> dict[str, Calibration]:
    """The last calibration of each model, without those that only confirm another."""
    return {c.model: c for c in sorted(calibrations, key=lambda c: c.sequence) if not c.confirms}


def gpus_of(calibration: Calibration, known: Iterable[Calibration]) -> set[str]:
    """The GPUs on which a calibration was measured or confirmed."""
    own = short_hash(calibration.canonical())
    return {b.gpu for c in (calibration, *(c for c in known if c.confirms == own)) for b in c.blocks}


@dataclass
class Measured:
    """Results of `calibrate`: new calibrations, and the reasons of models that cannot be trained."""

    calibrations: list[Calibration] = field(default_factory=list)
    failed: dict[str, TrainingFailed] = field(default_factory=dict)


def calibrate(
    wanted: list[Calibration],
    known: list[Calibration],
    measure: Callable[[dict[str, list[str]]], Mapping[str, Turns]],
    devices: Mapping[str, str],
    comparable: Callable[[Calibration], bool] = lambda _: True,
    kept: Iterable[Calibration] = (),
) -> Measured:
    """Measure the models in `wanted` (without blocks) on all devices, together with a known reference model.

    Args:
        wanted: what to measure; `sequence`, `blocks` and `beside` are filled in here.
        known: calibrations of the board; the first of their models that is not in `wanted` becomes the reference.
        measure: measures the models of each device and returns the results.
        devices: torch's names with their UUIDs; without a UUID (empty), no calibration is confirmed on the device.
        comparable: whether the code of a known model is unchanged; changed code may have another step time.
        kept: known calibrations whose models also run on these devices; they are confirmed on new devices.

    Raises:
        UserError: a step time differs from its record, or between the devices.
    """
    names = [c.model for c in wanted]
    others = [c for name, c in latest(known).items() if name not in names and comparable(c)]
    reference = others[:1] if wanted else []
    unseen = {d: [c for c in kept if gpu and gpu not in gpus_of(c, known)] for d, gpu in devices.items()}
    asked = {d: list(dict.fromkeys([*names, *(c.model for c in (*reference, *unseen[d]))])) for d in devices}
    turns = measure({d: models for d, models in asked.items() if models}) if any(asked.values()) else {}
    done = Measured(failed={name: why for one in turns.values() for name, why in one.failed.items()})
    for old in reference:
        if old.model in done.failed:
            raise UserError(f"the reference model {old.model} failed: {done.failed[old.model].reason}")

    def again(old: Calibration, device: str) -> Calibration:
        new = _with_blocks(old, {device: turns[device]}, old.sequence)
        _check_reference(old, new, f" on {device}" if len(devices) > 1 else "")
        return new.model_copy(update={"confirms": short_hash(old.canonical())})

    for device in turns:
        for old in reference:
            again(old, device)
        done.calibrations += [again(c, device) for c in unseen[device] if c.model not in done.failed]
    for calibration in wanted:
        if calibration.model not in done.failed:
            before = [c.sequence for c in known if c.model == calibration.model]
            new = _with_blocks(calibration, turns, max(before, default=0) + 1)
            _check_devices(new, turns)
            done.calibrations.append(new)
    return done


def _with_blocks(calibration: Calibration, turns: Mapping[str, Turns], sequence: int) -> Calibration:
    """A calibration with the blocks of its model from all devices."""
    blocks = [b for one in turns.values() for b in one.blocks[calibration.model]]
    beside = sorted({n for one in turns.values() for n in one.blocks} - {calibration.model})
    return calibration.model_copy(update={"blocks": blocks, "beside": beside, "sequence": sequence})


def _check_devices(calibration: Calibration, turns: Mapping[str, Turns]) -> None:
    """Check that all devices have the same speed, because all seeds of a model train the same number of steps."""
    times = {d: calibration.model_copy(update={"blocks": t.blocks[calibration.model]}).step_s for d, t in turns.items()}
    if any(not math.isclose(own / calibration.step_s, 1.0, abs_tol=AGREEMENT) for own in times.values()):
        shown = ", ".join(f"{1000 * own:.3f} ms on {device}" for device, own in times.items())
        raise UserError(
            f"a step of {calibration.model} takes {shown}; on a board of device-seconds, devices may differ by 3 %"
            f" from their mean; select devices that agree with {option('device')}"
        )
