"""What a known library does is noted; the same in a model's own code, and a model's own faults beside it, fail."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from equibench.bench.check.checked_model import Subject
from equibench.bench.check.libraries import LIBRARY_PROPERTIES, PAGE, raised_in
from equibench.bench.check.runner import CHECKS, findings
from equibench.bench.records.verdict import NAMES, Finding
from equibench.bench.training.job import Check
from equibench.registry import MODELS, include

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
INSIDE = ("accounted for", "deep copy", "bfloat16")
torch.set_num_threads(1)

#: A library whose convolution does what escnn's does: indices in an attribute, filters kept in evaluation.
LIBRARY = """
import torch
from torch import nn


class Conv(nn.Conv2d):
    def __init__(self, before, after):
        super().__init__(before, after, 3, padding=1, bias=False)
        self.order = [torch.arange(after)]

    def train(self, mode=True):
        if mode:
            self.kept = None
        elif self.training:
            self.kept = (self.weight[self.order[0]] * 1.0).to(
                torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
            )
        return super().train(mode)

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight[self.order[0]] if self.training else self.kept, padding=1)


class Graph(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(1))
        self.cache = {}

    def train(self, mode=True):
        self.cache = {} if mode else self.cache
        return super().train(mode)

    def forward(self, x):
        bias = self.bias * 1.0
        if not self.training:
            bias = self.cache.setdefault("cpu", bias) if torch.is_grad_enabled() else bias
        return x + bias
"""
NET = """
import torch
from equibench import register_model
from torch import nn
from {package} import Conv, Graph


