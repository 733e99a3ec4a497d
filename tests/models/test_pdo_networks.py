"""The PDO-eConv networks: published structure, what the heads and the halving do to invariance, their recipes.

Parameter counts, and the claims at the declared sizes of the small networks, are tested with all registered models.
"""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import torch
from equibench.bench.spec.recipe import find_recipe
from equibench.bench.tools.files import shipped
from equibench.bench.training.train import decayed_parameters
from equibench.models.groups import PlanarGroup, permute_fields, transform_fields, transform_image
from equibench.models.pdo.fields import FibreBatchNorm, GroupPool
from equibench.models.pdo.layers import GroupConv1x1, PDOConv, PDOLift
from equibench.models.pdo.networks import InvariantHead, MnistTrunk, PDOResNet
from equibench.registry import MODELS, build_model
from torch import nn

torch.set_num_threads(1)

OURS = {e.name: e for e in MODELS.match(["pdo-econv*"]) if not e.is_template}
MNIST_PAPER = ["pdo-econv-p8-paper", "pdo-econv-p8-paper-gauss", "pdo-econv-p8-large-paper"]
CIFAR = ["pdo-econv-p8-44", "pdo-econv-p8-26-wide", "pdo-econv-p6-26", "pdo-econv-p6m-26"]


def empty(name: str, size: int | None = None) -> nn.Module:
    """The network on the meta device: shapes without numbers."""
    channels, size = (3, size or 32) if re.search("26|44", name) else (1, size or 28)
    with torch.device("meta"):
        return build_model(name, channels, 10, size)


