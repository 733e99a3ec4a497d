"""Which files this process opens while a model or a data set is imported and made: what it reads decides what comes
out.

Python tells of every file that it opens itself (`sys.addaudithook`); what compiled libraries open by themselves (HDF5,
OpenCV) is not seen.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Opened:
    """Absolute paths of what was opened.

    Attributes:
        read: files, there or not: a model that looks for a file in vain is another one when it finds it.
        written: files that were written, whether they were read as well or not.
        listed: folders whose names were listed.
    """

    read: set[Path] = field(default_factory=set)
    written: set[Path] = field(default_factory=set)
    listed: set[Path] = field(default_factory=set)

    def __or__(self, other: Opened) -> Opened:
        return Opened(self.read | other.read, self.written | other.written, self.listed | other.listed)


#: What was opened so far, by what was being made; it holds for the life of the process, as modules do.
_seen: dict[str, Opened] = {}
#: Those that are watched now; an inner one takes nothing from an outer one.
_now: list[Opened] = []
_LISTINGS = ("os.listdir", "os.scandir")
_SEARCHES = ("<frozen importlib", str(Path(importlib.__file__).parent), pkgutil.__file__)
_state = {"hooked": False}


def opened_by(*keys: str) -> Opened:
    """All that was opened while these were watched."""
    found = Opened()
    for key in keys:
        found |= _seen.get(key, Opened())
    return found


@contextmanager
def watching(key: str) -> Iterator[None]:
    """Add what is opened inside to what `key` opened before."""
    if not _state["hooked"]:  # a hook stays for ever
        sys.addaudithook(_hook)
        _state["hooked"] = True
    found = _seen.setdefault(key, Opened())
    _now.append(found)
    try:
        yield
    finally:
        # By identity: two that are empty are equal.
        del _now[max(i for i, other in enumerate(_now) if other is found)]


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _now or (event != "open" and event not in _LISTINGS):
        return
    if event in _LISTINGS and sys._getframe(1).f_code.co_filename.startswith(_SEARCHES):
        return  # an import looks for its module, or for what is installed
    try:
        path = Path(os.path.abspath(os.fsdecode(arguments[0] if arguments[0] is not None else ".")))
    except (TypeError, ValueError):  # an open file's number, and names that are none
        return
    for found in _now:
        if event in _LISTINGS:
            found.listed.add(path)
        elif arguments[2] & (os.O_WRONLY | os.O_RDWR):
            found.written.add(path)
        else:
            found.read.add(path)
