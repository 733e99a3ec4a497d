"""What docs/your-model.md shows is run as it stands."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from equibench.bench.check.checked_model import Subject
from equibench.bench.check.runner import findings
from equibench.bench.records.size_classes import limits
from equibench.bench.records.verdict import NAMES
from equibench.bench.spec.suite import find_suite
from equibench.bench.training.job import Check
from equibench.registry import build_model, include
from equibench.tests.bench import commands

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "your-model.md").read_text()
COMMANDS = re.findall(r"^(equibench .*)$", PAGE, re.MULTILINE)


def files(folder: Path) -> None:
    for name in ("my_net.py", "rings.toml"):
        found = re.search(rf"<!-- {re.escape(name)} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
        assert found, f"the page shows no {name}"
        (folder / name).write_text(found[1])


def equibench(command: str, cwd: Path, *more: str) -> subprocess.CompletedProcess:
    """A command of the page; what it would take minutes for is made short by further options."""
    short = command.replace("digits-rot-e2-common", "digits-rot-e0.1-common")
    done = commands.equibench(*shlex.split(short)[1:], *more, cwd=cwd)
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    return done


def the(word: str) -> list[str]:
    found = [c for c in COMMANDS if c.split()[1] == word]
    assert found, f"the page shows no equibench {word}"
    return found


def test_the_network_is_what_the_page_says(tmp_path: Path) -> None:
    files(tmp_path)
    include([tmp_path / "my_net.py"])
    torch.manual_seed(0)
    model = build_model("ring-net", 1, 10, 28).eval()
    suite = find_suite(str(tmp_path / "rings.toml"))
    low, high = limits(suite.reference_parameters)
    assert low <= sum(p.numel() for p in model.parameters()) == 25_648 <= high
    images = torch.randn(3, 1, 28, 28)
    with torch.no_grad():
        for moved in (images.rot90(1, (2, 3)), images.flip(-1)):
            assert (model(moved) - model(images)).abs().max() < 1e-5
    assert suite.models[0] == "ring-net" and suite.reference_model in suite.models


def steer(folder: Path) -> Path:
    """The file of the network of escnn's kernels."""
    found = re.search(r"<!-- steer.py -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found
    (folder / "steer.py").write_text(found[1])
    return folder / "steer.py"


def test_the_network_of_escnn_kernels_is_what_the_page_says(tmp_path: Path) -> None:
    """With the checks of what it stores, and of what it claims at one size."""
    include([steer(tmp_path)])
    job = Check(
        model="steer-d4", inputs=["1x28x28->10"], dataset="digits-rot", budget="e20", steps=937, recipe="common",
        reference=None, include=[],
    )  # fmt: skip
    wanted = ("citation", "build", "output", "parameter count", "accounted for", "state entries", "deep copy")
    found = dict(findings(Subject(job), tuple(name for name in NAMES if name not in (*wanted, "invariance"))))
    assert {name: f.says for name, f in found.items() if f is not None and f.status == "fail"} == {}
    assert {found[name].status for name in (*wanted, "invariance")} <= {"pass", "note"}
    assert found["invariance"].status == "pass" and found["parameter count"].status == "pass"


@pytest.mark.whole
def test_the_network_of_escnn_kernels_passes_the_check(tmp_path: Path) -> None:
    """All checks; `test_the_network_of_escnn_kernels_is_what_the_page_says` has those of what it stores and claims."""
    steer(tmp_path)
    (command,) = re.findall(r"`(equibench check steer-d4 [^`]*)`", PAGE)
    assert "acceptable: " in equibench(command, tmp_path).stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_have_these_options(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files(tmp_path)
    commands.read(command)


@pytest.mark.whole
def test_the_pasted_network_enters_a_head_to_head_and_its_row_is_shown(tmp_path: Path) -> None:
    """`test_the_network_is_what_the_page_says` has the network, `test_commands_have_these_options` the commands."""
    files(tmp_path)
    quick = ("--budget", "e0.1", "--seeds", "1", "--device", "cpu", "--jobs", "1", "--quiet")
    first, second = the("run")
    equibench(first, tmp_path, *quick, "--models", "ring-net,z2cnn-22")
    again = equibench(second, tmp_path, *quick, "--models", "ring-net,z2cnn-22", "--json")
    rows = {row["model"]: row for row in json.loads(again.stdout)["models"]}
    assert set(rows) == {"ring-net", "z2cnn-22"} and rows["ring-net"]["status"] == "ok"
    assert rows["ring-net"]["parameters"] == 25_648 and rows["ring-net"]["eq_exact_d4"] < 1e-4
    assert "ring-net" in equibench(the("leaderboard")[0], tmp_path).stdout
    assert "no run on" in equibench(the("refresh")[0], tmp_path).stdout


@pytest.mark.whole
def test_check_show_and_publish(tmp_path: Path) -> None:
    """`test_the_network_is_what_the_page_says` has the network, `test_commands_have_these_options` the commands."""
    files(tmp_path)
    assert "acceptable" in equibench(the("check")[0], tmp_path, "--budget", "e0.1").stdout
    card = equibench(the("show")[0], tmp_path).stdout
    assert "3 × RingConv" in card and "D4 at 28 pixels: exact" in card and "D4 at 29 pixels: not exact" in card
    equibench(
        the("run")[0],
        tmp_path,
        "--budget",
        "e0.1",
        "--seeds",
        "1",
        "--device",
        "cpu",
        "--quiet",
        "--models",
        "ring-net",
    )
    equibench(the("publish")[0], tmp_path)
    assert "ring-net" in (tmp_path / "site" / "tables" / "digits-rot-e0.1-common-v2.md").read_text()


def test_every_page_that_is_linked_exists() -> None:
    for page in (PAGE, (ROOT / "docs" / "third-party.md").read_text()):
        links = re.findall(r"\]\((?!http)([^)#]+)", page)
        assert links and all((ROOT / "docs" / link).exists() for link in links), links
    links = re.findall(r"\]\((?!http)([^)#]+)", (ROOT / "CONTRIBUTING.md").read_text())
    assert links and all((ROOT / link).exists() for link in links), links
