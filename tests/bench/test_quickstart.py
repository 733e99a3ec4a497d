"""The networks of the quickstart: their class, the same bits twice, logits that do not depend on the batch."""

from functools import cache

import pytest
import torch
from equibench.bench.measures.accuracy import logits
from equibench.bench.spec.suite import find_suite, plan
from equibench.bench.training.prepare import Loaded, build_from_seed, set_profile
from equibench.bench.training.train import optimizer_for, train_step
from equibench.datasets.images import ImageData, load
from equibench.registry import MODELS

SUITE = find_suite("quickstart")
CPU = torch.device("cpu")


@cache
def digits() -> ImageData:
    return load(SUITE.dataset)


def specs(seed: int = 0) -> dict:
    return {s.model: s for s in plan(SUITE) if s.seed == seed}


def test_the_four_architectures_and_the_plain_network_are_in_it() -> None:
    families = {MODELS.find(m).get("family") for m in SUITE.models}
    assert families == {"pdo-econv", "g-cnn", "e2cnn", "wide-resnet", "cnn"}
    assert SUITE.parameter_class == "matched" and SUITE.reference_parameters == 25_700
    assert {"pdo-econv-p8-paper", "p4cnn"} <= set(SUITE.models)


@pytest.mark.parametrize("name", SUITE.models)
def test_every_model_is_of_the_class(name: str) -> None:
    with torch.device("meta"):
        model = MODELS.find(name).entry.load()(1, 10, 28, **MODELS.find(name).arguments)
    assert 24_415 <= sum(p.numel() for p in model.parameters() if p.requires_grad) <= 26_985


def trained(name: str, steps: int = 3) -> tuple[dict[str, torch.Tensor], torch.nn.Module, Loaded]:
    spec = specs()[name]
    set_profile(spec.profile, 1)
    loaded = Loaded(digits(), spec, CPU)
    model = build_from_seed(spec, digits(), CPU)
    optimizer = optimizer_for(model, spec.recipe)
    for step in range(steps):
        train_step(model, optimizer, *loaded.batches(step), spec.profile)
    return {k: v.clone() for k, v in model.state_dict().items()}, model, loaded


@pytest.mark.parametrize("name", SUITE.models)
def test_the_same_bits_twice_and_logits_that_do_not_depend_on_the_batch(name: str) -> None:
    once, model, loaded = trained(name)
    twice, _, _ = trained(name)
    assert once.keys() == twice.keys() and all(torch.equal(once[k], twice[k]) for k in once)
    model.eval()
    images = torch.from_numpy(digits().test.images[:60])
    whole = logits(model, images, loaded.normalise)
    with torch.no_grad():
        for size in (1, 7, 32):
            parts = torch.cat([model(loaded.normalise(images[i : i + size])) for i in range(0, len(images), size)])
            assert (parts - whole).abs().max() <= 1e-5 * max(1.0, whole.abs().max().item())


def test_all_models_of_a_seed_see_the_same_batches() -> None:
    streams = [Loaded(digits(), spec, CPU).batches for spec in specs().values()]
    other = Loaded(digits(), next(s for s in plan(SUITE) if s.seed == 1), CPU).batches
    for step in (0, 1, 46, 47, 200):
        images, labels = streams[0](step)
        assert all(torch.equal(images, s(step)[0]) and torch.equal(labels, s(step)[1]) for s in streams[1:])
        assert not torch.equal(images, other(step)[0])
