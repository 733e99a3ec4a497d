"""Group convolutions against a reference that loops over the group, and the symmetries that theory demands."""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from equibench.models.g_conv import FibreBatchNorm2d, GroupConv2d, GroupPool, order_of, relative_elements
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

TURN = np.array([[0, -1], [1, 0]])  # counter-clockwise, x to the right, y up
MIRROR = np.array([[1, 0], [0, -1]])  # reverses the rows


def elements(group: str) -> list[np.ndarray]:
    """The group as 2x2 matrices, mirror^m * turn^r at place 4 * m + r."""
    return [
        np.linalg.matrix_power(MIRROR, m) @ np.linalg.matrix_power(TURN, r)
        for m, r in itertools.product(range(2), range(4))
    ][: order_of(group)]


def index_of(group: str, matrix: np.ndarray) -> int:
    return next(i for i, e in enumerate(elements(group)) if (e == matrix).all())


def reference(layer: GroupConv2d, x: torch.Tensor) -> torch.Tensor:
    """sum_h sum_u f(x + u, h) w(g^-1 u, g^-1 h), the definition, one element and one pixel offset at a time."""
    group, k, middle = layer.group, layer.kernel_size, (layer.kernel_size - 1) / 2
    weight = layer.weight.detach().reshape(layer.out_fields, layer.in_fields, layer.in_order, k, k)
    outputs = []
    for g in elements(group):
        inverse = np.linalg.inv(g).round().astype(int)
        filters = torch.zeros_like(weight)
        for h, row, column in itertools.product(range(layer.in_order), range(k), range(k)):
            source = index_of(group, inverse @ elements(group)[h]) if layer.in_order > 1 else 0
            px, py = inverse @ np.array([column - middle, middle - row])
            filters[:, :, h, row, column] = weight[:, :, source, int(middle - py), int(px + middle)]
        outputs.append(F.conv2d(x, filters.flatten(1, 2), layer.bias, layer.stride, layer.padding))
    return torch.stack(outputs, 2).flatten(1, 2)


def act(x: torch.Tensor, group: str, g: int, order: int) -> torch.Tensor:
    """Move a feature map over the group (or an image, order 1) by element g."""
    mirror, turns = divmod(g, 4)
    x = x.rot90(turns, (-2, -1))
    x = x.flip(-2) if mirror else x
    if order == 1:
        return x
    inverse = np.linalg.inv(elements(group)[g]).round().astype(int)
    source = [index_of(group, inverse @ h) for h in elements(group)]
    return x.unflatten(1, (-1, order))[:, :, source].flatten(1, 2)


def layer_of(group: str, *, lifting: bool, **options: int) -> GroupConv2d:
    torch.manual_seed(0)
    layer = GroupConv2d(2, 3, options.pop("kernel_size", 3), group=group, lifting=lifting, **options).double()
    nn.init.normal_(layer.bias)
    return layer


@pytest.mark.parametrize("group", ["C4", "D4"])
@pytest.mark.parametrize("lifting", [True, False])
@pytest.mark.parametrize("kernel_size", [1, 3, 4, 5])
def test_equals_the_loop_over_the_group(group: str, lifting: bool, kernel_size: int) -> None:
    layer = layer_of(group, lifting=lifting, kernel_size=kernel_size, padding=1)
    x = torch.randn(2, 2 * layer.in_order, 7, 7, dtype=torch.double)
    torch.testing.assert_close(layer(x), reference(layer, x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("group", ["C4", "D4"])
@pytest.mark.parametrize("lifting", [True, False])
@pytest.mark.parametrize("size,options", [(8, {}), (9, {}), (9, {"stride": 2}), (8, {"kernel_size": 4})])
def test_equivariance_is_exact(group: str, lifting: bool, size: int, options: dict) -> None:
    layer = layer_of(group, lifting=lifting, padding=1, **options)
    x = torch.randn(2, 2 * layer.in_order, size, size, dtype=torch.double)
    y = layer(x)
    for g in range(order_of(group)):
        moved = layer(act(x, group, g, layer.in_order))
        assert (moved - act(y, group, g, layer.order)).abs().max() <= 1e-12


def test_stride_two_at_an_even_size_breaks_it() -> None:
    """Its samples lie off the middle; a test of exactness that could not see this would see nothing."""
    layer = layer_of("C4", lifting=True, stride=2, padding=1)
    x = torch.randn(2, 2, 8, 8, dtype=torch.double)
    error = layer(act(x, "C4", 1, 1)) - act(layer(x), "C4", 1, 4)
    assert error.norm() > 0.05 * layer(x).norm()


def test_copies_follow_the_published_convention() -> None:
    """For p4, copy r is the filter with its input orientations rolled by r, turned counter-clockwise r times."""
    layer = layer_of("C4", lifting=False)
    dense = layer.expanded().view(3, 4, 2, 4, 3, 3)
    weight = layer.weight.view(3, 2, 4, 3, 3)
    for r in range(4):
        assert torch.equal(dense[:, r], weight.roll(r, 2).rot90(r, (-2, -1)))


def test_relative_elements_of_p4m_follow_the_published_table() -> None:
    """g^-1 h for g = (m, r), h = (l, s): (l, s - r) and (1 - l, s + r) as the mirrors demand."""
    table = relative_elements("D4")
    for m, r, mirror, s in itertools.product(range(2), range(4), range(2), range(4)):
        turns = (s - r) % 4 if mirror == m else (s + r) % 4
        assert table[4 * m + r, 4 * mirror + s] == 4 * (mirror ^ m) + turns


def test_ordinary_convolution_without_a_group() -> None:
    layer = GroupConv2d(3, 5, 3, group="none", stride=2, padding=1)
    x = torch.randn(2, 3, 9, 9)
    assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias, 2, 1))


