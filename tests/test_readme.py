"""What the README shows is run, and what it prints is what the project has."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from equibench.bench.spec.suite import find_suite
from equibench.tests.bench.commands import equibench, read

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def block(name: str) -> str:
    """The fenced block below the comment that names its file."""
    found = re.search(rf"<!-- {re.escape(name)} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, f"the README shows no {name}"
    return found[1]


def commands(word: str) -> list[str]:
    return re.findall(rf"^uv run (equibench {word}.*?)(?:  +#.*)?$", README, re.MULTILINE)


def run(command: str, cwd: Path, *more: str) -> subprocess.CompletedProcess:
    return equibench(*shlex.split(command)[1:], *more, cwd=cwd)


def test_it_starts_with_the_two_commands() -> None:
    fenced = re.findall(r"```\n(.*?)\n```", README, re.DOTALL)
    assert fenced[:2] == ["pip install uv && uv run equibench run quickstart", "pip install uv && uv run pytest"]


def test_the_example_model_is_what_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "my_net.py").write_text(block("my_net.py"))
    shown = run("equibench list models orbit-cnn --json --include my_net.py", tmp_path)
    assert shown.returncode == 0 and "orbit-cnn" in shown.stdout, shown.stderr
    import torch
    from equibench.registry import build_model, include

    include([tmp_path / "my_net.py"])
    model = build_model("orbit-cnn", 1, 10, 28).eval()
    assert sum(p.numel() for p in model.parameters()) == 26_971
    images = torch.randn(3, 1, 28, 28)
    with torch.no_grad():
        assert (model(images.rot90(1, (2, 3))) - model(images)).abs().max() < 1e-5


@pytest.mark.whole
def test_the_example_model_enters_a_head_to_head(tmp_path: Path) -> None:
    """The file and the command as they stand, with a few steps instead of the whole budget.

    `test_the_example_model_is_what_the_page_says` has the file, `test_commands_have_these_options` the command.
    """
    (tmp_path / "my_net.py").write_text(block("my_net.py"))
    (command,) = [c for c in commands("run") if "my_net.py" in c]
    done = run(command, tmp_path, "--budget", "smoke", "--seeds", "1")
    assert done.returncode == 0, done.stderr
    assert "orbit-cnn" in done.stdout


@pytest.mark.parametrize("command", commands(""))
def test_commands_have_these_options(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("my_net.py", "stencils.toml"):
        (tmp_path / name).write_text(block(name))
    read(command)


def test_the_example_suite_is_one(tmp_path: Path) -> None:
    (tmp_path / "stencils.toml").write_text(block("stencils.toml"))
    suite = find_suite(str(tmp_path / "stencils.toml"))
    assert suite.models == ["pdo-econv-p8-fd", "pdo-econv-p8"] and suite.budget == "e20"


@pytest.mark.parametrize("command", commands("list"))
def test_listing_commands_work(command: str, tmp_path: Path) -> None:
    assert run(command, tmp_path).returncode == 0


def test_the_table_shown_is_of_the_quickstart() -> None:
    table = re.search(r"## What the quickstart prints\n+```\n(.*?)```", README, re.DOTALL)
    assert table, "the README shows no output of the quickstart"
    suite = find_suite("quickstart")
    rows = re.findall(r"^([a-z0-9.+-]+) {2,}.*?(\d+)/(\d+) +ok", table[1], re.MULTILINE)
    assert {name for name, _, _ in rows} == set(suite.models)
    assert all(int(done) == int(asked) == len(suite.seed_list) for _, done, asked in rows)


def test_every_page_that_is_linked_exists() -> None:
    root = Path(__file__).resolve().parents[1]
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert links and all((root / link).exists() for link in links)
