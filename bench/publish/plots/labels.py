"""Labels of points that do not overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

_FONT = 7.5  # points
#: Possible positions of a label: the offset, in points, of its near end from its point.
_PLACES = (
    (6, 4), (6, -9), (-6, 4), (-6, -9), (6, 14), (-6, 14), (6, -19), (-6, -19), (6, 24), (-6, 24), (6, -29), (-6, -29),
    (24, 12), (-24, 12), (24, -17), (-24, -17), (24, 26), (-24, 26), (24, -31), (-24, -31), (48, 20), (-48, 20),
    (48, -25), (-48, -25), (24, -45), (-24, -45), (24, -59), (-24, -59), (24, 40), (-24, 40), (24, 54), (-24, 54),
)  # fmt: skip
#: A label further away than this is connected to its point by a line.
_BESIDE = 12.0

Box = tuple[float, float, float, float]


def place_labels(
    axes: Axes, points: Sequence[tuple[float, float, str]], obstacles: Sequence[tuple[float, float]] = ()
) -> None:
    """Write the label of every (x, y, text) near its point, at the first position where it covers nothing.

    The best points should come first. A label beside a point is never nearer to another point. A label further
    away is connected to its point by a line, which passes no other point. A label without a free position is left out.

    Args:
        axes: axes whose position in the figure is final.
        obstacles: further points (x, y) that must stay visible.
    """
    figure = axes.figure
    frame = axes.get_window_extent()
    points_a_pixel = 72 / figure.dpi
    marks = [_pixels(axes, float(p[0]), float(p[1]), points_a_pixel) for p in (*points, *obstacles)]
    taken: list[Box] = [(px - 3, py - 3, px + 3, py + 3) for px, py in marks]
    right, left, top = (edge * points_a_pixel for edge in (frame.x1, frame.x0, frame.y1))
    for x, y, text in points:
        px, py = _pixels(axes, x, y, points_a_pixel)
        width = 0.61 * _FONT * len(text)
        for dx, dy in _PLACES:
            start = px + dx if dx > 0 else px + dx - width
            box = (start, py + dy - 2, start + width, py + dy + _FONT - 1)
            # The note is above the frame.
            if box[0] < left or box[2] > right + 20 or box[3] > top or any(_overlap(box, other) for other in taken):
                continue
            end = (px + dx, py + dy)
            beside = math.hypot(dx, dy) <= _BESIDE
            if beside and any(math.dist(mark, end) < math.dist((px, py), end) for mark in marks):
                continue  # another point is nearer to the near end of the label
            if not beside and any(_near_line(mark, (px, py), end) for mark in marks if mark != (px, py)):
                continue
            taken.append(box)
            side = "left" if dx > 0 else "right"
            line: dict[str, Any] = {"arrowstyle": "-", "linewidth": 0.5, "color": "0.5", "shrinkA": 0, "shrinkB": 3}
            line["relpos"] = (0 if dx > 0 else 1, 0.5)  # the near end of the label
            axes.annotate(
                text, (x, y), (dx, dy), textcoords="offset points", ha=side, fontsize=_FONT, annotation_clip=False,
                arrowprops=None if beside else line,
            )  # fmt: skip
            break


def _pixels(axes: Axes, x: float, y: float, scale: float) -> tuple[float, float]:
    px, py = axes.transData.transform((x, y))
    return px * scale, py * scale


def _near_line(mark: tuple[float, float], start: tuple[float, float], end: tuple[float, float]) -> bool:
    """Whether a line passes over a mark; not if it leads away from it."""
    along = (end[0] - start[0], end[1] - start[1])
    share = ((mark[0] - start[0]) * along[0] + (mark[1] - start[1]) * along[1]) / (along[0] ** 2 + along[1] ** 2)
    nearest = (start[0] + min(1.0, share) * along[0], start[1] + min(1.0, share) * along[1])
    return share > 0 and math.dist(mark, nearest) < 4


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
