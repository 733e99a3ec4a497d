"""``equibench plan``: how many seeds a suite needs, before they are run."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from ..registry import UserError, include
from .options import include_option, json_option, results_option


@click.command()
@click.argument("suite")
@click.option("--difference", type=float, required=True, metavar="POINTS", help="In test accuracy, to the suite's reference.")
@click.option("--device", default="auto", show_default=True, help="Whose time is asked for: auto, cpu or cuda:<i>.")
@results_option
@include_option
@json_option
def plan(suite: str, difference: float, device: str, results: str | None, includes: tuple[str, ...], as_json: bool) -> None:
    """How many seeds SUITE needs to find a difference, from the spread of earlier records, and what they cost here.

    \b
    equibench plan digits-25k --difference 0.5
    """
    if not 0 < difference < 100:
        raise UserError(f"--difference {difference:g}: it must be above 0 and below 100 percent points")
    include(includes)
    from .estimate import this_device
    from .files import results_root
    from .planning import plan_seeds, plan_text
    from .spec import find_suite

    key = this_device(device)
    planned = plan_seeds(find_suite(suite), results_root(results), difference, key)
    if as_json:
        click.echo(json.dumps({**asdict(planned), "seeds": planned.seeds, "hours": planned.hours}))
    else:
        click.echo(plan_text(planned, key))
