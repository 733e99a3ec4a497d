"""The immutable record of a run: its schema, exclusive atomic writing, strict reading."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from ..registry import UserError
from .files import write_exclusively
from .schema import Strict, explain, short_hash
from .spec import RunSpec

SCHEMA_VERSION = 1

Status = Literal["ok", "oom", "nan", "timeout", "lost", "error", "invalid"]
#: A run that ended like this has been measured; it is not run again.
FINAL: tuple[Status, ...] = ("ok", "nan")


class CorePoint(Strict):
    """Equivariance errors at one moment; see `equivariance.Core`."""

    eq_exact_c4: float | None
    eq_exact_d4: float | None
    eq_rot_analytic: float | None
    collapsed: bool


class CurvePoint(Strict):
    """One point of the learning curve, at the end of a block of steps."""

    step: int
    loss: float | None
    lr: float
    device_s: float


class Size(Strict):
    """See `cost.Cost`."""

    parameters: int
    dense_weights: int
    buffers: int
    flops_per_image: int
    train_flops_per_image: int


class Results(Strict):
    """What was measured.

    Attributes:
        test_acc_pct, val_acc_pct: accuracy of the final weights; chance level where the run ended in NaN.
            Validation is None where it was trained on.
        train_s: device-seconds of training; `step_ms` is their mean per step.
        peak_mib: largest memory, of the kind that `peak_kind` says.
        init, trained: equivariance errors before and after training.
        weights_sha256: of all final parameters and buffers.
    """

    test_acc_pct: float = Field(ge=0, le=100)
    val_acc_pct: float | None = Field(ge=0, le=100)
    test_images: int
    train_images: int
    train_s: float
    step_ms: float
    peak_mib: float
    peak_kind: Literal["allocated on the device", "resident in the process"]
    init: CorePoint
    trained: CorePoint
    weights_sha256: str


class Provenance(Strict):
    """Where the figures come from."""

    source_hash: str
    data_digest: str
    started: str
    versions: dict[str, str]
    hardware: dict[str, str]
    threads: int
    command: str


class Context(Strict):
    """The suite that asked for the run; it does not determine the result."""

    suite: str
    parameter_class: Literal["matched", "as-published"]
    reference_parameters: int | None
    reference_model: str | None


class RunRecord(Strict):
    """One attempt at one run."""

    schema_version: Literal[1]
    spec: RunSpec
    attempt: int = Field(ge=1)
    status: Status
    reason: str
    results: Results | None
    cost: Size | None
    curve: list[CurvePoint]
    phases: dict[str, float]
    provenance: Provenance
    context: Context
    warnings: list[str]

    @model_validator(mode="after")
    def _complete(self) -> RunRecord:
        if self.status in FINAL and (self.results is None or self.cost is None):
            raise ValueError(f"a run with status {self.status!r} has results and cost")
        if self.status != "ok" and not self.reason:
            raise ValueError(f"a run with status {self.status!r} says its reason")
        return self

    @property
    def file_name(self) -> str:
        return f"{self.spec.digest()}.{self.attempt}.{short_hash(self.canonical())}.json"

    @property
    def run_id(self) -> str:
        return f"{self.spec.digest()}.{self.attempt}"


_FILE = re.compile(r"([0-9a-f]{16})\.(\d+)\.([0-9a-f]{16})\.json")


@dataclass(frozen=True)
class Refused:
    """A file among the records that is none, and why."""

    path: Path
    reason: str


def board_folder(root: Path, board: str) -> Path:
    """Folder of a board's records under the results folder."""
    return root / "runs" / board


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
    try:
        text = path.read_text(encoding="utf-8")
        record = RunRecord.model_validate_json(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        raise UserError(explain(error, RunRecord, str(path))) from error
    # A file as it was written is its own canonical form: only another layout needs the longer way.
    known = found[3] if short_hash(text.removesuffix("\n")) == found[3] else short_hash(record.canonical())
    if f"{record.run_id}.{known}.json" != path.name:
        raise UserError(f"{path}: the content does not match the hashes in the name; it should be {record.file_name}")
    if record.spec.board != path.parent.name:
        raise UserError(f"{path}: the record belongs to board {record.spec.board!r}")
    return record


def read_board(root: Path, board: str) -> tuple[list[RunRecord], list[Refused]]:
    """All records of a board in the order of their names, and the files that were refused."""
    records, refused = [], []
    with without_collection():
        for path in sorted(board_folder(root, board).glob("*.json")):
            try:
                records.append(read_record(path))
            except UserError as error:
                refused.append(Refused(path, str(error)))
    return records, refused


@contextmanager
def without_collection() -> Iterator[None]:
    """Without looking for cycles: records hold none, and a million of their objects take as long to look at as to read."""
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
