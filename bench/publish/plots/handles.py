"""Handles of points: what a page needs to say what a point is, and to lead from it to its row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

_POINT = "point-"
#: Before the number of one of several points of a model; no model's name has it.
_NUMBER = "@"


@dataclass(frozen=True)
class Handle:
    """One point of a figure.

    Attributes:
        id: of its element in the SVG.
        model: whose row it belongs to.
        says: what it stands for, a line each.
        box: left, top, width, height in shares of the figure's width and height; 0, 0 is the upper left corner.
    """

    id: str
    model: str
    says: tuple[str, ...]
    box: tuple[float, float, float, float]


def for_page(figure: Figure) -> dict[str, Any]:
    """What pages read of a figure: its width and height in pixels, and its points; four digits of a box are a tenth of
    a pixel.
    """
    points = [{"model": h.model, "says": h.says, "box": [round(v, 4) + 0.0 for v in h.box]} for h in handles(figure)]
    return {"size": [round(v) for v in figure.bbox.size], "points": points}


def in_words(value: float) -> str:
    """A number as a point says it: thousands separated, or four significant digits."""
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1e4 else f"{value:.4g}"


def name_point(artist: Artist, model: str, says: Iterable[str], number: str = "") -> None:
    """Make an artist the mark of a point: one artist a point, so that its element in the SVG has an id.

    Args:
        says: what it stands for, a line each.
        number: of the point, where a model has several in one figure.
    """
    artist.set_gid(f"{_POINT}{model}" + (f"{_NUMBER}{number}" if number else ""))
    artist.set_label("\n".join(says))


def handles(figure: Figure) -> list[Handle]:
    """The points of a finished figure from left to right, with the boxes that matplotlib draws them into."""
    return sorted(_handles(figure), key=lambda h: (round(h.box[0], 3), h.box[1], h.id))


def _handles(figure: Figure) -> Iterator[Handle]:
    from matplotlib.text import Text

    width, height = figure.bbox.size
    points = figure.findobj(lambda a: (a.get_gid() or "").startswith(_POINT))
    if any(isinstance(a, Text) for a in points):
        figure.draw_without_rendering()  # a legend finds its place only now; marks have theirs
    for artist in points:
        left, bottom, right, top = _extent(artist, figure.dpi / 72)
        box = (left / width, 1 - top / height, (right - left) / width, (top - bottom) / height)
        id_, says = str(artist.get_gid()), str(artist.get_label()).split("\n")
        yield Handle(id_, id_.removeprefix(_POINT).partition(_NUMBER)[0], tuple(says), box)


def _extent(artist: Artist, pixels_a_point: float) -> tuple[float, float, float, float]:
    """Where an artist is drawn, in pixels of its figure: left, bottom, right, top."""
    from matplotlib.collections import PathCollection

    if not isinstance(artist, PathCollection):
        left, bottom, right, top = artist.get_window_extent().extents
        return left, bottom, right, top
    # Of a mark, matplotlib itself tells no extent.
    ((x, y),) = artist.get_offset_transform().transform(artist.get_offsets())
    half = float(artist.get_sizes()[0]) ** 0.5 * pixels_a_point / 2
    return x - half, y - half, x + half, y + half
