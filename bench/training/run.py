"""Executes one run, from its spec to its record."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from statistics import median
from typing import Any

import torch
from torch import nn

from ...datasets.batches import as_tensors
from ...datasets.images import Split, data_root, load
from ...registry import MODELS, include
from ..measures.accuracy import accuracy_pct, logits, predictions
from ..measures.clock import Phases, clock_for
from ..measures.cost import (
    buffers_to_learn,
    changed_buffers,
    measure_cost,
    operations_vary,
    peak_memory_mib,
    reset_peak_memory,
)
from ..measures.equivariance import measure_core
from ..measures.execution_profile import begin, check_profile
from ..measures.norms import reestimate_batch_norm
from ..records.outcomes import write_outcomes
from ..records.record import CorePoint, Results, Status, write_record
from ..records.store import OUTCOMES, board_folder, remove_checkpoints, weights_path
from ..spec.budget import drifted
from ..spec.seeds import derive
from ..tools.files import WriteError, remove_parts
from ..tools.gpu_processes import GpuWatch
from ..tools.out_of_memory import out_of_memory_message
from ..tools.text import error_line, listed, location_of
from .checkpoint import Checkpoints, Facts
from .job import Events, Job
from .ledger import Ledger
from .module_attributes import changed, changed_plain, plain_attributes
from .prepare import (
    Loaded,
    build_from_seed,
    outline,
    rehearse,
    same_logits,
    save_weights,
    seeded_logits,
    tensors_of,
    warm_up,
    weights_digest,
)
from .stopping import Stop
from .train import Training, train

#: Number of test images, balanced by class, for the core equivariance errors.
CORE_IMAGES = 50
#: A run with one of these statuses needs no checkpoints: it has a result, or its number of steps was wrong.
CLOSED: tuple[Status, ...] = ("ok", "diverged", "invalid")


def execute(job: Job, events: Events, start: float, until_import: float, stop: Stop | None = None) -> None:
    """Execute the run, or the rest of it, and write its record, also if the model fails.

    Args:
        start: `time.perf_counter` at the first line of the process.
        until_import: `time.perf_counter` just before torch was imported.
        stop: requests to end the run.

    Raises:
        Stopped: the process was asked to end; there is no record, and the next start continues from a checkpoint.
    """
    phases = Phases(start)
    phases.add("import", time.perf_counter() - until_import)
    # Before that, the process imported the schemas, read the job and took the lock.
    phases.add("startup", until_import - start)
    with phases.phase("startup"):
        include(job.include)
    run = Run(job, events, phases, stop or Stop())
    status, reason = outcome_of(run.go, job.spec.model)
    ledger = run.ledger
    record = ledger.record(status, reason)
    try:
        path = write_record(ledger.root, record)
    except WriteError as error:
        reason = f"the record of a run that ended as {status!r} could not be written ({error.why}); "
        if ledger.safe and record.results is not None:
            reason += "a checkpoint keeps its final weights: the next start only evaluates them"
        else:
            reason += "the next start continues from its last checkpoint, if there is one"
        events.send("done", status="error", reason=reason, unwritten=True)
        return
    if status in CLOSED:
        remove_checkpoints(ledger.root, job.spec.board, job.spec.digest(), job.attempt)
    said = list(ledger.notes)  # what was lost, so that users need not look for it in the record
    if job.equivariance == "full":
        from .full_profile import add_sidecar

        said.append(add_sidecar(job, record, run.loaded, run.model))
    events.send("done", status=status, reason=reason, record=str(path), warning="; ".join(filter(None, said)))


def outcome_of(go: Callable[[], tuple[Status, str]], model: str) -> tuple[Status, str]:
    """Call `go`, and convert an exception into a status and a reason."""
    try:
        return go()
    except Exception as error:  # a model may raise any exception; it becomes a row, and the other runs continue
        short = out_of_memory_message(error)
        if short:
            return "oom", short
        with suppress(OSError):  # the log's disk may be full
            traceback.print_exc()
        return "error", f"{error_line(error)}{location_of(error, MODELS.find(model).files)}"


class Run:
    """The phases of a run. Their figures go into its ledger. `model` is None before the end of the training."""

    def __init__(self, job: Job, events: Events, phases: Phases, stop: Stop) -> None:
        self.job, self.spec, self.events, self.phases, self.stop = job, job.spec, events, phases, stop
        self.ledger, self.device = Ledger(job, phases), torch.device(job.device)
        self.watch: GpuWatch | None = None
        self.loaded: Loaded | None = None
        self.model: nn.Module | None = None

    def go(self) -> tuple[Status, str]:
        """Train and measure; returns status and reason."""
        ledger, phase = self.ledger, self.phases.phase
        if self.device.type == "cuda":
            with phase("alone"):  # before this process takes memory of the device itself
                self.watch = GpuWatch(self.job.device)
        begin(self.job.device, self.spec.profile, self.job.threads)
        with phase("import"):
            ledger.model.load()
        with phase("data"):
            ledger.data = data = load(self.spec.dataset, data_root(self.job.data_root))
            self.loaded = loaded = Loaded(data, self.spec, self.device)
        with phase("build"):
            twin = build_from_seed(self.spec, data, self.device)
            # Hash the files now, when the model is built: they may be edited later.
            ledger.made_from()
        with phase("checkpoint"):
            checkpoints = self._open_checkpoints()
        if ledger.init is None:
            with phase("equivariance"):
                ledger.init = self._core(twin, loaded)
            with phase("cost"):
                ledger.size = measure_cost(twin, *loaded.batches(0))
        with phase("build"):
            model = build_from_seed(self.spec, data, self.device)
            # On the CPU, because the memory of the device is measured.
            begun = {name: buffer.cpu() for name, buffer in buffers_to_learn(model).items()}
            self.begun, self.begun_tensors = plain_attributes(model), _tensors_in(model.eval().state_dict())
            model.train()
        if not checkpoints.finished:
            # Last, directly before the training: an idle device lowers its clock rate.
            with phase("warmup"):
                warm_up(twin, loaded, self.spec)
                rehearse(twin, loaded, self.spec)
        del twin
        if others := self._company():
            return "invalid", others
        with phase("train"):
            done = self._train(model, loaded, checkpoints)
        with phase("cost"):
            self.learned = changed_buffers(model, begun)
            ledger.note_learned(sum(self.learned.values()))
        if others := self._company():
            return "invalid", others
        if done.stopped == "hard stop":
            return "invalid", f"drift: stopped at 105 % of {self.spec.budget.seconds:g} s after {done.steps} steps"
        self.model = model
        return self._finish(model, loaded, done)

    def _company(self) -> str:
        """Other processes on the device, in words, for a run that counts device-seconds; empty if there are none."""
        if self.watch is None:
            return ""
        with self.phases.instead("alone"):
            return self.ledger.note_company(self.watch.look())

    def _open_checkpoints(self) -> Checkpoints:
        """Find a checkpoint of an earlier process, and take over its measurements."""
        ledger, spec = self.ledger, self.spec
        origin = ledger.note_origin()
        for part in ("", OUTCOMES):
            remove_parts(board_folder(ledger.root, spec.board) / part, spec.digest())

        def facts(done: Training, finished: bool) -> Facts:
            self._company()  # the next process of this run cannot see what is here now
            return ledger.facts(done, finished)

        found = ledger.checkpoints = Checkpoints(
            ledger.root, spec.board, origin, self.job.attempt, self.job.checkpoint_s, self.stop, facts,
            lambda: self.phases.instead("checkpoint"),
        )  # fmt: skip
        if found.saved is not None:
            ledger.take_over(found.saved.facts)
            if self.watch is not None:
                self.watch.found = ledger.company
            self.events.send("resumed", step=found.saved.facts.step, steps=spec.steps)
        return found

    def _finish(self, model: nn.Module, loaded: Loaded, done: Training) -> tuple[Status, str]:
        phase, spec, ledger = self.phases.phase, self.spec, self.ledger
        assert ledger.init is not None
        if spec.recipe.batch_norm == "reestimate":
            with phase("bn"):
                reestimate_batch_norm(model, loaded.unaugmented())
        with phase("evaluate"):
            nan = done.stopped == "diverged"
            test, lost, predicted = self._accuracy(model, loaded, loaded.data.test, nan)
            apart = spec.fit == "train" and len(loaded.data.val.labels) > 0
            val = self._accuracy(model, loaded, loaded.data.val, nan)[0] if apart else None
        images = len(loaded.data.test.labels)
        if 0 < lost < images:
            ledger.notes.append(f"the logits of {lost} of {images} test images are not finite; they count as wrong")
        with phase("equivariance"):
            trained = self._core(model, loaded)
        evaluation_peak_mib = peak_memory_mib(self.device)  # before operations are counted, which takes more memory
        with phase("save"):
            digest = self._save(model, loaded)
            outcomes = self._keep_outcomes(predicted, loaded)
        with phase("cost"), suppress(Exception):  # a trained model may raise here what it did not before
            assert ledger.size is not None
            if operations_vary(model, loaded.batches(0)[0], ledger.size.flops_per_image):
                ledger.note_varying()
        launches = [p.host_s for p in ledger.curve if p.host_s is not None]
        ledger.results = Results(
            test_acc_pct=test, val_acc_pct=val, test_images=images, train_images=len(loaded.labels),
            train_s=done.device_s, step_ms=1000 * done.device_s / max(done.steps, 1),
            host_ms=1000 * median(launches) if launches else None,
            peak_mib=ledger.peak_mib, evaluation_peak_mib=evaluation_peak_mib,
            peak_kind="allocated on the device" if self.device.type == "cuda" else "resident in the process",
            init=ledger.init, trained=trained, weights_sha256=digest, outcomes_sha256=outcomes,
        )  # fmt: skip
        if done.stopped == "diverged":
            return "diverged", f"the loss was not finite at step {done.steps} of {spec.steps}; counted as chance level"
        if lost == images:
            return "diverged", "after training the logits of all test images are not finite; counted as chance level"
        if spec.budget.seconds is not None and drifted(done.device_s, spec.budget.seconds):
            return "invalid", f"drift: {done.device_s:.2f} s for a budget of {spec.budget.seconds:g} s (±3 %)"
        return "ok", ""

    def _core(self, model: nn.Module, loaded: Loaded) -> CorePoint:
        images = loaded.balanced_test_images(CORE_IMAGES)
        claim = str(self.ledger.model.get("invariant", "none"))
        return measure_core(model, images, loaded.scene, claim)

    def _train(self, model: nn.Module, loaded: Loaded, checkpoints: Checkpoints) -> Training:
        reset_peak_memory(self.device)
        torch.manual_seed(derive(self.spec.seed, "training"))  # dropout
        spec, clock = self.spec, clock_for(self.job.device)
        with self.stop.patient():
            done = train(
                model, loaded.batches, spec.recipe, spec.steps, clock, spec.profile, spec.budget.seconds, self._report,
                checkpoints,
            )  # fmt: skip
        self.ledger.curve, self.ledger.waited_s = done.curve, done.waited_s
        if not checkpoints.finished:  # otherwise nothing was trained here, and the peak comes from the checkpoint
            self.ledger.peak_mib = self.ledger.peak()
        reset_peak_memory(self.device)
        return done

    def _report(self, done: Training) -> None:
        check_profile()  # before the last checkpoint: a finished training is not checked again
        if self.spec.budget.seconds is not None:
            self._company()  # another process may come and go
        point = done.curve[-1]
        progress = {"loss": point.loss, "lr": point.lr, "seconds": point.device_s}
        self.events.send("step", step=point.step, steps=self.spec.steps, **progress)

    def _accuracy(
        self, model: nn.Module, loaded: Loaded, split: Split, nan: bool
    ) -> tuple[float, int, torch.Tensor | None]:
        """Accuracy in percent (chance if no logits are finite), number of non-finite logits, predictions."""
        if nan:
            return 100.0 / loaded.data.classes, 0, None
        images, labels = as_tensors(split, self.device)
        scores = logits(model, images, loaded.normalise)
        lost = int((~scores.isfinite().all(1)).sum())
        if lost == len(scores):
            return 100.0 / loaded.data.classes, lost, None
        return accuracy_pct(scores, labels), lost, predictions(scores)

    def _keep_outcomes(self, predicted: torch.Tensor | None, loaded: Loaded) -> str:
        """Write the predictions before the record; returns their digest, or an empty text if there are none."""
        if predicted is None:
            return ""
        root, board, data, found = self.ledger.root, self.spec.board, loaded.data, predicted.cpu().numpy()
        try:
            return write_outcomes(root, board, self.job.key, found, data.test.labels, data.classes)
        except WriteError as error:
            self.ledger.notes.append(f"the outcomes of each image could not be written: {error.why}")
            return ""

    def _save(self, model: nn.Module, loaded: Loaded) -> str:
        if why := self._useless_weights(model, loaded):
            self.ledger.notes.append(f"the final weights were not kept: {why}")
            return weights_digest(tensors_of(model))
        try:
            return save_weights(model, weights_path(self.ledger.root, self.spec.board, self.job.key))
        except WriteError as error:  # the run has its figures, which matter more than the weights
            self.ledger.notes.append(f"the final weights could not be written: {error.why}")
            return weights_digest(tensors_of(model))

    def _useless_weights(self, model: nn.Module, loaded: Loaded) -> str:
        """Why a new network with the tensors of the state dictionary would not be this one; empty if it would."""
        state = model.eval().state_dict()
        then, now = self.begun_tensors, _tensors_in(state)
        if other := [name for name in {**then, **now} if then.get(name) != now.get(name)]:
            says = f"training or evaluation adds, removes or resizes {listed(other, 5)}, so a new network cannot load"
            return f"{says} them; register each tensor in its final shape when the network is built"
        names = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
        constant = buffers_to_learn(model).keys() - self.learned.keys()
        learned = (name for name, _ in (*model.named_parameters(), *model.named_buffers()) if name not in constant)
        names += [name for name in learned if name not in state]
        assert self.ledger.checkpoints is not None
        names += changed_plain(self.begun, model) + changed(self.ledger.checkpoints.begun, model)
        if not names:
            return ""
        images = loaded.balanced_test_images(CORE_IMAGES)
        with suppress(Exception):  # a model with other entries than tensors may raise anything
            twin = build_from_seed(self.spec, loaded.data, self.device).eval()
            twin.load_state_dict(tensors_of(model), strict=False)
            if same_logits(*(seeded_logits(network, images, loaded.normalise) for network in (model, twin))):
                return ""
        says = f"the logits also depend on {listed(names, 5)}, which no file of weights holds"
        return f"{says}; keep it in a persistent buffer"


def _tensors_in(state: dict[str, Any]) -> dict[str, Any]:
    """The outline of the tensors of a state dictionary."""
    return outline({name: value for name, value in state.items() if isinstance(value, torch.Tensor)})
