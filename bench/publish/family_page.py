"""Publishes a family of boards: tables, plots, and a separate page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..boards.families import BoardFamily
from ..boards.family_table import (
    SPENT,
    family_csv,
    file_name,
    heading,
    latex_page,
    markdown_page,
    notes,
    rows_of,
    slope_rows,
)  # fmt: skip
from ..boards.rows import csv_text
from ..tools.files import write_atomically
from .bibtex import board_entry
from .plots.family_plots import draw
from .plots.handles import for_page
from .plots.style import FORMATS as PICTURES
from .plots.style import house_style, save
from .repeat_commands import commands, family_file

#: Prefix of a cell that the page shows in bold.
_MARK = "\0"


def publish_family(out: Path, family: BoardFamily, formats: Sequence[str]) -> str:
    """Write the files of a family below `out`; existing files with the same names are replaced.

    Args:
        formats: some of `publish.FORMATS`.

    Returns:
        The prefix of the names of its files.
    """
    name, html, downloads = file_name(family), "html" in formats, []
    texts = {
        ".md": markdown_page,
        ".tex": latex_page,
        ".csv": family_csv,
        ".slopes.csv": lambda f: csv_text(slope_rows(f)),
    }
    wanted = {".md": "md" in formats, ".tex": "latex" in formats, ".csv": False, ".slopes.csv": False}
    for ending, make in texts.items():
        if html or wanted[ending]:
            path = f"tables/{name}{ending}"
            write_atomically(out / path, make(family).encode())
            downloads.append(path)
    figures, same = [], []
    if html or "plots" in formats:
        with house_style():
            for what, title in SPENT.items():
                figure = draw(family, what)
                if figure is None:
                    same.append(title)
                    continue
                kinds = PICTURES if "plots" in formats else PICTURES[:1]
                save(figure, out / "figures" / name, f"error-{what}", kinds)
                figures.append(
                    {"title": f"Error against {title}", "base": f"figures/{name}/error-{what}", **for_page(figure)}
                )
    if html:
        downloads.append(f"suites/{name}.toml")
        write_atomically(out / downloads[-1], family_file(family).encode())
        _write_page(out, name, family, figures, same, downloads)
    return name


def _write_page(
    out: Path, name: str, family: BoardFamily, figures: list[dict[str, Any]], same: list[str], downloads: list[str]
) -> None:
    from .site import write_from_template

    write_from_template(
        out / f"{name}.html",
        "family.html.j2",
        ("page.js", "points.js"),
        name=family.name,
        title=family.title,
        heading=heading(family),
        rows=rows_of(family, lambda text: _MARK + text),
        mark=_MARK,
        notes=notes(family, "bold"),
        figures=figures,
        left_out=f"Left out, because it is equal at all points: error against {' and '.join(same)}." if same else "",
        downloads=downloads,
        suite=downloads[-1],
        commands=commands([name], family.points[0].suite.recipe),
        cite="\n\n".join(board_entry(p.board) for p in family.measured if p.board is not None),
    )
