"""Sizes of images that models can be built for: as registered, else as building them tells, before anything starts."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from equibench.bench.cli.main import main
from equibench.bench.spec.suite import Suite, check_names
from equibench.bench.training.probe import fitting, size_that_builds, why_not
from equibench.registry import DATASETS, MODELS, Entry, UserError, allows, include

NETWORKS = """
import torch
from torch import nn
from equibench import register_model
from equibench.registry import UserError

def net(channels, classes):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))

@register_model("sized-listed", group="none", invariant="none", source="a test", sizes=[28, 33])
def listed(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return net(in_channels, num_classes)

@register_model("sized-{width}", group="none", invariant="none", source="a test", sizes="8k",
    members={"sized-even": {"args": {"width": 3}, "sizes": "even"}, "sized-8": {"args": {"width": 3}},
             "sized-large": {"args": {"width": 3}, "sizes": "30+"}})
def template(in_channels: int, num_classes: int, image_size: int, *, width: int) -> nn.Module:
    return net(in_channels, num_classes)

@register_model("unsized-{width}", group="none", invariant="none", source="a test")
def of_any_width(in_channels: int, num_classes: int, image_size: int, *, width: int) -> nn.Module:
    return net(in_channels, num_classes)

@register_model("unsized-refuses", group="none", invariant="none", source="a test")
def refuses(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    if image_size != 32:
        raise ValueError("made for 32 pixels")
    return net(in_channels, num_classes)

@register_model("unsized-flat", group="none", invariant="none", source="a test")
def flat(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 32 * 32, num_classes))

@register_model("unsized-reads-numbers", group="none", invariant="none", source="a test")
def reads_numbers(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    assert torch.ones(1).item() == 1  # which no tensor without numbers can tell
    return net(in_channels, num_classes)

@register_model("unsized-ends", group="none", invariant="none", source="a test")
def ends(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    import os
    os._exit(3)

@register_model("unsized-says-why", group="none", invariant="none", source="a test")
def says_why(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    raise UserError("unsized-says-why: it takes images of 500 pixels or more")

@register_model("unsized-never", group="none", invariant="none", source="a test")
def never(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    raise ValueError("never builds")
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sized") / "networks_with_sizes.py"
    path.write_text(NETWORKS)
    include([path])
    return path


def names(entries: list[Entry]) -> set[str]:
    return {entry.name for entry in entries}


@pytest.mark.parametrize(
    ("sizes", "fitting", "others"),
    [("any", (1, 28, 33), ()), ("even", (28, 64), (29, 33)), ("4k", (28, 64), (30, 33)), ("16k", (32, 64), (28, 40)),
     ("28+", (28, 29, 64), (27, 3)), ([28, 33], (28, 33), (32, 29))],
)  # fmt: skip
def test_what_a_registration_says_of_sizes(
    sizes: str | list[int], fitting: tuple[int, ...], others: tuple[int, ...]
) -> None:
    assert all(allows(sizes, n) for n in fitting) and not any(allows(sizes, n) for n in others)


def test_those_that_fit_are_as_registered_or_as_built(file: Path) -> None:
    known = MODELS.match(["sized-*", "unsized-*"])
    at_28 = {"sized-listed", "sized-even", "unsized-reads-numbers"}
    assert names(fitting(known, 1, 10, 28)) == at_28
    at_32 = {
        "sized-{width}",
        "sized-8",
        "sized-large",
        "sized-even",
        "unsized-reads-numbers",
        "unsized-refuses",
        "unsized-flat",
    }
    assert names(fitting(known, 3, 10, 32)) == at_32


def test_where_it_is_the_size_alone_that_keeps_a_model_from_being_built(file: Path) -> None:
    assert why_not("unsized-flat", 1, 10, 32) == "" and "shapes cannot be multiplied" in why_not(
        "unsized-flat", 1, 10, 28
    )
    assert size_that_builds("unsized-flat", 1, 10, 28) == 32 and size_that_builds("unsized-never", 1, 10, 28) is None
    assert "exit code 3" in why_not("unsized-ends", 1, 10, 28)


@pytest.mark.parametrize(
    ("model", "words"),
    [("sized-8", "multiples of 8 pixels"), ("sized-16", "multiples of 8 pixels"), ("sized-large", "30 pixels or more")],
)
def test_a_suite_is_held_to_what_is_registered(file: Path, model: str, words: str) -> None:
    suite = Suite(name="s", dataset="digits-rot", budget="smoke", models=["z2cnn-22", model])
    with pytest.raises(UserError, match=rf"digits-rot have 28 pixels, and {model} is for {words}; .*--for digits-rot"):
        check_names(suite)
    check_names(suite.model_copy(update={"dataset": "cifar10"}))


def said(capfd: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["equibench", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0), *capfd.readouterr()


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("sized-8", "is for multiples of 8 pixels"),
        ("unsized-flat", "but can be built for 32 pixels"),
        ("vit-p4-w18-d1", "a token has 4, 8, … numbers"),
        # The same with other sentences.
        *(
            pytest.param(*other, marks=pytest.mark.whole)
            for other in (
                ("unsized-says-why", "cannot be built: unsized-says-why: it takes images of 500 pixels or more"),
                (
                    "tv-vit_b_16",
                    "it takes images of multiples of 16 pixels, not of 28), but can be built for 32 pixels",
                ),
                ("tv-vit_h_99", "torchvision has no classifier 'vit_h_99'; it has vit_h_14"),
            )
        ),
    ],
)
def test_a_head_to_head_that_cannot_be_says_so_before_anything_starts(
    file: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch, model: str, why: str
) -> None:
    options = [
        "--dataset",
        "digits-rot",
        "--models",
        f"z2cnn-22,{model},unsized-never",
        "--budget",
        "smoke",
        "--seeds",
        "1",
    ]
    places = ["--device", "cpu", "--include", str(file), "--results", str(tmp_path / "results")]
    code, _, error = said(capfd, monkeypatch, "run", *options, *places)
    assert code == 2 and why in error and "unsized-never" not in error
    assert not list(tmp_path.iterdir())


def test_a_listing_for_a_data_set(file: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--for", "cifar10", "--include", str(file), "--json"]
    code, out, _ = said(capfd, monkeypatch, "list", "models", "*sized-*", *options)
    rows = {row["name"]: row for row in json.loads(out)}
    assert (
        code == 0
        and set(rows) == names(fitting(MODELS.match(["*sized-*"]), 3, 10, 32))
        and rows["sized-8"]["sizes"] == "8k"
    )
    assert said(capfd, monkeypatch, "list", "models", "--for", "no-such-set")[0] == 2


def test_our_networks_fit_every_size_of_our_data_sets() -> None:
    """Those of the suites of the 25K class and of the small one; the others take longer to build."""
    ours = MODELS.match(
        ["z2cnn-22", "p4cnn", "pdo-econv-p8-paper", "wrn-10-b9", "e2cnn-c8-25k", "resnet-26", "wrn-40-1"]
    )
    sizes = {entry.fields["shape"][1] for entry in DATASETS.match()}
    assert sizes >= {28, 32} and all(fitting(ours, 3, 10, size) == ours for size in sizes)
