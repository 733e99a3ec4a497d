"""The cost of a suite before it starts."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from equibench.bench.boards.families import find_points
from equibench.bench.cli.main import cli
from equibench.bench.records.record import write_record
from equibench.bench.reports.estimate import cost_table, estimate, step_times
from equibench.bench.spec.suite import Suite, examples_of, plan, suite_names
from equibench.registry import MODELS, UserError
from equibench.source import source_hash

from .. import made

SUITE = Suite(name="s", dataset="digits-rot", budget="e2", seeds=3, models=["p4cnn", "z2cnn"])


def known_step(root: Path, model: str, milliseconds: float, key: str) -> None:
    spec = next(s for s in plan(SUITE) if s.model == model)
    record = made.record(model=model, recipe=spec.recipe, steps=spec.steps)
    provenance = record.provenance.model_copy(
        update={"source_hash": source_hash(MODELS.find(model)), "hardware": {"hardware_key": key}}
    )
    results = record.results.model_copy(update={"step_ms": milliseconds})
    write_record(root, record.model_copy(update={"provenance": provenance, "results": results}))


def test_runs_examples_operations_and_time_add_up(tmp_path: Path) -> None:
    known_step(tmp_path, "p4cnn", 40.0, "this")
    known_step(tmp_path, "z2cnn", 5.0, "another device")
    p4, z2 = estimate(SUITE, tmp_path, "this")
    steps = 2 * 3000 // 64
    assert (p4.runs, p4.steps, p4.examples) == (3, steps, 3 * steps * 64) and p4.parameters == 24_680
    assert p4.flops == 3 * steps * p4.step_flops and p4.train_s == pytest.approx(3 * steps * 0.040)
    assert z2.train_s is None
    assert p4.examples + z2.examples == examples_of(SUITE)
    text = cost_table("s", [p4, z2], "this")
    assert "unknown" in text and f"{p4.examples + z2.examples:,} examples" in text and "1 of 2 models" in text


def test_a_changed_source_has_no_known_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known_step(tmp_path, "p4cnn", 40.0, "this")
    monkeypatch.setattr("equibench.bench.reports.estimate.source_hash", lambda *_: "changed")
    assert next(estimate(SUITE, tmp_path, "this")).train_s is None
    assert len(step_times(tmp_path, "this")) == 1 and step_times(tmp_path, "that") == {}


def test_a_run_that_ended_early_tells_no_step_time(tmp_path: Path) -> None:
    write_record(tmp_path, made.record(50.0, status="diverged", model="p4cnn"))
    assert step_times(tmp_path, "") == {}
    known_step(tmp_path, "p4cnn", 40.0, "this")
    assert list(step_times(tmp_path, "this").values()) == [0.04]


def test_device_seconds_are_their_own_cost(tmp_path: Path) -> None:
    timed = SUITE.model_copy(update={"budget": "t20"})
    assert examples_of(timed) is None
    with pytest.raises(UserError, match="device-seconds"):
        next(estimate(timed, tmp_path, "this"))


def test_the_listing_shows_runs_and_examples_of_every_suite() -> None:
    rows = json.loads(CliRunner().invoke(cli, ["list", "suites", "--json"]).output)
    assert [r["name"] for r in rows] == suite_names()
    for row in rows:
        specs = [spec for suite in find_points(row["name"]) for spec in plan(suite)]
        assert row["runs"] == len(specs) and row["examples"] == sum(s.steps * s.recipe.batch for s in specs)
