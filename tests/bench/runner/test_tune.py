"""Tuning: the same rates for all, the choice on validation images, every trial a record."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from equibench.bench.boards.board import Board
from equibench.bench.records.record import read_board, write_record
from equibench.bench.records.store import board_names
from equibench.bench.runner.head_to_head import run
from equibench.bench.runner.tune import GRID, base_recipe, best_rate, trials, tune, validation_scores, write_tuned
from equibench.bench.spec.recipe import find_recipe, named_recipes
from equibench.bench.spec.suite import Suite, plan, tuned_file
from equibench.bench.tools.machine import Machine
from equibench.registry import UserError, include

from .. import made

TINY = str(Path(__file__).parents[1] / "tiny.py")


def suite(**changes) -> Suite:
    values = {"name": "s", "dataset": "digits-rot", "budget": "e1", "models": ["p4cnn", "z2cnn"], "seeds": 3, **changes}
    return Suite.model_validate(values)


def test_every_model_gets_the_same_trials() -> None:
    specs = trials(suite(), plan(suite(seeds=[0])))
    assert len(specs) == 2 * len(GRID) and len({s.board for s in specs}) == 1
    assert specs[0].board == "digits-rot-e1-tuning-v2"
    for model in ("p4cnn", "z2cnn"):
        assert sorted(s.recipe.lr for s in specs if s.model == model) == sorted(GRID)
    plain = plan(suite(seeds=[0]))[0]
    for spec in specs:  # all else is the base recipe
        assert spec.recipe.model_copy(update={"name": "common", "lr": plain.recipe.lr}) == plain.recipe
        assert (spec.seed, spec.steps) == (0, plain.steps)


def test_only_common_recipes_are_tuned() -> None:
    assert base_recipe(suite(recipe="tuned")).name == "common"
    assert base_recipe(suite(recipe="tuned-rotate")).name == "common-rotate"
    with pytest.raises(UserError, match="'paper' cannot be tuned"):
        base_recipe(suite(recipe="paper"))
    with pytest.raises(UserError, match="validation images"):
        tune(suite(fit="train+val"))


def test_the_choice_is_by_validation_and_ties_go_to_the_smaller_rate() -> None:
    assert best_rate("m", {1e-3: 90.0, 3e-3: 91.0, 1e-2: 91.0, 3e-2: None}) == 3e-3
    with pytest.raises(UserError, match="no trial of model 'm'"):
        best_rate("m", dict.fromkeys(GRID))


def test_test_accuracies_have_no_say() -> None:
    def trial(rate: float, test: float, val: float):
        spec = made.spec()
        recipe = spec.recipe.model_copy(update={"name": "tuning", "lr": rate})
        record = made.record(test, recipe=recipe)
        return record.model_copy(update={"results": record.results.model_copy(update={"val_acc_pct": val})}), ""

    stale = trial(1e-2, 10.0, 99.0)[0], "source"
    board = Board("b", [trial(1e-3, 99.0, 50.0), trial(3e-3, 10.0, 60.0), stale])
    scores = validation_scores(board, ["made-up"])["made-up"]
    assert (scores[1e-3], scores[3e-3], scores[1e-2]) == (50.0, 60.0, None) and best_rate("m", scores) == 3e-3


def test_the_file_reads_back_as_recipes(tmp_path: Path) -> None:
    wanted = suite(recipe="tuned", models=["z2cnn+rot-aug", "p4cnn"])
    path = tuned_file(tmp_path, wanted.board())
    scores = {m: {r: 50.0 for r in GRID} for m in wanted.models}
    write_tuned(path, find_recipe("common"), {"p4cnn": 1e-2}, scores)
    write_tuned(path, find_recipe("common"), {"z2cnn+rot-aug": 3e-4}, scores)  # other models stay
    specs = {s.model: s.recipe for s in plan(wanted, root=tmp_path)}
    assert specs["p4cnn"].lr == 1e-2 and specs["z2cnn+rot-aug"].lr == 3e-4
    for recipe in specs.values():
        assert recipe.trials == len(GRID)
        common = recipe.model_copy(update={"name": "common", "lr": 3e-3, "trials": 0})
        assert common == named_recipes()["common"].bare


#: Numbers of rates that are tried: two, and all.
@pytest.mark.parametrize("rates", [2, pytest.param(len(GRID), marks=pytest.mark.whole)])
def test_from_trials_to_a_tuned_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rates: int) -> None:
    grid = GRID[:rates]
    monkeypatch.setattr("equibench.bench.runner.tune.GRID", grid)
    wanted = suite(dataset="bars", budget="e1", models=["tiny"], seeds=1)
    include([TINY])
    base = wanted.model_copy(update={"recipe": "common"})
    for spec in trials(base, plan(base)):  # of another program: they choose no rate, and are made again
        old = made.record(0.0).model_copy(update={"spec": spec})
        assert old.results is not None
        results = old.results.model_copy(update={"val_acc_pct": 0.0, "train_images": 240})
        write_record(tmp_path, old.model_copy(update={"results": results}))
    here = Machine("cpu", jobs=2, includes=(TINY,), data_root=tmp_path / "data")
    done = tune(wanted, results=tmp_path, machine=here)
    assert len(done.outcome.ran) == len(grid) and all(score for score in done.scores["tiny"].values())
    assert done.path.is_file() and set(done.scores["tiny"]) == set(grid) and None not in done.scores["tiny"].values()
    (board,) = board_names(tmp_path)
    assert board == "bars-e1-tuning-v2" and not done.outcome.board.is_table and not list(tmp_path.glob("*.csv"))
    assert len(read_board(tmp_path, board)[0]) == 2 * len(grid)
    again = tune(wanted, results=tmp_path, machine=here)
    assert again.outcome.ran == {} and again.chosen == done.chosen
    tuned = wanted.model_copy(update={"recipe": "tuned"})
    outcome = run(tuned, results=tmp_path, machine=replace(here, jobs=1))
    ((record, stale),) = outcome.board.chosen
    assert record.spec.recipe.lr == done.chosen["tiny"] and not stale and record.spec.board == "bars-e1-tuned-v2"
    assert json.loads(record.canonical())["spec"]["recipe"]["trials"] == len(grid)
