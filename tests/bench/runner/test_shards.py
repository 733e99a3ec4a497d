"""Processes that know nothing of each other run a suite; merged, they are one machine that ran it alone."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from equibench.bench.boards.rows import write_board
from equibench.bench.exchange.merge import merge
from equibench.bench.records.calibration import Block, Calibration, write_calibration
from equibench.bench.records.record import read_board
from equibench.bench.runner import device_seconds, head_to_head
from equibench.bench.spec.shard import Shard
from equibench.bench.spec.suite import Suite
from equibench.bench.tools.machine import Machine
from equibench.registry import UserError, include

from .. import commands
from ..training.test_run import TINY

MODELS, SEEDS = ("tiny", "tiny-flips"), 3
#: Columns that say how long something took, or how much memory, which no two executions have in common.
MEASURED = ("_s", "_ms", "_mib", "started", "step_ms_mean", "train_s_mean", "host_ms_mean", "peak_mib_max")


def arguments(folder: Path, models: tuple[str, ...] = MODELS, seeds: int = SEEDS) -> list[str]:
    command = ["run", "--dataset", "bars", "--budget", "e1", "--device", "cpu", "--jobs", "1", "--include", str(TINY)]
    command += ["--models", ",".join(models), "--seeds", str(seeds), "--quiet"]
    return [*command, "--results", str(folder), "--data-root", str(folder.parent / "data")]


def run_at_once(parts: list[Path], shared: list[list[str]]) -> None:
    """Each share in a process of its own."""
    processes = []
    for part, words in zip(parts, shared, strict=True):
        with part.with_suffix(".err").open("w") as errors:
            processes.append(commands.begin(*words, cwd=part.parent, errors=errors, EQUIBENCH_HOST=part.name))
    for part, process in zip(parts, processes, strict=True):
        with process.stdin, process.stdout:
            process.stdout.read()
        assert process.wait(900) == 0, part.with_suffix(".err").read_text()


def run_in_turn(parts: list[Path], shared: list[list[str]]) -> None:
    """One share after the other."""
    for part, words in zip(parts, shared, strict=True):
        done = commands.equibench(*words, EQUIBENCH_HOST=part.name)
        assert done.returncode == 0, done.stderr


def figures(root: Path, name: str) -> list[dict[str, str]]:
    """The rows of a CSV without what is measured by a clock."""
    rows = csv.DictReader(io.StringIO((root / name).read_text()))
    return [{k: v for k, v in row.items() if not any(k.endswith(m) for m in MEASURED)} for row in rows]


#: Models, seeds, shares, and how these are run.
@pytest.mark.parametrize(
    ("models", "seeds", "shares", "run"),
    [(("tiny",), 2, 2, run_in_turn), pytest.param(MODELS, SEEDS, 4, run_at_once, marks=pytest.mark.whole)],
    ids=["two in turn", "four at once"],
)
def test_processes_share_a_suite(
    tmp_path: Path, models: tuple[str, ...], seeds: int, shares: int, run: Callable[..., None]
) -> None:
    include([TINY])
    parts = [tmp_path / f"part-{n}" for n in range(1, shares + 1)]
    run(parts, [[*arguments(part, models, seeds), "--shard", f"{n}/{shares}"] for n, part in enumerate(parts, 1)])
    alone = commands.equibench(*arguments(tmp_path / "alone", models, seeds), EQUIBENCH_HOST="alone")
    assert alone.returncode == 0, alone.stderr
    (board,) = {p.name for part in parts for p in (part / "runs").iterdir()}
    counts = [len(read_board(part, board)[0]) for part in parts]
    assert sum(counts) == len(models) * seeds and max(counts) - min(counts) <= 1
    merge(parts, tmp_path / "merged")
    bits = []
    for root in (tmp_path / "merged", tmp_path / "alone"):
        write_board(root, board)
        records, refused = read_board(root, board)
        assert not refused and all(r.status == "ok" for r in records)
        bits.append({r.run_id: r.results.weights_sha256 for r in records})
    assert bits[0] == bits[1] and len(bits[0]) == len(models) * seeds
    for kind, count in (("", len(models)), (".runs", len(models) * seeds)):
        rows = [figures(tmp_path / root, f"{board}{kind}.csv") for root in ("merged", "alone")]
        differ = {k for a, b in zip(*rows, strict=True) for k in {*a, *b} if a.get(k) != b.get(k)}
        assert not differ and len(rows[0]) == count
        assert {"test_acc_mean_pct", "test_acc_pct"} & set(rows[0][0]) and "train_s" not in rows[0][0]
    # What was merged is finished: nothing is left to run.
    before = len(list((tmp_path / "merged").rglob("*.json")))
    rest = commands.equibench(*arguments(tmp_path / "merged", models, seeds), EQUIBENCH_HOST="merged")
    assert rest.returncode == 0 and len(list((tmp_path / "merged").rglob("*.json"))) == before, rest.stderr


def suite(budget: str, **changes: Any) -> Suite:
    values = {"name": "s", "dataset": "bars", "budget": budget, "models": list(MODELS), "seeds": 2, **changes}
    return Suite.model_validate(values)


def test_more_shares_than_runs_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    include([TINY])
    for number in (1, 9):  # the first share has no run, the last one has a run
        with pytest.raises(UserError, match="at most 4 shares"):
            head_to_head.run(suite("e1"), results=tmp_path / "r", shard=Shard(number, 9), machine=Machine("cpu"))
    assert not (tmp_path / "r").exists()


def test_shards_of_device_seconds_need_the_calibration_of_one_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a stand-in for a GPU: where nothing is calibrated a shard is refused, else it trains the steps that are."""
    include([TINY])
    key = "Some GPU; 80 GiB; torch 2.12; CUDA 13.0"
    monkeypatch.setattr(head_to_head.admission, "common_hardware_key", lambda slots: (key, {"cuda:0": ""}))
    head = head_to_head.HeadToHead
    monkeypatch.setattr(head, "_prepare", lambda self: setattr(self, "slots", ["cuda:0"]))
    trained: list[Any] = []  # in their place, of what would be
    monkeypatch.setattr(
        head, "_execute_pending", lambda self, pending, outcome: trained.extend(job.spec for job in pending)
    )
    timed = suite("t10")

    def go(shard: Shard | None) -> Any:
        return head_to_head.run(timed, results=tmp_path / "r", shard=shard, machine=Machine("cuda"))

    with pytest.raises(UserError, match=r"tiny, tiny-flips is not calibrated here; run one seed"):
        go(Shard(1, 2))
    assert not (tmp_path / "r" / "runs").exists()
    steps = {"tiny": 0.01, "tiny-flips": 0.02}
    board = device_seconds.TimedBoard(timed, tmp_path / "r", {}, Machine("cuda"), key)
    for model, step in steps.items():
        subject = board._subject(model)
        made = {**subject.model_dump(), "sequence": 1, "blocks": [Block(steps=100, seconds=100 * step)]}
        write_calibration(tmp_path / "r", board.board, Calibration(**made))
    for number in (1, 2):
        go(Shard(number, 2))
    assert [(spec.model, spec.seed, spec.steps) for spec in trained] == [
        ("tiny", 0, 1000), ("tiny-flips", 0, 500), ("tiny", 1, 1000), ("tiny-flips", 1, 500),
    ]  # fmt: skip
