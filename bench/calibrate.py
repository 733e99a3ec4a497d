"""Step times on a device, and from them the number of steps that a budget of device-seconds buys.

Each model is measured in a process of its own; the processes take turns, block by block, so that a slow
minute of the machine meets all of them. What was measured is written once and never changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from typing import Protocol, TextIO

from pydantic import Field

from ..registry import UserError
from .budget import exact
from .clock import Clock
from .files import write_exclusively
from .job import Events, Stopwatch
from .schema import Amount, Hash, Strict, Text, Version, parse_json, read_text, short_hash

BLOCKS = 3
BLOCK_STEPS = 30
BLOCK_SECONDS = 2.0
#: A reference model measured again must agree with its record within this share.
AGREEMENT = 0.03


class Block(Strict):
    """One block of steps: how many, and the device-seconds they took."""

    steps: int = Field(gt=0, le=10**9)
    seconds: Amount = Field(gt=0)


class Calibration(Strict):
    """The step time of one model on one device, as a record that is written once.

    Attributes:
        sequence: 1 for the first calibration, higher after runs that drifted.
        beside: the other models that took turns with it.
        opened: files beside the code that the model is made from, as `record.Provenance` has them; part of `source_hash`.
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

    @property
    def step_s(self) -> float:
        """Mean device-seconds of a step."""
        return float(self.exact_step_s)

    @property
    def exact_step_s(self) -> Fraction:
        """The same before it is rounded to a float: what decides the number of steps."""
        return sum((exact(b.seconds) for b in self.blocks), Fraction()) / sum(b.steps for b in self.blocks)

    def same_subject(self, other: Calibration) -> bool:
        """Whether both measured the same thing."""
        left, right = (c.model_dump(exclude={"sequence", "blocks", "beside"}) for c in (self, other))
        return left == right


class Session(Protocol):
    """A process that measures one model's step whenever it is asked."""

    def block(self) -> Block:
        """Measure at least 30 steps and 2 s."""


def time_block(step: Callable[[], None], clock: Clock) -> Block:
    """Run at least `BLOCK_STEPS` steps and `BLOCK_SECONDS` device-seconds between two marks."""
    steps, start = 0, clock.mark()
    while True:
        for _ in range(BLOCK_STEPS):
            step()
        steps += BLOCK_STEPS
        seconds = clock.seconds(start, clock.mark())
        if seconds >= BLOCK_SECONDS:
            return Block(steps=steps, seconds=seconds)


def take_turns(sessions: Mapping[str, Session]) -> dict[str, list[Block]]:
    """`BLOCKS` blocks of every session, one of each in turn."""
    blocks: dict[str, list[Block]] = {name: [] for name in sessions}
    for _ in range(BLOCKS):
        for name, session in sessions.items():
            blocks[name].append(session.block())
    return blocks


def check_reference(old: Calibration, new: Calibration) -> None:
    """See that a reference model still has the step time of its record.

    Raises:
        UserError: it differs by more than 3 %: the device is not what it was.
    """
    ratio = new.step_s / old.step_s
    if not math.isclose(ratio, 1.0, abs_tol=AGREEMENT):
        raise UserError(
            f"{new.model} now takes {1000 * new.step_s:.3f} ms a step where this board's record says"
            f" {1000 * old.step_s:.3f} ms ({100 * (ratio - 1):+.1f} %, allowed ±3 %): the device is busy or was"
            " changed; free it, or start a new board with another --results folder"
        )


def folder(root: Path, board: str) -> Path:
    """Where the calibrations of a board lie."""
    return root / "runs" / board / "calibrations"


def write_calibration(root: Path, board: str, calibration: Calibration) -> Path:
    """Write a calibration under the hash of its content."""
    path = folder(root, board) / f"{short_hash(calibration.canonical())}.json"
    write_exclusively(path, calibration.canonical().encode() + b"\n")
    return path


def read_calibrations(root: Path, board: str) -> list[Calibration]:
    """All calibrations of a board, in order of sequence.

    Raises:
        UserError: a file does not match the hash in its name, or its schema.
    """
    found = []
    for path in sorted(folder(root, board).glob("*.json")):
        text = read_text(path, link=False)
        calibration = parse_json(Calibration, text, str(path))
        if path.stem not in (short_hash(text.removesuffix("\n")), short_hash(calibration.canonical())):
            raise UserError(f"{path}: the content does not match the hash in the name")
        if not calibration.blocks:
            raise UserError(f"{path}: the key 'blocks' is empty; nothing was measured")
        found.append(calibration)
    return sorted(found, key=lambda c: (c.model, c.sequence))


def latest(calibrations: list[Calibration]) -> dict[str, Calibration]:
    """The last calibration of each model."""
    return {c.model: c for c in sorted(calibrations, key=lambda c: c.sequence)}


def calibrate(
    wanted: list[Calibration],
    known: list[Calibration],
    open_sessions: Callable[[list[str]], Mapping[str, Session]],
    comparable: Callable[[Calibration], bool] = lambda _: True,
) -> list[Calibration]:
    """Measure the models that `wanted` describes (without blocks), beside a reference that is known.

    Args:
        wanted: what to measure; `sequence`, `blocks` and `beside` are filled in here.
        known: calibrations of the board; the first model of them that is not wanted becomes the reference.
        open_sessions: starts one process a model.
        comparable: whether a known model is today what it was: another program takes another time on the same device.

    Raises:
        UserError: the reference no longer has the step time of its record.
    """
    if not wanted:
        return []
    names = [c.model for c in wanted]
    others = [c for name, c in latest(known).items() if name not in names and comparable(c)]
    reference = others[:1]
    blocks = take_turns(open_sessions([*names, *(r.model for r in reference)]))
    for old in reference:
        check_reference(old, old.model_copy(update={"blocks": blocks[old.model]}))
    measured = []
    for calibration in wanted:
        before = [c.sequence for c in known if c.model == calibration.model]
        beside = sorted(n for n in blocks if n != calibration.model)
        update = {"blocks": blocks[calibration.model], "beside": beside, "sequence": max(before, default=0) + 1}
        measured.append(calibration.model_copy(update=update))
    return measured


def spread(calibration: Calibration) -> float:
    """Largest relative difference of a block's step time from the mean."""
    times = [b.seconds / b.steps for b in calibration.blocks]
    return max(abs(t / fmean(times) - 1) for t in times)


def measure_on_request(job: Stopwatch, events: Events, requests: TextIO) -> None:
    """The process side of a session: one block for every line on standard input."""
    import torch

    from ..datasets.images import data_root, load
    from ..beside import files_beside
    from ..registry import MODELS, include
    from .arithmetic import check_profile
    from .clock import clock_for
    from .prepare import Loaded, build_from_seed, set_profile, warm_up
    from .train import optimizer_for, train_step

    include(job.include)
    set_profile(job.spec.profile, job.threads)
    device = torch.device(job.device)
    data = load(job.spec.dataset, data_root(job.data_root))
    loaded = Loaded(data, job.spec, device)
    model = build_from_seed(job.spec, data, device)
    warm_up(model, loaded, job.spec)
    optimizer, clock = optimizer_for(model, job.spec.recipe), clock_for(job.device)
    model.train()
    count = iter(range(10**9))

    def step() -> None:
        train_step(model, optimizer, *loaded.batches(next(count)), job.spec.profile)

    built = MODELS.find(job.spec.model)
    events.send("ready", opened=files_beside(built.files, built.opened, (data_root(job.data_root),)))
    for _ in requests:
        block = time_block(step, clock)
        check_profile()
        events.send("block", steps=block.steps, seconds=block.seconds)
