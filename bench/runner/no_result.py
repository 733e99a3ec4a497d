"""The record of a run whose own process could not write one, and where such a run comes from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ...registry import MODELS, UserError
from ...source import libraries, source_hash
from ..records.kept_verdicts import checked
from ..records.provenance import code_facts, host_facts, shared, versions
from ..records.record import Provenance, RunRecord, Status, write_record
from ..training.job import Job

if TYPE_CHECKING:
    from ..records.calibration import Failed


def provenance_of(job: Job) -> Provenance:
    """What is known of a run from its job alone; source, versions and commit are empty where its model is not found."""
    try:
        model = MODELS.find(job.spec.model)
        source, also, code = source_hash(model), libraries(model), code_facts(model)
        verdict = checked(Path(job.results), job.spec.model, source)
    except (UserError, OSError):
        source, also, code, verdict = "", {}, {}, ""  # the run itself will say what is wrong
    return Provenance(
        source_hash=source,
        checked=verdict,
        data_digest="",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(also),
        hardware={**host_facts(job.device), **shared(job.sharing)},
        threads=job.threads,
        command=job.command,
        **code,
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
