"""On which of two GPUs everything is, and a budget of seconds from its calibration to the board, seen without one.

The clock of the stand-in is a fixed time a launch, so that device-seconds are known exactly.
"""

import json
import math
import re
from collections import Counter
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, NamedTuple

import pytest
from equibench.bench.boards.board import load_board
from equibench.bench.boards.rows import model_rows
from equibench.bench.records.calibration import latest, read_calibrations
from equibench.bench.records.store import board_names
from equibench.registry import MODELS

pytestmark = pytest.mark.fakecuda

TINY, WITNESS = "tests/bench/tiny.py", "tests/fakecuda/witness.py"
GPUS = ["GPU-11111111-1111-1111-1111-111111111111", "GPU-22222222-2222-2222-2222-222222222222"]
BUDGET_S, KERNEL_US = 3, 300


class Line:
    """What a process did on each device, as the stand-in writes it down."""

    def __init__(self, text: str) -> None:
        counts = {
            what: [int(n) for n in re.findall(r"dev\d=(\d+)", text.split(what)[1].split("contexts")[0])]
            for what in ("launches", "events")
        }
        self.launches, self.events = counts["launches"][:2], counts["events"][:2]
        self.contexts = [int(n) for n in re.findall(r"dev(\d)", text.split("contexts")[1])]

    @property
    def devices(self) -> set[int]:
        """Where it launched anything, recorded an event or had a context."""
        return {d for d in (0, 1) if self.launches[d] or self.events[d]} | set(self.contexts)


def lines(log: Path) -> list[Line]:
    """Of all processes that used a GPU."""
    return [one for one in map(Line, log.read_text().splitlines()) if one.devices]


def equibench(
    fake_cuda: Any, folder: Path, *arguments: str, kernel_us: str = str(KERNEL_US), **more: str
) -> CompletedProcess[str]:
    """A command line; every piece of memory is fresh, so that values are zero rather than garbage."""
    (folder / "witness").mkdir(exist_ok=True)
    variables = {
        "FAKE_CUDA_LOG": str(folder / "log"), "FAKE_CUDA_KERNEL_US": kernel_us, "FAKE_CUDA_FRESH": "1",
        "EQUIBENCH_TEST_WITNESS": str(folder / "witness"), **more,
    }  # fmt: skip
    return fake_cuda(
        "-m", "equibench.bench.cli", *arguments, "--include", TINY, "--include", WITNESS, timeout=900, **variables
    )


def run(fake_cuda: Any, folder: Path, *arguments: str, **changes: str) -> CompletedProcess[str]:
    data = ["--dataset", "bars", "--data-root", str(folder / "data"), "--results", str(folder / "results")]
    return equibench(fake_cuda, folder, "run", *data, *arguments, **changes)


class Board(NamedTuple):
    """A board of device-seconds on two GPUs."""

    folder: Path
    done: CompletedProcess[str]
    trained: set[str]
    failing: tuple[str, ...] = ()


#: Models that can be trained, and others. A model alone shows on which device what is done, and for how long.
ALONE = pytest.param((("witness",), ()), id="alone")
MANY = pytest.param((("tiny", "witness"), ("bad-oom", "bad-killed")), marks=pytest.mark.whole, id="many")


@pytest.fixture(scope="module", params=[ALONE, MANY])
def both(request: Any, fake_cuda: Any, tmp_path_factory: pytest.TempPathFactory) -> Board:
    folder, (good, bad) = tmp_path_factory.mktemp("both"), request.param
    arguments = ["--models", ",".join([*good, *bad]), "--budget", f"t{BUDGET_S}", "--seeds", "2"]
    return Board(folder, run(fake_cuda, folder, *arguments, "--device", "cuda:0,cuda:1"), set(good), bad)


def test_every_process_is_on_one_device_alone(both: Board) -> None:
    found = lines(both.folder / "log")
    assert all(len(one.devices) == 1 for one in found)
    # A calibration of each model on each device, and two runs of each, the first two at a time; what was killed writes
    # nothing. What failed is measured again, beside a model that did not.
    where = Counter(next(iter(one.devices)) for one in found if sum(one.events) > 10)
    assert (
        sum(where.values()) == 4 * len(both.trained) + 2 * len(both.failing)
        and min(where[0], where[1]) >= 2 * len(both.trained) - 1
    )
    assert all(sum(one.launches) > 0 for one in found)


