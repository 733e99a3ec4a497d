"""Recipes as data: which a model gets, that the trainer can do what they say, and that every value has a source."""

import re
from pathlib import Path

import pytest
import torch
from equibench.bench.spec.budget import find_budget
from equibench.bench.spec.recipe import Recipe, find_recipe, named_recipes, paper_recipes
from equibench.bench.spec.suite import Suite, plan, tuned_file
from equibench.bench.tools.files import shipped
from equibench.bench.training.train import optimizer_for, set_batch_norm, train_step
from equibench.datasets.batches import AUGMENTATIONS
from equibench.registry import MODELS, UserError
from torch import nn

#: Networks for data sets that are not here.
WITHOUT = {"e2wrn-16-8-d8d4d1", "e2wrn-16-8-d1d1d1"}
#: Families and networks of ours, after papers whose networks were trained otherwise, or on other images.
UNPUBLISHED = {"f-conv", "steerable-kernel-c8", "steerable-pdo", "relaxed-p4cnn", "vit", "tv-resnet18-small"}
SOURCE = re.compile(r"#.*(\[[\w-]+\]|unverified)")


@pytest.mark.parametrize("name", [e.name for e in MODELS.match() if not e.is_template and e.name not in WITHOUT])
def test_exactly_one_paper_recipe_fits_a_model(name: str) -> None:
    import fnmatch

    fits = [label for label, (own, _) in paper_recipes().items() if any(fnmatch.fnmatchcase(name, p) for p in own)]
    if MODELS.find(name).entry.fields["family"] in UNPUBLISHED or name in UNPUBLISHED:
        with pytest.raises(UserError, match=f"no published recipe is known for model '{name}'"):
            find_recipe("paper", name)
    else:
        assert len(fits) == 1, fits


def test_recipes_say_only_what_can_be_done() -> None:
    for recipe in [*named_recipes().values(), *(r for _, r in paper_recipes().values())]:
        assert set(recipe.augment) <= set(AUGMENTATIONS)
        optimizer_for(nn.Linear(2, 2), recipe)
    assert all(recipe.epochs for _, recipe in paper_recipes().values())


def test_the_common_recipes_differ_in_augmentation_only() -> None:
    common = find_recipe("common")
    assert (common.optimizer, common.lr, common.batch) == ("adam", 3e-3, 64)
    for name, recipe in named_recipes().items():
        assert recipe.bare.model_copy(update={"name": "common", "augment": []}) == common.bare, name


def test_every_value_of_a_baseline_has_a_source_beside_it() -> None:
    table = ""
    for line in shipped("bench", "spec", "recipes_baselines.toml").splitlines():
        table = line if line.startswith("[") else table
        key = line.partition(" = ")[0]
        if " = " in line and key not in ("models", "note", "shape", "knots"):
            assert SOURCE.search(line), f"{table} {line}"


def test_wrapped_models_are_trained_as_what_they_wrap() -> None:
    assert find_recipe("paper", "z2cnn+rot-aug") == find_recipe("paper", "z2cnn")
    with pytest.raises(UserError, match="no published recipe is known for model 'tiny'"):
        find_recipe("paper", "tiny")


def suite(**changes) -> Suite:
    values = {"name": "s", "dataset": "digits-rot", "budget": "e2", "models": ["p4cnn", "z2cnn"], "seeds": 1, **changes}
    return Suite.model_validate(values)


def test_paper_boards_pair_examples_and_published_budgets_differ() -> None:
    paper = {s.model: s for s in plan(suite(recipe="paper"))}
    assert paper["p4cnn"].board == "digits-rot-e2-paper-v2" and paper["p4cnn"].recipe.batch == 128
    assert {s.steps for s in paper.values()} == {2 * 3000 // 128}
    published = {s.model: s.steps for s in plan(suite(recipe="paper", budget="published"))}
    assert published == {"p4cnn": 100 * 3000 // 128, "z2cnn": 300 * 3000 // 128}
    with pytest.raises(UserError, match="each author's own"):
        plan(suite(budget="published"))
    with pytest.raises(UserError, match="published number of epochs"):
        find_budget("published").steps_for(3000, 64, None)


def test_tuned_recipes_lie_with_the_results(tmp_path: Path) -> None:
    wanted = suite(recipe="tuned", models=["p4cnn"])
    with pytest.raises(UserError, match="equibench tune"):
        plan(wanted, root=tmp_path)
    path = tuned_file(tmp_path, wanted.board())
    path.parent.mkdir()
    path.write_text(
        '[p4cnn]\noptimizer = "adam"\nlr = 1e-2\nbatch = 64\nbatch_norm = "running"\ntrials = 5\n'
        'schedule = { shape = "step", knots = [[0.0, 1.0]] }\n'
    )
    (spec,) = plan(wanted, root=tmp_path)
    assert (spec.recipe.name, spec.recipe.lr, spec.recipe.trials) == ("tuned", 1e-2, 5)
    with pytest.raises(UserError, match="did you mean"):
        plan(suite(recipe="tuned-crop-flop"))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 0.0 * self.body(images)


def recipe(**changes) -> Recipe:
    return Recipe.model_validate({**find_recipe("common").model_dump(), "optimizer": "sgd", "lr": 0.5, **changes})


@pytest.mark.parametrize("decayed", ["weights", "all"])
def test_decay_and_l1_shrink_the_weights_that_the_recipe_says(decayed: str) -> None:
    # The gradient of this loss is zero, so that a step is the decay alone.
    torch.manual_seed(0)
    model = Net()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = optimizer_for(model, recipe(weight_decay=0.1, l1=0.01, decayed=decayed))
    train_step(model, optimizer, torch.randn(4, 1, 3, 3), torch.zeros(4, dtype=torch.long), "strict")
    for name, parameter in model.named_parameters():
        free = decayed == "weights" and not (name.endswith("weight") and "1" not in name)
        expected = before[name] if free else before[name] - 0.5 * (0.1 * before[name] + 0.01 * before[name].sign())
        torch.testing.assert_close(parameter.detach(), expected)


def test_batch_norm_momentum_is_the_recipes_or_the_models_own() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2, momentum=0.9), nn.BatchNorm1d(2))
    set_batch_norm(model, None)
    assert [m.momentum for m in model] == [0.9, 0.1]
    set_batch_norm(model, 0.001)
    assert [m.momentum for m in model] == [0.001, 0.001]


def test_nesterov_looks_ahead() -> None:
    # By hand: after one step from rest with gradient g, plain momentum moves by lr g, Nesterov by lr (1 + m) g.
    moved = {}
    for nesterov in (False, True):
        parameter = nn.Parameter(torch.ones(1))
        model = nn.Module()
        model.weight = parameter
        optimizer = optimizer_for(model, recipe(momentum=0.9, nesterov=nesterov, lr=0.1))
        parameter.grad = torch.ones(1)
        optimizer.step()
        moved[nesterov] = float(1 - parameter.detach())
    assert moved[False] == pytest.approx(0.1) and moved[True] == pytest.approx(0.19)
