"""Sidecar records: what was measured on a run's kept weights after its own record was written.

A sidecar is as immutable as a record. It lies in ``runs/<board>/equivariance/`` under
``<spec hash>.<attempt>.<content hash>.json`` and joins the row of the run whose weights it was measured on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError, model_validator

from ..registry import UserError
from .files import write_exclusively
from .record import Provenance, Refused, RunRecord, board_folder
from .schema import Strict, explain, short_hash
from .spec import PROTOCOL
from .statistics import mean

#: Columns of the errors, measured before and after training, and of the predictions, after training only.
FULL_ERRORS = ("eq_rot_data", "eq_floor", "lee_rot_per_deg", "lee_shift_per_px")
FULL_PREDICTIONS = ("consistency_pct", "acc_orbit_pct", "acc_worst_angle_pct")


class LayerPoint(Strict):
    """See `curves.LayerError`."""

    layer: str
    eq_feat_exact: float | None
    eq_feat_fibre: float | None


class FullPoint(Strict):
    """The full profile at one moment; see `equivariance_full`.

    Attributes:
        curve: ``eq_rot_analytic`` at each of the sidecar's `curve_degrees`.
        acc_by_angle_pct: accuracy at each of the sidecar's `orbit_degrees`; empty where it was not measured.
        layers: of the layers that say how rotations act on them, from input to output.
    """

    eq_rot_data: float | None
    eq_floor: float | None
    lee_rot_per_deg: float | None
    lee_shift_per_px: float | None
    consistency_pct: float | None
    acc_orbit_pct: float | None
    acc_worst_angle_pct: float | None
    collapsed: bool
    curve: list[float | None]
    layers: list[LayerPoint]
    acc_by_angle_pct: list[float] = []


class Sidecar(Strict):
    """The full equivariance profile of one run.

    Attributes:
        run: the run's id, ``<spec hash>.<attempt>``.
        weights_sha256: of the final weights, as in the run's record.
        draws: closed-form images, and real images of the errors.
        orbit_images: real images of the predictions.
        phases: seconds; the measurement itself is ``equivariance_full_s``.
    """

    schema_version: Literal[1]
    kind: Literal["equivariance"]
    protocol: int
    board: str
    run: str
    model: str
    dataset: str
    weights_sha256: str
    draws: int
    orbit_images: int
    curve_degrees: list[float]
    orbit_degrees: list[float] = []
    init: FullPoint
    trained: FullPoint
    phases: dict[str, float]
    provenance: Provenance
    warnings: list[str]

    @model_validator(mode="after")
    def _a_value_an_angle(self) -> Sidecar:
        for name, angles, values in (
            ("curve", self.curve_degrees, self.init.curve),
            ("curve", self.curve_degrees, self.trained.curve),
            ("acc_by_angle_pct", self.orbit_degrees, self.trained.acc_by_angle_pct or self.orbit_degrees),
        ):
            if len(angles) != len(values):
                raise ValueError(f"{name!r} has {len(values)} values for {len(angles)} angles")
        return self

    @property
    def file_name(self) -> str:
        return f"{self.run}.{short_hash(self.canonical())}.json"


_FILE = re.compile(r"[0-9a-f]{16}\.\d+\.[0-9a-f]{16}\.json")


def sidecar_folder(root: Path, board: str) -> Path:
    """Where a board's sidecars lie under the results folder."""
    return board_folder(root, board) / "equivariance"


def write_sidecar(root: Path, sidecar: Sidecar) -> Path:
    """Write a sidecar under its name; an existing file is never touched.

    Raises:
        FileExistsError: exactly this one is there already.
    """
    path = sidecar_folder(root, sidecar.board) / sidecar.file_name
    write_exclusively(path, sidecar.canonical().encode() + b"\n")
    return path


def read_sidecar(path: Path) -> Sidecar:
    """Read a sidecar and check its schema and the hash in its name.

    Raises:
        UserError: the file and the field that are wrong.
    """
    if not _FILE.fullmatch(path.name):
        raise UserError(f"{path}: a sidecar is called <spec hash>.<attempt>.<content hash>.json")
    try:
        text = path.read_text(encoding="utf-8")
        sidecar = Sidecar.model_validate_json(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        raise UserError(explain(error, Sidecar, str(path))) from error
    # A file as it was written is its own canonical form, also where a later release has added a field.
    written = f"{sidecar.run}.{short_hash(text.removesuffix(chr(10)))}.json"
    if path.name not in (written, sidecar.file_name):
        raise UserError(f"{path}: the content does not match the hash in the name; it should be {sidecar.file_name}")
    if sidecar.board != path.parents[1].name:
        raise UserError(f"{path}: the sidecar belongs to board {sidecar.board!r}")
    return sidecar


def read_sidecars(root: Path, board: str, run: str = "") -> tuple[list[Sidecar], list[Refused]]:
    """All sidecars of a board (or of one of its runs), the oldest first, and the files that were refused."""
    sidecars, refused = [], []
    for path in sorted(sidecar_folder(root, board).glob(f"{run}*.json")):
        try:
            sidecars.append(read_sidecar(path))
        except UserError as error:
            refused.append(Refused(path, str(error)))
    return sorted(sidecars, key=lambda s: (s.provenance.started, s.file_name)), refused


def sidecar_of(record: RunRecord, sidecars: Iterable[Sidecar]) -> Sidecar | None:
    """The sidecar that counts: the first that was measured on this run's weights under this protocol."""
    for sidecar in sidecars:
        same = sidecar.run == record.run_id and sidecar.protocol == PROTOCOL
        if same and record.results is not None and sidecar.weights_sha256 == record.results.weights_sha256:
            return sidecar
    return None


def has_sidecar(root: Path, record: RunRecord) -> bool:
    """Whether the full profile of a run has been measured."""
    return sidecar_of(record, read_sidecars(root, record.spec.board, record.run_id)[0]) is not None


def full_columns(sidecars: Sequence[Sidecar]) -> dict[str, float | None]:
    """The columns of the full profile, ``<metric>_init`` before and ``<metric>`` after training: means over runs."""
    columns: dict[str, float | None] = {}
    for metric in FULL_ERRORS:
        columns[f"{metric}_init"] = mean([getattr(s.init, metric) for s in sidecars])
        columns[metric] = mean([getattr(s.trained, metric) for s in sidecars])
    return columns | {metric: mean([getattr(s.trained, metric) for s in sidecars]) for metric in FULL_PREDICTIONS}
