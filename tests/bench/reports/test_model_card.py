"""Model cards: figures of the network itself, for every model."""

import json
import re
from pathlib import Path

import pytest
import torch
from equibench.bench.measures.cost import measure_cost
from equibench.bench.records.record import write_record
from equibench.bench.reports.estimate import step_flops
from equibench.bench.reports.model_card import boards_of, card_text, layers, model_card
from equibench.registry import MODELS, UserError, build_model, include, parse_shape
from torch import nn

from .. import made

torch.set_num_threads(1)

#: Their kernels take seconds to solve.
HEAVY = ("e2cnn-bench-d16", "e2cnn-d16-c16")
SHOWN = [e.name for e in MODELS.match() if e.fields.get("params") and e.name not in HEAVY]
#: One of each family for the default run; the slow run has all.
QUICK = ["z2cnn-22+frame-c4", "wrn-28-10", "pdo-econv-p8"]
SECTIONS = (
    "## Layers",
    "## Equivariance",
    "## Boards",
    "## Citation",
    "group of its layers",
    "parameters",
    "operations",
)


def check_card(name: str, root: Path) -> None:
    card = model_card(name, root)
    json.dumps(card)
    text = card_text(card)
    assert card["problem"] == "" and all(word in text for word in SECTIONS), text
    assert card["parameters"] == card["params"][card["input"]] == sum(row["parameters"] for row in card["layers"])
    assert card["flops_per_image"] > 1e6
    assert card["bibtex"] and all(entry.startswith("@") for entry in card["bibtex"])
    claimed = card["invariant"] != "none"
    if card["equivariance"] is not None:
        here = card["equivariance"]["sizes"][1]
        assert here["size"] == parse_shape(card["input"], "")[1] and here["exact"] >= claimed


@pytest.mark.parametrize("name", QUICK)
def test_a_card_says_everything(name: str, tmp_path: Path) -> None:
    check_card(name, tmp_path)


@pytest.mark.slow  # some minutes on one core
@pytest.mark.parametrize("name", sorted({*SHOWN, *HEAVY} - set(QUICK)))
def test_every_card_says_everything(name: str, tmp_path: Path) -> None:
    check_card(name, tmp_path)


@pytest.mark.parametrize("name", ["p4cnn", "e2cnn-c8-25k"])
def test_operations_are_those_of_the_boards(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    cost = measure_cost(build_model(name, 1, 10, 28), torch.randn(2, 1, 28, 28), torch.tensor([0, 1]))
    card = model_card(name, tmp_path)
    assert card["flops_per_image"] == cost.flops_per_image and card["parameters"] == cost.parameters


BAKED = """
import functools
import torch
from torch import nn
from equibench import register_model


@functools.lru_cache
def basis():
    return torch.ones(3).numpy().copy()


@functools.lru_cache
def window(size):
    return torch.hann_window(size)


class Baked(nn.Module):
    def __init__(self, classes, size):
        super().__init__()
        self.scale, self.head = float(basis().sum()), nn.Linear(size, classes)

    def forward(self, x):
        return self.head(x.mean((1, 2)) * window(x.shape[-1]) * self.scale)


@register_model("baked", group="none", invariant="none", source="made up", params={"1x12x12->2": 26})
def baked(in_channels, num_classes, image_size):
    return Baked(num_classes, image_size)
"""


def test_a_card_leaves_no_constant_behind_that_has_no_numbers(tmp_path: Path) -> None:
    """Built as runs build: constants may be kept, and may become arrays of numpy in a constructor."""
    (tmp_path / "baked_model.py").write_text(BAKED)
    include([tmp_path / "baked_model.py"])
    card = model_card("baked", tmp_path)
    assert card["problem"] == "" and card["parameters"] == 26 and card["flops_per_image"] == 48
    logits = build_model("baked", 1, 2, 12)(torch.ones(2, 1, 12, 12))
    assert logits.device.type == "cpu" and bool(logits.isfinite().all())
    assert step_flops("baked", (1, 12, 12), 2, 8)[0] == 8 * 2 * 2 * 24


FROZEN = """
import torch
from torch import nn
from equibench import register_model


class Partly(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.trunk, self.head = nn.Conv2d(1, 4, 3).requires_grad_(False), nn.Linear(4, classes)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        x = self.trunk(torch.fft.ifft2(torch.fft.fft2(x)).real).mean((2, 3))
        if self.training:
            self.mean += 0.1 * (x.detach().mean(0) - self.mean)
        return self.head(x - self.mean)


@register_model("partly-frozen", group="none", invariant="none", source="made up", params={"1x12x12->2": 10})
def partly(in_channels, num_classes, image_size):
    return Partly(num_classes)
"""


def test_a_card_says_what_is_frozen_what_learns_and_what_is_not_counted(tmp_path: Path) -> None:
    (tmp_path / "partly_frozen.py").write_text(FROZEN)
    include([tmp_path / "partly_frozen.py"])
    card = model_card("partly-frozen", tmp_path)
    assert (card["parameters"], card["frozen"], card["buffers"], card["learned_buffers"]) == (10, 40, 4, 4)
    text = card_text(card)
    assert "- frozen parameters: 40\n" in text and "4 numbers, 4 of them changed by training" in text
    assert "- some operations are not counted: fft\n" in text


def test_layers_count_every_trainable_number_once() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Sequential(nn.Conv2d(2, 2, (3, 3)), nn.BatchNorm2d(2)), nn.Linear(2, 2)
    )
    assert [(r["layer"], r["count"], r["parameters"]) for r in layers(model)] == [
        ("Conv2d 3 x 3", 2, 20 + 38), ("BatchNorm2d", 1, 4), ("Linear", 1, 6),
    ]  # fmt: skip


