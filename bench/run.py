"""One run from its spec to its record."""

from __future__ import annotations

import hashlib
import math
import time
import traceback
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..datasets.batches import Batches, Normalise
from ..datasets.images import ImageData, Split, data_root, load
from ..registry import MODELS, build_model, include
from .budget import drifted
from .clock import Phases, clock_for
from .cost import Cost, measure_cost, peak_memory_mib
from .equivariance import Core, measure_core
from .evaluate import EVAL_BATCH, accuracy_pct, logits
from .job import Events, Job
from .lean import spare_compiler
from .provenance import hardware, libraries, source_hash, versions
from .record import CorePoint, CurvePoint, Provenance, Results, RunRecord, Size, Status, board_folder, write_record
from .seeds import derive
from .spec import RunSpec
from .train import Training, optimizer_for, reestimate_batch_norm, train, train_step

#: Images of the training set that batch-norm statistics are re-estimated on.
BN_IMAGES = 1000
#: Images of the test set, balanced by class, that the core equivariance errors are measured on.
CORE_IMAGES = 50
#: A record whose unnamed time is more than this share of the whole carries a warning.
OTHER_SHARE = 0.02


def execute(job: Job, events: Events, start: float, until_import: float) -> None:
    """Do the run and write its record, whatever happens to the model.

    Args:
        start: `time.perf_counter` at the first line of the process.
        until_import: the same just before torch was imported.
    """
    phases = Phases(start)
    phases.add("import", time.perf_counter() - until_import)
    # Reading the job and taking the lock came first, and imported the schemas.
    phases.add("startup", until_import - start)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    include(job.include)
    run = _Run(job, events, phases)
    status, reason = _outcome(run)
    provenance = Provenance(
        source_hash=source_hash(MODELS.find(job.spec.model)),
        data_digest=run.data.digest() if run.data else "",
        started=started,
        versions=versions(libraries(MODELS.find(job.spec.model))),
        hardware=hardware(job.device),
        threads=torch.get_num_threads(),
        command=job.command,
    )
    seconds = phases.total()
    warnings = list(run.warnings)
    if seconds["other_s"] > OTHER_SHARE * seconds["total_s"]:
        warnings.append(f"{seconds['other_s']:.2f} s of {seconds['total_s']:.2f} s belong to no named phase")
    record = RunRecord(
        schema_version=1,
        spec=job.spec,
        attempt=job.attempt,
        status=status,
        reason=reason,
        results=run.results,
        cost=run.size,
        curve=run.curve,
        phases=seconds,
        provenance=provenance,
        context=job.context,
        warnings=warnings,
    )
    path = write_record(Path(job.results), record)
    warning = ""
    if job.equivariance == "full":
        from .revisit import add_sidecar

        warning = add_sidecar(job, record)
    events.send("done", status=status, reason=reason, record=str(path), warning=warning)


def _outcome(run: _Run) -> tuple[Status, str]:
    """Run it, and turn whatever it raises into a status and a reason."""
    try:
        return run.go()
    except torch.OutOfMemoryError as error:
        return "oom", str(error).splitlines()[0]
    except MemoryError:
        return "oom", "the host has no memory left"
    except Exception as error:  # a model may raise anything; it becomes a row, and the others go on
        traceback.print_exc()
        lines = str(error).strip().splitlines()
        return "error", f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


