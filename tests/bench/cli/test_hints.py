"""Hints are true and can be pasted; closed sets are shown where they are asked for."""

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from equibench.bench.boards.board import load_board
from equibench.bench.boards.rows import column_names, model_rows, run_rows
from equibench.bench.cli.main import cli
from equibench.bench.records.record import write_record
from equibench.bench.spec.option_values import CLASSES, FITS, PROFILES, RECIPES, VARIABLES
from equibench.bench.spec.recipe import PAPER, TUNED, named_recipes
from equibench.bench.spec.suite import RunSpec, Suite, find_suite
from equibench.registry import DATASETS, MODELS, UserError

from .. import made

ROOT = Path(__file__).resolve().parents[3]


def said(*arguments: str) -> str:
    """What the command prints, or the sentence of its error."""
    result = CliRunner().invoke(cli, list(arguments))
    assert (
        result.exit_code in (0, 1) if result.exception is None else isinstance(result.exception, UserError | SystemExit)
    )
    return result.output if result.exception is None else f"{result.output}{result.exception}"


def commands_in(text: str) -> list[list[str]]:
    """The commands that a sentence names, up to the verb or the sign that ends each."""
    found = re.findall(r"(equibench [a-z]+(?: (?:'[^']*'|(?!makes|shows|does|measures|says|chooses)[^\s;,)]+))*)", text)
    return [shlex.split(command) for command in found]


def parses(words: list[str]) -> bool:
    """Whether the command line takes a command as it stands."""
    try:
        context = click.Context(cli)
        name, command, rest = cli.resolve_command(context, words[1:])
        while isinstance(command, click.Group):
            name, command, rest = command.resolve_command(click.Context(command), rest)
        command.make_context(name, rest)
    except click.UsageError:
        return False
    return True


@pytest.mark.parametrize(
    "arguments",
    [
        ("leaderboard",), ("leaderboard", "digits-rot-e2-common"), ("leaderboard", "--format", "bogus"),
        ("leaderboard", "--suite", "quickstart"), ("publish",), ("run", "quickstart", "--models", "zzzzz"),
        ("run", "quickstart", "--recipe", "tuned"), ("show", "zzzzz"),
        ("run",),
    ],
)  # fmt: skip
def test_every_command_that_a_hint_names_can_be_pasted(arguments: tuple[str, ...], tmp_path: Path) -> None:
    places = [] if arguments[0] == "list" else ["--results", str(tmp_path / "a b")]
    text = said(*arguments, *places)
    found = commands_in(text)
    assert found and all(parses(words) for words in found), text
    for words in found:
        if words[1] in ("run", "tune", "leaderboard"):
            assert words[words.index("--results") + 1] == str(tmp_path / "a b"), "the folder that this command had"


def test_a_hint_repeats_files_and_folders_quoted(tmp_path: Path) -> None:
    net = tmp_path / "my net.py"
    net.write_text(
        "from equibench import register_model\n\n"
        '@register_model("hint-net", group="none", invariant="none", source="https://example.org/net")\n'
        "def hint_net(in_channels, num_classes, image_size):\n    ...\n"
    )
    places = ["--results", str(tmp_path / "r"), "--include", str(net)]
    text = said("leaderboard", *places)
    (words,) = commands_in(text)
    assert words == ["equibench", "run", "quickstart", "--include", str(net), "--results", str(tmp_path / "r")]


def test_an_unknown_model_points_to_include_where_none_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for registry in (MODELS, DATASETS):
        monkeypatch.setattr(registry, "_included", [])
    assert "--include FILE" in said("show", "my-net", "--results", str(tmp_path))
    assert "--include FILE" in said("run", "--dataset", "my-data", "--models", "p4cnn", "--budget", "e2")


def test_closed_sets_are_listed_where_one_of_them_is_wrong(tmp_path: Path) -> None:
    write_record(tmp_path, made.record(90.0))
    places = ("--results", str(tmp_path))
    columns = said("leaderboard", "--columns", "accuracy", *places)
    assert all(name in columns for name in ("test_acc_mean_pct", "parameters", "eq_exact_c4", "equibench list columns"))
    formats = said("leaderboard", "--format", "bogus", *places)
    assert all(name in formats for name in ("simple", "md", "latex", "csv", "json", "equibench list formats"))
    shown = said("leaderboard", "--columns", "model,test acc %", *places)
    assert "test_acc_mean_pct" in shown and "90" in shown, "the heading of a table names its column"


