"""Whole runs in processes of their own: results, determinism, failures as rows, nothing run twice."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from equibench.bench.records.record import read_board, read_record
from equibench.bench.records.store import board_folder, lock_path
from equibench.bench.spec.suite import find_suite, parse_suite, plan
from equibench.registry import include
from filelock import FileLock

from .. import commands
from ..commands import equibench

TINY = Path(__file__).parents[1] / "tiny.py"


def head_to_head(
    cwd: Path, models: str, *more: str, budget: str = "e2", seeds: str = "1"
) -> subprocess.CompletedProcess:
    return equibench(
        "run", "--dataset", "bars", "--budget", budget, "--models", models, "--seeds", seeds, "--device", "cpu",
        "--include", str(TINY), "--data-root", str(cwd / "data"), "--results", str(cwd / "results"), *more, cwd=cwd,
    )  # fmt: skip


def records(cwd: Path) -> dict[str, list]:
    found: dict[str, list] = {}
    for path in sorted((cwd / "results" / "runs").glob("*/*.json")):
        record = read_record(path)
        found.setdefault(record.spec.model, []).append(record)
    for of_model in found.values():
        of_model.sort(key=lambda r: (r.spec.seed, r.attempt))
    return found


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head-to-head of two models and two seeds, run once for all tests that only look at it."""
    cwd = tmp_path_factory.mktemp("done")
    result = head_to_head(cwd, "tiny,tiny-dropout", seeds="2", budget="e20")
    assert result.returncode == 0, result.stderr
    (cwd / "stdout").write_text(result.stdout)
    return cwd


def test_a_run_learns_and_is_recorded_whole(done: Path) -> None:
    record = records(done)["tiny"][0]
    assert record.status == "ok" and record.results.test_acc_pct > 75
    assert record.cost.parameters == 242 and record.results.test_images == 60 and record.results.train_images == 240
    assert record.spec.steps == 20 * 240 // record.spec.recipe.batch
    assert record.curve[-1].step == record.spec.steps and record.curve[-1].loss < record.curve[0].loss
    assert record.results.init.eq_exact_c4 is not None and record.results.trained.eq_exact_c4 is not None
    assert record.provenance.versions["torch"] and record.provenance.source_hash and record.provenance.data_digest
    assert record.provenance.command.startswith("equibench run ")


def test_phases_add_up_to_the_wall_clock(done: Path) -> None:
    for record in (r for rs in records(done).values() for r in rs):
        phases = dict(record.phases)
        total = phases.pop("total_s")
        assert sum(phases.values()) == pytest.approx(total, abs=1e-3)
        assert {"import_s", "data_s", "build_s", "train_s", "bn_s", "evaluate_s", "equivariance_s", "other_s"} <= set(
            phases
        )
        assert record.results.train_s <= phases["train_s"]
        assert (phases["other_s"] > max(0.02 * total, 0.2)) == bool(record.warnings)


def test_the_table_and_the_csvs_are_there(done: Path) -> None:
    text = (done / "stdout").read_text()
    assert "tiny-dropout" in text and "C4 error" in text
    assert len(list((done / "results").glob("*.csv"))) == 2


def test_weights_are_kept_beside_the_record(done: Path) -> None:
    import torch

    record = records(done)["tiny"][0]
    path = next((done / "results" / "runs").glob(f"*/weights/{record.run_id}.pt"))
    state = torch.load(path, weights_only=True)
    assert sum(v.numel() for k, v in state.items() if "running" not in k and "num_batches" not in k) == 242


def test_the_predictions_of_every_test_image_are_kept_beside_the_record(done: Path) -> None:
    import numpy as np
    from equibench.bench.records.outcomes import outcomes_path, read_predictions

    root = done / "results"
    for record in (r for own in records(done).values() for r in own):
        predicted, labels, classes = read_predictions(root, record)
        assert (len(predicted), classes) == (60, 2) and labels.tolist() == (np.arange(60) % 2).tolist()
        assert 100 * (predicted == labels).mean() == pytest.approx(record.results.test_acc_pct)
        assert (
            outcomes_path(root, record).stat().st_mtime_ns
            <= next((root / "runs" / record.spec.board).glob(f"{record.run_id}.*.json")).stat().st_mtime_ns
        ), "the record that names them comes last"


def test_running_again_runs_nothing(done: Path) -> None:
    before = sorted((done / "results").rglob("*.json"))
    result = head_to_head(done, "tiny,tiny-dropout", seeds="2", budget="e20")
    assert result.returncode == 0 and sorted((done / "results").rglob("*.json")) == before
    assert result.stdout == (done / "stdout").read_text()