class Own(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.conv, self.head = {layer}, nn.Linear(4, classes)
        {inside}

    def forward(self, x):
        y = self.conv(x)
        {after}
        return self.head(y.relu().mean((2, 3)))


@register_model("{name}", group="none", invariant="none", source="https://example.org/net")
def net(in_channels, num_classes, image_size):
    return Own(in_channels, num_classes)
"""
#: Convolutions of torch, and an addition that takes two tensors of one type only.
PLAIN, ADD = "nn.Conv2d(channels, 4, 3)", "y = torch.zeros(y.shape).index_add_(0, torch.arange(len(y)), y)"
CONV, GRAPH = "Conv(channels, 4)", "nn.Sequential(nn.Conv2d(channels, 4, 3), Graph())"


@pytest.fixture(autouse=True)
def _included(_only_what_is_shipped: None) -> Iterator[None]:
    yield


def look_at(model: str, path: Path, *only: str, size: int = 12) -> dict[str, Finding]:
    include([path])
    job = Check(
        model=model, inputs=[f"1x{size}x{size}->10"], dataset="digits-rot", budget="e20", steps=75, recipe="common",
        reference=None, include=[str(path)],
    )  # fmt: skip
    leave_out = tuple(n for n in NAMES if n not in (*only, "build", "output", "training"))
    return {name: f for name, f in findings(Subject(job), leave_out) if f is not None}


def written(folder: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str, **parts: str) -> Path:
    """A model of a package that is made up for it."""
    packages = folder / "site-packages"
    (packages / package).mkdir(parents=True)
    (packages / package / "__init__.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(packages)
    # Both steps are undone after the test: one that only deletes leaves the made-up package to every later test.
    monkeypatch.setitem(sys.modules, package, ModuleType(package))
    monkeypatch.delitem(sys.modules, package)
    path = folder / f"{name.replace('-', '_')}.py"
    path.write_text(
        NET.format(package=package, name=name, **{"layer": CONV, "inside": "pass", "after": "pass", **parts})
    )
    return path


@pytest.mark.parametrize("others", [(), pytest.param(tuple(CHECKS), marks=pytest.mark.whole)], ids=["noted", "all"])
def test_a_stock_network_of_escnn_has_notes_and_no_failure(tmp_path: Path, others: tuple[str, ...]) -> None:
    found = re.search(r"<!-- stock_c4.py -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    assert found
    path = tmp_path / "stock_c4.py"
    path.write_text(found[1])
    needed = {
        "state entries",
        "repeatable",
        "memory",
        "train and eval",
        "deterministic",
        "invariance",
        "parameter count",
    }
    wanted = {*INSIDE, *needed, *others} - {"cost", "budget", "other angles", "other sizes"}
    results = look_at("stock-c4", path, *wanted, size=28)
    assert {name: f.says for name, f in results.items() if f.status == "fail"} == {}
    for name in INSIDE:
        assert results[name].status == "note" and "escnn" in results[name].says and PAGE in results[name].do
    assert results["invariance"].status == results["parameter count"].status == "pass"
    rows = re.findall(r"^\| ([a-z0-9 ]+) \|", TEXT, re.MULTILINE)
    assert [row for row in rows if row != "check"] == list(INSIDE) == list(LIBRARY_PROPERTIES["escnn"])


@pytest.mark.parametrize(("package", "status"), [("e2cnn", "note"), ("somebodys", "fail")])
def test_the_same_code_is_noted_of_a_known_library_and_fails_elsewhere(
    package: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, monkeypatch, package, f"{package}-net")
    found = look_at(
        f"{package}-net", path, "state entries", "repeatable", "memory", "train and eval", "deterministic", *INSIDE
    )
    assert {name: found[name].status for name in INSIDE} == dict.fromkeys(INSIDE, status), found


def test_biases_that_timm_keeps_are_noted_and_nothing_else_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, monkeypatch, "timm", "timm-net", layer=GRAPH)
    needed = ("state entries", "repeatable", "memory", "train and eval", "deterministic")
    assert look_at("timm-net", path, *needed, "deep copy")["deep copy"].status == "note"
    plain = written(tmp_path / "more", monkeypatch, "timm", "timm-plain")
    assert look_at("timm-plain", plain, "accounted for")["accounted for"].status == "fail"


@pytest.mark.parametrize(
    ("name", "parts", "check", "says"),
    [
        ("own-table", {"inside": "self.table = torch.arange(3)"}, "accounted for", "'table'"),
        ("own-weights", {"inside": "self.conv.more = torch.randn(3)"}, "accounted for", "'conv.more'"),
        ("own-graph", {"after": "self.last = y if not self.training else None"}, "deep copy", "copy.deepcopy fails"),
        ("own-type", {"layer": PLAIN, "after": ADD}, "bfloat16", "raises RuntimeError"),
    ],
)
def test_a_fault_of_ones_own_beside_a_library_fails(
    name: str, parts: dict[str, str], check: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, monkeypatch, "e2cnn", name, **parts)
    needed = ("state entries", "repeatable", "memory", "train and eval", "deterministic")
    found = look_at(name, path, *needed, check)[check]
    assert found.status == "fail" and says in found.says, found


def test_a_network_of_torchvision_passes(tmp_path: Path) -> None:
    path = tmp_path / "tv.py"
    path.write_text(
        "from equibench import register_model\n"
        "from torch import nn\n\n\n"
        '@register_model("squeeze", group="none", invariant="none", source="arXiv:1602.07360")\n'
        "def tv(in_channels, num_classes, image_size):\n"
        "    from torchvision.models import shufflenet_v2_x0_5\n\n"
        "    net = shufflenet_v2_x0_5(num_classes=num_classes)\n"
        "    net.conv1[0] = nn.Conv2d(in_channels, 24, 3, 2, 1, bias=False)\n"
        "    return net\n"
    )
    found = look_at("squeeze", path, "state entries", "repeatable", "memory", "train and eval", *INSIDE, size=28)
    assert {name: f.says for name, f in found.items() if f.status == "fail"} == {}


def test_the_code_that_raised_is_told_from_the_code_that_called_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, monkeypatch, "e2cnn", "unused")
    from e2cnn import Conv  # type: ignore[import-not-found]

    with pytest.raises(RuntimeError) as inside:
        Conv(1, 4)(torch.zeros(1, 2, 4, 4))
    with pytest.raises(RuntimeError) as own:
        torch.zeros(2) @ torch.zeros(3)
    assert raised_in(inside.value) == "e2cnn" and raised_in(own.value) == ""
    assert MODELS.entries()
