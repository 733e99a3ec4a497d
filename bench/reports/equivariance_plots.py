"""Plots of equivariance errors by angle and by depth. Equal values give files with equal bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draws into files, without a display

from matplotlib import pyplot as plt

from ..tools.files import write_atomically

#: Colours that are safe for colour-blind readers (Okabe & Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
#: Smaller errors are shown at this value: they are float32 rounding.
FLOOR = 1e-8

STYLE: Any = {
    "figure.dpi": 110, "savefig.bbox": "tight", "font.size": 10, "axes.grid": True, "grid.color": "#dddddd",
    "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "svg.hashsalt": "equibench", "svg.fonttype": "none",
}  # fmt: skip


def save(figure: Any, paths: Sequence[Path]) -> list[Path]:
    """Write a figure in the formats given by the file names, and close it."""
    for path in paths:
        buffer = io.BytesIO()
        kind = path.suffix[1:]
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else {"Software": None})
        write_atomically(path, buffer.getvalue())
    plt.close(figure)
    return list(paths)


def with_gaps(values: Sequence[float | None]) -> list[float]:
    """The values with NaN for None, which gives a gap in a line."""
    return [float("nan") if v is None else v for v in values]


def plot_angles(
    degrees: Sequence[float], curves: Mapping[str, Sequence[float | None]], title: str, path: Path
) -> list[Path]:
    """Error of the logits by angle; the curves are closed at 360 degrees."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 3.6))
        for (label, values), colour in zip(curves.items(), COLOURS, strict=False):
            axes.plot([*degrees, 360], [*with_gaps(values), with_gaps(values)[0]], color=colour, label=label, lw=1.8)
        axes.set(xlim=(0, 360), xticks=range(0, 361, 45), xlabel="rotation of the input in degrees")
        axes.set_ylim(bottom=0)
        axes.set_ylabel("relative change of the logits")
        return _finished(figure, axes, title, path)


def plot_depth(series: Mapping[str, Mapping[str, float | None]], title: str, path: Path) -> list[Path]:
    """Error of features by depth: for each series, layer -> error; layers in the order of the first series."""
    layers = list(next(iter(series.values())))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 3.8))
        places = range(1, len(layers) + 1)
        for (label, values), colour, marker in zip(series.items(), COLOURS, MARKERS, strict=False):
            shown = with_gaps([None if (v := values[la]) is None else max(v, FLOOR) for la in layers])
            axes.plot(places, shown, color=colour, marker=marker, ms=5, lw=1.5, label=label)
        axes.set_yscale("log")
        axes.set_ylim(FLOOR / 2, 4)
        axes.set_xticks(places, layers, rotation=40, ha="right", fontsize=8)
        axes.set(xlabel="layer, from input to output", ylabel="relative error of the features")
        return _finished(figure, axes, title, path)


def _finished(figure: Any, axes: Any, title: str, path: Path) -> list[Path]:
    axes.set_title(title, loc="left", fontsize=10.5)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return save(figure, [path])
