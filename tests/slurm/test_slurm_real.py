"""A real Slurm of one node, brought up for these tests: about four minutes, most of them waiting for its clocks.

    apt-get install slurm-wlm munge
    pytest -m slurm

Runs where slurmctld is installed and the user is root; it touches no other Slurm of the machine.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from equibench.bench.records.record import attempts_of
from equibench.bench.runner.slurm.status import SETTLE_S
from equibench.bench.runner.slurm.sweep import Folder, read_sweep

HERE = Path(__file__).parent
TOOLS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scancel", "scontrol")
MISSING = [tool for tool in TOOLS if shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None]

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (apt-get install slurm-wlm munge)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the daemons of Slurm and munge are started as root"),
]


class Slurm:
    """The one-node cluster, and shells that use it."""

    def __init__(self, folder: Path) -> None:
        self.conf = folder / "slurm.conf"
        self.go = folder / "go"

    def shell(self, *command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
        """Run a command as a fresh login would: nothing of this process's environment."""
        known = {"PATH": "/usr/sbin:/usr/bin:/bin", "HOME": str(cwd), "SLURM_CONF": str(self.conf), **environment}
        if "PYTHONPATH" in os.environ:
            known["PYTHONPATH"] = os.environ["PYTHONPATH"]
        return subprocess.run(command, cwd=cwd, env=known, capture_output=True, text=True, timeout=120)

    def equibench(self, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
        return self.shell(sys.executable, "-m", "equibench.bench.cli", *arguments, cwd=cwd, **environment)

    def run(self, folder: Path, *options: str) -> subprocess.CompletedProcess:
        """Submit the suite ``trial.toml`` of a folder."""
        included = ["--include", str(HERE.parent / "bench" / "tiny.py"), "--include", str(HERE / "waits.py")]
        usual = ["--engine", "slurm", "--partition", "main", "--gpus-per-run", "0"]
        return self.equibench(
            "run", "trial.toml", *usual, *included, *options, cwd=folder, EQUIBENCH_TEST_GO=str(self.go)
        )

    def states(self, folder: Path) -> list[dict[str, str]]:
        done = self.equibench("status", "--json", cwd=folder)
        assert done.returncode == 0, done.stderr
        return [task for one in json.loads(done.stdout)["sweeps"] for task in one["tasks"]]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    folder = tmp_path_factory.mktemp("slurm")
    # More processors than there may be: tasks wait, and several must run at once.
    environment = {**os.environ, "CPUS": "4", "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    try:
        up = subprocess.run([HERE / "up.sh", folder], env=environment, capture_output=True, text=True, timeout=120)
        assert up.returncode == 0, up.stdout + up.stderr
        yield Slurm(folder)
    finally:
        subprocess.run([HERE / "down.sh", folder], env=environment, timeout=120)


def suite(folder: Path, models: list[str], seeds: int = 1) -> Path:
    text = f'dataset = "bars"\nbudget = "e4"\nseeds = {seeds}\nmodels = {json.dumps(models)}\n'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trial.toml").write_text(text)
    return folder


def until(what: Callable[[], bool], seconds: float = 240.0) -> None:
    """Wait for something; fail when it takes too long."""
    late = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < late, "this takes too long"
        time.sleep(2.0)


def sweep_of(folder: Path, name: str) -> Folder:
    return read_sweep(folder / "leaderboards" / ".sweeps" / name)


def kill_hard(folder: Folder, index: int) -> None:
    """SIGKILL a task and all processes below it, as a node that dies would."""
    said = folder.heartbeat(index)
    assert said is not None
    found = [said[0].pid]
    for pid in found:  # it grows: the process of the run is a copy, made by a child of the task
        children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
        found += map(int, children)
    for pid in found:
        os.kill(pid, signal.SIGKILL)


def test_a_sweep_survives_the_death_of_a_task(slurm: Slurm, tmp_path: Path) -> None:
    folder = suite(tmp_path, ["waits", "tiny", "bad-raises", "bad-exits"])
    slurm.go.unlink(missing_ok=True)
    submitted = slurm.run(folder, "--time-limit", "10", "--checkpoint", "0.001")
    assert submitted.returncode == 0 and "trial-1: 4 runs submitted as job" in submitted.stdout, submitted
    again = slurm.run(folder)
    assert again.returncode == 0 and "nothing to submit; 4 queued or running in trial-1" in again.stdout, again

    def only_one_is_left() -> bool:
        states = [t["state"] for t in slurm.states(folder)]
        return states[1:] == ["ok", "error", "error"] and states[0] == "running"

    until(only_one_is_left)  # the failures of two have cancelled nothing
    first = sweep_of(folder, "trial-1")
    kill_hard(first, 0)
    until(lambda: slurm.states(folder)[0]["state"] == "ending")
    assert "queued or running in trial-1" in slurm.run(folder, "--models", "waits").stdout, "its record may still come"
    # Instead of waiting for as long as a file system may take to show a record.
    os.utime(first.heartbeat_file(0), (time.time() - SETTLE_S - 5,) * 2)
    assert slurm.states(folder)[0]["state"] == "lost"

    collected = slurm.equibench("collect", "trial", cwd=folder)
    assert collected.returncode == 1, collected
    assert (
        "lost: left the queue without a report, at step" in collected.stdout
        and "a checkpoint of step 2" in collected.stdout
    )
    assert "this model always fails" in collected.stdout
    rows = (folder / "leaderboards" / "bars-e4-common-v2.csv").read_text().splitlines()
    assert len(rows) == 5 and rows[1].startswith("tiny,")

    slurm.go.touch()
    resumed = slurm.run(folder)
    assert "trial-2: 3 runs submitted" in resumed.stdout and "1 finished before" in resumed.stdout, resumed
    until(lambda: [t["state"] for t in slurm.states(folder)[4:]] == ["ok", "error", "error"])
    job = sweep_of(folder, "trial-2").job(0)
    assert job is not None
    records = attempts_of(folder / "leaderboards", job.spec)
    assert [(r.attempt, r.status) for r in records] == [(1, "lost"), (2, "ok")]
    assert "resumed after step 2 of" in " ".join(records[1].warnings), records[1].warnings
    collected = slurm.equibench("collect", "trial-2", cwd=folder)
    assert collected.returncode == 1 and "lost" not in collected.stdout, collected


def test_time_limit_requeue_and_cancellation(slurm: Slurm, tmp_path: Path) -> None:
    slurm.go.unlink(missing_ok=True)
    limited, requeued = suite(tmp_path / "limited", ["waits"]), suite(tmp_path / "requeued", ["waits"])
    assert slurm.run(limited, "--time-limit", "1").returncode == 0
    assert slurm.run(requeued, "--checkpoint", "1").returncode == 0
    until(lambda: slurm.states(requeued)[0]["state"] == slurm.states(limited)[0]["state"] == "running")
    sweep = sweep_of(requeued, "trial-1")
    until(lambda: sweep.heartbeat(0) is not None)
    # As preemption does: SIGTERM, and back into the queue.
    assert sweep.submitted is not None
    number = f"{sweep.submitted.array}_0"
    assert slurm.shell("scontrol", "requeue", number, cwd=tmp_path).returncode == 0
    until(lambda: slurm.states(requeued)[0]["state"] == "queued")
    assert "nothing to submit; 1 queued or running in trial-1" in slurm.run(requeued).stdout
    until(lambda: slurm.states(limited)[0]["state"] == "timeout")
    assert "time limit of 60 s" in slurm.states(limited)[0]["detail"]

    # Before it has started again nothing is lost if it is taken out of the queue; afterwards it runs to its end.
    slurm.go.touch()
    slurm.shell("scontrol", "update", f"JobId={number}", "StartTime=now", cwd=tmp_path)
    until(lambda: slurm.states(requeued)[0]["state"] == "ok")
    # The record is what makes it so; the task says that it has ended a moment later.
    until(lambda: (found := sweep.heartbeat(0)) is not None and found[0].ended == "ok")
    heartbeat, _ = sweep.heartbeat(0) or pytest.fail("no heartbeat")
    assert heartbeat.restarts == 1
    assert slurm.equibench("collect", cwd=requeued).returncode == 0
    rerun = slurm.run(limited)
    assert "trial-2: 1 run submitted" in rerun.stdout and "1 of earlier sweeps found lost" in rerun.stdout, rerun
    until(lambda: slurm.states(limited)[1]["state"] == "ok")


def test_what_slurm_refuses_leaves_nothing(slurm: Slurm, tmp_path: Path) -> None:
    folder = suite(tmp_path, ["tiny"])
    refused = slurm.run(folder, "--partition", "nope")
    assert refused.returncode == 2 and refused.stdout == "" and len(refused.stderr.splitlines()) == 1
    assert "sbatch refused the sweep: " in refused.stderr and "artition" in refused.stderr
    assert not list(folder.rglob("*.json"))
    gpu = slurm.run(folder, "--gpus-per-run", "1")
    assert gpu.returncode == 2 and "sbatch refused the sweep" in gpu.stderr, "this cluster has no GPU"
