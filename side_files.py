"""Side files: the files beside the code that a model or a data set reads. This module gives their names and hashes.

Names are relative to the folder of the registering file, or to its whole package if it is in one. So they mean the same
on every machine. Many files of one kind in a folder become one entry, such as ``images/*.png``. The files of a folder
whose names were listed also become one entry.
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

from .opened_files import Opened
from .scan import Stamp, stamp
from .source import PACKAGE, SITE_FOLDERS, closure, program, top_package

#: If a folder has more files of one kind than this, they are one entry.
MANY_FILES = 20
#: A name below another folder than the first: the number of the folder, then the name.
_FOLDER = re.compile(r"\+([1-9][0-9]?):(.+)", re.DOTALL)


def files_beside(registering: Iterable[Path], opened: Opened, leave_out: Iterable[Path] = ()) -> dict[str, str]:
    """Hashes of the files that were opened below the folders of the registering files, by name.

    These files are left out: the code itself, because `source.source_hash` includes its syntax trees; files that were
    written; files of Python and of installed packages, because their versions count; files in hidden folders.

    Args:
        registering: files with a registration.
        opened: what the process opened that imported and built the model or data set.
        leave_out: folders of results and of data sets.
    """
    registering = list(registering)
    roots = _roots(registering)
    outside = [*map(Path, leave_out), *map(Path, {sys.prefix, sys.base_prefix})]
    # By their real paths: Python opens code by other paths if links lead to it, and a closure has real ones.
    skipped = set(map(os.path.realpath, (*closure(registering), *opened.written)))
    names: dict[tuple[int, str, str], list[str]] = {}
    for path in sorted(p for p in {_source(path) for path in opened.read} if os.path.realpath(p) not in skipped):
        place = _location(path, roots, outside)
        if place is not None and not _is_empty_program(path):
            index, name = place
            names.setdefault((index, str(name.parent), name.suffix), []).append(name.name)
    listed = {(i, str(name)) for i, name in filter(None, (_location(p, roots, outside) for p in opened.listed))}
    found = []
    for (index, folder, suffix), own in names.items():
        together = suffix != ".py" and (len(own) > MANY_FILES or (index, folder) in listed)
        for name in [f"*{suffix}"] if together else own:
            shown = name if folder == "." else f"{folder}/{name}"
            found.append(f"+{index}:{shown}" if index else shown)
    return contents(registering, found)


def contents(registering: Iterable[Path], names: Iterable[str]) -> dict[str, str]:
    """Current hashes of side files, by name; the hash is empty if there is no such file."""
    roots = _roots(registering)
    return {name: _content(roots, name) for name in sorted(names)}


def lines_of(files: Mapping[str, str]) -> str:
    """Names and hashes of files as one text, for a hash of all of them; empty if there are none."""
    return "".join(f"{name}\0{content}\n" for name, content in sorted(files.items()))


def _roots(registering: Iterable[Path]) -> list[Path]:
    """The folders of the files, each once, in their order; for a file in a package, the folder of the whole package."""
    return list(dict.fromkeys(map(_root, registering)))


def _root(path: Path) -> Path:
    top = top_package(path)
    folder = top if top.is_dir() and top != PACKAGE else path.parent
    # Among installed packages, a single module has no folder of its own: its neighbours belong to others.
    return path if folder.name in SITE_FOLDERS else folder


def _source(path: Path) -> Path:
    """The source file of a compiled file; any other path is unchanged."""
    if path.suffix == ".pyc" and path.parent.name == "__pycache__":
        try:
            return Path(importlib.util.source_from_cache(str(path)))
        except ValueError:
            pass
    return path


def _location(path: Path, roots: list[Path], outside: list[Path]) -> tuple[int, PurePosixPath] | None:
    """The number of the root folder that contains a path, and the name of the path there; None if no root contains
    it.
    """
    for candidate in dict.fromkeys((path, Path(os.path.realpath(path)))):
        for index, root in enumerate(roots):
            if candidate.is_relative_to(root) and candidate.suffix != ".pyc":
                name = candidate.relative_to(root)
                foreign = any(candidate.is_relative_to(o) and not root.is_relative_to(o) for o in outside)
                # Hidden folders hold caches, settings and environments of tools.
                foreign |= any(
                    part.startswith(".") or part in (*SITE_FOLDERS, "__pycache__") for part in name.parts[:-1]
                )
                if not foreign:
                    return index, PurePosixPath(name.as_posix())
    return None


def _is_empty_program(path: Path) -> bool:
    """Whether a Python file has no statements, like many ``__init__.py``."""
    return path.suffix == ".py" and path.is_file() and _digest(path) == hashlib.sha256(b"Module()").hexdigest()[:16]


def _content(roots: list[Path], name: str) -> str:
    found = _FOLDER.fullmatch(name)
    index, inner = (int(found[1]), found[2]) if found else (0, name)
    place = PurePosixPath(inner)
    # Names come from records, which anybody may have written.
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
    """Hash of a regular file, for Python code of its syntax tree; empty if no such file can be read."""
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
            pass  # this is not Python code: hash its bytes
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
