"""Sweeps without a cluster: tools called sbatch, squeue and scancel that write down what they are asked.

What a real Slurm does with the same commands is tested in tests/slurm.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from equibench.bench.records.calibration import Block, write_calibration
from equibench.bench.records.record import attempts_of, read_board
from equibench.bench.runner import admission, device_seconds
from equibench.bench.runner.device_seconds import TimedBoard
from equibench.bench.runner.no_result import write_without_result
from equibench.bench.runner.slurm import status as cluster
from equibench.bench.runner.slurm import sweep
from equibench.bench.runner.slurm import task as slurm_task
from equibench.bench.runner.slurm.scheduler import Request, ask_queue, parse_time_limit
from equibench.bench.runner.slurm.status import GRACE_S, SETTLE_S, sweep_states
from equibench.bench.runner.slurm.submit import SubmissionInput, submit_suite, write_timed_jobs
from equibench.bench.runner.slurm.sweep import Folder, Heartbeat, read_sweep
from equibench.bench.spec.suite import Suite
from equibench.bench.tools.gpu_processes import OtherProcesses
from equibench.bench.tools.machine import Machine
from equibench.bench.training.job import Job
from equibench.registry import UserError, include

TINY = Path(__file__).parents[2] / "tiny.py"
KEY = "Some GPU; 80 GiB; torch 2.12; CUDA 13.0"

SBATCH = """
import json, os, sys
from pathlib import Path
here = Path(os.environ["FAKE_SLURM"])
if "--partition=nope" in sys.argv:
    sys.exit("sbatch: error: invalid partition specified: nope\\n"
             "sbatch: error: Batch job submission failed: Invalid partition name specified")
number = len(list(here.glob("job-*"))) + 17
if (here / "full").exists() and number > 17:
    sys.exit("sbatch: error: Batch job submission failed: Job violates accounting/QOS policy")
