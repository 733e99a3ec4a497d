"""The immutable record of a run: its schema, exclusive atomic writing, strict reading."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ...registry import UserError
from ..spec.budget import drifted
from ..spec.suite import LONGEST_BOARD, RunSpec
from ..tools.files import write_exclusively
from ..tools.schema import NAME, Amount, Count, Hash, Message, Strict, Text, Version, parse_json, read_text, short_hash
from .provenance import SHARED

SCHEMA_VERSION = 1

Status = Literal["ok", "oom", "diverged", "timeout", "lost", "error", "invalid"]
#: A run that ended like this has been measured; it is not run again.
FINAL: tuple[Status, ...] = ("ok", "diverged")

#: What some hashes look like, empty if there was nothing to hash.
Sha256 = Annotated[str, Field(pattern="^([0-9a-f]{64})?$")]
#: Names of phases: they become names of columns.
Seconds = dict[Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,60}_s$")], Amount]


#: Largest equivariance error that counts as exact: rounding in float32.
EXACT = 1e-4
#: Columns of a `CorePoint`, measured before and after training; that of the claim is among `claims.claim_columns`.
CORE_ERRORS = ("eq_exact_c4", "eq_exact_d4", "eq_rot_analytic", "scale", "scale_analytic")


class CorePoint(Strict):
    """Equivariance errors at one moment; see `equivariance.Core`."""

    eq_exact_c4: Amount | None
    eq_exact_d4: Amount | None
    eq_rot_analytic: Amount | None
    collapsed: bool
    # Records of protocol 1 do not have these.
    scale: Amount | None = None
    scale_analytic: Amount | None = None
    eq_claimed: Amount | None = None


class CurvePoint(Strict):
    """One point of the learning curve, at the end of a block of steps; see `train.Point`."""

    step: Count
    loss: float | None
    lr: Amount
    device_s: Amount
    host_s: Amount | None = None


class Size(Strict):
    """See `cost.Cost`. What older records do not say has a default."""

    parameters: Count
    frozen: Count = 0
    buffers: Count
    learned_buffers: Count = 0
    dense_weights: Count
    flops_per_image: Count
    train_flops_per_image: Count
    uncounted: Message = ""


class Results(Strict):
    """What was measured.

    Attributes:
        test_acc_pct, val_acc_pct: accuracy of the final weights; chance level where the run ended in NaN.
            Validation is None if it was trained on.
        train_s: device-seconds of training; `step_ms` is their mean per step.
        host_ms: milliseconds that the host takes to launch a step, when the device has nothing left to do; the median
            of all blocks. None on a CPU, and in records that are older than this field.
        peak_mib: largest memory of the training, of the kind that `peak_kind` says; in records without
            `evaluation_peak_mib` of all that the process did.
        evaluation_peak_mib: the same of what comes after it: statistics of normalisation, evaluation, equivariance
            errors.
        init, trained: equivariance errors before and after training.
        weights_sha256: of all final parameters and buffers.
        outcomes_sha256: of the file with the predicted class of every test image, see `outcomes`; empty if none was
            kept, as in records that were written before there were any.
    """

    test_acc_pct: float = Field(ge=0, le=100)
    val_acc_pct: float | None = Field(ge=0, le=100)
    test_images: Count = Field(gt=0)
    train_images: Count = Field(gt=0)
    train_s: Amount
    step_ms: Amount
    peak_mib: Amount
    peak_kind: Literal["allocated on the device", "resident in the process"]
    init: CorePoint
    trained: CorePoint
    weights_sha256: Sha256
    outcomes_sha256: Sha256 = ""
    host_ms: Amount | None = None
    evaluation_peak_mib: Amount | None = None

    @property
    def is_launch_bound(self) -> bool:
        """Whether the host takes as long to launch a step as the step takes: the device waits for it."""
        return self.host_ms is not None and self.host_ms >= LAUNCH_BOUND * self.step_ms


#: From this share of host time in the time of a step on, a step is limited by its launches.
LAUNCH_BOUND = 0.9


class Provenance(Strict):
    """Where the figures come from.

    Attributes:
        source_hash: of the model's source, see `provenance.source_hash`.
        data_digest: SHA-256 of the data set's arrays; empty if the run ended before they were loaded.
        started: date and time with their zone, ISO 8601.
        versions: of Python, of packages and of the state of this checkout, by name.
        hardware: device, key, host, processor, driver, system; what is not known is left out. ``runs_on_device`` is
            there where several runs shared the GPU, or the cores; ``alone`` where others were looked for, see
            `gpu_processes`.
        threads: of torch on the CPU.
        command: the command line that asked for the run.
        commit: of the checkout of equibench; empty if it is installed without one.
        harness_hash: of the files of this harness, see `provenance.harness_hash`.
        origin: package and version, or file, that registers the model; ``equibench`` where it is one of ours.
        registered: what the model was registered with, see `provenance.registration`: a board says it even where the
            package or file that registers the model is not at hand.
        opened: files beside the code that the model is made from, and hashes of them, see `beside`; part of
            `source_hash`.
        checked: whether the model's source had passed `equibench check`: ``yes``, ``no`` or ``failed: …``, see
            `checked`; empty in records from before it was asked.
        data_source: of what the data set declares, and of `data_opened`, which is to it what `opened` is to the model.
    """

    source_hash: Hash
    data_digest: Sha256
    started: Text
    versions: dict[Text, Text]
    hardware: dict[Text, Text]
    threads: int = Field(ge=1, le=10**6)
    command: Text
    # Records that were written before these fields hold have the defaults; their files stay as they are.
    commit: Annotated[str, Field(pattern="^([0-9a-f]{40,64})?$")] = ""
    harness_hash: Hash = ""
    origin: Text = ""
    registered: dict[Text, Text] = {}
    opened: dict[Text, Hash] = {}
    data_source: Hash = ""
    data_opened: dict[Text, Hash] = {}
    checked: Text = ""

    @field_validator("started")
    @classmethod
    def _is_a_time(cls, text: str) -> str:
        if datetime.fromisoformat(text).tzinfo is None:
            raise ValueError("a time needs its zone, as 2026-01-31T12:00:00+00:00")
        return text

    @property
    def host(self) -> str:
        """See `provenance.host_id`; empty if it is unknown, as in records that have the host's name instead."""
        text = self.hardware.get("host", "")
        return text if _HOST.fullmatch(text) else ""


