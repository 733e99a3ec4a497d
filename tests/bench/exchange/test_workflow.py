"""The workflow for contributions, its steps run as they stand on two checkouts."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from equibench.bench.boards.rows import write_board
from equibench.bench.records.record import board_names

ROOT = Path(__file__).resolve().parents[3]
WORKFLOW = (ROOT / ".github" / "workflows" / "submission.yml").read_text()
#: `uv run` of the workflow: this environment.
UV = f'#!/bin/sh\nshift\nshift\nexec {sys.executable} -m equibench.bench.cli "$@"\n'


def steps() -> list[str]:
    """The scripts of the steps, without their indentation."""
    found = re.findall(r"^ +run: \|\n((?: {10}.*\n)+)", WORKFLOW, re.M)
    return [re.sub("^ {10}", "", text, flags=re.M) for text in found]


def go(script: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "GITHUB_STEP_SUMMARY": "summary.md"}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)


def test_it_can_change_nothing_and_runs_on_pull_requests_alone() -> None:
    assert "permissions: { contents: read }" in WORKFLOW and "pull_request_target" not in WORKFLOW
    assert len(steps()) == 3 and "validate leaderboards --against build/published --complete" in steps()[1]


def checkouts(folder: Path) -> None:
    """A base with a harness, and a pull request without a change."""
    for name in ("models", "datasets", "bench/publish", "leaderboards/runs"):
        (folder / name).mkdir(parents=True)
    (folder / "bench" / "judge.py").write_text("strict = True")
    (folder / "bench" / "publish" / "sources.toml").write_text("")
    shutil.copytree(folder, folder / "build" / "pull", ignore=shutil.ignore_patterns("build", "bin"))


@pytest.mark.parametrize("results", [True, False])
@pytest.mark.parametrize("harness", [True, False])
def test_the_harness_of_the_base_judges(tmp_path: Path, results: bool, harness: bool) -> None:
    checkouts(tmp_path)
    pull = tmp_path / "build" / "pull"
    (pull / "models" / "new.py").write_text("")
    (pull / "bench" / "publish" / "sources.toml").write_text("a paper")
    if results:
        (pull / "leaderboards" / "a.csv").write_text("")
    if harness:
        (pull / "bench" / "judge.py").write_text("strict = False")
    done = go(steps()[0], tmp_path)
    assert done.returncode == 0 and ("::warning::" in done.stdout) == (results and harness), done.stderr
    assert (tmp_path / "bench" / "judge.py").read_text() == "strict = True"
    assert (tmp_path / "bench" / "publish" / "sources.toml").read_text() == "a paper"
    assert (tmp_path / "models" / "new.py").exists()
    assert (tmp_path / "leaderboards" / "a.csv").exists() == results and not (
        tmp_path / "build/published/a.csv"
    ).exists()


@pytest.mark.slow  # two minutes of a core: two real checks of a model
@pytest.mark.skipif(shutil.which("jq") is None, reason="the workflow reads JSON with jq")
def test_its_steps_accept_a_new_row_and_refuse_an_edited_table(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "uv").write_text(UV)
    (tmp_path / "bin" / "uv").chmod(0o755)
    checkouts(tmp_path)
    pull = tmp_path / "build" / "pull"
    made = go(
        "uv run equibench run --dataset digits-rot --models z2cnn-22 --budget e0.1 --seeds 1 --device cpu"
        " --results build/pull/leaderboards",
        tmp_path,
    )
    assert made.returncode == 0, made.stderr
    (board,) = board_names(pull / "leaderboards")
    prepare, judge, smoke = steps()
    assert go(prepare, tmp_path).returncode == 0
    done = go(judge, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "summary.md").read_text() == done.stdout and "z2cnn-22 enters with" in done.stdout
    done = go(smoke, tmp_path)
    assert done.returncode == 0 and board_names(tmp_path / "build" / "smoke"), done.stdout + done.stderr
    path = tmp_path / "leaderboards" / f"{board}.csv"
    path.write_text(path.read_text().replace("z2cnn-22", "z2cnn-23"))
    done = go(judge, tmp_path)
    assert done.returncode == 1 and "is not what the records say" in done.stdout, done.stderr
    write_board(tmp_path / "leaderboards", board)
    assert path.read_text().count("z2cnn-23") == 0
