"""Numbers with nouns, names, one-line error messages and their places, commands to copy, and tables for terminals."""

from __future__ import annotations

import fnmatch
import logging
import os
import shlex
import sys
import textwrap
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...registry import PYTHON_CALL

#: Progress messages of long commands. The command line shows them on standard error; in Python this is a normal logger.
PROGRESS = logging.getLogger("equibench")


def plural(count: int, noun: str) -> str:
    """``"1 run"``, ``"2 runs"``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(names: Iterable[str], most: int = 12, between: str = ", ") -> str:
    """The first names; if there are more than `most`, the others are only counted."""
    names = list(names)
    return between.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def joined(words: Sequence[str]) -> str:
    """Words as in a sentence: ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def is_selected(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name matches one of these shell patterns; without patterns, every name is selected."""
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def duration(seconds: float) -> str:
    """``"40 s"``, ``"3 min"``, ``"2.5 h"``, ``"4 days"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


def clipped(text: str, most: int = 200) -> str:
    """`text` on one line, cut after its last whole word within `most` characters."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    head = text[: most + 1].rpartition(" ")[0] or text[:most]
    return f"{head.rstrip(' ,;:')} …"


def first_line(error: BaseException) -> str:
    """The first line of an exception's message that is not empty, with the next after a colon; else its type."""
    first, second, *_ = [*filter(None, map(str.strip, str(error).splitlines())), "", ""]
    return f"{first} {second}".strip() if first.endswith(":") else first or type(error).__name__


def error_line(error: BaseException) -> str:
    """An exception as one line, with its type: ``"KeyError: 'x'"``."""
    said = first_line(error)
    return f"{type(error).__name__}: {said if str(error).strip() else 'no message'}"


def location_of(error: BaseException, files: Iterable[Path]) -> str:
    """``" (my_net.py, line 21)"``: the innermost line of these files in the traceback; empty if there is none."""
    own = {str(path) for path in files}
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in own]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def last_line(text: str) -> str:
    """The last line of the output of a process; empty if there is no output."""
    return (text.strip().splitlines() or [""])[-1]


def error_text(value: float | None) -> str:
    """An equivariance error in the format of all tables and sentences; a dash if there is none."""
    if value is None or value != value:
        return "-"
    return f"{value:.3f}" if value >= 1e-3 else f"{value:.0e}" if value else "0"


def command(
    *words: str,
    root: Path | None = None,
    include: Iterable[str | Path] = (),
    trains: bool = False,
    data_root: str | Path | None = None,
) -> str:
    """A shell command of equibench for the current folder, with the files and folders that this process was given.

    Args:
        words: after ``equibench``.
        root: results folder; None for a command without one, or for readers on other machines.
        include: files that register what the command needs.
        trains: whether it loads data, and so has ``--data-root``.
        data_root: its value; default: that of the current command or call.
    """
    places = [word for path in include for word in ("--include", relative_path(Path(path)))]
    if root is not None and (root != Path("leaderboards").absolute() or "EQUIBENCH_RESULTS" in os.environ):
        places += ["--results", relative_path(root)]
    if trains and (data := data_root or given_option("data_root")):
        places += ["--data-root", relative_path(Path(data))]
    return shlex.join(["equibench", *words, *places])


#: Commands that load data, and so accept ``--data-root``; those without ``--results``.
_LOAD = ("run", "tune", "refresh", "replay", "equivariance", "show", "data")
_WITHOUT_RESULTS = ("list", "verify", "data")


def follow_up_command(*words: str) -> str:
    """As `command`, for a hint that continues the current command, if there is one: with its files and folders.

    For a call from Python, it is a call too if there is such a function.
    """
    files = list(map(str, given_option("includes") or ()))
    results = None if words[0] in _WITHOUT_RESULTS else given_option("results")
    data = given_option("data_root") if words[0] in _LOAD else None
    if PYTHON_CALL.get() is not None and words[0] in ("run", "list"):
        name, names = ("run", words[1:]) if words[0] == "run" else (f"list_{words[1]}", words[2:])
        given = {"includes": files, "results": results and str(results), "data_root": data and str(data)}
        if names[:1] == ("--for",):
            names, given = names[2:], {"dataset": names[1], **given}
        values = [*map(repr, names), *(f"{key}={value!r}" for key, value in given.items() if value)]
        return f"equibench.{name}({', '.join(values)})"
    places = [word for path in files for word in ("--include", path)]
    places += ["--results", str(results)] if results else []
    places += ["--data-root", str(data)] if data else []
    return shlex.join(["equibench", *words, *places])


