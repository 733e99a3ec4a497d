"""The record of a run whose own process could not write one, and where such a run comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...registry import MODELS, Resolved, UserError
from ...source import source_hash
from ..records.kept_verdicts import checked
from ..records.provenance import Provenance, host_facts, shared
from ..records.record import RunRecord, Status, write_record
from ..training.job import Job

if TYPE_CHECKING:
    from ..records.calibration import Failed


def provenance_of(job: Job) -> Provenance:
    """What is known of a run from its job alone; source, versions and commit are empty where its model is not found."""
    here = {**host_facts(job.device), **shared(job.sharing)}
    model: Resolved | None = None
    try:
        model = MODELS.find(job.spec.model)
        source = source_hash(model)
        verdict = checked(Path(job.results), job.spec.model, source)
    except (UserError, OSError):  # the run itself will say what is wrong
        model, source, verdict = None, "", ""
    return Provenance.of(
        model, source_hash=source, checked=verdict, hardware=here, threads=job.threads, command=job.command
    )


def record_without_result(job: Job, provenance: Provenance, status: Status, reason: str) -> RunRecord:
    """The record of an attempt that ended without figures."""
    return RunRecord(
        schema_version=1, spec=job.spec, attempt=job.attempt, status=status, reason=reason, results=None, cost=None,
        curve=[], phases={}, provenance=provenance, context=job.context, warnings=[],
    )  # fmt: skip


def write_unmeasured(jobs: list[Job], failed: Mapping[str, Failed]) -> tuple[list[Job], dict[str, tuple[str, str]]]:
    """Write the records of runs whose model cannot be trained, as its calibration has shown.

    Returns:
        The other jobs, and status and reason of what was written, by the run's id.
    """
    ended: dict[str, tuple[str, str]] = {}
    for job in jobs:
        if why := failed.get(job.spec.model):
            reason = f"{why.reason} (while its step was measured, before any training)"
            write_record(Path(job.results), record_without_result(job, provenance_of(job), why.status, reason))
            ended[job.key] = (why.status, reason)
    return [job for job in jobs if job.spec.model not in failed], ended
