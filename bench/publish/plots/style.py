"""The style of plots: each architecture family has one colour and one mark in all plots, on screen and in print."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from ...tools.files import write_atomically

#: Colours, and marks for prints without colour. The first six colours are those of Okabe and Ito (Color Universal
#: Design, 2008), which colour-blind people can tell apart; the other four are ours.
FAMILIES = {
    "pdo-econv": ("#d55e00", "o"),
    "g-cnn": ("#0072b2", "s"),
    "e2cnn": ("#009e73", "^"),
    "wide-resnet": ("#cc79a7", "D"),
    "resnet": ("#e69f00", "v"),
    "cnn": ("#56b4e9", "P"),
    "steerable-pdo": ("#9a6fc4", "p"),
    "f-conv": ("#a6761d", "h"),
    "vit": ("#b5446e", "8"),
    "torchvision": ("#7a8a1e", "H"),
}
OTHER = "#808080"
#: Other families are grey; each has its own mark within a board.
OTHER_MARKS = ("X", "*", "<", ">", "d")
#: Dashes distinguish the lines of one family.
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (9, 3)), (0, (3, 1, 1, 1, 1, 1)))

INK, PAPER, GRID = "#1a1a1b", "#fffffe", "#d9d9da"
#: Replacements of colours for the dark variant of a picture.
DARK = {INK: "#e6e6e7", PAPER: "#17191d", GRID: "#3b3e44", "#0072b2": "#3d9bd6"}

FORMATS = ("svg", "pdf", "png")

_RC: Any = {
    "font.family": "sans-serif", "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "legend.fontsize": 8,
    "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.facecolor": PAPER, "figure.facecolor": PAPER, "savefig.facecolor": PAPER, "axes.grid": True,
    "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": "equibench",
    "pdf.fonttype": 42, "savefig.dpi": 160, "lines.linewidth": 1.4, "path.simplify": True,
}  # fmt: skip


def family_styles(families: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and mark of each family of a board, in the order of the families."""
    names = list(dict.fromkeys(families))
    others = sorted(set(names) - set(FAMILIES))
    marks = {family: (OTHER, OTHER_MARKS[i % len(OTHER_MARKS)]) for i, family in enumerate(others)}
    return {family: FAMILIES.get(family) or marks[family] for family in names}


def dashes_of(colours: Iterable[str]) -> list[Any]:
    """The dashes of lines of these colours; lines of one colour have different dashes."""
    rest: dict[str, Iterator[Any]] = defaultdict(lambda: cycle(DASHES))
    return [next(rest[colour]) for colour in colours]


@contextmanager
def house_style() -> Iterator[None]:
    """Inside this context, matplotlib has the settings of this style; outside, nothing changes."""
    with matplotlib.rc_context(_RC):
        yield


def save(figure: Figure, folder: Path, stem: str, formats: tuple[str, ...], both: bool = True) -> list[Path]:
    """Write ``<stem>.<format>``, for ``svg`` also ``<stem>.dark.svg`` if `both`. Equal figures give equal bytes."""
    written = []
    for kind in formats:
        stream = io.BytesIO()
        stamp = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
        figure.savefig(stream, format=kind, metadata=stamp)
        written.append(folder / f"{stem}.{kind}")
        write_atomically(written[-1], stream.getvalue())
        if kind == "svg" and both:
            written.append(folder / f"{stem}.dark.svg")
            write_atomically(written[-1], dark_variant(stream.getvalue().decode()).encode())
    return written


def dark_variant(svg: str) -> str:
    """The same picture with a dark background."""
    for light, other in DARK.items():
        svg = svg.replace(light, other)
    return svg
