"""Records of runs whose own process could not write one, and their provenance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...registry import MODELS, Resolved, UserError
from ...source import source_hash
from ..records.kept_verdicts import kept_verdict
from ..records.provenance import Provenance, host_facts, sharing_fact
from ..records.record import RunRecord, Status, attempts_of, write_record
from ..training.job import Job

if TYPE_CHECKING:
    from ..records.calibration import TrainingFailed


def provenance_of(job: Job) -> Provenance:
    """The provenance of a run as far as its job tells it; source, versions and commit are empty for unknown models."""
    here = {**host_facts(job.device), **sharing_fact(job.sharing)}
    model: Resolved | None = None
    try:
        model = MODELS.find(job.spec.model)
        source = source_hash(model)
        verdict = kept_verdict(Path(job.results), job.spec.model, source)
    except (UserError, OSError):  # the run itself will report the error
        model, source, verdict = None, "", ""
    return Provenance.of(
        model, source_hash=source, checked=verdict, hardware=here, threads=job.threads, command=job.command
    )


def write_without_result(job: Job, status: Status, reason: str, provenance: Provenance | None = None) -> bool:
    """Write the record of an attempt without a result; returns False if the attempt already has a record.

    `provenance` is from the start of the attempt, or None to determine it now. Raises `WriteError`.
    """
    root = Path(job.results)
    if any(r.attempt == job.attempt for r in attempts_of(root, job.spec)):
        return False
    try:
        known = {"spec": job.spec, "context": job.context, "provenance": provenance or provenance_of(job)}
        write_record(root, RunRecord.without_result(**known, attempt=job.attempt, status=status, reason=reason))
    except FileExistsError:  # another process wrote it at the same time
        return False
    return True


def write_unmeasured(
    jobs: list[Job], failed: Mapping[str, TrainingFailed]
) -> tuple[list[Job], dict[str, tuple[str, str]]]:
    """Write the records of runs whose model failed in calibration.

    Returns the other jobs, and (status, reason) of the written records by run id.
    """
    ended: dict[str, tuple[str, str]] = {}
    for job in jobs:
        if why := failed.get(job.spec.model):
            reason = f"{why.reason} (while its step was measured, before any training)"
            write_without_result(job, why.status, reason)
            ended[job.key] = (why.status, reason)
    return [job for job in jobs if job.spec.model not in failed], ended
