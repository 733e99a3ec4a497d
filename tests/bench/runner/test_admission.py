"""Refusals before a run: one sentence each, wherever the run was to go."""

from pathlib import Path
from typing import Any

import pytest
from equibench.bench.runner import admission
from equibench.bench.runner.admission import admit_devices, admit_models, refuse_cpu
from equibench.bench.runner.head_to_head import HeadToHead, run
from equibench.bench.spec.suite import Suite
from equibench.bench.tools.gpus import one_device
from equibench.bench.tools.machine import Machine
from equibench.registry import UserError

#: What a probe says where there is no GPU, and of one model.
NO_GPU: dict[str, Any] = {"event": "devices", "gpus": {}}
MODEL = {"event": "model", "model": "p4cnn", "parameters": 24_680, "frozen": 0, "learned_buffers": 0, "flops": 7.0}


def suite(budget: str, **changes: Any) -> Suite:
    values = {"name": "s", "dataset": "digits-rot", "budget": budget, "seeds": 1, "models": ["p4cnn"], **changes}
    return Suite.model_validate(values)


def test_device_seconds_are_those_of_a_gpu_however_the_cpu_was_chosen() -> None:
    for device, instead in (("cpu", "--device cuda"), ("cpu", "--gpus-per-run 1")):
        with pytest.raises(UserError, match=f"'t20' counts device-seconds, which on a CPU .*, or {instead}"):
            refuse_cpu("t20", device, instead)
    with pytest.raises(UserError, match="'t20' counts device-seconds, which on a CPU"):
        admit_devices(suite("t20"), Machine("auto"), [MODEL, NO_GPU])  # nobody has said cpu
    with pytest.raises(UserError, match="'t20' counts device-seconds"):
        refuse_cpu("t20", "cuda:0,cpu")
    refuse_cpu("t20", "cuda:0")
    refuse_cpu("e20", "cpu")


def test_what_a_probe_has_seen_decides() -> None:
    slots, note = admit_devices(suite("e2"), Machine("auto", jobs=2), [MODEL, NO_GPU])
    assert slots == ["cpu", "cpu"] and not note
    assert admit_models(suite("e2"), [MODEL, NO_GPU]) == {"p4cnn": 7.0}
    matched = {"class": "matched", "reference_parameters": 10_000}
    with pytest.raises(UserError, match="'p4cnn' has 24,680 parameters, outside 9,500 to 10,500"):
        admit_models(suite("e2", **matched), [MODEL, NO_GPU])
    with pytest.raises(UserError, match="breaks its contract: it returns a list"):
        admit_models(suite("e2"), [{**MODEL, "wrong_shape": "it returns a list"}, NO_GPU])
    with pytest.raises(UserError, match="but can be built for 32 pixels"):
        admit_models(suite("e2"), [{**MODEL, "error": "odd", "builds_at": 32}, NO_GPU])


@pytest.mark.parametrize(
    ("budget", "device", "needs"),
    [
        ("t20", "auto", True), ("e2", "auto", False), ("e2", "cpu", False), ("e2", "cpu,cpu", False),
        ("e2", "cuda", True), ("e2", "cuda:0, cuda:1", True), ("e2", "cpu, cuda:0", True),
    ],
)  # fmt: skip
def test_torch_is_asked_for_gpus_first_if_a_run_needs_one(budget: str, device: str, needs: bool) -> None:
    assert admission.needs_gpus(suite(budget), Machine(device)) == needs


@pytest.mark.parametrize("gpus", [{}, {"why": "the driver is too old", "expected": True}], ids=["none", "unusable"])
@pytest.mark.parametrize(("budget", "device"), [("t10", "auto"), ("e2", "cuda:99"), ("t10", "cuda:0"), ("e2", "cuda")])
def test_a_missing_device_is_refused_before_data_are_loaded(
    budget: str, device: str, gpus: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        raise AssertionError("data were loaded")

    monkeypatch.setattr(HeadToHead, "_load_data", load)
    events = [{"event": "devices", "gpus": gpus}, {"event": "model", "model": "p4cnn"}]
    monkeypatch.setattr(admission, "start", lambda *_: None)
    monkeypatch.setattr(admission, "end", lambda *_: None)
    monkeypatch.setattr(admission, "events_of", lambda _: iter(events))
    with pytest.raises(UserError, match=r"counts device-seconds|torch sees 0 CUDA devices"):
        run(suite(budget), results=tmp_path / "results", machine=Machine(device))
    assert not (tmp_path / "results").exists()


def test_a_wrong_device_is_refused_before_anything_is_loaded() -> None:
    for device in ("tpu", "", "auto,cpu", "cpu:0", "cuda:x", "cuda:-1"):
        with pytest.raises(UserError, match="use auto, cpu, cuda or cuda:<number>, several with commas"):
            Machine(device)
    assert Machine(" cuda:1, cpu").slots(2) == ["cuda:1", "cpu"]


def test_where_one_device_is_wanted_several_are_refused() -> None:
    with pytest.raises(UserError, match="give one device"):
        one_device("cpu,cpu")
