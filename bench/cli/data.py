"""``equibench data``: download and verify data sets."""

from __future__ import annotations

import click

from ...registry import include
from .options import data_root_option, include_option


@click.group()
def data() -> None:
    """Download and verify data sets."""


@data.command()
@click.argument("name")
@data_root_option
@include_option
def fetch(name: str, data_root: str | None, includes: tuple[str, ...]) -> None:
    """Download data set NAME, verify it, and prepare it for training."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from ...datasets import fetch as downloads
    from ...datasets import images

    include(includes)
    folder, console = images.data_root(data_root), Console(stderr=True)
    numbers = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *numbers)
    # Without a terminal, no bar: it would fill a log with useless lines.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        downloads.fetch(name, folder, progress=lambda done, total: bar.update(task, completed=done, total=total))
        bar.update(task, description=f"{name}: preparing the images", total=None)
        loaded = images.load(name, folder)
    sizes = ", ".join(f"{len(getattr(loaded, part).labels):,} {part}" for part in images.PARTS)
    click.echo(f"{name}: {sizes}; in {folder}; digest {loaded.digest()}")
