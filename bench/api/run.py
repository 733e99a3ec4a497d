"""Head-to-heads from Python: trains the missing runs and returns the table."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...registry import UserError, include, nearest
from ..boards.families import BoardFamily, check_points, family_of_boards, points_of, values_of
from ..boards.family_table import family_text, point_rows
from ..records.record import RunRecord
from ..runner.head_to_head import Listener, Outcome
from ..runner.head_to_head import run as run_suite
from ..spec.suite import AD_HOC, Suite
from ..tools.files import results_root
from ..tools.machine import Machine
from ..tools.text import clipped, joined
from .boards import Leaderboard
from .display import watcher
from .notebook_cells import include_cells
from .public import public

if TYPE_CHECKING:
    import pandas as pd

#: The longest command that a record keeps.
_LONGEST = 300


@public
def run(
    suite: str | Path | Mapping[str, Any] | Suite | None = None,
    *,
    dataset: str | None = None,
    models: Iterable[str] | None = None,
    budget: str | Iterable[str] | None = None,
    seeds: int | Iterable[int] | None = None,
    results: str | Path | None = None,
    data_root: str | Path | None = None,
    includes: Iterable[str | Path] = (),
    device: str = "auto",
    jobs: int | None = None,
    machine: Machine | None = None,
    progress: bool | None = None,
    listener: Listener | None = None,
    refresh: bool = False,
    **keys: Any,
) -> Result:
    """Train the missing runs of a head-to-head. Finished runs are not run again.

    Each run is a process of its own, as from the command line. Models that the notebook or script itself registers are
    found; their source is kept in the folder ``sources`` of the results.

    Args:
        suite: name of a shipped suite, path of a suite file, or a dictionary of its keys; see docs/suites.md.
        dataset, models, budget, seeds: instead of the suite's, or without a suite. Several budgets are a family of
            boards.
        results: results folder; default ``EQUIBENCH_RESULTS``, else ``./leaderboards``.
        data_root: folder of the data sets; default ``EQUIBENCH_DATA``, else the user's cache.
        includes: files that register models or data sets.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<i>``, several with commas.
        jobs: runs at a time; default: one per device; on a CPU one per core, at most four.
        machine: all settings of where and how runs are executed, instead of `device` and `jobs`.
        progress: True for bars; False for failures only; default: bars in a terminal or notebook.
        listener: gets messages about the progress, instead of the bars.
        refresh: run stale runs again.
        keys: further keys of a suite, as ``recipe="paper"`` or ``train_images=[500, 2_000]``.

    Raises:
        UserError: the input is wrong; nothing was trained.
    """
    suite_keys = [field.alias or name for name, field in Suite.model_fields.items()]
    if unknown := [key for key in keys if key not in suite_keys]:
        own = run.__annotations__.keys() - {"keys", "return"}
        close = nearest(unknown[0], sorted(own.union(suite_keys)))
        raise UserError(f"equibench.run: unknown key {unknown[0]!r}; {close}")
    given = {"dataset": dataset, "models": models, "budget": budget, "seeds": seeds}
    given = {key: _plain(value) for key, value in (given | keys).items() if value is not None}
    machine = machine or Machine(device, jobs)
    root, includes = results_root(results), list(includes)
    include(includes)
    points = _points(suite, given)
    wanted = {name for point in points for name in (point.dataset, *point.models)}
    includes += include_cells(root, wanted)
    if len(points) > 1:
        check_points(points, root)
    machine = replace(
        machine,
        data_root=data_root or machine.data_root,
        includes=tuple(dict.fromkeys([*machine.includes, *includes])),
        command=_command(suite, given),
    )
    outcomes = [
        run_suite(point, results=root, machine=machine, listener=listener or watcher(progress), refresh=refresh)
        for point in points
    ]
    return Result(outcomes, is_changed=any(key != "seeds" for key in given))


def _points(suite: str | Path | Mapping[str, Any] | Suite | None, given: dict[str, Any]) -> list[Suite]:
    """The suite, or the points (boards) of the family, with the given values replaced."""
    if isinstance(suite, str | Path):
        values = values_of(str(suite))
        where = f"suite {str(suite)!r}" + (" with the given arguments" if given else "")
    elif isinstance(suite, Mapping | Suite | None):
        values = _plain(suite.model_dump(by_alias=True) if isinstance(suite, Suite) else suite or {})
        where = "equibench.run"
    else:
        what = "the name of a suite, the path of its file, a dictionary of its keys, or a Suite"
        raise UserError(f"equibench.run: the suite should be {what}, not {clipped(repr(suite), 80)}")
    values = {"name": AD_HOC, **values, **given}
    missing = [key for key in ("dataset", "models", "budget") if key not in values]
    if missing:
        raise UserError(
            "equibench.run: name a suite (equibench.list_suites()), or give dataset, models and budget;"
            f" {joined(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        )
    return points_of(values, where)


def _plain(value: Any) -> Any:
    """A value as a suite file can have it: numbers and arrays of numpy, ranges, tuples and generators are converted.

    Values of other types are refused by the schema, in its own words.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, str | os.PathLike):
        return str(value)
    return [_plain(inner) for inner in value] if isinstance(value, Iterable) and not isinstance(value, bytes) else value


