"""Output of ``equibench leaderboard --suite``: the rows of a suite, or one table of a family of boards."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...registry import UserError, nearest
from ..tools.text import is_selected

if TYPE_CHECKING:
    from ..boards.board import Board


def show_suite(
    name: str, root: Path, patterns: Sequence[str], style: str, others: Sequence[str], refused: list[Any]
) -> Board | None:
    """Rebuild the boards of a family and print its table.

    Args:
        patterns: shell patterns of models; empty for all models of the suite.
        style: a table format of tabulate, ``csv`` or ``json``.
        others: options of this call that a family does not support; one of them is a UserError.
        refused: the refused files are appended to this list.

    Returns:
        For an ordinary suite, the board with the suite's rows; nothing is printed. None for a family.
    """
    from ..boards.families import find_points, load_family
    from ..boards.family_table import family_csv, family_document, family_text
    from ..boards.rows import write_board

    family = load_family(root, points := find_points(name), write_board)
    if len(points) == 1 and family.points[0].board is not None:
        return family.points[0].board
    if others:
        raise UserError(f"{others[0]} is for single boards; --suite shows this family of boards in one table")
    refused += [r for p in family.measured if p.board is not None for r in p.board.refused]
    for pattern in patterns:
        if not fnmatch.filter(family.models, pattern):
            close = nearest(pattern, family.models)
            raise UserError(f"--model {pattern!r}: no model of suite {name!r} matches; {close}")
    family.models = [m for m in family.models if is_selected(m, patterns)]
    if style == "json":
        click.echo(json.dumps(family_document(family)))
    elif style == "csv":
        click.echo(family_csv(family))
    else:
        click.echo(family_text(family, style))
    return None
