"""A disk that is full (a small one, really full) or read-only, under the record, the checkpoints and from the start."""

import errno
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from equibench.bench.check.state import state_restored
from equibench.bench.records.record import RunRecord, write_record
from equibench.bench.tools.files import WriteError
from equibench.bench.training.job import Events
from equibench.bench.training.run import execute

from . import process

ROOT = Path(__file__).resolve().parents[3]


def scenario(name: str, tmp_path: Path) -> list[dict[str, Any]]:
    """What `full_disk` reports; skips where this system lets nobody mount."""
    for how in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        probe = [*how, "mount", "-t", "tmpfs", "none", str(tmp_path)]
        try:
            if subprocess.run(probe, capture_output=True).returncode == 0:
                break
        except OSError:
            continue
    else:
        pytest.skip("no file system can be mounted here, not even in a namespace")
    command = [*how, sys.executable, "-m", "tests.bench.faults.full_disk", str(tmp_path / "disk"), name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.split("RESULT ")[1])


def test_a_record_that_cannot_be_written_costs_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, whose disk is not full: only the record cannot be written at first."""
    one, heard = process.job(tmp_path, budget="e2"), list[list[dict[str, Any]]]()

    def full(root: Path, record: RunRecord) -> Path:
        raise WriteError(root, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    for write in (full, write_record):
        monkeypatch.setattr("equibench.bench.training.run.write_record", write)
        now, said = time.perf_counter(), io.StringIO()
        with state_restored():
            execute(one, Events(said), now, now)
        heard.append([json.loads(line) for line in said.getvalue().splitlines()])
        assert len(process.records(one)) == (write is write_record)
        assert bool(process.checkpoints(one)) == (write is full) and not process.leftovers(one)
    first, second = heard
    assert first[-1]["status"] == "error" and first[-1]["unwritten"]
    assert "No space left" in first[-1]["reason"] and "only evaluates" in first[-1]["reason"]
    assert process.the_record(one).status == "ok"
    assert [e["event"] for e in second] == ["resumed", "done"], "nothing was trained again"


@pytest.mark.whole
def test_a_disk_that_is_full_when_the_record_is_written_loses_no_result(tmp_path: Path) -> None:
    """A real disk and real processes; `test_a_record_that_cannot_be_written_costs_no_training` has neither."""
    first, second = scenario("record", tmp_path)
    assert first["done"]["status"] == "error" and first["done"]["unwritten"] and first["code"] == 0
    assert "No space left" in first["done"]["reason"] and "only evaluates" in first["done"]["reason"]
    assert not first["statuses"] and 75 in first["checkpoints"] and not first["leftovers"]
    assert second["statuses"] == ["ok"] and not second["checkpoints"]
    assert second["events"] == ["resumed", "done"], "nothing was trained again"


@pytest.mark.slow  # about half a minute of a core
def test_what_was_measured_before_the_disk_was_full_is_what_is_recorded(whole: tuple, tmp_path: Path) -> None:
    assert scenario("record", tmp_path)[1]["figures"] == [repr(whole)]


@pytest.mark.slow  # about 15 seconds of a core
def test_a_disk_that_is_full_under_checkpoints_stops_no_run(whole: tuple, tmp_path: Path) -> None:
    (only,) = scenario("checkpoint", tmp_path)
    assert only["statuses"] == ["ok"] and only["figures"] == [repr(whole)] and not only["leftovers"]
    assert [w for w in only["warnings"] if "could not be written: No space left" in w]


@pytest.mark.slow  # about 20 seconds of a core
def test_the_command_says_what_could_not_be_written(tmp_path: Path) -> None:
    first, second = scenario("command", tmp_path)
    assert first["code"] != 0 and "No space left" in first["error"] and "only evaluates" in first["error"]
    assert "Traceback" not in first["error"] and not first["records"]
    assert second["code"] == 0 and second["records"] == 1


@pytest.mark.parametrize(("name", "words"), [("start", "No space left"), ("readonly", "Read-only file system")])
@pytest.mark.slow  # a few seconds of a core
def test_a_folder_that_cannot_be_written_is_told_before_anything_is_trained(
    name: str, words: str, tmp_path: Path
) -> None:
    (only,) = scenario(name, tmp_path)
    assert only["code"] == 2 and words in only["error"] and "--results" in only["error"]
    assert len(only["error"].strip().splitlines()) == 1 and not only["records"]
