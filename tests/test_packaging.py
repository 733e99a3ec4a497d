"""The wheel: what it carries, and that it works away from the repository."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_SOURCE = shutil.ignore_patterns(".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", "runs", ".*_cache")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the source."""
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(ROOT, folder / "equi-bench.1", ignore=NOT_SOURCE)
    uv = os.environ.get("UV") or shutil.which("uv")
    command = [uv, "build", "--wheel", "--out-dir", str(folder)] if uv else None
    if command is None:
        if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
            pytest.skip("neither uv nor pip is here to build a wheel")
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(folder), "."]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_installs_only_equibench(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == {"equibench"}
    assert not [n for n in names if "test" in n or "/runs/" in n]


def test_the_wheel_carries_what_runs_need(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    needed = ["py.typed", "bench/spec/budgets.toml", "bench/spec/recipes.toml", "bench/spec/suites/quickstart.toml"]
    needed += [
        "bench/spec/suites/smoke.toml",
        "leaderboards/reported.csv",
        "models/pdo/stencils.py",
        "bench/runner/local.py",
    ]
    assert [n for n in needed if f"equibench/{n}" not in names] == []
    # Every module of the source is in the wheel: a new package that pyproject.toml does not list is not forgotten.
    modules = [p for f in ("bench", "models", "datasets") for p in (ROOT / f).rglob("*.py")]
    assert [m for m in modules if f"equibench/{m.relative_to(ROOT).as_posix()}" not in names] == []


def test_the_metadata_hold_the_bounds_that_an_installer_needs(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    text = archive.read(next(n for n in archive.namelist() if n.endswith("METADATA"))).decode()
    assert "Requires-Python: <3.13,>=3.11" in text
    assert "Requires-Dist: numpy<2,>=1.26" in text and "Requires-Dist: lie-learn>=0.0.2" in text


@pytest.fixture
def beside_a_foreign_package(wheel: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python with the wheel, in the folder `work`, where other people's packages have the names of our folders."""
    site, work = tmp_path / "site", tmp_path / "work"
    zipfile.ZipFile(wheel).extractall(site)
    for foreign in ("datasets", "models", "bench"):
        (work / foreign).mkdir(parents=True)
        (work / foreign / "__init__.py").write_text("raise ImportError('this is a stranger')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(work)])}
    environment |= {"EQUIBENCH_DATA": str(tmp_path / "data")}

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done

    return python


SMOKE = ("equibench.bench.cli", "run", "smoke", "--device", "cpu")
#: Takes a step of training with each model of the suite, as far as a network goes without its data.
STEPS = """
import equibench, torch
from equibench.bench.spec.suite import find_suite
print(equibench.__file__)
for name in find_suite("smoke").models:
    equibench.build_model(name, 1, 10, 28)(torch.randn(4, 1, 28, 28)).logsumexp(1).sum().backward()
    print(name)
"""


def test_every_model_of_a_smoke_suite_takes_a_step_from_the_wheel(
    beside_a_foreign_package: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    where, *names = beside_a_foreign_package("-c", STEPS).stdout.splitlines()
    assert where.startswith(str(tmp_path / "site")) and len(names) == 5


@pytest.mark.whole
def test_a_smoke_suite_runs_from_the_wheel_beside_a_foreign_package(
    beside_a_foreign_package: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """`test_every_model_of_a_smoke_suite_takes_a_step_from_the_wheel` has the models, and
    `test_the_wheel_carries_what_runs_need` what else a run takes from the wheel.
    """
    lines = beside_a_foreign_package("-m", *SMOKE).stdout.strip().splitlines()
    assert len(lines) == 5 and all(line.split()[3] == "ok" for line in lines)
    assert (tmp_path / "work" / "leaderboards" / "runs").is_dir()
    assert not (tmp_path / "site" / "equibench" / "leaderboards" / "runs").exists()


#: One test of the root and one of a room, and all of these files.
@pytest.mark.parametrize(
    "words",
    [("-k", "test_listing_models_loads_no_torch or test_below_three_seeds"), pytest.param((), marks=pytest.mark.whole)],
    ids=["few", "files"],
)
def test_tests_pass_from_a_folder_of_any_name(tmp_path: Path, words: tuple[str, ...]) -> None:
    # A clone may be called anything, also what is no name of a Python package.
    source = shutil.copytree(ROOT, tmp_path / "equi-bench.1", ignore=NOT_SOURCE)
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "equibench").symlink_to(source)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "path")}
    files = ["tests/test_registry.py", "tests/bench/boards/test_rows.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", *files, *words]
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_root_is_lazy() -> None:
    code = "import equibench, sys; print([m for m in sys.modules if m.startswith('equibench.')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_dependency_beyond_the_core_has_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    names = [n.split(">")[0].split("=")[0] for n in tomllib.loads(text)["project"]["dependencies"]]
    core = {"torch", "pandas", "tabulate"}
    for name in set(names) - core:
        line = next(row for row in text.splitlines() if row.strip().startswith(f'"{name}'))
        assert "#" in line, f"{name} has no reason beside it"


def test_uv_leaves_out_what_needs_a_fortran_compiler() -> None:
    """As the README says of `uv pip install .` in a clone: the override of pyproject.toml is read."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not here")
    command = [uv, "pip", "compile", "--quiet", "--offline", "--python-version", "3.11", "pyproject.toml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip("the packages of this environment did not come through uv's cache")
    names = {line.split("==")[0] for line in done.stdout.splitlines() if "==" in line}
    assert {"escnn", "torch", "lie-learn"} <= names and "py3nj" not in names
