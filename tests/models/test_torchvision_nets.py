"""Classifiers of torchvision: as they are there, stems for small images, listings without torchvision, refusals."""

import subprocess
import sys

import pytest
import torch
from equibench.models.torchvision_nets import small_stem
from equibench.registry import MODELS, UserError, build_model
from torch import nn
from torchvision import models

torch.set_num_threads(1)

#: One of each kind.
KINDS = ("alexnet", "densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5", "mobilenet_v3_small")
MORE_KINDS = ("regnet_x_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11", "wide_resnet50_2")


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", pytest.param("vit_b_32", marks=pytest.mark.whole)])
def test_it_is_torchvisions_own_network(name: str) -> None:
    """The same numbers from the same seed, and the same logits."""
    torch.manual_seed(0)
    theirs = models.get_model(name, weights=None, num_classes=7).eval()
    torch.manual_seed(0)
    ours = build_model(f"tv-{name}", 3, 7, 224).eval()
    assert type(ours) is type(theirs)
    mine, their = ours.state_dict(), theirs.state_dict()
    assert mine.keys() == their.keys() and all(torch.equal(mine[k], their[k]) for k in mine)


@pytest.mark.parametrize("name", KINDS + MORE_KINDS)
def test_every_kind_takes_grey_images_and_returns_logits_in_training(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(f"tv-{name}", 1, 4, 64).train()
    assert model(torch.randn(2, 1, 64, 64)).shape == (2, 4)


def test_a_first_convolution_for_grey_images_has_weights_of_the_same_variance() -> None:
    torch.manual_seed(0)
    grey, colour = (build_model("tv-resnet18", channels, 10, 64).conv1 for channels in (1, 3))
    assert grey.weight.shape == (64, 1, 7, 7) and colour.weight.shape == (64, 3, 7, 7)
    assert grey.weight.std().item() == pytest.approx(colour.weight.std().item(), rel=0.05)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("resnet18", 8, 32), ("densenet121", 8, 32), ("shufflenet_v2_x0_5", 8, 32), ("mobilenet_v2", 16, 32),
     ("efficientnet_b0", 16, 32), ("regnet_x_400mf", 16, 32)],
)  # fmt: skip
def test_the_small_stem_leaves_the_size_of_the_image(name: str, before: int, after: int) -> None:
    """What the second convolution sees of 32 pixels; everything behind the stem is as it was."""
    sides = {}
    for small in ("", "-small"):
        model = build_model(f"tv-{name}{small}", 3, 10, 32).eval()
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        convolutions[1].register_forward_pre_hook(lambda _, x, small=small: sides.update({small: x[0].shape[-1]}))
        model(torch.zeros(1, 3, 32, 32))
        sides[f"first{small}"] = convolutions[0].kernel_size + convolutions[0].stride
        sides[f"others{small}"] = [str(m) for m in convolutions[1:]]
    assert (sides[""], sides["-small"], sides["first-small"]) == (before, after, (3, 3, 1, 1))
    assert sides["others"] == sides["others-small"]


def test_the_stem_of_resnets_is_that_of_the_well_known_variant() -> None:
    """3x3 convolution of 64 channels, batch normalisation, ReLU, and straight to the blocks; He's initialisation."""
    torch.manual_seed(0)
    model = build_model("tv-resnet18-small", 3, 10, 32)
    assert isinstance(model.maxpool, nn.Identity)
    assert model.conv1.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    x = torch.randn(2, 3, 32, 32)
    stem = torch.relu(model.bn1(nn.functional.conv2d(x, model.conv1.weight, padding=1)))
    blocks = nn.Sequential(model.layer1, model.layer2, model.layer3, model.layer4)
    assert torch.equal(model(x), model.fc(blocks(stem).mean((2, 3))))


def test_published_counts() -> None:
    """ResNet-18 has 11,689,512 parameters with 1,000 classes; the stem of small images has 7,680 fewer."""

    def count(name: str, classes: int) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in build_model(name, 3, classes, 32).parameters())

    assert count("tv-resnet18", 1000) == 11_689_512
    assert count("tv-resnet18", 10) - count("tv-resnet18-small", 10) == 3 * 64 * (49 - 9)


def test_weights_are_never_pretrained(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("weights are fetched")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", load)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", load)
    torch.manual_seed(0)
    first = build_model("tv-resnet18-small", 3, 10, 32)
    torch.manual_seed(1)
    assert not torch.equal(first.fc.weight, build_model("tv-resnet18-small", 3, 10, 32).fc.weight)


def test_listing_and_other_networks_do_without_torchvision() -> None:
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from equibench.registry import MODELS, UserError, build_model\n"
        "print(MODELS.find('tv-resnet18-small').arguments, MODELS.find('tv-efficientnet_b0').arguments)\n"
        "print('torch' in sys.modules)\n"
        "build_model('z2cnn-4', 1, 10, 28)\n"
        "try: build_model('tv-resnet18', 3, 10, 32)\n"
        "except UserError as error: print(error)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.splitlines()
    assert out[:2] == ["{'name': 'resnet18'} {'name': 'efficientnet_b0'}", "False"]
    assert out[2].startswith("tv-resnet18: torchvision cannot be imported (") and len(out) == 3


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("tv-resnet19", 32, "no classifier 'resnet19'; it has resnet18"),
        ("tv-fcn_resnet50", 32, "no classifier 'fcn_resnet50'"),  # torchvision has it, for segmentation
        ("tv-alexnet", 28, r"tv-alexnet: it cannot take images of 28 pixels \(.*\); of 28, 32, .* it can take 64, 96"),
        ("tv-inception_v3", 32, "it can take 96, 128, 224"),
        ("tv-vit_b_16", 28, "multiples of 16 pixels, not of 28"),
        ("tv-maxvit_t", 32, "multiples of 224 pixels, not of 32"),
        ("tv-vgg11-small", 32, "stride of 1, not 2, so there is no stem"),
        ("tv-convnext_tiny-small", 32, "stride of 4, not 2"),
    ],
)
def test_what_cannot_be_built_is_named(name: str, size: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_model(name, 3, 10, size)


def test_transformers_are_built_for_the_size_of_the_image() -> None:
    with torch.device("meta"):
        model = build_model("tv-vit_b_16", 1, 10, 32)
        assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    assert MODELS.find("tv-vit_b_16").get("invariant") == "none"


def test_a_stem_without_pooling_is_left_as_it_is_behind() -> None:
    """The first pooling belongs to the second convolution here."""
    model = nn.Sequential(nn.Conv2d(3, 4, 7, stride=2, bias=True), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2))
    small_stem(model, "mine")
    assert isinstance(model[2], nn.MaxPool2d) and model[0].kernel_size == (3, 3) and model[0].bias.abs().max() == 0
