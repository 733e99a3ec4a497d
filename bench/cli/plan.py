"""``equibench plan``: the number of seeds that a suite needs."""

from __future__ import annotations

from dataclasses import asdict, replace

import click

from ...registry import include
from ..tools.files import results_root
from .options import Finite, common_options, device, print_json


@click.command()
@click.argument("suite")
@click.option(
    "--difference",
    type=Finite(0, 100, min_open=True, max_open=True),
    required=True,
    metavar="POINTS",
    help="Smallest difference in test accuracy to the reference model that must be found.",
)
@click.option(
    "--device",
    type=device,
    default="auto",
    show_default=True,
    help="Device for the estimate of time: auto, cpu or cuda:<i>.",
)
@common_options
def plan(
    suite: str, difference: float, device: str, results: str | None, includes: tuple[str, ...], as_json: bool
) -> None:
    """Compute how many seeds SUITE needs.

    Computes the number of seeds needed to find a difference, from the spread between seeds in earlier records. Also
    estimates how long these runs take on this device.

    \b
    equibench plan digits-25k --difference 0.5
    """
    include(includes)
    from ..boards.families import find_points, point_name
    from ..reports.estimate import this_device
    from ..reports.planning import plan_seeds, plan_text

    key = this_device(device)
    points, root = find_points(suite), results_root(results)
    found = [replace(plan_seeds(p, root, difference, key), suite=point_name(p, points)) for p in points]
    if as_json:
        print_json([{**asdict(p), "seeds": p.seeds, "hours": p.hours} for p in found])
    else:
        click.echo("\n\n".join(plan_text(p, key) for p in found))