class _Run:
    """The steps of a run; holds what is known when one of them fails."""

    def __init__(self, job: Job, events: Events, phases: Phases) -> None:
        self.job, self.spec, self.events, self.phases = job, job.spec, events, phases
        self.device = torch.device(job.device)
        self.data: ImageData | None = None
        self.size: Size | None = None
        self.results: Results | None = None
        self.curve: list[CurvePoint] = []
        self.warnings: list[str] = []

    def go(self) -> tuple[Status, str]:
        """Measure; returns status and reason."""
        set_profile(self.spec.profile, self.job.threads)
        phase = self.phases.phase
        with phase("data"):
            self.data = load(self.spec.dataset, data_root(self.job.data_root))
            loaded = Loaded(self.data, self.spec, self.device)
        with phase("build"):
            twin = self._build()
        with phase("equivariance"):
            init = self._core(twin, loaded)
        with phase("cost"):
            cost = measure_cost(twin, *loaded.batches(0))
            self.size = Size(**asdict(cost))
        with phase("warmup"):
            warm_up(twin, loaded, self.spec)
        with phase("build"):
            del twin
            model = self._build()
        with phase("train"):
            done = self._train(model, loaded)
        if done.stopped == "hard stop":
            return "invalid", f"drift: stopped at 105 % of {self.spec.budget.seconds:g} s after {done.steps} steps"
        return self._finish(model, loaded, init, cost, done)

    def _finish(
        self, model: nn.Module, loaded: Loaded, init: Core, cost: Cost, done: Training
    ) -> tuple[Status, str]:
        phase, spec = self.phases.phase, self.spec
        if spec.recipe.batch_norm == "reestimate":
            with phase("bn"):
                reestimate_batch_norm(model, loaded.unaugmented)
        with phase("evaluate"):
            nan = done.stopped == "nan"
            test = self._accuracy(model, loaded, loaded.data.test, nan)
            val = self._accuracy(model, loaded, loaded.data.val, nan) if spec.fit == "train" else None
        with phase("equivariance"):
            trained = self._core(model, loaded)
        with phase("save"):
            digest = self._save(model)
        self.results = Results(
            test_acc_pct=test,
            val_acc_pct=val,
            test_images=len(loaded.data.test.labels),
            train_images=len(loaded.labels),
            train_s=done.device_s,
            step_ms=1000 * done.device_s / max(done.steps, 1),
            peak_mib=peak_memory_mib(self.device),
            peak_kind="allocated on the device" if self.device.type == "cuda" else "resident in the process",
            init=CorePoint(**asdict(init)),
            trained=CorePoint(**asdict(trained)),
            weights_sha256=digest,
        )
        if done.stopped == "nan":
            return "nan", f"the loss was no number at step {done.steps} of {spec.steps}; counted as chance level"
        if spec.budget.seconds is not None and drifted(done.device_s, spec.budget.seconds):
            return "invalid", f"drift: {done.device_s:.2f} s for a budget of {spec.budget.seconds:g} s (±3 %)"
        return "ok", ""

    def _build(self) -> nn.Module:
        assert self.data is not None
        return build_from_seed(self.spec, self.data, self.device)

    def _core(self, model: nn.Module, loaded: Loaded) -> Core:
        images = loaded.balanced_test_images(CORE_IMAGES)
        return measure_core(model, images, loaded.normalise, loaded.background, loaded.data.maximum)

    def _train(self, model: nn.Module, loaded: Loaded) -> Training:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        torch.manual_seed(derive(self.spec.seed, "training"))  # dropout
        done = train(
            model,
            loaded.batches,
            self.spec.recipe,
            self.spec.steps,
            clock_for(self.job.device),
            self.spec.profile,
            self.spec.budget.seconds,
            self._report,
        )
        self.curve = [CurvePoint(step=p.step, loss=_finite(p.loss), lr=p.lr, device_s=p.device_s) for p in done.curve]
        return done

    def _report(self, done: Training) -> None:
        point = done.curve[-1]
        self.events.send(
            "step", step=point.step, steps=self.spec.steps, loss=_finite(point.loss), lr=point.lr, seconds=point.device_s
        )

    def _accuracy(self, model: nn.Module, loaded: Loaded, split: Split, nan: bool) -> float:
        if nan:
            return 100.0 / loaded.data.classes
        images, labels = loaded.to_device(split)
        return accuracy_pct(logits(model, images, loaded.normalise), labels)

    def _save(self, model: nn.Module) -> str:
        folder = board_folder(Path(self.job.results), self.spec.board) / "weights"
        return save_weights(model, folder / f"{self.spec.digest()}.{self.job.attempt}.pt")


