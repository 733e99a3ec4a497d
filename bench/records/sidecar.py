"""Files about a run that are written after its record: sidecars, and verdicts of replays.

They are the files ``<spec hash>.<attempt>.<content hash>.json`` in subfolders of the board's folder, and as immutable
as records. A sidecar, in ``equivariance``, has measurements on the run's kept weights, and adds columns to its row. A
verdict, in ``replays``, says whether a further attempt agrees with the run. The new attempt is an ordinary record.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, model_validator

from ...registry import UserError
from ..tools.schema import Amount, Count, Hash, Message, Strict, Text, Time, Version, short_hash
from .provenance import Provenance, Sha256
from .record import RefusedFile, RunRecord, Seconds, check_kind, check_name, read_document, read_folder, write_document
from .store import REPLAYS, SIDECARS, board_folder

#: Columns of the errors (before and after training), and of the predictions (only after training).
FULL_ERRORS = (
    "eq_rot_data", "eq_floor", "eq_rot_data_abs", "nv_rot_data", "kl_rot_data_nats", "lee_rot_per_deg",
    "lee_shift_per_px",
)  # fmt: skip
FULL_PREDICTIONS = ("consistency_pct", "acc_orbit_pct", "acc_worst_angle_pct")

Percent = Annotated[float, Field(ge=0, le=100)]
Name = Annotated[str, Field(pattern="^[A-Za-z0-9._+-]{1,200}$")]
_Points = Annotated[float, Field(ge=-1e6, le=1e6)]
A = TypeVar("A", bound="AboutRun")


class AboutRun(Strict):
    """A file about a run.

    Attributes:
        run: the run's id, ``<spec hash>.<attempt>``.
    """

    board: Name
    run: str = Field(pattern=r"^[0-9a-f]{16}\.[0-9]{1,7}$")

    @property
    def file_name(self) -> str:
        return f"{self.run}.{short_hash(self.canonical())}.json"

    @classmethod
    def read(cls: type[A], path: Path, kind: str) -> A:
        """Read a file of this kind. Raises UserError if its schema, a hash in its name, or its board is wrong."""
        text, content = read_document(path, cls)
        check_name(path, text, content.run, content)
        if content.board != path.parents[1].name:
            raise UserError(f"{path}: the {kind} belongs to board {content.board!r}")
        return content


class LayerPoint(Strict):
    """Equivariance error of the output of one layer; None if collapsed, or if the group has no such rotation.

    Attributes:
        layer: name of the module.
        eq_feat_exact: mean over images and the quarter turns g ≠ e in the layer's group of
            ‖g⁻¹ Φ(gx) − Φ(x)‖ / s over all channels and pixels of the output Φ, with s = mean of ‖Φ(x) − Φ(x′)‖ over
            the pairs of different images.
        eq_feat_fibre: the same for the other rotations of the layer's group, over the spatial means of the channels. On
            these means, g only permutes channels, and nothing is resampled.
    """

    layer: Text
    eq_feat_exact: Amount | None
    eq_feat_fibre: Amount | None


class FullPoint(Strict):
    """The full profile at one moment; see `equivariance_full`.

    Attributes:
        curve: ``eq_rot_analytic`` at each of the sidecar's `curve_degrees`.
        acc_by_angle_pct: accuracy at each of the sidecar's `orbit_degrees`; empty if it was not measured.
        layers: errors of the layers that define how rotations act on them, from input to output.
    """

    eq_rot_data: Amount | None
    eq_floor: Amount | None
    lee_rot_per_deg: Amount | None
    lee_shift_per_px: Amount | None
    consistency_pct: Percent | None
    acc_orbit_pct: Percent | None
    acc_worst_angle_pct: Percent | None
    collapsed: bool
    curve: list[Amount | None] = Field(max_length=10_000)
    layers: list[LayerPoint] = Field(max_length=10_000)
    acc_by_angle_pct: list[Percent] = Field(default=[], max_length=10_000)
    # Missing in sidecars of protocol 1.
    eq_rot_data_abs: Amount | None = None
    nv_rot_data: Amount | None = None
    kl_rot_data_nats: Amount | None = None


class Sidecar(AboutRun):
    """The full equivariance profile of one run.

    Attributes:
        weights_sha256: hash of the final weights, as in the run's record.
        draws: numbers of closed-form images and of real images for the errors.
        orbit_images: number of real images for the predictions.
        phases: seconds; the measurement itself is ``equivariance_full_s``.
    """

    schema_version: Version
    kind: Literal["equivariance"]
    protocol: int = Field(ge=0, le=10**6)
    model: Name
    dataset: Name
    weights_sha256: Sha256
    draws: Count
    orbit_images: Count
    curve_degrees: list[float] = Field(max_length=10_000)
    orbit_degrees: list[float] = Field(default=[], max_length=10_000)
    init: FullPoint
    trained: FullPoint
    phases: Seconds
    provenance: Provenance
    warnings: list[Message] = Field(max_length=1000)

    @model_validator(mode="after")
    def _is_complete(self) -> Sidecar:
        for name, angles, values in (
            ("curve", self.curve_degrees, self.init.curve),
            ("curve", self.curve_degrees, self.trained.curve),
            ("acc_by_angle_pct", self.orbit_degrees, self.trained.acc_by_angle_pct or self.orbit_degrees),
        ):
            if len(angles) != len(values):
                raise ValueError(f"{name!r} has {len(values)} values for {len(angles)} angles")
        if "equivariance_full_s" not in self.phases:
            raise ValueError("the key 'phases.equivariance_full_s' is missing")
        return self


class ReplayVerdict(AboutRun):
    """The verdict of a replay of a run.

    Attributes:
        again: id of the new attempt; empty if none was recorded.
        agrees: whether the new attempt confirms the recorded one.
        rule: ``bit-exact`` if the bits are the same, or must be; ``interval`` if they may differ and do;
            ``failed`` if the new attempt has no result.
        why: one sentence.
        differences: differences of the surroundings that may change bits.
        recorded, replayed: test accuracies in %.
        low, high: the prediction interval in %, if that was the rule.
        judged: date and time with their zone, ISO 8601.
        host: identifier of the replay's machine, see `provenance.host_id`; empty if there is none.
    """

    schema_version: Version = 1
    kind: Literal["replay"] = "replay"
    again: Annotated[str, Field(pattern=r"^([0-9a-f]{16}\.[0-9]{1,7})?$")] = ""
    agrees: bool
    rule: Literal["bit-exact", "interval", "failed"]
    why: Message
    differences: list[Message] = Field(max_length=1000)
    recorded: Percent
    replayed: Percent | None = None
    low: _Points | None = None
    high: _Points | None = None
    judged: Time
    host: Hash = ""

    @model_validator(mode="after")
    def _is_one_run(self) -> ReplayVerdict:
        if self.again and self.again.split(".")[0] != self.run.split(".")[0]:
            raise ValueError("'again' is an attempt at another run")
        return self


def write_sidecar(root: Path, sidecar: Sidecar) -> Path:
    """Write a sidecar under its name. Raises FileExistsError: an existing file is never changed."""
    return write_document(board_folder(root, sidecar.board) / SIDECARS / sidecar.file_name, sidecar)


def read_sidecar(path: Path) -> Sidecar:
    """Read a sidecar. Raises UserError if its schema, a hash in its name, or its board is wrong."""
    check_kind(path, "sidecar")
    return Sidecar.read(path, "sidecar")


def read_sidecars(root: Path, board: str, run: str = "") -> tuple[list[Sidecar], list[RefusedFile]]:
    """All sidecars of a board (or of one of its runs), the oldest first, and the refused files."""
    sidecars, refused = read_folder(root, board, SIDECARS, read_sidecar, run)
    return sorted(sidecars, key=lambda s: (s.provenance.started, s.file_name)), refused


def sidecar_of(record: RunRecord, sidecars: Iterable[Sidecar]) -> Sidecar | None:
    """The valid sidecar: the first that was measured on this run's weights under this protocol."""
    for sidecar in sidecars:
        same = sidecar.run == record.run_id and sidecar.protocol == record.spec.protocol
        if same and record.results is not None and sidecar.weights_sha256 == record.results.weights_sha256:
            return sidecar
    return None


def find_sidecar(root: Path, record: RunRecord) -> Sidecar | None:
    """The valid sidecar of a run in a results folder; None if its full profile was not measured."""
    return sidecar_of(record, read_sidecars(root, record.spec.board, record.run_id)[0])


def write_verdict(root: Path, verdict: ReplayVerdict) -> Path:
    """Write a verdict under its name. Raises FileExistsError: an existing file is never changed."""
    return write_document(board_folder(root, verdict.board) / REPLAYS / verdict.file_name, verdict)


def read_verdict(path: Path) -> ReplayVerdict:
    """Read a verdict. Raises UserError if its schema, a hash in its name, or its board is wrong."""
    return ReplayVerdict.read(path, "verdict")


def read_verdicts(root: Path, board: str) -> tuple[list[ReplayVerdict], list[RefusedFile]]:
    """All verdicts on replays of a board, the oldest first, and the refused files."""
    verdicts, refused = read_folder(root, board, REPLAYS, read_verdict)
    return sorted(verdicts, key=lambda v: (v.judged, v.file_name)), refused
