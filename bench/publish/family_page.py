"""Publishes a family of boards: tables, plots, and a separate page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..boards.families import BoardFamily
from ..boards.family_table import SPENT, family_csv, family_text, file_name, heading, notes, rows_of, slope_rows
from ..boards.rows import csv_text
from ..tools.files import write_atomically
from ..tools.markup import latex, markdown_text
from .bibtex import board_entry
from .repeat_commands import commands, family_file
from .tables import latex_table

#: Prefix of a bold cell.
_MARK = "\0"


def publish_family(out: Path, family: BoardFamily, formats: Sequence[str]) -> str:
    """Write the files of a family below `out`, in some of `publish.FORMATS`; files with the same names are replaced.
    Returns the prefix of the names.
    """
    name, html, downloads = file_name(family), "html" in formats, []
    texts = {
        ".md": ("md", markdown_page),
        ".tex": ("latex", latex_page),
        ".csv": ("html", family_csv),
        ".slopes.csv": ("html", lambda f: csv_text(slope_rows(f))),
    }
    for ending, (kind, make) in texts.items():
        if html or kind in formats:
            downloads.append(f"tables/{name}{ending}")
            write_atomically(out / downloads[-1], make(family).encode())
    figures, same = [], []
    if html or "plots" in formats:
        from .plots.family_plots import draw
        from .plots.handles import for_page
        from .plots.style import FORMATS as PICTURES
        from .plots.style import house_style, save

        kinds = PICTURES if "plots" in formats else PICTURES[:1]
        with house_style():
            for what, title in SPENT.items():
                figure = draw(family, what)
                if figure is None:
                    same.append(title)
                    continue
                base = f"figures/{name}/error-{what}"
                save(figure, out / "figures" / name, f"error-{what}", kinds)
                figures.append({"title": f"Error against {title}", "base": base, **for_page(figure)})
    if html:
        from .site import write_from_template

        suite = f"suites/{name}.toml"
        write_atomically(out / suite, family_file(family).encode())
        left_out = f"Left out, because it is equal at all points: error against {' and '.join(same)}."
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
            left_out=left_out if same else "",
            downloads=[*downloads, suite],
            suite=suite,
            commands=commands([name], family.points[0].suite.recipe),
            cite="\n\n".join(map(board_entry, family.boards)),
        )
    return name


def markdown_page(family: BoardFamily) -> str:
    """The family as one Markdown page."""
    return f"## {markdown_text(family.name)}\n\n{family_text(family, 'github')}\n"


def latex_page(family: BoardFamily) -> str:
    r"""The family as a LaTeX table (booktabs) for ``\input``."""
    rows, lines = rows_of(family, lambda text: _MARK + text), []
    for row in rows:
        cells = [rf"\textbf{{{latex(c[1:])}}}" if c.startswith(_MARK) else latex(c) for c in row.values()]
        lines.append(" & ".join(cells) + r" \\")
    heads = [latex(key) for key in rows[0]]
    said = [heading(family), *(text[:1].upper() + text[1:] for text in notes(family, "bold"))]
    return latex_table(file_name(family), "l" + "r" * (len(heads) - 1), heads, lines, ". ".join(said) + ".")
