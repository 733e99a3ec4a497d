"""Families of boards: one suite at several numbers of training images, or with several budgets.

The file of such a suite has a list instead of a value: ``train_images = [500, 2000]``, ``budget = ["e5", "e20"]``.
Every combination is a separate suite and board: a point of the family.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...registry import UserError
from ..records.record import read_board
from ..records.store import board_names
from ..spec.budget import find_budget
from ..spec.suite import AXES, PROTOCOL, Suite, check_names, find_suite, plan, suite_text, training_images
from ..tools.schema import parse, parse_toml
from ..tools.text import follow_up_command, suite_as_given
from .notes import is_missing

if TYPE_CHECKING:
    from .board import Board
    from .slopes import Slope
    from .statistics import Sample

#: A larger number of points is a mistake.
MOST_POINTS = 100


def find_points(name: str) -> list[Suite]:
    """The suites of a shipped family, or of a family's file; for an ordinary suite, the suite itself.

    Raises:
        UserError: see `find_suite`, and `points_of`.
    """
    where, text = suite_text(name)
    values = parse_toml(text, where)
    if "name" in values or not any(isinstance(values.get(axis), list) for axis in AXES):
        return [find_suite(name)]
    stem = Path(name).stem if name.endswith(".toml") else name
    return points_of({**values, "name": stem}, where)


def values_of(name: str) -> dict[str, Any]:
    """Keys and values of a suite or a family, for `points_of`; `name` is as for `find_points`."""
    found = find_points(name)
    values = found[0].model_dump(by_alias=True)
    return values | {axis: list(dict.fromkeys(getattr(s, axis) for s in found)) for axis in AXES if len(found) > 1}


def points_of(values: Mapping[str, Any], where: str) -> list[Suite]:
    """The suites of a family from its keys and values: in the order of budgets, then of numbers of images.

    Args:
        values: as for `Suite`; the keys of `AXES` may be lists.
        where: name of the file for messages.

    Raises:
        UserError: a value is wrong, a list is empty or has a value twice, or there are too many points.
    """
    lists = {axis: values[axis] for axis in AXES if isinstance(values.get(axis), list)}
    for axis, found in lists.items():
        if not found:
            raise UserError(f"{where}: {axis!r} is an empty list; a family of boards needs at least one value")
        twice = [value for place, value in enumerate(found) if value in found[:place]]
        if twice:
            raise UserError(f"{where}: {axis!r} has {twice[0]!r:.80} twice")
    points = [dict(zip(lists, chosen, strict=True)) for chosen in product(*lists.values())]
    if len(points) > MOST_POINTS:
        raise UserError(f"{where}: {len(points):,} points; a family can have at most {MOST_POINTS}")
    suites = [parse(Suite, {**values, **point}, where) for point in points]
    budgets = {budget: place for place, budget in enumerate(dict.fromkeys(s.budget for s in suites))}
    suites.sort(key=lambda s: (budgets[s.budget], s.train_images or 0))
    return suites


def check_points(suites: Sequence[Suite], root: Path | None = None) -> None:
    """Check that all points can be planned, before the first one is run; tuned recipes are below `root`.

    Raises:
        UserError: a point cannot be planned.
    """
    for suite in suites:
        check_names(suite)
        if find_budget(suite.budget).kind != "T":
            plan(suite, root=root)


def point_name(suite: Suite, points: Sequence[Suite]) -> str:
    """The name of a point of a family; for an ordinary suite, its name."""
    return suite.name if len(points) == 1 else f"{suite.name} ({suite.budget}, {_images(suite):,} training images)"


def _images(suite: Suite) -> int:
    return training_images(suite.dataset, suite.fit, suite.train_images)


@dataclass(frozen=True)
class Point:
    """A point of a family: a suite with a number of training images, and its board; None if it has no records yet."""

    suite: Suite
    images: int
    board: Board | None = None

    @cached_property
    def rows(self) -> dict[str, dict[str, Any]]:
        """The row of each model on the board; see `rows.model_rows`."""
        if self.board is None:
            return {}
        return {r["model"]: r for r in self.board.rows_of(self.board.frame)}

    def sample(self, model: str) -> Sample | None:
        """The measured runs of a model."""
        return self.board.samples.get(model) if self.board is not None else None

    def spent(self, model: str, what: str) -> float | None:
        """The effort of training: ``images``, ``examples``, ``flops`` (forward and backward) or ``seconds``."""
        if what == "images":
            return float(self.images)
        columns = {
            "examples": ["examples"],
            "seconds": ["train_s_mean"],
            "flops": ["train_flops_per_image", "examples"],
        }
        values: list[Any] = [self.rows.get(model, {}).get(column) for column in columns[what]]
        return None if any(map(is_missing, values)) else float(math.prod(values))


@dataclass
class BoardFamily:
    """Boards that differ only in training images or budget: `points` in the order of budgets, then of images."""

    name: str
    title: str
    points: list[Point]
    models: list[str] = field(default_factory=list)

    @property
    def measured(self) -> list[Point]:
        """The points that have a board."""
        return [p for p in self.points if p.board is not None]

    @property
    def boards(self) -> list[Board]:
        """The boards of the `measured` points."""
        return [p.board for p in self.points if p.board is not None]

    @cached_property
    def axes(self) -> list[str]:
        """The differences between its points: ``images``, ``budget``."""
        images, budgets = {p.images for p in self.points}, {p.suite.budget for p in self.points}
        return [name for name, values in (("images", images), ("budget", budgets)) if len(values) > 1]

    def label(self, point: Point) -> str:
        """The heading of a column of the table."""
        parts = [point.suite.budget] if "budget" in self.axes else []
        parts += [f"{point.images:,} images"] if "images" in self.axes or not parts else []
        return ", ".join(parts)

    @cached_property
    def lines(self) -> list[tuple[str, list[Point]]]:
        """Lines of points that differ in one value only, each with its common value (empty if there is one line)."""
        budgets = list(dict.fromkeys(p.suite.budget for p in self.points))
        if "images" in self.axes:
            return [(b if len(budgets) > 1 else "", [p for p in self.points if p.suite.budget == b]) for b in budgets]
        return [("", self.points)]

    def slope(self, model: str, what: str, points: Sequence[Point]) -> Slope | None:
        """The slope of a model's error against the effort, over seeds with a result at all measured points.

        None if the effort is the same at all points, except for chance.
        """
        from .slopes import slope_of  # imported here, because it imports numpy

        if what != "images" and len({p.spent(model, "examples") for p in points}) < 2:
            return None  # the device-seconds of equal work differ only by chance
        found = [(p.spent(model, what), sample) for p in points if (sample := p.sample(model)) is not None]
        known = [(x, sample) for x, sample in found if x is not None]
        return slope_of([x for x, _ in known], [s for _, s in known]) if len({x for x, _ in known}) > 1 else None

    @property
    def own_axis(self) -> str:
        """The horizontal axis of the table's slopes."""
        return "images" if "images" in self.axes else "examples"