def test_lists_of_closed_sets_are_whole(tmp_path: Path) -> None:
    write_record(tmp_path, made.record(90.0))
    board = load_board(tmp_path, made.spec().board)
    found = column_names()
    assert found["models"] == list(model_rows(board).columns)
    assert found["runs"] == [c for c in run_rows(board).columns if not c.startswith("phase_")]
    assert set(RECIPES) == {*named_recipes(), PAPER, TUNED}
    for words, schema, key in (
        (PROFILES, RunSpec, "profile"),
        (FITS, RunSpec, "fit"),
        (CLASSES, Suite, "parameter_class"),
    ):
        assert list(words) == list(schema.model_fields[key].annotation.__args__)
    listed = said("list", "recipes"), said("list", "profiles"), said("list", "formats"), said("list", "columns")
    for text, names in zip(listed, (RECIPES, PROFILES, ("csv", "grid"), found["models"]), strict=True):
        assert all(name in text for name in names)


def test_the_help_says_what_each_value_means_and_fits_80_columns() -> None:
    result = CliRunner().invoke(cli, ["run", "--help"], terminal_width=80)
    for choices in (PROFILES, FITS, CLASSES, RECIPES):
        for value, line in choices.items():
            assert re.search(rf"^ +{re.escape(value)} +{re.escape(line)}$", result.output, re.MULTILINE), value
    assert max(map(len, result.output.splitlines())) <= 80


def test_all_variables_of_the_environment_are_in_the_help() -> None:
    files = [*ROOT.glob("*.py"), *(p for room in ("bench", "datasets", "models") for p in (ROOT / room).rglob("*.py"))]
    read = {name for p in files for name in re.findall(r"\bEQUIBENCH_[A-Z]+\b", p.read_text(encoding="utf-8"))}
    assert read == set(VARIABLES)
    shown = CliRunner().invoke(cli, ["--help"]).output
    assert all(name in shown for name in VARIABLES)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("quickstart", "The four architectures"), ("common", "optimizer: adam"), ("digits-rot", "digits-rot"),
        (made.spec().board, "made-up"), (made.spec().board.removesuffix("-v2"), "made-up"),
    ],
)  # fmt: skip
def test_show_knows_every_kind_of_name(name: str, words: str, tmp_path: Path) -> None:
    write_record(tmp_path, made.record(90.0))
    assert words in said("show", name, "--results", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "right", "kind"),
    [("quikstart", "quickstart", "suite"), ("digits-rot-e2-comon", made.spec().board.removesuffix("-v2"), "board")],
)
def test_show_names_the_nearest_name_of_all_kinds_first(name: str, right: str, kind: str, tmp_path: Path) -> None:
    write_record(tmp_path, made.record(90.0))
    text = said("show", name, "--results", str(tmp_path))
    assert f"did you mean '{right}' ({kind})" in text and text.count("did you mean") == 1 and text.endswith("?")


@pytest.mark.parametrize(
    "arguments", [("run", "quickstrt"), ("run", "quickstart", "--models", "p4cn"), ("leaderboard", "--format", "gird")]
)
def test_a_suggestion_is_the_end_of_its_sentence(arguments: tuple[str, ...]) -> None:
    assert re.search(r"did you mean [^;]*\?$", said(*arguments))


def test_show_finds_a_board_with_a_longer_name_than_a_model_can_have(tmp_path: Path) -> None:
    write_record(tmp_path, record := made.record(90.0, dataset="d" * 95))
    assert len(record.spec.board) > 100 and "made-up" in said("show", record.spec.board, "--results", str(tmp_path))


def test_show_knows_a_run_that_the_table_of_runs_names(tmp_path: Path) -> None:
    write_record(tmp_path, record := made.record(90.0))
    table = said("leaderboard", "--runs", "--results", str(tmp_path))
    assert record.run_id in table
    assert "test accuracy" in said("show", record.run_id[:6], "--results", str(tmp_path))


def test_a_suite_by_name_shows_its_models() -> None:
    text = said("list", "suites", "quickstart")
    suite = find_suite("quickstart")
    assert suite.title in text and all(model in text for model in suite.models)
    assert "equibench run quickstart" in text
