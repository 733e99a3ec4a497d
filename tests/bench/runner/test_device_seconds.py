"""Boards of device-seconds: what is measured, planned, repeated and refused, with clocks that the tests move."""

from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from equibench.bench.boards.board import load_board
from equibench.bench.boards.rows import model_rows
from equibench.bench.records.calibration import latest, read_calibrations
from equibench.bench.records.record import write_record
from equibench.bench.runner import device_seconds as timed_module
from equibench.bench.runner import head_to_head as running
from equibench.bench.runner.device_seconds import TimedBoard
from equibench.bench.runner.head_to_head import HeadToHead, Listener, Outcome
from equibench.bench.runner.tune import trials
from equibench.bench.spec.suite import RunSpec, find_suite
from equibench.bench.tools.machine import Machine
from equibench.bench.training.job import Job

from .. import made
from ..records.test_calibration import KEY, ONE, FakeSession


def timed_board(root: Path, monkeypatch: pytest.MonkeyPatch, step_s: dict[str, float | None]) -> TimedBoard:
    suite = find_suite("quickstart").model_copy(update={"budget": "t20", "models": list(step_s), "seeds": 2})
    board = TimedBoard(suite, root, ONE, Machine(), KEY)
    monkeypatch.setattr(
        timed_module.TimedBoard,
        "_open",
        lambda self, device, names, stack: {
            n: FakeSession(n, step_s[n] or 1.0, [], "GPU-0", None if step_s[n] else 1) for n in names
        },
    )
    return board


def test_all_seeds_of_a_model_train_the_same_number_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = timed_board(tmp_path, monkeypatch, {"p4cnn": 0.003, "z2cnn": 0.001}).plan()
    assert {(s.model, s.steps) for s in specs} == {("p4cnn", 6666), ("z2cnn", 20_000)}
    assert {s.hardware_key for s in specs} == {KEY} and "some-gpu" in specs[0].board
    # Planned again, nothing is measured again: the record is taken.
    again = timed_board(tmp_path, monkeypatch, {"p4cnn": 9.0, "z2cnn": 9.0}).plan()
    assert [s.digest() for s in again] == [s.digest() for s in specs]


def test_after_drift_the_model_is_calibrated_again_and_all_its_seeds_repeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {"p4cnn": 0.003, "z2cnn": 0.001}
    timed = timed_board(tmp_path, monkeypatch, times)
    specs = timed.plan()
    base = made.record(90.0, train_s=20.0)
    for spec in specs:
        drifted = spec.model == "p4cnn" and spec.seed == 1
        change = {"status": "invalid", "reason": "drift"} if drifted else {}
        write_record(tmp_path, base.model_copy(update={"spec": spec, **change}))
    assert timed.forget_drifted(timed.board)
    times["p4cnn"] = 0.004
    again = timed.plan()
    assert {(s.model, s.steps) for s in again} == {("p4cnn", 5000), ("z2cnn", 20_000)}
    assert [c.sequence for c in read_calibrations(tmp_path, timed.board) if c.model == "p4cnn"] == [1, 2]
    assert latest(read_calibrations(tmp_path, timed.board))["p4cnn"].step_s == pytest.approx(0.004)
    # The seed that was on time has 6666 steps: it no longer belongs to the board.
    board = load_board(tmp_path, timed.board)
    assert {r.spec.model for r, _ in board.chosen} == {"z2cnn"} and len(board.others) == 2
    assert not timed.forget_drifted(timed.board)
    for spec in again:
        if spec.model == "p4cnn":
            write_record(tmp_path, base.model_copy(update={"spec": spec}))
    assert model_rows(load_board(tmp_path, timed.board))["runs_ok"].tolist() == [2, 2]


