"""TI-pooling: the maximum over single evaluations, exact invariance around any network, nesting, and what it
refuses.
"""

import copy

import pytest
import torch
from equibench.models.frame_averaging import FrameAverage
from equibench.models.ti_pooling import TIPooling
from equibench.registry import MODELS, UserError, build_model
from torch import nn

torch.set_num_threads(1)


def inner(size: int) -> nn.Sequential:
    """A network without any symmetry of its own: strides, a dense layer, a classifier."""
    torch.manual_seed(0)
    side = (size + 1) // 2
    features = [nn.Conv2d(2, 5, 3, stride=2, padding=1), nn.ELU(), nn.Flatten(), nn.Linear(5 * side**2, 12), nn.Tanh()]
    return nn.Sequential(*features, nn.Linear(12, 3)).double()


def turns(x: torch.Tensor) -> list[torch.Tensor]:
    return [x.rot90(k, (-2, -1)) for k in range(4)]


@pytest.mark.parametrize(("group", "order"), [("C4", 4), ("C8", 8)])
def test_equals_the_maximum_over_single_evaluations(group: str, order: int) -> None:
    """Features of each copy of each image alone, then the maximum, then the classifier."""
    network, plain = inner(8), inner(8)
    x = torch.randn(3, 2, 8, 8, dtype=torch.double)
    wrapped = TIPooling(network, group)
    copies = turns(x) if group == "C4" else FrameAverage(plain, "C8").frames(x)
    assert len(copies) == order
    wanted = []
    for image in range(3):
        features = [plain[:-1](one[image : image + 1]) for one in copies]
        wanted.append(plain[-1](torch.stack(features).max(0).values))
    for _ in range(2):  # the first pass looks at the order of calls, the second does not
        torch.testing.assert_close(wrapped(x), torch.cat(wanted), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("group", ["C4", "C8"])
def test_invariance_is_exact_and_to_rotations_alone(group: str, size: int) -> None:
    model = TIPooling(inner(size), group)
    x = torch.randn(3, 2, size, size, dtype=torch.double)
    y = model(x)
    for turned in turns(x)[1:]:
        assert (model(turned) - y).abs().max() <= 1e-12
        assert (model.model(turned) - model.model(x)).abs().max() > 0.01  # by itself the network is not
    assert (model(x.flip(-1)) - y).abs().max() > 0.01


@pytest.mark.parametrize("name", ["z2cnn-4", "wrn-10-b4", "all-cnn-c", "pdo-econv-p8-paper", "resnet-26"])
def test_any_registered_network_becomes_invariant(name: str) -> None:
    torch.manual_seed(0)
    channels, size = (3, 32) if name in ("all-cnn-c", "resnet-26") else (1, 28)
    plain = build_model(name, channels, 10, size).eval()
    torch.manual_seed(0)
    model = build_model(f"{name}+ti-c4", channels, 10, size).eval()
    assert [p.shape for p in model.parameters()] == [p.shape for p in plain.parameters()]
    x = torch.randn(2, channels, size, size)
    for one in (model, plain):  # the second pass, with features of images of spread one
        one.train()(x), one.eval()
    with torch.no_grad():
        scale = (model(x[:1]) - model(x[1:])).abs().max()
        changes = [max((m(t) - m(x)).abs().max() for t in turns(x)[1:]) for m in (model, plain)]
    assert changes[0] <= 1e-4 * scale and changes[1] > 10 * changes[0]


def test_wrappers_nest_in_either_order() -> None:
    """Copies of one wrapper never mix with those of another wrapper or with other images."""
    x = torch.randn(3, 2, 8, 8, dtype=torch.double)
    twice, once = TIPooling(TIPooling(inner(8), "C4"), "C4"), TIPooling(inner(8), "C4")
    torch.testing.assert_close(twice(x), once(x), rtol=0, atol=1e-12)
    around = FrameAverage(TIPooling(inner(8), "C4"), "C4")
    torch.testing.assert_close(around(x), once(x), rtol=0, atol=1e-12)
    # The classifier of an average over frames sees each frame by itself, so each is pooled over its own turns.
    inside = TIPooling(FrameAverage(inner(8), "D4"), "C4")
    wanted = (once(x) + once(x.flip(-2))) / 2
    torch.testing.assert_close(inside(x), wanted, rtol=0, atol=1e-12)


def test_eighth_turns_are_nearly_exact_on_a_smooth_image() -> None:
    """A blob in closed form and the same turned by 45 degrees: alike over C8, not over C4."""
    axis = torch.arange(29, dtype=torch.double) - 14

    def blob(column: float, row: float) -> torch.Tensor:
        return torch.exp(-((axis - column) ** 2 + (axis[:, None] - row) ** 2) / 8).expand(1, 2, 29, 29)

    changes = {}
    for group in ("C4", "C8"):
        model = TIPooling(inner(29), group)
        y = model(blob(6, 0))
        changes[group] = ((model(blob(6 * 0.5**0.5, -6 * 0.5**0.5)) - y).norm() / y.norm()).item()
    assert changes["C8"] < 0.01 and changes["C4"] > 10 * changes["C8"]


def test_the_gradient_goes_through_the_copy_with_the_maximum() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.double, requires_grad=True)
    layers = nn.Conv2d(1, 1, 2, bias=False), nn.Flatten(), nn.Linear(1, 1, bias=False)
    model = TIPooling(nn.Sequential(*layers).double(), "C4")
    # The only feature is the lower right pixel of each copy.
    model.model[0].weight.data = torch.tensor([[[[0.0, 0.0], [0.0, 1.0]]]], dtype=torch.double)
    model.model[2].weight.data[:] = 1
    out = model(x)
    assert out.item() == 4.0
    out.backward()
    assert x.grad is not None and torch.equal(x.grad, torch.tensor([[[[0.0, 0.0], [0.0, 1.0]]]], dtype=torch.double))


