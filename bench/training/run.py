"""One run from its spec to its record."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from ...datasets.batches import as_tensors
from ...datasets.images import ImageData, Split, data_root, load
from ...registry import MODELS, include
from ...source import libraries
from ..measures.accuracy import accuracy_pct, logits, predictions
from ..measures.arithmetic import begin, check_profile
from ..measures.clock import Phases, clock_for
from ..measures.cost import buffers_to_learn, changed_buffers, measure_cost, peak_memory_mib, reset_peak_memory
from ..measures.equivariance import Core, measure_core
from ..measures.norms import reestimate_batch_norm
from ..records.checkpoint_files import discard
from ..records.kept_verdicts import checked
from ..records.outcomes import outcomes_folder, write_outcomes
from ..records.provenance import ALONE, code_facts, hardware, host_facts, made_from, shared, versions
from ..records.record import (
    CorePoint,
    CurvePoint,
    Provenance,
    Results,
    RunRecord,
    Size,
    Status,
    board_folder,
    write_record,
)
from ..spec.budget import drifted
from ..spec.seeds import derive
from ..tools.error_location import place_of
from ..tools.files import WriteError, remove_parts
from ..tools.gpu_processes import Company, Watch
from ..tools.out_of_memory import shortage
from .checkpoint import Checkpoints, Facts, Origin, curve_points, finite
from .job import Events, Job
from .prepare import Loaded, build_from_seed, rehearse, save_weights, tensors_of, warm_up, weights_digest
from .stopping import Stop
from .train import Training, train

#: Images of the test set, balanced by class, that the core equivariance errors are measured on.
CORE_IMAGES = 50
#: A record whose unnamed time is more than this share of the whole carries a warning.
OTHER_SHARE = 0.02
#: A run that ended like this goes on from no checkpoint: it is measured, or its steps were the wrong number.
CLOSED: tuple[Status, ...] = ("ok", "diverged", "invalid")


def execute(job: Job, events: Events, start: float, until_import: float, stop: Stop | None = None) -> None:
    """Do the run, or the rest of it, and write its record, whatever happens to the model.

    Args:
        start: `time.perf_counter` at the first line of the process.
        until_import: the same just before torch was imported.
        stop: what asks the run to end.

    Raises:
        Stopped: the process was asked to end; there is no record, and the next start goes on from a checkpoint.
    """
    phases = Phases(start)
    phases.add("import", time.perf_counter() - until_import)
    # Reading the job and taking the lock came first, and imported the schemas.
    phases.add("startup", until_import - start)
    include(job.include)
    run = _Run(job, events, phases, stop or Stop())
    status, reason = outcome_of(run.go, job.spec.model)
    record = run.record(status, reason)
    try:
        path = write_record(Path(job.results), record)
    except WriteError as error:
        events.send("done", status="error", reason=_unwritten(record, error, run.safe), unwritten=True)
        return
    if status in CLOSED:
        discard(Path(job.results), job.spec.board, job.spec.digest(), job.attempt)
    warning = ""
    if job.equivariance == "full":
        from .full_profile import add_sidecar

        warning = add_sidecar(job, record)
    events.send("done", status=status, reason=reason, record=str(path), warning=warning)


def _unwritten(record: RunRecord, error: WriteError, safe: bool) -> str:
    """What to say of a run whose record cannot be written."""
    what = f"the record of a run that ended as {record.status!r} could not be written ({error.why})"
    if safe and record.results is not None:
        return f"{what}; its final weights are kept in a checkpoint: the next start only evaluates them"
    return f"{what}; the next start goes on from its last checkpoint, if there is one"


def outcome_of(go: Callable[[], tuple[Status, str]], model: str) -> tuple[Status, str]:
    """Do `go`, and turn an exception into a status and a reason."""
    try:
        return go()
    except Exception as error:  # a model may raise anything; it becomes a row, and the others go on
        short = shortage(error)
        if short:
            return "oom", short
        with suppress(OSError):  # the log's disk may be full
            traceback.print_exc()
        lines = str(error).strip().splitlines()
        where = place_of(error, MODELS.find(model).files)
        return "error", f"{type(error).__name__}: {lines[0] if lines else 'no message'}{where}"


class _Run:
    """The steps of a run; holds what is known when one of them fails."""

    def __init__(self, job: Job, events: Events, phases: Phases, stop: Stop) -> None:
        self.job, self.spec, self.events, self.phases, self.stop = job, job.spec, events, phases, stop
        self.device = torch.device(job.device)
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.data: ImageData | None = None
        self.made: dict[str, Any] = {}
        self.origin: Origin | None = None
        self.checkpoints: Checkpoints | None = None
        self.init: Core | None = None
        self.size: Size | None = None
        self.results: Results | None = None
        self.curve: list[CurvePoint] = []
        self.resumed: list[int] = []
        self.peak_mib = 0.0
        self.watch: Watch | None = None
        self.notes: list[str] = []
        self.sharing = job.sharing

    def go(self) -> tuple[Status, str]:
        """Measure; returns status and reason."""
        if self.device.type == "cuda":
            with self.phases.phase("alone"):  # before this process takes memory of the device itself
                self.watch = Watch(self.job.device)
        begin(self.job.device, self.spec.profile, self.job.threads)
        phase = self.phases.phase
        with phase("import"):
            MODELS.find(self.spec.model).load()
        with phase("data"):
            self.data = load(self.spec.dataset, data_root(self.job.data_root))
            loaded = Loaded(self.data, self.spec, self.device)
        with phase("build"):
            twin = self._build()
            # As the files are when the model is built: somebody may be editing them.
            self.made = self._made_from()
        with phase("checkpoint"):
            self.checkpoints = self._open_checkpoints(self.data.digest())
        if not self.checkpoints.finished:
            self._measure(twin, loaded)
        with phase("build"):
            model = self._build()
            # Not on the device, whose memory is measured.
            begun = {name: buffer.cpu() for name, buffer in buffers_to_learn(model).items()}
        if not self.checkpoints.finished:
            # After all that takes the host long: a device with nothing to do slows down.
            with phase("warmup"):
                warm_up(twin, loaded, self.spec)
                rehearse(twin, loaded, self.spec)
        del twin
        others = self._company()
        if others:
            return "invalid", others
        with phase("train"):
            done = self._train(model, loaded, self.checkpoints)
        with phase("cost"):
            self._note_learned(changed_buffers(model, begun))
        others = self._company()
        if others:
            return "invalid", others
        if done.stopped == "hard stop":
            return "invalid", f"drift: stopped at 105 % of {self.spec.budget.seconds:g} s after {done.steps} steps"
        return self._finish(model, loaded, done)

    def _company(self) -> str:
        """Who else computes on the device of a run that counts its seconds; empty if nobody was found so far.

        Of others it is only recorded: their times are then no measure of the model, and all else is.
        """
        if self.watch is None:
            return ""
        with self.phases.instead("alone"):
            found = self.watch.look()
        if self.spec.budget.seconds is not None:
            return found.others
        self.sharing = max(self.sharing, found.count)
        return ""

    @property
    def _found(self) -> Company | None:
        """Who was found on the device so far; None where nobody has looked."""
        return self.watch.found if self.watch is not None else None

    def _measure(self, twin: nn.Module, loaded: Loaded) -> None:
        """What is measured before the training, on a twin that is thrown away."""
        if self.init is None:
            with self.phases.phase("equivariance"):
                self.init = self._core(twin, loaded)
            with self.phases.phase("cost"):
                self.size = Size(**asdict(measure_cost(twin, *loaded.batches(0))))

    def _note_learned(self, buffers: int) -> None:
        """Some buffers learn later than in the few steps by which the cost was measured."""
        assert self.size is not None
        self.size = self.size.model_copy(update={"learned_buffers": max(self.size.learned_buffers, buffers)})

    def _made_from(self) -> dict[str, Any]:
        """What the provenance says of the files that the model and the data were made from; as far as the run came."""
        return self.made or made_from(
            MODELS.find(self.spec.model),
            self.spec.dataset,
            self.data,
            (Path(self.job.results), data_root(self.job.data_root)),
        )

    def _open_checkpoints(self, digest: str) -> Checkpoints:
        """See whether an earlier process left something to go on from, and take over what it measured."""
        model = MODELS.find(self.spec.model)
        self.origin = Origin(
            spec=self.spec.digest(),
            source_hash=self._made_from()["source_hash"],
            data_digest=digest,
            versions=versions(libraries(model)),
            hardware_key=hardware(self.job.device)["hardware_key"],
            threads=torch.get_num_threads(),
        )
        root = Path(self.job.results)
        for folder in (board_folder(root, self.spec.board), outcomes_folder(root, self.spec.board)):
            remove_parts(folder, self.spec.digest())
        found = Checkpoints(
            root, self.spec.board, self.origin, self.job.attempt, self.job.checkpoint_s, self.stop, self._facts,
            lambda: self.phases.instead("checkpoint"),
        )  # fmt: skip
        if found.saved is not None:
            facts = found.saved.facts
            self.init, self.size, self.peak_mib = Core(**facts.init.model_dump()), facts.cost, facts.peak_mib
            self.started, self.resumed = facts.started, [*facts.resumed, facts.step]
            self.sharing = max(self.sharing, facts.sharing)
            self.phases.carry(facts.phases)
            self.events.send("resumed", step=facts.step, steps=self.spec.steps)
        return found

    def _facts(self, done: Training, finished: bool) -> Facts:
        """What a checkpoint says of this run so far."""
        assert (
            self.origin is not None and self.init is not None and self.size is not None and self.checkpoints is not None
        )
        return Facts(
            schema_version=1, origin=self.origin, attempt=self.job.attempt, step=done.steps, stopped=done.stopped,  # type: ignore[arg-type]
            finished=finished, device_s=done.device_s, curve=curve_points(done), phases=self.phases.total(),
            resumed=self.resumed, init=CorePoint(**asdict(self.init)), cost=self.size, peak_mib=self._peak(),
            started=self.started, warnings=self.checkpoints.notes, sharing=self.sharing,
        )  # fmt: skip

    def _peak(self) -> float:
        """Largest memory of the training so far, in this process or in those before it."""
        return max(self.peak_mib, peak_memory_mib(self.device))

    @property
    def safe(self) -> bool:
        """Whether the end of the training is kept."""
        return self.checkpoints is not None and self.checkpoints.safe

    def record(self, status: Status, reason: str) -> RunRecord:
        """The record of the run as it is now."""
        model, origin = MODELS.find(self.spec.model), self.origin
        made = self._made_from()
        provenance = Provenance(
            **made,
            checked=checked(Path(self.job.results), self.spec.model, made["source_hash"]),
            data_digest=self.data.digest() if self.data else "",
            started=self.started,
            versions=origin.versions if origin else versions(libraries(model)),
            hardware={
                **self._hardware(),
                **shared(self.sharing),
                **({ALONE: self._found.alone} if self._found else {}),
            },
            threads=torch.get_num_threads(),
            command=self.job.command,
            **code_facts(model),
        )
        seconds = self.phases.total()
        return RunRecord(
            schema_version=1, spec=self.spec, attempt=self.job.attempt, status=status, reason=reason,
            results=self.results, cost=self.size, curve=self.curve, phases=seconds, provenance=provenance,
            context=self.job.context, warnings=self._warnings(seconds),
        )  # fmt: skip

    def _hardware(self) -> dict[str, str]:
        try:
            return hardware(self.job.device)
        except RuntimeError:  # torch cannot use the device, which is why the run failed
            return host_facts(self.job.device)

    def _warnings(self, seconds: dict[str, float]) -> list[str]:
        found = [*(self.checkpoints.notes if self.checkpoints else []), *self.notes]
        if self.resumed:
            steps = ", ".join(map(str, self.resumed))
            found.append(
                f"interrupted, and resumed after step {steps} of {self.spec.steps}: phases are the sums over the"
                " processes"
                " of the run, each until the checkpoint that the next one went on from"
            )
        if self.sharing > 1:
            found.append(f"up to {self.sharing} runs shared the device: its times are no measure of the model")
        if self._found is not None and self._found.unknown:
            found.append(f"whether the run was alone on its GPU is unknown: {self._found.unknown}")
        if seconds["other_s"] > OTHER_SHARE * seconds["total_s"]:
            found.append(f"{seconds['other_s']:.2f} s of {seconds['total_s']:.2f} s belong to no named phase")
        return found

    def _finish(self, model: nn.Module, loaded: Loaded, done: Training) -> tuple[Status, str]:
        phase, spec = self.phases.phase, self.spec
        assert self.init is not None
        if spec.recipe.batch_norm == "reestimate":
            with phase("bn"):
                reestimate_batch_norm(model, loaded.unaugmented)
        with phase("evaluate"):
            nan = done.stopped == "diverged"
            test, lost, predicted = self._accuracy(model, loaded, loaded.data.test, nan)
            apart = spec.fit == "train" and len(loaded.data.val.labels) > 0
            val = self._accuracy(model, loaded, loaded.data.val, nan)[0] if apart else None
        images = len(loaded.data.test.labels)
        if 0 < lost < images:
            self.notes.append(f"the logits of {lost} of {images} test images are no numbers; they count as wrong")
        with phase("equivariance"):
            trained = self._core(model, loaded)
        with phase("save"):
            digest = self._save(model)
            outcomes = self._keep_outcomes(predicted, loaded.data.test)
        self.results = Results(
            test_acc_pct=test,
            val_acc_pct=val,
            test_images=images,
            train_images=len(loaded.labels),
            train_s=done.device_s,
            step_ms=1000 * done.device_s / max(done.steps, 1),
            host_ms=1000 * median(launches)
            if (launches := [p.host_s for p in self.curve if p.host_s is not None])
            else None,
            peak_mib=self.peak_mib,
            evaluation_peak_mib=peak_memory_mib(self.device),
            peak_kind="allocated on the device" if self.device.type == "cuda" else "resident in the process",
            init=CorePoint(**asdict(self.init)),
            trained=CorePoint(**asdict(trained)),
            weights_sha256=digest,
            outcomes_sha256=outcomes,
        )
        if done.stopped == "diverged":
            return "diverged", f"the loss was no number at step {done.steps} of {spec.steps}; counted as chance level"
        if lost == images:
            return "diverged", "after training the logits of all test images are no numbers; counted as chance level"
        if spec.budget.seconds is not None and drifted(done.device_s, spec.budget.seconds):
            return "invalid", f"drift: {done.device_s:.2f} s for a budget of {spec.budget.seconds:g} s (±3 %)"
        return "ok", ""

    def _build(self) -> nn.Module:
        assert self.data is not None
        return build_from_seed(self.spec, self.data, self.device)

    def _core(self, model: nn.Module, loaded: Loaded) -> Core:
        images = loaded.balanced_test_images(CORE_IMAGES)
        claim = str(MODELS.find(self.spec.model).get("invariant", "none"))
        return measure_core(model, images, loaded.normalise, loaded.background, loaded.data.maximum, claim)

    def _train(self, model: nn.Module, loaded: Loaded, checkpoints: Checkpoints) -> Training:
        reset_peak_memory(self.device)
        torch.manual_seed(derive(self.spec.seed, "training"))  # dropout
        with self.stop.patient():
            done = train(
                model,
                loaded.batches,
                self.spec.recipe,
                self.spec.steps,
                clock_for(self.job.device),
                self.spec.profile,
                self.spec.budget.seconds,
                self._report,
                checkpoints,
            )
        self.curve = curve_points(done)
        if not checkpoints.finished:  # else nothing was trained here, and the checkpoint knows the peak
            self.peak_mib = self._peak()
        reset_peak_memory(self.device)
        return done

    def _report(self, done: Training) -> None:
        check_profile()  # before the end of a training is kept, which nobody would look at again
        if self.spec.budget.seconds is not None:
            self._company()  # somebody may come and go
        point = done.curve[-1]
        self.events.send(
            "step", step=point.step, steps=self.spec.steps, loss=finite(point.loss), lr=point.lr, seconds=point.device_s
        )

    def _accuracy(
        self, model: nn.Module, loaded: Loaded, split: Split, nan: bool
    ) -> tuple[float, int, torch.Tensor | None]:
        """Accuracy in percent, how many images have logits that are no numbers, and the predictions.

        Chance, and no predictions, where there are no numbers at all.
        """
        if nan:
            return 100.0 / loaded.data.classes, 0, None
        images, labels = as_tensors(split, self.device)
        scores = logits(model, images, loaded.normalise)
        lost = int((~scores.isfinite().all(1)).sum())
        if lost == len(scores):
            return 100.0 / loaded.data.classes, lost, None
        return accuracy_pct(scores, labels), lost, predictions(scores)

    def _keep_outcomes(self, predicted: torch.Tensor | None, test: Split) -> str:
        """Write the predictions, before the record that names them; empty where there are none."""
        if predicted is None:
            return ""
        root, run = Path(self.job.results), f"{self.spec.digest()}.{self.job.attempt}"
        assert self.data is not None
        try:
            return write_outcomes(root, self.spec.board, run, predicted.cpu().numpy(), test.labels, self.data.classes)
        except WriteError as error:
            self.notes.append(f"the outcomes by image could not be kept: {error.why}")
            return ""

    def _save(self, model: nn.Module) -> str:
        folder = board_folder(Path(self.job.results), self.spec.board) / "weights"
        try:
            return save_weights(model, folder / f"{self.spec.digest()}.{self.job.attempt}.pt")
        except WriteError as error:  # the figures are measured, and worth more than the weights
            assert self.checkpoints is not None
            self.checkpoints.notes.append(f"the final weights could not be kept: {error.why}")
            return weights_digest(tensors_of(model))
