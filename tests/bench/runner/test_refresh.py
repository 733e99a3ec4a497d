"""Stale rows: words are no change, code is one; a refresh runs just these, and every record stays."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from equibench.bench.boards.board import load_board
from equibench.bench.boards.terminal_table import board_table
from equibench.bench.cli.main import cli
from equibench.bench.records import staleness
from equibench.bench.records.record import Context, write_record
from equibench.bench.runner.refresh import _only, _suites, refresh, stale_runs
from equibench.bench.spec.suite import Suite, plan
from equibench.bench.tools.machine import Machine
from equibench.bench.tools.text import command
from equibench.registry import UserError, include

from .. import commands, made

BOARD = made.spec().board
TINY = Path(__file__).parents[1] / "tiny.py"
OLD, NEW = "0" * 16, "1" * 16


def equibench(cwd: Path, *arguments: str) -> subprocess.CompletedProcess:
    return commands.equibench(*arguments, "--include", "mine.py", cwd=cwd, EQUIBENCH_DATA=str(cwd / "data"))


def stale(cwd: Path) -> list[str]:
    done = equibench(cwd, "refresh", "bars-e1-common", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    return [f"{row['model']} {row['seed']} {row['changed']}" for row in json.loads(done.stdout)["stale"]]


@pytest.mark.whole
def test_words_do_not_make_a_row_stale_code_does_and_refresh_mends_it(tmp_path: Path) -> None:
    """A real file, a real run, real edits.

    `test_a_refresh_runs_what_is_stale_and_keeps_the_old_record` has the refresh, and
    `test_an_edited_model_is_stale_in_the_process_that_ran_it` the edits.
    """
    mine = tmp_path / "mine.py"
    mine.write_text(TINY.read_text())
    quick = ("--device", "cpu", "--jobs", "1", "--quiet")
    run = ("run", "--dataset", "bars", "--models", "tiny", "--budget", "e1", "--seeds", "1", *quick)
    assert equibench(tmp_path, *run).returncode == 0
    (first,) = (tmp_path / "leaderboards" / "runs" / "bars-e1-common-v2").glob("*.json")
    before = first.read_bytes()

    mine.write_text(
        TINY.read_text().replace('"""Behaves while', '"""  Acts while').replace("self.head =", "self.head  = ")
    )
    assert mine.read_text() != TINY.read_text() and stale(tmp_path) == []

    mine.write_text(TINY.read_text().replace("nn.Conv2d(channels, 8, 5)", "nn.Conv2d(channels, 8, 3)"))
    assert stale(tmp_path) == ["tiny 0 source"]
    again = equibench(tmp_path, *run)
    assert "equibench refresh bars-e1-common-v2" in again.stdout and "equibench refresh" in again.stderr
    assert len(list(first.parent.glob("*.json"))) == 1, "a stale row is not run again by itself"

    done = equibench(tmp_path, "refresh", "bars-e1-common", *quick, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["left"] == [] and [r["status"] for r in document["ran"].values()] == ["ok"]
    names = {p.name.split(".")[1]: p for p in first.parent.glob("*.json")}
    assert set(names) == {"1", "2"} and names["1"].read_bytes() == before, "old records stay"
    new = json.loads(names["2"].read_text())
    assert new["cost"]["parameters"] == 114  # of the kernel that is 3 pixels wide
    assert stale(tmp_path) == []


def put(root: Path, *records) -> None:
    for record in records:
        write_record(root, record)


def sourced(record, source: str):
    return record.model_copy(update={"provenance": record.provenance.model_copy(update={"source_hash": source})})


def test_only_stale_rows_are_planned_with_what_asked_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staleness, "_source_hash", lambda model: NEW)
    put(tmp_path, sourced(made.record(seed=0, model="p4cnn"), NEW), sourced(made.record(seed=1, model="p4cnn"), OLD))
    put(tmp_path, sourced(made.record(seed=0, model="z2cnn-22"), OLD))
    board = load_board(tmp_path, BOARD)
    assert [(r.spec.model, r.spec.seed, why) for r, why in stale_runs(board)] == [
        ("p4cnn", 1, "source"), ("z2cnn-22", 0, "source"),
    ]  # fmt: skip
    assert [r.spec.model for r, _ in stale_runs(board, ["z2*"])] == ["z2cnn-22"]
    ((suite, wanted),) = _suites(stale_runs(board), board)
    context = board.chosen[0][0].context
    assert (suite.name, suite.parameter_class) == (context.suite, context.parameter_class)
    assert suite.reference_parameters == context.reference_parameters and suite.board() == BOARD
    specs = _only(plan(suite), wanted, BOARD)
    # The plan has all seeds of all models; the one current row of them is not run again.
    assert len(plan(suite)) == 4 and {(s.model, s.seed) for s in specs} == {("p4cnn", 1), ("z2cnn-22", 0)}
    with pytest.raises(UserError, match="belong to board"):
        _only(plan(suite), wanted, "another-board-v1")


def test_the_table_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staleness, "_source_hash", lambda model: NEW)
    put(tmp_path, sourced(made.record(), OLD))
    assert f"equibench refresh {BOARD}" in board_table(load_board(tmp_path, BOARD))


def test_the_command_names_the_file_that_registers_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, sourced(made.record(model="tiny"), OLD))
    board = made.spec().board
    arguments = ["refresh", board, "--results", str(tmp_path), "--dry-run"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0 and "not registered here, so it is unknown whether they are stale: tiny" in done.stderr
    assert "of a registered model is stale" in done.stdout
    include([TINY])
    assert f"equibench refresh {board} --include tiny.py" in board_table(load_board(tmp_path, board), "github").replace(
        "\\", ""
    )
    done = CliRunner().invoke(cli, [*arguments, "--include", str(TINY)])
    assert "tiny  seed 0  source changed" in done.stdout and "not registered" not in done.stderr


def test_a_refresh_runs_what_is_stale_and_keeps_the_old_record(tmp_path: Path) -> None:
    """A made-up record of another source, and a real run."""
    include([TINY])
    spec = plan(Suite(name="s", dataset="bars", budget="e1", models=["tiny"], seeds=1))[0]
    context = Context(suite="s", parameter_class="as-published", reference_parameters=None, reference_model=None)
    old = sourced(made.record(90.0).model_copy(update={"spec": spec, "context": context}), OLD)
    assert old.results is not None
    put(tmp_path, old.model_copy(update={"results": old.results.model_copy(update={"train_images": 240})}))
    (first,) = (tmp_path / "runs" / spec.board).glob("*.json")
    before = first.read_bytes()
    here = Machine("cpu", jobs=1, includes=(TINY,), data_root=tmp_path / "data")
    done = refresh("bars-e1-common", tmp_path, machine=here)
    assert [status for status, _ in done.ran.values()] == ["ok"] and done.left == []
    names = {p.name.split(".")[1]: p for p in first.parent.glob("*.json")}
    assert set(names) == {"1", "2"} and names["1"].read_bytes() == before, "old records stay"
    assert stale_runs(load_board(tmp_path, spec.board)) == []


def test_the_command_can_be_pasted(tmp_path: Path) -> None:
    """Blanks and quotes in names of folders and files, and a results folder that was given."""
    work = tmp_path / "it's my work"
    (work / "nets").mkdir(parents=True)
    (work / "nets" / "my net.py").write_text(TINY.read_text().replace('"tiny"', '"pasted"'))
    put(work / "its results", sourced(made.record(model="pasted"), OLD))
    equibench = f"{shlex.quote(sys.executable)} -m equibench.bench.cli"
    (again,) = re.findall(r"to repeat the others: equibench (.*)", _note(work))
    assert shlex.split(again) == ["refresh", BOARD, "--include", "nets/my net.py", "--results", "its results"]
    done = subprocess.run(
        f"{equibench} {again} --dry-run", shell=True, cwd=work, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and "pasted  seed 0  source changed" in done.stdout, done.stderr


def _note(work: Path) -> str:
    done = commands.equibench("leaderboard", "--results", "its results", "--include", "nets/my net.py", cwd=work)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_data_folder_is_repeated_where_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    @click.option("--data-root")
    def inner(data_root: str | None) -> None:
        click.echo(command("refresh", "b", root=tmp_path / "leaderboards", trains=True))
        click.echo(command("status", "s", root=tmp_path / "leaderboards"))

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EQUIBENCH_RESULTS", raising=False)
    said = CliRunner().invoke(inner, ["--data-root", "/my data"]).output.splitlines()
    assert said == ["equibench refresh b --data-root '/my data'", "equibench status s"]
    assert CliRunner().invoke(inner, []).output.splitlines() == ["equibench refresh b", "equibench status s"]
    assert command("refresh", "b", root=Path("/el se")) == "equibench refresh b --results '/el se'"


def test_the_matched_class_names_the_option_that_it_needs(tmp_path: Path) -> None:
    there = ["run", "--dataset", "digits-rot", "--budget", "e1", "--models", "z2cnn-22", "--class", "matched"]
    done = CliRunner().invoke(cli, [*there, "--results", str(tmp_path / "none")])
    assert isinstance(done.exception, UserError) and "--reference-parameters N" in str(done.exception)
    done = CliRunner().invoke(cli, [*there, "--reference-parameters", "10", "--results", str(tmp_path / "none")])
    assert "outside 10 to 10" in str(done.exception), done.output
    assert not (tmp_path / "none").exists()


def test_nothing_stale_starts_nothing(tmp_path: Path) -> None:
    put(tmp_path, made.record())
    done = refresh(BOARD, tmp_path, machine=Machine("cuda:99"))
    assert done.stale == [] and done.ran == {} and done.left == []


def test_what_cannot_join_the_board_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staleness, "_source_hash", lambda model: NEW)
    put(tmp_path, sourced(made.record(protocol=1), OLD))
    (folder,) = (tmp_path / "runs").iterdir()
    with pytest.raises(UserError, match="protocol 1"):
        refresh(folder.name, tmp_path)
    with pytest.raises(UserError, match="no model 'z3"):
        refresh(folder.name, tmp_path, patterns=["z3*"])
    with pytest.raises(UserError, match="no board"):
        refresh("nothing", tmp_path)
