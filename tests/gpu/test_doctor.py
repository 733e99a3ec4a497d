"""What holds on a real GPU: every check of the doctor, that its checks see what they are for, and runs on the device.

The bodies of the first tests are the doctor's own checks, so that there is one source.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from equibench.bench.check.doctor.checks import CHECKS, Check, devices_of, perform
from equibench.bench.check.doctor.device import ExaminedDevice
from equibench.bench.records.record import RunRecord, read_board
from equibench.bench.records.store import board_names
from equibench.registry import UserError

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).resolve().parents[2]
#: Steps of a network that reads a number back in the middle, and of one that does not; by the doctor's own operation.
WAITING = """
import json, sys
import torch
from equibench.bench.check.doctor import operations
from equibench.bench.training.job import Examination
from torch import nn

class Reads(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images) * (1.0 + 0.0 * images.sum().item())

here = operations.Device(Examination(device="cuda:0", threads=1, data_root=None))
plain = operations.waits(here, "z2cnn-22", 5)
prepared = here.prepared
def reading(*arguments):
    spec, loaded, network = prepared(*arguments)
    return spec, loaded, Reads(network)
here.prepared = reading
print(json.dumps([plain, operations.waits(here, "z2cnn-22", 5)]))
"""


@pytest.fixture(scope="module")
def gpus() -> list[str]:
    try:
        return devices_of("cuda")[0]
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def place(gpus: list[str]) -> Iterator[ExaminedDevice]:
    with ExaminedDevice(gpus[0], gpus, quick=True, bound_s=900) as place:
        yield place


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_check_of_the_doctor(place: ExaminedDevice, check: Check) -> None:
    found = perform(check, place)
    print(found.detail)
    if found.state in ("not applicable", "left out"):
        pytest.skip(found.detail)
    assert found.state == "passed", found.detail


def test_a_step_that_reads_a_number_back_is_found(gpus: list[str]) -> None:
    plain, reading = json.loads(python("-c", WAITING))
    assert plain == {"wait": ""} and "synchroniz" in reading["wait"]


@pytest.mark.parametrize("profile", ["strict", "fast"])
def test_a_run_learns_what_the_same_run_learns_on_the_cpu(gpus: list[str], tmp_path: Path, profile: str) -> None:
    """Same images, same order, same initial weights: the first losses are the same up to rounding."""
    options = ("--dataset", "digits-rot", "--models", "z2cnn-22", "--seeds", "1", "--profile", profile)
    here, there = (
        run(tmp_path / device[:4], *options, "--budget", "smoke", "--device", device) for device in (gpus[0], "cpu")
    )
    (on_gpu,), (on_cpu,) = here, there
    assert on_gpu.status == on_cpu.status == "ok"
    first = [record.curve[0].loss for record in (on_gpu, on_cpu)]
    assert first[0] == pytest.approx(first[1], rel=1e-4 if profile == "strict" else 2e-2)
    assert on_gpu.results.peak_kind == "allocated on the device" and 1 < on_gpu.results.peak_mib < 10_000
    assert on_gpu.provenance.hardware["device"] == gpus[0]


def test_trained_accuracy_is_far_above_chance(gpus: list[str], tmp_path: Path) -> None:
    """Two epochs gave 88 % on a CPU, where chance is 10 %."""
    options = ("--dataset", "digits-rot", "--models", "p4cnn", "--seeds", "2", "--budget", "e2")
    records = run(tmp_path, *options, "--device", gpus[0], "--seeds-in-parallel", "2")
    assert [r.status for r in records] == ["ok", "ok"] and {r.spec.seed for r in records} == {0, 1}
    assert all(r.results.test_acc_pct > 70 for r in records)
    assert all(r.results.trained.eq_exact_c4 < 1e-4 for r in records), (
        "invariant under quarter turns, on the device too"
    )


def run(results: Path, *options: str) -> list[RunRecord]:
    python("-m", "equibench.bench.cli", "run", *options, "--results", str(results), "--json")
    return [record for board in board_names(results) for record in read_board(results, board)[0]]


def python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env=dict(os.environ)
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
