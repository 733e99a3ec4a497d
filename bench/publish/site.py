"""One folder that opens from disk: a page, a script with the data of each board, figures, tables, records."""

from __future__ import annotations

import shutil
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..files import shipped, write_atomically
from ..leaderboard import Board
from ..record import board_folder
from .payload import payload, script
from .style import FAMILIES, OTHER


def environment() -> Environment:
    """What pages are made with."""
    loader = PackageLoader("equibench.bench.publish", "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined)


def write_page(out: Path, boards: list[str], board_families: dict[str, str] | None = None) -> None:
    """Write ``index.html``; the first board is shown at first.

    Args:
        board_families: names of the families of boards that have a page of their own, by its file's name.
    """
    families = {family: colour for family, (colour, _) in FAMILIES.items()} | {"": OTHER[0]}
    page = environment().get_template("index.html.j2").render(
        boards=boards,
        board_families=board_families or {},
        families=families,
        style=shipped("bench", "publish", "templates", "site.css"),
        script=shipped("bench", "publish", "templates", "site.js"),
    )
    write_atomically(out / "index.html", page.encode())


def write_board_data(
    out: Path, root: Path, board: Board, figures: list[dict[str, str]], downloads: list[str], left_out: str = ""
) -> None:
    """Write ``boards/<board>.js`` and copy the records that its rows link to; arguments as of `payload`."""
    document = payload(board, figures, downloads, left_out)
    write_atomically(out / "boards" / f"{board.name}.js", script(document).encode())
    target = board_folder(out, board.name)
    target.mkdir(parents=True, exist_ok=True)
    source = board_folder(root, board.name)
    for name in (run[3] for runs in document["runs"] for run in runs):
        if not (target / name).exists():  # a record never changes
            shutil.copyfile(source / name, target / name)


def page_weight(out: Path) -> dict[str, int]:
    """Bytes that a reader's browser loads to show each board, figures included."""
    page = (out / "index.html").stat().st_size
    weights = {}
    for data in sorted((out / "boards").glob("*.js")):
        drawn = [p for p in (out / "figures" / data.stem).glob("*.svg") if not p.name.endswith(".dark.svg")]
        weights[data.stem] = page + data.stat().st_size + sum(p.stat().st_size for p in drawn)
    return weights
