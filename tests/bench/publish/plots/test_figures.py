"""Plots: what they claim about noise, what they draw, and in which colours."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from equibench.bench.boards.board import load_board
from equibench.bench.publish.plots import figures
from equibench.bench.publish.plots.axes import ACCURACY, accuracy_axis, finish_plot, new_plot
from equibench.bench.publish.plots.figures import PLOTS, PlotData, pareto_front
from equibench.bench.publish.plots.style import (
    DARK,
    FAMILIES,
    OTHER,
    OTHER_MARKS,
    PAPER,
    dark_variant,
    family_styles,
    house_style,
    save,
)
from equibench.bench.records.record import write_record
from equibench.registry import MODELS
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from ... import made
from .. import boards
from ..boards import BOARD


@given(st.integers(1, 8), st.integers(0, 10**6))
def test_the_front_holds_models_that_no_cheaper_model_beats_beyond_noise(count: int, seed: int) -> None:
    rng = np.random.RandomState(seed)
    cost = rng.randint(1, 5, count).astype(float)
    upper = np.triu(rng.choice([-1.0, 0.0, 1.0, np.nan], (count, count)), 1)
    told = upper - upper.T  # antisymmetric, as it is made
    on = pareto_front(cost, told)
    for j in range(count):
        beaten = any(cost[i] <= cost[j] and told[i, j] == 1 for i in range(count))
        judged = any(not np.isnan(told[i, j]) for i in range(count))
        assert on[j] == (judged and not beaten)
    assert not pareto_front(np.full(count, np.nan), told).any()


def test_noise_dominates_nobody(tmp_path: Path) -> None:
    drawn = PlotData(boards.board(tmp_path))
    on = dict(
        zip([r["model"] for r in drawn.rows], pareto_front(drawn.column("parameters"), drawn.significance), strict=True)
    )
    # pdo-econv-p8 costs more than p4cnn and is not better, but the seeds cannot tell them apart.
    assert on == {"p4cnn": True, "pdo-econv-p8": True, "z2cnn-22": False, "wrn-10-b9": False}


def filled(figure: Figure) -> int:
    """How many marks of a scatter plot are filled."""
    marks = [c for c in figure.axes[0].collections if isinstance(c, PathCollection)]
    return sum(len(c.get_offsets()) for c in marks if not np.allclose(c.get_facecolor()[0], to_rgba(PAPER)))


def test_filled_marks_follow_the_rule_of_the_ranks(tmp_path: Path) -> None:
    boards.fill(tmp_path)
    for seed in range(4):
        status = "ok" if seed else "diverged"
        write_record(
            tmp_path,
            boards.with_details(made.record(99.0 if seed else 10.0, status, model="sre-cnn", seed=seed), 9_000),
        )
    drawn = PlotData(load_board(tmp_path, BOARD))
    assert drawn.board.best == {"p4cnn", "pdo-econv-p8"} and drawn.board.ranks["sre-cnn"] is None
    plots = {p.stem: p.draw(drawn) for p in PLOTS[:4]}
    assert filled(plots["accuracy-equivariance"]) == 2
    assert "filled: rank 1 is possible" in plots["accuracy-equivariance"].axes[0].get_title("left")
    # sre-cnn is the smallest, but a run of it diverged: it has no rank, and no mark says that it holds its own.
    assert filled(plots["accuracy-parameters"]) == 2


def test_the_bars_say_what_they_are_over(tmp_path: Path) -> None:
    drawn = PlotData(boards.board(tmp_path))
    samples = drawn.board.samples
    for by_image, words in (
        ((), "new seeds;"),
        (("p4cnn",), "new seeds, and images if predictions are recorded;"),
        (tuple(samples), "new seeds and images;"),
    ):
        right = {
            m: {s: np.ones(1500, "u1") for s in sample.values} if m in by_image else {} for m, sample in samples.items()
        }
        drawn.board.samples = {m: replace(sample, right=right[m]) for m, sample in samples.items()}
        figure = PLOTS[0].draw(drawn)
        title = figure.axes[0]._left_title
        assert words in title.get_text().replace("\n", " ")
        ends = title.get_window_extent()
        assert ends.x1 <= figure.bbox.x1 and ends.y1 <= figure.bbox.y1, "nothing of it is cut off"


@pytest.mark.parametrize("stem", ["differences", "accuracy-flops", "accuracy-equivariance", "learning-curves"])
@pytest.mark.parametrize("length", [32, 100])
def test_long_names_leave_the_note_and_the_labels_whole(tmp_path: Path, stem: str, length: int) -> None:
    names = [f"{i}-pdo-econv-p8-with-a-long-name{'-corrected' * 7}"[:length] for i in range(6)] + ["p4cnn"]
    for i, name in enumerate(names):
        for seed in range(3):
            record = made.record(70.0 + i + (2 * seed) % 3, model=name, seed=seed)
            write_record(tmp_path, boards.with_details(record, reference=names[0]))
    with house_style():
        figure = next(p for p in PLOTS if p.stem == stem).draw(PlotData(load_board(tmp_path, BOARD)))
    axes = figure.axes[0]
    legend = [text for one in figure.legends for text in one.get_texts()]
    ticks = axes.get_yticklabels() if stem == "differences" else []
    for text in (axes._left_title, *ticks, axes.xaxis.label, *legend):
        ends = text.get_window_extent()
        assert text.get_text() != "p4cnn" or text.get_fontsize() >= 7.5, "a short name stays large"
        assert ends.x0 >= -1 and ends.x1 <= figure.bbox.x1 + 1 and ends.y1 <= figure.bbox.y1 + 1, text.get_text()


def test_no_label_covers_the_note_above_the_frame(tmp_path: Path) -> None:
    close = {f"model-{i}": [99.5 + 0.01 * i, 99.6, 99.4 - 0.01 * i] for i in range(6)}
    axes = PLOTS[0].draw(PlotData(boards.board(tmp_path, accuracies=close | {"z2cnn-22": [60.0, 61.0, 62.0]}))).axes[0]
    top, texts = axes.get_window_extent().y1, [t for t in axes.texts if t.get_text()]
    assert texts and all(t.get_window_extent().y1 <= top + 2 for t in texts)


def test_below_three_seeds_no_mark_is_filled(tmp_path: Path) -> None:
    drawn = PlotData(boards.board(tmp_path, accuracies={"p4cnn": [99.0, 99.0], "z2cnn-22": [1.0, 1.0]}))
    assert [filled(p.draw(drawn)) for p in PLOTS[:4]] == [0, 0, 0, 0]


@pytest.mark.parametrize(("seeds", "note"), [(2, "paired; no bars below 3 seeds"), (3, "paired, ± 95 %")])
def test_the_note_of_differences_is_about_what_is_drawn(tmp_path: Path, seeds: int, note: str) -> None:
    few = {"p4cnn": [99.0, 98.0, 97.0][:seeds], "z2cnn-22": [1.0, 2.0, 3.0][:seeds]}
    title = PLOTS[-1].draw(PlotData(boards.board(tmp_path, accuracies=few))).axes[0]._left_title.get_text()
    assert title.startswith(note) and ("1 comparison" in title) == (seeds == 3)


def test_every_registered_family_has_its_own_colour_and_mark() -> None:
    families = {e.fields.get("family") for e in MODELS.match(())}
    assert families <= set(FAMILIES)
    assert len({colour for colour, _ in FAMILIES.values()} | {OTHER}) == len(FAMILIES) + 1
    assert len({mark for _, mark in FAMILIES.values()} | {*OTHER_MARKS}) == len(FAMILIES) + len(OTHER_MARKS)


def test_families_that_are_not_ours_are_told_apart_by_their_marks() -> None:
    styles = family_styles(["theirs", "g-cnn", "mine", "theirs", "yours"])
    assert list(styles) == ["theirs", "g-cnn", "mine", "yours"] and styles["g-cnn"] == FAMILIES["g-cnn"]
    others = [styles[family] for family in ("mine", "theirs", "yours")]
    assert {colour for colour, _ in others} == {OTHER} and len({mark for _, mark in others}) == 3
    assert family_styles(["yours", "mine", "theirs"])["mine"] == styles["mine"], "the order of the rows does not matter"


def test_plots_are_drawn_in_three_formats_and_the_same_bytes_every_time(tmp_path: Path) -> None:
    board = boards.board(tmp_path)
    stems = []
    with house_style():
        for plot in PLOTS:
            figure = plot.draw(PlotData(board))
            if figure is not None:
                stems.append(plot.stem)
                kinds = ("svg", "pdf", "png") if plot.stem == "differences" else ("svg",)
                save(figure, tmp_path / "a", plot.stem, kinds)
        save(PLOTS[0].draw(PlotData(board)), tmp_path / "b", PLOTS[0].stem, ("svg",))
    assert set(stems) == {p.stem for p in PLOTS if p.needs != figures.FULL}, "no sidecars: nothing to draw over angles"
    first, again = (tmp_path / f / f"{PLOTS[0].stem}.svg" for f in "ab")
    assert first.read_bytes() == again.read_bytes()
    text = first.read_text()
    assert all(m in text for m in ("p4cnn", "pdo-econv-p8", "z2cnn-22")), "labels are text"
    for family in ("pdo-econv", "g-cnn", "cnn", "wide-resnet"):
        assert FAMILIES[family][0] in text
    heads = {"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}
    for kind, head in heads.items():
        assert (tmp_path / "a" / f"differences.{kind}").read_bytes().startswith(head)


def test_the_dark_picture_differs_in_colours_only(tmp_path: Path) -> None:
    with house_style():
        save(PLOTS[0].draw(PlotData(boards.board(tmp_path))), tmp_path, "x", ("svg",))
    light, other = (tmp_path / "x.svg").read_text(), (tmp_path / "x.dark.svg").read_text()
    assert not any(colour in other for colour in DARK)
    strip = re.compile(r"#[0-9a-f]{6}")
    assert strip.sub("", light) == strip.sub("", other) and dark_variant(other) == other


def test_a_board_without_results_draws_nothing(tmp_path: Path) -> None:
    from equibench.bench.records.record import write_record

    from ... import made

    write_record(tmp_path, made.record(None, status="error"))
    drawn = PlotData(load_board(tmp_path, BOARD))
    with house_style():
        assert [p.stem for p in PLOTS if p.draw(drawn) is not None] == []
    assert all(p.needs for p in PLOTS), "its absence is explained"


def test_a_network_without_counted_operations_is_not_drawn_against_them(tmp_path: Path) -> None:
    (record, *_) = [r for r, _ in boards.board(tmp_path / "a", accuracies={"p4cnn": [90.0]}).chosen]
    assert record.cost is not None
    cost = record.cost.model_copy(update={"flops_per_image": 0})
    write_record(tmp_path / "b", record.model_copy(update={"cost": cost}))
    drawn = PlotData(load_board(tmp_path / "b", BOARD))
    with house_style():
        (plot,) = [p for p in PLOTS[:2] if p.draw(drawn) is None]
    assert plot.stem == "accuracy-flops" and "counted operations" in plot.needs


@pytest.mark.parametrize("accuracies", [[91.0], [91.0, 92.0], [91.0, 91.0, 91.0]])
def test_few_seeds_and_no_reference_are_drawn_too(tmp_path: Path, accuracies: list[float]) -> None:
    boards.fill(tmp_path, {"p4cnn": accuracies})
    with house_style():
        drawn = PlotData(load_board(tmp_path, BOARD))
        assert PLOTS[0].draw(drawn) is not None and PLOTS[-1].draw(drawn) is None


def test_errors_and_accuracies_are_drawn_over_angles_where_they_were_measured(tmp_path: Path) -> None:
    from equibench.bench.records.sidecar import FullPoint, Sidecar, write_sidecar

    boards.fill(tmp_path, {"p4cnn": [90.0]})
    (record, _), *_ = load_board(tmp_path, BOARD).chosen
    point = FullPoint(
        eq_rot_data=0.1, eq_floor=0.1, lee_rot_per_deg=0.1, lee_shift_per_px=0.1, consistency_pct=90.0,
        acc_orbit_pct=80.0,
        acc_worst_angle_pct=70.0, collapsed=False, curve=[0.0, 0.5, 0.0, 0.5], layers=[], acc_by_angle_pct=[90.0, 80.0,
        70.0],
    )  # fmt: skip
    sidecar = Sidecar(
        schema_version=1, kind="equivariance", protocol=record.spec.protocol, board=BOARD, run=record.run_id,
        model="p4cnn",
        dataset="digits-rot", weights_sha256=record.results.weights_sha256, draws=1, orbit_images=1,
        curve_degrees=[0.0, 45.0, 90.0, 135.0], orbit_degrees=[0.0, 15.0, 30.0], init=point, trained=point,
        phases={"equivariance_full_s": 1.0},
        provenance=record.provenance, warnings=[],
    )  # fmt: skip
    write_sidecar(tmp_path, sidecar)
    with house_style():
        drawn = PlotData(load_board(tmp_path, BOARD))
        error, accuracy = (next(p for p in PLOTS if p.stem == s).draw(drawn) for s in ("error-angle", "accuracy-angle"))
    (line,), (other,) = error.axes[0].lines, accuracy.axes[0].lines
    assert list(line.get_ydata()) == [0.0, 0.5, 0.0, 0.5, 0.0], "a full turn brings it back"
    assert list(other.get_xdata()) == [0.0, 15.0, 30.0, 360.0] and list(other.get_ydata()) == [90.0, 80.0, 70.0, 90.0]


def test_lines_of_one_family_differ_in_their_dashes(tmp_path: Path) -> None:
    boards.fill(tmp_path, {"pdo-econv-p8": [95.0], "pdo-econv-p8-fd": [94.0], "p4cnn": [93.0]})
    with house_style():
        figure = next(p for p in PLOTS if p.stem == "learning-curves").draw(PlotData(load_board(tmp_path, BOARD)))
    looks = [(line.get_color(), str(line._unscaled_dash_pattern)) for line in figure.axes[0].lines]
    assert len(set(looks)) == 3 and looks[0][0] == looks[1][0] != looks[2][0]


def test_every_curve_of_the_largest_published_board_has_a_name_beside_the_frame(tmp_path: Path) -> None:
    """Seventeen models of six families; a family has up to six of them. Nothing is below or above the picture."""
    families = ["pdo-econv-p8", "p4cnn", "e2cnn-c8-25k", "wrn-10-b9", "f-conv-p8", "vit-25k"]
    models = [f"z2cnn-{width}" for width in range(20, 26)] + [f"p4cnn-{width}" for width in range(10, 15)] + families
    boards.fill(tmp_path, {model: [90.0 + i / 10] for i, model in enumerate(models)})
    with house_style():
        figure = next(p for p in PLOTS if p.stem == "learning-curves").draw(PlotData(load_board(tmp_path, BOARD)))
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == set(models) and len(models) == 17
    looks = [(line.get_color(), str(line._unscaled_dash_pattern)) for line in figure.axes[0].lines]
    assert len(set(looks)) == len(models)
    box = legend.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    assert 0 <= box.y0 < box.y1 <= figure.bbox.height and box.x1 <= figure.bbox.width


@pytest.mark.parametrize(("count", "width"), [(30, 0.15), (20, 0.4)])
def test_no_label_can_be_read_as_that_of_another_point(count: int, width: float) -> None:
    """The nearest point of a label is its own, or a line leads there past all others; one without a place is left
    out.
    """
    from equibench.bench.publish.plots.labels import place_labels
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    rng = np.random.RandomState(0)
    figure = Figure(figsize=(6, 4), dpi=100)
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    points = [(float(x), float(y), f"a-model-{i}") for i, (x, y) in enumerate(0.3 + width * rng.rand(count, 2))]
    left_out = place_labels(axes, points)
    marks = np.array([axes.transData.transform(p[:2]) for p in points]) * 72 / figure.dpi
    names = [p[2] for p in points]
    FigureCanvasAgg(figure).draw()
    boxes = [Text.get_window_extent(label) for label in axes.texts]  # without its line
    assert 3 < len(axes.texts) < count or width > 0.2
    assert sorted([*left_out, *(label.get_text() for label in axes.texts)]) == sorted(names)
    for label in axes.texts:
        own = names.index(label.get_text())
        far = np.hypot(*label.xyann) > 12
        assert (label.arrow_patch is not None) == far
        line = marks[own] + np.linspace(0, 1, 200)[:, None] * label.xyann
        away = np.linalg.norm(marks[:, None] - line, axis=-1)
        if not far:
            assert away[:, -1].argmin() == own
        for other in np.delete(away, own, axis=0):
            assert not far or other.argmin() == 0 or other.min() > 3.9, "the line passes over a mark"
        for other, box in zip(axes.texts, boxes, strict=True):
            through = [box.contains(*place) for place in line * figure.dpi / 72]
            assert not far or other is label or not any(through), "the line passes under another label"


@pytest.mark.parametrize(("count", "said"), [(2, ""), (40, r"note; no room for \d+ labels")])
def test_a_plot_says_that_labels_are_left_out(count: int, said: str) -> None:
    _, axes = new_plot("cost", ACCURACY)
    points = [(0.5 + 0.1 * i / count, 0.5, f"a-model-{i}") for i in range(count)]
    axes.set(xlim=(0, 1), ylim=(0, 1))
    finish_plot(axes, {}, "note", points)
    assert re.fullmatch(said or "note", axes.get_title(loc="left"))


def test_a_label_without_a_place_comes_first_in_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    from equibench.bench.publish.plots import labels
    from matplotlib.figure import Figure

    places = 0.3 + 0.3 * np.random.RandomState(27).rand(17, 2)
    points = [(float(x), float(y), f"a-model-{i}") for i, (x, y) in enumerate(places)]
    counts = []
    for attempts in (1, labels._ATTEMPTS):
        monkeypatch.setattr(labels, "_ATTEMPTS", attempts)
        axes = Figure(figsize=(6, 4), dpi=100).add_axes((0.1, 0.1, 0.8, 0.8))
        labels.place_labels(axes, points)
        counts.append(len(axes.texts))
    assert counts[0] < counts[1] == len(points)


def test_points_at_nearly_the_same_place_have_all_their_labels() -> None:
    from equibench.bench.publish.plots.labels import place_labels
    from matplotlib.figure import Figure

    axes = Figure(figsize=(6, 4), dpi=100).add_axes((0.1, 0.1, 0.8, 0.8))
    points = [(0.5 + 0.005 * i * (-1) ** i, 0.5 + 0.005 * i, f"a-model-{i}") for i in range(5)]
    place_labels(axes, points)
    assert {label.get_text() for label in axes.texts} == {name for *_, name in points}


@pytest.mark.parametrize(
    ("accuracies", "logarithmic"), [((98.6, 97.5, 94.1), False), ((98.6, 97.5, 70.2), True), ((100, 99.6, 99.3), True)]
)
def test_one_weak_model_does_not_hide_the_differences_of_the_others(
    accuracies: tuple[float, ...], logarithmic: bool
) -> None:
    """Where errors cover a factor of 8, equal factors of the error are equal distances, and all points are inside."""
    _, axes = new_plot("cost", ACCURACY)
    accuracy_axis(axes, min(accuracies), max(accuracies))
    figures._limits(axes, np.array(accuracies), np.array([0.1, 0.2, 3.0]))
    bottom, top = (axes.transData.transform((0.5, end))[1] for end in axes.get_ylim())
    assert all(bottom < axes.transData.transform((0.5, y))[1] < top for y in accuracies)
    assert axes.get_ylim()[1] <= 101
    assert ("log scale" in axes.get_ylabel()) == logarithmic
    heights = [axes.transData.transform((0.5, y))[1] for y in (84.0, 92.0, 96.0, 98.0)]
    steps = np.diff(heights)
    assert np.allclose(steps, steps[0], rtol=1e-6) == logarithmic  # 16, 8, 4 and 2 % of error
    assert all(steps > 0)
