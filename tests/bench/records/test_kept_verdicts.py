"""The last verdict on a source is kept, and runs and boards say it."""

import json
import subprocess
from pathlib import Path

import pytest
from equibench.bench.boards.board import load_board
from equibench.bench.boards.terminal_table import board_table
from equibench.bench.records.kept_verdicts import NO, SHIPPED, YES, keep_verdict, kept_verdict, worst_verdict
from equibench.bench.records.record import read_board, write_record
from equibench.bench.records.verdict import Finding, Verdict
from equibench.bench.runner.head_to_head import run
from equibench.bench.spec.suite import Suite
from equibench.bench.tools.machine import Machine
from equibench.registry import MODELS, include
from equibench.source import source_hash

from .. import commands, made

HASH = "ab" * 8
TINY = Path(__file__).parents[1] / "tiny.py"


def verdict(*findings: tuple[str, str], model: str = "made-up", source: str = HASH) -> Verdict:
    found = [Finding(status, "says", "do", check) for check, status in findings]
    return Verdict(model, "1x28x28->10", "digits-rot", "e20", source, found)


def test_the_last_verdict_on_a_source_counts_and_on_no_other(tmp_path: Path) -> None:
    assert kept_verdict(tmp_path, "made-up", HASH) == NO
    keep_verdict(tmp_path, verdict(("build", "pass"), ("cost", "note")))
    assert kept_verdict(tmp_path, "made-up", HASH) == YES
    assert {
        kept_verdict(tmp_path, "made-up", "cd" * 8),
        kept_verdict(tmp_path, "other", HASH),
        kept_verdict(tmp_path, "made-up", ""),
    } == {NO}
    path = keep_verdict(
        tmp_path, verdict(("build", "pass"), ("gradients", "fail"), ("seeds", "fail"), ("cost", "skip"))
    )
    assert kept_verdict(tmp_path, "made-up", HASH) == "failed: gradients, seeds"
    assert list(path.parent.iterdir()) == [path], "one file a model and source, and nothing half written"
    keep_verdict(tmp_path, verdict(("cost", "skip")))
    assert kept_verdict(tmp_path, "made-up", HASH) == "failed: cost", "what was not looked at has not passed"


def test_shipped_verdicts_hold_wherever_the_results_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equibench.bench.records.kept_verdicts.SHIPPED", tmp_path / "shipped")
    keep_verdict(tmp_path / "shipped", verdict(("build", "pass")))
    assert kept_verdict(tmp_path / "results", "made-up", HASH) == YES
    keep_verdict(tmp_path / "results", verdict(("build", "fail")))
    assert kept_verdict(tmp_path / "results", "made-up", HASH) == "failed: build", "one's own look counts more"


def test_no_model_that_failed_is_shipped() -> None:
    for path in (SHIPPED / "checks").glob("*.json"):
        model, source = path.name.removesuffix(".json").rsplit(".", 1)
        assert MODELS.find(model) and kept_verdict(SHIPPED, model, source) == YES


@pytest.mark.parametrize(
    "change", [{"protocol": 1}, {"model": "another"}, {"source_hash": "0" * 16}, {"extra": 1}, None]
)
def test_a_verdict_that_is_none_says_nothing(tmp_path: Path, change: dict | None) -> None:
    path = keep_verdict(tmp_path, verdict(("build", "pass")))
    path.write_text("{" if change is None else json.dumps({**json.loads(path.read_text()), **change}))
    assert kept_verdict(tmp_path, "made-up", HASH) == NO


def test_the_worst_verdict_of_its_runs_is_a_rows() -> None:
    assert worst_verdict([YES, NO, "failed: seeds"]) == "failed: seeds"
    assert (
        worst_verdict([YES, NO]) == NO
        and worst_verdict([YES, ""]) == ""
        and worst_verdict([NO, ""]) == NO
        and worst_verdict([YES]) == YES
        and worst_verdict([]) == ""
    )


def put(root: Path, model: str, said: str, source: str = HASH) -> None:
    record = made.record(model=model)
    provenance = record.provenance.model_copy(update={"checked": said, "source_hash": source})
    write_record(root, record.model_copy(update={"provenance": provenance}))


def test_a_board_names_models_that_were_not_checked(tmp_path: Path) -> None:
    for model, said in (("a", YES), ("b", NO), ("c", "failed: seeds"), ("old", "")):
        put(tmp_path, model, said)
    board = load_board(tmp_path, made.spec().board)
    assert board.frame.set_index("model")["checked"].to_dict() == {"a": YES, "b": NO, "c": "failed: seeds", "old": ""}
    notes = [line for line in board_table(board).splitlines() if "equibench check" in line]
    assert notes == ["failed equibench check: c (seeds)", "not checked by equibench check: b"]
    # A later check is of the same source.
    keep_verdict(tmp_path, verdict(("build", "pass"), model="b"))
    assert load_board(tmp_path, made.spec().board).frame.set_index("model").loc["b", "checked"] == YES


def test_a_run_records_what_was_kept_of_its_source(tmp_path: Path) -> None:
    """A real run of a source on which a verdict is kept."""
    include([TINY])
    source = source_hash(MODELS.find("tiny"))
    keep_verdict(tmp_path, verdict(("build", "pass"), ("citation", "fail"), model="tiny", source=source))
    suite = Suite(name="s", dataset="bars", budget="e1", seeds=1, models=["tiny"])
    machine = Machine("cpu", jobs=1, data_root=tmp_path / "data", includes=(TINY,))
    done = run(suite, results=tmp_path, machine=machine)
    ((record, _),) = done.board.chosen
    assert record.provenance.checked == "failed: citation" and record.provenance.source_hash == source
    assert "failed equibench check: tiny (citation" in board_table(done.board)


@pytest.mark.whole
def test_a_run_records_what_the_check_said_of_its_source(tmp_path: Path) -> None:
    """Real checks, real runs: not checked, then failed, then an edit without a check.

    `test_a_run_records_what_was_kept_of_its_source` has a verdict that no check made, and
    `test_the_last_verdict_on_a_source_counts_and_on_no_other` the edit.
    """
    mine = tmp_path / "mine.py"
    mine.write_text(TINY.read_text())

    def equibench(*arguments: str) -> subprocess.CompletedProcess:
        data = str(tmp_path / "data")
        return commands.equibench(*arguments, "--include", "mine.py", cwd=tmp_path, EQUIBENCH_DATA=data)

    def run_seeds(seeds: str) -> str:
        there = ("run", "--dataset", "bars", "--models", "tiny", "--budget", "e1", "--seeds", seeds)
        done = equibench(*there, "--device", "cpu", "--jobs", "1", "--quiet")
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "not checked by equibench check: tiny" in run_seeds("1")
    done = equibench("check", "tiny", "--dataset", "bars", "--json")
    assert done.returncode == 1, "its source is no citation"
    assert "failed equibench check: tiny (citation" in run_seeds("2")
    mine.write_text(
        TINY.read_text().replace("self.dropout = nn.Dropout(dropout)", "self.dropout = nn.Dropout(dropout + 0.1)")
    )
    run_seeds("0,3")
    root = tmp_path / "leaderboards"
    records = {r.spec.seed: r.provenance for r in read_board(root, "bars-e1-common-v2")[0]}
    assert records[0].checked == NO and records[1].checked.startswith("failed: citation") and records[3].checked == NO
    (kept,) = (root / "checks").iterdir()
    assert kept.name == f"tiny.{records[1].source_hash}.json" and records[3].source_hash != records[1].source_hash
