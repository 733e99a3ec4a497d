"""Our steerable PDOs against the authors' `R2Diffop`: the same filters, outputs and counts, in every discretisation.

What its 0.2.3 makes of random weights is kept in a file. Beside e2cnn, and RBF where it is asked for, whole bases are
compared as well, and the example package's network is built.
"""

import importlib.util
import itertools
import math
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from equibench.models.filter_basis import BasisConv
from equibench.models.steerable_pdo import operator_basis
from equibench.registry import UserError, build_model, include
from torch import nn

from .r2diffop import CASES, FILE, key

torch.set_num_threads(1)

EXAMPLE = (
    Path(__file__).resolve().parents[2] / "docs" / "examples" / "thirdparty" / "equibench_thirdparty" / "diffop.py"
)
KEPT = np.load(FILE)
has_e2cnn = pytest.mark.skipif(not importlib.util.find_spec("e2cnn"), reason="e2cnn 0.2.3 is not installed")


def ours(discretisation: str, order: int, size: int, lifting: bool) -> BasisConv:
    basis = partial(operator_basis, rotations=8, order=order, discretisation=discretisation, kernel_size=size)
    return BasisConv(1, 1, group="C8", basis=basis, lifting=lifting).double()


def filters_of(layer: BasisConv) -> np.ndarray:
    """The dense filter of each weight, (weights, |G|, |H|, k, k)."""
    found = []
    for number in range(layer.weight.numel()):
        layer.weight.data = torch.eye(layer.weight.numel(), dtype=torch.double)[number].view(layer.weight.shape)
        found.append(layer.expanded().detach().numpy())
    return np.stack(found)


