"""Plots of a family of boards: error against the effort of training, on logarithmic axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator

from ...boards.families import BoardFamily, Point
from ...boards.family_table import SPENT, cell, slope_text, slopes
from .axes import SIZE, logarithmic, new_plot, room_for_names
from .handles import in_words, name_point
from .style import dashes_of, family_styles

#: FLOPs are shown in units of 1e12.
UNITS = {"flops": 1e-12}
LABELS = SPENT | {"flops": "TFLOPs of training, forward and backward"}
#: The lower end of a bar is at least this share of its point, because a logarithmic axis has no 0.
SHORTEST = 1 / 4


@dataclass(frozen=True)
class Mark:
    """A point of a curve: its effort, the mean error with its half-width in % (0 without an interval), and its column
    and cell in the table.
    """

    x: float
    error: float
    half: float
    label: str
    accuracy: str

    @property
    def low(self) -> float:
        """The lower end of its bar."""
        return max(self.error - self.half, SHORTEST * self.error)


def curves(family: BoardFamily, what: str) -> dict[tuple[str, str], list[Mark]]:
    """The points of every model on every line, by (model, line), in order; points with an error of 0 are left out."""
    found = {(m, line): _curve(family, m, points, what) for line, points in family.lines for m in family.models}
    return {key: marks for key, marks in found.items() if marks}


def _curve(family: BoardFamily, model: str, points: Sequence[Point], what: str) -> list[Mark]:
    marks = []
    for point in points:
        row, x = point.rows.get(model), point.spent(model, what)
        accuracy = None if row is None else row["test_acc_mean_pct"]
        if row is None or x is None or accuracy is None or accuracy != accuracy or accuracy >= 100:
            continue
        half = row["test_acc_ci95_pct"]
        half = 0.0 if half is None or half != half else float(half)
        marks.append(Mark(x * UNITS.get(what, 1), 100 - accuracy, half, family.label(point), cell(point, model)))
    return marks


def draw(family: BoardFamily, what: str) -> Figure | None:
    """The plot against one of `SPENT`; None if it is equal at all points."""
    found = curves(family, what)
    all_marks = [mark for marks in found.values() for mark in marks]
    if len({mark.x for mark in all_marks}) < 2:
        return None
    figure, axes = new_plot(LABELS[what], "test error in %")
    _scales(axes, all_marks, ticks=sorted({m.x for m in all_marks}) if what == "images" else [])
    names = {m: str(r["family"] or "other") for p in family.measured for m, r in p.rows.items()}
    styles, alpha = family_styles(names.get(m, "other") for m in family.models), slopes(family, what)
    handles: list[Line2D] = []
    looks = [styles[names.get(model, "other")] for model, _ in found]
    dashes = dashes_of(colour for colour, _ in looks)
    for ((model, line), marks), (colour, shape), dash in zip(found.items(), looks, dashes, strict=True):
        how: dict[str, Any] = {"color": colour, "ls": dash, "lw": 1.4, "marker": shape, "ms": 5}
        axes.plot([m.x for m in marks], [m.error for m in marks], **{**how, "marker": ""})
        for number, mark in enumerate(marks):
            size = 20 * 1.6**number  # distinguishes points with the same effort
            point = axes.scatter(mark.x, mark.error, size, color=colour, marker=shape, zorder=3)
            says = [mark.label, f"test accuracy: {mark.accuracy} %", f"{LABELS[what]}: {in_words(mark.x)}"]
            name_point(point, model, says, f"{line}.{number}")
        axes.vlines([m.x for m in marks], [m.low for m in marks], [m.error + m.half for m in marks], colour, lw=0.9)
        slope = alpha.get((model, line))
        text = model + (f" ({line})" if line else "")
        handles.append(Line2D([], [], label=text if slope is None else f"{text}\nα = {slope_text(slope)}", **how))
    axes.set_title(_note(family, found, what), loc="left", fontsize=7.5)
    labels = [max(str(h.get_label()).splitlines(), key=len) for h in handles]
    room, sizes = room_for_names(labels, 0.06, 7.5)
    margin = 0.85 + room
    figure.subplots_adjust(right=1 - margin / SIZE[0], bottom=0.55 / SIZE[1])
    corner = (1 - (margin - 0.12) / SIZE[0], 1 - 0.3 / SIZE[1])
    legend = figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=corner, fontsize=7.5, handlelength=2.8, borderaxespad=0
    )
    for label, letters in zip(legend.get_texts(), sizes, strict=True):
        label.set_fontsize(letters)
    return figure


def _scales(axes: Axes, marks: Sequence[Mark], ticks: Sequence[float]) -> None:
    logarithmic(axes.xaxis, axes.set_xscale)
    logarithmic(axes.yaxis, axes.set_yscale)
    low, high = min(m.low for m in marks), min(max(m.error + m.half for m in marks), 100.0)
    axes.set_ylim(low / 1.1, high * 1.1)
    x = [m.x for m in marks]
    for axis, is_narrow in ((axes.yaxis, high < 10 * low), (axes.xaxis, max(x) < 10 * min(x))):
        if is_narrow:
            axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7), numticks=20))
    if ticks:
        axes.xaxis.set_major_locator(FixedLocator(list(ticks)))


def _note(family: BoardFamily, found: dict[tuple[str, str], list[Mark]], what: str) -> str:
    samples = [s for p in family.measured for m in family.models if (s := p.sample(m)) is not None and s.has_interval]
    over = "new seeds" + (" and images" if samples and all(s.is_by_image for s in samples) else "")
    parts = [f"mean over seeds; bars: 95 % over {over}" if samples else "mean over seeds; no bars below 3 seeds"]
    if any(s is not None for s in slopes(family, what).values()):
        parts.append(f"α: error ∝ {what}^-α")
    if what != family.own_axis:
        parts.append(f"larger mark: more {family.own_axis}")
    measured = sum(r["test_acc_mean_pct"] == 100 for p in family.measured for r in p.rows.values())
    if measured:
        parts.append(f"without {measured} errors of 0")
    return "; ".join(parts)
