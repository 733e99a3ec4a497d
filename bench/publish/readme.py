"""Boards in a README, refreshed between markers; the rest of the file does not change.

    <!-- equibench: digits-rot-e20-common -->
    (the table is here)
    <!-- /equibench -->

Options may follow the name of the board:

* ``columns=model,parameters,test acc %``: columns of the usual table, instead of the narrow table;
* ``suite=digits-pdo``: only the rows of this suite;
* ``reference_parameters=25700``: the reference count for the classes;
* ``plot=accuracy-flops``: a picture above the table, one of `figures.PLOTS`; several are separated by commas;
* ``reported``: values from papers for the data set, in a separate table below.

``family=mnist-rot-gen-data`` instead of a board means the table of a family of boards; its option ``plot`` is one of
`SPENT`, such as ``plot=images``. The pictures are in ``<results>/figures/``; keep this folder with the file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath
from urllib.parse import quote

from ...registry import UserError, nearest
from ..boards.board import Board, find_board, load_board
from ..boards.families import BoardFamily, find_points, load_family
from ..boards.family_table import SPENT, family_text, file_name, heading, notes
from ..boards.notes import board_heading, board_notes
from ..boards.reported import reported_table
from ..boards.terminal_table import narrow_rows, table_rows
from ..records.record import RefusedFile
from ..records.store import FIGURES
from ..spec.suite import find_suite
from ..tools.files import write_atomically
from ..tools.markup import markdown_text
from .plots.family_plots import draw
from .plots.figures import PLOTS, PlotData
from .plots.style import house_style, save
from .publish import no_table_reason
from .tables import ACCURACY, markdown_table, sentences

_OPEN = re.compile(r"^[ \t]*<!-- equibench: (?P<board>\S+)(?P<options>[^\r\n]*?) -->[ \t]*\r?$", re.MULTILINE)
_CLOSE = re.compile(r"^[ \t]*<!-- /equibench -->[ \t]*\r?$", re.MULTILINE)
_OPTION = re.compile(r"(?:^|\s+)(\w+)(?:=((?:(?!\s+\w+=|\s+reported\b).)*))?")
OPTIONS = ("columns", "plot", "reported", "reference_parameters", "suite")
_PLOT = {plot.stem: plot for plot in PLOTS}


def refresh(
    path: Path, root: Path, refused: list[RefusedFile] | None = None, reference_parameters: int | None = None
) -> list[str]:
    """Refresh all boards of a file and its pictures; returns the names of the boards.

    Args:
        root: results folder.
        refused: this list gets the refused files among the records.
        reference_parameters: as for `board.load_board`, for markers without this option.

    Raises:
        UserError: the file cannot be read, has no markers or unmatched markers, or names something that does not
            exist. The file is then unchanged.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--readme {path}: it cannot be read ({error})") from error
    parts, boards, end = [], [], 0
    pictures: list[tuple[Board, str]] = []
    newline = "\r\n" if "\r\n" in text else "\n"
    for opening in _OPEN.finditer(text):
        where, name = f"{path}, line {text.count(chr(10), 0, opening.start()) + 1}", opening["board"]
        closing = _CLOSE.search(text, opening.end())
        following = _OPEN.search(text, opening.end())
        if opening.start() < end or closing is None or (following and following.start() < closing.start()):
            raise UserError(f"{where}: this marker is not followed by <!-- /equibench -->")
        options = _options(opening["options"], where)
        if name.startswith("family="):
            family = _family(name.removeprefix("family="), root, where)
            block = _family_block(family, options, root, path, where)
            boards += [board.name for board in family.boards]
        else:
            board = _board(name, root, where, options, reference_parameters, refused)
            pictures += [(board, stem) for stem in options.get("plot", ())]
            block = _block(board, options, root, path, where)
            boards.append(name)
        parts += [text[end : opening.end()], "\n", block.replace("\n", newline), newline]
        end = closing.start()
    if not boards:
        raise UserError(f"{path} has no marker; put <!-- equibench: BOARD --> and <!-- /equibench --> around a table")
    for board, stem in pictures:
        _draw(board, stem, root, str(path))
    fresh = "".join([*parts, text[end:]])
    if fresh != text:
        write_atomically(path, fresh.encode())
    return boards


def _count(options: dict[str, tuple[str, ...]], where: str) -> int | None:
    values = options.get("reference_parameters", ())
    if any(not v.isdecimal() or not int(v) for v in values) or len(values) > 1:
        wanted = "one number, such as reference_parameters=25700"
        raise UserError(f"{where}: the option reference_parameters needs {wanted}")
    return int(values[0]) if values else None


