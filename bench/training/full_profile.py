"""Going back to a finished run: its kept weights, measured by instruments that take longer than a run should wait."""

from __future__ import annotations

import time
import traceback
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import nn

from ...beside import contents, lines_of
from ...datasets.batches import as_tensors
from ...datasets.images import ImageData, balanced_order, data_root, load
from ...registry import DATASETS, MODELS, UserError
from ...source import libraries, source_hash
from ..measures.angle_and_depth import CURVE_DEGREES, Scene, angle_curve, feature_errors
from ..measures.arithmetic import begin
from ..measures.clock import Phases
from ..measures.equivariance_full import FULL_DRAWS, ORBIT_IMAGES, Inputs, measure_full
from ..measures.rotation import ORBIT_DEGREES
from ..records.provenance import code_facts, hardware, versions
from ..records.record import Provenance, RunRecord, board_folder, board_names, read_record
from ..records.sidecar import FullPoint, LayerPoint, Sidecar, has_sidecar, write_sidecar
from ..spec.suite import PROTOCOL
from .job import Job
from .prepare import Loaded, build_from_seed, weights_digest


def find_record(run: str, root: Path, option: str = "--run") -> RunRecord:
    """The record of the run whose id begins with `run`.

    Args:
        option: what a message calls it.

    Raises:
        UserError: none or several begin so, or the run has no result.
    """
    paths = (p for board in board_names(root) for p in board_folder(root, board).glob("*.json"))
    fits = [p for p in paths if p.name.startswith(run)]
    if len(fits) != 1 or not run:
        what = "; ".join(sorted(p.name.rsplit(".", 2)[0] for p in fits)[:5])
        raise UserError(
            f"{option} {run!r}: {len(fits) or 'no'} runs in {root} begin so" + (f" ({what})" if fits else "")
            + "; the column 'run' of a board's .runs.csv has the ids"
        )  # fmt: skip
    record = read_record(fits[0])
    if record.status != "ok":
        raise UserError(f"{option} {run!r}: this run ended as {record.status!r}; only finished runs have a network")
    return record


def load_weights(root: Path, record: RunRecord, model: nn.Module) -> None:
    """Give a model the kept final weights of a run.

    Raises:
        UserError: they are not there, or are not those of the record.
    """
    path = board_folder(root, record.spec.board) / "weights" / f"{record.run_id}.pt"
    if not path.is_file():
        raise UserError(f"the final weights {path} are not there: they lie where the run was trained")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file makes of the reader
        raise UserError(f"{path} holds no weights, and nothing else is loaded ({type(error).__name__})") from error
    # Names and shapes first: a tensor of one number can claim to be one of a million million.
    wanted = {k: v for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
    if not isinstance(state, dict) or _outline(state) != _outline(wanted):
        raise UserError(f"{path} does not hold the weights of run {record.run_id}: names or shapes differ")
    if record.results is None or weights_digest(state) != record.results.weights_sha256:
        raise UserError(f"{path} does not hold the weights of run {record.run_id}: their hash differs")
    model.load_state_dict(state, strict=False)


def _outline(state: dict[str, torch.Tensor]) -> dict[str, object]:
    return {k: (v.shape, v.dtype, v.layout) if isinstance(v, torch.Tensor) else type(v) for k, v in state.items()}


def loaded_again(record: RunRecord, device: torch.device, data_folder: str | Path | None) -> Loaded:
    """The data of a finished run, on a device.

    Raises:
        UserError: source or data are not those of the run any more.
    """
    resolved, made = MODELS.find(record.spec.model), record.provenance
    if source_hash(resolved, lines_of(contents(resolved.files, made.opened))) != made.source_hash:
        raise UserError(f"the source of {record.spec.model!r} has changed since run {record.run_id}")
    data = load(record.spec.dataset, data_root(data_folder))
    if data.digest() != made.data_digest:
        raise UserError(f"the data set {record.spec.dataset!r} has changed since run {record.run_id}")
    return Loaded(data, record.spec, device)


def measure_sidecar(
    root: Path, record: RunRecord, device: str, threads: int, data_folder: str | None, command: str
) -> Sidecar:
    """The full profile of a finished run, at its initial and at its final weights.

    Raises:
        UserError: weights are missing, or source or data are not those of the run any more.
    """
    started, phases = datetime.now(UTC).isoformat(timespec="seconds"), Phases(time.perf_counter())
    chosen = begin(device, "strict", threads)
    made = record.provenance
    with phases.phase("data"):
        loaded = loaded_again(record, chosen, data_folder)
        inputs = inputs_of(loaded, loaded.data)
    with phases.phase("build"):
        model = build_from_seed(record.spec, loaded.data, loaded.device)
    with phases.phase("equivariance_full"):
        init, notes = _point(model, inputs, predictions=False)
    with phases.phase("build"):
        load_weights(root, record, model)
    with phases.phase("equivariance_full"):
        trained, more = _point(model, inputs, predictions=True)
    assert record.results is not None
    return Sidecar(
        schema_version=1,
        kind="equivariance",
        protocol=PROTOCOL,
        board=record.spec.board,
        run=record.run_id,
        model=record.spec.model,
        dataset=record.spec.dataset,
        weights_sha256=record.results.weights_sha256,
        draws=FULL_DRAWS,
        orbit_images=len(inputs.images),
        curve_degrees=[float(d) for d in CURVE_DEGREES],
        orbit_degrees=[float(d) for d in ORBIT_DEGREES],
        init=init,
        trained=trained,
        phases=phases.total(),
        provenance=Provenance(
            source_hash=made.source_hash,
            opened=made.opened,
            data_digest=made.data_digest,
            data_source=made.data_source,
            data_opened=made.data_opened,
            started=started,
            versions=versions(libraries(MODELS.find(record.spec.model))),
            hardware=hardware(device),
            threads=torch.get_num_threads(),
            command=command,
            **code_facts(MODELS.find(record.spec.model)),
        ),
        warnings=sorted({*notes, *more}),
    )


def inputs_of(loaded: Loaded, data: ImageData) -> Inputs:
    """The images of the full profile, on the device, in balanced order."""
    order = balanced_order(data.test.labels, data.classes, ORBIT_IMAGES)
    images, labels = as_tensors(data.test, loaded.device, order)
    rotation = bool(DATASETS.find(data.name).get("rotation", False))
    return Inputs(images, labels, loaded.normalise, loaded.background, data.maximum, rotation)


def _point(model: nn.Module, inputs: Inputs, predictions: bool) -> tuple[FullPoint, list[str]]:
    full = asdict(measure_full(model, inputs, predictions))
    note = full.pop("note")
    size = inputs.images.shape[-1]
    scene = Scene(size, inputs.prepare, inputs.background, inputs.maximum, inputs.images.device)
    layers = [LayerPoint(**asdict(e)) for e in feature_errors(model, scene)]
    return FullPoint(**full, curve=angle_curve(model, scene), layers=layers), [note] if note else []


def add_sidecar(job: Job, record: RunRecord) -> str:
    """Measure and write the sidecar of a run in the run's own process; returns what went wrong, or nothing.

    The run itself is finished, whatever happens here.
    """
    root = Path(job.results)
    if record.status != "ok" or has_sidecar(root, record):
        return ""
    try:
        write_sidecar(root, measure_sidecar(root, record, job.device, job.threads, job.data_root, job.command))
    except Exception as error:  # a model may raise anything
        traceback.print_exc()
        return f"the full equivariance profile failed: {type(error).__name__}: {error}"
    return ""