def test_a_budget_of_seconds_is_spent_exactly(both: Board) -> None:
    """N = floor(budget / step), the same for all seeds, on whichever device; each run takes the budget, less a step."""
    results = both.folder / "results"
    (name,) = board_names(results)
    known = latest(read_calibrations(results, name))
    assert set(known) == both.trained
    board = load_board(results, name)
    for model, calibration in known.items():
        assert [b.gpu for b in calibration.blocks] == [GPUS[0]] * 3 + [GPUS[1]] * 3
        runs = [r for r, _ in board.chosen if r.spec.model == model]
        assert [r.status for r in runs] == ["ok", "ok"]
        assert {r.spec.steps for r in runs} == {math.floor(BUDGET_S / calibration.step_s)}
        for record in runs:
            # Launches that do not belong to every step, as a new order of the images, are a part in a thousand.
            assert record.results.train_s == pytest.approx(record.spec.steps * calibration.step_s, rel=2e-3)
            assert BUDGET_S - 2 * calibration.step_s < record.results.train_s < 1.002 * BUDGET_S
            assert record.curve[-1].step == record.spec.steps
    assert {r.provenance.hardware["device"] for r, _ in board.chosen if r.status == "ok"} == {"cuda:0", "cuda:1"}


def test_a_calibration_is_made_as_a_run_is(both: Board) -> None:
    """Two calibrations and two runs of the witness, each on one device, all under the same settings."""
    found = [[json.loads(line) for line in p.read_text().splitlines()] for p in (both.folder / "witness").iterdir()]
    trained = [[one for one in process if one["images"] == 64] for process in found]
    devices = [{one.pop("device") for one in process} for process in trained]
    assert len(devices) == 4 and all(len(own) == 1 for own in devices) and set.union(*devices) == {0, 1}
    first, *others = trained
    assert first and all(sorted(map(str, process)) == sorted(map(str, first)) for process in others)
    for one in first:
        assert one["environment"] == {
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
            "OMP_NUM_THREADS": "1",
            "PYTHONHASHSEED": "0",
        }
        assert one["cudnn"] == [False, False] and one["deterministic"] == 1


def test_a_board_has_a_row_for_each_model(both: Board) -> None:
    (name,) = board_names(both.folder / "results")
    rows = model_rows(load_board(both.folder / "results", name)).set_index("model")
    assert rows.loc[sorted(both.trained), ["status", "runs"]].values.tolist() == [["ok", 2]] * len(both.trained)


@pytest.mark.whole
@pytest.mark.parametrize("both", [MANY], indirect=True)
def test_a_model_that_cannot_be_calibrated_is_a_row_with_its_cause(both: Board) -> None:
    """`test_a_model_that_failed_in_calibration_is_a_row_of_each_seed` has the rows; here models fail."""
    folder, done = both.folder, both.done
    (name,) = board_names(folder / "results")
    rows = model_rows(load_board(folder / "results", name)).set_index("model")
    assert rows["status"].to_dict() == {"tiny": "ok", "witness": "ok", "bad-oom": "oom", "bad-killed": "lost"}
    assert rows["runs"].tolist() == [2] * 4
    assert "bad-oom: oom: CUDA out of memory. Tried to allocate 1 TiB (while its step was measured" in done.stdout
    assert "bad-killed: lost: killed by SIGKILL" in done.stdout and done.returncode == 1


def test_devices_of_different_speed_are_no_board(fake_cuda: Any, tmp_path: Path) -> None:
    arguments = ["--models", "tiny", "--budget", "t5", "--seeds", "1", "--device", "cuda:0,cuda:1"]
    done = run(fake_cuda, tmp_path, *arguments, kernel_us="900,972")
    assert done.returncode == 2 and re.search(r"a step of tiny takes .* ms on cuda:0, .* ms on cuda:1", done.stderr)
    assert not list((tmp_path / "results").rglob("*.json"))


def test_no_step_is_measured_beside_a_stranger(fake_cuda: Any, tmp_path: Path) -> None:
    """The model's own file lets another process appear on the first GPU, when it is imported."""
    net = tmp_path / "net.py"
    net.write_text(
        "import os, pathlib\nfrom equibench import register_model\nfrom torch import nn\n"
        "pathlib.Path(os.environ['FAKE_CUDA_CONTEXTS'], '0.1').write_text('')\n"
        "@register_model('crowded', group='none', invariant='none', source='made up')\n"
        "def crowded(in_channels, num_classes, image_size):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))\n"
    )
    arguments = ["--models", "crowded", "--budget", "t5", "--seeds", "1", "--include", str(net)]
    done = run(fake_cuda, tmp_path, *arguments, "--device", "cuda:0")
    assert done.returncode == 2 and "not alone on its GPU" in done.stderr and "cannot be measured while" in done.stderr
    assert not list((tmp_path / "results").rglob("*.json"))


