"""Plots of curves: learning curves, and error and accuracy against the angle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...boards.board import Board
from ...records.record import RunRecord
from ...tools.text import plural
from .axes import ACCURACY, SIZE, accuracy_axis, finish_plot, logarithmic, new_plot, room_for_names
from .handles import in_words, name_point
from .style import dashes_of, family_styles

#: Up to this number of curves, each has a label and a thick line.
MOST_CURVES = 20

Curve = tuple[np.ndarray, np.ndarray]
#: Models in the order of the board, and their families.
Named = Sequence[tuple[str, str]]


def learning_curves(board: Board, models: Named) -> Figure | None:
    """Training loss against progress."""
    curves = {}
    for model, _ in models:
        curve = _mean_loss([r for r in board.averaged[model] if r.status == "ok"])
        if curve is not None:
            curves[model] = curve
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
    found = {run: (s.curve_degrees, s.trained.curve) for run, s in board.sidecars.items()}
    note = "after training; closed-form images: nothing is resampled"
    return _over_angles(board, models, found, "relative change of the logits", note)


def accuracy_by_angle(board: Board, models: Named) -> Figure | None:
    """Test accuracy against the rotation angle of the images, from the runs with a full profile."""
    found = {run: (s.orbit_degrees, s.trained.acc_by_angle_pct) for run, s in board.sidecars.items()}
    images = max((s.orbit_images for s in board.sidecars.values()), default=0)
    note = f"after training; {images:,} rotated test images"
    return _over_angles(board, models, found, ACCURACY, note)


def _over_angles(
    board: Board, models: Named, by_run: Mapping[str, tuple[list[float], list[Any]]], label: str, note: str
) -> Figure | None:
    """Mean curves over the runs of each model, from the angles in degrees and the values of each run, by its id."""
    curves, runs = {}, 0
    for model, records in board.averaged.items():
        measured = [by_run[r.run_id] for r in records if r.run_id in by_run]
        measured = [(degrees, values) for degrees, values in measured if values and None not in values]
        if not measured:
            continue
        runs += len(measured)
        angles = measured[0][0]
        mean = np.mean([values for degrees, values in measured if degrees == angles], axis=0)
        # The first angle is repeated at 360 degrees.
        curves[model] = np.array([*angles, angles[0] + 360.0]), np.append(mean, mean[0])
    if not curves:
        return None
    _, axes = new_plot("rotation of the image in degrees", label)
    axes.set_xlim(0, 360)
    axes.set_xticks(range(0, 361, 45))
    if label == ACCURACY:
        values = np.concatenate([y for _, y in curves.values()])
        accuracy_axis(axes, float(values.min()), float(values.max()))

    def says(y: np.ndarray) -> list[str]:
        of_all = f"{label}: {in_words(y[:-1].mean())}, mean over angles"
        return [of_all, f"lowest {in_words(y.min())}, highest {in_words(y.max())}"]

    return _drawn(axes, models, curves, f"{note}; mean over seeds ({plural(runs, 'run')})", says)


def _drawn(
    axes: Axes, models: Named, curves: dict[str, Curve], note: str, says: Callable[[np.ndarray], list[str]]
) -> Figure:
    """Draw curves with a legend at the right; `says` returns the text of a name there, from the curve's values."""
    shown = [(model, family) for model, family in models if model in curves]
    styles = family_styles(family for _, family in shown)
    if len(shown) > MOST_CURVES:
        for model, family in shown:
            axes.plot(*curves[model], color=styles[family][0], lw=0.7, alpha=0.5)
        return finish_plot(axes, styles, note, lines=True)
    handles = []
    colours = [styles[family][0] for _, family in shown]
    for (model, _), colour, dash in zip(shown, colours, dashes_of(colours), strict=True):
        how: dict[str, Any] = {"color": colour, "ls": dash, "lw": 1.5}
        axes.plot(*curves[model], **how)
        handles.append(Line2D([], [], label=model, **how))
    figure = finish_plot(axes, {}, note)
    room, sizes = room_for_names([model for model, _ in shown], 0.055, 7.5)
    margin = 0.75 + room
    figure.subplots_adjust(right=1 - margin / SIZE[0], bottom=0.55 / SIZE[1])
    place = (1 - (margin - 0.1) / SIZE[0], 1 - 0.3 / SIZE[1])
    legend = figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=place, fontsize=7.5, handlelength=2.6, borderaxespad=0
    )
    # Names do not overlap, curves do.
    for (model, _), text, size in zip(shown, legend.get_texts(), sizes, strict=True):
        text.set_fontsize(size)
        name_point(text, model, says(curves[model][1]))
    return figure
