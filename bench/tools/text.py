"""Words beside numbers, the lines that say what went wrong, and commands that a reader can paste."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path


def some(count: int, noun: str) -> str:
    """``"1 run"``, ``"2 runs"``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


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
    """The first line of an exception's message that says something; its type where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def raised(error: BaseException) -> str:
    """An exception as one line, with its type: ``"KeyError: 'x'"``."""
    said = first_line(error)
    return f"{type(error).__name__}: {said if str(error).strip() else 'no message'}"


def last_line(text: str) -> str:
    """The last line of what a process wrote; empty where it wrote nothing."""
    return (text.strip().splitlines() or [""])[-1]


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
