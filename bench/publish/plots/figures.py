"""The plots of a board."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...boards.board import Board
from ...boards.notes import sources_of_variation
from ...boards.statistics import LEVEL
from ...boards.terminal_table import accuracy_text
from ...tools.text import plural
from ..view import difference_text, p_text
from . import lines
from .axes import ACCURACY, SIZE, accuracy_axis, finish_plot, log_or_linear, new_plot, room_for_names, write_note
from .handles import in_words, name_point
from .style import INK, PAPER, family_styles

#: Largest number of labelled models in a scatter plot, and of rows in the plot of differences.
MOST_LABELS, MOST_ROWS = 20, 40
#: Smaller equivariance errors are drawn at this value: they are float32 rounding.
FLOOR = 1e-7


@dataclass(frozen=True)
class Plot:
    """A plot that is drawn on demand, in a file named `stem`. Without the data that it `needs`, `draw` returns None."""

    stem: str
    title: str
    draw: Callable[[PlotData], Figure | None]
    needs: str


class PlotData:
    """The data of a board for plots: models with a result, the best one first."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.rows: list[dict[str, Any]] = [r for r in board.rows_of(board.frame) if r["model"] in board.values]
        self.families = [str(r["family"] or "other") for r in self.rows]
        self.styles = family_styles(self.families)

    @cached_property
    def significance(self) -> np.ndarray:
        """`statistics.significant_differences` in the order of the rows."""
        at = {model: i for i, model in enumerate(self.board.samples)}
        order = [at[r["model"]] for r in self.rows]
        return self.board.significance[np.ix_(order, order)]

    def column(self, name: str) -> np.ndarray:
        """A column as floats, with NaN for empty cells."""
        return np.array([math.nan if r[name] is None else r[name] for r in self.rows], dtype=float)

    def accuracy(self, row: int) -> str:
        """The accuracy of a row as text, as tables show it."""
        found = self.rows[row]
        return f"test accuracy: {accuracy_text(found, self.board.samples.get(found['model']))} %"

    @property
    def named(self) -> list[tuple[str, str]]:
        """Models and their families."""
        return [(r["model"], f) for r, f in zip(self.rows, self.families, strict=True)]


def pareto_front(cost: np.ndarray, significance: np.ndarray) -> np.ndarray:
    """Which models are on the Pareto front of accuracy and cost, (models,).

    A model is dominated if another model costs no more and is surely better, as for ranks (`significance` is 1). Models
    without a rank (because they have no p with another model) and models with a cost of NaN are not on the front.
    """
    judged = ~np.isnan(significance).all(axis=1)
    cheaper = cost[:, None] <= cost[None, :]
    dominated = (cheaper & (significance > 0)).any(axis=0)
    return judged & ~dominated & ~np.isnan(cost)


#: Meaning of filled marks in plots of accuracy and cost; the rule is that of the ranks.
FRONT = f"filled: no model of at most this cost is surely better (p at most {LEVEL:g}, Holm over all pairs)"
#: Meaning of filled marks in other plots: the models that tables show in bold.
BEST = f"filled: rank 1 is possible (p at most {LEVEL:g}, Holm over all pairs)"


def _over(drawn: PlotData) -> str:
    """The sources of variation of the bars, if there are bars."""
    by_image = [s.is_by_image for s in drawn.board.samples.values() if s.has_interval]
    return f"bars: 95 % over new {sources_of_variation(by_image)}" if by_image else "no bars below 3 seeds"


def _cost_plot(column: str, label: str, scale: float = 1.0) -> Callable[[PlotData], Figure | None]:
    def draw(drawn: PlotData) -> Figure | None:
        cost = drawn.column(column) * scale
        return _scatter(drawn, cost, label, pareto_front(cost, drawn.significance), f"{_over(drawn)}; {FRONT}")

    return draw


def _error_plot(drawn: PlotData) -> Figure | None:
    error = drawn.column("eq_rot_analytic")
    best = np.array([r["model"] in drawn.board.best for r in drawn.rows])
    label = "rotation error after training (0 means invariant)"
    return _scatter(drawn, error, label, best, f"{_over(drawn)}; {BEST}", FLOOR)


def _scatter(
    drawn: PlotData, values: np.ndarray, label: str, filled: np.ndarray, note: str, least: float = -math.inf
) -> Figure | None:
    x = np.maximum(values, least)  # NaN stays
    y, half = drawn.column("test_acc_mean_pct"), np.nan_to_num(drawn.column("test_acc_ci95_pct"))
    there = ~np.isnan(x) & ~np.isnan(y) & (x > 0)
    if not there.any():
        return None
    # Labels of many models need room.
    _, axes = new_plot(label, ACCURACY, SIZE[1] + 0.12 * max(0, min(int(there.sum()), MOST_LABELS) - 10))
    log_or_linear(axes.xaxis, axes.set_xscale, float(x[there].min()), float(x[there].max()))
    many = there.sum() > 30
    for i in np.flatnonzero(there):
        colour, shape = drawn.styles[drawn.families[i]]
        # Bars are plain lines, because matplotlib's error bars take several times as long.
        axes.vlines(x[i], y[i] - half[i], y[i] + half[i], colour, lw=0.8, alpha=0.35 if many else 0.9, zorder=2)
        mark = axes.scatter(
            x[i], y[i], 18 if many else 42, marker=shape, facecolors=colour if filled[i] else PAPER, edgecolors=colour,
            linewidths=1.0, zorder=3,
        )  # fmt: skip
        name_point(mark, drawn.rows[i]["model"], [drawn.accuracy(i), f"{label}: {in_words(values[i])}"])
    shown = {f: style for f, style in drawn.styles.items() if f in {drawn.families[i] for i in np.flatnonzero(there)}}
    accuracy_axis(axes, float(y[there].min()), float(y[there].max()))
    _limits(axes, y[there], half[there])
    named = np.flatnonzero(there & filled if many and (there & filled).any() else there)[:MOST_LABELS]
    labels = [(x[i], y[i], drawn.rows[i]["model"]) for i in named]
    return finish_plot(axes, shown, note, labels, [(x[i], y[i]) for i in np.flatnonzero(there)])


