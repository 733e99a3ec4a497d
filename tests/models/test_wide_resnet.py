"""Wide ResNets: published counts, block and initialisation."""

import pytest
import torch
import torch.nn.functional as F
from equibench.models.wide_resnet import PreActBlock
from equibench.registry import MODELS, build_model, parse_shape
from torch import nn

ENTRIES = [e for e in MODELS.entries().values() if e.path.name == "wide_resnet.py" and not e.is_template]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
def test_parameter_counts(entry) -> None:
    assert entry.fields["params"]
    for shape, count in entry.fields["params"].items():
        channels, size, classes = parse_shape(shape, entry.where)
        with torch.device("meta"):
            model = entry.load()(channels, classes, size, **entry.arguments)
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


def test_members_cover_the_published_table() -> None:
    counts = {e.name: e.fields["params"].get("3x32x32->10") for e in ENTRIES}
    assert counts["wrn-10-1"] == 77_850
    assert counts["wrn-16-8"] == 10_961_370
    assert counts["wrn-28-10"] == 36_479_194
    assert counts["wrn-40-4"] == 8_949_210
    assert counts["resnet-26"] == 369_498
    assert counts["resnet-44"] == 2_636_074


@pytest.mark.parametrize("stride,out_channels", [(1, 3), (2, 3), (1, 5), (2, 5)])
def test_block_equals_its_formula(stride: int, out_channels: int) -> None:
    """conv(relu(bn(conv(relu(bn(x)))))) plus x, or plus a 1x1 of relu(bn(x)) where width or size change."""
    torch.manual_seed(0)
    block = PreActBlock(3, out_channels, stride).double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.double)
    active = F.relu(F.batch_norm(x, torch.zeros(3).double(), torch.ones(3).double()))
    y = F.conv2d(active, block.conv1.weight, stride=stride, padding=1)
    y = F.relu(F.batch_norm(y, torch.zeros(out_channels).double(), torch.ones(out_channels).double()))
    y = F.conv2d(y, block.conv2.weight, padding=1)
    same = stride == 1 and out_channels == 3
    y = y + (x if same else F.conv2d(active, block.shortcut.weight, stride=stride))
    torch.testing.assert_close(block(x), y, rtol=0, atol=1e-12)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    block = PreActBlock(3, 3, 1, dropout=0.5)
    x = torch.randn(2, 3, 8, 8)
    block.train()
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))
    assert MODELS.find("wrn-28-10-dropout").arguments == {"depth": 28, "width": 10, "dropout": 0.3}


def test_published_initialisation() -> None:
    torch.manual_seed(0)
    model = build_model("wrn-16-2", 3, 10, 32)
    conv = model.blocks[-1].conv2
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.01)
    scales = torch.cat([m.weight for m in model.modules() if isinstance(m, nn.BatchNorm2d)])
    assert scales.min() >= 0 and scales.max() <= 1 and scales.mean().item() == pytest.approx(0.5, abs=0.03)
    assert not model.classify.bias.any()
    narrow = build_model("wrn-10-b9", 1, 10, 28)
    assert all((m.weight == 1).all() for m in narrow.modules() if isinstance(m, nn.BatchNorm2d))


def test_shape_at_other_sizes_and_channels() -> None:
    assert build_model("wrn-10-b4", 2, 7, 21)(torch.randn(3, 2, 21, 21)).shape == (3, 7)


def test_stages_have_the_strides_of_the_paper() -> None:
    sides = []
    model = build_model("wrn-16-1", 3, 10, 32).eval()
    for block in model.blocks:
        block.register_forward_hook(lambda m, x, y: sides.append(tuple(y.shape[1:3])))
    model(torch.zeros(1, 3, 32, 32))
    assert sides == [(16, 32), (16, 32), (32, 16), (32, 16), (64, 8), (64, 8)]


@pytest.mark.parametrize("name", ["wrn-26-10", "wrn-4-1", "resnet-32"])
def test_bad_depths_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"depth={name.split('-')[1]}"):
        build_model(name, 3, 10, 32)