def test_one_more_seed_runs_only_that(done: Path) -> None:
    before = set((done / "results" / "runs").glob("*/*.json"))
    assert head_to_head(done, "tiny", seeds="3", budget="e20").returncode == 0
    new = set((done / "results" / "runs").glob("*/*.json")) - before
    assert [read_record(p).spec.seed for p in new] == [2]


def test_json_is_one_document(done: Path) -> None:
    result = head_to_head(done, "tiny", "--json", seeds="2", budget="e20")
    document = json.loads(result.stdout)
    assert {row["model"] for row in document["models"]} >= {"tiny"} and Path(document["csv"]).is_file()


def test_the_same_spec_gives_the_same_bits_twice(done: Path, tmp_path: Path) -> None:
    assert head_to_head(tmp_path, "tiny,tiny-dropout", "--jobs", "1", seeds="1", budget="e20").returncode == 0
    assert set(records(tmp_path)) == {"tiny", "tiny-dropout"}
    for model, (two,) in records(tmp_path).items():
        (one,) = (r for r in records(done)[model] if r.spec.seed == 0)
        assert one.spec == two.spec
        assert one.results.weights_sha256 == two.results.weights_sha256
        assert one.results.test_acc_pct == two.results.test_acc_pct
        assert (one.results.init, one.results.trained) == (two.results.init, two.results.trained)
        assert [p.loss for p in one.curve] == [p.loss for p in two.curve]


def test_other_seeds_give_other_weights(done: Path) -> None:
    hashes = {r.results.weights_sha256 for rs in records(done).values() for r in rs}
    assert len(hashes) == sum(len(rs) for rs in records(done).values())


