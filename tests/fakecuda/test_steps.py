"""What a training step asks of a GPU, seen without one."""

import json
from typing import Any

import pytest
from equibench.datasets.batches import AUGMENTATIONS
from equibench.registry import MODELS

pytestmark = pytest.mark.fakecuda


@pytest.fixture(scope="module", params=["strict", pytest.param("fast", marks=pytest.mark.whole)])
def steps(request: Any, fake_cuda: Any) -> dict[str, Any]:
    done = fake_cuda("tests/fakecuda/steps.py", request.param)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_every_family_has_a_member_here(steps: dict[str, Any]) -> None:
    here = {found["family"] for found in steps["launches"].values()}
    assert here == {e.fields["family"] for e in MODELS.match() if e.fields.get("params")}


def test_the_deterministic_mode_costs_no_kernels(steps: dict[str, Any]) -> None:
    """A tax on layers that gather would be unfair on a board of device-seconds."""
    assert all(found["default"] > 50 for found in steps["launches"].values())  # kernels are counted at all
    taxed = {name: found for name, found in steps["launches"].items() if found["warn"] > found["default"]}
    assert taxed == {}
    assert steps["a gather of torch"]["warn"] > steps["a gather of torch"]["default"]  # and a tax would be seen


def test_no_step_waits_for_the_device(steps: dict[str, Any]) -> None:
    assert len(steps["waits"]) >= len(steps["launches"]) + len(AUGMENTATIONS)
    assert {case: reason for case, reason in steps["waits"].items() if reason} == {}
    assert "synchroniz" in steps["a list of indices"]  # and one that waits would be seen
