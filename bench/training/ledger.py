"""The facts of a run in its process, and what is written from them: checkpoints, warnings and the record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...datasets.images import ImageData, data_root
from ...registry import MODELS
from ...source import libraries
from ..measures.clock import Phases
from ..measures.cost import peak_memory_mib
from ..records import provenance
from ..records.kept_verdicts import kept_verdict
from ..records.record import VARYING, CorePoint, CurvePoint, Results, RunRecord, Size, Status
from ..tools.gpu_processes import OtherProcesses
from .checkpoint import Checkpoints, Facts, Origin
from .job import Job
from .train import Training

#: A record gets a warning if its time outside named phases exceeds this share of the total and this number of seconds.
#: Some hundredths of a second between the phases are normal.
OTHER_SHARE, OTHER_S = 0.02, 0.2


class Ledger:
    """All facts of a run so far; None where they are not known yet. A record can be made from it after any failure.

    Attributes:
        made: see `made_from`.
        init, size, results, curve, resumed, peak_mib, sharing, waited_s: as in the record and in `checkpoint.Facts`.
        company: other processes that were found on the device.
        notes: sentences for the record.
    """

    def __init__(self, job: Job, phases: Phases) -> None:
        self.job, self.spec, self.phases, self.root = job, job.spec, phases, Path(job.results)
        self.model, self.device = MODELS.find(job.spec.model), torch.device(job.device)
        self.started = provenance.timestamp()
        self.data: ImageData | None = None
        self.made: dict[str, Any] = {}
        self.origin: Origin | None = None
        self.checkpoints: Checkpoints | None = None
        self.init: CorePoint | None = None
        self.size: Size | None = None
        self.results: Results | None = None
        self.curve: list[CurvePoint] = []
        self.resumed: list[int] = []
        self.peak_mib = 0.0
        self.company: OtherProcesses | None = None
        self.sharing, self.waited_s = job.sharing, 0.0
        self.notes: list[str] = []

    def made_from(self) -> dict[str, Any]:
        """The fields of the provenance about the files of model and data, as far as they are known."""
        if not self.made:
            places = (self.root, data_root(self.job.data_root))
            self.made = provenance.file_facts(self.model, self.spec.dataset, self.data, places)
        return self.made

    def note_origin(self) -> Origin:
        """Determine the origin of this run's checkpoints."""
        assert self.data is not None
        self.origin = Origin(
            spec=self.spec.digest(), source_hash=self.made_from()["source_hash"], data_digest=self.data.digest(),
            versions=provenance.versions(libraries(self.model)),
            hardware_key=provenance.hardware(self.job.device)["hardware_key"], threads=torch.get_num_threads(),
        )  # fmt: skip
        return self.origin

    def take_over(self, facts: Facts) -> None:
        """Take over the measurements of an earlier process of this run."""
        self.init, self.size, self.peak_mib, self.started = facts.init, facts.cost, facts.peak_mib, facts.started
        self.resumed, self.sharing = [*facts.resumed, facts.step], max(self.sharing, facts.sharing)
        self.company = facts.company
        self.phases.carry(facts.phases)

    def facts(self, done: Training, finished: bool) -> Facts:
        """The content of a checkpoint of this run, without the tensors."""
        assert self.origin and self.init and self.size and self.checkpoints
        return Facts(
            schema_version=1, origin=self.origin, attempt=self.job.attempt, step=done.steps, stopped=done.stopped,  # type: ignore[arg-type]
            finished=finished, device_s=done.device_s, curve=list(done.curve), phases=self.phases.total(),
            resumed=self.resumed, init=self.init, cost=self.size, peak_mib=self.peak(),
            started=self.started, warnings=self.checkpoints.notes, sharing=self.sharing, company=self.company,
            waited_s=done.waited_s,
        )  # fmt: skip

    def peak(self) -> float:
        """Peak memory of the training so far, in this process or earlier ones, in MiB."""
        return max(self.peak_mib, peak_memory_mib(self.device))

    def note_company(self, company: OtherProcesses) -> str:
        """Note other processes on the device; returns them in words if the run counts its device-seconds."""
        self.company = company
        if self.spec.budget.seconds is not None:
            return company.others
        # For other budgets, the times are then invalid, but all other figures are valid.
        self.sharing = max(self.sharing, company.count)
        return ""

    def note_learned(self, buffers: int) -> None:
        """Correct the number of learned buffers: some change only after the few steps of the cost measurement."""
        assert self.size is not None
        self.size = self.size.model_copy(update={"learned_buffers": max(self.size.learned_buffers, buffers)})

    def note_varying(self) -> None:
        """State that the operations of an image, which are counted before the training, are not always so many."""
        assert self.size is not None
        names = {*filter(None, self.size.uncounted.split(", ")), VARYING}
        self.size = self.size.model_copy(update={"uncounted": ", ".join(sorted(names))})

    @property
    def safe(self) -> bool:
        """Whether a checkpoint of the finished training exists."""
        return self.checkpoints is not None and self.checkpoints.safe

    def record(self, status: Status, reason: str) -> RunRecord:
        """The record of the run in its present state."""
        made, seconds = self.made_from(), self.phases.total()
        origin = provenance.Provenance.of(
            self.model, self.started, self.origin.versions if self.origin else None, **made,
            checked=kept_verdict(self.root, self.spec.model, made["source_hash"]),
            data_digest=self.data.digest() if self.data else "", hardware=self._hardware(),
            threads=torch.get_num_threads(), command=self.job.command,
        )  # fmt: skip
        return RunRecord(
            schema_version=1, spec=self.spec, attempt=self.job.attempt, status=status, reason=reason,
            results=self.results, cost=self.size, curve=self.curve, phases=seconds, provenance=origin,
            context=self.job.context, warnings=self.warnings(seconds),
        )  # fmt: skip

    def _hardware(self) -> dict[str, str]:
        try:
            known = provenance.hardware(self.job.device)
        except RuntimeError:  # the run failed because torch cannot use the device
            known = provenance.host_facts(self.job.device)
        alone = {provenance.ALONE: self.company.alone} if self.company else {}
        waited = provenance.waiting_fact(self.waited_s, self.results.train_s if self.results else 0.0)
        return {**known, **provenance.sharing_fact(self.sharing), **waited, **alone}

    def warnings(self, seconds: dict[str, float]) -> list[str]:
        """Warnings for readers of the record; `seconds` are those of all phases."""
        found = [*(self.checkpoints.notes if self.checkpoints else []), *self.notes]
        if self.resumed:
            steps = ", ".join(map(str, self.resumed))
            found.append(
                f"interrupted, and resumed after step {steps} of {self.spec.steps}: phases are the sums over the"
                " processes of the run, each until the checkpoint from which the next one continued"
            )
        if self.sharing > 1:
            found.append(f"up to {self.sharing} runs shared the device, so its times are not valid for the model")
        if self.company is not None and self.company.unknown:
            found.append(f"whether the run was alone on its GPU is unknown: {self.company.unknown}")
        if seconds["other_s"] > max(OTHER_SHARE * seconds["total_s"], OTHER_S):
            found.append(f"{seconds['other_s']:.2f} s of {seconds['total_s']:.2f} s belong to no named phase")
        return found
