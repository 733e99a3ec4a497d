"""Several runs on one GPU: the same weights, times that nobody takes for the model's, failures that are nobody else's.

There is no GPU where these tests run: what a GPU is shared for is played by two processes on the CPU.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from equibench.bench.boards.rows import model_rows, run_rows
from equibench.bench.boards.terminal_table import board_table
from equibench.bench.cli.main import cli
from equibench.bench.records.provenance import SHARED, WAITED, sharing_fact, waiting_fact
from equibench.bench.records.record import WAITING_SHARE
from equibench.bench.runner import admission
from equibench.bench.runner.admission import refuse_sharing
from equibench.bench.runner.agenda import in_order, job_of
from equibench.bench.runner.head_to_head import Outcome, run
from equibench.bench.spec.suite import Suite, plan
from equibench.bench.tools.machine import Machine, waited_s
from equibench.bench.training.checkpoint import read_checkpoint
from equibench.registry import UserError, include

from .. import made
from ..faults import process

HERE = Path(__file__).parents[1]
TINY = HERE / "tiny.py"
#: Tests have another, see `conftest`; this module is imported before that.
SHIPPED = WAITING_SHARE
#: Runs out of memory when it is trained while a file is there, and removes it.
ONCE = """
import os, torch
from pathlib import Path
from torch import nn
from equibench import register_model

MARK = Path(os.environ["EQUIBENCH_TEST_MARK"])

class Net(nn.Sequential):
    def forward(self, images):
        if self.training and len(images) > 2:
            try:
                MARK.unlink()  # by the first process only
            except FileNotFoundError:
                pass
            else:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB")
        return super().forward(images)

@register_model("oom-once", group="none", invariant="none", source="made up")
def net(in_channels, num_classes, image_size):
    return Net(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))
"""


def test_slots_stand_for_every_run_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equibench.bench.tools.machine.usable_cores", lambda: 4)
    machine = Machine("cuda:0,cuda:1", seeds_in_parallel=3)
    assert sorted(machine.slots(2)) == ["cuda:0"] * 3 + ["cuda:1"] * 3 and machine.sharing(machine.slots(2)) == 3
    assert machine.slots(2)[:2] == ["cuda:0", "cuda:1"], "the first runs get a GPU each"
    assert Machine("auto", seeds_in_parallel=2).slots(1) == ["cuda:0", "cuda:0"]
    assert Machine("cuda", jobs=3, seeds_in_parallel=4).slots(2) == ["cuda:0", "cuda:1", "cuda:0"]
    assert machine.sharing(Machine("cuda,cuda:0").slots(1)) == 2, "a GPU that is named twice is shared as well"
    assert machine.sharing(Machine("cuda:1").slots(2)) == 1
    for jobs, threads, sharing in ((4, 1, 1), (2, 2, 1), (5, 1, 5), (2, 3, 2), (1, 8, 1)):
        crowded = Machine("cpu", jobs=jobs, threads=threads)
        assert crowded.sharing(crowded.slots(0)) == sharing, "more threads than cores take time from each other"
    assert [len(Machine("cpu", threads=t).slots(0)) for t in (1, 2, 3, 9)] == [4, 2, 1, 1]
    with pytest.raises(UserError, match="use --jobs N"):
        Machine("cpu", seeds_in_parallel=2).slots(1)


@pytest.mark.parametrize(
    ("device", "there", "says"),
    [
        ("cuda:5", 2, r"'cuda:5': torch sees 2 CUDA devices here; use cuda:0 to cuda:1$"),
        ("cuda:0,cuda:1", 1, r"'cuda:1': torch sees 1 CUDA device here; use cuda:0$"),
        ("cuda", 0, r"'cuda:0': torch sees 0 CUDA devices here \(too old\); use --device cpu$"),
        ("cuda:²", 2, "use auto, cpu, cuda or cuda:<number>"),
        ("cuda:-1", 2, "use auto, cpu, cuda or cuda:<number>"),
        ("mps", 2, "use auto, cpu, cuda or cuda:<number>"),
    ],
)
def test_a_device_that_is_not_there_is_refused_with_those_that_are(device: str, there: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Machine(device).slots(there, "" if there else "too old")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--budget", "t20", "--seeds-in-parallel", "2"], "budget 't20' counts device-seconds"),
        (["--budget", "e2", "--seeds-in-parallel", "0"], "'--seeds-in-parallel': 0 is not in the range x>=1"),
        (["--budget", "e2", "--seeds-in-parallel", "2", "--engine", "slurm"], "goes with --engine local"),
    ],
)
def test_where_runs_may_not_share_nothing_is_begun(tmp_path: Path, more: list[str], says: str) -> None:
    arguments = ["run", "--dataset", "digits-rot", "--models", "p4cnn", "--seeds", "4", *more]
    result = CliRunner().invoke(cli, [*arguments, "--results", str(tmp_path / "r")])
    said = str(result.exception) if isinstance(result.exception, UserError) else result.stderr
    assert result.exit_code and says in said
    assert not list(tmp_path.rglob("*.json"))


def test_boards_that_compare_device_seconds_are_refused() -> None:
    for budget, runs in (("published", 2), ("t20", 2), ("t20", 1), ("e2", 8), ("smoke", 2)):
        suite = Suite(name="s", dataset="digits-rot", budget=budget, seeds=2, models=["p4cnn"])
        if runs > 1 and budget == "t20":  # published budgets count examples, as `e2` does
            with pytest.raises(UserError, match=f"budget '{budget}' .*one run per GPU"):
                refuse_sharing(suite.budget, runs)
        else:
            refuse_sharing(suite.budget, runs)


def test_a_board_of_device_seconds_belongs_to_one_kind_of_device(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"cuda:0": ("GPU A", "GPU-0"), "cuda:1": ("GPU B", "GPU-1"), "cuda:2": ("GPU A", "GPU-2")}
    monkeypatch.setattr(admission, "query_devices", lambda devices: {device: known[device] for device in devices})
    assert admission.common_hardware_key(["cuda:0", "cuda:2"]) == ("GPU A", {"cuda:0": "GPU-0", "cuda:2": "GPU-2"})
    with pytest.raises(UserError, match="devices of one kind: cuda:0 is 'GPU A'; cuda:1 is 'GPU B'"):
        admission.common_hardware_key(["cuda:0", "cuda:1"])


def test_seeds_of_a_model_go_together_and_the_longest_models_first() -> None:
    suite = Suite(name="s", dataset="digits-rot", budget="e2", seeds=5, models=["z2cnn", "p4cnn"])
    work = {"z2cnn": 1.0, "p4cnn": 2.0}
    pending = [job_of(suite, Path("nowhere"), Machine("cuda"), spec, 1) for spec in plan(suite)]
    order = [(job.spec.model[0], job.spec.seed) for job in in_order(pending, 2, work)]
    both = [("p", 0), ("p", 1), ("z", 0), ("z", 1), ("p", 2), ("p", 3), ("z", 2), ("z", 3), ("p", 4), ("z", 4)]
    assert order == both
    alone = [(job.spec.model[0], job.spec.seed) for job in in_order(pending, 1, work)]
    assert alone == [(m, s) for s in range(5) for m in "pz"]


def head_to_head(root: Path, models: list[str], seeds: int, includes: list[Path]) -> Outcome:
    include(includes)
    suite = Suite(name="s", dataset="bars", budget="e20", seeds=seeds, models=models)
    machine = Machine("cpu", jobs=2, data_root=root / "data", includes=tuple(includes))
    return run(suite, results=root / "results", machine=machine)


@pytest.fixture
def one_gpu_for_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the two processes of a run shared a GPU."""
    monkeypatch.setattr(Machine, "sharing", lambda self, slots: len(slots))


