"""A disk that is full (a small one, really full) or read-only, under the record, the checkpoints and from the start."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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


def test_a_disk_that_is_full_when_the_record_is_written_loses_no_result(tmp_path: Path) -> None:
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
