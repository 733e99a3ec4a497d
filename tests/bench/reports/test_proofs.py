"""`equibench verify`, through the installed command and without the cost of the whole proof."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from equibench.bench.cli.main import cli
from equibench.bench.reports import proofs as verify
from equibench.models.pdo.proof import verify as pdo
from equibench.registry import UserError

COMMAND = Path(sys.executable).parent / "equibench"


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, "verify", *arguments], cwd=cwd, capture_output=True, text=True, timeout=550)


def test_one_part_as_json(tmp_path: Path) -> None:
    done = run("pdo-econv", "--only", "exactness", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["failed"] == 0 and document["plot"] is None
    assert {row["group"] for row in document["exactness"]} == {"p4", "p6", "p8", "p4m", "p6m", "p8m"}
    assert all(row["ok"] and row["error"] <= 1e-12 for row in document["exactness"])
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_ends_with_one_sentence(tmp_path: Path) -> None:
    done = run("pdo-ecnov", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("equibench: ") and done.stderr.count("\n") == 1
    assert "'pdo-ecnov'" in done.stderr and "'pdo-econv'" in done.stderr


def stand_in(monkeypatch: pytest.MonkeyPatch, ok: bool) -> None:
    row = {"group": "p4", "stencil": "fd", "offset_deg": 0.0, "symmetries": "90° turns", "error": 3e-16, "ok": ok}
    monkeypatch.setitem(pdo.PARTS, "exactness", lambda: [row])


@pytest.mark.parametrize("ok", [True, False])
@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_the_exit_code_tells_whether_all_holds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ok: bool, extra: list[str]
) -> None:
    stand_in(monkeypatch, ok)
    result = CliRunner().invoke(cli, ["verify", "pdo-econv", "--only", "exactness", "--out", str(tmp_path), *extra])
    assert result.exit_code == (0 if ok else 1)
    if not extra:
        assert f"{int(ok)} of 1 properties hold" in result.output
        assert ("NO" in result.output) == (not ok)


def test_the_plot_is_written_into_a_new_folder_and_threads_are_given_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch

    monkeypatch.setitem(pdo.PARTS, "convergence", lambda: [pdo.convergence_row("lift", "p4", "fd", 17.3)])
    torch.set_num_threads(2)
    try:
        proof = verify.prove("pdo-econv", tmp_path / "new" / "folder", ["convergence"])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert proof.figure == tmp_path / "new" / "folder" / "verify-pdo-econv.png"
    assert proof.figure.read_bytes()[:4] == b"\x89PNG"
    assert [p.name for p in proof.figure.parent.iterdir()] == ["verify-pdo-econv.png"]
    assert proof.failed == 0 and proof.count == 1


def test_bad_input_is_noticed_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pdo, "verify", lambda *_: pytest.fail("work was done"))
    (tmp_path / "file").touch()
    for name, out, parts, message in (
        ("x", ".", [], "'x'.*pdo-econv"),
        ("pdo-econv", tmp_path / "new", ["exact"], "no part 'exact'.*exactness"),
        ("pdo-econv", tmp_path / "file" / "under", [], "file/under.*--out DIR"),
    ):
        with pytest.raises(UserError, match=message):
            verify.prove(name, out, parts)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_whole_command(tmp_path: Path) -> None:
    done = run("pdo-econv", "--out", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "125 of 125 properties hold" in done.stdout
    for word in ("Ψ tanh Φ", "p6m", "gauss7", "90° turns and flips", "pitch px"):
        assert word in done.stdout
    assert (tmp_path / "verify-pdo-econv.png").stat().st_size > 20_000