def fitted(filters: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights that make a filter nearest to the one that is wanted, and the largest error over its largest tap."""
    flat = filters.reshape(len(filters), -1)
    weights, *_ = np.linalg.lstsq(flat.T, wanted.ravel(), rcond=None)
    return weights, float(np.abs(weights @ flat - wanted.ravel()).max() / np.abs(wanted).max())


@pytest.mark.parametrize("case", CASES, ids=lambda c: key(*c))
def test_the_authors_filters_are_ours(case: tuple[str, int, int, bool]) -> None:
    """A random filter of theirs is one of ours and gives the same output; it is none of another discretisation."""
    discretisation, order, size, lifting = case
    wanted, layer = KEPT[key(*case)], ours(*case)
    weights, error = fitted(filters_of(layer), wanted)
    assert error <= 1e-11
    for other in {"fd", "rbf", "gauss"} - {discretisation}:
        assert fitted(filters_of(ours(other, order, size, lifting)), wanted)[1] > 0.01
    layer.weight.data = torch.from_numpy(weights).view(layer.weight.shape)
    x = torch.randn(2, layer.in_order, 12, 12, dtype=torch.double)
    theirs = F.conv2d(x, torch.from_numpy(wanted), padding=size // 2)
    torch.testing.assert_close(layer(x), theirs, rtol=0, atol=1e-11 * theirs.abs().max().item())


@pytest.mark.parametrize("case", CASES, ids=lambda c: key(*c))
def test_the_kept_filters_hold_all_orders_and_orientations(case: tuple[str, int, int, bool]) -> None:
    """So that the comparison sees every operator: without the highest order, or with orientations swapped, it fails."""
    discretisation, order, size, lifting = case
    wanted = KEPT[key(*case)]
    assert fitted(filters_of(ours(discretisation, order - 1, size, lifting)), wanted)[1] > 0.01
    assert fitted(filters_of(ours(*case)), wanted[::-1])[1] > 0.01


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(EXAMPLE.parents[1]))
    yield importlib.import_module("equibench_thirdparty.diffop")
    sys.modules.pop("equibench_thirdparty.diffop"), sys.modules.pop("equibench_thirdparty")


@has_e2cnn
@pytest.mark.parametrize("lifting", [True, False])
@pytest.mark.parametrize(("order", "size"), [(2, 3), (3, 5), (4, 5)])
@pytest.mark.parametrize("discretisation", ["fd", "rbf", "gauss"])
def test_both_bases_span_the_same_filters(
    example: ModuleType, discretisation: str, order: int, size: int, lifting: bool
) -> None:
    if discretisation != "fd":
        pytest.importorskip("rbf")
    mine = filters_of(ours(discretisation, order, size, lifting))
    theirs = example.authors_basis(8, lifting, order, discretisation, size)
    count = (order + 1) * (order + 2) // 2 * (1 if lifting else 8)
    assert len(mine) == len(theirs) == count
    mine, theirs = mine.reshape(count, -1), theirs.reshape(count, -1)
    assert np.linalg.matrix_rank(mine) == np.linalg.matrix_rank(theirs) == count
    for one, other in ((mine, theirs), (theirs, mine)):
        change, *_ = np.linalg.lstsq(one.T, other.T, rcond=None)
        assert np.abs(one.T @ change - other.T).max() <= 1e-11 * np.abs(other).max()


@has_e2cnn
def test_discretisations_do_not_mix_in_one_process(example: ModuleType) -> None:
    """As they do in e2cnn itself, whose tables of bases do not know the discretisation."""
    pytest.importorskip("rbf")
    fd, gauss = (example.authors_basis(8, True, 2, d, 3) for d in ("fd", "gauss"))
    assert not np.allclose(fd, gauss)


@has_e2cnn
def test_the_network_of_the_example_is_that_of_ours_with_other_weights() -> None:
    include([EXAMPLE])
    torch.manual_seed(0)
    model, plain = (
        build_model(name, 1, 10, 28).double().eval() for name in ("r2diffop-c8-3-fd", "steerable-pdo-c8-3-fd")
    )
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in plain.parameters()) == 25_866
    # Each layer of ours gets the weights that make the filter of the same layer of theirs.
    for mine, theirs in zip(plain, model, strict=True):
        if isinstance(mine, BasisConv):
            pair = BasisConv(1, 1, group="C8", basis=mine.basis_of, lifting=mine.in_order == 1).double()
            flat = filters_of(pair).reshape(pair.weight.numel(), -1)
            blocks = theirs.expanded().detach().unflatten(0, (-1, 8)).unflatten(2, (-1, mine.in_order)).transpose(1, 2)
            weights, *_ = np.linalg.lstsq(flat.T, blocks.flatten(0, 1).flatten(1).numpy().T, rcond=None)
            mine.weight.data = torch.from_numpy(weights.T.copy()).reshape(mine.weight.shape)
        elif isinstance(mine, nn.modules.batchnorm._NormBase | nn.Linear):
            for name, number in theirs.state_dict().items():
                mine.state_dict()[name].copy_(number.view(mine.state_dict()[name].shape))
    x = torch.randn(2, 1, 28, 28, dtype=torch.double)
    with torch.no_grad():
        y = model(x)
        torch.testing.assert_close(plain(x), y, rtol=0, atol=1e-6 * y.abs().max().item())  # bases were kept in float32
        for k in (1, 2, 3):
            assert (model(x.rot90(k, (-2, -1))) - y).abs().max() <= 1e-6 * y.abs().max()


@has_e2cnn
@pytest.mark.parametrize(
    ("order", "size", "widths", "count"),
    [(3, 5, (16, 24, 32, 32, 48, 64), 941_958), (2, 3, (16, 24, 24, 32, 32, 48, 48, 64), 837_022)],
    ids=["5x5", "3x3"],
)
def test_parameters_of_the_published_networks(order: int, size: int, widths: tuple[int, ...], count: int) -> None:
    """C16 without aliased frequencies, which our rows keep; a bias and a batch normalisation by field; dense head."""
    from e2cnn import gspaces
    from e2cnn import nn as e2nn

    plane = gspaces.Rot2dOnR2(16)
    image, field = e2nn.FieldType(plane, [plane.trivial_repr]), e2nn.FieldType(plane, [plane.regular_repr])

    def weights(before: e2nn.FieldType) -> int:
        layer = e2nn.R2Diffop(
            before, field, kernel_size=size, maximum_order=order, maximum_offset=0, bias=False, initialize=False
        )
        return layer.weights.numel()

    layers = weights(image) * widths[0] + weights(field) * sum(a * b for a, b in itertools.pairwise(widths))
    head = 64 * 64 + 64 + 2 * 64 + 64 * 10 + 10 + 2 * 10
    assert layers + 3 * sum(widths) + head == count


@has_e2cnn
def test_initial_filters_have_the_variance_of_he(example: ModuleType) -> None:
    torch.manual_seed(0)
    basis = {"order": 3, "discretisation": "fd", "kernel_size": 5}
    layer = example.DiffopConv(10, 40, rotations=8, lifting=False, padding=2, **basis)
    assert layer.expanded().std().item() == pytest.approx(math.sqrt(2 / (10 * 8 * 25)), rel=0.05)


def test_what_is_missing_is_named(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "e2cnn", None)
    with pytest.raises(UserError, match=r"needs e2cnn 0\.2\.3, which cannot be imported"):
        example.authors_basis(4, True, 2, "fd", 3)
    with pytest.raises(UserError, match="it is one of fd, rbf, gauss, on 3 or 5 pixels"):
        example.authors_basis(4, True, 2, "spline", 3)
    with pytest.raises(UserError, match="22 pixels or more, not 20"):
        example.r2diffop(1, 10, 20, order=3, discretisation="fd", size=5, width=2)
