"""GPUs that runs cannot use, or not as asked: refused with one sentence, before anything is trained."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from equibench.bench.tools import gpu_driver, gpus
from equibench.bench.tools.gpu_driver import Gpu
from equibench.bench.tools.gpus import Gpus
from equibench.registry import UserError

pytestmark = pytest.mark.fakecuda
INSTANCE = "MIG-22222222-2222-2222-2222-222222222222"
TINY = str(Path(__file__).parents[1] / "bench" / "tiny.py")
OLD = "The NVIDIA driver on your system is too old (found version 12040)"


#: Device, options, variables that say what the driver shows, and words of the refusal.
REFUSED: list[tuple[str, list[str], dict[str, str], str]] = [
    ("cuda", ["--budget", "e0.1"], {"FAKE_CUDA_DRIVER": "12040"}, f"torch sees 0 CUDA devices here ({OLD}"),
    ("auto", ["--budget", "t1"], {"FAKE_CUDA_DRIVER": "12040"}, f"torch cannot use the one here: {OLD}"),
    ("cuda", ["--budget", "e0.1"], {"FAKE_CUDA_DRIVER": "0"}, "(Found no NVIDIA driver on your system"),
    ("cuda:0", ["--budget", "e0.1"], {"CUDA_VISIBLE_DEVICES": ""}, "are available; CUDA_VISIBLE_DEVICES is '')"),
    ("auto", ["--budget", "t1"], {"CUDA_VISIBLE_DEVICES": "7"}, "are available; CUDA_VISIBLE_DEVICES is '7'"),
    ("cuda:1", ["--budget", "e0.1"], {"CUDA_VISIBLE_DEVICES": "1"}, "torch sees 1 CUDA device here; use cuda:0"),
    (
        "cuda:1",
        ["--budget", "e0.1"],
        {"FAKE_NVML_MODE": "2"},
        "--device cuda:1: the compute mode of this GPU is PROHIBITED",
    ),
    ("cuda:0", ["--budget", "e0.1", "--seeds-in-parallel", "2"], {"FAKE_NVML_MODE": "3"}, "EXCLUSIVE_PROCESS"),
    ("cuda:0", ["--budget", "t1"], {"FAKE_NVML_MODE": "3"}, "processes that take turns"),
    (
        "cuda",
        ["--budget", "t1"],
        {"FAKE_NVML_MIG": "1", "CUDA_VISIBLE_DEVICES": INSTANCE},
        "cuda:0 is a MIG instance",
    ),
]
#: Does commands one after the other, each with variables of its own, and prints exit codes and errors. The processes
#: that look at the GPUs are copies of one: the stand-in reads its variables when it is asked.
COMMANDS = """
import json, sys
from equibench.bench.runner import fork_server
from equibench.tests.bench.commands import equibench
fork_server.LATE_VARIABLES = (*fork_server.LATE_VARIABLES, "FAKE_", "CUDA_VISIBLE_DEVICES")
done = [equibench(*words, **variables) for words, variables in json.loads(sys.argv[1])]
print(json.dumps([(each.returncode, each.stderr) for each in done]))
"""


def words(results: Path, device: str, *more: str) -> list[str]:
    """A suite of the tiny network, with a folder for its data."""
    wish = ["--dataset", "digits-rot", "--models", "tiny", "--include", TINY, "--device", device, "--seeds", "2"]
    return ["run", *wish, *more, "--results", str(results), "--data-root", str(data_of(results))]


def data_of(results: Path) -> Path:
    return results.with_name(f"{results.name}-data")


@pytest.fixture
def head_to_head(fake_cuda: Any, tmp_path: Path) -> Any:
    """Runs it as a shell does."""

    def run(device: str, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = str(Path(sys.executable).with_name("equibench"))
        return fake_cuda(command, *words(tmp_path, device, *more), **variables)

    return run


@pytest.fixture(scope="module")
def refused(fake_cuda: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, str]]]:
    """The folder of results of all cases of `REFUSED`, below each its own, and what became of each."""
    root = tmp_path_factory.mktemp("refused")
    asked = [
        (words(root / str(case), device, *more), variables) for case, (device, more, variables, _) in enumerate(REFUSED)
    ]
    done = fake_cuda("-c", COMMANDS, json.dumps(asked))
    assert done.returncode == 0, done.stderr[-2000:]
    return root, json.loads(done.stdout)


@pytest.mark.parametrize("case", range(len(REFUSED)), ids=[says for *_, says in REFUSED])
def test_what_cannot_be_used_is_refused_and_nothing_begun(
    refused: tuple[Path, list[tuple[int, str]]], case: int
) -> None:
    root, done = refused
    code, errors = done[case]
    assert code == 2 and REFUSED[case][3] in errors and "Traceback" not in errors, errors
    assert not list((root / str(case)).rglob("*.json"))
    # The last two are refused by what the driver says of the GPU, which is asked after the data.
    assert data_of(root / str(case)).exists() == (case >= len(REFUSED) - 2)


def test_where_torch_cannot_use_the_gpu_that_is_said(fake_cuda: Any) -> None:
    asked = "from equibench.bench.tools import gpus; found = gpus.usable_gpus(); print(found.uuids, found.expected);"
    asked += " print(gpus.unused_gpu_warning(found, 'auto', ['cpu']))"

    def said(**variables: str) -> list[str]:
        return fake_cuda("-c", asked, **variables).stdout.splitlines()

    old = said(FAKE_CUDA_DRIVER="12040")
    assert old[0] == "[] True" and OLD in old[1] and "use the CPU" in old[1]
    for hidden in ("", "-1"):
        assert said(CUDA_VISIBLE_DEVICES=hidden) == ["[] False", ""], "who hides the GPU wants the CPU"
    for wrong in ("7", "GPU-9"):
        found = said(CUDA_VISIBLE_DEVICES=wrong)
        assert (
            found[0] == "[] True"
            and f"use the CPU: No CUDA GPUs are available; CUDA_VISIBLE_DEVICES is '{wrong}'" in found[1]
        )


@pytest.mark.whole
def test_where_torch_cannot_use_the_gpu_the_cpu_takes_its_place_and_that_is_said(head_to_head: Any) -> None:
    """`test_where_torch_cannot_use_the_gpu_that_is_said`, with runs."""
    done = head_to_head("auto", "--budget", "e0.1", "--seeds", "1", FAKE_CUDA_DRIVER="12040")
    assert done.returncode == 0 and OLD in done.stderr and "use the CPU" in done.stderr
    hidden = head_to_head("auto", "--budget", "e0.1", "--seeds", "1", CUDA_VISIBLE_DEVICES="")
    assert hidden.returncode == 0 and "use the CPU" not in hidden.stderr, "who hides the GPU wants the CPU"


def test_an_exclusive_gpu_and_an_instance_take_one_run_at_a_time(fake_cuda: Any, tmp_path: Path) -> None:
    for number, variables in enumerate(
        ({"FAKE_NVML_MODE": "3"}, {"FAKE_NVML_MIG": "1", "CUDA_VISIBLE_DEVICES": INSTANCE})
    ):
        done = fake_cuda("tests/fakecuda/one_run.py", str(tmp_path / str(number)), "e0.2", "cuda:0", **variables)
        assert done.returncode == 0 and '"status":"ok"' in done.stdout


def test_rocm_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = gpus.usable_gpus()
    assert found.uuids == [] and found.expected and "ROCm" in gpus.unused_gpu_warning(found, "auto", ["cpu"])
    with pytest.raises(UserError, match="built for ROCm"):
        gpus.one_device("cuda:0")
    assert gpus.one_device("cpu") == "cpu"


def test_only_what_is_wrong_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    modes = {"GPU-0": "default", "GPU-1": "exclusive process", "GPU-2": None}
    monkeypatch.setattr(
        gpu_driver, "find_gpu", lambda uuid: Gpu(uuid, "", None, None, modes[uuid], False) if uuid in modes else None
    )
    here = Gpus(uuids=["GPU-0", "GPU-1", "GPU-2", "GPU-3"])
    for slots in (
        ["cpu", "cpu"],
        ["cuda:0", "cuda:0"],
        ["cuda:0", "cuda:1"],
        ["cuda:2", "cuda:2"],
        ["cuda:3", "cuda:3"],
    ):
        gpus.refuse_modes(slots, here)
    with pytest.raises(UserError, match=r"--device cuda:1: .*EXCLUSIVE_PROCESS"):
        gpus.refuse_modes(["cuda:0", "cuda:1", "cuda:0", "cuda:1"], here)
    for uuid in ("GPU-0", "GPU-2", "GPU-3"):
        gpus.refuse_for_seconds("cuda:0", uuid)
    assert (
        gpus.unused_gpu_warning(Gpus(why="x"), "auto", ["cpu"])
        == gpus.unused_gpu_warning(Gpus(why="x", expected=True), "cpu", ["cpu"])
        == ""
    )


def test_a_run_on_a_device_that_fails_it_says_why(fake_cuda: Any, tmp_path: Path) -> None:
    """As on a node of a cluster, which nobody could look at before."""
    done = fake_cuda("tests/fakecuda/one_run.py", str(tmp_path), "e0.2", "cuda:0", FAKE_CUDA_DRIVER="12040")
    record = json.loads(done.stdout)
    assert (
        record["status"] == "error"
        and OLD in record["reason"]
        and record["provenance"]["hardware"]["device"] == "cuda:0"
    )
    asked = (
        "from equibench.bench.records.provenance import query_hardware_key as ask; from equibench.registry"
        " import UserError\n"
    )
    asked += "try: ask('cuda:0')\nexcept UserError as error: print(error)"
    said = fake_cuda("-c", asked, FAKE_CUDA_DRIVER="12040").stdout
    assert said.startswith("torch cannot use cuda:0 here: ") and OLD in said
