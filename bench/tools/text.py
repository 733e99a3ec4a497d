"""Words beside numbers, and commands that a reader can paste."""

from __future__ import annotations

import os
import shlex
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def some(count: int, noun: str) -> str:
    """``"1 run"``, ``"2 runs"``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def error_text(value: float | None) -> str:
    """An equivariance error as every table and sentence writes it; a dash where there is none."""
    if value is None or value != value:
        return "-"
    return f"{value:.3f}" if value >= 1e-3 else f"{value:.0e}"


def command(*words: str, root: Path | None = None, include: Iterable[str | Path] = (), trains: bool = False) -> str:
    """A command of equibench as a shell takes it, from the current folder, with the places that this process was given.

    Args:
        words: after ``equibench``.
        root: results folder; None for a command that has none, or for readers on other machines.
        include: files that register what the command needs.
        trains: whether it loads data, and so has ``--data-root``.
    """
    places = [word for path in include for word in ("--include", short(Path(path)))]
    if root is not None and (root != Path("leaderboards").absolute() or "EQUIBENCH_RESULTS" in os.environ):
        places += ["--results", short(root)]
    if trains and (data := _given("data_root")):
        places += ["--data-root", short(Path(data))]
    return shlex.join(["equibench", *words, *places])


def short(path: Path) -> str:
    """A path as seen from the current folder where it lies below it."""
    here = Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)


def _given(option: str) -> str | None:
    """The value of an option of the command line that this process does, if it does one."""
    click = sys.modules.get("click")  # from Python there is no command line
    context = click.get_current_context(silent=True) if click else None
    return context.params.get(option) if context else None


def terminal_width() -> int | None:
    """Characters of a line of the terminal that standard output is; None where it is a file or a pipe."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):  # none, or something that stands for standard output
        return None


def wrapped(text: str, width: int | None) -> str:
    """A sentence in lines of a terminal, those after the first indented; as it is without a width."""
    if width is None or len(text) <= width:
        return text
    lines = textwrap.wrap(text, max(width, 40), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def table_width(rows: Sequence[Mapping[str, object]]) -> int:
    """Characters of a line of a plain table with these rows."""
    # A column of text that is centred under its heading has two blanks more.
    return sum(max(len(key) + 2, *(len(str(row[key])) for row in rows)) + 2 for key in rows[0]) - 2 if rows else 0


def not_shown(headings: Iterable[str]) -> str:
    """The sentence on columns that a terminal has no room for."""
    return f"too wide for this terminal: {', '.join(headings)}; --wide shows all columns"