def test_initial_weights_have_the_declared_spread() -> None:
    torch.manual_seed(0)
    layer = GroupConv2d(20, 40, 3, group="D4", gain=2.0)
    assert layer.weight.std().item() == pytest.approx(2 / (20 * 8 * 9) ** 0.5, rel=0.01)
    assert not layer.bias.any()


def test_state_copies_and_memory_format() -> None:
    layer = layer_of("C4", lifting=False)
    assert set(layer.state_dict()) == {"weight", "bias"}
    x = torch.randn(1, 8, 5, 5, dtype=torch.double)
    twin = copy.deepcopy(layer.eval())
    torch.testing.assert_close(twin(x), layer(x), rtol=0, atol=0)
    with torch.no_grad():
        layer.weight.mul_(2)
    assert not torch.allclose(twin(x), layer(x))
    layer.to(memory_format=torch.channels_last)
    y = layer(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(y, reference(layer, x), rtol=0, atol=1e-12)


def test_batch_norm_shares_statistics_within_a_field() -> None:
    torch.manual_seed(0)
    norm, five = FibreBatchNorm2d(3).double(), nn.BatchNorm3d(3).double()
    assert isinstance(norm, _NormBase)
    nn.init.normal_(norm.weight)
    five.load_state_dict(norm.state_dict())
    x = torch.randn(4, 12, 5, 6, dtype=torch.double)
    torch.testing.assert_close(norm(x), five(x.view(4, 3, 4, 5, 6)).flatten(1, 2), rtol=0, atol=1e-12)
    torch.testing.assert_close(norm.running_mean, five.running_mean, rtol=0, atol=1e-12)
    norm.eval(), five.eval()
    torch.testing.assert_close(norm(x), five(x.view(4, 3, 4, 5, 6)).flatten(1, 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("group", ["C4", "D4"])
@pytest.mark.parametrize("layer", [nn.MaxPool2d(2), FibreBatchNorm2d(2).double()])
def test_the_other_layers_commute_with_the_action(group: str, layer: nn.Module) -> None:
    order = order_of(group)
    x = torch.randn(3, 2 * order, 6, 6, dtype=torch.double)
    for g in range(order):
        error = layer(act(x, group, g, order)) - act(layer(x), group, g, order)
        assert error.abs().max() <= 1e-12


@pytest.mark.parametrize("mode", ["max", "mean"])
def test_group_pool_turns_the_action_into_that_on_images(mode: str) -> None:
    x = torch.randn(3, 16, 5, 5, dtype=torch.double)
    pool = GroupPool(8, mode)
    assert pool(x).shape == (3, 2, 5, 5)
    for g in range(8):
        error = pool(act(x, "D4", g, 8)) - act(pool(x), "D4", g, 1)
        assert error.abs().max() <= 1e-12


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"'C6'.*'C4'"):
        GroupConv2d(1, 1, 3, group="C6")
    with pytest.raises(ValueError, match=r"'sum'.*'max' or 'mean'"):
        GroupPool(4, "sum")
