"""What ``equibench leaderboard --suite`` shows: a family of boards as one table."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..registry import UserError, nearest


def show_suite(
    name: str, root: Path, patterns: Sequence[str], style: str, others: Sequence[str], refused: list[Any]
) -> None:
    """Rebuild the boards of a suite and print its table.

    Args:
        patterns: of models, as in a shell; all of the suite without.
        style: a table format of tabulate, ``csv``, ``md`` or ``json``.
        others: options that were given and go with single boards.
        refused: gets the files that were refused.

    Raises:
        UserError: an option does not go with a family, no model fits, or nothing is measured yet.
    """
    from .families import find_points, load_family
    from .family_table import family_csv, family_document, family_text
    from .leaderboard import write_board

    if others:
        raise UserError(f"{others[0]} does not go with --suite, which shows the boards of a suite in one table")
    family = load_family(root, find_points(name), write_board)
    refused += [r for p in family.measured if p.board is not None for r in p.board.refused]
    for pattern in patterns:
        if not fnmatch.filter(family.models, pattern):
            raise UserError(f"--model {pattern!r}: no model of suite {name!r} fits; {nearest(pattern, family.models)}")
    if patterns:
        family.models = [m for m in family.models if any(fnmatch.fnmatchcase(m, p) for p in patterns)]
    if style == "json":
        click.echo(json.dumps(family_document(family)))
    elif style == "csv":
        click.echo(family_csv(family))
    else:
        click.echo(family_text(family, {"md": "github", "latex": "latex_booktabs"}.get(style, style)))