def test_what_ran_before_the_repetition_of_drifted_models_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One seed drifts in the first round; in the second both seeds of its model have other steps, and are other
    runs.
    """
    suite = timed_board(tmp_path, monkeypatch, {"p4cnn": 0.003, "z2cnn": 0.001}).suite
    head = HeadToHead(suite, tmp_path, Machine("cuda"), Listener())
    rounds: list[list[str]] = []

    def prepare() -> None:
        head.slots = ["cuda:0"]

    def execute(pending: list[Job], outcome: Outcome) -> None:
        rounds.append([job.spec.model for job in pending])
        for spec, attempt in [(job.spec, job.attempt) for job in pending]:
            drifts = len(rounds) == 1 and (spec.model, spec.seed) == ("p4cnn", 1)
            status, reason = ("invalid", "drift: 21 s") if drifts else ("ok", "")
            record = made.record(90.0, train_s=20.0).model_copy(
                update={"spec": spec, "attempt": attempt, "status": status, "reason": reason}
            )
            write_record(tmp_path, record)
            outcome.ran[f"{spec.digest()}.{attempt}"] = (status, reason)
        if len(rounds) == 1:
            timed_board(tmp_path, monkeypatch, {"p4cnn": 0.004, "z2cnn": 0.001})

    monkeypatch.setattr(running.admission, "common_hardware_key", lambda slots: (KEY, ONE))
    monkeypatch.setattr(head, "_prepare", prepare)
    monkeypatch.setattr(head, "_execute_pending", execute)
    outcome = head.execute()
    assert [sorted(models) for models in rounds] == [["p4cnn"] * 2 + ["z2cnn"] * 2, ["p4cnn"] * 2]
    assert len(outcome.ran) == 6 and outcome.skipped == 0
    assert sorted(status for status, _ in outcome.ran.values()) == ["invalid"] + ["ok"] * 5
    assert not outcome.failed, "the board shows the repetition alone"


def test_a_run_that_drifted_in_an_earlier_call_is_not_repeated_with_the_same_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier call was interrupted before the model was calibrated again."""
    timed = timed_board(tmp_path, monkeypatch, {"p4cnn": 0.003, "z2cnn": 0.001})
    for spec in timed.plan():
        drifts = (spec.model, spec.seed) == ("p4cnn", 1)
        changes = {"status": "invalid", "reason": "drift: 21 s"} if drifts else {}
        write_record(tmp_path, made.record(90.0, train_s=20.0).model_copy(update={"spec": spec, **changes}))
    timed_board(tmp_path, monkeypatch, {"p4cnn": 0.004, "z2cnn": 0.001})
    head = HeadToHead(timed.suite, tmp_path, Machine("cuda"), Listener())
    asked: list[tuple[str, int, int]] = []
    monkeypatch.setattr(running.admission, "common_hardware_key", lambda slots: (KEY, ONE))
    monkeypatch.setattr(head, "_prepare", lambda: head.slots.append("cuda:0"))
    monkeypatch.setattr(
        head,
        "_execute_pending",
        lambda pending, _: asked.extend((job.spec.model, job.spec.seed, job.spec.steps) for job in pending),
    )
    head.execute()
    assert asked == [("p4cnn", 0, 5000), ("p4cnn", 1, 5000)]


def test_only_drifted_trials_have_their_model_calibrated_again_for_further_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials have a board of their own, and the calibrations of the board of their base recipe."""
    timed = timed_board(tmp_path, monkeypatch, {"p4cnn": 0.003, "z2cnn": 0.001})
    make_trials = partial(trials, timed.suite)

    def save(specs: list[RunSpec], drifts: bool) -> None:
        changes = {"status": "invalid", "reason": "drift: 21 s"} if drifts else {}
        for spec in specs:
            write_record(tmp_path, made.record(90.0, train_s=20.0).model_copy(update={"spec": spec, **changes}))

    def call(trains: bool) -> tuple[set[int], list[int]]:
        """The steps of the trials of p4cnn that a call runs, and the sequence of its calibrations."""
        head = HeadToHead(timed.suite, tmp_path, Machine("cuda"), Listener(), make_trials)
        asked: set[int] = set()

        def execute(pending: list[Job], _: Outcome) -> None:
            asked.update(job.spec.steps for job in pending if job.spec.model == "p4cnn")
            if not trains:
                raise KeyboardInterrupt
            save([job.spec for job in pending], drifts=False)

        monkeypatch.setattr(head, "_prepare", lambda: head.slots.append("cuda:0"))
        monkeypatch.setattr(head, "_execute_pending", execute)
        with suppress(KeyboardInterrupt):
            head.execute()
        return asked, [c.sequence for c in read_calibrations(tmp_path, timed.board) if c.model == "p4cnn"]

    monkeypatch.setattr(running.admission, "common_hardware_key", lambda slots: (KEY, ONE))
    specs = timed.plan()
    save(specs, drifts=True)
    save(make_trials(specs)[1:], drifts=False)
    # Runs of the base recipe drifted, but no trial: those runs keep their steps until they are repeated themselves.
    assert call(trains=True) == ({6666}, [1])
    rest = make_trials(specs)[0]
    (path,) = (p for p in (tmp_path / "runs" / rest.board).glob("*.json") if rest.digest() in p.name)
    path.unlink()
    save([rest], drifts=True)
    timed_board(tmp_path, monkeypatch, {"p4cnn": 0.004, "z2cnn": 0.001})
    assert call(trains=False) == ({5000}, [1, 2])
    timed_board(tmp_path, monkeypatch, {"p4cnn": 0.005, "z2cnn": 0.001})
    assert call(trains=True) == ({5000}, [1, 2]), "it drifted with steps that are replaced already"


def test_a_model_that_fails_while_it_is_measured_is_a_row_and_the_others_are_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: dict[str, float | None] = {"p4cnn": None, "z2cnn": 0.001}
    timed = timed_board(tmp_path, monkeypatch, times)
    specs = timed.plan()
    assert {(s.model, s.steps) for s in specs} == {("p4cnn", 1), ("z2cnn", 20_000)}
    assert timed.failed["p4cnn"].reason == "p4cnn is too large" and timed.missing() == []
    # Another start tries it again, and what then is measured replaces the failure.
    failure = {"status": "oom", "reason": "too large", "results": None, "cost": None}
    base = made.record(90.0, train_s=20.0)
    for spec in specs:
        write_record(tmp_path, base.model_copy(update={"spec": spec, **(failure if spec.model == "p4cnn" else {})}))
    rows = model_rows(load_board(tmp_path, timed.board)).set_index("model")
    assert rows["runs"].tolist() == [2, 2] and rows.loc["p4cnn", "status"] == "oom"
    times["p4cnn"] = 0.002
    again = timed_board(tmp_path, monkeypatch, times)
    assert again.missing() == ["p4cnn"]
    assert {(s.model, s.steps) for s in again.plan()} == {("p4cnn", 10_000), ("z2cnn", 20_000)}
    assert {r.spec.model for r, _ in load_board(tmp_path, timed.board).chosen} == {"z2cnn"}


def test_a_model_that_lacks_memory_only_beside_the_others_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device has memory for two models. p4cnn needs all of it, and never fits beside another."""
    loaded: list[list[str]] = []

    def open_all(self: TimedBoard, device: str, names: list[str], _: object) -> dict[str, FakeSession]:
        loaded.append(names)
        fails = {"z2cnn": len(names) > 2, "p4cnn": len(names) > 1}
        return {n: FakeSession(n, 0.001, [], "GPU-0", 0 if fails.get(n) else None) for n in names}

    timed = timed_board(tmp_path, monkeypatch, dict.fromkeys(("p4cnn", "z2cnn", "z2cnn-22", "wrn-10-b9"), 0.001))
    monkeypatch.setattr(TimedBoard, "_open", open_all)
    steps = {s.model: s.steps for s in timed.plan()}
    assert steps == {"p4cnn": 1, "z2cnn": 20_000, "z2cnn-22": 20_000, "wrn-10-b9": 20_000}
    assert set(timed.failed) == {"p4cnn"} and timed.failed["p4cnn"].status == "oom"
    assert [len(names) for names in loaded] == [4, 2, 2] and loaded[2][0] == "z2cnn"


