"""The doctor beside a runtime that computes nothing: what is about devices, waits and launches holds, and all else
fails.

So it shows both: that the checks work without values, and that a device which computes nonsense gets the verdict "no".
"""

import json
from pathlib import Path
from typing import Any

import pytest
from equibench.bench.check.doctor.checks import CHECKS, families

pytestmark = pytest.mark.fakecuda


WITHOUT_VALUES = ("devices by UUID", "on its device only", "alone", "no waits")
WITH_VALUES = ("driver and build", "clock", "TF32 off", "logits as on the CPU")
#: Takes the families whose networks are looked at and a list of looks, each the names of checks, variables and a
#: device; prints the findings of each. The processes of the checks are copies of one, which take seconds less than new
#: interpreters: the stand-in reads its variables when it is asked. A whole examination, which is slow, has new
#: interpreters.
LOOK = """
import json, os, sys
from equibench.bench.check.doctor import checks
from equibench.bench.check.doctor.checks import CHECKS, perform
from equibench.bench.check.doctor.device import ExaminedDevice
from equibench.bench.runner import fork_server, local
families, looks = json.loads(sys.argv[1])
found, there = [], checks.families()
checks.families = lambda: {name: there[name] for name in families}
local.Examination = local.Check
fork_server.LATE_VARIABLES = (*fork_server.LATE_VARIABLES, "FAKE_", "CUDA_VISIBLE_DEVICES")
for names, variables, device in looks:
    os.environ.update(variables)
    with ExaminedDevice(device, ["cuda:0", "cuda:1"], bound_s=570, patience=5) as place:
        if variables:  # nobody of the stand-in goes, so that there is no use in waiting for that
            place.left = lambda limit_s, left=place.left: left(limit_s) if limit_s > 5 else 1.0
        found.append({c.name: perform(c, place).model_dump() for c in CHECKS if c.name in names})
    for name in variables:
        del os.environ[name]
print(json.dumps(found))
"""
#: What the driver shows, the check that judges it, its state, and words of its finding.
COMPANY = [
    ({"FAKE_NVML_OTHER": "1:500"}, "alone", "failed", "not alone"),
    ({"FAKE_NVML_OTHER": "0:500"}, "alone", "failed", "MiB"),  # by memory alone: no list shows it
    ({"FAKE_NVML_HIDES": "1"}, "alone", "left out", "cannot be determined"),  # as a run there says "unknown"
    ({"FAKE_NVML_HIDES": "1"}, "on its device only", "not applicable", "containers"),
    ({"FAKE_NVML_SILENT": "1"}, "alone", "left out", "cannot be determined"),
    ({"FAKE_NVML_NUMBERS": "1000000"}, "alone", "passed", "only our process"),
]

Findings = dict[str, dict[str, Any]]


def look(
    fake_cuda: Any,
    *looks: tuple[tuple[str, ...], dict[str, str]],
    device: str = "cuda:0",
    families: tuple[str, ...] = ("g-cnn",),
    **variables: str,
) -> list[Findings]:
    done = fake_cuda("-c", LOOK, json.dumps((families, [(*one, device) for one in looks])), timeout=590, **variables)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def looks(fake_cuda: Any) -> list[Findings]:
    """Of all checks that end soon, with the network of one family, and of each case of `COMPANY`."""
    return look(
        fake_cuda, ((*WITHOUT_VALUES, *WITH_VALUES), {}), *(((check,), asked) for asked, check, _, _ in COMPANY)
    )


@pytest.fixture(scope="module")
def found(looks: list[Findings]) -> Findings:
    return looks[0]


@pytest.mark.parametrize("check", WITHOUT_VALUES)
def test_what_needs_no_values_passes(found: Findings, check: str) -> None:
    assert found[check]["state"] == "passed", found[check]["detail"]


@pytest.mark.parametrize("check", WITH_VALUES)
def test_a_device_that_computes_nonsense_is_found_out(found: Findings, check: str) -> None:
    assert found[check]["state"] == "failed" and "broke" not in found[check]["detail"], found[check]["detail"]


@pytest.mark.parametrize("case", range(len(COMPANY)), ids=[f"{check}-{asked}" for asked, check, _, _ in COMPANY])
def test_company_is_judged_by_what_the_driver_shows(looks: list[Findings], case: int) -> None:
    _, check, state, words = COMPANY[case]
    seen = looks[1 + case][check]
    assert seen["state"] == state and words in seen["detail"], seen


def test_the_second_device_is_examined_on_its_own(fake_cuda: Any) -> None:
    """What another process does on the first one is no matter."""
    first, second = "GPU-11111111-1111-1111-1111-111111111111", "GPU-22222222-2222-2222-2222-222222222222"
    there = {"FAKE_NVML_OTHER": "1:500"}
    found = look(fake_cuda, (WITHOUT_VALUES, there), device="cuda:1")[0]
    assert {name: finding["state"] for name, finding in found.items()} == dict.fromkeys(WITHOUT_VALUES, "passed"), found
    assert found["devices by UUID"]["detail"] == f"2: {first}, {second}"


@pytest.mark.whole
def test_the_networks_of_all_families_are_looked_at(fake_cuda: Any) -> None:
    """`test_what_needs_no_values_passes` and `test_a_device_that_computes_nonsense_is_found_out`, with all families."""
    found = look(fake_cuda, (("no waits", "logits as on the CPU"), {}), families=tuple(families()))[0]
    models = families().values()
    assert found["no waits"]["state"] == "passed" and found["no waits"]["detail"] == ", ".join(models)
    assert found["logits as on the CPU"]["state"] == "failed"
    assert all(f"{model}: logits" in found["logits as on the CPU"]["detail"] for model in models)


@pytest.mark.slow
def test_a_whole_examination_comes_to_an_end_and_the_verdict_is_no(fake_cuda: Any, tmp_path: Path) -> None:
    arguments = ("doctor", "--device", "cuda:1", "--quick", "--json", "--results", str(tmp_path))
    done = fake_cuda("-m", "equibench.bench.cli", *arguments, timeout=590)
    assert done.returncode == 1, done.stderr[-2000:]
    examined = json.loads(done.stdout)
    found = {f["check"]: (f["state"], f["detail"]) for f in examined["findings"]}
    assert list(found) == [c.name for c in CHECKS] and examined["verdict"] == "no"
    assert found["launches"][0] == "passed" and not [d for _, d in found.values() if "broke" in d], found
    assert len(list((tmp_path / "doctor").rglob("cuda-1.*.json"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("microseconds", "state", "words"),
    [("20", "passed", "cuda:1"), ("20,22", "failed", "cuda:1")],  # of a kernel, on both devices or on each
)
def test_device_seconds_hold_on_all_devices_at_once_if_they_are_alike(
    fake_cuda: Any, microseconds: str, state: str, words: str
) -> None:
    """From calibration to record by the clock of the stand-in, which counts kernels."""
    seen = look(fake_cuda, (("all devices busy",), {}), FAKE_CUDA_KERNEL_US=microseconds)[0]["all devices busy"]
    assert seen["state"] == state and words in seen["detail"], seen