def test_the_network_inside_is_as_it_was() -> None:
    model = TIPooling(inner(8), "C4")
    x = torch.randn(4, 2, 8, 8, dtype=torch.double)
    model(x)
    torch.testing.assert_close(model.model(x), inner(8)(x), rtol=0, atol=0)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(2)
    assert not torch.allclose(twin(x), model(x))
    assert (twin(x.rot90(1, (-2, -1))) - twin(x)).abs().max() <= 1e-12
    assert all(name.startswith("model.") for name in model.state_dict())


def test_parameters_of_the_published_network() -> None:
    """The released code: images padded to 32 pixels, the maximum after the first dense layer and its ReLU."""
    layers: list[nn.Module] = []
    for before, after in ((1, 40), (40, 80), (80, 160)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(160 * 4**2, 5120), nn.ReLU(), nn.Linear(5120, 10))
    wrapped = TIPooling(network, "C8")
    assert wrapped(torch.zeros(1, 1, 32, 32)).shape == (1, 10)
    assert sum(p.numel() for p in wrapped.parameters()) == 13_308_170


def test_wrapper_names_build_what_they_say() -> None:
    for suffix, group in (("ti-c4", "C4"), ("ti-c8", "C8")):
        model = build_model(f"z2cnn-4+{suffix}", 1, 10, 28)
        assert isinstance(model, TIPooling) and model.group == group
        assert MODELS.find(f"z2cnn-22+{suffix}").get("invariant") == "C4"


class Backwards(nn.Module):
    """Its classifier is registered first."""

    def __init__(self) -> None:
        super().__init__()
        self.classify, self.features = nn.Linear(4, 3), nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.features(x.flatten(1)))


class Twice(nn.Module):
    """Its last layer runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mix(self.mix(x.flatten(1)))


class Beside(nn.Module):
    """Its logits are a sum, and the last layer makes only one part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.shortcut = nn.Linear(64, 3), nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.main(x.flatten(1)) + self.shortcut(x.flatten(1))


def test_what_cannot_be_pooled_is_named() -> None:
    wrong = (Backwards(), "'features'.*end with 'features', 'classify'"), (Twice(), "'mix', 'mix'"), (Beside(), "alone")
    for model, words in wrong:
        wrapped = TIPooling(model, "C4")
        for _ in range(2):
            x = torch.zeros(1, 1, 8, 8)  # of one image: four fit by broadcasting
            with pytest.raises(UserError, match=words):
                wrapped(x)
    with pytest.raises(UserError, match="no linear or convolutional layer"):
        TIPooling(nn.Flatten(), "C4")
    with pytest.raises(ValueError, match="'D4'"):
        TIPooling(nn.Linear(1, 1), "D4")
    with pytest.raises(ValueError, match="square"):
        TIPooling(inner(8), "C4")(torch.zeros(1, 2, 8, 9, dtype=torch.double))