@pytest.mark.parametrize("how", ["scales", "biases", "norm", "sound"])
def test_an_invariance_of_the_first_weights_alone_is_not_called_exact(how: str, tmp_path: Path) -> None:
    include([Path(__file__).parents[1] / "orbits.py"])
    card = model_card(f"orbit-{how}", tmp_path)
    here = card["equivariance"]["sizes"][1]
    assert card["equivariance"]["group"] == "C4" and here["error"] < 1e-5, "at initialisation each of them is invariant"
    assert here["exact"] == (how == "sound") and (here["error_moved"] < 1e-5) == (how == "sound")
    line = next(line for line in card_text(card).splitlines() if "C4 at 28 pixels" in line)
    assert (": exact," in line) == (how == "sound") and ("not exact" in line) == (how != "sound"), line


def test_a_model_that_cannot_be_built_has_a_card_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "gone.py").write_text(
        "import nothing_of_this_name\nfrom equibench import register_model\n\n"
        '@register_model("gone", group="C4", invariant="C4", source="arXiv:1602.07576")\n'
        'def gone(in_channels, num_classes, image_size):\n    """Whose library is not there."""\n'
    )
    include([tmp_path / "gone.py"])
    card = model_card("gone", tmp_path)
    assert "nothing_of_this_name" in card["problem"] and "nothing_of_this_name" in card_text(card)
    assert card["about"] == "Whose library is not there." and "cohen2016group" in card_text(card)
    with pytest.raises(UserError, match="did you mean 'gone'"):
        model_card("gon", tmp_path)


def test_the_boards_of_a_model(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((90.0, 92.0)):
        write_record(tmp_path, made.record(accuracy, seed=seed, model="p4cnn"))
    write_record(tmp_path, made.record(99.0, model="p4cnn-rp"))
    (row,) = boards_of("p4cnn", tmp_path)
    assert (row["board"], row["test_acc_mean_pct"], row["runs"], row["runs_ok"]) == (made.spec().board, 91.0, 2, 2)
    assert row["stale"] and boards_of("z2cnn", tmp_path) == []
    text = card_text(model_card("p4cnn", tmp_path))
    assert re.search(rf"{made.spec().board}: 91.00 %, 2 of 2 runs.*equibench refresh", text)
