"""What the driver is asked, by the real package for NVML, of a library that stands in for it."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = pytest.mark.fakecuda
GPUS = [f"GPU-{d * 8}-{d * 4}-{d * 4}-{d * 4}-{d * 12}" for d in "12"]
#: Prints what the driver says of a device before and while this process holds 40 MiB of it.
LOOK = """
import json, os, sys, torch
from dataclasses import asdict
from equibench.bench.tools import gpu_driver
device = sys.argv[1]
uuid = gpu_driver.uuid_of(device)
found = {"uuid": uuid, "before": gpu_driver.memory_used_mib(uuid), "pid": os.getpid()}
held = torch.zeros(40, 2**18, device=device)
found |= {"used": gpu_driver.memory_used_mib(uuid), "load": asdict(gpu_driver.load_of(uuid))}
found |= {"driver": gpu_driver.driver_version()}
found |= {"processes": [asdict(p) for p in gpu_driver.processes_on(uuid) or ()]}
found |= {"gpus": [asdict(g) for g in gpu_driver.gpus()]}
print(json.dumps(found))
"""


def look(fake_cuda: Any, device: str = "cuda:0", **variables: str) -> dict[str, Any]:
    done = fake_cuda("-c", LOOK, device, **variables)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_what_the_driver_says_is_of_the_device_that_torch_means(fake_cuda: Any) -> None:
    found = look(fake_cuda, "cuda:1")
    assert (found["uuid"], found["driver"]) == (GPUS[1], "580.65.06")
    assert [gpu["uuid"] for gpu in found["gpus"]] == GPUS
    assert all(
        g["power_limit_w"] == 700 and g["compute_mode"] == "default" and not g["is_instance"] for g in found["gpus"]
    )
    (own,) = found["processes"]
    assert own["pid"] == found["pid"] and own["computes"] and own["memory_mib"] == found["used"] - found["before"] >= 40
    load = found["load"]
    assert (load["sm_mhz"], load["sm_max_mhz"], load["memory_mhz"]) == (345, 1980, 2619)
    assert (load["power_w"], load["temperature_c"], load["busy_pct"], load["reasons"]) == (
        71.5,
        31,
        7,
        ["idle", "power cap"],
    )


@pytest.mark.parametrize("visible", ["1", "1,0", GPUS[1], f"{GPUS[1]},{GPUS[0]}"])
def test_a_device_keeps_its_name_for_every_setting_of_visible_devices(fake_cuda: Any, visible: str) -> None:
    assert look(fake_cuda, "cuda:0", CUDA_VISIBLE_DEVICES=visible)["uuid"] == GPUS[1]


def test_an_instance_of_a_divided_gpu_is_told_from_a_whole_one(fake_cuda: Any) -> None:
    found = look(fake_cuda, "cuda:1", FAKE_NVML_MIG="1")
    assert found["uuid"] == GPUS[1].replace("GPU", "MIG") and [g["is_instance"] for g in found["gpus"]] == [False, True]
    assert found["gpus"][1]["power_limit_w"] == 700, "that of the whole GPU"


def test_what_the_driver_does_not_say_is_unknown(fake_cuda: Any) -> None:
    found = look(fake_cuda, FAKE_NVML_SILENT="1")
    assert found["driver"] is None and found["uuid"] == GPUS[0]
    assert (found["used"], found["driver"], found["processes"], found["gpus"]) == (None, None, [], [])
    assert set(found["load"].values()) == {None}


def test_without_a_driver_nothing_is_said_and_nothing_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = pytest.importorskip("pynvml")
    from equibench.bench.tools import gpu_driver

    def no_library(*_: Any) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_library)
    gpu_driver._nvml.cache_clear()
    try:
        assert gpu_driver._nvml() is None and gpu_driver.gpus() == [] and gpu_driver.processes_on(GPUS[0]) is None
    finally:
        gpu_driver._nvml.cache_clear()
