"""Where results go, and writing so that a reader never sees half a file."""

from __future__ import annotations

import os
import tempfile
from importlib import resources
from pathlib import Path

from ..registry import UserError


def shipped(*parts: str) -> str:
    """Text of a file that is shipped with the package, as ``shipped("bench", "budgets.toml")``."""
    return resources.files("equibench").joinpath(*parts).read_text(encoding="utf-8")


def shipped_names(*parts: str, suffix: str) -> list[str]:
    """Names, without `suffix`, of the shipped files in a folder."""
    folder = resources.files("equibench").joinpath(*parts)
    return sorted(f.name.removesuffix(suffix) for f in folder.iterdir() if f.name.endswith(suffix))


def results_root(explicit: str | Path | None = None) -> Path:
    """Folder of the results: `explicit`, else ``EQUIBENCH_RESULTS``, else ``./leaderboards``."""
    return Path(explicit or os.environ.get("EQUIBENCH_RESULTS") or "leaderboards").absolute()


def ensure_writable(folder: Path) -> None:
    """Create `folder` and try to write to it.

    Raises:
        UserError: that is not possible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"the results folder {folder} cannot be written ({error.strerror}); give another with --results DIR"
        ) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: written beside it, synced, then renamed over it."""
    temporary = _write_temporary(path, data)
    os.replace(temporary, path)


def write_exclusively(path: Path, data: bytes) -> None:
    """Create `path` with `data`; what already stands there is never replaced.

    Raises:
        FileExistsError: `path` exists.
    """
    temporary = _write_temporary(path, data)
    try:
        os.link(temporary, path)  # a hard link fails where the name is taken; a rename would replace it
    finally:
        os.unlink(temporary)


def _write_temporary(path: Path, data: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:60]}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
    except BaseException:
        os.unlink(temporary)
        raise
    return temporary
