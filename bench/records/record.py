"""The immutable record of a run: its schema, exclusive atomic writing, strict reading; also of files beside it."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from ...registry import UserError
from ..spec.budget import drifted
from ..spec.suite import RunSpec
from ..tools.files import write_exclusively
from ..tools.schema import Amount, Count, Message, Strict, Text, Version, parse_json, read_text, short_hash
from .provenance import SHARED, WAITED, Provenance, Sha256
from .store import RUNS, board_folder

T = TypeVar("T")
M = TypeVar("M", bound=Strict)

Status = Literal["ok", "oom", "diverged", "timeout", "lost", "error", "invalid"]
#: A run with one of these statuses is finished and is not run again.
FINAL: tuple[Status, ...] = ("ok", "diverged")

#: Names of phases: they become names of columns.
Seconds = dict[Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,60}_s$")], Amount]

#: Largest equivariance error that counts as exact: rounding in float32.
EXACT = 1e-4
#: Columns of a `CorePoint`, before and after training. The column of the claim is in `claims.claim_columns`.
CORE_ERRORS = ("eq_exact_c4", "eq_exact_d4", "eq_rot_analytic", "scale", "scale_analytic")


class CorePoint(Strict):
    """Relative equivariance errors at one moment. 0 means invariant; 1 means that a transformation changes the logits
    as much as another image does; None means collapsed.

    Attributes:
        eq_exact_c4: mean over the rotations by 90, 180 and 270 degrees of real images, without interpolation.
        eq_exact_d4: mean over these rotations and the four reflections.
        eq_rot_analytic: mean over `equivariance.ANGLES` of closed-form images, without resampling.
        collapsed: whether the logits hardly depend on the input.
        scale: s of the real images, in units of the logits; errors of real images were divided by s.
        scale_analytic: s of the closed-form images.
        eq_claimed: mean over the elements of the claimed group, see `equivariance.claimed_elements`; None if there are
            none.
    """

    eq_exact_c4: Amount | None
    eq_exact_d4: Amount | None
    eq_rot_analytic: Amount | None
    collapsed: bool
    # Missing in records of protocol 1.
    scale: Amount | None = None
    scale_analytic: Amount | None = None
    eq_claimed: Amount | None = None


class CurvePoint(Strict):
    """One point of the learning curve, at the end of a block of steps.

    Attributes:
        loss: mean of the block; None if it is not a finite number.
        host_s: seconds that the host took to launch the first step of the block, when the device had no other work.
            Later steps do not measure the host: the device queues about a thousand launches, and then the host waits.
            None on a CPU, which is both host and device.
    """

    step: Count
    loss: float | None
    lr: Amount
    device_s: Amount
    host_s: Amount | None = None


#: Name in `Size.uncounted` if a trained model has not the operations for every image that were counted before.
VARYING = "operations that depend on image or weights"


class Size(Strict):
    """Size and compute of a model on its input. Real numbers are counted; a complex number counts as two.

    Attributes:
        parameters: trainable numbers; shared parameters count once.
        frozen: numbers in parameters that are not trained.
        buffers: numbers in buffers (running statistics, sampled bases) during training.
        learned_buffers: numbers in buffers that training changes, except statistics of normalisation layers.
        dense_weights: numbers in the dense filters and matrices of a forward pass. Layers that expand filters from a
            basis have more dense weights than parameters.
        flops_per_image: operations of a forward pass in evaluation, as `operations` counts them, without the expansion
            of filters.
        train_flops_per_image: operations of the forward and backward pass of a training step, with the expansion of
            filters.
        uncounted: names of operations that are in neither number; empty if all large operations are counted.
    """

    # Fields that older records do not have get a default.
    parameters: Count
    frozen: Count = 0
    buffers: Count
    learned_buffers: Count = 0
    dense_weights: Count
    flops_per_image: Count
    train_flops_per_image: Count
    uncounted: Message = ""


class Results(Strict):
    """The measurements of a run.

    Attributes:
        test_acc_pct, val_acc_pct: accuracy of the final weights; chance level if the run ended in NaN.
            `val_acc_pct` is None if validation images were used for training.
        train_s: device-seconds of training; `step_ms` is their mean per step.
        host_ms: milliseconds that the host needs to launch a step when the device has no other work; the median of all
            blocks. None on a CPU, and in records that are older than this field.
        peak_mib: peak memory during training, of the kind in `peak_kind`; in records without `evaluation_peak_mib`, of
            the whole process.
        evaluation_peak_mib: peak memory after training: normalisation statistics, evaluation, equivariance errors.
        init, trained: equivariance errors before and after training.
        weights_sha256: hash of all final parameters and buffers.
        outcomes_sha256: hash of the file with the predicted class of every test image, see `outcomes`; empty if there
            is no such file, as in older records.
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
        """Whether the steps are limited by the launches of the host, so that the device waits for it."""
        return self.host_ms is not None and self.host_ms >= LAUNCH_BOUND * self.step_ms


