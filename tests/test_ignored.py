"""What git ignores: a user's own results, and nothing of the studies that the repository holds."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git here")


def git(folder: Path, *arguments: str, given: str = "") -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, input=given, capture_output=True, text=True, timeout=60)
    return done.stdout


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A repository with our rules and nothing in it."""
    git(tmp_path, "init", "-q")
    shutil.copy(ROOT / ".gitignore", tmp_path)
    return tmp_path


def ignored(folder: Path, paths: list[str]) -> set[str]:
    return set(git(folder, "check-ignore", "--no-index", "--stdin", given="\n".join(paths)).splitlines())


@needs_git
def test_results_of_ones_own_leave_the_status_clean(fresh: Path) -> None:
    own = [
        "leaderboards/digits-rot-e3-common-v2.csv", "leaderboards/digits-rot-e3-common-v2.runs.csv",
        "leaderboards/runs/digits-rot-e3-common-v2/0123456789abcdef.1.0123456789abcdef.json",
        "leaderboards/runs/digits-rot-e10-common-fast-v2/0123456789abcdef.1.0123456789abcdef.json",
        "leaderboards/digits-rot-e10-common-fast-v2.csv", "leaderboards/checks/my-net.0123456789abcdef.json",
        "leaderboards/figures/digits-rot-e3-common-v2-differences.svg", "leaderboards/doctor/my-host/cuda-0.json",
        "leaderboards/runs/digits-rot-e2-common-v2/weights/x.pt", "leaderboards/tuned/digits-rot-e3-tuned-v2.toml",
    ]  # fmt: skip
    for path in own:
        (fresh / path).parent.mkdir(parents=True, exist_ok=True)
        (fresh / path).write_text("x")
    assert git(fresh, "status", "--porcelain", "--untracked-files=all").splitlines() == ["?? .gitignore"]


@needs_git
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout: nobody knows what is committed")
def test_the_list_of_studies_is_what_is_committed(fresh: Path) -> None:
    committed = git(ROOT, "ls-files", "leaderboards").splitlines()
    boards = {path.split("/")[2] for path in committed if path.startswith("leaderboards/runs/")}
    listed = re.findall(r"^!/leaderboards/runs/(.+)/$", (ROOT / ".gitignore").read_text(), re.MULTILINE)
    assert sorted(boards) == sorted(listed)
    assert ignored(fresh, committed) == set()
    # A new record of a listed board is a contribution, and is seen.
    record = f"leaderboards/runs/{listed[0]}/0123456789abcdef.1.0123456789abcdef.json"
    assert ignored(fresh, [record]) == set()
