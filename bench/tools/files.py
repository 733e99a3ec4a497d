"""The results folder, and atomic writing: a reader never sees half a file."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path

from ...registry import UserError, option

#: Suffix of unfinished files.
PART = ".part"
Data = bytes | memoryview


def shipped(*parts: str) -> str:
    """Text of a file that is shipped with the package, such as ``shipped("bench", "budgets.toml")``."""
    return resources.files("equibench").joinpath(*parts).read_text(encoding="utf-8")


def shipped_names(*parts: str, suffix: str) -> list[str]:
    """Names, without `suffix`, of the shipped files in a folder."""
    folder = resources.files("equibench").joinpath(*parts)
    return sorted(f.name.removesuffix(suffix) for f in folder.iterdir() if f.name.endswith(suffix))


def results_root(explicit: str | Path | None = None, given: str = "results") -> Path:
    """Folder of the results: `explicit`, else ``EQUIBENCH_RESULTS``, else ``./leaderboards``.

    Args:
        given: the option that names the folder.

    Raises:
        UserError: there is a file instead of the folder, or of one above it.
    """
    root = Path(explicit or os.environ.get("EQUIBENCH_RESULTS") or "leaderboards").absolute()
    if why := _file_instead_of_folder(root):
        raise UserError(f"{why}; give the results folder with {option(given, 'DIR')}")
    return root


def _file_instead_of_folder(folder: Path) -> str:
    """A clause that names the file at the place of this folder, or of one above it; empty if there is none."""
    # os.path: before Python 3.14, the methods of Path raise an error for folders without permission.
    there = next((path for path in (folder, *folder.parents) if os.path.exists(path)), None)
    return f"{there} is a file, not a folder" if there is not None and not os.path.isdir(there) else ""


class WriteError(UserError):
    """A file cannot be written: no space, a quota, a folder that is read-only; `why` is the reason.

    Args:
        path: the file; or the folder that the option `given` names.
    """

    def __init__(self, path: Path, error: OSError, given: str = "") -> None:
        self.why = _file_instead_of_folder(path if given else path.parent) or error.strerror or str(error)
        advice = f"; give another folder with {option(given, 'DIR')}" if given else ""
        super().__init__(f"{path} cannot be written: {self.why}{advice}")


#: Bytes that a record and the rows of a CSV need.
_ROOM = 1 << 16


def ensure_writable(folder: Path, given: str) -> None:
    """Create `folder` and try to write a few kilobytes to it. Raises WriteError if this is not possible.

    Args:
        given: the option that names the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * _ROOM)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise WriteError(folder, error, given) from error


def write_atomically(path: Path, data: Data) -> None:
    """Replace `path` by `data`, through a synced temporary file. Raises WriteError and changes nothing if it cannot."""
    with _temporary(path, data) as temporary:
        os.replace(temporary, path)


def write_exclusively(path: Path, data: Data) -> None:
    """Create `path` with `data`. Raises FileExistsError if it exists already, WriteError if it cannot be written."""
    with _temporary(path, data) as temporary:
        os.link(temporary, path)  # a hard link fails if the name exists; a rename would replace it


@contextmanager
def _temporary(path: Path, data: Data) -> Iterator[str]:
    """A synced temporary file with `data` in the folder of `path`; removed afterwards unless it was renamed."""
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:60]}.", suffix=PART)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        yield temporary
        _sync_folder(path.parent)
    except FileExistsError as error:
        if not temporary:  # its folder is a file
            raise WriteError(path, error) from error
        raise
    except OSError as error:
        raise WriteError(path, error) from error
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _sync_folder(folder: Path) -> None:
    """Make a new name survive a loss of power, if the system supports it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_parts(folder: Path, beginning: str) -> None:
    """Remove temporary files of killed processes: names with this beginning, at least an hour old."""
    for path in folder.glob(f".{beginning}*{PART}"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > 3600:
                path.unlink()
