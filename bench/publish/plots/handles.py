"""Handles of points: with them, a page shows what a point means, and links it to its row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

_POINT = "point-"
#: Separator before the number of a point, if a model has several; it occurs in no name of a model.
_NUMBER = "@"


@dataclass(frozen=True)
class Handle:
    """One point of a figure.

    Attributes:
        id: id of its element in the SVG.
        model: model of its row.
        says: lines of text that describe it.
        box: left, top, width, height as shares of the figure's width and height; 0, 0 is the upper left corner.
    """

    id: str
    model: str
    says: tuple[str, ...]
    box: tuple[float, float, float, float]


def for_page(figure: Figure) -> dict[str, Any]:
    """The size of a figure in pixels, and its points, for pages. Boxes are rounded to a tenth of a pixel."""
    points = [{"model": h.model, "says": h.says, "box": [round(v, 4) + 0.0 for v in h.box]} for h in handles(figure)]
    return {"size": [round(v) for v in figure.bbox.size], "points": points}


def in_words(value: float) -> str:
    """A number for the text of a point: with thousands separators, or with four significant digits."""
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1e4 else f"{value:.4g}"


def name_point(artist: Artist, model: str, says: Iterable[str], number: str = "") -> None:
    """Make an artist the mark of a point. Each point has its own artist, so that its element in the SVG has an id.

    Args:
        says: lines of text that describe the point.
        number: number of the point, if a model has several in one figure.
    """
    artist.set_gid(f"{_POINT}{model}" + (f"{_NUMBER}{number}" if number else ""))
    artist.set_label("\n".join(says))


def handles(figure: Figure) -> list[Handle]:
    """The points of a finished figure from left to right, with their boxes in matplotlib's drawing."""
    (width, height), found = figure.bbox.size, []
    points = figure.findobj(lambda a: (a.get_gid() or "").startswith(_POINT))
    if any(isinstance(a, Text) for a in points):
        figure.draw_without_rendering()  # this computes the position of a legend; marks have a position already
    for artist in points:
        left, bottom, right, top = _extent(artist, figure.dpi / 72)
        box = (left / width, 1 - top / height, (right - left) / width, (top - bottom) / height)
        id_, says = str(artist.get_gid()), str(artist.get_label()).split("\n")
        found.append(Handle(id_, id_.removeprefix(_POINT).partition(_NUMBER)[0], tuple(says), box))
    return sorted(found, key=lambda h: (round(h.box[0], 3), h.box[1], h.id))


def _extent(artist: Artist, pixels_a_point: float) -> tuple[float, float, float, float]:
    """The box of an artist in pixels of its figure: left, bottom, right, top."""
    if not isinstance(artist, PathCollection):
        left, bottom, right, top = artist.get_window_extent().extents
        return left, bottom, right, top
    # matplotlib does not give the extent of a mark.
    ((x, y),) = artist.get_offset_transform().transform(artist.get_offsets())
    half = float(artist.get_sizes()[0]) ** 0.5 * pixels_a_point / 2
    return x - half, y - half, x + half, y + half
