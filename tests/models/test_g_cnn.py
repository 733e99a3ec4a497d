"""The networks of Cohen & Welling: published counts, the invariance they claim, and that which they lack."""

import pytest
import torch
from equibench.models import g_cnn
from equibench.registry import MODELS, UserError, build_model, parse_shape
from torch import nn

ENTRIES = [e for e in MODELS.entries().values() if e.path.name == "g_cnn.py" and not e.is_template]


def randomised(model: nn.Module) -> nn.Module:
    """The model in float64 and evaluation mode, with running statistics and scales that are not trivial."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.double().eval()


def changes(model: nn.Module, size: int, channels: int, *, mirror: bool) -> list[float]:
    """Relative changes of the logits under the quarter turns (and reflections) of random images."""
    x = torch.randn(2, channels, size, size, dtype=torch.double)
    with torch.no_grad():
        y = model(x)
        copies = [x.rot90(k, (-2, -1)) for k in range(1, 4)] + ([x.flip(-2), x.flip(-1)] if mirror else [])
        return [((model(c) - y).abs().max() / y.abs().max()).item() for c in copies]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
def test_parameter_counts(entry) -> None:
    assert entry.fields["params"]
    for shape, count in entry.fields["params"].items():
        channels, size, classes = parse_shape(shape, entry.where)
        with torch.device("meta"):
            model = entry.load()(channels, classes, size, **entry.arguments)
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


@pytest.mark.parametrize("name", [e.name for e in ENTRIES if e.fields["invariant"] != "none"])
def test_claimed_invariance_is_exact(name: str) -> None:
    torch.manual_seed(0)
    assert max(changes(randomised(build_model(name, 1, 10, 28)), 28, 1, mirror=False)) <= 1e-12


def test_the_planar_net_is_not_invariant() -> None:
    torch.manual_seed(0)
    assert min(changes(randomised(build_model("z2cnn", 1, 10, 28)), 28, 1, mirror=False)) > 0.01


@pytest.mark.parametrize("name,mirror", [("p4-all-cnn-c", False), ("p4m-all-cnn-c", True)])
def test_all_cnn_is_invariant_at_33_and_not_at_32_pixels(name: str, mirror: bool) -> None:
    torch.manual_seed(0)
    model = randomised(build_model(name, 3, 10, 32))
    assert max(changes(model, 33, 3, mirror=mirror)) <= 1e-12
    assert min(changes(model, 32, 3, mirror=mirror)) > 1e-3


def test_residual_features_are_equivariant_and_the_dense_head_is_not_invariant() -> None:
    """At 33 pixels a quarter turn only permutes the orientations of the spatial means."""
    torch.manual_seed(0)
    model = randomised(g_cnn.GroupResNet(3, 10, group="C4", depth=8, widths=(2, 3, 4)))
    x = torch.randn(2, 3, 33, 33, dtype=torch.double)
    before, after = (model.features(v).mean((-2, -1)).view(2, 4, 4) for v in (x, x.rot90(1, (-2, -1))))
    assert (after - before.roll(1, 2)).abs().max() <= 1e-12
    assert min(changes(model, 33, 3, mirror=False)) > 1e-3


def test_layers_of_the_mnist_nets() -> None:
    """Seven layers with sides 26, 24, (12), 10, 8, 6, 4, 1; dropout in the planar net only."""
    sides = []
    model = build_model("z2cnn", 1, 10, 28).eval()
    for module in model.modules():
        if isinstance(module, g_cnn.GroupConv2d):
            module.register_forward_hook(lambda m, x, y: sides.append(y.shape[-1]))
    model(torch.zeros(1, 1, 28, 28))
    assert sides == [26, 24, 10, 8, 6, 4, 1]
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == 5 * [0.3]
    assert not any(isinstance(m, nn.Dropout) for m in build_model("p4cnn", 1, 10, 28).modules())


def test_published_initialisation() -> None:
    torch.manual_seed(0)
    conv = build_model("p4-all-cnn-c", 3, 10, 32).features[5][0]
    assert conv.weight.std().item() == pytest.approx(0.035, rel=0.02)
    conv = build_model("p4m-resnet-44", 3, 10, 32).features[1].conv1
    assert conv.weight.std().item() == pytest.approx((2 / (11 * 8 * 9)) ** 0.5, rel=0.03)


def test_width_is_a_parameter_of_the_name() -> None:
    assert build_model("z2cnn-7", 1, 10, 28).classify.in_fields == 7


def test_bad_sizes_and_depths_are_named() -> None:
    with pytest.raises(ValueError, match="image_size=27"):
        build_model("p4cnn", 1, 10, 27)
    with pytest.raises(ValueError, match="depth=20: published depths are 44, 26"):
        build_model("p4m-resnet-20", 3, 10, 32)
    with pytest.raises(ValueError, match=r"depth=9: .*6n"):
        g_cnn.GroupResNet(3, 10, group="C4", depth=9, widths=(1, 1, 1))
    with pytest.raises(UserError, match="there is no model 'p4cnn-x'"):
        build_model("p4cnn-x", 1, 10, 28)
