"""Layers that leave out zeros are the same function of the same weights, and are made only where zeros are left out."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from equibench.models.groups import rotation
from equibench.models.pdo.layers import GroupConv1x1, PDOConv, PDOLift
from equibench.models.pdo.networks import InvariantHead, MnistTrunk
from equibench.models.pdo.split import SplitPDOConv, first_spread, split_frames
from equibench.registry import build_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

#: Groups, offsets and stencils whose layers can be split, and the first element with taps far from the centre.
SPLIT = {("C8", 0.0, "fd"): 1, ("D8", 0.0, "fd"): 1, ("C8", math.pi / 4, "fd"): 0}
#: Others: all taps in the inner 3x3, far taps in every frame, taps at odd places, full filters, filters of 7 pixels.
WHOLE = [
    ("C4", 0.0, "fd"), ("D4", 0.0, "fd"), ("C4", math.pi / 4, "fd"), ("C6", 0.0, "fd"), ("C12", 0.0, "fd"),
    ("C16", 0.0, "fd"), ("C8", math.pi / 8, "fd"), ("C8", 0.0, "gauss"), ("C8", 0.0, "gauss7"),
]  # fmt: skip


def pair(group: str, offset: float, stencil: str = "fd", **options: object) -> tuple[PDOConv, PDOConv]:
    """A layer in float64, and a copy of it that went through `split_frames`."""
    torch.manual_seed(0)
    layer = PDOConv(2, 3, group=group, offset=offset, stencil=stencil, **options).double()
    return layer, split_frames(copy.deepcopy(layer))


def results(layer: PDOConv, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Output, and the gradients of a fixed function of it with respect to input and weights."""
    x = x.detach().requires_grad_()
    layer.zero_grad()
    out = layer(x)
    (out * torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    assert x.grad is not None and layer.weight.grad is not None
    return out.detach(), x.grad, layer.weight.grad


SIZES = st.integers(6, 9)


@given(st.sampled_from(list(SPLIT)), st.integers(0, 3), st.integers(1, 3), SIZES, SIZES, st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_forward_and_gradients_are_those_of_the_dense_layer(
    kind: tuple[str, float, str], padding: int, stride: int, height: int, width: int, seed: int
) -> None:
    layer, split = pair(*kind, padding=padding, stride=stride)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 2 * layer.group.order, height, width, dtype=torch.float64, generator=generator)
    for one, two in zip(results(layer, x), results(split, x), strict=True):
        assert one.shape == two.shape
        assert (one - two).abs().max() <= 1e-13 * one.abs().max() * math.sqrt(one.numel())


@pytest.mark.parametrize(("kind", "first"), SPLIT.items())
def test_what_can_be_split_is_split(kind: tuple[str, float, str], first: int) -> None:
    layer, split = pair(*kind)
    assert type(split) is SplitPDOConv and split._first == first_spread(layer) == first


@pytest.mark.parametrize("kind", WHOLE)
def test_what_cannot_be_split_stays_as_it_is(kind: tuple[str, float, str]) -> None:
    layer, split = pair(*kind)
    assert type(split) is type(layer) is PDOConv


def test_pooled_layers_and_lifting_layers_stay_as_they_are() -> None:
    model = nn.Sequential(PDOLift(1, 2, group="C8"), PDOConv(2, 2, group="C8", pooled=True))
    assert [type(m) for m in split_frames(model)] == [PDOLift, PDOConv]


def test_it_computes_fewer_products() -> None:
    """9 in every frame and 4 in half of them, of 25 in all; those at every pixel of the input, 9 x 9 for 7 x 7."""
    from torch.utils.flop_counter import FlopCounterMode

    counts = []
    for layer in pair("C8", 0.0, padding=1):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            layer.eval()(torch.randn(2, 16, 9, 9, dtype=torch.float64))
        counts.append(counter.get_total_flops() - _expansion(layer))
    assert counts[1] / counts[0] == pytest.approx((9 + 2 * 81 / 49) / 25)


def _expansion(layer: PDOConv) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer.expanded()
    return int(counter.get_total_flops())


def network() -> nn.Module:
    torch.manual_seed(0)
    trunk = MnistTrunk(1, 28, group="C8", stencil="fd", widths=(2, 3, 3, 2, 2, 2), offset=0.0)
    return nn.Sequential(trunk, InvariantHead(2, 4, 10, group="C8")).double()


def test_a_network_keeps_its_weights_names_and_logits_through_training() -> None:
    one = network()
    two = split_frames(copy.deepcopy(one))
    assert sum(type(m) is SplitPDOConv for m in two.modules()) == 5
    x, y = torch.randn(4, 1, 28, 28, dtype=torch.float64), torch.arange(4)
    for model in (one, two):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        model.eval()
    with torch.no_grad():
        assert torch.allclose(one(x), two(x), rtol=1e-9, atol=1e-9)
    assert list(one.state_dict()) == list(two.state_dict())
    fresh = split_frames(network())
    fresh.load_state_dict(one.state_dict())
    with torch.no_grad():
        assert torch.allclose(fresh.eval()(x), one(x), rtol=1e-9, atol=1e-9)


def test_the_registered_network_is_the_one_with_finite_differences_but_for_its_frames() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        turned = build_model("pdo-econv-p8-fd", 1, 10, 28)
        torch.manual_seed(0)
        straight = build_model("pdo-econv-p8-fd-offset-0", 1, 10, 28)
    assert {n: p.tolist() for n, p in turned.named_parameters()} == {
        n: p.tolist() for n, p in straight.named_parameters()
    }
    layers = [
        (one, two) for one, two in zip(turned.modules(), straight.modules(), strict=True) if isinstance(one, PDOConv)
    ]
    assert len(layers) == 7
    for one, two in layers[:-1]:  # the last looks at one pixel, where frames do not matter
        assert np.allclose(one.frames, two.frames @ rotation(math.pi / 8))
    assert [type(two) for _, two in layers] == [PDOLift, *[SplitPDOConv] * 5, GroupConv1x1]


def test_quarter_turns_change_no_logit() -> None:
    model = split_frames(network()).eval()
    x = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    with torch.no_grad():
        before = model(x)
        for turns in (1, 2, 3):
            assert torch.allclose(model(x.rot90(turns, (2, 3))), before, rtol=0, atol=1e-12)


def test_evaluation_follows_the_weights() -> None:
    layer, split = pair("C8", 0.0)
    x = torch.randn(2, 16, 7, 7, dtype=torch.float64)
    with torch.no_grad():
        split.eval()(x)
        for one in (layer, split):
            one.weight.data.mul_(-2.0)
        assert torch.allclose(split(x), layer(x), rtol=0, atol=1e-12)


def test_a_turned_layer_has_the_filters_of_its_own_frames() -> None:
    """Turned by 10 degrees the filters fill the 5x5, and by 90 they do not."""
    layer, split = pair("C8", 0.0)
    x = torch.randn(2, 16, 7, 7, dtype=torch.float64)
    for angle, first in ((math.radians(10), None), (math.pi / 2, 1), (math.pi / 4, 0)):
        turned = split.turned(rotation(angle))
        assert turned._first == first
        assert torch.allclose(turned(x), layer.turned(rotation(angle))(x), rtol=0, atol=1e-12)


def test_copies_and_other_memory_formats() -> None:
    layer, split = pair("C8", 0.0)
    x = torch.randn(2, 16, 7, 7, dtype=torch.float64)
    last = torch.channels_last
    for other in (copy.deepcopy(split), pickle.loads(pickle.dumps(split)), copy.deepcopy(split).to(memory_format=last)):
        assert torch.allclose(other(x.contiguous(memory_format=last)), layer(x), rtol=0, atol=1e-12)


def test_derivatives_forward_and_reduced_precision() -> None:
    layer, split = pair("C8", 0.0)
    x, v = torch.randn(2, 2, 16, 7, 7, dtype=torch.float64)
    for one, two in zip(torch.func.jvp(layer, (x,), (v,)), torch.func.jvp(split, (x,), (v,)), strict=True):
        assert torch.allclose(one, two, rtol=0, atol=1e-12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert split.float()(x.float()).dtype == torch.bfloat16


def test_wrong_channels_are_refused_in_the_same_words() -> None:
    _, split = pair("C8", 0.0)
    with pytest.raises(ValueError, match="15 channels: this layer takes 16, 2 fields of 8"):
        split(torch.randn(1, 15, 7, 7, dtype=torch.float64))
