"""The doctor beside a runtime that computes nothing: what is about devices, waits and launches holds, and all else fails.

So it shows both: that the checks work without values, and that a device which computes nonsense gets the verdict "no".
"""

import json
from pathlib import Path
from typing import Any

import pytest
from equibench.bench.doctor.checks import CHECKS

pytestmark = pytest.mark.fakecuda


@pytest.fixture(scope="module")
def examined(fake_cuda: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("results")
    arguments = ("doctor", "--device", "cuda:1", "--quick", "--json", "--results", str(folder))
    done = fake_cuda("-m", "equibench.bench.cli", *arguments, timeout=590)
    assert done.returncode == 1, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert len(list((folder / "doctor").rglob("*.json"))) == 1
    return found


@pytest.mark.parametrize("check", ["devices by UUID", "on its device only", "alone", "no waits", "launches"])
def test_what_needs_no_values_passes(examined: dict[str, Any], check: str) -> None:
    (found,) = [f for f in examined["findings"] if f["check"] == check]
    assert found["state"] == "passed", found["detail"]


@pytest.mark.parametrize("check", ["driver and build", "clock", "TF32 off", "logits as on the CPU"])
def test_a_device_that_computes_nonsense_is_found_out(examined: dict[str, Any], check: str) -> None:
    (found,) = [f for f in examined["findings"] if f["check"] == check]
    assert found["state"] == "failed" and "broke" not in found["detail"], found["detail"]


def test_every_check_comes_to_an_end_and_the_verdict_is_no(examined: dict[str, Any]) -> None:
    assert [f["check"] for f in examined["findings"]] == [c.name for c in CHECKS]
    assert examined["verdict"] == "no" and examined["uuid"].startswith("GPU-2222")


LOOK = """
import json, sys
from equibench.bench.doctor.checks import CHECKS, perform
from equibench.bench.doctor.place import Place
with Place("cuda:0", ["cuda:0", "cuda:1"]) as place:
    print(json.dumps({c.name: perform(c, place).model_dump() for c in CHECKS if c.name in sys.argv[1:]}))
"""


@pytest.mark.parametrize(
    ("variables", "check", "state", "words"),
    [
        ({"FAKE_NVML_OTHER": "1:500"}, "alone", "failed", "500 MiB"),
        ({"FAKE_NVML_OTHER": "0:500"}, "alone", "failed", "500 MiB"),  # by memory alone: no list shows it
        ({"FAKE_NVML_HIDES": "1"}, "alone", "passed", "names no processes"),
        ({"FAKE_NVML_HIDES": "1"}, "on its device only", "not applicable", "containers"),
        ({"FAKE_NVML_SILENT": "1"}, "alone", "left out", "cannot be seen"),
        ({"FAKE_NVML_NUMBERS": "1000000"}, "alone", "passed", "ours alone"),
    ],
)
def test_company_is_judged_by_what_the_driver_shows(
    fake_cuda: Any, variables: dict[str, str], check: str, state: str, words: str
) -> None:
    done = fake_cuda("-c", LOOK, check, **variables)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)[check]
    assert found["state"] == state and words in found["detail"], found