@pytest.mark.whole
def test_no_step_is_measured_beside_a_stranger_that_only_its_memory_shows(fake_cuda: Any, tmp_path: Path) -> None:
    """As in a container, where the driver names no process; else as `test_no_step_is_measured_beside_a_stranger`."""
    arguments = ["--models", "tiny", "--budget", "t5", "--seeds", "1", "--device", "cuda:0"]
    done = run(fake_cuda, tmp_path, *arguments, FAKE_NVML_HIDES="1", FAKE_NVML_OTHER="0:500")
    assert done.returncode == 2 and "not alone on its GPU: 504 MiB of it were held before" in done.stderr
    assert not list((tmp_path / "results").rglob("*.json"))


#: What the full profile of a run does on its device, with few draws.
FULL = """
import sys, torch
from pathlib import Path
from equibench.bench.measures.equivariance_full import measure_full
from equibench.bench.measures.execution_profile import begin
from equibench.bench.spec.suite import Suite, plan
from equibench.bench.training import full_profile
from equibench.bench.training.prepare import Loaded, build_from_seed
from equibench.datasets.images import load
from equibench.registry import include
include([sys.argv[1]])
full_profile.ORBIT_IMAGES = 20
spec = plan(Suite(name="s", dataset="bars", budget="e1", seeds=1, models=["tiny"]))[0]
device = begin("cuda:1", "strict", 1)
loaded = Loaded(load("bars", Path(sys.argv[2])), spec, device)
found, _ = measure_full(build_from_seed(spec, loaded.data, device), full_profile.inputs_of(loaded), draws=2)
print(len(found.curve))
"""


def test_the_full_profile_is_measured_on_its_device(fake_cuda: Any, tmp_path: Path) -> None:
    variables = {"FAKE_CUDA_LOG": str(tmp_path / "log"), "FAKE_CUDA_FRESH": "1"}
    done = fake_cuda("-c", FULL, TINY, str(tmp_path), timeout=900, **variables)
    assert done.returncode == 0 and int(done.stdout) == 72, done.stderr
    assert [one.devices for one in lines(tmp_path / "log")] == [{1}]


@pytest.mark.whole
def test_a_second_device_alone_gets_it_all(fake_cuda: Any, tmp_path: Path) -> None:
    """A run with its sidecar; and the sidecar once more, by a command of its own, on the other device.

    `test_every_process_is_on_one_device_alone` has runs, `test_the_full_profile_is_measured_on_its_device` the sidecar
    and `test_the_report_of_a_model_is_made_on_its_device` the command.
    """
    suite = tmp_path / "suite.toml"
    suite.write_text('dataset = "bars"\nbudget = "e1"\nseeds = 1\nmodels = ["tiny"]\nequivariance = "full"\n')
    data = ["--data-root", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    done = equibench(fake_cuda, tmp_path, "run", str(suite), *data, "--device", "cuda:1")
    (record,) = (json.loads(p.read_text()) for p in (tmp_path / "results").glob("runs/*/*.json"))
    assert (done.returncode, record["status"]) == (0, "ok"), done.stderr
    assert [one.devices for one in lines(tmp_path / "log")] == [{1}]
    (sidecar,) = (tmp_path / "results").rglob("equivariance/*.json")
    sidecar.unlink()
    run_id = ".".join(sidecar.name.split(".")[:2])
    done = equibench(
        fake_cuda, tmp_path, "equivariance", "--run", run_id, *data, "--out", str(tmp_path), "--device", "cuda:0"
    )
    assert done.returncode == 0 and any(sidecar.parent.glob("*.json")), done.stderr
    assert [one.devices for one in lines(tmp_path / "log")] == [{1}, {0}]


def test_the_report_of_a_model_is_made_on_its_device(fake_cuda: Any, tmp_path: Path) -> None:
    arguments = ["tiny", "--dataset", "bars", "--data-root", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    done = equibench(fake_cuda, tmp_path, "equivariance", *arguments, "--device", "cuda:1")
    assert done.returncode == 0, done.stderr
    assert [one.devices for one in lines(tmp_path / "log")] == [{1}]


@pytest.mark.whole
def test_benchmarks_are_on_their_device_and_ask_all_families_for_waits(fake_cuda: Any, tmp_path: Path) -> None:
    """`test_no_step_waits_for_the_device` asks all families, in a program of its own."""
    arguments = ["--device", "cuda:1", "--model", "z2cnn-2", "--steps", "2", "--rounds", "1"]
    done = fake_cuda("benchmarks/loop.py", *arguments, timeout=900, FAKE_CUDA_LOG=str(tmp_path / "log"))
    assert done.returncode == 0, done.stderr[-2000:]
    families = {e.fields["family"] for e in MODELS.match() if e.fields.get("params")}
    assert re.search(f"families of {len(families)} with a step that waits for the device +none +none +yes", done.stdout)
    assert {d for one in lines(tmp_path / "log") for d in one.devices} == {1}