(here / f"job-{number}").write_text(json.dumps(sys.argv[1:]))
print(f"{number};cluster")
"""
SQUEUE = """
import os, sys
from pathlib import Path
here = Path(os.environ["FAKE_SLURM"])
if (here / "silent").exists():
    sys.exit("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
names = next(a for a in sys.argv if a.startswith("--name=")).removeprefix("--name=").split(",")
for line in (here / "queue").read_text().splitlines() if (here / "queue").exists() else []:
    if line.split("|")[0] in names:
        print(line)
"""
SCANCEL = """
import os, sys
from pathlib import Path
(Path(os.environ["FAKE_SLURM"]) / f"cancelled-{sys.argv[1]}").touch()
"""


class Fake:
    """What the tools were asked, and what they answer."""

    def __init__(self, here: Path) -> None:
        self.here = here

    @property
    def jobs(self) -> list[list[str]]:
        return [json.loads(p.read_text()) for p in sorted(self.here.glob("job-*"))]

    def lists(self, folder: Folder | None, **states: str) -> None:
        """Let squeue list tasks of a sweep, as ``_0="RUNNING|None"``."""
        lines = [f"{folder.sweep.job_name}|{i.strip('_')}|{state}" for i, state in states.items()] if folder else []
        (self.here / "queue").write_text("\n".join(lines))

    def silence(self) -> None:
        (self.here / "silent").touch()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    tools, here = tmp_path / "tools", tmp_path / "fake"
    tools.mkdir()
    here.mkdir()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL)):
        (tools / name).write_text(f"#!{sys.executable} -SE\n{text}")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_SLURM", str(here))
    monkeypatch.setenv("EQUIBENCH_DATA", "/data of ours/it's here")
    return Fake(here)


def given(models: str = "tiny bad-raises", seeds: int = 2, budget: str = "smoke", **changes: Any) -> SubmissionInput:
    values = {"name": "trial", "dataset": "bars", "budget": budget, "seeds": seeds, "models": models.split()}
    usual = {
        "request": Request(partition="main", gpus=0, time_limit="10"),
        "asked": Machine(includes=(str(TINY),), command="made up"),
    }
    return SubmissionInput(Suite.model_validate(values), **{**usual, **changes})


def send(root: Path, fake: Fake, **changes: Any) -> Folder:
    """Submit a sweep of which every task waits."""
    done = submit_suite(given(**changes), root)
    assert done.folder is not None
    fake.lists(done.folder, **{f"_{i}": "PENDING|Resources" for i in range(len(done.folder.sweep.tasks))})
    return done.folder


def job(folder: Folder, index: int) -> Job:
    found = folder.job(index)
    assert found is not None
    return found


def starts(folder: Folder, index: int, ago: float = 0.0, started: float | None = None, **changes: Any) -> Heartbeat:
    """Let a task say that it started, and be silent since `ago` seconds."""
    heartbeat = slurm_task.HeartbeatWriter(folder, index, job(folder, index)).heartbeat
    heartbeat = heartbeat.model_copy(update={"started": time.time() - (started or ago), **changes})
    folder.write_heartbeat(index, heartbeat)
    os.utime(folder.heartbeat_file(index), (time.time() - ago,) * 2)
    return heartbeat


def kinds(root: Path) -> list[list[str]]:
    views, _ = sweep_states(root, sweep.all_sweeps(root)[0])
    return [[s.kind for s in v.states] for v in views]


def backdate(folder: Folder) -> None:
    """Let a sweep have been submitted some time ago."""
    file = folder.path / "sweep.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "created": values["created"] - 2 * SETTLE_S}))


def test_one_array_is_submitted_and_its_jobs_are_plain_files(fake: Fake, tmp_path: Path) -> None:
    extra = ("--constraint=a100", "--qos=low")
    request = Request("main", "group", 0, "1-12", extra)
    asked = Machine(jobs=5, threads=3, includes=(str(TINY),), command="made up")
    done = submit_suite(given(request=request, asked=asked), tmp_path / "r")
    assert done.folder and done.submitted and done.submitted.array == "17" and not done.active and not done.finished
    (options,) = fake.jobs
    asked = {"--array=0-3%5", "--partition=main", "--account=group", "--time=1-12", "--cpus-per-task=3", "--requeue"}
    assert asked <= set(options)
    assert not any(o.startswith("--gres") for o in options) and set(extra) <= set(options)
    script = Path(options[-1])
    assert script.is_relative_to(tmp_path / "r" / ".sweeps" / "trial-1")
    # A shell reads the script correctly if paths have special characters.
    line = script.read_text().replace("exec ", "printf '%s\\n' \"$EQUIBENCH_DATA\" ")
    shown = subprocess.run(["sh", "-c", line], capture_output=True, text=True, env={}).stdout.splitlines()
    assert shown[0] == "/data of ours/it's here" and shown[1] == sys.executable and shown[-1] == str(done.folder.path)
    jobs = [Job.model_validate_json((done.folder.path / "jobs" / f"{i}.json").read_text()) for i in range(4)]
    assert [(j.spec.model, j.spec.seed) for j in jobs] == [
        ("tiny", 0),
        ("bad-raises", 0),
        ("tiny", 1),
        ("bad-raises", 1),
    ]
    assert jobs[0].include == [str(TINY)] and Path(jobs[0].results).is_absolute() and jobs[0].device == "cpu"
    assert read_sweep(done.folder.path) == done.folder, "another process reads what was written"


def test_what_is_on_its_way_or_finished_is_not_submitted_again(fake: Fake, tmp_path: Path) -> None:
    folder = send(tmp_path, fake)
    again = submit_suite(given(), tmp_path)
    assert again.folder is None and again.active == {"trial-1": 4} and len(fake.jobs) == 1
    more = submit_suite(given("tiny tiny-dropout"), tmp_path)
    assert more.folder is not None and more.folder.name == "trial-2" and more.active == {"trial-1": 2}
    assert [t.model for t in more.folder.sweep.tasks] == ["tiny-dropout"] * 2
    assert folder.sweep.job_name != more.folder.sweep.job_name


def test_every_point_of_a_family_is_a_sweep_of_its_own(fake: Fake, tmp_path: Path) -> None:
    lines = []
    for images, board in (
        (120, "bars-e2-common-n120img-v2"),
        (200, "bars-e2-common-n200img-v2"),
        (240, "bars-e2-common-v2"),
    ):
        usual = given("tiny", budget="e2")
        asked = replace(usual, suite=usual.suite.model_copy(update={"train_images": images}))
        folder = submit_suite(asked, tmp_path).folder
        assert folder is not None and read_sweep(folder.path).sweep.suite.train_images == images
        spec = job(folder, 0).spec
        assert spec.board == board and spec.train_images == (None if images == 240 else images)
        assert spec.steps == 2 * images // spec.recipe.batch
        lines += [f"{folder.sweep.job_name}|{i}|PENDING|Resources" for i in range(2)]
        (fake.here / "queue").write_text("\n".join(lines))
        assert submit_suite(asked, tmp_path).active == {folder.name: 2}


def test_what_the_scheduler_refuses_leaves_nothing(fake: Fake, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^sbatch refused the sweep: invalid partition specified: nope; Batch job .* specified$"
    ):
        submit_suite(given(request=Request("nope", gpus=0)), tmp_path / "r")
    assert not list((tmp_path / "r").rglob("*.json")) and not list((tmp_path / "r" / ".sweeps").glob("*-*"))
    assert submit_suite(given(), tmp_path / "r").folder is not None, "the name is free again"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--engine", "slrum"), "'slrum' is not one of 'local', 'slurm'"),
        (("--partition", "main"), "--partition goes with --engine slurm"),
        (("--sbatch-option=--mem=8G",), "--sbatch-option goes with --engine slurm"),
        (("--engine", "slurm", "--gpus-per-run", "2"), "a run uses one GPU"),
        (("--engine", "slurm", "--time-limit", "an hour"), "--time-limit 'an hour'"),
        (("--engine", "slurm", "--device", "cuda:1"), "the scheduler chooses"),
        (("--engine", "slurm", "--sbatch-option=mem=8G"), "write the option of sbatch"),
        (("--engine", "slurm", "--sbatch-option=--array=0-9"), "sets --array itself"),
        (("--engine", "slurm", "--budget", "t10", "--gpus-per-run", "0"), "counts device-seconds"),
        (("--engine", "slurm", "--class", "matched", "--models", "tiny"), "--reference-parameters"),
    ],
)
def test_wrong_options_are_one_sentence(
    fake: Fake, tmp_path: Path, arguments: tuple[str, ...], message: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = in_process(
        ["run", str(suite_file(tmp_path)), "--include", str(TINY), *arguments], tmp_path, monkeypatch, capsys
    )
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1
    assert not fake.jobs and not (tmp_path / "leaderboards").exists()


def suite_file(folder: Path) -> Path:
    path = folder / "trial.toml"
    path.write_text('dataset = "bars"\nbudget = "smoke"\nseeds = 1\nmodels = ["tiny", "bad-raises"]\n')
    return path


def in_process(arguments: list[str], cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> tuple[int, str, str]:
    from equibench.bench.cli import main as cli

    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", ["equibench", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0), *capsys.readouterr()


def test_the_login_node_loads_neither_torch_nor_data(fake: Fake, tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['equibench', *{!r}]\n"
        "from equibench.bench.cli import main as cli\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print([m for m in ('torch', 'numpy', 'pandas', 'escnn', 'mlxtend') if m in sys.modules], file=sys.stderr)"
    )
    run = [
        "run",
        str(suite_file(tmp_path)),
        "--engine",
        "slurm",
        "--include",
        str(TINY),
        "--results",
        str(tmp_path / "r"),
    ]
    for arguments in (run, ["status", "--results", str(tmp_path / "r")]):
        done = subprocess.run([sys.executable, "-c", code.format(arguments)], capture_output=True, text=True)
        assert done.stderr.splitlines()[-1] == "[]", done
    assert "2 runs" in done.stdout and any("--gres=gpu:1" in options for options in fake.jobs)


def test_without_sbatch_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, err = in_process(
        ["run", str(suite_file(tmp_path)), "--engine", "slurm", "--include", str(TINY)], tmp_path, monkeypatch, capsys
    )
    assert code == 2 and not out and "no sbatch on this machine's PATH" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "leaderboards").exists()


def test_states_are_told_from_files_and_queue(fake: Fake, tmp_path: Path) -> None:
    folder = send(tmp_path, fake, seeds=4)
    assert kinds(tmp_path) == [["queued"] * 8]
    fake.lists(folder, _0="PENDING|Priority", _1="RUNNING|None", _2="COMPLETING|None", _3="RUNNING|None")
    starts(folder, 2)
    starts(folder, 4, ago=5)  # left the queue a moment ago: its record may follow
    starts(folder, 5, ago=SETTLE_S + 5)  # killed hard
    starts(folder, 6, ago=5, ended="stopped")  # asked to end, and not put back into the queue
    expected = ["queued", "running", "running", "running", "ending", "lost", "lost", "queued"]
    assert kinds(tmp_path) == [expected], "the last is not listed, but the sweep is a moment old"
    backdate(folder)
    assert kinds(tmp_path)[0][-1] == "cancelled", "taken out of the queue before it started"
    starts(folder, 6, ago=5, started=590.0, ended="stopped")
    assert kinds(tmp_path)[0][6] == "timeout", "its time limit of ten minutes"


def test_without_an_answer_nothing_is_guessed(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = send(tmp_path, fake)
    fake.silence()
    backdate(folder)
    starts(folder, 1, ago=300)
    starts(folder, 2, ago=600 + GRACE_S - 60)
    starts(folder, 3, ago=600 + GRACE_S + 60)
    assert kinds(tmp_path) == [["unknown", "unknown", "unknown", "lost"]]
    code, _, err = in_process(["status", "--results", str(tmp_path)], tmp_path, monkeypatch, capsys)
    assert code == 0 and "unknown because squeue does not answer" in err and "Unable to contact slurm controller" in err
    again = submit_suite(given(), tmp_path)
    assert again.folder and [(t.model, t.seed) for t in again.folder.sweep.tasks] == [("bad-raises", 1)]
    assert again.active == {"trial-1": 3} and "unknown" in again.note
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask_queue(["x"]).silence == "there is no squeue here"


def test_a_lost_run_is_recorded_once_and_submitted_again(fake: Fake, tmp_path: Path) -> None:
    folder = send(tmp_path, fake)
    backdate(folder)
    fake.lists(folder, _0="RUNNING|None", _2="PENDING|Resources", _3="PENDING|Resources")
    heartbeat = starts(folder, 1, ago=SETTLE_S + 5, step=3, node="node-of-alice")
    views, _ = sweep_states(tmp_path, sweep.all_sweeps(tmp_path)[0])
    assert views[0].states[1].detail.endswith("at step 3 of 6 on node-of-alice"), "the user needs the name of the node"
    assert cluster.record_killed_tasks(views) == 1 and cluster.record_killed_tasks(views) == 0
    (record,) = attempts_of(tmp_path, job(folder, 1).spec)
    assert record.status == "lost" and record.attempt == 1 and record.reason.endswith("at step 3 of 6")
    assert "alice" not in record.canonical(), "no record has the name of a machine"
    assert record.provenance == heartbeat.provenance, "of the node, not of who collects"
    again = submit_suite(given(), tmp_path)
    assert again.folder and [(t.model, t.seed) for t in again.folder.sweep.tasks] == [("bad-raises", 0)]
    assert job(again.folder, 0).attempt == 2 and again.active == {"trial-1": 3}


def test_collect_and_status_name_what_they_do_not_know(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for command in ("status", "collect"):
        assert "there are no sweeps" in in_process([command], tmp_path, monkeypatch, capsys)[2]
    folder = send(tmp_path / "leaderboards", fake)
    code, _, err = in_process(["status", "trial-2"], tmp_path, monkeypatch, capsys)
    assert code == 2 and "trial-1" in err
    (folder.path / "sweep.json").write_text('{"schema_version": 7}')
    code, _, err = in_process(["status"], tmp_path, monkeypatch, capsys)
    assert code == 2 and "sweep.json" in err and len(err.splitlines()) == 1


def test_a_task_runs_its_job_and_a_dead_process_becomes_a_row(fake: Fake, tmp_path: Path) -> None:
    folder = send(tmp_path, fake, models="tiny bad-exits", seeds=1)
    script = Path(fake.jobs[0][-1])
    for index in (0, 1):
        environment = {"PATH": "/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": str(index), "SLURM_JOB_ID": "18"}
        done = subprocess.run(["sh", str(script)], env=environment, cwd="/", capture_output=True, text=True)
        assert done.returncode == 0, "a run that fails is a row, not a failure of the task" + done.stderr
    assert kinds(tmp_path) == [["ok", "error"]]
    heartbeat, _ = folder.heartbeat(0) or pytest.fail("no heartbeat")
    assert heartbeat.ended == "ok" and heartbeat.job == "18" and heartbeat.step == 6
    (failed,) = attempts_of(tmp_path, job(folder, 1).spec)
    assert "exit code 7" in failed.reason
    logs = {p.name for p in (tmp_path / "runs" / "bars-smoke-common-v2" / "logs").iterdir()}
    assert logs == {f"{job(folder, i).spec.digest()}.1.log" for i in (0, 1)}
    again = submit_suite(given("tiny bad-exits", seeds=1), tmp_path)
    assert again.finished == 1 and again.folder and [t.model for t in again.folder.sweep.tasks] == ["bad-exits"]


def test_a_model_outside_the_matched_class_is_refused_or_becomes_a_row(fake: Fake, tmp_path: Path) -> None:
    values = {
        "name": "m",
        "dataset": "bars",
        "budget": "smoke",
        "seeds": 1,
        "class": "matched",
        "reference_parameters": 500,
    }
    suite = Suite.model_validate({**values, "models": ["tiny-dropout"]})
    declared = suite.model_copy(update={"models": ["tiny"]})
    request, here = Request(gpus=0), Machine(includes=(TINY,))
    with pytest.raises(UserError, match="242 parameters, outside 475 to 525"):
        submit_suite(SubmissionInput(declared, request, here), tmp_path)
    done = submit_suite(SubmissionInput(suite, request, here), tmp_path)  # not declared: counted on the node
    assert done.folder is not None and slurm_task.run_task(done.folder, 0) == 0
    (record,) = attempts_of(tmp_path, job(done.folder, 0).spec)
    assert record.status == "invalid" and "242 parameters, outside 475 to 525" in record.reason


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("1:30", 90), ("2:00:00", 7200), ("1-0", 86400), ("1-12:30", 131400), ("1-0:0:5", 86405)],
)
def test_time_limits_are_read_as_slurm_reads_them(text: str, seconds: float) -> None:
    assert parse_time_limit(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "x", "1h", "-5", "1:2:3:4", "1-", "UNLIMITED"])
def test_other_time_limits_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--time-limit"):
        parse_time_limit(text)


# Budgets of device-seconds


def timed_given(**changes: Any) -> SubmissionInput:
    return given("tiny tiny-dropout", budget="t10", request=Request("gpu"), **changes)


def calibrated(root: Path, key: str = KEY, step_s: float = 0.01, models: str = "tiny tiny-dropout") -> None:
    """Write calibrations of both models for a device."""
    include([TINY])
    board = TimedBoard(timed_given().suite, root, {}, timed_given().machine, key)
    for model in models.split():
        subject = board._subject(model).model_copy(update={"blocks": [Block(steps=100, seconds=100 * step_s)]})
        write_calibration(root, board.board, subject)


def test_a_budget_of_seconds_calibrates_on_the_node_before_the_array(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = submit_suite(timed_given(), tmp_path)
    first, array = fake.jobs
    assert done.folder and done.submitted and done.submitted.calibration == "17" and done.submitted.array == "18"
    assert {"--dependency=afterok:17", "--kill-on-invalid-dep=yes", "--array=0-3"} <= set(array)
    assert all({"--gres=gpu:1", "--partition=gpu"} <= set(job) for job in (first, array))
    assert "--calibrate" in Path(first[-1]).read_text() and "--calibrate" not in Path(array[-1]).read_text()
    fake.lists(done.folder, **{f"_{i}": "PENDING|Dependency" for i in range(4)})
    assert kinds(tmp_path) == [["queued"] * 4] and submit_suite(timed_given(), tmp_path).active == {"trial-1": 4}
    # On the node: what is known of the device is not measured again.
    monkeypatch.setattr(admission, "query_devices", lambda devices: {device: (KEY, "GPU-0") for device in devices})
    calibrated(tmp_path)
    write_timed_jobs(done.folder)
    assert [job(done.folder, i).spec.steps for i in range(4)] == [1000] * 4
    assert job(done.folder, 3).spec.hardware_key == KEY and job(done.folder, 3).spec.seed == 1
    assert kinds(tmp_path) == [["queued"] * 4] and submit_suite(timed_given(), tmp_path).active == {"trial-1": 4}


def test_on_the_node_the_memory_of_hidden_processes_is_looked_for_too(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As without a cluster: no step is measured beside a process that only its memory shows."""
    folder, seen = submit_suite(timed_given(), tmp_path).folder, {}
    assert folder is not None

    def open_one(_: TimedBoard, device: str, model: str, before_mib: float | None, stack: Any) -> Any:
        seen[model] = before_mib
        block = Block(steps=100, seconds=1.0, gpu="GPU-0")
        return SimpleNamespace(ready=lambda: None, block=lambda: block)

    monkeypatch.setattr(admission, "query_devices", lambda devices: {device: (KEY, "GPU-0") for device in devices})
    monkeypatch.setattr(device_seconds, "memory_held_mib", lambda uuid: 500.0 if uuid == "GPU-0" else None)
    monkeypatch.setattr(TimedBoard, "_open_one", open_one)
    write_timed_jobs(folder)
    assert seen == {"tiny": 500.0, "tiny-dropout": 500.0} and job(folder, 0).spec.steps == 1000


def test_known_step_times_are_used_and_must_be_of_one_device(fake: Fake, tmp_path: Path) -> None:
    calibrated(tmp_path)
    done = submit_suite(timed_given(), tmp_path)
    assert (
        done.submitted and done.submitted.calibration is None and done.folder and job(done.folder, 0).spec.steps == 1000
    )
    calibrated(tmp_path, KEY.replace("Some", "Other"), 0.02)
    with pytest.raises(UserError, match=r"several kinds of device: .*--hardware"):
        submit_suite(timed_given(), tmp_path)
    with pytest.raises(UserError, match="not calibrated on such a device"):
        submit_suite(timed_given(hardware="third"), tmp_path)
    other = submit_suite(timed_given(hardware="other gpu"), tmp_path)
    assert other.folder and job(other.folder, 0).spec.steps == 500


def test_a_step_known_to_be_too_long_is_a_row_and_is_not_submitted(fake: Fake, tmp_path: Path) -> None:
    """10 s hold one step of 6 s, which is 60 % of them: its run could only be invalid, after hours in the queue."""
    calibrated(tmp_path, models="tiny")
    calibrated(tmp_path, models="tiny-dropout", step_s=6.0)
    done = submit_suite(timed_given(), tmp_path)
    assert done.folder and [task.model for task in done.folder.sweep.tasks] == ["tiny", "tiny"]
    assert done.note.startswith("not submitted: tiny-dropout: a step takes 6 s, so 1 step would take 60.0 % of the")
    board = timed_given().suite.board(KEY)
    rows = {r.spec.seed: r for r in read_board(tmp_path, board)[0]}
    assert set(rows) == {0, 1} and {(r.spec.model, r.status) for r in rows.values()} == {("tiny-dropout", "invalid")}
    assert all("use a longer budget" in r.reason for r in rows.values())
    nothing = submit_suite(given("tiny-dropout", budget="t10", request=Request("gpu")), tmp_path)
    assert nothing.folder is None and "not submitted: tiny-dropout" in nothing.note


def test_a_run_that_drifted_is_calibrated_again_and_a_refused_array_cancels_its_calibration(
    fake: Fake, tmp_path: Path
) -> None:
    calibrated(tmp_path)
    folder = submit_suite(timed_given(), tmp_path).folder
    assert folder is not None
    provenance = slurm_task.HeartbeatWriter(folder, 0, job(folder, 0)).heartbeat.provenance
    write_without_result(job(folder, 0), "invalid", "not alone on its GPU: python (7)", provenance)
    fake.lists(None)
    backdate(folder)
    again = submit_suite(timed_given(), tmp_path)
    assert again.submitted and again.submitted.calibration is None, "company says nothing about the step time"
    assert again.folder is not None
    write_without_result(job(again.folder, 0), "invalid", "drift: 12.00 s for a budget of 10 s (±3 %)", provenance)
    backdate(again.folder)
    for path in fake.here.glob("job-*"):
        path.unlink()
    (fake.here / "full").touch()
    with pytest.raises(UserError, match="violates accounting"):
        submit_suite(timed_given(), tmp_path)
    assert (fake.here / "cancelled-17").exists() and not (tmp_path / ".sweeps" / "trial-3").exists()
    (fake.here / "full").unlink()
    third = submit_suite(timed_given(), tmp_path)
    assert third.folder and third.folder.sweep.calibrates and third.folder.sweep.forgotten == ["tiny"]


def test_a_node_of_another_kind_makes_no_row_of_the_board(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrated(tmp_path)
    folder = submit_suite(timed_given(), tmp_path).folder
    assert folder is not None
    monkeypatch.setattr(slurm_task, "query_hardware_key", lambda device: "Another GPU")
    assert slurm_task.run_task(folder, 0) == 0
    (record,) = attempts_of(tmp_path, job(folder, 0).spec)
    assert record.status == "invalid" and "this node has Another GPU" in record.reason


def test_company_makes_a_run_that_counts_seconds_invalid(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from equibench.bench.measures.clock import Phases
    from equibench.bench.training import run as run_module
    from equibench.bench.training.job import Events
    from equibench.bench.training.stopping import Stop

    calibrated(tmp_path)
    timed_run, other = submit_suite(timed_given(), tmp_path).folder, submit_suite(given(), tmp_path).folder
    assert timed_run is not None and other is not None
    runs = [run_module.Run(job(f, 0), Events(sys.stdout), Phases(0.0), Stop()) for f in (timed_run, other)]
    seen = OtherProcesses("not alone on its GPU: neighbour (7)", count=2)
    for run in runs:
        run.watch = SimpleNamespace(look=lambda: seen, found=seen)  # type: ignore[assignment]
    assert runs[0]._company() == "not alone on its GPU: neighbour (7)"
    assert runs[1]._company() == "", "other processes do not change equal examples"
    assert (
        runs[1].ledger.sharing == 2
        and "up to 2 runs shared the device" in runs[1].ledger.warnings({"other_s": 0.0, "total_s": 1.0})[0]
    )
    seen = OtherProcesses(unknown="nobody says")
    runs[0].watch = SimpleNamespace(look=lambda: seen, found=seen)  # type: ignore[assignment]
    assert runs[0]._company() == "", "what is unknown makes no run invalid"
    assert "is unknown: nobody says" in runs[0].ledger.warnings({"other_s": 0.0, "total_s": 1.0})[0]
