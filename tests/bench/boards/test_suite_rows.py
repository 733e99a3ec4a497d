"""The rows of a suite alone, where several suites share a board; and rows that leave the view."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from equibench.bench.boards.board import load_board
from equibench.bench.boards.notes import board_heading
from equibench.bench.boards.terminal_table import board_table
from equibench.bench.cli.main import cli, rows_shown
from equibench.bench.publish.readme import refresh
from equibench.bench.records.record import write_record
from equibench.bench.spec.suite import Suite, find_suite
from equibench.registry import UserError

from .. import made

VALUES = {"quick": (90.0, 91.0, 92.0), "slow": (80.0, 80.5, 82.0), "trial": (60.0, 66.0, 61.0)}


@pytest.fixture
def board(tmp_path: Path) -> str:
    """Three models with three seeds, and a fourth seed of one of them."""
    for model, values in VALUES.items():
        for seed, value in enumerate(values):
            write_record(tmp_path, made.record(value, model=model, seed=seed))
    write_record(tmp_path, made.record(50.0, model="slow", seed=3))
    return made.spec().board


def _suite(**changes: object) -> Suite:
    values = {"name": "two", "models": ["quick", "slow"], "seeds": 3, "reference_model": "slow", **changes}
    return find_suite("quickstart").model_copy(update=values)


def test_a_suite_has_its_models_its_seeds_and_its_reference(tmp_path: Path, board: str) -> None:
    whole = load_board(tmp_path, board)
    part = whole.of_suite(_suite())
    assert set(whole.values) == {"quick", "slow", "trial"} and len(whole.values["slow"]) == 4
    assert part.values == {m: dict(enumerate(VALUES[m])) for m in ("quick", "slow")}
    assert part.reference == "slow" and part.suite == "two"
    # What was left out is still there.
    assert set(whole.values) == {"quick", "slow", "trial"}


def test_further_attempts_are_those_of_the_rows_that_are_left(tmp_path: Path, board: str) -> None:
    write_record(tmp_path, made.record(60.5, model="trial", seed=0, attempt=2))
    whole = load_board(tmp_path, board)
    assert "not shown: 1 run (further attempts" in board_table(whole)
    assert "not shown" not in board_table(whole.of_suite(_suite())) + board_table(whole.without(["tri*"]))


def test_comparisons_are_corrected_over_the_rows_that_are_left(tmp_path: Path, board: str) -> None:
    whole = load_board(tmp_path, board).of_suite(_suite(models=list(VALUES)))
    part = load_board(tmp_path, board).of_suite(_suite())
    assert [len(b.all_pairs) for b in (whole, part)] == [3, 1]
    alone = part.all_pairs[0]
    among = next(c for c in whole.all_pairs if {c.model, c.reference} == {"quick", "slow"})
    # The same pair, the same p; corrected by as many comparisons as there are.
    assert alone.p == among.p and alone.p_holm == alone.p < among.p_holm
    assert load_board(tmp_path, board).without(["tri*"]).all_pairs[0].p_holm < among.p_holm


def test_a_reference_without_a_result_gives_way(tmp_path: Path, board: str) -> None:
    assert load_board(tmp_path, board).of_suite(_suite(reference_model="absent")).reference is None


def _write_suite(folder: Path) -> Path:
    path = folder / "pair.toml"
    path.write_text(
        'dataset = "digits-rot"\nbudget = "e2"\nseeds = 3\nmodels = ["quick", "slow"]\nreference_model = "slow"\n',
        "utf-8",
    )
    return path


def test_the_command_line_shows_the_rows_of_a_suite(tmp_path: Path, board: str) -> None:
    arguments = ["leaderboard", "--suite", str(_write_suite(tmp_path)), "--results", str(tmp_path)]
    shown = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)
    rows = {r["model"]: r["runs_ok"] for r in shown[0]["models"]}
    assert rows == {"quick": 3, "slow": 3}
    text = CliRunner().invoke(cli, arguments).stdout
    assert "suite pair" in text and "trial" not in text
    # The CSV is of the whole board.
    assert "trial" in (tmp_path / f"{board}.csv").read_text("utf-8")


def test_a_run_shows_the_rows_of_its_suite_and_those_that_its_options_add() -> None:
    suite = find_suite("quickstart")
    run = suite.model_copy(update={"models": ["my-net", "p4cnn"], "seeds": [7]})
    shown = rows_shown("quickstart", run)
    assert shown.models == [*suite.models, "my-net"] and shown.seed_list == [*suite.seed_list, 7]
    assert (shown.name, shown.title) == ("quickstart with my-net", ""), "the title is about the suite's own models"
    fewer = rows_shown("quickstart", suite.model_copy(update={"models": ["p4cnn"]}))
    assert (fewer.name, fewer.title, fewer.models) == (suite.name, suite.title, suite.models)
    assert shown.reference_model == fewer.reference_model == suite.reference_model


@pytest.mark.parametrize("change", [{"budget": "e0.1"}, {"dataset": "cifar10-rot"}, {"recipe": "common-rotate"}])
def test_on_another_board_a_run_shows_what_was_requested(change: dict[str, str], tmp_path: Path) -> None:
    requested = {"models": ["z2cnn-22"], "seeds": 2, **change}
    run = find_suite("quickstart").model_copy(update=requested)
    shown = rows_shown("quickstart", run)
    assert shown.models == ["z2cnn-22"] and shown.seed_list == [0, 1] and shown.title == ""
    for model, seed in (("z2cnn-22", 0), ("z2cnn-22", 1), ("z2cnn-22", 2), ("wrn-10-b9", 0)):
        write_record(tmp_path, made.record(90.0 + seed, model=model, seed=seed))
    board = load_board(tmp_path, made.spec().board).of_suite(shown)
    assert {(r.spec.model, r.spec.seed) for r, _ in board.chosen} == {("z2cnn-22", 0), ("z2cnn-22", 1)}
    assert "suite" not in board_heading(board), "it is not the board of the suite"


def test_excluded_rows_leave_the_table_and_the_comparisons(tmp_path: Path, board: str) -> None:
    arguments = ["leaderboard", board, "--results", str(tmp_path), "--all-pairs", "--exclude"]
    text = CliRunner().invoke(cli, [*arguments, "tri*"]).stdout
    assert "trial" not in text and "quick" in text
    refused = CliRunner().invoke(cli, [*arguments, "tria"])
    assert refused.exit_code != 0 and "--exclude 'tria'" in str(refused.exception)


@pytest.mark.parametrize("patterns", [["*"], ["quick", "[st]*"]])
@pytest.mark.parametrize("command", [["leaderboard"], ["leaderboard", "--across", "*"], ["publish", "--out", "site"]])
def test_to_exclude_all_models_is_one_sentence(
    command: list[str], patterns: list[str], tmp_path: Path, board: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [word for pattern in patterns for word in ("--exclude", pattern)]
    result = CliRunner().invoke(cli, [*command, *options, "--results", str(tmp_path)])
    assert isinstance(result.exception, UserError) and not (tmp_path / "site").exists()
    assert f"--exclude {patterns[0]!r}" in str(result.exception) and "leaves no model of" in str(result.exception)
    assert board in str(result.exception)


def test_a_board_without_rows_leaves_the_view_and_others_stay(tmp_path: Path, board: str) -> None:
    write_record(tmp_path, other := made.record(70.0, model="other", dataset="cifar10-rot"))
    arguments = ["leaderboard", "--results", str(tmp_path), "--exclude", "other", "--json"]
    shown = json.loads(CliRunner().invoke(cli, arguments).stdout)
    assert [document["board"] for document in shown] == [board] != [other.spec.board]


def test_excluded_rows_are_not_published(tmp_path: Path, board: str) -> None:
    write_record(tmp_path, made.record(70.0, model="left-aside"))
    out = tmp_path / "site"
    arguments = ["publish", "--out", str(out), "--format", "html,md,latex", "--results", str(tmp_path), "--jobs", "1"]
    done = CliRunner().invoke(cli, [*arguments, "--exclude", "left*"])
    assert done.exit_code == 0, done.exception
    written = {path: path.read_text("utf-8") for path in out.rglob("*") if path.is_file()}
    assert not [path for path, text in written.items() if "left-aside" in text or "left-aside" in path.name]
    assert sum("quick" in text for text in written.values()) > 5
    assert "left-aside" in (tmp_path / f"{board}.csv").read_text("utf-8"), (
        "the CSV of the results folder has the whole board"
    )
    whole = CliRunner().invoke(cli, [*arguments[:-2], "--jobs", "1"])
    assert whole.exit_code == 0 and "left-aside" in (out / "tables" / f"{board}.csv").read_text("utf-8")
    readme = CliRunner().invoke(cli, [*arguments, "--readme", "README.md", "--exclude", "left*"])
    assert "--exclude does not go with --readme" in str(readme.exception)


def test_a_marker_takes_a_suite(tmp_path: Path, board: str) -> None:
    suite = _write_suite(tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text(f"<!-- equibench: {board} suite={suite} -->\n<!-- /equibench -->\n", "utf-8")
    refresh(readme, tmp_path)
    text = readme.read_text("utf-8")
    assert "quick" in text and "left-aside" not in text
    readme.write_text(text.replace(str(suite), "digits-pdo"), "utf-8")
    with pytest.raises(UserError, match="'digits-pdo' has no rows on the board"):
        refresh(readme, tmp_path)
