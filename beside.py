"""Files beside the code that a model or a data set is made from: their names, and hashes of what is in them.

Names are relative to the folder of the file that registers (of its whole package, if it is in one), so that they mean
the same on another machine. Many files of one kind in a folder, or a folder whose names were listed, are one entry, as
``images/*.png``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import stat
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path, PurePosixPath

from .opened import Opened
from .scan import Stamp, stamp
from .source import PACKAGE, SITES, closure, program, top_package

#: More files of one kind in a folder are one entry.
MANY = 20
#: How a name begins whose folder is not the first one: its number follows.
_FOLDER = re.compile(r"\+([1-9][0-9]?):(.+)", re.DOTALL)


def files_beside(registering: Iterable[Path], opened: Opened, leave_out: Iterable[Path] = ()) -> dict[str, str]:
    """Hashes of the files that were opened below the folders of those that register, by name.

    The program itself is left out, whose syntax trees `source.source_hash` has, and so is what was written, and what
    belongs to Python, to installed packages, whose versions count, or lies in a hidden folder.

    Args:
        registering: files with a registration.
        opened: by the process that imported and built it.
        leave_out: folders of results and of data sets.
    """
    registering = list(registering)
    roots = _roots(registering)
    outside = [*map(Path, leave_out), *map(Path, {sys.prefix, sys.base_prefix})]
    skipped = {*closure(registering), *opened.written}
    names: dict[tuple[int, str, str], list[str]] = {}
    for path in sorted({_source(path) for path in opened.read} - skipped):
        place = _place(path, roots, outside)
        if place is not None and not _is_empty_program(path):
            index, name = place
            names.setdefault((index, str(name.parent), name.suffix), []).append(name.name)
    listed = {(i, str(name)) for i, name in filter(None, (_place(p, roots, outside) for p in opened.listed))}
    found = []
    for (index, folder, suffix), own in names.items():
        together = suffix != ".py" and (len(own) > MANY or (index, folder) in listed)
        for name in [f"*{suffix}"] if together else own:
            shown = name if folder == "." else f"{folder}/{name}"
            found.append(f"+{index}:{shown}" if index else shown)
    return contents(registering, found)


def contents(registering: Iterable[Path], names: Iterable[str]) -> dict[str, str]:
    """Hashes of what is in files beside those that register now, by name; empty if there is no such file."""
    roots = _roots(registering)
    return {name: _content(roots, name) for name in sorted(names)}


def lines_of(files: Mapping[str, str]) -> str:
    """Names and hashes of files as one text, for a hash of them all; empty if there are none."""
    return "".join(f"{name}\0{content}\n" for name, content in sorted(files.items()))


def _roots(registering: Iterable[Path]) -> list[Path]:
    """The folders of the files, each once, in their order; of a file in a package, the folder of the whole package."""
    return list(dict.fromkeys(map(_root, registering)))


def _root(path: Path) -> Path:
    top = top_package(path)
    folder = top if top.is_dir() and top != PACKAGE else path.parent
    # Side by side lie other people's packages: a module there has no folder of its own.
    return path if folder.name in SITES else folder


def _source(path: Path) -> Path:
    """The program of a compiled file."""
    if path.suffix == ".pyc" and path.parent.name == "__pycache__":
        try:
            return Path(importlib.util.source_from_cache(str(path)))
        except ValueError:
            pass
    return path


def _place(path: Path, roots: list[Path], outside: list[Path]) -> tuple[int, PurePosixPath] | None:
    """The number of the folder that a path lies below, and its name there; None if it lies elsewhere."""
    for candidate in dict.fromkeys((path, Path(os.path.realpath(path)))):
        for index, root in enumerate(roots):
            if candidate.is_relative_to(root) and candidate.suffix != ".pyc":
                name = candidate.relative_to(root)
                foreign = any(candidate.is_relative_to(o) and not root.is_relative_to(o) for o in outside)
                # Hidden folders hold what tools keep for themselves: caches, settings, environments.
                foreign |= any(part.startswith(".") or part in (*SITES, "__pycache__") for part in name.parts[:-1])
                if not foreign:
                    return index, PurePosixPath(name.as_posix())
    return None


def _is_empty_program(path: Path) -> bool:
    """Whether a file of Python says nothing, as many an ``__init__.py``."""
    return path.suffix == ".py" and path.is_file() and _digest(path) == hashlib.sha256(b"Module()").hexdigest()[:16]


def _content(roots: list[Path], name: str) -> str:
    found = _FOLDER.fullmatch(name)
    index, inner = (int(found[1]), found[2]) if found else (0, name)
    place = PurePosixPath(inner)
    # Names come from records, which may be anybody's.
    if index >= len(roots) or place.is_absolute() or ".." in place.parts or "\0" in inner:
        return ""
    path = roots[index] / place
    if not place.name.startswith("*"):
        return _digest(path)
    try:
        kind = place.name[1:]
        own = sorted(entry.name for entry in os.scandir(path.parent) if Path(entry.name).suffix == kind)
    except OSError:
        return ""
    digest = hashlib.sha256()
    for each in own:
        digest.update(f"{each}\0{_digest(path.parent / each)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16] if own else ""


def _digest(path: Path) -> str:
    """Hash of a regular file, of its syntax tree where it is a program; empty if there is none that can be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return ""
        return _digest_of(path, stamp(path))
    except OSError:
        return ""


@cache
def _digest_of(path: Path, _changed: Stamp) -> str:
    if path.suffix == ".py":
        try:
            return hashlib.sha256(program(path).encode()).hexdigest()[:16]
        except (SyntaxError, ValueError):
            pass  # it is read as data
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
