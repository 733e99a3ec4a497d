"""The reports of ``equibench equivariance`` on a model at initialisation, and on a finished run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ...datasets.batches import Normalise, as_tensors
from ...datasets.images import balanced_order, data_root, load
from ...registry import MODELS, UserError, option
from ..boards.rows import write_board
from ..measures.angle_and_depth import CURVE_DEGREES, angle_curve, feature_errors
from ..measures.equivariance import Scene, claimed_elements, measure_core
from ..measures.execution_profile import begin
from ..measures.invariance import Judgement, judge
from ..records.find import find_finished
from ..records.record import CorePoint
from ..records.sidecar import FULL_ERRORS, FULL_PREDICTIONS, LayerPoint, find_sidecar, write_sidecar
from ..records.store import SIDECARS, board_folder
from ..tools.files import ensure_writable, results_root
from ..tools.machine import Machine
from ..tools.text import PROGRESS, first_line, plain_table
from ..training.full_profile import measure_sidecar
from ..training.prepare import border_median, initial_model
from ..training.run import CORE_IMAGES


@dataclass(frozen=True)
class AtSize:
    """Errors of a model at initialisation for one image size; empty if it cannot be built.

    Attributes:
        outcome: ``ok``, ``collapsed``, or why the model cannot be built.
        judgement: for the claimed group; C4 if nothing is claimed.
    """

    size: int
    outcome: str
    core: CorePoint | None = None
    curve: list[float | None] = field(default_factory=list)
    layers: list[LayerPoint] = field(default_factory=list)
    judgement: Judgement = field(default_factory=lambda: Judgement(None, None))

    @property
    def built(self) -> bool:
        return self.outcome in ("ok", "collapsed")


@dataclass(frozen=True)
class Sample:
    """Test images of a data set, balanced by class, at any size."""

    images: torch.Tensor
    scene: Scene
    classes: int

    @classmethod
    def of(cls, dataset: str, data_folder: str | None, device: torch.device) -> Sample:
        data = load(dataset, data_root(data_folder))
        order = balanced_order(data.test.labels, data.classes, CORE_IMAGES)
        images, _ = as_tensors(data.test, device, order)
        scene = Scene(images.shape[-1], Normalise.of(data, device), border_median(data), data.maximum, device)
        return cls(images, scene, data.classes)

    def at(self, size: int) -> torch.Tensor:
        """The images, cropped or padded with their background to `size` pixels."""
        more = size - self.images.shape[-1]
        before, after = more // 2, more - more // 2
        ground = torch.tensor(self.scene.background, device=self.scene.device)[:, None, None] * self.scene.maximum
        return F.pad(self.images.float() - ground, (before, after, before, after)) + ground


def build_at_size(name: str, sample: Sample, size: int) -> nn.Module | str:
    """A newly initialised model for one image size, in evaluation mode; or the reason why it cannot be built."""
    try:
        model = initial_model(name, sample.images.shape[1], sample.classes, size)
    except UserError:
        raise
    except Exception as error:  # a model may raise any error for an unsupported size
        return f"cannot be built: {first_line(error)}"
    return model.to(sample.images.device).eval()


def at_size(name: str, sample: Sample, size: int, invariant: str) -> AtSize:
    """Build a model for one image size and measure it."""
    PROGRESS.info("%s at %d pixels …", name, size)
    model = build_at_size(name, sample, size)
    if isinstance(model, str):
        return AtSize(size, model)
    images, scene = sample.at(size), replace(sample.scene, size=size)
    core = measure_core(model, images, scene, invariant)
    curve, layers = angle_curve(model, scene), feature_errors(model, scene)
    claims = len(claimed_elements(invariant)) > 1
    judgement = judge(model, images, scene.prepare, invariant if claims else "C4")
    return AtSize(size, "collapsed" if core.collapsed else "ok", core, curve, layers, judgement)


@dataclass(frozen=True)
class Report:
    """The output of the command: the table, the conclusion from it, written files, and more facts for JSON."""

    rows: list[dict[str, Any]]
    sentence: str
    pictures: list[Path]
    extra: dict[str, Any]


def initial_report(name: str, dataset: str, size: int | None, out: Path, machine: Machine) -> Report:
    """Report on a model at initialisation, for n − 1, n and n + 1 pixels, with a picture of its angle curves.

    Raises:
        UserError: there is no such model or data set, or `out` cannot be written.
    """
    invariant = str(MODELS.find(name).get("invariant", "none"))
    ensure_writable(out, "out")
    sample = Sample.of(dataset, machine.data_folder, begin(machine.device, "strict", machine.threads))
    middle = size or sample.images.shape[-1]
    outcomes = [at_size(name, sample, n, invariant) for n in (middle - 1, middle, middle + 1)]
    curves = {f"{o.size} px": o.curve for o in outcomes if o.built}
    pictures = _pictures(name, curves, {"at initialisation": outcomes[1].layers}, f"{name}, at initialisation", out)
    claimed = ["eq_claimed"] if len(claimed_elements(invariant)) > 1 else []
    rows = []
    for o in outcomes:
        errors = {e: getattr(o.core, e, None) for e in (*claimed, "eq_exact_c4", "eq_exact_d4", "eq_rot_analytic")}
        rows.append({"size_px": o.size, **errors, "eq_moved": o.judgement.moved, "outcome": o.outcome})
    extra = {
        "model": name, "dataset": dataset, "invariant": invariant, "curve_degrees": list(CURVE_DEGREES),
        "curves": {o.size: o.curve for o in outcomes}, "layers": [la.model_dump() for la in outcomes[1].layers],
    }  # fmt: skip
    return Report(rows, conclusion(invariant, outcomes), pictures, extra)


def conclusion(invariant: str, outcomes: list[AtSize]) -> str:
    """One sentence with the conclusion from the three sizes; the second of `outcomes` is the requested size."""
    claims = len(claimed_elements(invariant)) > 1
    what = f"the claimed group {invariant}" if claims else "quarter turns"
    here = outcomes[1]
    if not here.built:
        return f"At {here.size} pixels the model {here.outcome}."
    if here.outcome == "collapsed":
        return f"At {here.size} pixels the logits hardly depend on the input, so no error is defined."
    judged = {o.size: o.judgement for o in outcomes if o.outcome == "ok"}
    exact = [n for n, j in judged.items() if j.exact]
    broken = [n for n in judged if n not in exact]
    invariant_under, rounding = f"The logits are invariant under {what}", f"up to rounding at {_sizes(exact)}"
    if judged[here.size].at_initialisation_only:
        return (
            f"At {here.size} pixels the logits are invariant under {what} at initialisation, but not after a change of"
            f" the weights (error {number_text(judged[here.size].moved)}): normalisation, scales and biases must be"
            " shared by all orientations of a field."
        )
    if here.size in exact and not broken:
        return f"{invariant_under} {rounding}."
    if here.size in exact:
        why = "where a stride or a pooling is not symmetric on the grid; training does not change this."
        return f"{invariant_under} {rounding}, but not at {_sizes(broken)}, {why}"
    if exact:
        why = f"a stride or a pooling is not symmetric on the grid of {here.size} pixels."
        return f"At {here.size} pixels the logits are not invariant under {what}, but they are {rounding}: {why}"
    hint = " although the model claims it" if claims else "; the model does not claim it"
    return f"The logits are not invariant under {what} at any of these sizes{hint}."


def _sizes(sizes: list[int]) -> str:
    return " and ".join(map(str, sizes)) if len(sizes) < 3 else f"{', '.join(map(str, sizes[:-1]))} and {sizes[-1]}"


def _pictures(
    stem: str, curves: dict[str, list[float | None]], layers: dict[str, list[Any]], title: str, out: Path
) -> list[Path]:
    from .equivariance_plots import plot_angles, plot_depth

    pictures = []
    if any(v is not None for curve in curves.values() for v in curve):
        about = f"{title}: error of the logits, closed-form images"
        pictures += plot_angles(CURVE_DEGREES, curves, about, out / f"{stem}-equivariance-angle.png")
    series = {}
    for when, errors in layers.items():
        for kind, key in (("quarter turns", "eq_feat_exact"), ("other group rotations", "eq_feat_fibre")):
            values = {e.layer: getattr(e, key) for e in errors}
            if any(v is not None for v in values.values()):
                series[f"{kind}, {when}"] = values
    if series:
        about = f"{title}: error of the features"
        pictures += plot_depth(series, about, out / f"{stem}-equivariance-depth.png")
    return pictures


def run_report(run: str, results: str | None, out: Path, machine: Machine) -> Report:
    """Report on a finished run: its full profile is measured if there is none yet, written as a sidecar, and drawn.

    Raises:
        UserError: there is no such run, its weights are missing, or `out` cannot be written.
    """
    root = results_root(results)
    record = find_finished(run, root, option("run"))
    ensure_writable(out, "out")
    sidecar = find_sidecar(root, record)
    if sidecar is None:
        what = "%s seed %d: the full profile, before and after training …"
        PROGRESS.info(what, record.spec.model, record.spec.seed)
        sidecar = measure_sidecar(root, record, machine)
        write_sidecar(root, sidecar)
        write_board(root, record.spec.board)
    name, moments = record.spec.model, {"at initialisation": sidecar.init, "trained": sidecar.trained}
    curves, layers = ({k: getattr(m, part) for k, m in moments.items()} for part in ("curve", "layers"))
    title = f"{name}, seed {record.spec.seed}, {record.spec.dataset} {record.spec.budget.name}"
    pictures = _pictures(f"{name}-{record.run_id}", curves, layers, title, out)
    rows = [
        {"figure": key, **{when: getattr(moment, key) for when, moment in moments.items()}}
        for key in (*FULL_ERRORS, *FULL_PREDICTIONS)
    ]
    path = board_folder(root, record.spec.board) / SIDECARS / sidecar.file_name
    extra = {"run": record.run_id, "sidecar": str(path), "record": sidecar.model_dump(mode="json")}
    return Report(rows, trained_conclusion(sidecar.trained, sidecar.warnings), pictures, extra)


def trained_conclusion(point: Any, warnings: list[str]) -> str:
    """One sentence with the conclusion for a trained model."""
    real = "On real images the rotation error is"
    if point.collapsed:
        said = "The model is collapsed: its logits hardly depend on the input, so no error is defined."
    elif point.eq_rot_data < 2 * point.eq_floor:
        said = f"{real} below twice the floor of resampling, so it cannot be resolved there; use the errors on"
        said += " closed-form images."
    else:
        times = point.eq_rot_data / max(point.eq_floor, 1e-12)
        said = f"{real} {times:.1f} times the floor of resampling, so it is an error of the model."
    return " ".join([said, *warnings])


def table(report: Report) -> str:
    """The rows as text, with the sentence below."""
    rows = [{key: number_text(value) for key, value in row.items()} for row in report.rows]
    return f"{plain_table(rows)}\n\n{report.sentence}"


def number_text(value: Any) -> str:
    """A value with three digits; a dash for None."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.1e}" if 0 < value < 1e-3 else f"{value:.3g}"
