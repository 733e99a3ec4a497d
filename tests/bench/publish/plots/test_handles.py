"""Handles of points: their boxes are where the SVG has the marks, and they say what the rows say."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from equibench.bench.publish.plots import family_plots
from equibench.bench.publish.plots.figures import FULL, PLOTS, PlotData
from equibench.bench.publish.plots.handles import handles
from equibench.bench.publish.plots.style import house_style, save
from matplotlib.figure import Figure

from .. import boards
from ..boards import ACCURACIES, SIZES
from ..test_family import filled

SVG = "{http://www.w3.org/2000/svg}"
DRAWN = [p.stem for p in PLOTS if p.needs != FULL]


def figure_of(stem: str, root: Path, **changes: object) -> Figure:
    with house_style():
        figure = next(p for p in PLOTS if p.stem == stem).draw(PlotData(boards.board(root, **changes)))
    assert figure is not None
    return figure


def places(figure: Figure, folder: Path) -> dict[str, tuple[float, float]]:
    """Where a reader's SVG has every element with the id of a point, in shares of its width and height."""
    with house_style():
        (path,) = save(figure, folder, "figure", ("svg",), both=False)
    root, found = ElementTree.parse(path).getroot(), {}
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for group in root.iter(f"{SVG}g"):
        name = group.get("id", "")
        if name.startswith("point-"):
            assert name not in found, "an id is there once"
            use, text = group.find(f".//{SVG}use"), group.find(f".//{SVG}text")
            if use is not None:
                x, y = float(use.attrib["x"]), float(use.attrib["y"])
            else:
                x, y = float(text.attrib["x"]), float(text.attrib["y"])
            found[name] = x / width, y / height
    return found


@pytest.mark.parametrize("stem", DRAWN)
def test_boxes_are_where_the_svg_has_the_marks(tmp_path: Path, stem: str) -> None:
    figure = figure_of(stem, tmp_path)
    there, own = places(figure, tmp_path), handles(figure)
    expected = set(ACCURACIES) - ({"z2cnn-22"} if stem == "differences" else set())
    assert {h.model for h in own} == expected and {h.id for h in own} == set(there)
    for handle in own:
        x, y, width, height = handle.box
        at_x, at_y = there[handle.id]
        if stem == "learning-curves":  # a name's place is where it begins, on its line
            assert at_x == pytest.approx(x, abs=0.004) and y < at_y < y + 1.2 * height
        else:
            assert (at_x, at_y) == pytest.approx((x + width / 2, y + height / 2), abs=2e-4)


def test_points_go_from_left_to_right_and_names_from_top_to_bottom(tmp_path: Path) -> None:
    costs = [SIZES[h.model] for h in handles(figure_of("accuracy-parameters", tmp_path / "a"))]
    assert costs == sorted(costs)
    names = [h.box[1] for h in handles(figure_of("learning-curves", tmp_path / "b"))]
    assert names == sorted(names)


def test_points_say_interval_and_cost(tmp_path: Path) -> None:
    said = {h.model: h.says for h in handles(figure_of("accuracy-parameters", tmp_path / "a"))}
    assert said["p4cnn"][1] == "parameters: 24,680"
    assert re.fullmatch(r"test accuracy: 95\.30 ± \d\.\d\d %", said["p4cnn"][0])
    few = {"p4cnn": [95.0, 96.0], "z2cnn-22": [90.0, 91.0]}
    said = {h.model: h.says for h in handles(figure_of("accuracy-flops", tmp_path / "b", accuracies=few))}
    assert said["p4cnn"] == ("test accuracy: 95.00, 96.00 %", "MFLOPs of a forward pass: 2.468")
    said = {h.model: h.says for h in handles(figure_of("differences", tmp_path / "c"))}
    assert re.fullmatch(r"difference to z2cnn-22: \+5\.03 ± \d\.\d\d points", said["p4cnn"][0])


def test_a_crowded_board_has_a_point_for_each_model_without_a_label(tmp_path: Path) -> None:
    many = {f"model-{i}": [50.0 + i, 50.5 + i, 49.5 + i] for i in range(40)}
    figure = figure_of("accuracy-parameters", tmp_path, accuracies=many)
    assert len(figure.axes[0].texts) < 40 == len(handles(figure)) == len(places(figure, tmp_path))


def test_every_point_of_a_family_has_a_handle(tmp_path: Path) -> None:
    found = filled(tmp_path / "r")
    with house_style():
        figure = family_plots.draw(found, "images")
    assert figure is not None
    own, there = handles(figure), places(figure, tmp_path)
    assert len(own) == 6 == len(there) and {h.id for h in own} == set(there)
    for handle in own:
        x, y, width, height = handle.box
        assert there[handle.id] == pytest.approx((x + width / 2, y + height / 2), abs=2e-4)
    assert {h.says[0] for h in own} == {"100 images", "400 images", "3,000 images"}
