"""Model cards: figures of the network itself, for every model; a receptive field that a slow search confirms."""

import json
import re
from pathlib import Path

import pytest
import torch
from equibench.bench.cards import boards_of, card_text, layers, model_card
from equibench.bench.cost import measure_cost
from equibench.bench.receptive import receptive_field
from equibench.bench.record import write_record
from equibench.registry import MODELS, UserError, build_model, include, parse_shape
from torch import nn

from . import records as made

torch.set_num_threads(1)

#: Their kernels take seconds to solve.
HEAVY = ("e2cnn-bench-d16", "e2cnn-d16-c16")
SHOWN = [e.name for e in MODELS.match() if e.fields.get("params") and e.name not in HEAVY]
#: One of each family for the default run; the slow run has all.
QUICK = ["z2cnn-22+frame-c4", "wrn-28-10", "pdo-econv-p8"]
SECTIONS = ("## Layers", "## Equivariance", "## Boards", "## Citation", "group of its layers", "parameters", "receptive field")


def check_card(name: str, root: Path) -> None:
    card = model_card(name, root)
    json.dumps(card)
    text = card_text(card)
    assert card["problem"] == "" and all(word in text for word in SECTIONS), text
    assert card["parameters"] == card["params"][card["input"]] == sum(row["parameters"] for row in card["layers"])
    assert card["flops_per_image"] > 1e6 and card["receptive_field"]["pixels"] > 3
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


def seen_by_centre(name: str, size: int) -> tuple[int, int]:
    """Rows and columns of the image that one unit in the middle of the last map depends on, by trying each of them.

    A pixel that is no number makes every unit that it reaches no number, whatever the weights are.
    """
    torch.manual_seed(0)
    # In float64, which has no fast convolutions that let a number touch its neighbours.
    model = build_model(name, 1, 10, size).double().eval()
    maps: list[torch.Tensor] = []

    def keep(module: nn.Module, inputs: object, out: object) -> None:
        tensor = getattr(out, "tensor", out)
        if isinstance(tensor, torch.Tensor) and tensor.dim() >= 4 and tensor.shape[-1] > 1:
            maps.append(tensor)

    for module in model.modules():
        module.register_forward_hook(keep)
    images = torch.zeros(2 * size, 1, size, size, dtype=torch.float64)
    for i in range(size):
        images[i, :, i, :] = images[size + i, :, :, i] = torch.nan
    with torch.no_grad():
        model(images)
    middle = maps[-1].shape[-1] // 2
    reached = maps[-1][..., middle, middle].isnan().flatten(1).any(1)
    return int(reached[:size].sum()), int(reached[size:].sum())


@pytest.mark.parametrize("name", ["z2cnn-22", "p4cnn", "wrn-10-b9"])
def test_the_receptive_field_is_what_trying_every_row_and_column_finds(name: str) -> None:
    with torch.device("meta"):
        found = receptive_field(build_model(name, 1, 10, 28), torch.zeros(2, 1, 28, 28))
    assert found.pixels is not None and found.pixels <= 28
    # The border may cut it off: in the middle, by less than one place of the map.
    for seen in seen_by_centre(name, 28):
        assert found.pixels - (found.stride or 0) < seen <= found.pixels


def test_the_receptive_field_of_known_networks() -> None:
    def of(*modules: nn.Module) -> int | None:
        return receptive_field(nn.Sequential(*modules), torch.zeros(1, 1, 32, 32)).pixels

    conv = nn.Conv2d
    assert of(conv(1, 1, 3), conv(1, 1, 3), conv(1, 1, 3)) == 7  # 1 + 3 · 2
    assert of(conv(1, 1, 3, stride=2), conv(1, 1, 3)) == 7  # 3 + 2 · 2
    assert of(conv(1, 1, 3), nn.MaxPool2d(2), conv(1, 1, 5)) == 12  # 3 + 1 + 4 · 2
    assert of(conv(1, 1, 3, dilation=4)) == 9
    assert of(nn.AdaptiveAvgPool2d(8), conv(1, 1, 3)) == 12  # windows of 4, then 2 · 4
    lost = receptive_field(nn.Upsample(scale_factor=2), torch.zeros(1, 1, 8, 8))
    assert lost.pixels is None and "upsample" in lost.unknown


@pytest.mark.parametrize("name", ["p4cnn", "e2cnn-c8-25k"])
def test_operations_are_those_of_the_boards(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    cost = measure_cost(build_model(name, 1, 10, 28), torch.randn(2, 1, 28, 28), torch.tensor([0, 1]))
    card = model_card(name, tmp_path)
    assert card["flops_per_image"] == cost.flops_per_image and card["parameters"] == cost.parameters


def test_layers_count_every_trainable_number_once() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.Conv2d(2, 2, (3, 3)), nn.BatchNorm2d(2)), nn.Linear(2, 2))
    assert [(r["layer"], r["count"], r["parameters"]) for r in layers(model)] == [
        ("Conv2d 3 x 3", 2, 20 + 38), ("BatchNorm2d", 1, 4), ("Linear", 1, 6),
    ]  # fmt: skip


@pytest.mark.parametrize("how", ["scales", "biases", "norm", "sound"])
def test_an_invariance_of_the_first_weights_alone_is_not_called_exact(how: str, tmp_path: Path) -> None:
    include([Path(__file__).with_name("orbits.py")])
    card = model_card(f"orbit-{how}", tmp_path)
    here = card["equivariance"]["sizes"][1]
    assert card["equivariance"]["group"] == "C4" and here["error"] < 1e-5, "as it is built each of them is invariant"
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
