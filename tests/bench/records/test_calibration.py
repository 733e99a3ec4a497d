"""Calibrations of step times, with clocks that the tests move."""

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from equibench.bench.records.calibration import (
    BLOCK_STEPS,
    BLOCKS,
    Block,
    Calibration,
    TrainingFailed,
    Turns,
    calibrate,
    gpus_of,
    latest,
    read_calibrations,
    take_turns,
    write_calibration,
)  # fmt: skip
from equibench.bench.spec.budget import steps_in
from equibench.bench.training import train
from equibench.bench.training.stopwatch import piece_of, time_block
from equibench.registry import UserError
from hypothesis import given
from hypothesis import strategies as st

KEY = "Some GPU; 80 GiB; 700 W; torch 2.12; CUDA 13.0"


class FakeSession:
    """Takes `step_s` a step, and says in `order` when it was asked; fails at block number `fails_at` (from 1)."""

    def __init__(self, name: str, step_s: float, order: list[str], gpu: str = "", fails_at: int | None = None) -> None:
        self.name, self.step_s, self.order, self.gpu, self.fails_at, self.done = name, step_s, order, gpu, fails_at, 0

    def ready(self) -> None:
        if self.fails_at == 0:
            raise TrainingFailed("oom", f"{self.name} is too large")

    def block(self) -> Block:
        self.order.append(self.name)
        self.done += 1
        if self.done == self.fails_at:
            raise TrainingFailed("oom", f"{self.name} is too large")
        return Block(steps=100, seconds=100 * self.step_s, gpu=self.gpu)


ONE = {"cuda:0": "GPU-0"}
TWO = {"cuda:0": "GPU-0", "cuda:1": "GPU-1"}


def measuring(
    step_s: dict[str, float | None],
    factors: dict[str, float] | None = None,
    asked: list[dict[str, list[str]]] | None = None,
) -> Callable[[dict[str, list[str]]], dict[str, Turns]]:
    """Devices on which models take these times (None: no memory), some devices longer by a factor."""

    def measure(models: dict[str, list[str]]) -> dict[str, Turns]:
        if asked is not None:
            asked.append(models)
        return {
            device: take_turns(
                {
                    n: FakeSession(
                        n, (step_s[n] or 1) * (factors or {}).get(device, 1), [], TWO[device], None if step_s[n] else 1
                    )
                    for n in own
                }
            )
            for device, own in models.items()
        }

    return measure


def subject(model: str, **changes) -> Calibration:
    values = dict(
        model=model, source_hash="", dataset="d", batch=64, profile="strict", hardware_key=KEY, sequence=1, blocks=[],
        beside=[],
    )  # fmt: skip
    return Calibration(**{**values, **changes})