def test_two_models_of_a_seed_are_shown_the_same_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from inside the processes: every batch of every step, to the bit."""
    (tmp_path / "seen").mkdir()
    monkeypatch.setenv("EQUIBENCH_TEST_SPY", str(tmp_path / "seen"))
    result = head_to_head(tmp_path, "spy-a,spy-b", seeds="2")
    assert result.returncode == 0, result.stderr
    steps = records(tmp_path)["spy-a"][0].spec.steps
    logs = {path.name: path.read_text().split() for path in (tmp_path / "seen").iterdir()}
    partners = []
    for a in (n for n in logs if n.startswith("a-")):
        for b in (n for n in logs if n.startswith("b-")):
            # The warm-up trains on noise of its own.
            common = [batch for batch in logs[a] if batch in set(logs[b])]
            if len(set(common)) >= steps:
                assert common == [batch for batch in logs[b] if batch in set(logs[a])]
                partners.append((a, b))
    assert len(partners) == 2 and len({name for pair in partners for name in pair}) == 4


FAILURES = {
    "bad-raises": ("error", "ValueError: this model always fails"),
    "bad-unbuildable": ("error", "ValueError: cannot be built at this size"),
    "bad-exits": ("error", "exit code 7"),
    "bad-killed": ("lost", "SIGKILL"),
    "bad-oom": ("oom", "CUDA out of memory"),
    "bad-nan": ("diverged", "counted as chance level"),
}


def test_a_model_that_fails_becomes_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    """One of each status that is not of memory; `test_every_failure_becomes_a_row` has the others."""
    found = _failed_rows(tmp_path, ["bad-raises", "bad-killed", "bad-nan"], "bad-talks")
    assert found["bad-nan"][0].results.test_acc_pct == 50.0
    assert "(tiny.py, line " in found["bad-raises"][0].reason
    # The next start tries again what has no result; NaN is a result.
    again = head_to_head(tmp_path, "bad-raises,bad-nan,bad-talks")
    assert again.returncode == 1
    assert {model: len(own) for model, own in records(tmp_path).items()} == {
        "bad-raises": 2, "bad-killed": 1, "bad-nan": 1, "bad-talks": 1,
    }  # fmt: skip
    said = again.stderr.splitlines()
    assert (
        "1 run failed; the same command tries again" in said
        and "1 run diverged; this is a result and is not run again" in said
    )


@pytest.mark.whole
def test_every_failure_becomes_a_row(tmp_path: Path) -> None:
    """All kinds of failures; `test_a_model_that_fails_becomes_a_row_and_the_others_go_on` has one of each status."""
    _failed_rows(tmp_path, list(FAILURES), "tiny", "bad-talks")


def _failed_rows(cwd: Path, failing: list[str], *others: str) -> dict[str, list]:
    """The records of a head-to-head in which these models fail as they should, and the others, one that talks among
    them, do not.
    """
    result = head_to_head(cwd, ",".join([*failing, *others]))
    assert result.returncode == 1
    found = records(cwd)
    assert {found[model][0].status for model in others} == {"ok"}
    for model in failing:
        status, reason = FAILURES[model]
        assert found[model][0].status == status and reason in found[model][0].reason
        assert model in result.stdout and status in result.stdout
    log = next((cwd / "results" / "runs").glob(f"*/logs/{found['bad-talks'][0].run_id}.log")).read_text()
    assert "this goes to the log" in log and "so does this" in log
    return found


def test_logits_that_are_no_numbers_in_evaluation_are_said(tmp_path: Path) -> None:
    result = head_to_head(tmp_path, "bad-mute,bad-stutters")
    found = {model: record for model, (record, *_) in records(tmp_path).items()}
    mute, stutters = found["bad-mute"], found["bad-stutters"]
    assert result.returncode == 1 and mute.status == "diverged" and "of all test images are not finite" in mute.reason
    assert mute.results.test_acc_pct == 50.0, "chance, as where the loss is no number"
    # One image of the only batch: wrong, and said.
    assert stutters.status == "ok" and stutters.results.test_acc_pct < 100
    assert "the logits of 1 of 60 test images are not finite; they count as wrong" in stutters.warnings


def test_a_run_that_hangs_ends_at_its_deadline(tmp_path: Path) -> None:
    result = head_to_head(tmp_path, "bad-hangs", "--deadline", "6")
    assert result.returncode == 1 and records(tmp_path)["bad-hangs"][0].status == "timeout"


def test_a_wrong_shape_ends_with_a_sentence_before_anything_is_trained(tmp_path: Path) -> None:
    result = head_to_head(tmp_path, "tiny,wrong-shape")
    assert result.returncode == 2 and "shape (2, 2)" in result.stderr and "(2, 3)" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and not records(tmp_path)


def test_a_model_outside_the_matched_class_is_refused(tmp_path: Path) -> None:
    suite = 'dataset = "bars"\nbudget = "e1"\nmodels = ["tiny"]\nclass = "matched"\nreference_parameters = 1000\n'
    (tmp_path / "mine.toml").write_text(suite)
    result = equibench(
        "run",
        "mine.toml",
        "--include",
        str(TINY),
        "--device",
        "cpu",
        "--results",
        "r",
        "--data-root",
        "d",
        cwd=tmp_path,
    )
    assert result.returncode == 2 and "242 parameters, outside 950 to 1,050" in result.stderr


PARTLY = (
    "from torch import nn\nfrom equibench import register_model\n\n"
    '@register_model("partly", group="none", invariant="none", source="made up")\n'
    "def partly(in_channels, num_classes, image_size):\n"
    "    return nn.Sequential(nn.Flatten(), nn.Linear(144, 99).requires_grad_(False), nn.Linear(99, num_classes))\n"
)


def partly(cwd: Path, *more: str) -> subprocess.CompletedProcess:
    """A head-to-head of a network with frozen parameters."""
    (cwd / "partly.py").write_text(PARTLY)
    return head_to_head(cwd, "partly", "--include", "partly.py", *more, budget="e1")


def test_a_frozen_network_enters_no_matched_suite(tmp_path: Path) -> None:
    refused = partly(tmp_path, "--class", "matched", "--reference-parameters", "200")
    assert refused.returncode == 2 and "14,355 frozen parameters" in refused.stderr and not records(tmp_path)


@pytest.mark.whole
def test_a_frozen_network_that_has_run_enters_no_matched_suite(tmp_path: Path) -> None:
    """`test_a_frozen_network_enters_no_matched_suite` has one that has not run."""
    entered = partly(tmp_path)
    assert entered.returncode == 0 and "partly: 14,355 parameters are frozen" in entered.stdout
    again = partly(tmp_path, "--class", "matched", "--reference-parameters", "200")
    assert again.returncode == 2 and "14,355 frozen parameters" in again.stderr


def test_a_buffer_that_learns_late_in_training_is_counted(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(
        "import torch\nfrom torch import nn\nfrom equibench import register_model\n\n"
        "class Late(nn.Module):\n"
        "    def __init__(self, classes):\n"
        "        super().__init__()\n"
        "        self.head = nn.Linear(144, classes)\n"
        "        self.register_buffer('mean', torch.zeros(144))\n"
        "        self.register_buffer('steps', torch.zeros((), dtype=torch.long))\n\n"
        "    def forward(self, images):\n"
        "        if self.training:\n"
        "            self.steps += 1\n"
        "            if self.steps > 20:\n"
        "                self.mean = 0.9 * self.mean + 0.1 * images.detach().flatten(1).mean(0)\n"
        "        return self.head(images.flatten(1) - self.mean)\n\n"
        '@register_model("late", group="none", invariant="none", source="made up")\n'
        "def late(in_channels, num_classes, image_size):\n"
        "    return Late(num_classes)\n"
    )
    arguments = ["run", "--dataset", "bars", "--budget", "e10", "--models", "late", "--seeds", "1", "--device", "cpu"]
    arguments += ["--include", str(TINY), "--include", "late.py", "--results", "r", "--data-root", "d"]
    matched = ["--class", "matched", "--reference-parameters", "290"]
    first = equibench(*arguments, *matched, cwd=tmp_path)
    assert first.returncode == 0 and "late: 144 numbers in buffers change in training" in first.stdout
    assert "parameters not matched" in first.stdout
    again = equibench(*arguments, *matched, cwd=tmp_path)
    assert again.returncode == 2 and "144 numbers in buffers that training changes" in again.stderr


def test_seconds_are_no_budget_on_a_cpu(tmp_path: Path) -> None:
    result = head_to_head(tmp_path, "tiny", budget="t10")
    assert result.returncode == 2 and "device-seconds" in result.stderr and not records(tmp_path)


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "equibench.bench.cli",
        "run",
        "--dataset",
        "bars",
        "--budget",
        "e2",
        "--seeds",
        "1",
    ]
    command += ["--models", "tiny,bad-hangs", "--include", str(TINY), "--device", "cpu", "--jobs", "1"]
    command += ["--results", "results", "--data-root", "data"]
    # A shell lets what it starts in the background ignore Ctrl-C, and these tests may be that.
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=listening)
    deadline = time.monotonic() + 600
    while not records(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130 and "continues with the rest" in error and "Traceback" not in error
    assert set(records(tmp_path)) == {"tiny"}
    deadline = time.monotonic() + 10  # of the time that the system needs to end them on a busy machine
    while any(str(tmp_path) in line for line in _commands()):
        assert time.monotonic() < deadline, "a child outlived its parent"
        time.sleep(0.05)


def _commands() -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            found.append(os.readlink(f"/proc/{pid}/cwd"))
        except OSError:
            continue
    return found


def test_a_run_that_another_start_has_begun_is_left_to_it(tmp_path: Path) -> None:
    """Its lock is held, as by the process of that start."""
    include([TINY])
    text = 'dataset = "bars"\nbudget = "e2"\nmodels = ["tiny"]\nseeds = 2\n'
    first, second = plan(parse_suite("x", text, "x"))
    folder = board_folder(tmp_path / "results", first.board)
    folder.mkdir(parents=True)
    with FileLock(lock_path(folder, first.digest()), timeout=0):
        result = head_to_head(tmp_path, "tiny", seeds="2")
    assert [r.spec.digest() for r in records(tmp_path)["tiny"]] == [second.digest()], result.stderr
    assert (
        "tiny seed 0: another process runs it already; skipped here" in result.stderr
        and "Traceback" not in result.stderr
    )


@pytest.mark.whole
def test_two_starts_at_once_do_every_run_once(tmp_path: Path) -> None:
    """`test_a_run_that_another_start_has_begun_is_left_to_it` has one start, and a lock that is held."""
    command = ["run", "--dataset", "bars", "--budget", "e2", "--seeds", "2"]
    command += ["--models", "tiny,tiny-dropout", "--include", str(TINY), "--device", "cpu", "--jobs", "1"]
    command += ["--results", "results", "--data-root", "data"]
    with (tmp_path / "errors").open("w") as errors:
        processes = [commands.begin(*command, cwd=tmp_path, errors=errors) for _ in range(2)]
    for process in processes:
        with process.stdin, process.stdout:
            process.stdout.read()
        assert process.wait(900) in (0, 1), (tmp_path / "errors").read_text()
    assert {model: [r.spec.seed for r in rs] for model, rs in records(tmp_path).items()} == {
        "tiny": [0, 1],
        "tiny-dropout": [0, 1],
    }


def test_smoke_runs_leave_no_table(tmp_path: Path) -> None:
    result = head_to_head(tmp_path, "tiny", budget="smoke")
    assert result.returncode == 0 and "tiny" in result.stdout
    assert not list((tmp_path / "results").glob("*.csv"))
    shown = equibench("leaderboard", "--results", str(tmp_path / "results"), cwd=tmp_path)
    assert shown.returncode == 0 and shown.stdout == "" and "smoke runs, which are not shown in tables" in shown.stderr


def test_the_board_of_a_suite_is_that_of_its_runs() -> None:
    suite = parse_suite("x", 'dataset = "bars"\nbudget = "e2"\nmodels = ["tiny"]\n', "x")
    assert suite.board() == "bars-e2-common-v2" and find_suite("quickstart").board().startswith("digits-rot-e2-")


def test_nothing_is_refused_on_the_board(done: Path) -> None:
    board = next((done / "results" / "runs").iterdir()).name
    assert read_board(done / "results", board)[1] == []