def test_a_calibrated_model_that_fails_later_stays_in_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times: dict[str, float | None] = {"p4cnn": 0.002}
    assert timed_board(tmp_path, monkeypatch, times).plan()[0].steps == 10_000
    times["p4cnn"] = None
    timed = timed_board(tmp_path, monkeypatch, times)
    timed.forgotten.add("p4cnn")
    # Runs with another number of steps would be left out as replaced.
    assert timed.plan()[0].steps == 10_000 and set(timed.failed) == {"p4cnn"}


@pytest.mark.parametrize(
    ("step_s", "steps", "fits"),
    [(0.55, 36, True), (0.65, 30, True), (0.68, 29, True), (0.69, 28, False), (25, 1, False)],
)
def test_a_step_too_long_for_the_budget_is_said_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_s: float, steps: int, fits: bool
) -> None:
    """20 s hold 28 steps of 0.69 s, which are 3.4 % too short: every run would be invalid, and calibrated again for
    ever.
    """
    timed = timed_board(tmp_path, monkeypatch, {"p4cnn": step_s, "z2cnn": 0.001})
    specs = timed.plan()
    assert {(s.model, s.steps) for s in specs} == {("p4cnn", steps), ("z2cnn", 20_000)}
    # On the board, replaced runs of other models stay left out.
    replaced = made.spec(model="z2cnn", seed=0, budget=specs[0].budget, steps=19_000, hardware_key=KEY)
    for spec in (*specs, replaced):
        write_record(tmp_path, made.record(90.0, train_s=20.0).model_copy(update={"spec": spec}))
    board = load_board(tmp_path, timed.board)
    assert not board.refused and len(board.others) == 1
    assert [(r.spec.model, r.spec.steps) for r, _ in board.chosen] == [("p4cnn", steps)] * 2 + [("z2cnn", 20_000)] * 2
    assert set(timed.failed) == (set() if fits else {"p4cnn"})
    for why in timed.failed.values():
        assert why.status == "invalid" and "use a longer budget" in why.reason and not why.reason.startswith("drift")


def test_a_changed_source_is_calibrated_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed_board(tmp_path, monkeypatch, {"p4cnn": 0.003}).plan()
    monkeypatch.setattr(timed_module, "source_now", lambda *_: "changed")
    assert timed_board(tmp_path, monkeypatch, {"p4cnn": 0.005}).plan()[0].steps == 4000