@given(st.floats(1e-4, 5.0), st.integers(1, 10**4))
def test_a_block_is_at_least_thirty_steps_and_two_seconds(step_s: float, budget_s: int) -> None:
    pieces: list[int] = []

    def advance(steps: int) -> float:
        pieces.append(steps)
        return steps * step_s

    piece = piece_of(budget_s, step_s)
    block = time_block(advance, piece)
    assert block.steps == sum(pieces) >= BLOCK_STEPS and block.seconds >= 2.0 - 1e-9
    assert block.seconds / block.steps == pytest.approx(step_s)
    assert block.steps < BLOCK_STEPS + piece or block.seconds < 2.0 + piece * step_s + 1e-9
    # What a run of this budget does between two looks at its loss, unless that is long.
    steps = max(1, int(budget_s // step_s))
    assert set(pieces) == {piece} and (piece == math.ceil(steps / train.BLOCKS) or piece * step_s <= 1.0 or piece == 1)


def test_models_take_turns_block_by_block() -> None:
    order: list[str] = []
    turns = take_turns({n: FakeSession(n, 0.01, order) for n in "abc"})
    assert order == list("abc") * BLOCKS and all(len(b) == BLOCKS for b in turns.blocks.values())


@pytest.mark.parametrize(("fails_at", "asked"), [(0, "ac"), (1, "abc"), (BLOCKS, "abc")])
def test_a_model_that_fails_takes_no_further_turn_and_the_others_do(fails_at: int, asked: str) -> None:
    order: list[str] = []
    turns = take_turns({n: FakeSession(n, 0.01, order, fails_at=fails_at if n == "b" else None) for n in "abc"})
    assert [len(turns.blocks[n]) for n in "ac"] == [BLOCKS] * 2 and order.count("b") == fails_at
    assert {n: (e.status, e.reason) for n, e in turns.failed.items()} == {"b": ("oom", "b is too large")}
    assert set(order) == set(asked)


def test_the_step_time_is_the_mean_over_all_steps() -> None:
    calibration = subject("a", blocks=[Block(steps=100, seconds=1.0), Block(steps=300, seconds=5.0)])
    assert calibration.step_s == 6.0 / 400


def test_blocks_are_added_without_rounding() -> None:
    # In floats 0.1 + 0.2 is more than 0.3, and the budget would lose a step.
    calibration = subject("a", blocks=[Block(steps=1, seconds=0.1), Block(steps=2, seconds=0.2)])
    assert calibration.exact_step_s == Fraction(1, 10)
    assert steps_in(1.2, calibration.exact_step_s) == 12


def test_a_later_model_is_measured_beside_a_reference_that_must_agree() -> None:
    known = [subject("old", blocks=[Block(steps=100, seconds=1.0)])]

    measured = calibrate([subject("new")], known, measuring({"old": 0.0102, "new": 0.02}), ONE).calibrations
    assert [c.model for c in measured] == ["new"] and measured[0].beside == ["old"]
    with pytest.raises(UserError, match=r"\+5\.0 %"):
        calibrate([subject("new")], known, measuring({"old": 0.0105, "new": 0.02}), ONE)
    with pytest.raises(UserError, match="the reference model old failed: old is too large"):
        calibrate([subject("new")], known, measuring({"old": None, "new": 0.02}), ONE)


def test_all_devices_are_measured_and_decide_together() -> None:
    done = calibrate([subject("a"), subject("b")], [], measuring({"a": 0.01, "b": 0.03}, {"cuda:1": 1.04}), TWO)
    a, b = done.calibrations
    assert [[x.gpu for x in c.blocks] for c in (a, b)] == [["GPU-0"] * BLOCKS + ["GPU-1"] * BLOCKS] * 2
    assert (a.step_s, b.step_s) == (pytest.approx(0.0102), pytest.approx(0.0306)) and a.beside == ["b"]


def test_devices_that_differ_by_more_than_three_percent_from_their_mean_are_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"a step of a takes 10\.000 ms on cuda:0, 10\.700 ms on cuda:1.*--device"):
        calibrate([subject("a")], [], measuring({"a": 0.01}, {"cuda:1": 1.07}), TWO)


def test_a_further_device_confirms_what_is_known_and_changes_no_number_of_steps() -> None:
    """All seeds of a model train N steps, wherever they run."""
    first = calibrate([subject("a"), subject("b")], [], measuring({"a": 0.01, "b": 0.03}), ONE).calibrations
    nobody = calibrate([], first, measuring({}), ONE, kept=first)
    assert nobody.calibrations == [] and nobody.failed == {}
    asked: list[dict[str, list[str]]] = []
    more = calibrate([], first, measuring({"a": 0.0102, "b": 0.0299}, asked=asked), TWO, kept=first).calibrations
    assert asked == [{"cuda:1": ["a", "b"]}]
    assert [(c.model, c.confirms != "", {x.gpu for x in c.blocks}) for c in more] == [
        (m, True, {"GPU-1"}) for m in "ab"
    ]
    known = [*first, *more]
    assert latest(known) == {c.model: c for c in first}
    assert calibrate([], known, measuring({}), TWO, kept=first).calibrations == []  # once is enough
    with pytest.raises(UserError, match=r"a now takes 10\.400 ms a step on cuda:1, but.*10\.000 ms"):
        calibrate([], first, measuring({"a": 0.0104, "b": 0.03}), TWO, kept=first)
    # A new calibration measures the model on all devices.
    again = calibrate([subject("a")], known, measuring({"a": 0.02, "b": 0.03}), TWO, kept=first[1:]).calibrations
    assert [(c.model, c.sequence, c.confirms) for c in again] == [("a", 2, "")]
    assert gpus_of(again[0], [*known, *again]) == {"GPU-0", "GPU-1"}


def test_a_model_that_fails_on_one_device_has_no_calibration_and_a_cause() -> None:
    done = calibrate([subject("a"), subject("b")], [], measuring({"a": 0.01, "b": None}), TWO)
    assert [c.model for c in done.calibrations] == ["a"] and done.failed["b"].status == "oom"
    first = calibrate([subject("a")], [], measuring({"a": 0.01}), ONE).calibrations
    done = calibrate([], first, measuring({"a": None}), TWO, kept=first)
    assert done.calibrations == [] and done.failed["a"].reason == "a is too large"


def test_calibrations_are_written_once_and_read_strictly(tmp_path: Path) -> None:
    path = write_calibration(tmp_path, "board", subject("a", blocks=[Block(steps=1, seconds=1.0)]))
    assert [c.model for c in read_calibrations(tmp_path, "board")] == ["a"]
    path.write_text(path.read_text().replace('"seconds":1.0', '"seconds":2.0'))
    with pytest.raises(UserError, match="does not match the hash"):
        read_calibrations(tmp_path, "board")
