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
#: Attempts; in each, the points that had no label in the one before come first.
_ATTEMPTS = 10

Box = tuple[float, float, float, float]
Point = tuple[float, float, str]


def place_labels(axes: Axes, points: Sequence[Point], obstacles: Sequence[tuple[float, float]] = ()) -> list[str]:
    """Write the label of every (x, y, text) near its point, at the first position where it covers nothing.

    The best points should come first. A label beside a point is never nearer to another point. A label further
    away is connected to its point by a line, which meets no other point or label.

    Args:
        axes: axes whose position in the figure is final.
        obstacles: further points (x, y) that must stay visible.

    Returns:
        The labels that are left out, because no position is free.
    """
    scale = 72 / axes.figure.dpi
    marks = [_pixels(axes, float(p[0]), float(p[1]), scale) for p in (*points, *obstacles)]
    order, placed = list(points), list[tuple[Point, tuple[int, int]]]()
    for _ in range(_ATTEMPTS):
        found = _free_places(axes, order, marks, scale)
        if len(found) > len(placed):
            placed = found
        have = [point for point, _ in found]
        if len(have) == len(order):
            break
        order = [*(p for p in order if p not in have), *have]
    for (x, y, text), (dx, dy) in placed:
        arrow: dict[str, Any] = {"arrowstyle": "-", "linewidth": 0.5, "color": "0.5", "shrinkA": 0, "shrinkB": 3}
        arrow["relpos"] = (0 if dx > 0 else 1, 0.5)  # the near end of the label
        axes.annotate(
            text, (x, y), (dx, dy), textcoords="offset points", ha="left" if dx > 0 else "right", fontsize=_FONT,
            annotation_clip=False, arrowprops=None if math.hypot(dx, dy) <= _BESIDE else arrow,
        )  # fmt: skip
    have = [point for point, _ in placed]
    return [point[2] for point in points if point not in have]


def _free_places(
    axes: Axes, points: Sequence[Point], marks: Sequence[tuple[float, float]], scale: float
) -> list[tuple[Point, tuple[int, int]]]:
    """The points that get a label, in this order, with its position."""
    frame, found = axes.get_window_extent(), []
    taken: list[Box] = [_box_of(*mark) for mark in marks]
    lines: list[Box] = []  # lines may cross
    right, left, top = (edge * scale for edge in (frame.x1, frame.x0, frame.y1))
    for x, y, text in points:
        px, py = _pixels(axes, x, y, scale)
        width = 0.61 * _FONT * len(text)
        for dx, dy in _PLACES:
            start = px + dx if dx > 0 else px + dx - width
            box = (start, py + dy - 2, start + width, py + dy + _FONT - 1)
            # The note is above the frame.
            if box[0] < left or box[2] > right + 20 or box[3] > top:
                continue
            if any(_overlap(box, other) for other in (*taken, *lines)):
                continue
            end = (px + dx, py + dy)
            beside = math.hypot(dx, dy) <= _BESIDE
            if beside and any(math.dist(mark, end) < math.dist((px, py), end) for mark in marks):
                continue  # another point is nearer to the near end of the label
            line = [] if beside else _boxes_along((px, py), end)
            others = [other for other in taken if other != _box_of(px, py)]
            if any(_overlap(piece, other) for piece in line for other in others):
                continue
            taken.append(box)
            lines += line
            found.append(((x, y, text), (dx, dy)))
            break
    return found


def _pixels(axes: Axes, x: float, y: float, scale: float) -> tuple[float, float]:
    px, py = axes.transData.transform((x, y))
    return px * scale, py * scale


def _box_of(x: float, y: float) -> Box:
    """The box of a mark."""
    return x - 3, y - 3, x + 3, y + 3


def _boxes_along(start: tuple[float, float], end: tuple[float, float]) -> list[Box]:
    """Small boxes that cover the line of a label, from beside the mark of its point (at `start`)."""
    along = (end[0] - start[0], end[1] - start[1])
    length = math.hypot(*along)
    places = ((start[0] + t * along[0] / length, start[1] + t * along[1] / length) for t in range(4, math.ceil(length)))
    return [(x - 1, y - 1, x + 1, y + 1) for x, y in places]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