def _board(
    name: str,
    root: Path,
    where: str,
    options: dict[str, tuple[str, ...]],
    reference_parameters: int | None,
    refused: list[RefusedFile] | None,
) -> Board:
    """The board of a marker, with only the rows of the suite in its options."""
    count = _count(options, where) or reference_parameters
    board = load_board(root, find_board(name, root), count)
    if not board.chosen or not board.is_table:
        raise UserError(f"{where}: {no_table_reason(name, board.refused)}")
    if refused is not None:
        refused += board.refused
    if "suite" not in options:
        return board
    if len(options["suite"]) != 1:
        raise UserError(f"{where}: the option suite needs the name of one suite, such as suite=digits-pdo")
    (suite,) = options["suite"]
    narrowed = board.of_suite(find_suite(suite))
    if not narrowed.is_table:
        raise UserError(f"{where}: suite {suite!r} has no rows on the board {board.name}")
    return narrowed


def _options(text: str, where: str) -> dict[str, tuple[str, ...]]:
    """The options of a marker, each with its values."""
    found: dict[str, tuple[str, ...]] = {}
    for name, values in _OPTION.findall(text):
        if name not in OPTIONS:
            raise UserError(f"{where}: a marker has no option {name!r}; {nearest(name, OPTIONS)}")
        found[name] = tuple(v.strip() for v in values.split(",") if v.strip())
        known = [*SPENT, *_PLOT]
        for value in found[name] if name == "plot" else ():
            if value not in known:
                raise UserError(f"{where}: there is no plot {value!r}; {nearest(value, known)}")
    return found


def _block(board: Board, options: dict[str, tuple[str, ...]], root: Path, readme: Path, where: str) -> str:
    wanted = options.get("columns", ())
    for column in wanted:
        if column not in (known := list(table_rows(board, board.frame)[0])):
            raise UserError(f"{where}: the table has no column {column!r}; {nearest(column, known)}")
    rows = table_rows(board, board.frame, wanted) if wanted else narrow_rows(board, board.frame)
    is_bold = "model" in rows[0] or ACCURACY in rows[0]
    notes = board_notes(board, board.frame, bold=is_bold, columns=list(rows[0]), brief=True, after=not wanted)
    images = [
        _link(f"{_PLOT[stem].title}, {markdown_text(board.name)}", _picture(board, stem, root), readme)
        for stem in options.get("plot", ())
    ]
    parts = [markdown_text(board_heading(board)), *images, markdown_table(board, rows)]
    parts.append(markdown_text(sentences(board, notes)))
    if "reported" in options:
        parts.append(reported_table(board.chosen[0][0].spec.dataset, "github"))
    return "\n\n".join(filter(None, parts))


def _family(name: str, root: Path, where: str) -> BoardFamily:
    try:
        return load_family(root, find_points(name), load_board)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _family_block(
    family: BoardFamily, options: dict[str, tuple[str, ...]], root: Path, readme: Path, where: str
) -> str:
    """Heading, pictures, table and notes of a family; this also draws the pictures."""
    wrong = [*(o for o in options if o != "plot"), *(p for p in options.get("plot", ()) if p not in SPENT)]
    if wrong:
        raise UserError(f"{where}: a family of boards accepts only plot={','.join(SPENT)}, not {wrong[0]!r}")
    table = family_text(family, "github").split("\n\n")[-2]
    images = []
    for what in options.get("plot", ()):
        with house_style():
            figure = draw(family, what)
            if figure is None:
                same = f"{SPENT[what]} are equal at all points of {family.name}"
                raise UserError(f"{where}: {same}, so there is nothing to draw")
            path = root / FIGURES / f"{file_name(family)}-{what}.svg"
            save(figure, path.parent, path.stem, ("svg",), both=False)
        images.append(_link(f"Error against {SPENT[what]}, {family.name}", path, readme))
    said = ". ".join(note[:1].upper() + note[1:] for note in notes(family, "bold"))
    return "\n\n".join([markdown_text(heading(family)), *images, table, markdown_text(f"{said}.")])


def _picture(board: Board, stem: str, root: Path) -> Path:
    return root / FIGURES / f"{'-'.join(filter(None, (board.name, board.suite, stem)))}.svg"


def _link(title: str, picture: Path, readme: Path) -> str:
    path = PurePath(os.path.relpath(picture, readme.absolute().parent)).as_posix()
    return f"![{title}]({quote(path)})"


def _draw(board: Board, stem: str, root: Path, where: str) -> None:
    plot = _PLOT[stem]
    with house_style():
        figure = plot.draw(PlotData(board))
        if figure is None:
            nothing = f"there is nothing to draw in the plot {stem!r} of {board.name}"
            raise UserError(f"{where}: {nothing}; it needs {plot.needs}")
        path = _picture(board, stem, root)
        save(figure, path.parent, path.stem, ("svg",), both=False)
