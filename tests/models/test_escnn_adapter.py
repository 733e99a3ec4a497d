"""The adapter against escnn itself, and one test for each of escnn's behaviours that it keeps out."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from equibench.models import escnn_adapter as adapter
from equibench.models.escnn_adapter import Restrict, SteerableConv2d, kernel_basis, restriction_order, tamed
from torch import nn

PAIRS = [
    ("C8", "trivial", "regular", 5, None, None),
    ("C8", "regular", "regular", 5, None, None),
    ("C4", "regular", "regular", 3, math.pi, 0.45),
    ("D4", "regular", "regular", 5, None, None),
    ("D1", "regular", "trivial", 3, math.pi, 0.45),
    ("C1", "regular", "regular", 7, None, None),
]


def escnn_conv(key: tuple, in_fields: int, out_fields: int, **options) -> nn.Module:
    """escnn's own layer between the same fields."""
    group, in_kind, out_kind, size, cutoff, sigma = key
    space = adapter._gspace(group)
    fields = {"trivial": space.trivial_repr, "regular": space.regular_repr}
    return adapter.escnn_nn.R2Conv(
        adapter.escnn_nn.FieldType(space, in_fields * [fields[in_kind]]),
        adapter.escnn_nn.FieldType(space, out_fields * [fields[out_kind]]),
        size,
        frequencies_cutoff=cutoff,
        sigma=sigma,
        recompute=True,
        **options,
    )


def our_conv(key: tuple, in_fields: int, out_fields: int, **options) -> SteerableConv2d:
    group, in_kind, out_kind, size, cutoff, sigma = key
    options |= dict(in_kind=in_kind, out_kind=out_kind, cutoff=cutoff, sigma=sigma)
    return SteerableConv2d(in_fields, out_fields, size, group=group, **options)


@pytest.fixture
def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        SteerableConv2d(1, 2, 5, group="C8", in_kind="trivial"),
        nn.BatchNorm2d(16),
        SteerableConv2d(2, 2, 3, group="C8"),
    )


# Equality with escnn ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", PAIRS, ids=str)
def test_layer_equals_escnn(key: tuple) -> None:
    torch.manual_seed(0)
    with tamed():
        theirs = escnn_conv(key, 3, 2, padding=1, bias=True)
    ours = our_conv(key, 3, 2, padding=1, bias=True)
    nn.init.normal_(theirs.bias)
    with torch.no_grad():
        ours.weight.copy_(theirs.weights.view_as(ours.weight))
        ours.bias.copy_(theirs.bias)
    x = torch.randn(2, theirs.in_type.size, 9, 9)
    expected = theirs(theirs.in_type(x)).tensor
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=3e-6 * expected.abs().max().item())


@pytest.mark.parametrize("key", PAIRS, ids=str)
def test_he_variances_equal_escnn(key: tuple) -> None:
    with tamed():
        theirs = escnn_conv(key, 3, 2, bias=False, initialize=False)
        expected = adapter.escnn_nn.init._generalized_he_init_variances(theirs.basisexpansion)
    std = torch.tensor(kernel_basis(*key).std / math.sqrt(3))
    torch.testing.assert_close(std.expand(2, 3, -1).reshape(-1).float(), expected, rtol=1e-6, atol=0)


def test_he_initialisation_has_these_variances() -> None:
    torch.manual_seed(0)
    layer = SteerableConv2d(30, 40, 5, group="C8")
    std = torch.tensor(kernel_basis("C8", "regular", "regular", 5).std / math.sqrt(30)).float()
    torch.testing.assert_close(layer.weight.std((0, 1)), std, rtol=0.1, atol=0)
    assert layer.weight.mean().abs() < 3 * std.max() / layer.weight.numel() ** 0.5


@pytest.mark.parametrize("key", [("C8", "regular", "regular", 5, math.pi, 0.45), PAIRS[4], PAIRS[0]], ids=str)
def test_delta_orthogonal_initialisation_has_the_moments_of_escnn(key: tuple) -> None:
    """Second moments of each coefficient over many draws: the distribution is symmetric and of fixed norm."""
    torch.manual_seed(0), np.random.seed(0)
    draws = 300
    with tamed():
        theirs = escnn_conv(key, 3, 4, bias=False, initialize=False)
    ours = our_conv(key, 3, 4, init="delta-orthogonal")
    moments = torch.zeros(2, ours.weight.numel())
    with tamed():
        np.random.seed(0)
        for _ in range(draws):
            adapter.escnn_nn.init.deltaorthonormal_init(theirs.weights.data, theirs.basisexpansion)
            moments[0] += theirs.weights.detach() ** 2 / draws
    for _ in range(draws):
        ours.reset_parameters()
        moments[1] += ours.weight.detach().flatten() ** 2 / draws
    assert torch.equal(moments[0] == 0, moments[1] == 0) and moments[0].max() > 0
    torch.testing.assert_close(moments[0], moments[1], rtol=0, atol=0.08)
    mean = [m.view(12, -1).mean(0) for m in moments]
    torch.testing.assert_close(mean[0], mean[1], rtol=0.15, atol=0)


