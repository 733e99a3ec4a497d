"""Repeats one recorded run and compares the results, with the rules of `boards.repeats`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...registry import UserError, include
from ..boards.board import load_board
from ..boards.repeats import Agreement, agreement, differences
from ..boards.statistics import SMALLEST_SAMPLE
from ..records.find import find_run
from ..records.provenance import cpu_name, host_id, timestamp, versions
from ..records.record import FINAL, RunRecord, attempts_of, read_record
from ..records.sidecar import ReplayVerdict, write_verdict
from ..tools.files import ensure_writable
from ..tools.gpus import one_device
from ..tools.machine import Machine
from ..training.job import Job
from .admission import refuse_other_kind, refuse_replay
from .local import LocalEngine


def replay(
    run: str, root: Path, *, device: str | None = None, threads: int | None = None, machine: Machine | None = None
) -> ReplayVerdict:
    """Run a recorded run again as a later attempt, which boards do not show; write the verdict to the results.

    Args:
        run: the beginning of its id.
        device, threads: None for the recorded ones; those of `machine` are ignored.

    Raises:
        UserError: there is no such run, it has no result, it is stale, different bits could not be judged, or a T run
            is of another kind of device; nothing was trained.
    """
    machine = machine or Machine()
    include(machine.files)
    record = find_run(run, root)
    refuse_replay(record)
    device = one_device(device or record.provenance.hardware.get("device", "cpu"))
    refuse_other_kind(record.spec, device)
    threads = threads or record.provenance.threads
    differ = differences_now(record, device, threads)
    values = list(load_board(root, record.spec.board).values.get(record.spec.model, {}).values())
    if differ and len(values) < SMALLEST_SAMPLE:
        raise UserError(
            f"run {record.run_id} cannot be judged here: {differ[0]}, so bits may differ, and an interval needs"
            f" {SMALLEST_SAMPLE} recorded seeds of {record.spec.model!r}, not {len(values)}"
        )
    ensure_writable(root, "results")
    again, reason = _run_again(record, root, replace(machine, device=device, threads=threads))
    verdict = judge(record, again, reason, differ, values)
    write_verdict(root, verdict)
    return verdict


def differences_now(record: RunRecord, device: str, threads: int) -> list[str]:
    """Reasons why a repetition here may give different bits; empty if the bits must agree."""
    return differences(record, {"device": device, "cpu": cpu_name()}, threads, versions(record.provenance.versions))


def _run_again(record: RunRecord, root: Path, machine: Machine) -> tuple[RunRecord | None, str]:
    """Run the next attempt; returns its record and reason, or None and the reason why there is no record."""
    attempt = max(r.attempt for r in attempts_of(root, record.spec)) + 1
    job = Job.on(machine, root, record.spec, attempt, record.context)
    done: dict[str, Any] = {}

    def listen(_: Job, event: dict[str, Any]) -> None:
        if event["event"] == "done":
            done.update(event)

    LocalEngine([machine.device], None, lambda job, status, reason: None).run([job], listen)
    if "record" not in done:
        return None, f"{done.get('status', 'lost')}: {done.get('reason') or 'another process runs it'}"
    again = read_record(Path(done["record"]))
    return again, again.reason


def judge(
    record: RunRecord, again: RunRecord | None, reason: str, differ: list[str], values: list[float]
) -> ReplayVerdict:
    """The verdict on a new attempt. `values` are the test accuracies of the model's recorded seeds, in %."""
    assert record.results is not None
    finished = again if again is not None and again.status in FINAL else None
    was, now = record.provenance, finished.provenance if finished else record.provenance
    if finished is None:
        found = Agreement(False, "failed", f"the new attempt has no result: {reason}")
    elif (was.source_hash, was.data_digest) != (now.source_hash, now.data_digest):
        what = "source" if was.source_hash != now.source_hash else "data"
        found = Agreement(False, "failed", f"the {what} changed since; this is a different run")
    else:
        found = agreement(record, finished, differ, values)
    return ReplayVerdict(
        board=record.spec.board, run=record.run_id, again=again.run_id if again else "", agrees=bool(found.agrees),
        rule=found.rule, why=found.why, differences=differ, recorded=record.results.test_acc_pct,
        replayed=finished.results.test_acc_pct if finished and finished.results else None,
        low=found.low, high=found.high, judged=timestamp(), host=host_id(),
    )  # fmt: skip
