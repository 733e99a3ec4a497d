"""Boards side by side: means over complete cells, improvability, what is missing where, and boards that don't go
together.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from equibench.bench.boards.across import NOT_THERE, Entry, Side, groups, short_names, side_of, summarise
from equibench.bench.boards.board import load_board
from equibench.bench.boards.statistics import compare
from equibench.bench.records.record import write_record
from equibench.registry import UserError
from hypothesis import given
from hypothesis import strategies as st

from .. import made
from ..publish import boards
from ..publish.boards import ACCURACIES, BOARD

MODELS = [f"m{i}" for i in range(6)]
#: Accuracies in steps of 1/1500, as test sets have them.
ACCURACY = st.integers(0, 1500).map(lambda hits: 100 * hits / 1500)


def side(
    name: str, accuracies: dict[str, float], reference: str | None = "m0", protocol: int = 2, recipe: str = "common"
) -> Side:
    """A board with these mean accuracies, one seed each."""
    base = accuracies.get(reference or "", 0.0)
    entries = {
        m: Entry(a, difference=a - base if reference else None, missing="" if reference else "none")
        for m, a in accuracies.items()
    }
    return Side(name, name, reference, protocol, (recipe, "strict", "", "E", f"protocol {protocol}"), entries)


@st.composite
def grids(draw: st.DrawFn) -> list[dict[str, float]]:
    """Boards on which the reference m0 and m1 are complete, and others here and there."""
    count = draw(st.integers(2, 7))
    return [{m: draw(ACCURACY) for m in MODELS if m in ("m0", "m1") or draw(st.booleans())} for _ in range(count)]


@given(grids())
def test_means_are_those_of_the_definition_over_complete_cells(grid: list[dict[str, float]]) -> None:
    summary = summarise(side(f"b{i}", own) for i, own in enumerate(grid))
    complete = [m for m in MODELS if all(m in own for own in grid)]
    assert sorted(summary.models) == complete
    table = np.array([[own[m] for m in complete] for own in grid], dtype=np.float64)
    error = 100 - table
    with np.errstate(invalid="ignore"):
        improvable = np.where(
            error == error.min(axis=1, keepdims=True), 0.0, 1 - error.min(axis=1, keepdims=True) / error
        )
    difference = (table - table[:, [complete.index("m0")]]).mean(axis=0)
    for at, model in enumerate(complete):
        assert summary.difference(model) == pytest.approx(difference[at], abs=1e-9)
        assert summary.improvability(model) == pytest.approx(100 * improvable[:, at].mean(), abs=1e-9)
        assert 0 <= summary.improvability(model) <= 100
    means = [summary.difference(m) for m in summary.models]
    assert means == sorted(means, reverse=True)
    lacking = {m: {f"b{i}" for i, own in enumerate(grid) if m not in own} for m in MODELS}
    assert {m: set(why) for m, why in summary.missing.items()} == {
        m: on for m, on in lacking.items() if 0 < len(on) < len(grid)
    }


@given(grids(), st.randoms(use_true_random=False))
def test_the_order_of_boards_and_models_changes_no_digit(grid: list[dict[str, float]], random: object) -> None:
    sides = [side(f"b{i}", own) for i, own in enumerate(grid)]
    turned = []
    for own in sides:
        entries = list(own.entries.items())
        random.shuffle(entries)
        turned.append(replace(own, entries=dict(entries)))
    random.shuffle(turned)
    first, second = summarise(sides), summarise(turned)
    assert first.models == second.models and first.missing == second.missing
    assert [first.difference(m) for m in first.models] == [second.difference(m) for m in second.models]
    assert [first.improvability(m) for m in first.models] == [second.improvability(m) for m in second.models]


@given(grids(), ACCURACY)
def test_a_model_that_misses_a_board_changes_no_figure(grid: list[dict[str, float]], accuracy: float) -> None:
    before = summarise(side(f"b{i}", own) for i, own in enumerate(grid))
    after = summarise(side(f"b{i}", own | ({} if i else {"late": accuracy})) for i, own in enumerate(grid))
    assert after.models == before.models and set(after.missing) == {*before.missing, "late"}
    assert set(after.missing["late"].values()) == {NOT_THERE} and "b0" not in after.missing["late"]
    assert [after.difference(m) for m in after.models] == [before.difference(m) for m in before.models]
    assert [after.improvability(m) for m in after.models] == [before.improvability(m) for m in before.models]


@given(grids(), st.floats(0.1, 1))
def test_improvability_is_of_the_ratio_of_errors_alone(grid: list[dict[str, float]], factor: float) -> None:
    whole = summarise(side(f"b{i}", own) for i, own in enumerate(grid))
    easier = [own if i else {m: 100 - factor * (100 - a) for m, a in own.items()} for i, own in enumerate(grid)]
    summary = summarise(side(f"b{i}", own) for i, own in enumerate(easier))
    for model in whole.models:
        assert summary.improvability(model) == pytest.approx(whole.improvability(model), abs=1e-6)


def test_where_the_best_has_no_error_it_has_0_and_every_other_100() -> None:
    summary = summarise(
        [side("a", {"m0": 100.0, "m1": 99.9, "m2": 100.0}), side("b", {"m0": 80.0, "m1": 90.0, "m2": 90.0})]
    )
    assert [s.name for s in summary.perfect] == ["a"]
    at = {m: [summary.improvability(m, s) for s in summary.sides] for m in ("m0", "m1", "m2")}
    assert at == {"m0": [0, pytest.approx(50)], "m1": [100, 0], "m2": [0, 0]}


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ([], "none of these boards has a table"),
        ([side("a", {"m0": 1.0, "m1": 2.0})], "a is one; equibench leaderboard a shows it"),
        (
            [side("a", {"m0": 1.0}), side("b", {"m1": 2.0})],
            "without a common model cannot be combined: .* on all of a, b",
        ),
        (
            [side("a", {"m0": 1.0, "m1": 2.0}), side("b", {"m0": 2.0, "m2": 3.0})],
            "without a common model .* only the reference m0",
        ),
        (
            [side("a", {"m0": 1.0, "m1": 2.0}, protocol=1), side("b", {"m0": 1.0, "m1": 2.0})],
            r"protocols 1 and 2 .* '\*-v2'",
        ),
        (
            [side("a", {"m0": 1.0, "m1": 2.0}), side("b", {"m0": 1.0, "m1": 2.0}, "m1")],
            "a: m0, b: m1.* all of them have m0, m1",
        ),
        (
            [side("a", {"m0": 1.0, "m1": 2.0}, None), side("b", {"m0": 1.0, "m1": 2.0}, None)],
            "no common reference .a: none",
        ),
    ],
)
def test_boards_that_do_not_go_together_are_refused_with_a_sentence(sides: list[Side], message: str) -> None:
    with pytest.raises(UserError, match=message):
        summarise(sides)


def test_a_board_says_the_same_beside_others_as_alone(tmp_path: Path) -> None:
    board = boards.board(tmp_path)
    for against in ("", "z2cnn-22", "p4cnn"):
        own = side_of(board, against)
        reference = against or "z2cnn-22"
        assert own.reference == reference and own.entries[reference].difference == 0
        for c in compare(board.samples, reference):
            entry = own.entries[c.model]
            assert (entry.difference, entry.interval, entry.by_image) == (c.difference, c.interval, c.by_image)
        for model, entry in own.entries.items():
            assert entry.rank == board.ranks[model] and entry.accuracy == pytest.approx(np.mean(ACCURACIES[model]))
    with pytest.raises(UserError, match=f"--against 'gmr-cnn': it has no result on {BOARD}"):
        side_of(board, "gmr-cnn")


def test_runs_that_failed_diverged_or_have_other_seeds_are_told(tmp_path: Path) -> None:
    boards.fill(tmp_path)
    write_record(tmp_path, made.record(None, status="oom", model="resnet-26"))
    write_record(tmp_path, made.record(None, status="oom", model="z2cnn-22", seed=9))
    for seed in range(3):
        write_record(
            tmp_path,
            boards.with_details(
                made.record(90.0 if seed else 10.0, "ok" if seed else "diverged", model="sre-cnn", seed=seed)
            ),
        )
    write_record(tmp_path, boards.with_details(made.record(91.0, model="gmr-cnn", seed=17)))
    entries = side_of(load_board(tmp_path, BOARD)).entries
    assert entries["resnet-26"].missing == "no result (oom)" and entries["resnet-26"].accuracy is None
    assert entries["gmr-cnn"].missing == "no seed in common with z2cnn-22" and entries["gmr-cnn"].accuracy == 91
    assert entries["z2cnn-22"].remarks == ("1 of 5 runs failed (oom)",)
    diverged = entries["sre-cnn"]
    # It counts as chance level: to leave it out would favour networks that break.
    assert diverged.accuracy == pytest.approx(190 / 3) and diverged.difference == pytest.approx((190 - 270.7) / 3)
    assert diverged.interval is None and diverged.rank is None and not diverged.missing
    assert "1 of 3 runs diverged" in diverged.remarks[0]


def test_boards_of_one_recipe_and_profile_make_a_group() -> None:
    own = {"m0": 1.0, "m1": 2.0}
    sides = [side("b", own), side("a", own), side("c", own, recipe="paper"), side("d", own, protocol=1)]
    assert [[s.name for s in found] for found in groups(sides).values()] == [["a", "b"]]


@given(st.lists(st.text("ab-", min_size=1, max_size=9), min_size=1, max_size=6, unique=True))
def test_short_names_are_parts_that_differ(names: list[str]) -> None:
    short = short_names(names)
    assert list(short) == names and len(set(short.values())) == len(names)
    assert all(part in name and part for name, part in short.items())


def test_short_names_leave_out_what_all_have_in_common() -> None:
    names = ["digits-rot-e4-common-v2", "mnist-rot-gen-e4-common-v2", "mnist-rot-e4-common-v2"]
    assert list(short_names(names).values()) == ["digits-rot", "mnist-rot-gen", "mnist-rot"]
    assert list(short_names(["a-e4-v2", "a-e8-v2"]).values()) == ["e4", "e8"]
    assert list(short_names(["a-v2", "a-b-v2"]).values()) == ["a-v2", "a-b-v2"]
