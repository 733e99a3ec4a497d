"""A static site in one folder, also for reading from disk: a page, a script with the data of each board, figures,
tables, records.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..boards.across import Side
from ..boards.board import Board
from ..boards.rows import run_rows
from ..records.store import board_folder
from ..tools.files import shipped, write_atomically
from .across import groups_document
from .payload import payload, run_schema, run_table, script
from .plots.style import DARK, FAMILIES, OTHER
from .repeat_commands import suite_file, suites_of


def write_page(
    out: Path, boards: list[str], board_families: dict[str, str] | None = None, across: bool = False
) -> None:
    """Write ``index.html``; it shows the first board by default.

    Args:
        board_families: names of the families of boards with a separate page, by the page's file name.
        across: whether there is a page over several boards, for a link.
    """
    colours = {family: colour for family, (colour, _) in FAMILIES.items()} | {"": OTHER}
    families = {family: (colour, DARK.get(colour, colour)) for family, colour in colours.items()}
    scripts = ("page.js", "points.js", "view.js", "site.js")
    content = {"boards": boards, "families": families, "board_families": board_families or {}, "across": across}
    write_from_template(out / "index.html", "index.html.j2", scripts, **content)


def write_across_page(out: Path, sides: Iterable[Side]) -> bool:
    """Write ``across.html`` with a table for each group of boards, if there are groups; whether it was written."""
    found = groups_document(sides)
    if found:
        write_from_template(out / "across.html", "across.html.j2", groups=found)
    else:
        (out / "across.html").unlink(missing_ok=True)
    return bool(found)


def write_from_template(path: Path, template: str, scripts: tuple[str, ...] = ("page.js",), **content: Any) -> None:
    """Write a page that contains its style and scripts."""
    loader = PackageLoader("equibench.bench.publish", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    style, *parts = (shipped("bench", "publish", "templates", name) for name in ("site.css", *scripts))
    page = environment.get_template(template).render(**content, style=style, script="".join(parts))
    write_atomically(path, page.encode())


def write_board_data(
    out: Path, root: Path, board: Board, figures: list[dict[str, Any]], downloads: list[str], left_out: str = ""
) -> None:
    """Write the data of a board, and copy the records to which its rows link. The arguments are those of `payload`.

    The files are ``boards/<board>.js``; ``boards/<board>.runs.js``, which the page loads on demand for all runs; the
    schema of the runs; and the suites that repeat the runs.
    """
    name, runs = board.name, run_rows(board)
    schema = json.dumps(run_schema(name, runs), indent=1, ensure_ascii=False)
    files = {f"tables/{name}.runs.schema.json": f"{schema}\n"}
    files |= {f"suites/{stem}.toml": suite_file(suite) for stem, suite in suites_of(board).items()}
    document = payload(board, figures, [*downloads, *files], left_out)
    files[f"boards/{name}.js"] = script(document)
    files[f"boards/{name}.runs.js"] = script(run_table(board, runs), "equibenchRuns")
    for path, text in files.items():
        write_atomically(out / path, text.encode())
    target = board_folder(out, board.name)
    target.mkdir(parents=True, exist_ok=True)
    source = board_folder(root, board.name)
    for name in (run[3] for runs in document["runs"] for run in runs):
        if not (target / name).exists():  # a record never changes
            shutil.copyfile(source / name, target / name)


def page_weight(out: Path) -> dict[str, int]:
    """Number of bytes that a browser loads to show each board, including figures."""
    page = (out / "index.html").stat().st_size
    weights = {}
    for data in sorted(p for p in (out / "boards").glob("*.js") if not p.name.endswith(".runs.js")):
        drawn = [p for p in (out / "figures" / data.stem).glob("*.svg") if not p.name.endswith(".dark.svg")]
        weights[data.stem] = page + data.stat().st_size + sum(p.stat().st_size for p in drawn)
    return weights
