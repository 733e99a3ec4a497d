"""Publishes boards: writes all tables, plots and pages into one folder."""

from __future__ import annotations

import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from ...registry import UserError, nearest
from ..boards.across import Side, side_of
from ..boards.board import Board, find_board, load_board, no_boards_reason
from ..boards.families import BoardFamily, find_points, load_family
from ..boards.rows import write_board, write_tables
from ..records.record import RefusedFile, read_board, without_garbage_collection
from ..records.store import board_names
from ..spec.suite import suite_names
from ..tools.files import ensure_writable, write_atomically
from ..tools.schema import visible
from ..tools.text import PROGRESS, is_selected, joined
from .bibtex import bibliography, sources_of_row
from .tables import latex_page, markdown_page
from .view import without_models

FORMATS = ("html", "md", "latex", "plots")


def publish(
    root: Path,
    out: Path,
    boards: Sequence[str] = (),
    formats: Sequence[str] = FORMATS,
    jobs: int | None = None,
    refused: list[RefusedFile] | None = None,
    reference_parameters: int | None = None,
    suites: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> list[str]:
    """Publish boards into a folder; existing files with the same names are replaced.

    Args:
        root: results folder.
        boards: their names; if empty, the boards of `suites`, or all boards with a table.
        formats: some of `FORMATS`; ``html`` without ``plots`` draws the plots only as SVG, ``plots`` in all of
            `style.FORMATS`.
        jobs: number of boards at a time, each in its own process; None means the number of cores, at most four.
        refused: this list gets the refused files of all boards.
        reference_parameters: as for `board.load_board`.
        suites: suites whose boards are published together; each family of boards has its own table, plots and page. If
            both `suites` and `boards` are empty, all shipped families with at least two measured boards.
        exclude: shell patterns of models that are left out, also from comparisons.

    Returns:
        Names of the published boards.

    Raises:
        UserError: a board, a format or a model to be left out does not exist, nothing can be published, or `out` cannot
            be written.
    """
    for each in formats:
        if each not in FORMATS:
            raise UserError(f"--format {each!r}: {nearest(each, FORMATS)}")
    families = _families(root, suites, exclude, shipped=not boards and not suites)
    names = [find_board(b, root) for b in boards] if boards else [] if suites else board_names(root)
    names += [b.name for f in families if suites for b in f.boards if b.name not in names]
    if not names:
        raise UserError(no_boards_reason(root))
    if exclude:  # nothing is written before all patterns are checked
        whole = [Board(name, [(record, "") for record in read_board(root, name)[0]]) for name in names]
        names = [board.name for board in without_models(whole, exclude)]
    ensure_writable(out, "out")
    publish_board = partial(_publish_board, root, out, formats, reference_parameters, exclude)
    jobs = min(jobs or min(os.cpu_count() or 1, 4), len(names))
    if jobs > 1 and "fork" in multiprocessing.get_all_start_methods():
        # Forked, so that the processes know files given with --include, and need not import slow libraries again.
        import pandas  # noqa: F401

        if "html" in formats or "plots" in formats:
            import matplotlib.figure  # noqa: F401

        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
            shown = list(pool.map(publish_board, names))
    else:
        shown = list(map(publish_board, names))
    done = {name: sources for name, (sources, _, _) in zip(names, shown, strict=True) if sources is not None}
    bad = [r for _, own, _ in shown for r in own]
    if not done:
        raise UserError(no_table_reason(", ".join(names), bad))
    if refused is not None:
        refused += bad
    if "latex" in formats or "html" in formats:
        sources = (s for own in done.values() for s in own)
        write_atomically(out / "tables" / "models.bib", bibliography(sources).encode())
    pages = {}
    for family in (f for f in families if len(f.points) > 1):
        from .family_page import publish_family

        PROGRESS.info("%s, all boards of this suite …", family.name)
        pages[f"{publish_family(out, family, formats)}.html"] = family.name
    if "html" in formats:
        from .site import write_across_page, write_page

        across = write_across_page(out, [side for _, _, side in shown if side is not None])
        write_page(out, list(done), pages, across)
    return list(done)


def _families(root: Path, suites: Sequence[str], exclude: Sequence[str], shipped: bool) -> list[BoardFamily]:
    """The families of boards of some suites, else the shipped families with at least two measured boards."""
    there, found = set(board_names(root)), []

    def load(root: Path, board: str) -> Board:
        return load_board(root, board).without(exclude)

    for name in suites or (suite_names() if shipped else ()):
        points = find_points(name)
        if suites or (len(points) > 1 and sum(p.board() in there for p in points) > 1):
            measured = [p.board() for p in points if p.board() in there]
            if exclude and measured and not any(load(root, board).chosen for board in measured):
                if suites:
                    raise UserError(f"--exclude leaves no model of suite {name!r}; give other patterns")
                continue
            found.append(load_family(root, points, load))
            found[-1].models = [m for m in found[-1].models if not exclude or not is_selected(m, exclude)]
    return found


def no_table_reason(what: str, refused: Sequence[RefusedFile]) -> str:
    """The reason why some boards have no table."""
    if not refused:
        return f"{what}: there are no runs for a table (smoke runs and trials are not shown)"
    others = f"; {len(refused):,} files were refused, this is the first" if len(refused) > 1 else ""
    return f"{what}: no record can be read: {visible(refused[0].reason)}{others}"


@without_garbage_collection()
def _publish_board(
    root: Path, out: Path, formats: Sequence[str], reference_parameters: int | None, exclude: Sequence[str], name: str
) -> tuple[list[str] | None, list[RefusedFile], Side | None]:
    """Publish one board.

    Returns:
        The sources of its models, or None if it has no table; refused files; its data for a summary over boards.
    """
    PROGRESS.info("%s …", name)
    stored = write_board(root, name).without(exclude)
    if not stored.chosen or not stored.is_table:
        return None, stored.refused, None
    board = replace(stored, asked_parameters=reference_parameters) if reference_parameters else stored
    html, downloads = "html" in formats, []
    pages: dict[str, tuple[str, Callable[[Board], str]]] = {"md": ("md", markdown_page), "latex": ("tex", latex_page)}
    for kind, (ending, page) in pages.items():
        if html or kind in formats:
            downloads.append(f"tables/{name}.{ending}")
            write_atomically(out / downloads[-1], page(board).encode())
    figures, missing = [], defaultdict[str, list[str]](list)
    if html or "plots" in formats:
        # Pages without pictures need no matplotlib.
        from .plots.figures import PLOTS, PlotData
        from .plots.handles import for_page
        from .plots.style import FORMATS as PICTURES
        from .plots.style import house_style, save

        kinds = PICTURES if "plots" in formats else PICTURES[:1]
        with house_style():
            drawn = PlotData(board)
            for plot in PLOTS:
                figure = plot.draw(drawn)
                if figure is not None:
                    save(figure, out / "figures" / name, plot.stem, kinds)
                    about = {"stem": plot.stem, "title": plot.title, "kinds": " ".join(kinds)}
                    figures.append(about | for_page(figure) if html else about)
                else:
                    missing[plot.needs].append(plot.title[0].lower() + plot.title[1:])
    if html:
        from .site import write_board_data

        downloads += [f"tables/{path.name}" for path in write_tables(out / "tables", stored)]
        left_out = " ".join(f"Left out: {joined(titles)}. Needed: {needs}." for needs, titles in missing.items())
        write_board_data(out, root, board, figures, [*downloads, "tables/models.bib"], left_out)
    sources = [s for row in board.rows_of(board.frame) for s in sources_of_row(row)]
    return sources, board.refused, side_of(board) if html else None
