"""Watches which files this process opens while a model or a data set is imported and built.

The content of these files can change the result. Python reports every file that it opens itself (`sys.addaudithook`).
Files that compiled libraries open (HDF5, OpenCV) are not seen.
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
    """Absolute paths of files and folders that were opened.

    Attributes:
        read: files that were read. Missing files count too: a model may be built differently once the file exists.
        written: files that were written; they may have been read as well.
        listed: folders whose names were listed.
    """

    read: set[Path] = field(default_factory=set)
    written: set[Path] = field(default_factory=set)
    listed: set[Path] = field(default_factory=set)

    def __or__(self, other: Opened) -> Opened:
        return Opened(self.read | other.read, self.written | other.written, self.listed | other.listed)


#: What was opened so far, by the key of `watching`. It is kept until the process ends, like imported modules.
_opened_by_key: dict[str, Opened] = {}
#: The open `watching` blocks. A file that is opened in an inner block counts for the outer blocks too.
_active: list[Opened] = []
_LISTINGS = ("os.listdir", "os.scandir")
_SEARCHES = ("<frozen importlib", str(Path(importlib.__file__).parent), pkgutil.__file__)
_state = {"hooked": False}


def opened_by(*keys: str) -> Opened:
    """All that was opened while one of these keys was watched."""
    found = Opened()
    for key in keys:
        found |= _opened_by_key.get(key, Opened())
    return found


@contextmanager
def watching(key: str) -> Iterator[None]:
    """Record what is opened inside the block under `key`, in addition to earlier blocks of this key."""
    if not _state["hooked"]:  # Python cannot remove such a hook
        sys.addaudithook(_hook)
        _state["hooked"] = True
    found = _opened_by_key.setdefault(key, Opened())
    _active.append(found)
    try:
        yield
    finally:
        # Compare by identity, because two empty objects are equal.
        del _active[max(i for i, other in enumerate(_active) if other is found)]


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _active or (event != "open" and event not in _LISTINGS):
        return
    if event in _LISTINGS and sys._getframe(1).f_code.co_filename.startswith(_SEARCHES):
        return  # an import searches for a module or for installed packages
    try:
        path = Path(os.path.abspath(os.fsdecode(arguments[0] if arguments[0] is not None else ".")))
    except (TypeError, ValueError):  # the number of an open file, or an invalid name
        return
    for found in _active:
        if event in _LISTINGS:
            found.listed.add(path)
        elif arguments[2] & (os.O_WRONLY | os.O_RDWR):
            found.written.add(path)
        else:
            found.read.add(path)
