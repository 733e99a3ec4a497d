"""Refusals before a run: one sentence each, wherever the run was to go."""

from typing import Any

import pytest
from equibench.bench.runner.admission import admit, refuse_cpu
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
        admit(suite("t20"), Machine("auto"), [MODEL, NO_GPU])  # nobody has said cpu
    refuse_cpu("t20", "cuda:0")
    refuse_cpu("e20", "cpu")


def test_what_a_probe_has_seen_decides() -> None:
    admitted = admit(suite("e2"), Machine("auto", jobs=2), [MODEL, NO_GPU])
    assert admitted.slots == ["cpu", "cpu"] and admitted.work == {"p4cnn": 7.0} and not admitted.note
    matched = {"class": "matched", "reference_parameters": 10_000}
    with pytest.raises(UserError, match="'p4cnn' has 24,680 parameters, outside 9,500 to 10,500"):
        admit(suite("e2", **matched), Machine("cpu"), [MODEL, NO_GPU])
    with pytest.raises(UserError, match="breaks its contract: it returns a list"):
        admit(suite("e2"), Machine("cpu"), [{**MODEL, "wrong_shape": "it returns a list"}, NO_GPU])
    with pytest.raises(UserError, match="but can be built for 32 pixels"):
        admit(suite("e2"), Machine("cpu"), [{**MODEL, "error": "odd", "builds_at": 32}, NO_GPU])


def test_where_one_device_is_wanted_several_are_refused() -> None:
    with pytest.raises(UserError, match="give one device"):
        one_device("cpu,cpu")