@pytest.mark.parametrize("seeds", [2, pytest.param(3, marks=pytest.mark.whole)])
def test_runs_that_share_have_the_same_weights_and_no_times_in_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: int
) -> None:
    monkeypatch.setattr("equibench.bench.tools.machine.usable_cores", lambda: 2)
    alone = head_to_head(tmp_path / "alone", ["tiny"], seeds, [TINY]).board
    monkeypatch.setattr(Machine, "sharing", lambda self, slots: len(slots))
    board = head_to_head(tmp_path / "shared", ["tiny"], seeds, [TINY]).board
    for (one, _), (two, _) in zip(alone.chosen, board.chosen, strict=True):
        assert one.results and two.results and one.results.weights_sha256 == two.results.weights_sha256
        assert SHARED not in one.provenance.hardware and two.provenance.hardware[SHARED] == "2"
        said = ["up to 2 runs shared the device" in " ".join(record.warnings) for record in (one, two)]
        assert said == [False, True]
    assert [run_rows(b)["runs_on_device"].tolist() for b in (board, alone)] == [[2] * seeds, [1] * seeds]
    (row,), (other,) = (model_rows(b).to_dict("records") for b in (board, alone))
    assert row["runs_timed"] == 0 and pd.isna(row["train_s_mean"]) and pd.isna(row["step_ms_mean"])
    assert row["peak_mib_max"] > 0, "the memory of a process is its own"
    assert other["runs_timed"] == seeds and other["train_s_mean"] > 0
    note = f"step ms, train s: without {seeds} runs that shared a device, up to 2 at a time"
    assert note in board_table(board) and "shared a device" not in board_table(alone)


