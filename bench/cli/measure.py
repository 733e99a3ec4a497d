"""Commands that measure without training: ``verify``, ``equivariance``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from ...registry import UserError, include
from .options import COUNT, common_options, data_root_option, device, json_option, machine_of


@click.command()
@click.argument("name")
@click.option("--out", default=".", show_default=True, metavar="DIR", help="Folder of the plot.")
@click.option(
    "--only",
    help="Parts, separated by commas: convergence, exactness, pitch for pdo-econv; coverage, family, power for"
    " statistics.",
)
@click.option(
    "--quick",
    is_flag=True,
    help="For statistics: few experiments with small test sets. Takes seconds and proves nothing.",
)
@json_option
def verify(name: str, out: str, only: str | None, quick: bool, as_json: bool) -> None:
    """Prove the claims about NAME, with tables and a plot.

    \b
    equibench verify pdo-econv                the layers of PDO-eConv; one minute
    equibench verify statistics               intervals, p and ranks by simulation; several minutes on one core

    Exit code 1: a property does not hold; its row says NO.
    """
    from ..reports.proofs import prove

    parts = [p for p in (only or "").split(",") if p]
    proof = prove(name, out, parts, lambda part: click.echo(f"{part} …", err=True), quick)
    if as_json:
        plot = str(proof.figure) if proof.figure else None
        click.echo(json.dumps({"plot": plot, "failed": proof.failed, **proof.rows}))
    else:
        click.echo("\n\n".join(f"{title}\n\n{table}" for title, table in proof.tables) + "\n")
        click.echo(f"{proof.count - proof.failed} of {proof.count} properties hold")
        if proof.figure:
            click.echo(f"plot: {proof.figure}")
    sys.exit(1 if proof.failed else 0)


@click.command()
@click.argument("model", required=False)
@click.option("--run", "run_id", metavar="ID", help="Instead of a model: a finished run, by the beginning of its id.")
@click.option("--dataset", help="Data set of the images [digits-rot].")
@click.option("--size", type=click.IntRange(min=2), metavar="N", help="Size of the images in pixels [the data set's].")
@click.option("--out", default=".", show_default=True, metavar="DIR", help="Folder of the plots.")
@click.option("--device", type=device, default="auto", show_default=True, help="auto, cpu or cuda:<i>.")
@click.option("--threads", type=COUNT, default=1, show_default=True, help="CPU threads.")
@data_root_option
@common_options
def equivariance(model: str | None, as_json: bool, **options: Any) -> None:
    """Measure the equivariance error of a MODEL or of a run.

    A MODEL is measured at initialisation. A finished run gets the full profile.

    \b
    equibench equivariance p4cnn              at 27, 28 and 29 pixels, and against the angle
    equibench equivariance --run 2c10b4a0     measured with the stored weights, added to the board

    docs/equivariance-error.md explains the figures.
    """

    if (model is None) == (options["run_id"] is None):
        raise UserError("give one of MODEL and --run ID")
    if model is None and (options["dataset"] is not None or options["size"] is not None):
        raise UserError("--dataset and --size are for a MODEL; a run has its own data set and size")
    include(options["includes"])
    from ..reports.equivariance import initial_report, run_report, table
    from ..tools.gpus import one_device

    out, machine = Path(options["out"]), machine_of({**options, "device": one_device(options["device"])})
    if model is not None:
        report = initial_report(model, options["dataset"] or "digits-rot", options["size"], out, machine)
    else:
        report = run_report(options["run_id"], options["results"], out, machine)
    if as_json:
        pictures = [str(p) for p in report.pictures]
        click.echo(json.dumps({**report.extra, "rows": report.rows, "sentence": report.sentence, "pictures": pictures}))
        return
    click.echo(table(report))
    for path in report.pictures:
        click.echo(f"picture: {path}")
