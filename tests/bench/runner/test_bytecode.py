"""Processes of runs find compiled files, wherever Python may write them."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from equibench.bench.runner import local


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package without compiled files, in a home of its own."""
    folder = tmp_path / "packages" / "slowpackage"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    return folder


def test_where_python_may_write_nothing_is_set(package: Path) -> None:
    assert local.bytecode("slowpackage") == {} == local.bytecode("no_such_package")


@pytest.mark.parametrize("hindered", ["switched off", "read-only"])
def test_where_it_may_not_write_they_are_kept_in_the_cache(
    package: Path, hindered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hindered == "switched off":
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
    else:
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = local.bytecode("slowpackage")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    code = "import slowpackage, importlib.util as u; print(slowpackage.__cached__)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env={**environment, **found, "PYTHONPATH": str(package.parent)}, capture_output=True, text=True
    )
    cached = Path(done.stdout.strip())
    assert cached.is_file() and cached.is_relative_to(Path(os.environ["HOME"])), done.stderr
    assert not (package / "__pycache__").exists()


def test_files_that_are_compiled_already_are_used(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(package)], check=True)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert local.bytecode("slowpackage") == {}


def test_an_environment_is_not_compiled_as_a_whole_each_time() -> None:
    """`uv run` would look at every file of it whenever it is called, and say so."""
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    assert "compile-bytecode" not in tomllib.loads(text)["tool"]["uv"]