def suite_as_given(name: str) -> str:
    """A suite as the user names it (possibly by its file), else by its own name; empty if it was given by its keys."""
    given = given_option("suite")
    if isinstance(given, str | os.PathLike):
        return str(given) if Path(given).stem == name else name
    return name if given is None else ""


def relative_path(path: Path) -> str:
    """A path relative to the current folder if it is below it."""
    here = Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)


def given_option(option: str) -> Any:
    """The value of an option of the command line, or of an argument of the call from Python; None if there is none."""
    if (call := PYTHON_CALL.get()) is not None:
        return call.get(option)
    click = sys.modules.get("click")  # from Python there is no command line
    context = click.get_current_context(silent=True) if click else None
    return context.params.get(option) if context else None


def terminal_width() -> int | None:
    """Characters of a line of the terminal that standard output is; None if it is a file or a pipe."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (AttributeError, OSError, ValueError):  # there is none, it is closed, or another object replaces it
        return None


def wrapped(text: str, width: int | None) -> str:
    """A sentence wrapped for a terminal, with later lines indented; unchanged without a width."""
    if width is None or len(text) <= width:
        return text
    lines = textwrap.wrap(text, max(width, 40), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def table_width(rows: Sequence[Mapping[str, object]]) -> int:
    """Characters of a line of a plain table with these rows."""
    # A centred text column has two more blanks.
    return sum(max(len(key) + 2, *(len(str(row[key])) for row in rows)) + 2 for key in rows[0]) - 2 if rows else 0


def plain_table(rows: Sequence[Mapping[str, object]]) -> str:
    """A table without borders; the values are shown as they are."""
    from tabulate import tabulate

    return tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True)


def fitted_table(rows: Sequence[Mapping[str, object]], first: Sequence[str], width: int | None) -> str:
    """A plain table with the columns that fit into a line of `width` characters (None: all); `first` are preferred.

    The first of `first` is always shown. The second may be narrower than usual, so that it is shown beside the first.
    """
    from tabulate import tabulate

    texts = [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]
    if width is None or table_width(texts) <= width:
        return tabulate(rows, headers="keys", tablefmt="simple")
    order = [*(c for c in first if c in texts[0]), *(c for c in texts[0] if c not in first)]
    chosen, left_out = [order[0]], list[str]()
    least = dict.fromkeys(order, _NARROWEST)
    beside = width - 2 - table_width([{order[0]: text[order[0]]} for text in texts])
    least |= {key: min(max(beside, _NARROWEST // 2), _NARROWEST) for key in order[1:2]}
    narrow = {key: min(max(len(text[key]) for text in texts), least[key]) for key in order[1:]}
    for column in order[1:]:
        cut = [{c: text[c][: narrow[c]] if c != order[0] else text[c] for c in [*chosen, column]} for text in texts]
        (chosen if table_width(cut) <= width else left_out).append(column)
    chosen.sort(key=list(texts[0]).index)
    shown = [{c: row[c] for c in chosen} for row in rows]
    room = _room(shown, {c: least[c] for c in chosen if c != order[0]}, width)
    table = tabulate(shown, headers="keys", tablefmt="simple", maxcolwidths=[room.get(c) for c in chosen])
    return f"{table}\n\ntoo wide for this terminal: {', '.join(left_out)}; --wide shows all" if left_out else table


#: The smallest width of a text that is shown in several lines.
_NARROWEST = 24


def _room(rows: Sequence[Mapping[str, object]], least: Mapping[str, int], width: int) -> dict[str, int]:
    """The width of each of these columns so that the table fits: the widest columns are reduced first, to `least`."""
    widths = {c: max(len(str(row[c])) for row in rows) for c in least}
    while rows and (over := table_width([{c: str(r[c])[: widths.get(c, 999)] for c in r} for r in rows]) - width) > 0:
        wide = [c for c in widths if widths[c] > least[c]]
        if not wide:
            break
        widest = max(wide, key=lambda c: widths[c])
        widths[widest] = max(widths[widest] - over, least[widest])
    return {c: w for c, w in widths.items() if w < max(len(str(row[c])) for row in rows)}
