"""Many processes at once: no record is lost, the CSV can be read at any moment; records that were damaged are named."""

import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from equibench.bench.boards import rows as leaderboard
from equibench.bench.boards.board import load_board
from equibench.bench.boards.rows import write_board
from equibench.bench.records.record import attempts_of, write_record
from equibench.bench.records.store import board_folder

from .. import made
from .process import checkpoints, equibench, figures, job, records, run
from .writers import BOARD, EACH, WRITERS, rows

ROOT = Path(__file__).resolve().parents[3]


def test_sixteen_processes_write_400_records_while_the_csv_is_rebuilt(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench.faults.writers", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.split("RESULT ")[1])
    assert result["failed"] == 0 and not result["parts"]
    assert result["seeds"] == [*range(WRITERS * EACH), 10**6]
    assert result["seen"] == sorted(result["seen"]), "a row that was there was gone again"


def test_two_that_rebuild_at_once_leave_out_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slower of the two has read the records before the last one came; it must notice."""
    write_record(tmp_path, made.record(50.0, seed=0))
    original, calls = leaderboard.load_board, []

    def slow(root: Path, name: str) -> leaderboard.Board:
        board = original(root, name)
        if not calls:
            calls.append(name)
            write_record(root, made.record(60.0, seed=1))
            with ThreadPoolExecutor(1) as other:
                other.submit(write_board, root, name).result()
        return board

    monkeypatch.setattr(leaderboard, "load_board", slow)
    write_board(tmp_path, BOARD)
    assert sorted(rows(tmp_path / f"{BOARD}.runs.csv")) == [0, 1]


def test_a_record_that_was_cut_off_or_changed_is_named_and_its_run_counts_as_not_done(tmp_path: Path) -> None:
    generator = random.Random(11)
    good = write_record(tmp_path, made.record(60.0, seed=1))
    path = write_record(tmp_path, made.record(50.0, seed=0))
    whole = path.read_bytes()
    for flip in [True, False] * 20:
        data = bytearray(whole)
        # The last byte is the end of the line, which the hash leaves out.
        place = generator.randrange(len(data) - 1)
        if flip:
            data[place] ^= 1 << generator.randrange(8)
        path.write_bytes(data if flip else data[:place])
        board = load_board(tmp_path, BOARD)
        assert [r.path for r in board.refused] == [path] and str(path) in board.refused[0].reason
        assert [r.spec.seed for r, _ in board.chosen] == [1] and not attempts_of(tmp_path, made.spec(seed=0))
    assert good.exists() and path.exists(), "nothing is removed, so a person can inspect it"


@pytest.mark.slow  # about 25 seconds of a core
def test_a_damaged_record_is_run_again_beside_it(whole: tuple, tmp_path: Path) -> None:
    one = job(tmp_path)
    process = equibench(tmp_path)
    assert process.communicate(timeout=900) and process.returncode == 0
    (path,) = board_folder(Path(one.results), one.spec.board).glob("*.json")
    data = bytearray(path.read_bytes())
    data[200] ^= 4
    path.write_bytes(data)
    process = equibench(tmp_path)
    out, error = process.communicate(timeout=900)
    assert path.name in out + error and path.read_bytes() == data
    path.unlink()
    assert [figures(r) for r in records(one)] == [whole]


@pytest.mark.slow  # about 20 seconds of a core
@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_run_goes_on_from_the_older_checkpoint_where_the_newer_is_damaged(
    damage: str, whole: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = job(tmp_path)
    monkeypatch.setenv("EQUIBENCH_FAULT", "train:30 SIGKILL")
    run(one)
    monkeypatch.delenv("EQUIBENCH_FAULT")
    newest = checkpoints(one)[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    code, events = run(one)
    (record,) = records(one)
    assert code == 0 and figures(record) == whole and events[0]["step"] == 28
    assert [w for w in record.warnings if "step 29 was not used" in w and "cut off or changed" in w]
