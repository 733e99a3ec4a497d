"""What every registered model promises: its counts, its claimed invariance, its manners."""

import copy

import pytest
import torch
from equibench.bench.provenance import source_hash
from equibench.registry import MODELS, build_model, parse_shape
from torch import nn

torch.set_num_threads(1)

DECLARED = [(e, shape, count) for e in MODELS.match() for shape, count in (e.fields.get("params") or {}).items()]
#: Small enough to be run here; larger ones are counted, and run under the mark of their own tests.
SMALL = [pytest.param(e, s, id=f"{e.name}-{s}") for e, s, count in DECLARED if count <= 100_000]
#: Their kernels take seconds to solve; tests/models/test_e2cnn.py counts them in the slow run.
HEAVY = ("e2cnn-bench-d16", "e2cnn-d16-c16")


@pytest.mark.parametrize(
    ("entry", "shape", "count"),
    [pytest.param(*d, id=f"{d[0].name}-{d[1]}") for d in DECLARED if d[0].name not in HEAVY],
)
def test_the_declared_count_is_what_is_built(entry, shape: str, count: int) -> None:
    channels, size, classes = parse_shape(shape, entry.where)
    with torch.device("meta"):
        model = build_model(entry.name, channels, classes, size)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


def test_every_model_names_its_source_and_every_published_member_its_count() -> None:
    for entry in MODELS.match():
        assert entry.fields["source"] and entry.doc, entry.name
        if not entry.is_template:
            assert entry.fields.get("params"), f"{entry.name} declares no input"


def build(entry, shape: str, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    channels, size, classes = parse_shape(shape, entry.where)
    torch.manual_seed(seed)
    model = build_model(entry.name, channels, classes, size)
    images = torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(1))
    return model, images


@pytest.mark.parametrize(("entry", "shape"), SMALL)
def test_contract(entry, shape: str) -> None:
    before = torch.get_default_dtype(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    model, images = build(entry, shape)
    assert model(images).shape == (4, parse_shape(shape, "")[2])
    # Every parameter gets a gradient.
    model(images).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    # One seed, one network; evaluation is deterministic and does not depend on what else is in the batch.
    twin = build(entry, shape)[0].eval()
    again = build(entry, shape)[0].eval()
    with torch.no_grad():
        logits = twin(images)
        assert again(images).equal(logits)
        for size in (1, 3):
            assert torch.cat([twin(part) for part in images.split(size)]).allclose(logits, atol=1e-5)
        # Copies and state dictionaries carry everything.
        assert copy.deepcopy(twin)(images).equal(logits)
        other = build(entry, shape, seed=5)[0].eval()
        assert not other(images).equal(logits)
        other.load_state_dict(twin.state_dict())
        assert other(images).equal(logits)
    assert before == (
        torch.get_default_dtype(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(),
    )  # fmt: skip


@pytest.mark.parametrize(("entry", "shape"), SMALL)
def test_the_claimed_invariance_holds_and_is_no_smaller_than_it_is(entry, shape: str) -> None:
    model, images = build(entry, shape)
    for module in model.modules():  # statistics as training would leave them: not mean 0 and variance 1
        if isinstance(module, nn.modules.batchnorm._NormBase):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    model.eval()
    turns = {"C4": (1, 2, 3), "D4": (1, 2, 3), "C2": (2,), "D2": (2,), "none": ()}[entry.fields["invariant"]]
    with torch.no_grad():
        plain = model(images)
        scale = (plain - plain.mean(0)).norm(dim=1).mean()

        def change(moved: torch.Tensor) -> float:
            return float((model(moved) - plain).norm(dim=1).mean() / scale)

        for turn in turns:
            assert change(images.rot90(turn, (-2, -1))) <= 1e-4
        if entry.fields["invariant"].startswith("D"):
            assert change(images.flip(-1)) <= 1e-4
        if entry.fields["invariant"] == "none":
            assert change(images.rot90(1, (-2, -1))) > 1e-3


def test_every_source_has_a_hash_of_its_own_family() -> None:
    hashes = {name: source_hash(MODELS.find(name)) for name in ("p4cnn", "z2cnn", "wrn-10-b9", "pdo-econv-p8")}
    assert hashes["p4cnn"] == hashes["z2cnn"]  # one file
    assert len(set(hashes.values())) == 3
