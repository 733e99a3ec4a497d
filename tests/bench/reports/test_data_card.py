"""Cards of data sets: what is registered, what the images say, nothing downloaded; and the sheet of images, pixel by
pixel.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from equibench.bench.cli.main import main
from equibench.bench.records.record import write_record
from equibench.bench.reports.data_card import IMAGES, data_card, sheet
from equibench.datasets.images import ImageData, Split, load
from equibench.registry import DATASETS, include
from PIL import Image

from .. import made

SET = """
import numpy as np
from equibench import register_dataset
from equibench.datasets.fetch import Download, downloads
from equibench.datasets.images import ImageData, Split

@register_dataset("carded", shape=(2, 20, 20), classes=3, sizes=(60, 0, 30), source="a test", licence="mine",
    task="noise",
    citation="Somebody, Something, 2026", note="in 16 bits", rotation=True)
def carded(root):
    \"\"\"Noise, in classes.\"\"\"
    random = np.random.RandomState(0)
    parts = [Split(random.randint(0, 1001, (n, 2, 20, 20)).astype(np.uint16), np.arange(n) % 3) for n in (60, 0, 30)]
    return ImageData("carded", *parts, 3, 1000)

@register_dataset("elsewhere", shape=(1, 8, 8), classes=2, sizes=(2, 0, 2), source="a test")
@downloads(Download("away.zip", ("http://127.0.0.1:9/away.zip",), md5="0" * 32))
def elsewhere(root):
    raise AssertionError("it is made although its file is not there")

@register_dataset("unpackaged", shape=(1, 8, 8), classes=2, sizes=(2, 0, 2), source="a test", package="no_such_package")
def unpackaged(root):
    raise AssertionError("it is made although its package is not there")
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path := tmp_path_factory.mktemp("carded") / "carded_sets.py").write_text(SET)
    include([path])
    return path


