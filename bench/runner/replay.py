"""Run one recorded row again, and say whether it agrees.

Same versions, processor and threads on a CPU make an E run bit-exact. Elsewhere the bits may be the same too, and then
nothing more needs to be asked. If they are not, a run is another draw from what the model's seeds are draws from, and
must lie where one further draw lies with probability 95 %.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...registry import UserError, include
from ..boards.board import load_board
from ..boards.statistics import SMALLEST_SAMPLE, prediction_interval
from ..records.provenance import cpu_name, versions
from ..records.record import (
    FINAL,
    RunRecord,
    attempts_of,
    board_folder,
    board_names,
    read_record,
)
from ..records.staleness import staleness
from ..tools.files import ensure_writable
from ..tools.gpus import one_device
from ..tools.machine import Machine
from ..training.job import Job
from .admission import refuse_replay
from .local import LocalEngine


@dataclass(frozen=True)
class Verdict:
    """What a replay came to.

    Attributes:
        agrees: whether the new attempt confirms the recorded one.
        rule: ``bit-exact`` where the bits are the same, or should be; ``interval`` where they differ, as they may;
            ``failed`` where the new attempt has no result.
        why: one sentence.
        differences: what differs between then and now, so that bits may differ.
        recorded, replayed: test accuracies in %.
        low, high: the prediction interval in %, where that was the rule.
        run: id of the new attempt.
    """

    agrees: bool
    rule: str
    why: str
    differences: list[str]
    recorded: float
    replayed: float | None
    low: float | None
    high: float | None
    run: str


def replay(
    run: str,
    root: Path,
    *,
    device: str | None = None,
    threads: int | None = None,
    machine: Machine | None = None,
) -> Verdict:
    """Run a recorded run again as a later attempt, which no board shows, and compare.

    Args:
        run: the beginning of its id.
        device, threads: as recorded without, whatever `machine` says.
        machine: how else the run is executed.

    Raises:
        UserError: there is no such run, it has no result, it is stale, or nothing could be said if its bits differed,
            as they may; nothing was trained.
    """
    machine = machine or Machine()
    include(machine.files)
    record = find_run(run, root)
    refuse_replay(record)
    device = one_device(device or record.provenance.hardware.get("device", "cpu"))
    threads = threads or record.provenance.threads
    differences = differences_now(record, device, threads)
    values = list(load_board(root, record.spec.board).values.get(record.spec.model, {}).values())
    if differences and len(values) < SMALLEST_SAMPLE:
        raise UserError(
            f"run {record.run_id} cannot be judged here: {differences[0]}, so bits may differ, and an interval needs"
            f" {SMALLEST_SAMPLE} recorded seeds of {record.spec.model!r}, not {len(values)}"
        )
    ensure_writable(root)
    again, reason = _run_again(record, root, replace(machine, device=device, threads=threads))
    return judge(record, again, reason, differences, values)


def find_run(run: str, root: Path) -> RunRecord:
    """The record that counts of the run whose id begins with `run`.

    Raises:
        UserError: none or several begin so, or it has no result.
    """
    names = [p.name for board in board_names(root) for p in board_folder(root, board).glob("*.json")]
    fits = sorted({name.split(".")[0] for name in names if run and name.startswith(run)})
    if len(fits) != 1:
        which = f" ({', '.join(fits[:5])})" if fits else ""
        raise UserError(
            f"{run!r} begins {len(fits) or 'no'} runs in {root}{which}; the column 'run' of a board's .runs.csv has"
            " the ids"
        )
    paths = [p for board in board_names(root) for p in board_folder(root, board).glob(f"{fits[0]}.*.json")]
    records = sorted((read_record(p) for p in paths), key=lambda r: (r.attempt, r.file_name))
    finished = [r for r in records if r.status == "ok"]
    if not finished:
        raise UserError(f"run {fits[0]} ended as {records[-1].status!r}; only a finished run can be replayed")
    return next((r for r in finished if not staleness(r)), finished[0])


def differences_now(record: RunRecord, device: str, threads: int) -> list[str]:
    """Why the bits of a run may differ when it is run again here; empty where they must not."""
    then = record.provenance
    found = []
    if record.spec.budget.kind != "E":
        found.append(f"a {record.spec.budget.kind} budget is not reproducible to the bit")
    before = then.hardware.get("device", "unknown")
    if device != "cpu" or before != "cpu":
        found.append(f"only of runs on a CPU are the same bits certain (then {before}, now {device})")
    elif then.hardware.get("cpu") != cpu_name():
        found.append(f"processor {then.hardware.get('cpu', 'unknown')} then, {cpu_name()} now")
    if threads != then.threads:
        found.append(f"{then.threads} threads then, {threads} now")
    now = versions(then.versions)
    found += [
        f"{name} {then.versions.get(name, 'absent')} then, {now.get(name, 'absent')} now"
        for name in sorted({*then.versions, *now} - {"equibench"})
        if then.versions.get(name, "absent") != now.get(name, "absent")
    ]
    return found


def _run_again(record: RunRecord, root: Path, machine: Machine) -> tuple[RunRecord | None, str]:
    """The record of the next attempt, or None and the reason why there is none."""
    attempt = max(r.attempt for r in attempts_of(root, record.spec)) + 1
    job = Job.on(machine, root, record.spec, attempt, record.context)
    done: dict[str, Any] = {}

    def listen(_: Job, event: dict[str, Any]) -> None:
        if event["event"] == "done":
            done.update(event)

    LocalEngine([machine.device], None, lambda job, status, reason: None).run([job], listen)
    if "record" not in done:
        return None, f"{done.get('status', 'lost')}: {done.get('reason') or 'it is being run elsewhere'}"
    again = read_record(Path(done["record"]))
    return again, again.reason


def judge(
    record: RunRecord, again: RunRecord | None, reason: str, differences: list[str], values: list[float]
) -> Verdict:
    """The verdict on a new attempt.

    Args:
        values: test accuracies in % of the model's recorded seeds.
    """
    assert record.results is not None
    before = record.results.test_acc_pct
    run = again.run_id if again else ""
    if again is None or again.results is None or again.status not in FINAL:
        return Verdict(
            False, "failed", f"the new attempt has no result: {reason}", differences, before, None, None, None, run
        )
    after = again.results.test_acc_pct
    was, now = record.provenance, again.provenance
    if (was.source_hash, was.data_digest) != (now.source_hash, now.data_digest):
        what = "source" if was.source_hash != now.source_hash else "data"
        return Verdict(
            False, "failed", f"the {what} changed since: not the same run", differences, before, after, None, None, run
        )
    same = record.results.weights_sha256 == again.results.weights_sha256 and before == after
    if same or not differences:
        why = (
            "the final weights are the same to the bit"
            if same
            else "nothing that matters differs, but the final weights do"
        )
        return Verdict(same, "bit-exact", why, differences, before, after, None, None, run)
    expected = prediction_interval(values)
    if expected is None:
        return Verdict(
            False, "failed", "too few recorded seeds to judge by", differences, before, after, None, None, run
        )
    # An accuracy cannot be known finer than one test image.
    margin = 100 / record.results.test_images
    low, high = min(expected[0], expected[1] - margin), max(expected[1], expected[0] + margin)
    inside = low <= after <= high
    why = (
        f"{after:.2f} % lies {'within' if inside else 'outside'} {low:.2f} to {high:.2f} %, where 95 % of further"
        " runs lie"
        f" by the spread of {len(values)} recorded seeds"
    )
    return Verdict(inside, "interval", why, differences, before, after, low, high, run)
