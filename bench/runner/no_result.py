"""The record of a run whose own process could not write one, and where such a run comes from."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from ...registry import MODELS, UserError
from ...source import libraries, source_hash
from ..records.kept_verdicts import checked
from ..records.provenance import code_facts, host_facts, shared, versions
from ..records.record import Provenance, RunRecord, Status
from ..training.job import Job


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
