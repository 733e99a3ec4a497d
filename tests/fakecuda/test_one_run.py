"""Whole runs on GPUs that others use too, and whose driver shows more or less of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.fakecuda


@pytest.fixture
def run(fake_cuda: Any, tmp_path: Path) -> Any:
    """Makes a run with a budget, and returns its record."""

    def make(budget: str, device: str = "cuda:0", model: str = "tiny", **variables: str) -> dict[str, Any]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        done = fake_cuda("tests/fakecuda/one_run.py", str(folder), budget, device, model, **variables)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    return make


@pytest.mark.parametrize(
    ("variables", "alone", "company"),
    [
        ({}, "yes", False),
        ({"FAKE_NVML_NUMBERS": "100000"}, "yes", False),  # this process is listed under another number
        ({"FAKE_NVML_OTHER": f"{os.getpid()}:500"}, f"no: a process ({os.getpid()})", True),
        ({"FAKE_NVML_OTHER": "0:500"}, "no: 504 MiB of it are held by processes that are not visible", True),
        (
            {"FAKE_NVML_OTHER": "0:500", "FAKE_NVML_HIDES": "1"},
            "no: 504 MiB of it were held before the run began",
            True,
        ),
        (
            {"FAKE_NVML_OTHER": "0:100"},
            "unknown: 104 MiB of the GPU are not held by any process that the driver lists",
            False,
        ),
        (
            {"FAKE_NVML_HIDES": "1"},
            "unknown: the driver does not name the processes on the GPU, or does not say how much memory they hold",
            False,
        ),
        ({"FAKE_NVML_SILENT": "1"}, "unknown: the driver does not say how much memory of the GPU is in use", False),
    ],
    ids=["alone", "renumbered", "other", "hidden-other", "held-before", "held-little", "hidden", "silent"],
)
def test_a_run_claims_to_be_alone_only_where_that_is_known(
    run: Any, variables: dict[str, str], alone: str, company: bool
) -> None:
    record = run("t900", **variables)
    assert record["provenance"]["hardware"]["alone"] == alone
    assert record["status"] == "invalid" and record["reason"].startswith("not alone" if company else "drift"), record[
        "reason"
    ]
    assert any("whether the run was alone" in w for w in record["warnings"]) == alone.startswith("unknown")


def test_other_processes_do_not_change_equal_examples(run: Any) -> None:
    record = run("e0.2", FAKE_NVML_OTHER="0:500")
    assert record["status"] == "ok" and record["provenance"]["hardware"]["runs_on_device"] == "2"
    neighbour = run("e0.2", device="cuda:1", FAKE_NVML_OTHER="0:500")["provenance"]["hardware"]
    assert neighbour["alone"] == "yes" and "runs_on_device" not in neighbour, "another GPU is another matter"


def test_the_hardware_key_is_the_same_whether_the_driver_answers_or_not(run: Any) -> None:
    heard, silent = (run("e0.2", **v)["provenance"]["hardware"] for v in ({}, {"FAKE_NVML_SILENT": "1"}))
    assert heard["hardware_key"] == silent["hardware_key"]
    assert (heard["driver"], heard["power_limit"]) == ("580.65.06", "700 W")
    assert silent["driver"] == silent["power_limit"] == "unknown" and silent["gpu"] == heard["gpu"]


def test_memory_of_evaluation_is_told_from_that_of_training(run: Any) -> None:
    """Before the training the same network was evaluated, for its equivariance and in rehearsal."""
    results = run("e0.2", model="hog")["results"]
    assert 200 <= results["peak_mib"] < 300 <= results["evaluation_peak_mib"] < 400


def test_the_time_of_the_host_is_recorded(run: Any) -> None:
    record = run("e0.2")
    assert all(point["host_s"] > 0 for point in record["curve"]) and record["results"]["host_ms"] > 0


def test_a_library_without_memory_for_its_own_is_a_lack_of_memory(run: Any) -> None:
    record = run("e0.2", FAKE_CUBLAS="3")
    assert record["status"] == "oom" and "CUBLAS_STATUS_ALLOC_FAILED" in record["reason"]
    assert run("e0.2", FAKE_CUBLAS="1")["status"] == "error", "cuBLAS can fail otherwise"


def test_a_process_that_comes_and_goes_during_training_was_company(run: Any) -> None:
    record = run("t900", model="visited")
    assert record["status"] == "invalid" and record["reason"].startswith("not alone on its GPU: "), record["reason"]
