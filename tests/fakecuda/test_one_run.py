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


#: What the driver shows, what a run says of it, and whether that is company. In the default run is one case a word; how
#: each figure of a driver is judged, is in tests/bench/tools/test_gpu_processes.py.
COMPANY = {
    "alone": ({}, "yes", False),
    "renumbered": ({"FAKE_NVML_NUMBERS": "100000"}, "yes", False),  # this process is listed under another number
    "other": ({"FAKE_NVML_OTHER": f"{os.getpid()}:500"}, f"no: a process ({os.getpid()})", True),
    "hidden-other": (
        {"FAKE_NVML_OTHER": "0:500"}, "no: 504 MiB of it are held by processes that are not visible", True,
    ),
    "held-before": (
        {"FAKE_NVML_OTHER": "0:500", "FAKE_NVML_HIDES": "1"}, "no: 504 MiB of it were held before the run began", True,
    ),
    "held-little": (
        {"FAKE_NVML_OTHER": "0:100"}, "unknown: 104 MiB of the GPU are not held by any process that the driver lists",
        False,
    ),
    "hidden": (
        {"FAKE_NVML_HIDES": "1"},
        "unknown: the driver does not name the processes on the GPU, or does not say how much memory they hold",
        False,
    ),
    "silent": (
        {"FAKE_NVML_SILENT": "1"}, "unknown: the driver does not say how much memory of the GPU is in use", False,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[] if c in ("alone", "other", "hidden") else pytest.mark.whole) for c in COMPANY]
)
def test_a_run_claims_to_be_alone_only_where_that_is_known(run: Any, case: str) -> None:
    variables, alone, company = COMPANY[case]
    record = run("t900", **variables)
    assert record["provenance"]["hardware"]["alone"] == alone
    assert record["status"] == "invalid" and record["reason"].startswith("not alone" if company else "drift"), record[
        "reason"
    ]
    assert any("whether the run was alone" in w for w in record["warnings"]) == alone.startswith("unknown")


def test_other_processes_do_not_change_equal_examples(run: Any) -> None:
    record = run("e0.2", FAKE_NVML_OTHER="0:500")
    assert record["status"] == "ok" and record["provenance"]["hardware"]["runs_on_device"] == "2"
    assert record["provenance"]["hardware"]["driver"] == "580.65.06"
    assert all(point["host_s"] > 0 for point in record["curve"]) and record["results"]["host_ms"] > 0
    neighbour = run("e0.2", device="cuda:1", FAKE_NVML_OTHER="0:500")["provenance"]["hardware"]
    assert neighbour["alone"] == "yes" and "runs_on_device" not in neighbour, "another GPU is another matter"


def test_the_hardware_key_is_the_same_whether_the_driver_answers_or_not(fake_cuda: Any) -> None:
    code = "import json; from equibench.bench.records.provenance import hardware; print(json.dumps(hardware('cuda:0')))"
    heard, silent = (json.loads(fake_cuda("-c", code, **v).stdout) for v in ({}, {"FAKE_NVML_SILENT": "1"}))
    assert heard["hardware_key"] == silent["hardware_key"]
    assert (heard["driver"], heard["power_limit"]) == ("580.65.06", "700 W")
    assert silent["driver"] == silent["power_limit"] == "unknown" and silent["gpu"] == heard["gpu"]


def test_memory_of_evaluation_is_told_from_that_of_training(run: Any) -> None:
    """Before the training the same network was evaluated, for its equivariance and in rehearsal."""
    results = run("e0.2", model="hog")["results"]
    assert 200 <= results["peak_mib"] < 300 <= results["evaluation_peak_mib"] < 400


def test_a_library_without_memory_for_its_own_is_a_lack_of_memory(run: Any) -> None:
    record = run("e0.2", FAKE_CUBLAS="3")
    assert record["status"] == "oom" and "CUBLAS_STATUS_ALLOC_FAILED" in record["reason"]


@pytest.mark.whole
def test_a_library_that_fails_otherwise_is_no_lack_of_memory(run: Any) -> None:
    """`test_what_has_another_cause` has the message."""
    assert run("e0.2", FAKE_CUBLAS="1")["status"] == "error"


def test_a_process_that_comes_and_goes_during_training_was_company(run: Any) -> None:
    record = run("t900", model="visited")
    assert record["status"] == "invalid" and record["reason"].startswith("not alone on its GPU: "), record["reason"]


@pytest.mark.parametrize("budget", ["t900", "e1"])
def test_a_run_that_continues_remembers_who_was_there_before(fake_cuda: Any, tmp_path: Path, budget: str) -> None:
    """Another process came within a block, and is gone when the run continues."""
    asked = ("tests/fakecuda/one_run.py", str(tmp_path), budget, "cuda:0", "interrupted")
    first, second = fake_cuda(*asked), fake_cuda(*asked)
    assert (first.returncode, first.stdout) == (0, ""), first.stderr[-2000:]
    record = json.loads(second.stdout)
    assert any("resumed after step 25" in w for w in record["warnings"])
    assert record["provenance"]["hardware"]["alone"].startswith("no: ")
    if budget == "t900":
        assert record["status"] == "invalid" and record["reason"].startswith("not alone on its GPU: ")
    else:
        assert record["status"] == "ok" and record["provenance"]["hardware"]["runs_on_device"] == "2"