#: A model that runs out of memory beside others, or also one that fails by itself.
@pytest.mark.parametrize("models", [["oom-once"], pytest.param(["oom-once", "bad-raises"], marks=pytest.mark.whole)])
@pytest.mark.usefixtures("one_gpu_for_two")
def test_what_fails_beside_others_is_run_again_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: list[str]
) -> None:
    mark, file = tmp_path / "mark", tmp_path / "once.py"
    file.write_text(ONCE)
    monkeypatch.setenv("EQUIBENCH_TEST_MARK", str(mark))
    mark.touch()
    done = head_to_head(tmp_path, models, 2, [TINY, file])
    found = {(r.spec.model, r.spec.seed): r for r, _ in done.board.chosen}
    both = [found["oom-once", seed] for seed in (0, 1)]
    assert [r.status for r in both] == ["ok", "ok"]
    assert sorted((r.attempt, r.runs_on_device) for r in both) == [(1, 2), (2, 1)], (
        "one ran out of memory, and again alone"
    )
    # One that fails by itself has failed alone too.
    assert [(r.status, r.attempt, r.runs_on_device) for (m, _), r in found.items() if m == "bad-raises"] == [
        ("error", 2, 1)
    ] * (2 * models.count("bad-raises"))
    errors = ["error"] * 4 if "bad-raises" in models else []
    assert sorted(status for status, _ in done.ran.values()) == [*errors, "ok", "ok", "oom"]


@pytest.mark.whole
def test_a_run_that_shared_before_it_was_interrupted_says_so(tmp_path: Path) -> None:
    """`test_killed_then_asked_to_end_then_finished_gives_the_same_bits` has a run that shared at its first start."""
    one = process.job(tmp_path, budget="e200")
    assert process.interrupt(one.model_copy(update={"sharing": 4}), 20, signal.SIGTERM) == -signal.SIGTERM
    assert process.run(one)[0] == 0
    record = process.the_record(one)
    assert record.status == "ok" and record.runs_on_device == 4 and any("resumed" in w for w in record.warnings)


@contextmanager
def one_core_for_two() -> Iterator[None]:
    """This process, and those that it starts, share a core with a process that computes all the time."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()
        os.sched_setaffinity(0, cores)


needs_run_delay = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel counts no run delay")


@needs_run_delay
def test_time_in_which_another_process_has_the_core_is_counted() -> None:
    with one_core_for_two():
        time.sleep(0.2)
        start, before = time.perf_counter(), waited_s()
        while time.perf_counter() - start < 1.0:
            pass
        share = (waited_s() - before) / (time.perf_counter() - start)
    assert 0.2 < share <= 1.02, "two processes have half of it each; more of them, less"


@needs_run_delay
@pytest.mark.whole
def test_a_run_says_how_long_it_waited_for_its_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`test_waiting_before_a_checkpoint_counts_where_its_seconds_do` has the same without a run."""
    # Steps between two checkpoints last longer than a time slice.
    one = process.job(tmp_path, budget="e500", checkpoint_s=0.2)
    with one_core_for_two():
        assert process.interrupt(one, 1, signal.SIGTERM) == -signal.SIGTERM
        waited = read_checkpoint(process.checkpoints(one)[-1]).facts.waited_s
        assert waited > 0.01
        assert process.run(one)[0] == 0
    monkeypatch.setattr("equibench.bench.records.record.WAITING_SHARE", SHIPPED)
    record = process.the_record(one)
    assert record.results and record.runs_on_device == 2
    assert float(record.provenance.hardware[WAITED]) * record.results.train_s > waited


def test_the_share_of_waiting_is_told_from_a_thousandth_on() -> None:
    assert waiting_fact(3.5, 14.0) == {WAITED: "0.250"} and waiting_fact(0.001, 14.0) == {} == waiting_fact(1.0, 0.0)


def test_times_of_a_cpu_count_only_if_the_run_hardly_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equibench.bench.records.record.WAITING_SHARE", SHIPPED)
    record = made.record()

    def runs(device: str, waited: str, **more: str) -> int:
        hardware = {"device": device, WAITED: waited, **more}
        return record.model_copy(
            update={"provenance": record.provenance.model_copy(update={"hardware": hardware})}
        ).runs_on_device

    assert [runs("cpu", waited) for waited in ("0.050", "0.051", "1.200")] == [1, 2, 2]
    assert runs("cuda:0", "0.900") == 1, "a GPU's times are its own"
    assert runs("cpu", "0.900", **{SHARED: "3"}) == 3
    assert [runs("cpu", waited) for waited in ("", "much", "nan", "1e5", "-1.000")] == [1] * 5


def test_a_record_of_another_make_is_read_as_alone() -> None:
    record = made.record()
    assert record.runs_on_device == 1 and sharing_fact(1) == {} and sharing_fact(3) == {SHARED: "3"}
    for text, runs in (("many", 1), ("0", 1), ("-3", 1), ("²", 1), ("9" * 5000, 1), ("8", 8)):
        provenance = record.provenance.model_copy(update={"hardware": {SHARED: text}})
        assert record.model_copy(update={"provenance": provenance}).runs_on_device == runs