#: A step is limited by its launches if the host time is at least this share of the step time.
LAUNCH_BOUND = 0.9


class Context(Strict):
    """The suite of the run. It does not determine the result, and no board reads its class, see
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
    """One attempt at one run; `first_attempt` is its original number, if a merge has changed the number."""

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
        """Records of protocol 1 have ``nan``, which readers of CSVs treat as a missing value."""
        return "diverged" if status == "nan" else status

    @model_validator(mode="after")
    def _complete(self) -> RunRecord:
        if self.status in FINAL and (self.results is None or self.cost is None):
            raise ValueError(f"a run with status {self.status!r} must have results and cost")
        if self.status != "ok" and not self.reason:
            raise ValueError(f"a run with status {self.status!r} must have a reason")
        return self

    @model_validator(mode="after")
    def _spent_its_budget(self) -> RunRecord:
        """Every run must have used the budget in the board's name; this is also checked for records of others."""
        if self.results is None:
            return self
        budget, spec = self.spec.budget, self.spec
        images, batch = self.results.train_images, spec.recipe.batch
        if spec.train_images not in (None, images):
            raise ValueError(f"'train_images' is {images:,}, but the spec says {spec.train_images:,}")
        steps = {budget.whole_batches_of(images, batch)}
        if spec.protocol == 1:  # float rounding lost a step of some budgets: 1,424 for e9.12 of 10,000 images
            steps.add(int((budget.epochs or 0) * images // batch))
        if budget.kind == "E" and spec.steps not in steps:
            what = f"budget {budget.name!r} of {images:,} images in batches of {batch:,}"
            raise ValueError(f"{what} is not {spec.steps:,} steps")
        if budget.seconds is not None and self.status == "ok" and drifted(self.results.train_s, budget.seconds):
            raise ValueError(
                f"{self.results.train_s:g} s differ too much from the budget {budget.name!r}; the status of such a run"
                " is 'invalid'"
            )
        return self

    @classmethod
    def without_result(cls, **known: Any) -> RunRecord:
        """The record of an attempt without a result. `known` has its other fields; by default the run was not made."""
        unmade: dict[str, Any] = {"attempt": 1, "status": "lost", "reason": "not run", "cost": None}
        return cls(schema_version=1, results=None, curve=[], phases={}, warnings=[], **{**unmade, **known})

    @cached_property
    def file_name(self) -> str:
        """Name of its file: the name that was read, else computed from the content."""
        return f"{self.run_id}.{short_hash(self.canonical())}.json"

    def model_copy(self, **options: Any) -> RunRecord:
        copy = super().model_copy(**options)
        for made in ("file_name", "run_id", "identity"):
            copy.__dict__.pop(made, None)  # the content may have changed
        return copy

    @cached_property
    def identity(self) -> str:
        """Hash of the original record: the same in every folder into which it was merged."""
        first = self.first_attempt or self.attempt
        return short_hash(self.model_copy(update={"attempt": first, "first_attempt": None}).canonical())

    @property
    def runs_on_device(self) -> int:
        """How many runs at a time shared the device; above 1, its times do not measure the model.

        At least 2 if the run waited for the processor of its device longer than `WAITING_SHARE` of its training.
        """
        hardware = self.provenance.hardware
        count, waited = hardware.get(SHARED, ""), hardware.get(WAITED, "") if hardware.get("device") == "cpu" else ""
        crowded = _SHARE.fullmatch(waited) is not None and float(waited) > WAITING_SHARE
        return max(int(count) if _COUNT.fullmatch(count) else 1, 2 if crowded else 1)

    @property
    def line(self) -> str:
        """The run and how it ended, on one line."""
        return f"{self.spec.model}  seed {self.spec.seed}  {self.status}  {self.reason}".rstrip()

    @property
    def steps_done(self) -> int | None:
        """Number of trained optimiser steps; None if the record does not say, such as after an exception."""
        if self.status == "ok":
            return self.spec.steps
        return self.curve[-1].step if self.curve else None

    @cached_property
    def run_id(self) -> str:
        return f"{self.spec.digest()}.{self.attempt}"


#: The number of an attempt has few digits, because a record may come from anybody.
_COUNT = re.compile(r"[1-9][0-9]{0,5}")
_SHARE = re.compile(r"[0-9]{1,2}\.[0-9]{3}")
#: A run on a CPU that waited longer, as a share of its training, did not have its processor for itself. On an idle
#: processor, it waits for less than a hundredth.
WAITING_SHARE = 0.05
_FILE = re.compile(r"[0-9a-f]{16}\.[0-9]{1,7}\.[0-9a-f]{16}\.json")


@dataclass(frozen=True)
class RefusedFile:
    """A file that was refused, and the reason."""

    path: Path
    reason: str


def write_document(path: Path, document: Strict) -> Path:
    """Write a document under its name. Raises FileExistsError: an existing file is never changed."""
    write_exclusively(path, document.canonical().encode() + b"\n")
    return path


def write_record(root: Path, record: RunRecord) -> Path:
    """Write a record under its name. Raises FileExistsError: an existing file is never changed."""
    return write_document(board_folder(root, record.spec.board) / record.file_name, record)


def read_document(path: Path, schema: type[M]) -> tuple[str, M]:
    """The text and the content of a file. Raises UserError with file and field if something is wrong."""
    text = read_text(path, link=False)
    return text, parse_json(schema, text, str(path))


def check_kind(path: Path, kind: str) -> None:
    """Refuse (UserError) a path that does not have the name of a file of a run."""
    if not _FILE.fullmatch(path.name):
        raise UserError(f"{path}: the name of a {kind} is <spec hash>.<attempt>.<content hash>.json")


def read_record(path: Path) -> RunRecord:
    """Read a record. Raises UserError if its schema, a hash in its name, or its board is wrong."""
    check_kind(path, "record")
    text, record = read_document(path, RunRecord)
    check_name(path, text, record.run_id, record)
    if record.spec.board != path.parent.name:
        raise UserError(f"{path}: the record belongs to board {record.spec.board!r}")
    record.__dict__["file_name"] = path.name
    return record


def check_name(path: Path, text: str, run: str, content: Strict) -> None:
    """Refuse (UserError) a file whose name does not contain its run and the hash of its text.

    The hash is that of the text in the file, so it stays valid if a later version adds fields with defaults. If only
    the layout was changed, it is the hash of the canonical form.
    """
    wanted = f"{run}.{short_hash(text.removesuffix(chr(10)))}.json"
    # Making the canonical form takes as long as reading, so it is made only if the hash of the text differs.
    if path.name != wanted and path.name != f"{run}.{short_hash(content.canonical())}.json":
        raise UserError(f"{path}: the content does not match the hashes in the name; it should be {wanted}")


def read_all(paths: Iterable[Path], read: Callable[[Path], T]) -> tuple[list[T], list[RefusedFile]]:
    """The contents of these files in their order, and the refused files."""
    found, refused = [], []
    with without_garbage_collection():
        for path in paths:
            try:
                found.append(read(path))
            except UserError as error:
                refused.append(RefusedFile(path, str(error)))
    return found, refused


def read_folder(
    root: Path, board: str, part: str, read: Callable[[Path], M], run: str = ""
) -> tuple[list[M], list[RefusedFile]]:
    """As `read_all`, for the files of a board's subfolder (or of one of its runs there) in the order of their names."""
    try:
        paths = sorted((board_folder(root, board) / part).glob(f"{run}*.json"))
    except UserError as error:
        return [], [RefusedFile(root / RUNS / board, str(error))]
    return read_all(paths, read)


def read_board(root: Path, board: str) -> tuple[list[RunRecord], list[RefusedFile]]:
    """All records of a board in the order of their names, and the refused files."""
    return read_folder(root, board, "", read_record)


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Disable Python's cycle collection: records have no cycles, and collecting a million objects takes as long as
    reading them.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def attempts_of(root: Path, spec: RunSpec) -> list[RunRecord]:
    """Records of a spec, first attempt first, without refused files, which the reader of the board reports."""
    found, _ = read_all(board_folder(root, spec.board).glob(f"{spec.digest()}.*.json"), read_record)
    return sorted(found, key=lambda r: (r.attempt, r.file_name))
