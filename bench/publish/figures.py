"""Plots that answer questions about a board."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..leaderboard import Board
from ..record import RunRecord
from ..statistics import directions
from .labels import place_labels
from .style import INK, PAPER, family_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Models that get a label in a scatter plot, and rows of the plot of differences.
MOST_LABELS, MOST_ROWS = 14, 40
#: Below this an equivariance error is drawn at this: float32 rounding.
FLOOR = 1e-7
SIZE = (6.4, 4.2)


@dataclass(frozen=True)
class Plot:
    """A figure that is made when asked for.

    Attributes:
        stem: beginning of its file's name.
        title: what it asks.
        draw: makes it; None where the board has nothing to draw.
    """

    stem: str
    title: str
    draw: Callable[[Drawn], Figure | None]


class Drawn:
    """A board as plots need it: models with a result, best first."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.rows: list[dict[str, Any]] = [r for r in board.frame.to_dict("records") if r["model"] in board.values]
        self.families = [str(r["family"] or "other") for r in self.rows]

    @cached_property
    def told(self) -> np.ndarray:
        """`statistics.directions` in the order of the rows."""
        return directions({r["model"]: self.board.values[r["model"]] for r in self.rows})

    def column(self, name: str) -> np.ndarray:
        """A column as floats, NaN where it is empty."""
        return np.array([math.nan if r[name] is None else r[name] for r in self.rows], dtype=float)

    def runs(self) -> dict[str, list[RunRecord]]:
        """Finished runs, by model."""
        found: dict[str, list[RunRecord]] = {}
        for record, _ in self.board.chosen:
            if record.status == "ok":
                found.setdefault(record.spec.model, []).append(record)
        return found


def front(cost: np.ndarray, told: np.ndarray) -> np.ndarray:
    """Which models are on the Pareto front of accuracy and cost, (models,).

    A model is dominated where another costs no more and is better beyond noise: its paired 95 % interval lies above
    zero (`told` is 1). Models whose cost is NaN are on no front.
    """
    cheaper = cost[:, None] <= cost[None, :]
    dominated = (cheaper & (told > 0)).any(axis=0)
    return ~dominated & ~np.isnan(cost)


def _cost_plot(column: str, label: str, scale: float = 1.0) -> Callable[[Drawn], Figure | None]:
    def draw(drawn: Drawn) -> Figure | None:
        cost = drawn.column(column) * scale
        return _scatter(drawn, cost, label, front(cost, drawn.told), "filled: no model that costs as little is better beyond noise")

    return draw


def _error_plot(drawn: Drawn) -> Figure | None:
    error = np.maximum(drawn.column("eq_rot_analytic"), FLOOR)
    return _scatter(drawn, error, "rotation error after training (0 is invariant)", ~np.isnan(error), "")


def _scatter(drawn: Drawn, x: np.ndarray, label: str, filled: np.ndarray, note: str) -> Figure | None:
    y, half = drawn.column("test_acc_mean_pct"), np.nan_to_num(drawn.column("test_acc_ci95_pct"))
    there = ~np.isnan(x) & ~np.isnan(y) & (x > 0)
    if not there.any():
        return None
    figure, axes = _new(label, "test accuracy in %")
    _log(axes.xaxis, axes.set_xscale)
    many = there.sum() > 30
    for family in dict.fromkeys(drawn.families):
        own = there & np.array([f == family for f in drawn.families])
        if own.any():
            _points(axes, x, y, half, own, filled, family, many)
    _limits(axes, y[there], half[there])
    named = np.flatnonzero(there & filled if many else there)[:MOST_LABELS]
    labels = [(x[i], y[i], drawn.rows[i]["model"]) for i in named]
    return _finished(axes, note, labels, [(x[i], y[i]) for i in np.flatnonzero(there)])


def _points(
    axes: Axes, x: np.ndarray, y: np.ndarray, half: np.ndarray, own: np.ndarray, filled: np.ndarray, family: str, many: bool
) -> None:
    colour, mark = family_style(family)
    axes.errorbar(x[own], y[own], half[own], fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.35 if many else 0.9, zorder=2)
    area = 18 if many else 42
    for part, face in ((own & ~filled, PAPER), (own & filled, colour)):
        axes.scatter(x[part], y[part], area, marker=mark, facecolors=face, edgecolors=colour, linewidths=1.0, zorder=3)
    axes.scatter([], [], 30, marker=mark, color=colour, label=family)


def _limits(axes: Axes, y: np.ndarray, half: np.ndarray) -> None:
    low, high = float((y - half).min()), float((y + half).max())
    margin = max(0.06 * (high - low), 0.1)
    # Accuracies end at 100 whatever an interval of few seeds says, and a wide one must not hide the others.
    spread = max(float(y.max() - y.min()), 1.0)
    axes.set_ylim(max(low - margin, float(y.min()) - 0.6 * spread, 0.0), min(high + margin, float(y.max()) + 0.6 * spread, 101.0))


def _curves(drawn: Drawn) -> Figure | None:
    figure, axes = _new("progress of training", "training loss (cross-entropy)")
    runs = drawn.runs()
    models = [(row["model"], family) for row, family in zip(drawn.rows, drawn.families, strict=True)]
    found = [(model, family, _mean_curve(runs.get(model, []))) for model, family in models]
    lines = [(model, family, curve) for model, family, curve in found if curve is not None]
    if not lines:
        return None
    _log(axes.yaxis, axes.set_yscale)
    many, seen, ends = len(lines) > MOST_LABELS, set(), []
    for model, family, (progress, loss) in lines:
        label = family if family not in seen else None
        seen.add(family)
        axes.plot(progress, loss, color=family_style(family)[0], lw=0.7 if many else 1.5, alpha=0.5 if many else 1, label=label)
        ends.append((progress[-1], loss[-1], model))
    axes.set_xlim(0, 1 if many else 1.25)
    return _finished(axes, "mean over seeds", [] if many else ends)


