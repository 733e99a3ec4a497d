"""The full equivariance profile of a finished run: slow measurements with its stored weights."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch
from torch import nn

from ...datasets.batches import as_tensors
from ...datasets.images import balanced_order, data_root, load
from ...registry import DATASETS, MODELS, UserError
from ..measures.angle_and_depth import CURVE_DEGREES
from ..measures.clock import Phases
from ..measures.equivariance_full import FULL_DRAWS, ORBIT_IMAGES, Inputs, measure_full
from ..measures.execution_profile import begin
from ..measures.rotation import ORBIT_DEGREES
from ..records.provenance import Provenance, hardware
from ..records.record import RunRecord
from ..records.sidecar import Sidecar, find_sidecar, write_sidecar
from ..records.staleness import source_now
from ..records.store import weights_path
from ..spec.suite import PROTOCOL
from ..tools.machine import Machine
from ..tools.text import error_line
from .job import Job
from .prepare import Loaded, build_from_seed, outline, tensors_of, weights_digest


def load_weights(root: Path, record: RunRecord, model: nn.Module) -> None:
    """Load the stored final weights of a run into a model.

    Raises:
        UserError: the file is missing, or its weights are not those of the record.
    """
    path = weights_path(root, record.spec.board, record.run_id)
    if not path.is_file():
        why = next((w for w in record.warnings if "final weights" in w), "they are on the machine that trained the run")
        raise UserError(f"the final weights {path} do not exist here: {why}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file may make torch raise any exception
        raise UserError(f"{path} is not a file of weights, so it is not loaded ({type(error).__name__})") from error
    model.eval()  # as when they were saved: layers of escnn and e2cnn keep expanded filters as buffers in this mode
    # Names and shapes first: a tensor with one stored number can have a huge shape.
    if not isinstance(state, dict) or outline(state) != outline(tensors_of(model)):
        raise UserError(f"{path} does not hold the weights of run {record.run_id}: names or shapes differ")
    if record.results is None or weights_digest(state) != record.results.weights_sha256:
        raise UserError(f"{path} does not hold the weights of run {record.run_id}: their hash differs")
    model.load_state_dict(state, strict=False)


def loaded_again(record: RunRecord, device: torch.device, data_folder: str | Path | None) -> Loaded:
    """The data of a finished run, on a device. Raises UserError: the source or the data have changed since the run."""
    made = record.provenance
    if source_now(record.spec.model, made.opened) != made.source_hash:
        raise UserError(f"the source of {record.spec.model!r} has changed since run {record.run_id}")
    data = load(record.spec.dataset, data_root(data_folder))
    if data.digest() != made.data_digest:
        raise UserError(f"the data set {record.spec.dataset!r} has changed since run {record.run_id}")
    return Loaded(data, record.spec, device)


def measure_sidecar(root: Path, record: RunRecord, machine: Machine) -> Sidecar:
    """The full profile of a finished run, at its initial and its stored final weights; see `load_weights`."""
    phases, device = Phases(), begin(machine.device, "strict", machine.threads)
    with phases.phase("data"):
        loaded = loaded_again(record, device, machine.data_folder)
    return _profile(root, record, loaded, None, phases, machine)


def _profile(
    root: Path, record: RunRecord, loaded: Loaded, trained: nn.Module | None, phases: Phases, machine: Machine
) -> Sidecar:
    """The full profile of a run under the profile ``strict``; `trained` is None to read the stored weights."""
    spec, made = record.spec, record.provenance
    assert record.results is not None
    with phases.phase("data"):
        inputs = inputs_of(loaded)
    with phases.phase("build"):
        model = build_from_seed(spec, loaded.data, loaded.device)
    with phases.phase("equivariance_full"):
        before, note = measure_full(model, inputs, predictions=False)
    with phases.phase("build"):
        if trained is None:
            # Not into the network that was just evaluated: it may have kept filters of its initial weights.
            trained = build_from_seed(spec, loaded.data, loaded.device)
            load_weights(root, record, trained)
    with phases.phase("equivariance_full"):
        after, more = measure_full(trained, inputs, predictions=True)
    times = phases.total()
    kept = ("source_hash", "opened", "data_digest", "data_source", "data_opened")
    provenance = Provenance.of(
        MODELS.find(spec.model), **{name: getattr(made, name) for name in kept}, hardware=hardware(machine.device),
        threads=torch.get_num_threads(), command=machine.command,
    )  # fmt: skip
    return Sidecar(
        schema_version=1, kind="equivariance", protocol=PROTOCOL, board=spec.board, run=record.run_id,
        model=spec.model, dataset=spec.dataset, weights_sha256=record.results.weights_sha256, draws=FULL_DRAWS,
        orbit_images=len(inputs.images), curve_degrees=[float(d) for d in CURVE_DEGREES],
        orbit_degrees=[float(d) for d in ORBIT_DEGREES], init=before, trained=after, phases=times,
        provenance=provenance, warnings=sorted({note, more} - {""}),
    )  # fmt: skip


def inputs_of(loaded: Loaded) -> Inputs:
    """The images of the full profile, on the device, in balanced order."""
    data = loaded.data
    order = balanced_order(data.test.labels, data.classes, ORBIT_IMAGES)
    images, labels = as_tensors(data.test, loaded.device, order)
    rotation = bool(DATASETS.find(data.name).get("rotation", False))
    return Inputs(images, labels, loaded.scene, rotation)


def add_sidecar(job: Job, record: RunRecord, loaded: Loaded | None = None, trained: nn.Module | None = None) -> str:
    """Measure and write the sidecar of a run, which stays finished if this fails; returns an error message, or "".

    Args:
        loaded, trained: data and model, if this process has trained; None to read them.
    """
    root = Path(job.results)
    if record.status != "ok" or find_sidecar(root, record):
        return ""
    machine = Machine(job.device, threads=job.threads, data_root=job.data_root, command=job.command)
    try:
        if loaded is None or trained is None:
            write_sidecar(root, measure_sidecar(root, record, machine))
        else:
            begin(job.device, "strict", job.threads)
            write_sidecar(root, _profile(root, record, loaded, trained, Phases(), machine))
    except Exception as error:  # a model may raise any exception
        traceback.print_exc()
        return f"the full equivariance profile failed: {error_line(error)}"
    return ""