def load_family(root: Path, suites: Sequence[Suite], load: Callable[[Path, str], Board]) -> BoardFamily:
    """A family, made from the records; `load` reads a board, such as `board.load_board` or `rows.write_board`.

    Raises:
        UserError: no point is measured, or device-seconds were measured on several kinds of device.
    """
    names = board_names(root)
    boards = [load(root, name) if (name := _board_of(suite, root, names)) else None for suite in suites]
    family = family_of_boards(list(zip(suites, boards, strict=True)))
    if not family.measured:
        measures = follow_up_command("run", suite_as_given(family.name))
        raise UserError(f"no board of suite {family.name!r} is in {root}; {measures} measures them")
    return family


def family_of_boards(boards: Sequence[tuple[Suite, Board | None]]) -> BoardFamily:
    """The family of these suites, with their current boards; None for a suite without a board."""
    points = []
    for suite, board in boards:
        rows = None if board is None else board.of_suite(suite)
        points.append(Point(suite, _images(suite), rows if rows is not None and rows.is_table else None))
    suite = boards[0][0]
    return BoardFamily(suite.name, suite.title, points, list(suite.models))


def _board_of(suite: Suite, root: Path, boards: Sequence[str]) -> str | None:
    own = suite.board()
    if find_budget(suite.budget).kind != "T":
        return own if own in boards else None
    start = own.rpartition("-v")[0] + "-"
    there = [n for n in boards if n.startswith(start) and n.endswith(f"-v{PROTOCOL}")]
    keys = {n: record.spec.hardware_key for n in there for record in read_board(root, n)[0][:1]}
    fits = [n for n, key in keys.items() if n == suite.board(key)]
    if len(fits) > 1:
        raise UserError(
            f"suite {suite.name!r} was measured on several kinds of device: {', '.join(fits)}; show them one by one"
        )
    return fits[0] if fits else None
