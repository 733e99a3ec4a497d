"""The simulation that the documentation shows: its truth, a few experiments, and that it can fail."""

import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from equibench.bench.boards.random_effects import spread_of_pairs
from equibench.bench.reports import simulation
from equibench.bench.reports.proofs import prove
from equibench.bench.reports.simulation import (
    ALIKE,
    EQUAL,
    NONE,
    SKEWED,
    UNEQUAL,
    Case,
    Simulation,
    coverage,
    family,
    summary,
)
from equibench.registry import UserError


@pytest.mark.parametrize("effects", ["normal", SKEWED, NONE])
@pytest.mark.parametrize("difficulty", [EQUAL, UNEQUAL])
def test_the_truth_is_the_mean_of_many_experiments(effects: str, difficulty: str) -> None:
    world = Simulation(Case(4, 2000, effects, difficulty, worse=(0.0, 0.3)))
    drawn, here = [], []
    for _ in range(150):
        right, truth = world.experiment()
        drawn.append(100 * np.mean([r.mean(axis=1) for r in right], axis=0))
        here.append(np.subtract(drawn[-1], truth))
    for values, truth in ((np.array(drawn), world.accuracy), (np.array(here), 0.0)):
        assert np.all(np.abs(values.mean(0) - truth) < 4 * values.std(0) / np.sqrt(len(values)))
    assert world.accuracy[0] > world.accuracy[1]


def test_unequal_images_are_a_source_of_chance_of_a_difference_and_equal_ones_are_none() -> None:
    pair = np.array([0]), np.array([1])
    parts = {}
    for difficulty in (EQUAL, UNEQUAL):
        world = Simulation(Case(5, 4000, difficulty=difficulty))
        parts[difficulty] = np.mean([spread_of_pairs(world.experiment()[0], *pair).of_images for _ in range(30)])
    assert parts[UNEQUAL] > 10 * parts[EQUAL]


@pytest.mark.parametrize(
    ("effects", "difficulty"), [("normal", UNEQUAL), (NONE, EQUAL), (NONE, UNEQUAL), (ALIKE, UNEQUAL)]
)
def test_intervals_cover_what_they_say(effects: str, difficulty: str) -> None:
    row = coverage(Case(3, 600, effects, difficulty), 300)
    assert row["ok"], row


def test_equal_models_are_told_apart_no_more_often_than_it_says_and_by_their_seeds_alone_more_often() -> None:
    row = family(Case(8, 600, worse=(0.0,) * 5), 300)
    assert row["ok"] and row["rank sets, seeds alone"] > 0.08, row


def test_a_form_that_is_too_narrow_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def narrow(spread, level=0.05):  # type: ignore[no-untyped-def]
        return 1.96 * np.sqrt((spread.of_seeds + spread.of_images) / (spread.seeds * spread.images))

    monkeypatch.setattr(simulation, "half_widths", narrow)
    assert not coverage(Case(3, 600, "normal", EQUAL), 300)["ok"]
    monkeypatch.setattr(
        simulation, "p_values", lambda d, spread: 2 * np.exp(-0.5 * (d / narrow(spread) * 1.96) ** 2) / 2
    )
    assert not family(Case(3, 600, worse=(0.0,) * 8), 200)["ok"]


def test_the_table_has_a_row_for_all_numbers_of_seeds(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(simulation, "QUICK_TRIALS", 4)
    monkeypatch.setattr(simulation, "_DRAWS", 1000)
    monkeypatch.setattr(simulation, "MODELS", {1500: (2, 8)})
    proof = prove("statistics", tmp_path, ["family", "power"], quick=True)
    assert [row["models"] for row in proof.rows["family"]][:4] == ["2 equal"] * 3 + ["8 equal"]
    ((_, table), _) = summary(proof.rows)
    assert len(table) == 4 and all(row["p"].count("/") == 2 for row in table)
    assert proof.figure is None and len(proof.tables) == 2
    with pytest.raises(UserError, match="pdo-econv has no quick version"):
        prove("pdo-econv", tmp_path, quick=True)


def test_the_documentation_shows_every_case_and_no_claim_that_failed() -> None:
    page = (Path(__file__).parents[3] / "docs" / "statistics.md").read_text()
    shown = page.split("<!-- simulation -->")[1].split("<!-- /simulation -->")[0]
    lines = [re.split(r" {2,}", line.strip()) for line in shown.splitlines()]
    assert not [line for line in lines if line[-1] == "NO"]
    for images, models in simulation.MODELS.items():
        named = [line for line in lines if f"{images:,}" in line[:2] and line[-1] == "yes"]
        assert {line[0] for line in named if "equal" in line[0] and "worse" not in line[0]} == {
            f"{n} equal" for n in models
        }
        coverage_rows = {tuple(line[1:3]) for line in named if line[0] == f"{images:,}" and len(line) == 8}
        assert coverage_rows == {*product(("normal", NONE, SKEWED), (EQUAL, UNEQUAL)), (ALIKE, UNEQUAL)}
        assert f"{simulation.TRIALS[images]:,} ({images:,} images)" in shown
