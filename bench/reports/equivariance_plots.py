"""Pictures of equivariance errors: against the angle, against depth, and the two of the documentation.

Files are the same bytes every time for the same figures: no dates, no random identifiers.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draws into files, without a display

from matplotlib import pyplot as plt

from ..tools.files import write_atomically

#: Colours that people with any colour vision tell apart (Okabe & Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
#: Errors below this are shown there: it is float32 rounding.
FLOOR = 1e-8
#: Below this an error is rounding, in the picture of grid parity.
ROUNDING = 1e-5

_STYLE: Any = {
    "figure.dpi": 110,
    "savefig.bbox": "tight",
    "font.size": 10,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "equibench",
    "svg.fonttype": "none",
}


def _save(figure: Any, paths: Sequence[Path]) -> list[Path]:
    for path in paths:
        buffer = io.BytesIO()
        kind = path.suffix[1:]
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else {"Software": None})
        write_atomically(path, buffer.getvalue())
    plt.close(figure)
    return list(paths)


def _there(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if v is None else v for v in values]


def plot_angles(
    degrees: Sequence[float], curves: Mapping[str, Sequence[float | None]], title: str, path: Path
) -> list[Path]:
    """Error of the logits against the angle; the curves are closed at 360 degrees."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 3.6))
        for (label, values), colour in zip(curves.items(), COLOURS, strict=False):
            axes.plot([*degrees, 360], [*_there(values), _there(values)[0]], color=colour, label=label, lw=1.8)
        axes.set(xlim=(0, 360), xticks=range(0, 361, 45), xlabel="rotation of the input in degrees")
        axes.set_ylim(bottom=0)
        axes.set_ylabel("relative change of the logits")
        axes.set_title(title, loc="left", fontsize=10.5)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return _save(figure, [path])


def plot_depth(series: Mapping[str, Mapping[str, float | None]], title: str, path: Path) -> list[Path]:
    """Error of features against depth: for each series, layer -> error; layers in the order of the first series."""
    layers = list(next(iter(series.values())))
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 3.8))
        places = range(1, len(layers) + 1)
        for (label, values), colour, marker in zip(series.items(), COLOURS, MARKERS, strict=False):
            shown = _there([None if (v := values[la]) is None else max(v, FLOOR) for la in layers])
            axes.plot(places, shown, color=colour, marker=marker, ms=5, lw=1.5, label=label)
        axes.set_yscale("log")
        axes.set_ylim(FLOOR / 2, 4)
        axes.set_xticks(places, layers, rotation=40, ha="right", fontsize=8)
        axes.set(xlabel="layer, from input to output", ylabel="relative error of the features")
        axes.set_title(title, loc="left", fontsize=10.5)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return _save(figure, [path])


def plot_interpolation(
    degrees: Sequence[float], curves: Mapping[str, Sequence[float]], title: str, stem: Path
) -> list[Path]:
    """What different ways to rotate an image make of one network's error, logarithmic."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 4.0))
        for (label, values), colour, marker in zip(curves.items(), COLOURS, MARKERS, strict=False):
            dashed = {"ls": "--", "marker": None} if "floor" in label else {"marker": marker}
            axes.plot(degrees, values, color=colour, ms=4.5, lw=1.5, label=label, **dashed)
        axes.set_yscale("log")
        axes.set(xticks=range(0, 91, 15), xlabel="rotation of the input in degrees", ylabel="apparent relative error")
        axes.set_title(title, loc="left", fontsize=10.5)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return _save(figure, [stem.with_suffix(".svg"), stem.with_suffix(".png")])


def plot_parity(
    sizes: Sequence[int], errors: Mapping[str, Sequence[float | None]], title: str, stem: Path
) -> list[Path]:
    """Error under quarter turns against the size of the image, logarithmic; sizes that cannot be built are gaps."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 4.0))
        step = 0.6 / max(len(errors) - 1, 1)
        for place, ((label, values), colour, marker) in enumerate(zip(errors.items(), COLOURS, MARKERS, strict=False)):
            shown = _there([None if v is None else max(v, FLOOR) for v in values])
            # Side by side: points at one size would hide each other, and there is nothing between two sizes.
            axes.plot([n - 0.3 + place * step for n in sizes], shown, marker, color=colour, ms=6, label=label)
        for n in (*sizes, sizes[-1] + 1):
            axes.axvline(n - 0.5, color="#dddddd", lw=0.8, zorder=0)
        axes.grid(False, axis="x")
        axes.axhspan(ROUNDING / 100, ROUNDING, color="#eeeeee", zorder=0)
        axes.text(sizes[0] - 0.45, ROUNDING / 80, "float32 rounding", fontsize=8.5, color="#555555", va="bottom")
        axes.set_yscale("log")
        axes.set(ylim=(ROUNDING / 100, 4), xlim=(sizes[0] - 0.5, sizes[-1] + 0.5))
        axes.set(xticks=list(sizes), xlabel="side of the image in pixels", ylabel="eq_exact_c4")
        axes.set_title(title, loc="left", fontsize=10.5)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return _save(figure, [stem.with_suffix(".svg"), stem.with_suffix(".png")])
