"""Common parts of all plots: margins, logarithmic axes, legend and labels."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from .labels import place_labels

SIZE = (6.4, 4.2)  # inches
ACCURACY = "test accuracy in %"
#: Characters per inch of the note above a frame. There is room for two lines.
_NOTE_DENSITY = 17.5


def new_plot(x: str, y: str, height: float = SIZE[1], left: float = 0.75) -> tuple[Figure, Axes]:
    """A figure with one plot; `height` and `left` margin in inches."""
    figure = Figure(figsize=(SIZE[0], height))
    # Fixed margins in inches, because matplotlib's automatic layout takes longer than drawing.
    figure.subplots_adjust(left=left / SIZE[0], right=1 - 0.25 / SIZE[0], top=1 - 0.35 / height, bottom=0.85 / height)
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def room_for_names(names: Sequence[str], letter: float, size: float) -> tuple[float, list[float]]:
    """Room beside a frame for names, in inches, and the font size of each: those longer than half of the picture are
    smaller.

    Args:
        letter: width of a letter in inches at the font size `size`.
    """
    widths = [letter * len(name) for name in names]
    room = min(max(widths), 0.5 * SIZE[0])
    return room, [size * min(1.0, room / width) for width in widths]


def logarithmic(axis: Any, set_scale: Callable[[str], None]) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5."""
    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axis.set_major_formatter(FuncFormatter(_short))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())


def log_or_linear(axis: Any, set_scale: Callable[[str], None], least: float, most: float) -> None:
    """A logarithmic axis over a wide range, but a linear axis below a factor of 5, to have enough ticks."""
    if most >= 5 * least:
        logarithmic(axis, set_scale)
    else:
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(_short))


def accuracy_axis(axes: Axes, least: float, most: float) -> None:
    """Accuracies in % on the vertical axis. Their errors are on a logarithmic scale if they cover a factor of 8.

    Otherwise one weak model would hide the differences between all the others.

    Args:
        least, most: lowest and highest accuracy of the drawn models.
    """
    if 100 - least < 8 * max(100 - most, _LEAST_ERROR):
        return
    axes.set_yscale("function", functions=(_of_error, _of_logarithm))
    axes.set_yticks([t for t in _ACCURACIES if least - 0.5 * (100 - least) < t])
    axes.yaxis.set_major_formatter(FuncFormatter(_short))
    axes.set_ylabel(f"{axes.get_ylabel()}, error on a log scale")


#: Ticks of accuracies, and the error in % below which the scale is linear, so that 100 % has a place.
_ACCURACIES, _LEAST_ERROR = (0, 50, 70, 80, 90, 95, 97, 98, 99, 99.5, 99.8, 99.9, 100), 0.05


def _of_error(accuracy: Any) -> Any:
    error = 100 - np.asarray(accuracy, float)
    return -np.log(np.maximum(error, _LEAST_ERROR)) + np.maximum(1 - error / _LEAST_ERROR, 0)


def _of_logarithm(height: Any) -> Any:
    above = np.asarray(height, float) + math.log(_LEAST_ERROR)
    return 100 - _LEAST_ERROR * np.where(above > 0, 1 - above, np.exp(-np.minimum(above, 0)))


def _short(value: float, _position: int | None = None) -> str:
    """The label of a tick: 2 M, 50 k, 0.05, 1e-6."""
    for size, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{name}"
    return f"{value:g}" if value >= 1e-3 or value == 0 else f"{value:.0e}".replace("e-0", "e-")


def write_note(axes: Axes, note: str) -> None:
    """Write the note above the frame, wrapped to its width."""
    width = int(_NOTE_DENSITY * (1 - axes.get_position().x0) * SIZE[0])
    axes.set_title("\n".join(textwrap.fill(line, width) for line in note.split("\n")), loc="left", fontsize=7.5)


def finish_plot(
    axes: Axes,
    styles: Mapping[str, tuple[str, str]],
    note: str,
    labels: Sequence[tuple[float, float, str]] = (),
    obstacles: Sequence[tuple[float, float]] = (),
    lines: bool = False,
) -> Figure:
    """Add the note, the legend of the families, and the labels. Labels are last, because they need the final axes.

    Args:
        styles: colour and mark of each family in the legend.
        lines: the legend shows lines instead of marks.
    """
    figure = axes.figure
    assert isinstance(figure, Figure)
    write_note(axes, note)
    handles = []
    for family, (colour, mark) in styles.items():
        how = {"lw": 1.8} if lines else {"lw": 0, "marker": mark, "markersize": 5.5}
        handles.append(Line2D([], [], color=colour, label=family, **how))
    if handles:
        rows = math.ceil(len(handles) / 7)
        columns = math.ceil(len(handles) / rows)  # rows of the same length
        figure.legend(handles=handles, loc="lower center", ncols=columns, handletextpad=0.4, columnspacing=1.2)
    axes.get_xlim(), axes.get_ylim()  # this computes the final limits, so positions on the page are known
    if left_out := place_labels(axes, labels, obstacles):
        what = f"the label of {left_out[0]}" if len(left_out) == 1 else f"{len(left_out)} labels"
        write_note(axes, f"{note}; no room for {what}")
    return figure