def show(capfd: Any, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["equibench", "show", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0), *capfd.readouterr()


def test_a_card_says_what_is_registered_and_what_the_images_say(
    file: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = ["--data-root", tmp_path / "data", "--results", tmp_path, "--include", file]
    code, out, error = show(capfd, monkeypatch, "carded", *places, "--json")
    card, data = json.loads(out), load("carded", tmp_path / "data")
    assert code == 0 and not error and card["problem"] == ""
    words = {"dataset": "carded", "about": "Noise, in classes.", "licence": "mine", "citation": "Somebody,"
        " Something, 2026",
             "task": "noise", "note": "in 16 bits", "rotation": True, "source": "a test", "boards": []}  # fmt: skip
    assert {key: card[key] for key in words} == words
    train = data.train.images / 1000
    assert card["images"]["mean"] == pytest.approx(train.mean(axis=(0, 2, 3)), abs=1e-12)
    assert card["images"]["deviation"] == pytest.approx(train.std(axis=(0, 2, 3)), abs=1e-12)
    assert card["images"]["counts"] == {"train": [20, 20, 20], "val": [0, 0, 0], "test": [10, 10, 10]}
    assert card["images"]["digest"] == data.digest() and card["images"]["bits"] == 16
    code, out, _ = show(capfd, monkeypatch, "carded", *places)
    for value in ("# carded", "noise, 3 classes", "20x20 pixels, 2"
        " channels", "60 / 0 / 30", "licence: mine", data.digest(),
                  "labels correct under rotation: yes", "Somebody, Something, 2026", "- none yet"):  # fmt: skip
        assert value in out
    assert [line.split() for line in out.splitlines() if line.strip().startswith("2 ")] == [["2", "20", "0", "10"]]


def test_boards_of_the_data_set_and_of_no_other(file: Path, tmp_path: Path) -> None:
    runs = [made.record(acc, model=model, seed=seed) for model, acc in (("a", 91.0), ("b", 60.0)) for seed in range(3)]
    name = runs[0].spec.dataset
    for run in runs:
        write_record(tmp_path, run)
    (row,) = data_card(name, tmp_path, str(tmp_path / "data"))["boards"]
    assert (row["board"], row["models"], row["runs"], row["highest"]) == (runs[0].spec.board, 2, 6, "a")
    assert row["highest_acc_mean_pct"] == pytest.approx(91.0) and data_card("carded", tmp_path)["boards"] == []


@pytest.mark.parametrize(
    ("name", "why"),
    [("elsewhere", "its files are not in .*equibench data fetch elsewhere.* downloads them"),
     ("unpackaged", "it needs the package no_such_package, which is not installed: pip install no_such_package")],
)  # fmt: skip
def test_nothing_is_downloaded_for_a_card(
    file: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    places = ["--data-root", tmp_path / "data", "--results", tmp_path, "--include", file]
    code, out, _ = show(capfd, monkeypatch, name, *places)
    assert code == 0 and re.search(f"not available: {why}", out), out
    code, out, error = show(capfd, monkeypatch, name, *places, "--out", tmp_path / "sheet.png")
    assert code == 2 and not out and f"{name} cannot be drawn: it" in error and not list(tmp_path.iterdir())


def test_what_cannot_be_drawn_is_said(file: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    places = ["--data-root", tmp_path / "data", "--results", tmp_path, "--include", file]
    (tmp_path / "a file").write_text("")
    for arguments, expected in (
        (("carded", "--out", tmp_path / "x.jpg"), "must end in .png"),
        (("carded", "--out", tmp_path / "a file" / "x.png"), "x.png cannot be written"),
        (("no-such-name",), "there is no model, data set, suite, board or recipe 'no-such-name'"),
        (("digit-rot",), "did you mean 'digits-rot' (data set)"),
    ):
        code, out, error = show(capfd, monkeypatch, *arguments, *places)
        assert code == 2 and not out and expected in error and error.count("\n") == 1, error
    assert not list(tmp_path.rglob("*.jpg"))


def test_every_image_of_the_sheet_is_the_right_one(file: Path, tmp_path: Path) -> None:
    data = load("carded", tmp_path)
    canvas, names = sheet(data)
    assert names == ["class 0", "class 1", "class 2"]
    step, factor = 62, 3  # 20 pixels, three times, and two between
    assert canvas.shape == (3 * step - 2, IMAGES * step - 2, 3)
    for c in range(3):
        for k, index in enumerate(np.flatnonzero(data.train.labels == c)[:IMAGES]):
            tile = canvas[c * step : c * step + 60, k * step : k * step + 60]
            wanted = np.rint(data.train.images[index, 0].astype(float) / 1000 * 255)
            assert all((tile[y::factor, x::factor, 0] == wanted).all() for y in range(factor) for x in range(factor))
    between = np.ones(canvas.shape[:2], bool)
    for c in range(3):
        for k in range(IMAGES):
            between[c * step : c * step + 60, k * step : k * step + 60] = False
    assert (canvas[between] == 255).all()


def coloured(classes: int, each: int) -> ImageData:
    images = np.random.RandomState(1).randint(0, 256, (classes * each, 3, 32, 32), dtype=np.uint8)
    part = Split(images, np.random.RandomState(2).permutation(np.repeat(np.arange(classes), each)))
    return ImageData("coloured", part, part, part, classes, 255)


def test_of_many_classes_one_image_each_is_shown() -> None:
    data = coloured(100, 3)
    canvas, names = sheet(data)
    assert names[:2] == ["0…11", "12…23"] and names[-1] == "96…99" and len(names) == 9
    for c in (0, 11, 12, 99):
        y, x = (c // IMAGES) * 66, (c % IMAGES) * 66
        wanted = data.train.images[np.flatnonzero(data.train.labels == c)[0]].transpose(1, 2, 0)
        assert (canvas[y : y + 64 : 2, x : x + 64 : 2] == wanted).all()


def test_the_file_holds_the_sheet_to_the_pixel(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "deeper" / "sheet.png"
    card = data_card("carded", tmp_path, str(tmp_path / "data"), str(out))
    canvas, _ = sheet(load("carded", tmp_path / "data"))
    picture = np.asarray(Image.open(out).convert("RGB"))
    height, width = canvas.shape[:2]
    assert card["sheet"] == str(out) and (picture[44 : 44 + height, 80 : 80 + width] == canvas).all()


def test_every_data_set_of_ours_has_a_card(tmp_path: Path) -> None:
    for entry in DATASETS.match():
        if entry.origin == "equibench" and entry.name != "digits-rot":
            card = data_card(entry.name, tmp_path, str(tmp_path / "data"))
            assert (
                card["images"] is None and card["problem"] and all(card[key] for key in ("task", "licence", "citation"))
            )
    assert not list(tmp_path.iterdir())
