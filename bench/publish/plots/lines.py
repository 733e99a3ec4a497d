"""Plots of curves: learning curves, and error and accuracy against the angle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...boards.board import Board
from ...records.record import RunRecord
from ...records.sidecar import Sidecar
from ...tools.text import plural
from .axes import SIZE, finish_plot, logarithmic, new_plot
from .handles import in_words, name_point
from .style import DASHES, family_styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Up to this number of curves, each has a label and a thick line.
MOST_CURVES = 14

Curve = tuple[np.ndarray, np.ndarray]
#: Models in the order of the board, and their families.
Named = Sequence[tuple[str, str]]


def learning_curves(board: Board, models: Named) -> Figure | None:
    """Training loss against progress."""
    runs: dict[str, list[RunRecord]] = {}
    for record in (r for counted in board.averaged.values() for r in counted):
        if record.status == "ok":
            runs.setdefault(record.spec.model, []).append(record)
    curves = {model: curve for model, _ in models if (curve := _mean_loss(runs.get(model, []))) is not None}
    if not curves:
        return None
    _, axes = new_plot("progress of training", "training loss (cross-entropy)")
    logarithmic(axes.yaxis, axes.set_yscale)
    axes.set_xlim(0, 1)
    return _drawn(axes, models, curves, "mean over seeds", lambda y: [f"training loss at the end: {in_words(y[-1])}"])


def _mean_loss(runs: list[RunRecord]) -> Curve | None:
    """Progress and mean loss over runs that recorded the same steps."""
    points = [[(p.step / r.spec.steps, p.loss) for p in r.curve if p.loss is not None] for r in runs]
    shortest = min((len(p) for p in points), default=0)
    if shortest < 2:
        return None
    values = np.array([p[:shortest] for p in points]).mean(axis=0)
    return values[:, 0], np.maximum(values[:, 1], 1e-6)


def error_by_angle(board: Board, models: Named) -> Figure | None:
    """Error of the trained logits against the angle, from the runs with a full profile."""

    def of(sidecar: Sidecar) -> tuple[list[float], list[Any]]:
        return sidecar.curve_degrees, sidecar.trained.curve

    return _over_angles(
        board, models, of, "relative change of the logits", "after training; closed-form images: nothing is resampled"
    )


def accuracy_by_angle(board: Board, models: Named) -> Figure | None:
    """Test accuracy against the rotation angle of the images, from the runs with a full profile."""

    def of(sidecar: Sidecar) -> tuple[list[float], list[Any]]:
        return sidecar.orbit_degrees, sidecar.trained.acc_by_angle_pct

    images = max((s.orbit_images for s in board.sidecars.values()), default=0)
    return _over_angles(board, models, of, "test accuracy in %", f"after training; {images:,} rotated test images")


def _over_angles(
    board: Board, models: Named, of: Callable[[Sidecar], tuple[list[float], list[Any]]], label: str, note: str
) -> Figure | None:
    found: dict[str, list[Sidecar]] = {}
    for record in (r for counted in board.averaged.values() for r in counted) if board.sidecars else ():
        sidecar = board.sidecars.get(record.run_id)
        if sidecar is not None and of(sidecar)[1] and None not in of(sidecar)[1]:
            found.setdefault(record.spec.model, []).append(sidecar)
    curves = {}
    for model, sidecars in found.items():
        degrees = of(sidecars[0])[0]
        same = [of(s)[1] for s in sidecars if of(s)[0] == degrees]
        mean = np.mean(same, axis=0)
        # The first angle is repeated at 360 degrees.
        curves[model] = np.array([*degrees, degrees[0] + 360.0]), np.append(mean, mean[0])
    if not curves:
        return None
    _, axes = new_plot("rotation of the image in degrees", label)
    axes.set_xlim(0, 360)
    axes.set_xticks(range(0, 361, 45))
    runs = sum(len(s) for s in found.values())

    def says(y: np.ndarray) -> list[str]:
        return [
            f"{label}: {in_words(y[:-1].mean())}, mean over angles",
            f"lowest {in_words(y.min())}, highest {in_words(y.max())}",
        ]

    return _drawn(axes, models, curves, f"{note}; mean over seeds ({plural(runs, 'run')})", says)


def _drawn(
    axes: Axes, models: Named, curves: dict[str, Curve], note: str, says: Callable[[np.ndarray], list[str]]
) -> Figure:
    """Draw curves in the colours of their families, with different dashes within a colour, and a legend at the right.

    Args:
        says: returns the lines of text of a curve's name in the legend, from the values of the curve.
    """
    from matplotlib.lines import Line2D

    shown = [(model, family) for model, family in models if model in curves]
    styles = family_styles(family for _, family in shown)
    if len(shown) > MOST_CURVES:
        for model, family in shown:
            axes.plot(*curves[model], color=styles[family][0], lw=0.7, alpha=0.5)
        return finish_plot(axes, styles, note, lines=True)
    count: dict[str, int] = {}
    handles = []
    for model, family in shown:
        colour, _ = styles[family]
        count[colour] = count.get(colour, -1) + 1
        how: dict[str, Any] = {"color": colour, "ls": DASHES[count[colour] % len(DASHES)], "lw": 1.5}
        axes.plot(*curves[model], **how)
        handles.append(Line2D([], [], label=model, **how))
    figure = finish_plot(axes, {}, note)
    margin = 0.75 + 0.055 * max(len(model) for model, _ in shown)
    figure.subplots_adjust(right=1 - margin / SIZE[0], bottom=0.55 / SIZE[1])
    place = (1 - (margin - 0.1) / SIZE[0], 1 - 0.3 / SIZE[1])
    legend = figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=place, fontsize=7.5, handlelength=2.6, borderaxespad=0
    )
    for (model, _), text in zip(shown, legend.get_texts(), strict=True):  # names do not overlap, curves do
        name_point(text, model, says(curves[model][1]))
    return figure