def _limits(axes: Axes, y: np.ndarray, half: np.ndarray) -> None:
    shown = axes.yaxis.get_transform()  # of accuracies to heights; the distances below are of heights
    y, low, high = (shown.transform(end) for end in (y, y - half, y + half))
    bottom, top, spread = float(low.min()), float(high.max()), max(float(y.max() - y.min()), 1.0)
    margin = max(0.06 * (top - bottom), 0.1)
    # A wide interval must not hide the other points.
    ends = max(bottom - margin, float(y.min()) - 0.6 * spread), min(top + margin, float(y.max()) + 0.6 * spread)
    lowest, highest = shown.inverted().transform(np.array(ends))
    # Accuracies end at 100, although an interval of few seeds may not.
    axes.set_ylim(max(float(lowest), 0.0), min(float(highest), 101.0))


def _differences(drawn: PlotData) -> Figure | None:
    at = {r["model"]: i for i, r in enumerate(drawn.rows)}
    found = sorted(drawn.board.against_reference, key=lambda c: c.difference)[-MOST_ROWS:]
    if not found:
        return None
    room, sizes = room_for_names([c.model for c in found], 0.075, 9)
    letters = int((SIZE[0] - room) / 0.064)  # of a line that is centred below the frame
    below = textwrap.wrap(f"difference in test accuracy to {drawn.board.reference}, in points", letters)
    height = 1.1 + 0.24 * len(found) + 0.15 * (len(below) - 1)
    figure, axes = new_plot("\n".join(below), "", height, 0.2 + room)
    figure.subplots_adjust(bottom=(0.4 + 0.15 * len(below)) / height)  # there is no legend
    axes.axvline(0, color=INK, lw=0.8)
    for y, c in enumerate(found):
        colour, mark = drawn.styles[drawn.families[at[c.model]]]
        x, half, beyond = c.difference, c.interval or 0.0, c.p_holm is not None and c.p_holm <= LEVEL
        axes.hlines(y, x - half, x + half, colour, lw=1.1)
        point = axes.scatter(x, y, 30, marker=mark, facecolors=colour if beyond else PAPER, edgecolors=colour, zorder=3)
        says = [f"difference to {c.reference}: {difference_text(x, c.interval)} points"]
        says += [f"p (Holm): {p_text(c.p_holm)}"] if c.p_holm is not None else []
        name_point(point, c.model, [*says, drawn.accuracy(at[c.model])])
    axes.set_ylim(-0.7, len(found) - 0.3)
    axes.set_yticks(range(len(found)), [c.model for c in found])
    for text, size in zip(axes.get_yticklabels(), sizes, strict=True):
        text.set_fontsize(size)
    axes.grid(axis="y", visible=False)
    shown, count = [c for c in found if c.interval is not None], len(drawn.board.against_reference)
    note = "paired; no bars below 3 seeds"
    if shown:
        family, over = plural(shown[0].family, "comparison"), sources_of_variation(c.by_image for c in shown)
        note = f"paired, ± 95 % over new {over}; filled: p (Holm, {family}) at most {LEVEL:g}"
    write_note(axes, note + (f"\nthe best {len(found)} of {count}" if count > len(found) else ""))
    return figure


RESULTS, SEEDS = "models with results", "a reference, and another model with results of the same seeds"
COUNTED, ALONE = "models with results and counted operations", "results of runs that did not share a device"
#: Accuracies by angle also need labels that stay correct when images are rotated.
FULL = "runs with a measured full equivariance profile; equibench equivariance --run ID measures it"
PLOTS = (
    Plot("accuracy-parameters", "Accuracy against parameters", _cost_plot("parameters", "parameters"), RESULTS),
    Plot(
        "accuracy-flops",
        "Accuracy against compute",
        _cost_plot("flops_per_image", "MFLOPs of a forward pass", 1e-6),
        COUNTED,
    ),
    Plot(
        "accuracy-seconds",
        "Accuracy against training time",
        _cost_plot("train_s_mean", "device-seconds of training"),
        ALONE,
    ),
    Plot("accuracy-equivariance", "Accuracy against equivariance error", _error_plot, RESULTS),
    Plot("error-angle", "Equivariance error against the angle", lambda d: lines.error_by_angle(d.board, d.named), FULL),
    Plot("accuracy-angle", "Accuracy against the angle", lambda d: lines.accuracy_by_angle(d.board, d.named), FULL),
    Plot("learning-curves", "Learning curves", lambda d: lines.learning_curves(d.board, d.named), RESULTS),
    Plot("differences", "Differences to the reference", _differences, SEEDS),
)
