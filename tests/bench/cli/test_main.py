"""The command line: help at once, every wrong input one sentence and exit code 2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from equibench.bench.cli import main as cli

from ..commands import COMMAND, equibench


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "quickstrt"), "did you mean 'quickstart'"),
        (("run", "nowhere.toml"), "no suite file"),
        (("run",), "name a suite"),
        (("run", "quickstart", "--budget", "5"), "'5' is not a budget"),
        (("run", "quickstart", "--budget", "e0"), "budget 'e0' is zero; give more"),
        (("run", "quickstart", "--seeds", "0"), "at least one seed"),
        (("run", "quickstart", "--seeds", "x"), "--seeds"),
        (("run", "quickstart", "--seeds", "4,7,4"), "with the options given: a seed is listed twice: 4"),
        (("run", "quickstart", "--models", "p4cnn,p4cnn"), "a model is listed twice: p4cnn"),
        (("run", "--dataset", "digits-rot", "--models", "p4cnn"), "--budget must be given as well"),
        (("run", "quickstart", "--models", "p4cn"), "did you mean 'p4cnn'"),
        (("run", "quickstart", "--models", ""), "at least one model"),
        (("run", "quickstart", "--recipe", "commn"), "did you mean 'common'"),
        (("run", "quickstart", "--profile", "quick"), "'--profile': 'quick' is not one of 'strict', 'fast'"),
        (("run", "quickstart", "--dataset", "digits"), "digits-rot"),
        (("run", "quickstart", "--jobs", "0"), "'--jobs': 0 is not in the range x>=1"),
        (("run", "quickstart", "--deadline", "nan"), "'--deadline': nan is not a finite number"),
        (("run", "quickstart", "--checkpoint", "inf"), "'--checkpoint': inf is not a finite number"),
        (("plan", "quickstart", "--difference", "100"), "'--difference': 100.0 is not in the range 0<x<100"),
        (("run", "quickstart", "--fit", "test"), "'test' is not one of 'train', 'train+val'"),
        (("replay", "a"), "'a' is too short: give at least 2 characters"),
        (("run", "quickstart", "--include", "nothing.py"), "no such file"),
        (("run", "quickstart", "--include", "."), "this is a folder"),
        (("run", "quickstart", "--include", "file"), "does not end in .py"),
        (("list", "models", "--include", "empty.py"), "the file registers nothing"),
        (
            ("run", "quickstart", "--results", "file/below"),
            "/file is a file, not a folder; give the results folder with -",
        ),
        (
            ("leaderboard", "--results", "file"),
            "/file is a file, not a folder; give the results folder with --results DIR",
        ),
        (("status", "--results", "file"), "/file is a file, not a folder; give the results folder with --results DIR"),
        (("validate", "file", "--against", "file"), "/file is a file, not a folder; give the results folder with --ag"),
        (("verify", "statistics", "--out", "file"), "file is a file, not a folder; give another folder with --out DIR"),
        (
            ("equivariance", "p4cnn", "--out", "file/b"),
            "file is a file, not a folder; give another folder with --out DIR",
        ),
        (("run", "quickstart", "--device", "tpu"), "--device 'tpu': use auto, cpu, cuda or cuda:<number>"),
        (
            ("plan", "quickstart", "--difference", "1", "--device", "cuda:x"),
            "--device 'cuda:x': use auto, cpu, cuda or",
        ),
        (("replay", "abcd", "--device", "auto,cpu"), "--device 'auto': use auto, cpu, cuda or cuda:<number>"),
        (("check", "p4cnn", "--budget", "20"), "'20' is not a budget"),
        (("run", "quickstart", "--train-images", "1e3"), "--train-images '1e3': give a number of images"),
        (("run", "quickstart", "--shard", "5/4"), "--shard '5/4': give the number of the share"),
        (("run", "quickstart", "--nonsense"), "--nonsense"),
        (("nonsense",), "nonsense"),
        (("list", "models", "zzz*"), "no model matches"),
        (("leaderboard",), "there are no boards"),
        (("leaderboard", "--format", "gird"), "did you mean 'grid'"),
        (("show", "p4cn"), "did you mean 'p4cnn'"),
        (("show", "3f2a"), "no run's id begins with '3f2a'"),
        (("show", "quikstart"), "; did you mean 'quickstart' (suite)"),
        (("show", "comon"), "; did you mean 'common' (recipe)"),
        (("show", "zz"), "there is no model, data set, suite, board or recipe 'zz' (--include FILE adds"),
        (("show", "p4cnn+fram-c4"), "there is no wrapper 'fram-c4'"),
        (("list", "suites", "quikstart"), "there is no suite 'quikstart'; did you mean 'quickstart'"),
        (("list", "models", "wrn-16-b4"), "a member of a family or one with wrappers; equibench show wrn-16-b4"),
        (("list", "models", "p4cn"), "there is no model 'p4cn'; did you mean 'p4cnn'"),
        (("merge", "file"), "file: this is neither a results folder (with 'runs' in it) nor an archive of one"),
        (("merge", "absent"), "absent: this does not exist; give a results folder (with 'runs' in it) or an archive"),
        (("leaderboard", "digits-rot-e2-common"), "there are no boards yet"),
        (("data", "fetch", "mnist-rt"), "did you mean"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty.py").write_text("def net():\n    pass\n")
    result = equibench(*arguments, cwd=tmp_path)
    assert result.returncode == 2, result
    assert message in result.stderr and "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and result.stdout == ""
    assert not (tmp_path / "leaderboards").exists(), "nothing half-written"


@pytest.mark.parametrize(
    ("arguments", "closed", "code"),
    [
        (("list", "suites"), "stdout", 0),
        (("list", "columns"), "stdout", 0),
        (("list", "models", "zzz*"), "stderr", 2),
        (("nonsense",), "stdout", 2),
    ],
)
def test_a_reader_that_ends_changes_no_exit_code(arguments: tuple[str, ...], closed: str, code: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, closed: writer}
    done = subprocess.run([*COMMAND, *arguments], text=True, timeout=300, **streams)
    os.close(writer)
    assert done.returncode == code
    assert not done.stdout and "Broken" not in (done.stderr or ""), done


def test_a_reader_may_end_and_streams_may_be_closed_under_any_encoding() -> None:
    ascii_only = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, "list", "suites"], stdout=writer, stderr=subprocess.PIPE, env=ascii_only)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b""), done
    for command, closed, code in ((("list", "suites"), ">&-", 0), (("list", "budgets", "zzz"), "2>&-", 2)):
        shell = ["sh", "-c", f'"$@" {closed}', "sh", *COMMAND, *command]
        done = subprocess.run(shell, capture_output=True, timeout=300)
        assert done.returncode == code and b"Traceback" not in done.stderr, done


def test_a_group_of_commands_alone_says_what_there_is(tmp_path: Path) -> None:
    result = equibench("list", cwd=tmp_path)
    assert result.returncode == 2 and result.stdout == "" and "\\n" not in result.stderr
    assert all(f"\n  {name} " in result.stderr for name in ("models", "datasets", "budgets", "suites"))


def test_a_wrong_key_in_a_suite_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('dataset = "digits-rot"\nbudgte = "e5"\nmodels = ["p4cnn"]\n')
    result = equibench("run", "mine.toml", cwd=tmp_path)
    assert result.returncode == 2 and "unknown key 'budgte'; did you mean 'budget'?" in result.stderr


@pytest.mark.parametrize("arguments", [(), ("run",), ("list",), ("list", "models"), ("leaderboard",), ("show",)])
def test_help_has_words_for_everything(arguments: tuple[str, ...]) -> None:
    result = equibench(*arguments, "--help")
    assert result.returncode == 0 and result.stdout.startswith("Usage:")


def test_help_and_lists_import_nothing_heavy() -> None:
    # What makes them fast, asserted without a stopwatch.
    code = (
        "import sys; sys.argv = ['equibench', *{!r}]\n"
        "from equibench.bench.cli import main as cli\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'pandas', 'escnn', 'scipy', 'rich', 'numpy') if m in sys.modules],"
        " file=sys.stderr)"
    )
    for arguments in (["--help"], ["run", "--help"], ["list", "models"], ["list", "suites"], ["list", "budgets"]):
        result = subprocess.run([sys.executable, "-c", code.format(arguments)], capture_output=True, text=True)
        assert result.stderr.strip() == "[]", (arguments, result.stderr)


def test_lists_are_also_json_with_parameter_counts() -> None:
    rows = {row["name"]: row for row in json.loads(equibench("list", "models", "--json").stdout)}
    assert rows["p4cnn"]["parameters"] == {"1x28x28->10": 24_680}
    assert rows["p4cnn"]["invariant"] == "C4" and rows["z2cnn"]["invariant"] == "none"
    for what in ("datasets", "budgets", "suites"):
        assert json.loads(equibench("list", what, "--json").stdout)
    sets = {row["name"]: row for row in json.loads(equibench("list", "datasets", "--json").stdout)}
    assert sets["fashion-rot-gen"]["task"] == "garments" and sets["fashion-rot-gen"]["licence"] == "MIT"
    assert all(row["task"] and row["licence"] and row["citation"] for row in sets.values())


def test_patterns_filter() -> None:
    rows = json.loads(equibench("list", "models", "p4*", "z2cnn", "--json").stdout)
    assert rows and all(row["name"].startswith(("p4", "z2cnn")) for row in rows)


def test_a_model_card() -> None:
    card = json.loads(equibench("show", "p4cnn", "--json").stdout)
    assert card["group"] == "C4" and card["source"] and card["about"]


def test_results_may_come_from_the_environment(tmp_path: Path) -> None:
    result = equibench("leaderboard", cwd=tmp_path, EQUIBENCH_RESULTS=str(tmp_path / "elsewhere"))
    assert str(tmp_path / "elsewhere") in result.stderr


@pytest.mark.parametrize(
    ("arguments", "goes_on"),
    [(["run", "quickstart"], True), (["refresh", "b"], True), (["check", "p4cnn"], False), (["--help"], False)],
)
def test_only_what_goes_on_promises_to_go_on(
    arguments: list[str], goes_on: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "cli", interrupted)
    monkeypatch.setattr(sys, "argv", ["equibench", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130 and ("continues with the rest" in capsys.readouterr().err) == goes_on
