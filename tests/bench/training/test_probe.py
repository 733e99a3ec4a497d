"""The look at models before a training: each in a process of its own."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from equibench.bench.reports.estimate import estimate
from equibench.bench.spec.suite import Suite
from equibench.bench.tools import own_process as module
from equibench.bench.tools.own_process import ProcessDied, in_own_process
from equibench.bench.training.job import Events, Probe
from equibench.bench.training.probe import probe
from equibench.registry import UserError, include, parse_shape

HELPER = (
    "from torch import nn\n\ndef head(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear({size},"
    " {hidden}), nn.Linear({hidden}, classes))\n"
)
MODEL = """
from layers import head
from equibench import register_model


@register_model("{name}", group="none", invariant="none", source="made up")
def {name}(in_channels, num_classes, image_size):
    return head(num_classes)
"""


def files(folder: Path, names: tuple[str, str], size: int = 144) -> list[str]:
    """Two models, each with a helper ``layers.py`` of its own."""
    made = []
    for name, hidden in zip(names, (3, 7), strict=True):
        (folder / name).mkdir()
        (folder / name / "layers.py").write_text(HELPER.format(size=size, hidden=hidden))
        (folder / name / "model.py").write_text(MODEL.format(name=name))
        made.append(str(folder / name / "model.py"))
    return made


def probe_models(job: Probe) -> dict[str, dict[str, Any]]:
    stream = io.StringIO()
    probe(job, Events(stream))
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert events[-1] == {"event": "done", "status": "ok"}
    assert events[0]["event"] == "devices", "a missing device is refused before models are built"
    return {e["model"]: e for e in events if e["event"] == "model"}


def test_helpers_of_the_same_name_belong_to_their_own_models(tmp_path: Path) -> None:
    found = probe_models(
        Probe(models=["pa", "pb"], channels=1, size=12, classes=2, include=files(tmp_path, ("pa", "pb")))
    )
    assert {name: e["parameters"] for name, e in found.items()} == {"pa": 145 * 3 + 8, "pb": 145 * 7 + 16}
    assert {name: e["flops"] for name, e in found.items()} == {"pa": 2 * (144 * 3 + 6), "pb": 2 * (144 * 7 + 14)}
    assert "layers" not in sys.modules


def test_the_cost_of_a_suite_is_that_of_each_models_own_helper(tmp_path: Path) -> None:
    include(files(tmp_path, ("pc", "pd"), 28 * 28))
    suite = Suite(name="s", dataset="digits-rot", budget="e1", seeds=1, models=["pc", "pd"])
    assert [c.parameters for c in estimate(suite, tmp_path, "this")] == [785 * 3 + 40, 785 * 7 + 80]


def test_what_a_model_does_to_its_process_ends_no_other_look(tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text(
        "import os\nfrom torch import nn\nfrom equibench import register_model\n\n"
        '@register_model("ends", group="none", invariant="none", source="made up")\n'
        "def ends(in_channels, num_classes, image_size):\n    os._exit(3)\n\n"
        '@register_model("wrong", group="none", invariant="none", source="made up")\n'
        "def wrong(in_channels, num_classes, image_size):\n    return nn.Flatten()\n\n"
        '@register_model("frozen", group="none", invariant="none", source="made up")\n'
        "def frozen(in_channels, num_classes, image_size):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(144, 3).requires_grad_(False), nn.Linear(3, 2))\n"
    )
    found = probe_models(
        Probe(models=["ends", "wrong", "frozen"], channels=1, size=12, classes=2, include=[str(tmp_path / "ends.py")])
    )
    assert "exit code 3" in found["ends"]["error"] and "(2, 144)" in found["wrong"]["wrong_shape"]
    assert (found["frozen"]["parameters"], found["frozen"]["frozen"], found["frozen"]["learned_buffers"]) == (8, 435, 0)


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.whole)])
def test_apart_is_another_process_however_it_starts(start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_START", start)
    assert in_own_process(os.getpid) != os.getpid()
    with pytest.raises(UserError, match="'six' is not a valid input"):
        in_own_process(parse_shape, "six", "here")
    with pytest.raises(RuntimeError, match=r"ValueError: .*'six'"):
        in_own_process(int, "six")
    with pytest.raises(ProcessDied, match="exit code 5"):
        in_own_process(os._exit, 5)