def test_delta_orthogonal_weights_are_orthogonal() -> None:
    torch.manual_seed(0)
    layer = our_conv(("C4", "regular", "regular", 3, math.pi, 0.45), 5, 5, init="delta-orthogonal")
    tables = kernel_basis("C4", "regular", "regular", 3, math.pi, 0.45).central
    assert {t.shape[2] for t in tables} <= {1, 2} and all(t.ndim == 3 for t in tables)
    for table in tables:
        norms = layer.weight[:, :, table.flatten().tolist()].square().sum((1, 2))
        torch.testing.assert_close(norms, torch.full_like(norms, float(table.shape[0])), rtol=1e-4, atol=0)


# The formula and the symmetry ---------------------------------------------------------------------------------


def test_expansion_equals_the_sum_over_the_basis() -> None:
    torch.manual_seed(0)
    layer = SteerableConv2d(2, 3, 3, group="C4", bias=True).double()
    nn.init.normal_(layer.bias)
    filters = torch.tensor(kernel_basis("C4", "regular", "regular", 3).filters).double()
    dense = torch.zeros(12, 8, 3, 3, dtype=torch.double)
    for out in range(3):
        for field in range(2):
            for element, coefficient in zip(filters, layer.weight[out, field], strict=True):
                dense[4 * out : 4 * out + 4, 4 * field : 4 * field + 4] += coefficient * element
    torch.testing.assert_close(layer.expanded(), dense, rtol=0, atol=1e-13)
    torch.testing.assert_close(layer.expanded_bias(), layer.bias.repeat_interleave(4) / 2, rtol=0, atol=1e-15)


@pytest.mark.parametrize("group,step", [("C4", 1), ("C8", 2), ("C16", 4)])
def test_cyclic_kernels_turn_with_their_orientations_bit_for_bit(group: str, step: int) -> None:
    """K(g x) = rho(g) K(x) rho(g)^-1 for a quarter turn g, on the pixels."""
    filters = kernel_basis(group, "regular", "regular", 5).filters
    turned = np.rot90(np.roll(filters, (step, step), (1, 2)), axes=(-2, -1))
    assert np.array_equal(turned, filters)


def act(x: torch.Tensor, group: str, move: str, size: int) -> torch.Tensor:
    """A quarter turn or a reversal of the rows, on trivial (size 1) or regular fields, by escnn's representation."""
    space = adapter._gspace(group)
    matrix = np.array([[0.0, -1.0], [1.0, 0.0]]) if move == "turn" else np.array([[1.0, 0.0], [0.0, -1.0]])
    (g,) = (e for e in space.fibergroup.elements if np.allclose(space.basespace_action(e), matrix))
    x = x.rot90(1, (-2, -1)) if move == "turn" else x.flip(-2)
    if size == 1:
        return x
    rho = torch.tensor(np.asarray(space.regular_repr(g)).round()).to(x)
    return torch.einsum("gh,bchyx->bcgyx", rho, x.unflatten(1, (-1, size))).flatten(1, 2)


@pytest.mark.parametrize("group,moves", [("C4", ["turn"]), ("C8", ["turn"]), ("D4", ["turn", "flip"])])
@pytest.mark.parametrize("in_kind,out_kind", [("trivial", "regular"), ("regular", "regular"), ("regular", "trivial")])
def test_float64_equivariance_is_exact(group: str, moves: list[str], in_kind: str, out_kind: str) -> None:
    """escnn cannot be cast to float64; here a cast module is exact to rounding."""
    torch.manual_seed(0)
    layer = SteerableConv2d(2, 3, 5, group=group, in_kind=in_kind, out_kind=out_kind, bias=True, padding=2).double()
    x = torch.randn(2, 2 * layer.in_size, 8, 8, dtype=torch.double)
    for move in moves:
        moved, y = layer(act(x, group, move, layer.in_size)), layer(x)
        assert (moved - act(y, group, move, layer.out_size)).abs().max() <= 1e-12 * y.abs().max()