def _mean_curve(runs: list[RunRecord]) -> tuple[np.ndarray, np.ndarray] | None:
    """Progress and mean loss over runs that recorded the same steps."""
    points = [[(p.step / r.spec.steps, p.loss) for p in r.curve if p.loss is not None] for r in runs]
    shortest = min((len(p) for p in points), default=0)
    if shortest < 2:
        return None
    values = np.array([p[:shortest] for p in points]).mean(axis=0)
    return values[:, 0], np.maximum(values[:, 1], 1e-6)


def _angles(drawn: Drawn) -> Figure | None:
    by_model: dict[str, list[Any]] = {}
    for record, _ in drawn.board.chosen:
        sidecar = drawn.board.sidecars.get(record.run_id) if drawn.board.sidecars else None
        if sidecar is not None and None not in sidecar.trained.curve:
            by_model.setdefault(record.spec.model, []).append(sidecar)
    if not by_model:
        return None
    figure, axes = _new("rotation of the image in degrees", "relative change of the logits, after training")
    ends, seen = [], set()
    many = len(by_model) > MOST_LABELS
    for row, family in zip(drawn.rows, drawn.families, strict=True):
        found = by_model.get(row["model"])
        if found:
            degrees = np.array([*found[0].curve_degrees, 360.0])
            mean = np.mean([[*s.trained.curve, s.trained.curve[0]] for s in found], axis=0)
            label = family if family not in seen else None
            seen.add(family)
            axes.plot(degrees, mean, color=family_style(family)[0], lw=0.7 if many else 1.4, label=label)
            middle = int(np.argmax(mean[: len(mean) // 4]))
            ends.append((degrees[middle], mean[middle], row["model"]))
    axes.set_xticks(range(0, 361, 45))
    return _finished(axes, "closed-form images; nothing is resampled", [] if many else ends)


def _differences(drawn: Drawn) -> Figure | None:
    family_of = {r["model"]: f for r, f in zip(drawn.rows, drawn.families, strict=True)}
    found = sorted(drawn.board.against_reference, key=lambda c: c.difference)[-MOST_ROWS:]
    if not found:
        return None
    left = 0.2 + 0.075 * max(len(c.model) for c in found)
    figure, axes = _new(f"difference in test accuracy to {drawn.board.reference}, in points", "", 1.4 + 0.24 * len(found), left)
    axes.axvline(0, color=INK, lw=0.8)
    for y, c in enumerate(found):
        colour, mark = family_style(family_of[c.model])
        face = colour if c.p_holm <= 0.05 else PAPER
        axes.errorbar(c.difference, y, xerr=c.interval or 0, fmt="none", ecolor=colour, elinewidth=1.1)
        axes.scatter([c.difference], [y], 30, marker=mark, facecolors=face, edgecolors=colour, zorder=3)
    axes.set_ylim(-0.7, len(found) - 0.3)
    axes.set_yticks(range(len(found)), [c.model for c in found])
    axes.grid(axis="y", visible=False)
    family = drawn.board.against_reference
    left_out = len(family) - len(found)
    note = f"paired by seed, 95 % t-interval; filled: p (Holm, {len(family)} comparisons) at most 0.05"
    axes.set_title(note + (f"\nthe best {len(found)} of {len(family)}" if left_out else ""), loc="left", fontsize=7.5)
    return figure


def _log(axis: Any, set_scale: Callable[[str], None]) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axis.set_major_formatter(FuncFormatter(_short))
    axis.set_minor_formatter(NullFormatter())
    axis.minorticks_off()


def _short(value: float, _position: int | None = None) -> str:
    """A tick: 2 M, 50 k, 0.05, 1e-6."""
    for size, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{name}"
    return f"{value:g}" if value >= 1e-3 else f"{value:.0e}".replace("e-0", "e-")


def _new(x: str, y: str, height: float = SIZE[1], left: float = 0.75) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIZE[0], height))
    # Fixed margins in inches: looking for the best ones takes longer than drawing.
    figure.subplots_adjust(left=left / SIZE[0], right=1 - 0.25 / SIZE[0], top=1 - 0.35 / height, bottom=0.85 / height)
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _finished(
    axes: Axes, note: str, labels: Sequence[tuple[float, float, str]], obstacles: Sequence[tuple[float, float]] = ()
) -> Figure:
    """Add note, legend and labels; labels last, when the axes have found their place."""
    from matplotlib.figure import Figure

    figure = axes.figure
    assert isinstance(figure, Figure)
    axes.set_title(note, loc="left", fontsize=7.5)
    figure.legend(loc="lower center", ncols=7, handletextpad=0.2, columnspacing=1.2)
    axes.get_xlim(), axes.get_ylim()  # lets them settle, so that places on the page are known
    place_labels(axes, labels, obstacles)
    return figure


PLOTS = (
    Plot("accuracy-parameters", "Accuracy against parameters", _cost_plot("parameters", "parameters")),
    Plot("accuracy-flops", "Accuracy against compute", _cost_plot("flops_per_image", "MFLOPs an image, forward", 1e-6)),
    Plot("accuracy-seconds", "Accuracy against training time", _cost_plot("train_s_mean", "device-seconds of training")),
    Plot("accuracy-equivariance", "Accuracy against equivariance error", _error_plot),
    Plot("error-angle", "Equivariance error against the angle", _angles),
    Plot("learning-curves", "Learning curves", _curves),
    Plot("differences", "Differences to the reference", _differences),
)
