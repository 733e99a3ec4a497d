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
    from .progress import fetch_with_progress

    include(includes)
    click.echo(fetch_with_progress(name, data_root))