@pytest.mark.parametrize("group,subgroup", [("C8", "C4"), ("D8", "D4"), ("D4", "C4"), ("D8", "C8")])
def test_restriction_keeps_the_equivariance(group: str, subgroup: str) -> None:
    """From one group's field through the subgroup's convolution to an invariant map, moved and not."""
    torch.manual_seed(0)
    fields = 2 * adapter.order_of(group) // adapter.order_of(subgroup)
    net = nn.Sequential(
        SteerableConv2d(1, 2, 3, group=group, in_kind="trivial", padding=1),
        nn.ReLU(),
        Restrict(group, subgroup),
        SteerableConv2d(fields, 1, 3, group=subgroup, out_kind="trivial", padding=1),
    ).double()
    x = torch.randn(2, 1, 8, 8, dtype=torch.double)
    moves = [lambda v: v.rot90(1, (-2, -1))] + ([lambda v: v.flip(-1)] if subgroup[0] == "D" else [])
    for move in moves:
        assert (net(move(x)) - move(net(x))).abs().max() <= 1e-12
    scrambled = nn.Sequential(net[0], net[1], net[3])  # without the new order it is not equivariant
    if restriction_order(group, subgroup) != tuple(range(adapter.order_of(group))):
        assert (scrambled(moves[0](x)) - moves[0](scrambled(x))).abs().max() > 1e-3


# What is kept out ---------------------------------------------------------------------------------------------


def test_casting_one_model_leaves_others_alone(small: nn.Module) -> None:
    other = SteerableConv2d(2, 2, 3, group="C8")
    x = torch.randn(1, 16, 5, 5)
    before = other(x)
    small.to(torch.bfloat16)
    assert torch.equal(other(x), before)
    assert SteerableConv2d(2, 2, 3, group="C8")(x).dtype == torch.float32
    assert not kernel_basis("C8", "regular", "regular", 3).filters.flags.writeable


@pytest.mark.parametrize("change", ["in place", "data", "load", "inference"])
def test_filters_are_never_stale_in_evaluation_mode(small: nn.Module, change: str) -> None:
    small.eval()
    x, layer = torch.randn(1, 16, 5, 5), small[2]
    before = layer(x).detach()
    if change == "in place":
        with torch.no_grad():
            layer.weight.mul_(1.5)
    elif change == "data":
        layer.weight.data.mul_(1.5)
    elif change == "load":
        layer.load_state_dict({"weight": layer.weight.detach() * 1.5})
    else:
        with torch.inference_mode():
            layer.weight.mul_(1.5)
    small.eval()
    torch.testing.assert_close(layer(x), 1.5 * before)


def test_state_dictionary_is_the_same_in_every_mode(small: nn.Module) -> None:
    fresh = set(small.state_dict())
    small.train()(torch.randn(2, 1, 12, 12))
    trained = copy.deepcopy(small.state_dict())
    small.eval()(torch.randn(2, 1, 12, 12))
    assert fresh == set(trained) == set(small.state_dict())
    assert not any("basis" in key or "filter" in key for key in fresh)
    small.load_state_dict(trained)
    small.train().load_state_dict(small.eval().state_dict())


def test_deep_copies_and_second_backward_in_evaluation_mode(small: nn.Module) -> None:
    small.eval()
    x = torch.randn(2, 1, 12, 12)
    y = small(x)
    twin = copy.deepcopy(small)
    y.sum().backward()
    small(x).sum().backward()
    assert torch.equal(twin(x), y) and twin[2].weight.grad is None


def test_averaged_copies_follow_training(small: nn.Module) -> None:
    average = torch.optim.swa_utils.AveragedModel(small)
    average.eval()
    with torch.no_grad():
        small.train()[2].weight.mul_(3)
    average.update_parameters(small)
    average.update_parameters(small)
    assert torch.isfinite(average(torch.randn(1, 1, 12, 12))).all()


def test_evaluation_mode_entered_under_autocast(small: nn.Module) -> None:
    x = torch.randn(2, 1, 12, 12)
    expected = copy.deepcopy(small).eval()(x)
    with torch.autocast("cpu", torch.bfloat16):
        small.train()(x).float().sum().backward()
        small.eval()
        rough = small(x)
    assert rough.dtype == torch.bfloat16 and small[2].weight.grad.dtype == torch.float32
    small[1].reset_running_stats()
    torch.testing.assert_close(small(x), expected)
    torch.testing.assert_close(rough.float(), expected, rtol=0.1, atol=0.1 * expected.abs().max().item())