def _command(suite: Any, given: dict[str, Any]) -> str:
    """The call as records keep it, without folders of this machine."""
    shown = [repr(Path(suite).name)] if isinstance(suite, str | Path) else [] if suite is None else ["…"]
    text = f"equibench.run({', '.join([*shown, *(f'{key}={value!r}' for key, value in given.items())])})"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


@dataclass(frozen=True, eq=False)
class Result:
    """The result of a head-to-head. It prints as its table; a notebook shows it as a table.

    Attributes:
        outcomes: one for each board, in the order of the family; an ordinary suite has one.
        is_changed: whether arguments replaced models or settings of the suite, so that its title is not that of the
            table.
    """

    outcomes: list[Outcome]
    is_changed: bool = False

    def _suite(self, outcome: Outcome) -> Suite:
        """The suite that a table of this result names."""
        names = {"name": AD_HOC, "title": ""}
        return outcome.suite.model_copy(update=names) if self.is_changed else outcome.suite

    @property
    def boards(self) -> list[Leaderboard]:
        """The boards of the suite, with only its rows: comparisons and ranks use only these."""
        return [Leaderboard(o.board.of_suite(self._suite(o))) for o in self.outcomes]

    @property
    def board(self) -> Leaderboard:
        """The one board of an ordinary suite.

        Raises:
            UserError: the suite is a family of several boards.
        """
        if len(self.outcomes) > 1:
            raise UserError(f"this is a family of {len(self.outcomes)} boards; use one of `boards`")
        return self.boards[0]

    @property
    def family(self) -> BoardFamily:
        """All boards together."""
        return family_of_boards([(self._suite(o), o.board) for o in self.outcomes])

    def table(self) -> pd.DataFrame:
        """One row per model; for a family, one row per model and board."""
        return self.board.table() if len(self.outcomes) == 1 else point_rows(self.family)

    @property
    def ran(self) -> dict[str, tuple[str, str]]:
        """Status and reason of the runs of this call, by id."""
        return {run: what for o in self.outcomes for run, what in o.ran.items()}

    @property
    def skipped(self) -> int:
        """How many runs were finished before."""
        return sum(o.skipped for o in self.outcomes)

    @property
    def stale(self) -> dict[str, str]:
        """Finished runs whose source, data or recipe has changed, and what changed; ``refresh=True`` repeats them."""
        return {run: what for o in self.outcomes for run, what in o.stale.items()}

    @property
    def failed(self) -> list[tuple[RunRecord, str]]:
        """Runs with another status than ``ok``."""
        return [run for o in self.outcomes for run in o.failed]

    @property
    def notes(self) -> list[str]:
        """Sentences about runs that were not made, are stale, or have no result."""
        stale = [f"{run}: not run again, although its {what} changed since; refresh=True runs it again"
                 for run, what in self.stale.items()]  # fmt: skip
        return stale + [s for o in self.outcomes for s in o.failures("the same call tries again")]

    def __repr__(self) -> str:
        if len(self.outcomes) == 1:
            text = repr(self.board)
        else:
            text = family_text(self.family) if self.family.measured else "\n".join(map(repr, self.boards))
        return "\n".join([text, *self.notes])

    def _repr_html_(self) -> str:
        if len(self.outcomes) == 1:
            shown = self.board._repr_html_()
        elif self.family.measured:
            shown = f"<pre>{html.escape(family_text(self.family))}</pre>"
        else:
            shown = "".join(b._repr_html_() for b in self.boards)
        return shown + "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
