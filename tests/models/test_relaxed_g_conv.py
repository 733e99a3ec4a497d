"""Relaxed group convolution: the loop of its definition, where it is equivariant and where not, and P4CNN inside it."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from equibench.models.g_cnn import GroupResNet
from equibench.models.g_conv import GroupConv2d, relative_elements
from equibench.models.relaxed_g_conv import RelaxedGroupConv2d, relaxed
from equibench.registry import UserError, build_model
from torch import nn

torch.set_num_threads(1)


def layer_of(*, lifting: bool, banks: int = 3, group: str = "C4", mixing: str = "random") -> RelaxedGroupConv2d:
    torch.manual_seed(0)
    layer = RelaxedGroupConv2d(2, 3, 3, banks=banks, group=group, lifting=lifting, padding=1).double()
    nn.init.normal_(layer.bias)
    if mixing == "random":
        nn.init.normal_(layer.mixing)
    elif mixing == "equal":  # each bank with a weight of its own, the same for all elements
        layer.mixing.data[:] = torch.randn(1, banks, dtype=torch.double)
    return layer


def reference(layer: RelaxedGroupConv2d, x: torch.Tensor) -> torch.Tensor:
    """``sum_l w_l(g) sum_h psi_l(g^-1 x, g^-1 h) f(x, h)`` over C4, one bank, element and field at a time."""
    psi = layer.weight.detach().view(layer.banks, 3, 2, layer.in_order, 3, 3)
    out = torch.zeros(len(x), 3, 4, *x.shape[-2:], dtype=torch.double)
    f = x.view(len(x), 2, layer.in_order, *x.shape[-2:])
    for bank, o, c, g, h in itertools.product(range(layer.banks), range(3), range(2), range(4), range(layer.in_order)):
        turned = psi[bank, o, c, (h - g) % layer.in_order].rot90(g, (-2, -1))
        filtered = F.conv2d(f[:, c : c + 1, h], turned[None, None], padding=1)[:, 0]
        out[:, o, g] += layer.mixing[g, bank].item() * filtered
    return (out + layer.bias.detach()[:, None, None, None]).flatten(1, 2)


def moved(x: torch.Tensor, order: int, turns: int = 1, group: str = "C4") -> torch.Tensor:
    """Images (order 1) or fields turned by quarter turns."""
    x = x.rot90(turns, (-2, -1))
    if order == 1:
        return x
    return x.unflatten(1, (-1, order))[:, :, relative_elements(group)[turns].copy()].flatten(1, 2)


def error(layer: RelaxedGroupConv2d) -> float:
    """Of equivariance under a quarter turn, as a share of the output."""
    x = torch.randn(2, 2 * layer.in_order, 8, 8, dtype=torch.double)
    y = moved(layer(x), layer.order, group=layer.group)
    return ((layer(moved(x, layer.in_order, group=layer.group)) - y).norm() / y.norm()).item()


@pytest.mark.parametrize("lifting", [True, False])
@pytest.mark.parametrize("banks", [1, 3])
def test_equals_the_loop_of_its_definition(lifting: bool, banks: int) -> None:
    layer = layer_of(lifting=lifting, banks=banks)
    x = torch.randn(2, 2 * layer.in_order, 7, 7, dtype=torch.double)
    torch.testing.assert_close(layer(x), reference(layer, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("group", ["C4", "D4"])
@pytest.mark.parametrize("lifting", [True, False])
def test_equivariant_exactly_when_no_weight_depends_on_the_element(lifting: bool, group: str) -> None:
    assert error(layer_of(lifting=lifting, group=group, mixing="initial")) <= 1e-14
    assert error(layer_of(lifting=lifting, group=group, mixing="equal")) <= 1e-14
    assert error(layer_of(lifting=lifting, group=group)) > 0.1
    # A single weight of a single element is enough to break it.
    layer = layer_of(lifting=lifting, group=group, mixing="equal")
    layer.mixing.data[1, 0] += 0.1
    assert 1e-4 < error(layer) < 0.2


def test_one_bank_is_p4cnn() -> None:
    """The same weights give the same logits to the bit, in training as well; only the mixing weights are more."""
    torch.manual_seed(0)
    plain, ours = build_model("p4cnn", 1, 10, 28).double(), build_model("relaxed-p4cnn-w10-l1", 1, 10, 28).double()
    missing, unexpected = ours.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and len(missing) == 7 and all(name.endswith(".mixing") for name in missing)
    x = torch.randn(3, 1, 28, 28, dtype=torch.double)
    for mode in (True, False):
        assert torch.equal(ours.train(mode)(x), plain.train(mode)(x))
    counts = [sum(p.numel() for p in m.parameters()) for m in (plain, ours)]
    assert counts[1] - counts[0] == 7 * 4


def test_the_network_is_invariant_as_initialised_and_not_when_weights_differ() -> None:
    torch.manual_seed(0)
    model = build_model("relaxed-p4cnn", 1, 10, 28).double().eval()
    x = torch.randn(2, 1, 28, 28, dtype=torch.double)
    scale = model(x).abs().max()
    for turns in (1, 2, 3):
        assert (model(x.rot90(turns, (-2, -1))) - model(x)).abs().max() <= 1e-12 * scale
    for module in model.modules():
        if isinstance(module, RelaxedGroupConv2d):
            module.mixing.data += 0.1 * torch.randn_like(module.mixing)
    assert (model(x.rot90(1, (-2, -1))) - model(x)).abs().max() > 1e-3 * scale


def test_training_on_upright_images_breaks_the_symmetry() -> None:
    """Classes that a quarter turn exchanges: P4CNN cannot tell them apart, and the relaxed network learns to."""
    torch.manual_seed(0)
    upright = torch.zeros(8, 1, 28, 28)
    upright[:, :, :14] = 1 + torch.rand(8, 1, 14, 28)
    images, labels = torch.cat([upright, upright.rot90(1, (-2, -1))]), torch.arange(2).repeat_interleave(8)
    losses = {}
    for name in ("p4cnn-4", "relaxed-p4cnn-w4-l2"):
        torch.manual_seed(1)
        model = build_model(name, 1, 2, 28)
        optimiser = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(30):
            optimiser.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimiser.step()
        losses[name] = loss.item()
    assert losses["p4cnn-4"] > 0.69  # log 2 = 0.693: no better than a guess
    assert losses["relaxed-p4cnn-w4-l2"] < 0.3


def test_initial_filters_have_the_variance_of_an_ordinary_group_convolution() -> None:
    torch.manual_seed(0)
    layer = RelaxedGroupConv2d(20, 40, 3, banks=4, group="C4")
    assert layer.mixed().std().item() == pytest.approx((20 * 4 * 9) ** -0.5, rel=0.01)


def test_any_network_of_group_convolutions_is_relaxed_with_its_options() -> None:
    torch.manual_seed(0)
    plain = GroupResNet(3, 10, group="D4", depth=8, widths=(2, 3, 4))
    before = [m for m in plain.modules() if isinstance(m, GroupConv2d)]
    after = [m for m in relaxed(plain, 2).modules() if isinstance(m, GroupConv2d)]
    assert len(after) == len(before) == 9 and all(type(m) is RelaxedGroupConv2d for m in after)
    for old, new in zip(before, after, strict=True):
        for name in ("group", "in_fields", "in_order", "kernel_size", "stride", "padding", "gain"):
            assert getattr(new, name) == getattr(old, name), name
    assert plain(torch.zeros(1, 3, 16, 16)).shape == (1, 10)


def test_bad_numbers_are_named() -> None:
    with pytest.raises(ValueError, match="banks=0"):
        RelaxedGroupConv2d(1, 1, 3, banks=0, group="C4")
    with pytest.raises(UserError, match="one filter bank"):
        build_model("relaxed-p4cnn-w7-l0", 1, 10, 28)
    with pytest.raises(ValueError, match="image_size=27"):
        build_model("relaxed-p4cnn", 1, 10, 27)