def test_same_seed_gives_same_weights_after_other_models_were_built() -> None:
    """Bases are computed without any random state, the first time as later."""
    weights = []
    for _ in range(2):
        kernel_basis.cache_clear()
        torch.manual_seed(1)
        np.random.seed(len(weights))
        weights.append(SteerableConv2d(2, 2, 5, group="D4").expanded())
    torch.manual_seed(1)
    weights.append(SteerableConv2d(2, 2, 5, group="D4").expanded())
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[1], weights[2])


def test_nothing_global_changes_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    kernel_basis.cache_clear()
    np.random.seed(3)
    expected = np.random.rand()
    originals = [getattr(module, name) for module, name, _ in adapter._PATCHES]
    np.random.seed(3)
    torch.set_default_dtype(torch.float64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            layer = SteerableConv2d(1, 1, 3, group="D2")
        assert torch.get_default_dtype() == torch.float64
        assert layer(torch.randn(1, 4, 5, 5, dtype=layer.weight.dtype)).isfinite().all()
    finally:
        torch.set_default_dtype(torch.float32)
    assert np.random.rand() == expected
    assert all(getattr(m, n) is f for (m, n, _), f in zip(adapter._PATCHES, originals, strict=True))
    assert capsys.readouterr() == ("", "")


def test_the_disk_cache_is_by_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The joblib functions are neither called nor written through."""

    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("the cache inside the installed package was used")

    monkeypatch.setattr(adapter._coefficients._clebsh_gordan_tensor, "_cached_call", forbidden)
    monkeypatch.setattr(adapter._coefficients._find_tensor_decomposition, "_cached_call", forbidden)
    kernel_basis.cache_clear()
    assert kernel_basis("D3", "regular", "regular", 3).filters.shape[1:] == (6, 6, 3, 3)


def test_large_layers_build_fast_and_on_the_meta_device() -> None:
    """escnn's initialisation of this layer loops over 160,000 pairs of fields; here it is one draw."""
    kernel_basis("C8", "regular", "regular", 5)
    with torch.device("meta"):
        layer = SteerableConv2d(400, 400, 5, group="C8", init="delta-orthogonal")
    assert layer.weight.shape == (400, 400, 88) and layer.weight.is_meta


def test_forward_derivatives_and_memory_formats(small: nn.Module) -> None:
    x = torch.randn(2, 1, 12, 12)
    small.eval()
    y, _ = torch.func.jvp(small, (x,), (torch.ones_like(x),))
    z = small.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(y, z)


# Helpers ------------------------------------------------------------------------------------------------------


def test_canonical_null_space_depends_on_the_space_only() -> None:
    rng = np.random.default_rng(0)
    space = np.linalg.qr(rng.normal(size=(7, 3)))[0]
    matrices = [rng.normal(size=(n, 7)) @ (np.eye(7) - space @ space.T) for n in (5, 20)]
    first, second = (adapter.canonical_null_space(m) for m in matrices)
    assert np.abs(first - second).max() <= 1e-9
    assert np.abs(first.T @ first - np.eye(3)).max() <= 1e-12
    assert np.abs(matrices[0] @ first).max() <= 1e-12
    assert adapter.canonical_null_space(np.eye(4)).shape == (4, 0)
    assert np.array_equal(adapter.canonical_null_space(np.zeros((2, 3))), np.eye(3))


def test_stacked_constraints_equal_escnn() -> None:
    rng = np.random.default_rng(0)
    first, second = list(rng.normal(size=(3, 2, 2))), list(rng.normal(size=(3, 4, 4)))
    theirs = adapter._numerical.build_sylvester_constraint(first, second)
    assert np.abs((adapter._constraints(first, second) - theirs).todense()).max() <= 1e-15


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"'E8'.*C<N>"):
        SteerableConv2d(1, 1, 3, group="E8")
    with pytest.raises(ValueError, match="'C0'"):
        adapter.parse_group("C0")
    with pytest.raises(ValueError, match="'vector'"):
        SteerableConv2d(1, 1, 3, group="C4", in_kind="vector")
    with pytest.raises(ValueError, match="'zero'"):
        SteerableConv2d(1, 1, 3, group="C4", init="zero")
    with pytest.raises(ValueError, match="C3 is no subgroup of C8"):
        restriction_order("C8", "C3")