def shuffled(model: nn.Module) -> nn.Module:
    """In float64 and evaluation, with the statistics of a trained network: not mean 0 and variance 1."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, FibreBatchNorm):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model.double().eval()


def change(model: nn.Module, group: str, size: int, channels: int = 1) -> float:
    """Largest relative change of the logits under the grid symmetries of a group, on noise."""
    own, images = PlanarGroup.parse(group), torch.randn(3, channels, size, size, dtype=torch.float64)
    with torch.no_grad():
        plain = model(images)
        spread = (plain - plain.mean(0)).norm(dim=1).mean()
        moved = [model(transform_image(images, own, s)) for s in own.grid_symmetries()]
        return max(((m - plain).norm(dim=1).mean() / spread).item() for m in moved)


def test_what_is_registered() -> None:
    """Every published row, as published and corrected, with its status."""
    for name, entry in OURS.items():
        invariant = entry.fields["invariant"]
        assert (invariant == "none") == ("paper" in name), name
    statuses = {name: entry.fields.get("status") for name, entry in OURS.items() if name.endswith("-paper")}
    assert statuses == {
        "pdo-econv-p8-paper": "published",
        "pdo-econv-p8-44-paper": "published",
        "pdo-econv-p8-26-wide-paper": "inferred",
        "pdo-econv-p6-26-paper": "inferred",
        "pdo-econv-p6m-26-paper": "inferred",
        "pdo-econv-p8-large-paper": "unverified",
    }
    assert {name.removesuffix("-paper") for name in statuses} <= set(OURS)


@pytest.mark.parametrize("name", MNIST_PAPER)
def test_the_mnist_network_is_the_published_one(name: str) -> None:
    """28 -> 26 -> 24 -> pool 12 -> 10 -> 8 -> 6 -> 4, six layers of 5x5, dropout after all but the second, 4x4 head."""
    model = empty(name)
    trunk, head = model
    convs = [m for m in trunk if isinstance(m, PDOConv)]
    width = 41 if "large" in name else 7
    assert [c.out_fields for c in convs] == [width] * 6 and isinstance(convs[0], PDOLift)
    assert {(c.group.name, c.offset, c.kernel_size, c.stride, c.padding) for c in convs} == {
        ("C8", torch.pi / 8, 5, 1, 1)
    }
    assert {c.stencil for c in convs} == {"gauss" if name.endswith("gauss") else "fd"}
    assert {c.weights for c in convs} == {"taps"} and {tuple(c.weight.shape[2:]) for c in convs} == {(9,)}
    letters = {"PDOLift": "c", "PDOConv": "c", "Dropout": "d", "MaxPool2d": "p"}
    assert "".join(letters.get(type(m).__name__, "") for m in trunk) == "cd" + "cp" + "cd" * 4
    assert {m.p for m in trunk.modules() if isinstance(m, nn.Dropout)} == {0.2}
    assert (head.weight.shape, head.bias, trunk.out_size) == ((10, 8 * width, 4, 4), None, 4)
    norms = [m for m in trunk if isinstance(m, FibreBatchNorm)]
    assert {(n.eps, n.momentum) for n in norms} == {(1e-3, 0.001)} and len(norms) == 6


def test_sizes_along_the_mnist_trunk() -> None:
    trunk, sizes = MnistTrunk(1, 28, group="p4", stencil="fd", widths=(1,) * 6), []
    x = torch.randn(1, 1, 28, 28)
    for module in trunk:
        x = module(x)
        if not isinstance(module, FibreBatchNorm | nn.ReLU):
            sizes.append(x.shape[-1])
    assert sizes == [26, 24, 12, 10, 8, 6, 4]


@pytest.mark.parametrize(
    ("name", "depth", "widths", "group"),
    [("p8-44", 44, (11, 23, 45), "C8"), ("p8-26-wide", 26, (20, 40, 80), "C8"), ("p6-26", 26, (6, 13, 26), "C6"),
     ("p6m-26", 26, (5, 10, 18), "D6")],
)  # fmt: skip
@pytest.mark.parametrize("corrected", [False, True])
def test_the_cifar_networks_differ_in_what_is_said(
    name: str, depth: int, widths: tuple[int, ...], group: str, corrected: bool
) -> None:
    model = empty(f"pdo-econv-{name}" if corrected else f"pdo-econv-{name}-paper")
    convs = [m for m in model.modules() if isinstance(m, PDOConv)]
    wide, one = ([c for c in convs if isinstance(c, GroupConv1x1) is flag] for flag in (False, True))
    assert len(wide) == depth - 1 and len(one) == 2  # a shortcut is convolved only where the width changes
    units = (depth - 2) // 6
    assert [c.out_fields for c in wide] == [w for w in widths for _ in range(2 * units + (w == widths[0]))]
    assert {c.group.name for c in convs} == {group}
    halved = [c for c in convs if c.stride == 2]
    assert len(halved) == 4 and {c.pooled for c in halved} == {corrected}
    assert {c.stencil for c in wide} == {"gauss" if corrected else "fd"}
    inputs = widths[-1] * (1 if corrected else PlanarGroup.parse(group).order)
    assert model.classify.in_features == inputs and model.classify.bias is not None
    assert isinstance(model.pool, GroupPool) is corrected


def test_the_corrected_mnist_network_has_the_declared_size() -> None:
    """25,696 by hand: taps 9 in out |G|, norms 2 fields, head."""
    widths = (4, 6, 8, 9, 9, 9)
    taps = 9 * (widths[0] + 8 * sum(a * b for a, b in pairwise(widths)))
    head = 8 * 9 * 42 + 2 * 42 + 42 * 10 + 10
    assert taps + 2 * sum(widths) + head == 25_696
    assert sum(p.numel() for p in empty("pdo-econv-p8").parameters()) == 25_696


@pytest.mark.parametrize("name", ["pdo-econv-p8", "pdo-econv-p8-gauss7"])
def test_the_corrected_mnist_network_is_invariant_at_even_sizes_only(name: str) -> None:
    torch.manual_seed(0)
    errors = {size: change(shuffled(build_model(name, 1, 10, size)), "p4", size) for size in (28, 27, 29)}
    assert errors[28] <= 1e-12
    assert min(errors[27], errors[29]) > 1e-3  # 2x2 pooling of 23 or 25 pixels leaves out a row


def test_the_published_head_is_what_breaks_the_invariance() -> None:
    """The trunk is exactly equivariant; the logits change by as much as between images."""
    torch.manual_seed(0)
    model = shuffled(build_model("pdo-econv-p8-paper", 1, 10, 28))
    trunk, group = model[0], PlanarGroup.parse("p8")
    x = torch.randn(2, 1, 28, 28, dtype=torch.float64)
    with torch.no_grad():
        features = trunk(x)
        for s in group.grid_symmetries():
            moved = trunk(transform_image(x, group, s)) - transform_fields(features, group, s)
            assert moved.abs().max() <= 1e-12 * features.abs().max()
    assert change(model, "p4", 28) > 0.3


def resnet(group: str, size: int, corrected: bool, **options: object) -> float:
    torch.manual_seed(0)
    model = PDOResNet(3, 10, depth=8, widths=(2, 3, 4), group=group, stencil="fd", offset=0.3, corrected=corrected)
    for key, value in options.items():
        setattr(model, key, value)
    return change(shuffled(model), group, size, channels=3)


@pytest.mark.parametrize("group", ["p8", "p6", "p6m", "p4m"])
def test_the_corrected_resnet_is_invariant_at_sizes_divisible_by_four(group: str) -> None:
    assert resnet(group, 16, corrected=True) <= 1e-12
    assert min(resnet(group, size, corrected=True) for size in (15, 17)) > 1e-3


@pytest.mark.parametrize("group", ["p8", "p6m"])
def test_the_published_resnet_breaks_at_its_strides_and_at_its_head(group: str) -> None:
    """Strides are exact on odd maps that stay odd (17 -> 9 -> 5), the head never is; each alone breaks invariance."""
    assert resnet(group, 16, corrected=False) > 0.03
    assert resnet(group, 17, corrected=False) > 0.01
    pooled = {"pool": GroupPool(group), "classify": nn.Linear(4, 10)}
    assert resnet(group, 17, corrected=False, **pooled) <= 1e-12
    assert resnet(group, 16, corrected=False, **pooled) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CIFAR, "pdo-econv-p8-large"])
def test_the_claim_of_every_large_network(name: str) -> None:
    size, channels = (28, 1) if name.endswith("large") else (32, 3)
    torch.manual_seed(0)
    corrected = shuffled(build_model(name, channels, 10, size))
    assert change(corrected, OURS[name].fields["group"], size, channels) <= 1e-10
    paper = shuffled(build_model(f"{name}-paper", channels, 10, size))
    assert change(paper, OURS[name].fields["group"], size, channels) > 1e-3


def test_the_invariant_head_takes_the_maximum_before_the_mean() -> None:
    """Any permutation of the orientations by the group leaves the logits as they are, on the grid or off it."""
    torch.manual_seed(0)
    head, group = shuffled(InvariantHead(2, 5, 3, group="p8")), PlanarGroup(8)
    x = torch.randn(2, 16, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        for s in group.elements:
            assert (head(permute_fields(x, group, s)) - head(x)).abs().max() <= 1e-12
        wanted = head.classify(head.mix(x).unflatten(1, (5, 8)).amax(2).mean((-2, -1)))
    assert torch.equal(head(x), wanted)


def test_bad_sizes_depths_and_stencils() -> None:
    with pytest.raises(ValueError, match="image_size=21: 6 layers of this trunk need 22 or more"):
        build_model("pdo-econv-p8", 1, 10, 21)
    assert build_model("pdo-econv-p8", 1, 10, 22)(torch.zeros(1, 1, 22, 22)).shape == (1, 10)
    shape = {"widths": (1, 1, 1), "group": "p4", "stencil": "fd", "offset": 0.0, "corrected": True}
    for depth in (2, 27):
        with pytest.raises(ValueError, match=rf"depth={depth}.*6 n \+ 2"):
            PDOResNet(3, 10, depth=depth, **shape)
    with pytest.raises(ValueError, match="stencil 'sobel'"):
        build_model("pdo-econv-p8-sobel", 1, 10, 28)


# --- The recipes -----------------------------------------------------------------------------------------------------


def test_rates_of_the_mnist_script() -> None:
    recipe = find_recipe("paper", "pdo-econv-p8-paper")
    rates = [recipe.rate(epoch, 200) for epoch in range(200)]
    assert rates == pytest.approx([1e-4] * 6 + [1e-3] * 94 + [1e-4] * 50 + [1e-5] * 50)
    assert (recipe.optimizer, recipe.batch, recipe.weight_decay, recipe.epochs) == ("adam", 128, 1e-2, 200)


def test_rates_of_the_cifar_script() -> None:
    recipe = find_recipe("paper", "pdo-econv-p8-44-paper")
    rates = [recipe.rate(epoch, 300) for epoch in range(300)]
    assert rates == pytest.approx([0.1] * 150 + [0.01] * 75 + [0.001] * 75)
    assert (recipe.optimizer, recipe.momentum, recipe.nesterov, recipe.weight_decay) == ("sgd", 0.9, True, 1e-3)


@pytest.mark.parametrize("name", OURS)
def test_published_statistics_for_published_networks(name: str) -> None:
    recipe = find_recipe("paper", name)
    assert recipe.batch_norm == "running"
    assert recipe.batch_norm_momentum == (0.001 if "paper" in name else 0.1)


def test_every_value_has_a_source_beside_it() -> None:
    for line in shipped("bench", "spec", "recipes_pdo.toml").splitlines():
        key = line.partition(" = ")[0]
        if " = " in line and not line.startswith("#") and key not in ("models", "note", "schedule"):
            assert re.search(r"#.*(\[(mnist|cifar|tf1|ours)\]|unverified)", line), line


@pytest.mark.parametrize("name", ["pdo-econv-p8-paper", "pdo-econv-p8", "pdo-econv-p6-26-paper", "pdo-econv-p6-26"])
def test_decay_acts_on_taps_and_classifiers_alone(name: str) -> None:
    model = empty(name)
    decayed, free = decayed_parameters(model)
    taps = [m.weight for m in model.modules() if isinstance(m, PDOConv | nn.Conv2d | nn.Linear)]
    assert {id(p) for p in decayed} == {id(p) for p in taps}
    assert sum(map(torch.numel, decayed + free)) == sum(p.numel() for p in model.parameters())
