"""How many seeds a difference needs: from the spread of records, and what it costs."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from equibench.bench.boards.random_effects import Spread, power
from equibench.bench.cli.main import cli
from equibench.bench.records.record import write_record
from equibench.bench.reports.planning import MOST_SEEDS, plan_seeds, plan_text, seeds_for
from equibench.bench.spec.suite import Suite, find_suite, plan
from equibench.registry import UserError
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from .. import made

SUITE = Suite(
    name="s", dataset="digits-rot", budget="e2", seeds=3, models=["z2cnn-22", "p4cnn"], reference_model="z2cnn-22"
)
RECIPE = plan(SUITE)[0].recipe


def fill(root: Path, deviation: float, models: tuple[str, ...] = ("z2cnn-22", "p4cnn"), **changes) -> None:
    rng = np.random.RandomState(0)
    for model in models:
        for seed, value in enumerate(rng.normal(0, 1, 6)):
            write_record(root, made.record(90 + deviation * value, model=model, seed=seed, recipe=RECIPE, **changes))


@settings(max_examples=20, deadline=None)
@given(st.floats(10, 1e4), st.floats(0, 1e3), st.floats(0.3, 5), st.sampled_from([0.05, 0.005]))
def test_the_seeds_are_the_fewest_that_have_the_power(a: float, b: float, difference: float, level: float) -> None:
    spread = Spread(4, 1500, np.float64(a), np.float64(b))
    found = seeds_for(difference, spread, level)
    if found is None:
        assert power(difference, spread.with_seeds(MOST_SEEDS), level) < 0.8
        return
    assert power(difference, spread.with_seeds(found), level) >= 0.8
    assert found == 3 or power(difference, spread.with_seeds(found - 1), level) < 0.8


def test_more_seeds_do_not_help_where_the_images_are_too_few() -> None:
    spread = Spread(4, 1500, np.float64(10.0), np.float64(4 * 900.0))
    error = math.sqrt(900 / 1500)  # of the images alone
    assert seeds_for(0.5 * (stats.norm.isf(0.025) + stats.norm.isf(0.2)) * error, spread, 0.05) is None
    assert seeds_for(1.5 * (stats.norm.isf(0.025) + stats.norm.isf(0.2)) * error, spread, 0.05) is not None


def test_a_suite_is_planned_from_its_own_records(tmp_path: Path) -> None:
    fill(tmp_path, 0.5)
    small, large = (plan_seeds(SUITE, tmp_path, d, "nothing") for d in (2.0, 0.3))
    assert small.seeds < large.seeds and small.board == made.spec().board and small.reference == "z2cnn-22"
    (need,) = large.needs
    assert need.recorded == 6 and need.run_s is None and large.hours is None and not large.by_image
    text = plan_text(large, "nothing")
    assert f"{large.seeds} seeds of all 2 models: the time is known after a first run" in text
    assert "choice of the test images is ignored" in text


def test_hours_are_those_of_all_runs(tmp_path: Path) -> None:
    timed = SUITE.model_copy(update={"budget": "t120"})
    fill(tmp_path, 0.5)
    planned = plan_seeds(timed, tmp_path, 2.0, "some device")
    assert planned.hours == pytest.approx(planned.seeds * 2 * 120 / 3600), (
        "the spread is of another board of the data set"
    )


def test_a_model_without_records_spreads_as_the_widest(tmp_path: Path) -> None:
    fill(tmp_path, 0.5)
    more = SUITE.model_copy(update={"models": [*SUITE.models, "e2cnn-c8-25k"]})
    planned = plan_seeds(more, tmp_path, 1.0, "nothing")
    assert [n.recorded for n in planned.needs] == [6, 0] and planned.needs[0].seeds == planned.needs[1].seeds
    assert planned.level == 0.025 and "models without records" in plan_text(planned, "nothing")


def test_what_cannot_be_planned_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run the suite with --seeds 3 first"):
        plan_seeds(SUITE, tmp_path, 1.0, "nothing")
    with pytest.raises(UserError, match="one model"):
        plan_seeds(SUITE.model_copy(update={"models": ["p4cnn"]}), tmp_path, 1.0, "nothing")
    for difference in ("0", "-1", "100", "nan"):
        done = CliRunner().invoke(cli, ["plan", "digits-25k", "--difference", difference])
        assert done.exit_code == 2 and ("0<x<100" in done.output or "nan is not a finite number" in done.output)


def test_the_command_writes_one_document(tmp_path: Path) -> None:
    fill(tmp_path, 0.5, ("pdo-econv-p8-paper", "pdo-econv-p8"))
    arguments = ["plan", "digits-pdo", "--difference", "1", "--results", str(tmp_path), "--json", "--device", "cpu"]
    document = json.loads(CliRunner().invoke(cli, arguments, catch_exceptions=False).output)
    assert document["reference"] == "pdo-econv-p8-paper" and document["seeds"] >= 3
    assert len(document["needs"]) == len(find_suite("digits-pdo").models) - 1
