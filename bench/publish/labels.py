"""Labels beside points that do not cover each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FONT = 7.5  # points
#: Where a label may stand beside its point: shift in points, and what of the text is at the shifted place.
_PLACES = ((6, 4), (6, -9), (-6, 4), (-6, -9), (6, 14), (-6, 14), (6, -19), (-6, -19), (6, 24), (-6, 24), (6, -29), (-6, -29))

Box = tuple[float, float, float, float]


def place_labels(
    axes: Axes, points: Sequence[tuple[float, float, str]], obstacles: Sequence[tuple[float, float]] = ()
) -> None:
    """Write the label of every (x, y, text) beside its point, at the first place where it covers nothing.

    The best points should come first. A label without a free place is left out.

    Args:
        axes: whose place in the figure will not change any more.
        obstacles: further points (x, y) that must stay visible.
    """
    figure = axes.figure
    frame = axes.get_window_extent()
    points_a_pixel = 72 / figure.dpi
    taken: list[Box] = [
        (px - 3, py - 3, px + 3, py + 3) for px, py in (_pixels(axes, *p[:2], points_a_pixel) for p in (*points, *obstacles))
    ]
    right, left = frame.x1 * points_a_pixel, frame.x0 * points_a_pixel
    for x, y, text in points:
        px, py = _pixels(axes, x, y, points_a_pixel)
        width = 0.61 * _FONT * len(text)
        for dx, dy in _PLACES:
            start = px + dx if dx > 0 else px + dx - width
            box = (start, py + dy - 2, start + width, py + dy + _FONT - 1)
            if box[0] < left or box[2] > right + 20 or any(_overlap(box, other) for other in taken):
                continue
            taken.append(box)
            side = "left" if dx > 0 else "right"
            axes.annotate(text, (x, y), (dx, dy), textcoords="offset points", ha=side, fontsize=_FONT, annotation_clip=False)
            break


def _pixels(axes: Axes, x: float, y: float, scale: float) -> tuple[float, float]:
    px, py = axes.transData.transform((x, y))
    return px * scale, py * scale


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
