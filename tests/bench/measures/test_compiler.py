"""The compiler stays out of a run, and the optimisers' steps stay what they are."""

import subprocess
import sys

import pytest
import torch
from equibench.bench.measures.compiler import plain_step

RUN = """
import sys, torch
from equibench.bench.training.prepare import set_profile
from equibench.bench.measures.cost import measure_cost
from equibench.bench.spec.recipe import find_recipe
from equibench.bench.training.train import optimizer_for, train_step
set_profile("strict", 1)
model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten())
images, labels = torch.randn(4, 1, 3, 3), torch.zeros(4, dtype=torch.long)
assert measure_cost(model, images, labels).flops_per_image == 2 * 2 * 9
for name in ("adam", "adamw", "sgd"):
    recipe = find_recipe("common").model_copy(update={"optimizer": name})
    train_step(model, optimizer_for(model, recipe), images, labels, "strict")
assert torch.are_deterministic_algorithms_enabled()
print("torch._dynamo" in sys.modules)
"""


def test_a_strict_run_does_not_import_the_compiler() -> None:
    result = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr


COMPILED = """
import sys, torch
from torch import nn
from equibench.bench.measures.compiler import avoid_compiler
from equibench.bench.measures.cost import measure_cost
from equibench.bench.measures.execution_profile import set_profile
from equibench.bench.measures.norms import check_statistics, reestimate_batch_norm
avoid_compiler() if sys.argv[1] == "card" else set_profile(sys.argv[1], 1)
part = torch.compile(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()), backend="eager")
images, labels = torch.randn(4, 1, 3, 3), torch.zeros(4, dtype=torch.long)
model = nn.Sequential(part, nn.Flatten(), nn.Linear(2, 2))
assert measure_cost(model, images, labels).flops_per_image == 2 * (2 * 9 + 4)
check_statistics(model, images)
reestimate_batch_norm(model, [images])
part(images).sum().backward()
print(sum(torch._dynamo.utils.counters["frames"].values()))
"""


@pytest.mark.parametrize("profile", ["fast", *(pytest.param(p, marks=pytest.mark.whole) for p in ("strict", "card"))])
def test_a_part_that_a_model_compiles_is_computed_as_it_stands(profile: str) -> None:
    result = subprocess.run([sys.executable, "-c", COMPILED, profile], capture_output=True, text=True)
    assert result.stdout.strip() == "0", result.stderr


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.Adam, {"weight_decay": 0.1}),
        (torch.optim.AdamW, {"weight_decay": 0.1}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ],
)
def test_a_plain_step_is_the_optimisers_step(kind, options: dict) -> None:
    weights = []
    for how in (plain_step, lambda optimizer: optimizer.step()):
        torch.manual_seed(0)
        layer = torch.nn.Linear(5, 3)
        optimizer = kind(layer.parameters(), lr=0.1, **options)
        for _ in range(4):
            optimizer.zero_grad()
            layer(torch.randn(8, 5)).square().sum().backward()
            how(optimizer)
        weights.append(layer.weight.detach().clone())
    assert weights[0].equal(weights[1])
