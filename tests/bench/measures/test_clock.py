"""Phases partition the time of a run; clocks."""

import pytest
from equibench.bench.measures.clock import HostClock, Phases
from hypothesis import given
from hypothesis import strategies as st


class Hand:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def test_phases_partition_the_interval_exactly() -> None:
    hand = Hand()
    phases = Phases(start=0.0, now=hand)
    hand.time = 3.0
    phases.add("import", 2.0)
    for name, seconds, after in (("data", 1.0, 0.5), ("train", 10.0, 0.0), ("data", 4.0, 0.25)):
        with phases.phase(name):
            hand.time += seconds
        hand.time += after
    total = phases.total()
    assert total == {"import_s": 2.0, "data_s": 5.0, "train_s": 10.0, "other_s": 1.75, "total_s": 18.75}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 100), st.floats(0, 100))))
def test_named_and_other_time_add_up(parts: list) -> None:
    hand = Hand()
    phases = Phases(start=0.0, now=hand)
    for name, seconds, after in parts:
        with phases.phase(name):
            hand.time += seconds
        hand.time += after
    total = phases.total()
    whole = total.pop("total_s")
    assert whole == hand.time and sum(total.values()) == pytest.approx(whole)


def test_a_phase_counts_when_its_block_raises() -> None:
    hand = Hand()
    phases = Phases(start=0.0, now=hand)
    with pytest.raises(ValueError), phases.phase("train"):
        hand.time = 5.0
        raise ValueError
    assert phases.total()["train_s"] == 5.0


def test_phases_do_not_nest() -> None:
    phases = Phases()
    with pytest.raises(RuntimeError, match="inside"), phases.phase("a"), phases.phase("b"):
        pass


def test_the_host_clock_moves_forward() -> None:
    clock = HostClock()
    start = clock.mark()
    assert clock.seconds(start, clock.mark()) >= 0
