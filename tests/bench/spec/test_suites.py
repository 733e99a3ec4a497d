"""Every shipped suite plans; its models build; matched classes match; the compute-matched suite matches compute."""

from fnmatch import fnmatch
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from equibench.bench.boards.families import find_points
from equibench.bench.measures.operations import Operations, unfused
from equibench.bench.records.size_classes import limits
from equibench.bench.reports.estimate import step_flops
from equibench.bench.spec.suite import find_suite, plan, suite_names
from equibench.registry import DATASETS, MODELS, build_model
from torch import nn

torch.set_num_threads(1)

SUITES = [point for name in suite_names() for point in find_points(name)]
#: Rows of the tables of PDO-eConv, and the suite that each must stand in with counterparts of these families.
ROWS = {
    "mnist-rot": ["pdo-econv-p8-paper"],
    "mnist-rot-da": ["pdo-econv-p8-large-paper"],
    "cifar10-small": ["pdo-econv-p6-26-paper", "pdo-econv-p6m-26-paper"],
    "cifar10-resnet44": ["pdo-econv-p8-44-paper"],
    "cifar10-wide": ["pdo-econv-p8-26-wide-paper"],
}
#: Kernels that take more than ten seconds to solve.
HEAVY = {"e2cnn-bench-d16", "e2cnn-d16-c16"}


@pytest.mark.parametrize("suite", SUITES, ids=lambda s: s.name)
def test_every_suite_plans(suite) -> None:
    specs = plan(suite)
    assert len(specs) == len(suite.models) * len(suite.seed_list) and len({s.digest() for s in specs}) == len(specs)
    assert len({s.board for s in specs}) == 1 and specs[0].board == suite.board()
    assert suite.title and suite.reference_model in suite.models
    if suite.budget != "published":  # equal examples, up to one batch
        examples = [s.steps * s.recipe.batch for s in specs]
        assert max(examples) - min(examples) < 128


#: What stands beside PDO-eConv in every suite of the 25K class: an architecture of 2021 and later of each kind.
NEWER = ["steerable-pdo-*", "f-conv-*", "relaxed-p4cnn*", "*+ti-c4", "*+canon-c4", "*+canon-c8", "vit-*"]


@pytest.mark.parametrize("name", [n for n in suite_names() if "25k" in n and n != "digits-25k-compute"])
def test_the_suites_of_the_25k_class_have_the_newer_architectures(name: str) -> None:
    models = find_suite(name).models
    assert [pattern for pattern in NEWER if not any(fnmatch(m, pattern) for m in models)] == []


TWINS = {name.replace("cifar10", "cifar100"): rows for name, rows in ROWS.items()}


@pytest.mark.parametrize(("name", "rows"), (ROWS | TWINS).items())
def test_every_row_of_pdo_econv_stands_beside_its_counterparts(name: str, rows: list[str]) -> None:
    models = find_suite(name).models
    assert set(rows) <= set(models)
    families = {MODELS.find(m).get("family") for m in models}
    assert {"pdo-econv", "g-cnn", "e2cnn", "wide-resnet"} <= families


def models_of(*, heavy: bool) -> list[tuple[str, str]]:
    pairs = {(m, s.dataset) for s in SUITES for m in s.models}
    shapes: dict[tuple, tuple[str, str]] = {}
    for model, dataset in sorted(pairs):
        fields = DATASETS.find(dataset).entry.fields
        shapes.setdefault((model, fields["shape"], fields["classes"]), (model, dataset))
    return [p for p in shapes.values() if (p[0].partition("+")[0] in HEAVY) == heavy]


def on_meta(model: str, dataset: str) -> nn.Module:
    """The network without numbers: two tests look at each."""
    fields = DATASETS.find(dataset).entry.fields
    return _on_meta(model, fields["shape"][0], fields["classes"], fields["shape"][1])


@cache
def _on_meta(model: str, channels: int, classes: int, size: int) -> nn.Module:
    with torch.device("meta"):
        return build_model(model, channels, classes, size)


@pytest.mark.parametrize(("model", "dataset"), models_of(heavy=False))
def test_every_model_of_a_suite_builds(model: str, dataset: str) -> None:
    assert sum(p.numel() for p in on_meta(model, dataset).parameters()) > 1000


@pytest.mark.slow
@pytest.mark.parametrize(("model", "dataset"), models_of(heavy=True))
def test_every_heavy_model_of_a_suite_builds(model: str, dataset: str) -> None:
    assert sum(p.numel() for p in on_meta(model, dataset).parameters()) > 1000


@pytest.mark.parametrize("suite", [s for s in SUITES if s.parameter_class == "matched"], ids=lambda s: s.name)
def test_matched_classes_match(suite) -> None:
    low, high = limits(suite.reference_parameters)
    for model in suite.models:
        count = sum(p.numel() for p in on_meta(model, suite.dataset).parameters() if p.requires_grad)
        assert low <= count <= high, model


@pytest.mark.parametrize("name", ["digits-25k-compute", "digits-25k-compute-newer"])
def test_the_compute_matched_suites_have_equal_operations_a_step(name: str) -> None:
    suite = find_suite(name)
    batch = plan(suite)[0].recipe.batch
    flops = {m: step_flops(m, (1, 28, 28), 10, batch)[0] for m in suite.models}
    assert max(flops.values()) <= 1.1 * min(flops.values()), flops


def test_operations_of_a_step_are_the_same_where_they_are_extrapolated() -> None:
    def step(model: nn.Module, count: int) -> int:
        with unfused(), Operations() as operations:
            F.cross_entropy(model(torch.randn(count, 1, 28, 28)), torch.arange(count)).backward()
        return operations.flops

    fixed = []
    for name in ("p4cnn", "e2cnn-c8-25k"):
        model = build_model(name, 1, 10, 28)
        two, three, eight = (step(model, n) for n in (2, 3, 8))
        assert eight == two + 6 * (three - two) == step_flops(name, (1, 28, 28), 10, 8)[0]
        fixed.append(two - 2 * (three - two))
    assert fixed[0] == 0 < fixed[1]  # p4 filters are copied, steerable ones computed
