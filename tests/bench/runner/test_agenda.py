"""What is to run, as which attempt: from one reading of each record."""

from pathlib import Path
from typing import Any

import pytest
from equibench.bench.records import record as records
from equibench.bench.records import staleness
from equibench.bench.records.record import RunRecord, write_record
from equibench.bench.runner.agenda import agenda_of
from equibench.bench.spec.suite import Suite, plan
from equibench.bench.tools.machine import Machine
from equibench.registry import UserError

from .. import made

SUITE = Suite(name="s", dataset="digits-rot", budget="e2", seeds=3, models=["p4cnn", "z2cnn-22"])
NOW, BEFORE = "a" * 16, "b" * 16


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of p4cnn: seed 0 finished, seed 1 failed twice, seed 2 finished but stale; nothing of the other model."""
    monkeypatch.setattr(staleness, "_source_hash", lambda model: NOW if model == "p4cnn" else "")
    base, specs = made.record(90.0), plan(SUITE)
    failure = {"status": "oom", "reason": "too large", "results": None, "cost": None}

    def put(seed: int, source: str = NOW, **changes: Any) -> RunRecord:
        (spec,) = (s for s in specs if (s.model, s.seed) == ("p4cnn", seed))
        origin = base.provenance.model_copy(update={"source_hash": source})
        found = base.model_copy(update={"spec": spec, "provenance": origin, **changes})
        write_record(tmp_path, found)
        return found

    put(0)
    put(1, **failure)
    put(1, **failure, attempt=2)
    put(2, source=BEFORE)
    return tmp_path


def test_each_record_is_read_once(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    plain = records.read_record
    monkeypatch.setattr(records, "read_record", lambda path: read.append(path.name) or plain(path))
    agenda_of(SUITE, there, Machine("cpu"), plan(SUITE))
    assert len(read) == len(set(read)) == 4


@pytest.mark.parametrize("refresh", [False, True])
def test_an_attempt_is_the_next_after_all_that_were_made(there: Path, refresh: bool) -> None:
    agenda = agenda_of(SUITE, there, Machine("cpu", includes=("my.py",), command="made up"), plan(SUITE), refresh)
    found = {(j.spec.model, j.spec.seed): j.attempt for j in agenda.pending}
    fresh = {("z2cnn-22", seed): 1 for seed in range(3)}
    assert found == {("p4cnn", 1): 3, **fresh, **({("p4cnn", 2): 2} if refresh else {})}
    assert agenda.skipped == (1 if refresh else 2)
    assert agenda.stale == ({} if refresh else {"p4cnn seed 2": "source"})
    (job, *_) = agenda.pending
    assert (job.device, job.command, job.include) == ("cpu", "made up", [str(Path("my.py").resolve())])


def test_a_board_behind_a_link_is_refused(there: Path) -> None:
    folder = there / "runs" / plan(SUITE)[0].board
    folder.rename(there / "elsewhere")
    folder.symlink_to(there / "elsewhere")
    with pytest.raises(UserError, match="symbolic link"):
        agenda_of(SUITE, there, Machine("cpu"), plan(SUITE))
