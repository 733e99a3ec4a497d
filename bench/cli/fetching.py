"""Fetching a data set with a progress bar."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ...datasets.fetch import fetch
from ...datasets.images import data_root, load


def fetch_with_progress(name: str, root: str | None = None) -> str:
    """Download, verify and unpack a data set; returns a sentence on what is there now.

    Raises:
        UserError: the data set is unknown, the host unreachable, or what came is not what was expected.
    """
    folder, console = data_root(root), Console(stderr=True)
    numbers = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *numbers)
    # Away from a terminal a bar would only litter a log.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        fetch(name, folder, progress=lambda done, total: bar.update(task, completed=done, total=total))
        bar.update(task, description=f"{name}: making it ready", total=None)
        data = load(name, folder)
    sizes = ", ".join(f"{len(getattr(data, part).labels):,} {part}" for part in ("train", "val", "test"))
    return f"{name}: {sizes}; in {folder}; digest {data.digest()}"