_HOST = re.compile("[0-9a-f]{16}")


class Context(Strict):
    """The suite that asked for the run; it does not determine the result, and no board reads its class, see
    `size_classes`.
    """

    suite: Text
    parameter_class: Literal["matched", "as-published"]
    reference_parameters: Count | None
    reference_model: Text | None

    @model_validator(mode="after")
    def _says_the_class(self) -> Context:
        if self.parameter_class == "matched" and not self.reference_parameters:
            raise ValueError("the class 'matched' needs reference_parameters")
        return self


class RunRecord(Strict):
    """One attempt at one run.

    Attributes:
        first_attempt: its number where it was made, where a merge has given it another; see `exchange.merge`.
    """

    schema_version: Version
    spec: RunSpec
    attempt: int = Field(ge=1, le=10**6)
    status: Status
    reason: Message
    results: Results | None
    cost: Size | None
    curve: list[CurvePoint] = Field(max_length=10_000)
    phases: Seconds
    provenance: Provenance
    context: Context
    warnings: list[Message] = Field(max_length=1000)
    first_attempt: int | None = Field(default=None, ge=1, le=10**6)

    @field_validator("status", mode="before")
    @classmethod
    def _as_it_was_called(cls, status: object) -> object:
        """Records of protocol 1 say ``nan``, which readers of CSVs take for a missing value."""
        return "diverged" if status == "nan" else status

    @model_validator(mode="after")
    def _complete(self) -> RunRecord:
        if self.status in FINAL and (self.results is None or self.cost is None):
            raise ValueError(f"a run with status {self.status!r} has results and cost")
        if self.status != "ok" and not self.reason:
            raise ValueError(f"a run with status {self.status!r} says its reason")
        return self

    @model_validator(mode="after")
    def _spent_its_budget(self) -> RunRecord:
        """A row of a board must have spent what the board's name says, whoever wrote the record."""
        if self.results is None:
            return self
        budget, spec = self.spec.budget, self.spec
        images, batch = self.results.train_images, spec.recipe.batch
        if spec.train_images not in (None, images):
            raise ValueError(f"'train_images' is {images:,} where the spec says {spec.train_images:,}")
        steps = {budget.whole_batches_of(images, batch)}
        if spec.protocol == 1:  # it multiplied floats, and lost a step of some budgets: 1,424 of e9.12 of 10,000 images
            steps.add(int((budget.epochs or 0) * images // batch))
        if budget.kind == "E" and spec.steps not in steps:
            raise ValueError(
                f"budget {budget.name!r} of {images:,} images in batches of {batch:,} is not {spec.steps:,} steps"
            )
        if budget.seconds is not None and self.status == "ok" and drifted(self.results.train_s, budget.seconds):
            raise ValueError(f"{self.results.train_s:g} s are not the budget {budget.name!r}: such a run is 'invalid'")
        return self

    @cached_property
    def file_name(self) -> str:
        """Name of its file; as it was read, else made from the content."""
        return f"{self.run_id}.{short_hash(self.canonical())}.json"

    def model_copy(self, **options: Any) -> RunRecord:
        copy = super().model_copy(**options)
        for made in ("file_name", "run_id", "identity"):
            copy.__dict__.pop(made, None)  # the content may be another
        return copy

    @cached_property
    def identity(self) -> str:
        """Hash of what was recorded where the run was made: the same in every folder that it was merged into."""
        first = self.first_attempt or self.attempt
        return short_hash(self.model_copy(update={"attempt": first, "first_attempt": None}).canonical())

    @property
    def runs_on_device(self) -> int:
        """How many runs at a time shared the device; above 1 its times are no measure of the model."""
        text = self.provenance.hardware.get(SHARED, "")
        return int(text) if _COUNT.fullmatch(text) else 1

    @property
    def steps_done(self) -> int | None:
        """Optimiser steps that were trained; None if the record does not say, as of a run that raised."""
        if self.status == "ok":
            return self.spec.steps
        return self.curve[-1].step if self.curve else None

    @cached_property
    def run_id(self) -> str:
        return f"{self.spec.digest()}.{self.attempt}"


#: A number of runs, of few digits: a record may be anybody's, and Python refuses to read a number of thousands.
_COUNT = re.compile(r"[1-9][0-9]{0,5}")
_FILE = re.compile(r"[0-9a-f]{16}\.[0-9]{1,7}\.[0-9a-f]{16}\.json")
_BOARD = re.compile(NAME.replace("0,99", f"0,{LONGEST_BOARD}"))


@dataclass(frozen=True)
class Refused:
    """A file among the records that is none, and why."""

    path: Path
    reason: str


def board_folder(root: Path, board: str) -> Path:
    """Folder of a board's records under the results folder.

    Raises:
        UserError: the name is no board's, or somebody put a symbolic link there: nothing is read or written elsewhere.
    """
    folder = root / "runs" / board
    if len(board) > LONGEST_BOARD or not _BOARD.fullmatch(board):
        raise UserError(f"{folder}: a board's folder is called as the board; this is no board's name")
    if folder.is_symlink():
        raise UserError(f"{folder}: this is a symbolic link, which is not allowed; put the folder itself there")
    return folder


def write_record(root: Path, record: RunRecord) -> Path:
    """Write a record under its name; an existing file is never touched.

    Raises:
        FileExistsError: exactly this record is there already.
    """
    path = board_folder(root, record.spec.board) / record.file_name
    write_exclusively(path, record.canonical().encode() + b"\n")
    return path


def read_record(path: Path) -> RunRecord:
    """Read a record and check its schema and both hashes in its name.

    Raises:
        UserError: the file and the field that are wrong.
    """
    found = _FILE.fullmatch(path.name)
    if not found:
        raise UserError(f"{path}: a record is called <spec hash>.<attempt>.<content hash>.json")
    text = read_text(path, link=False)
    record = parse_json(RunRecord, text, str(path))
    check_name(path, text, record.run_id, record)
    if record.spec.board != path.parent.name:
        raise UserError(f"{path}: the record belongs to board {record.spec.board!r}")
    record.__dict__["file_name"] = path.name
    return record


def check_name(path: Path, text: str, run: str, content: Strict) -> None:
    """Check that a file's name says its run and the hash of its text.

    The hash is of the text as it stands there, so that it holds when a later version has more fields with defaults; of
    the canonical form where somebody changed the layout alone.

    Raises:
        UserError: it says another.
    """
    wanted = f"{run}.{short_hash(text.removesuffix(chr(10)))}.json"
    # The canonical form takes as long as reading: it is made only where the text is not it.
    if path.name != wanted and path.name != f"{run}.{short_hash(content.canonical())}.json":
        raise UserError(f"{path}: the content does not match the hashes in the name; it should be {wanted}")


def read_board(root: Path, board: str) -> tuple[list[RunRecord], list[Refused]]:
    """All records of a board in the order of their names, and the files that were refused."""
    records, refused = [], []
    try:
        paths = sorted(board_folder(root, board).glob("*.json"), key=lambda p: p.name)
    except UserError as error:
        return [], [Refused(root / "runs" / board, str(error))]
    with without_collection():
        for path in paths:
            try:
                records.append(read_record(path))
            except UserError as error:
                refused.append(Refused(path, str(error)))
    return records, refused


@contextmanager
def without_collection() -> Iterator[None]:
    """Without looking for cycles: records hold none, and a million of their objects take as long to look at as to
    read.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def board_names(root: Path) -> list[str]:
    """Boards that have records."""
    folder = root / "runs"
    return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def attempts_of(root: Path, spec: RunSpec) -> list[RunRecord]:
    """Records of a spec, first attempt first; refused files are left out."""
    found = []
    for path in board_folder(root, spec.board).glob(f"{spec.digest()}.*.json"):
        try:
            found.append(read_record(path))
        except UserError:
            continue  # the board's reader names it
    return sorted(found, key=lambda r: (r.attempt, r.file_name))
