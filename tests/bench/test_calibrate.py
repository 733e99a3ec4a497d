"""Device-second budgets, from calibration to drift, with clocks that the tests move."""

from fractions import Fraction
from pathlib import Path

import pytest
from equibench.bench import timed as timed_module
from equibench.bench.budget import steps_in
from equibench.bench.calibrate import (
    BLOCK_STEPS, BLOCKS, Block, Calibration, calibrate, latest, read_calibrations, spread, take_turns, time_block,
    write_calibration,
)  # fmt: skip
from equibench.bench.board import load_board
from equibench.bench.leaderboard import model_rows
from equibench.bench.record import write_record
from equibench.bench.spec import find_suite
from equibench.bench.timed import TimedBoard
from equibench.registry import UserError
from hypothesis import given
from hypothesis import strategies as st

from . import records as made

KEY = "Some GPU; 80 GiB; 700 W; torch 2.12; CUDA 13.0"


class HandClock:
    def __init__(self) -> None:
        self.time = 0.0

    def mark(self) -> float:
        return self.time

    def seconds(self, start: float, end: float) -> float:
        return end - start


class FakeSession:
    """Takes `step_s` a step, and says in `order` when it was asked."""

    def __init__(self, name: str, step_s: float, order: list[str]) -> None:
        self.name, self.step_s, self.order = name, step_s, order

    def block(self) -> Block:
        self.order.append(self.name)
        return Block(steps=100, seconds=100 * self.step_s)


def subject(model: str, **changes) -> Calibration:
    values = dict(
        model=model, source_hash="", dataset="d", batch=64, profile="strict", hardware_key=KEY, sequence=1, blocks=[], beside=[],
    )  # fmt: skip
    return Calibration(**{**values, **changes})


@given(st.floats(1e-4, 5.0))
def test_a_block_is_at_least_thirty_steps_and_two_seconds(step_s: float) -> None:
    clock = HandClock()

    def step() -> None:
        clock.time += step_s

    block = time_block(step, clock)
    assert block.steps >= BLOCK_STEPS and block.seconds >= 2.0
    assert block.seconds / block.steps == pytest.approx(step_s)
    assert block.steps == BLOCK_STEPS or block.seconds < 2.0 + BLOCK_STEPS * step_s + 1e-9


def test_models_take_turns_block_by_block() -> None:
    order: list[str] = []
    blocks = take_turns({n: FakeSession(n, 0.01, order) for n in "abc"})
    assert order == list("abc") * BLOCKS and all(len(b) == BLOCKS for b in blocks.values())


def test_the_step_time_is_the_mean_over_all_steps() -> None:
    calibration = subject("a", blocks=[Block(steps=100, seconds=1.0), Block(steps=300, seconds=5.0)])
    assert calibration.step_s == 6.0 / 400
    assert spread(subject("a", blocks=[Block(steps=1, seconds=0.9), Block(steps=1, seconds=1.1)])) == pytest.approx(0.1)


def test_blocks_are_added_without_rounding() -> None:
    # In floats 0.1 + 0.2 is more than 0.3, and the budget would lose a step.
    calibration = subject("a", blocks=[Block(steps=1, seconds=0.1), Block(steps=2, seconds=0.2)])
    assert calibration.exact_step_s == Fraction(1, 10)
    assert steps_in(1.2, calibration.exact_step_s) == 12


def test_a_later_model_is_measured_beside_a_reference_that_must_agree() -> None:
    known = [subject("old", blocks=[Block(steps=100, seconds=1.0)])]

    def sessions(old_step: float):
        return lambda names: {n: FakeSession(n, old_step if n == "old" else 0.02, []) for n in names}

    measured = calibrate([subject("new")], known, sessions(0.0102))
    assert [c.model for c in measured] == ["new"] and measured[0].beside == ["old"]
    with pytest.raises(UserError, match=r"\+5\.0 %"):
        calibrate([subject("new")], known, sessions(0.0105))


def test_calibrations_are_written_once_and_read_strictly(tmp_path: Path) -> None:
    path = write_calibration(tmp_path, "board", subject("a", blocks=[Block(steps=1, seconds=1.0)]))
    assert [c.model for c in read_calibrations(tmp_path, "board")] == ["a"]
    path.write_text(path.read_text().replace('"seconds":1.0', '"seconds":2.0'))
    with pytest.raises(UserError, match="does not match the hash"):
        read_calibrations(tmp_path, "board")


def timed_board(root: Path, monkeypatch: pytest.MonkeyPatch, step_s: dict[str, float]) -> TimedBoard:
    suite = find_suite("quickstart").model_copy(update={"budget": "t20", "models": list(step_s), "seeds": 2})
    board = TimedBoard(suite, root, "cuda:0", 1, None, [], hardware_key=KEY)
    monkeypatch.setattr(
        timed_module.TimedBoard, "_open", lambda self, names, stack: {n: FakeSession(n, step_s[n], []) for n in names}
    )
    return board


def test_all_seeds_of_a_model_train_the_same_number_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = timed_board(tmp_path, monkeypatch, {"p4cnn": 0.003, "z2cnn": 0.001}).plan()
    assert {(s.model, s.steps) for s in specs} == {("p4cnn", 6666), ("z2cnn", 20_000)}
    assert {s.hardware_key for s in specs} == {KEY} and "some-gpu" in specs[0].board
    # Planned again, nothing is measured again: the record is taken.
    again = timed_board(tmp_path, monkeypatch, {"p4cnn": 9.0, "z2cnn": 9.0}).plan()
    assert [s.digest() for s in again] == [s.digest() for s in specs]


def test_after_drift_the_model_is_calibrated_anew_and_all_its_seeds_repeat(
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
    assert timed.forget_drifted(load_board(tmp_path, timed.board))
    times["p4cnn"] = 0.004
    again = timed.plan()
    assert {(s.model, s.steps) for s in again} == {("p4cnn", 5000), ("z2cnn", 20_000)}
    assert [c.sequence for c in read_calibrations(tmp_path, timed.board) if c.model == "p4cnn"] == [1, 2]
    assert latest(read_calibrations(tmp_path, timed.board))["p4cnn"].step_s == pytest.approx(0.004)
    # The seed that was on time has 6666 steps: it no longer belongs to the board.
    board = load_board(tmp_path, timed.board)
    assert {r.spec.model for r, _ in board.chosen} == {"z2cnn"} and board.later == 2
    assert not timed.forget_drifted(board)
    for spec in again:
        if spec.model == "p4cnn":
            write_record(tmp_path, base.model_copy(update={"spec": spec}))
    assert model_rows(load_board(tmp_path, timed.board))["runs_ok"].tolist() == [2, 2]


def test_a_changed_source_is_calibrated_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed_board(tmp_path, monkeypatch, {"p4cnn": 0.003}).plan()
    monkeypatch.setattr(timed_module, "source_hash", lambda *_: "changed")
    assert timed_board(tmp_path, monkeypatch, {"p4cnn": 0.005}).plan()[0].steps == 4000