class Loaded:
    """A data set on the device, as a board's spec wants it.

    Attributes:
        images, labels: what is trained on.
        batches: the stream of training batches.
        background: per channel in 0…1, the median of the training images' borders.
    """

    def __init__(self, data: ImageData, spec: RunSpec, device: torch.device) -> None:
        self.data, self.device = data, device
        images, labels = data.train.images, data.train.labels
        if spec.fit == "train+val":
            images = np.concatenate([images, data.val.images])
            labels = np.concatenate([labels, data.val.labels])
        self.images, self.labels = self.to_device(Split(images, labels))
        mean, std = data.statistics()
        self.normalise = Normalise(mean, std, data.maximum, device)
        self.batches = Batches(
            self.images,
            self.labels,
            self.normalise,
            spec.recipe.batch,
            lambda purpose, epoch: derive(spec.seed, purpose, epoch),
            spec.recipe.augment,
            MODELS.find(spec.model).treatments,
        )
        self.background = border_median(data)

    def to_device(self, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels as tensors on the device."""
        images = np.ascontiguousarray(split.images)
        # Not every device of torch indexes uint16; the values stay the same.
        images = images.astype(np.int32) if images.dtype == np.uint16 else images
        return torch.from_numpy(images).to(self.device), torch.from_numpy(split.labels).to(self.device)

    def unaugmented(self, index: int) -> torch.Tensor | None:
        """Batch `index` of the fixed slice that batch-norm statistics are re-estimated on."""
        start = index * EVAL_BATCH
        stop = min(start + EVAL_BATCH, BN_IMAGES, len(self.images))
        return self.normalise(self.images[start:stop]) if start < stop else None

    def balanced_test_images(self, count: int) -> torch.Tensor:
        """The first images of each class of the test set, `count` in all."""
        labels, each = self.data.test.labels, max(1, count // self.data.classes)
        index = np.concatenate([np.flatnonzero(labels == c)[:each] for c in range(self.data.classes)])
        return torch.from_numpy(np.ascontiguousarray(self.data.test.images[index])).to(self.device)


def border_median(data: ImageData) -> list[float]:
    """Median of the border pixels of the training images, per channel, in 0…1."""
    images = data.train.images
    edges = [images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]]
    return [float(np.median(np.concatenate([e[:, c].ravel() for e in edges]))) / data.maximum for c in range(images.shape[1])]


def build_from_seed(spec: RunSpec, data: ImageData, device: torch.device) -> nn.Module:
    """The model of a spec with the initial weights of its seed.

    Raises:
        ValueError: it does not map images to logits of the right shape.
    """
    channels, size = data.train.images.shape[1], data.train.images.shape[-1]
    torch.manual_seed(derive(spec.seed, "weights"))
    model: nn.Module = build_model(spec.model, channels, data.classes, size)
    check_output(model, channels, data.classes, size)
    return model.to(device)


def check_output(model: nn.Module, channels: int, classes: int, size: int) -> None:
    """See that a model maps two images to logits (2, classes).

    Raises:
        WrongShape: it does not.
    """
    model.eval()
    with torch.no_grad():
        out = model(torch.zeros(2, channels, size, size))
    model.train()
    if not isinstance(out, torch.Tensor) or out.shape != (2, classes):
        got = f"a tensor of shape {tuple(out.shape)}" if isinstance(out, torch.Tensor) else f"a {type(out).__name__}"
        raise WrongShape(
            f"for 2 images of {channels}x{size}x{size} it returns {got}; it must return logits of shape (2, {classes})"
        )


class WrongShape(ValueError):
    """A model does not return logits of the shape that its contract asks for."""


def set_profile(profile: str, threads: int) -> None:
    """Set precision and determinism for the process (design: execution profiles)."""
    torch.set_num_threads(threads)
    strict = profile == "strict"
    if strict:
        spare_compiler()
    # Not `use_deterministic_algorithms`, which also sets up the compiler: five seconds for nothing here.
    torch.set_deterministic_debug_mode("warn" if strict else "default")
    # The mode would fill every fresh tensor with NaN before it is written: a check for torch's developers, not free.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = not strict
    torch.backends.cudnn.allow_tf32 = not strict
    torch.backends.cuda.matmul.allow_tf32 = not strict


def warm_up(twin: nn.Module, loaded: Loaded, spec: RunSpec) -> None:
    """A few steps on random images and labels with a twin that is thrown away."""
    steps = 10 if loaded.device.type == "cuda" else 1
    optimizer = optimizer_for(twin, spec.recipe)
    images, labels = loaded.batches(0)
    twin.train()
    for _ in range(steps):
        noise, shuffled = torch.randn_like(images), labels[torch.randperm(len(labels), device=labels.device)]
        train_step(twin, optimizer, noise, shuffled, spec.profile)
    if loaded.device.type == "cuda":
        torch.cuda.synchronize(loaded.device)


def save_weights(model: nn.Module, path: Path) -> str:
    """Save parameters and buffers beside the records; returns the SHA-256 of all their bytes."""
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    temporary.replace(path)
    return weights_digest(state)


def weights_digest(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 of the names and bytes of all tensors of a state dictionary on the CPU."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + b"\0" + state[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
