"""Results as objects for notebooks: boards, and all runs as one table."""

from __future__ import annotations

import html
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...registry import UserError, nearest
from ..boards.board import Board, find_board
from ..boards.board import load_board as read
from ..boards.notes import board_heading, board_notes
from ..boards.rows import compared_columns, run_rows
from ..boards.statistics import compare
from ..boards.terminal_table import alignment, board_table, table_rows
from ..records.outcomes import outcomes_path, read_predictions
from ..records.store import board_names
from ..tools.files import results_root
from ..tools.schema import visible
from .display import is_notebook, show_figure
from .public import public

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@public
def load_board(name: str, results: str | Path | None = None) -> Leaderboard:
    """A board by its name, with or without the version at the end. A warning names each file that is refused.

    Args:
        results: results folder; default ``EQUIBENCH_RESULTS``, else ``./leaderboards``.

    Raises:
        UserError: there is no such board.
    """
    root = results_root(results)
    return Leaderboard(_read(root, find_board(name, root)))


@public
def load_runs(board: str | None = None, results: str | Path | None = None) -> pd.DataFrame:
    """A table with one row per run and all figures of its record.

    If a run has several attempts, the row is of the attempt on the board. The first column is the board, `run` is the
    run id. A warning names each file that is refused.

    Args:
        board: name of a board; None for all boards.

    Raises:
        UserError: there is no such board.
    """
    import pandas as pd

    root = results_root(results)
    names = [find_board(board, root)] if board is not None else board_names(root)
    frames = []
    for name in names:
        frame = run_rows(_read(root, name))
        if not frame.empty:
            frame.insert(0, "board", name)
            frames.append(frame.astype(object))
    return pd.concat(frames, ignore_index=True).infer_objects() if frames else pd.DataFrame({"board": []})


def _read(root: Path, name: str) -> Board:
    board = read(root, name)
    for one in board.refused:
        warnings.warn(f"refused: {visible(one.reason)}", stacklevel=4)
    return board


@dataclass(frozen=True, eq=False)
class Leaderboard:
    """A board. It prints as its table; a notebook shows it as a table.

    Attributes:
        board: the records and their statistics; see `bench.boards.board`.
    """

    board: Board

    @property
    def name(self) -> str:
        return self.board.name

    @property
    def models(self) -> list[str]:
        """Names of the models, ordered by decreasing mean test accuracy."""
        return list(self.board.frame["model"]) if self.board.chosen else []

    def table(self) -> pd.DataFrame:
        """One row per model; columns as in the board's CSV."""
        return self.board.frame.copy()

    def runs(self) -> pd.DataFrame:
        """One row per run; columns as in the board's ``.runs.csv``."""
        return run_rows(self.board)

    @public
    def against(self, model: str) -> pd.DataFrame:
        """Paired differences of every other model to this one, ordered by decreasing difference.

        Columns: `diff_mean_pct` in points with half of its 95 % interval `diff_ci95_pct`, `p`, `p_holm` (corrected over
        all rows of this table), `agree_pct` (share of test images for which both predict the same class), and the other
        columns of comparisons in the board's CSV.

        Raises:
            UserError: the model has no result here.
        """
        import pandas as pd

        samples = self.board.samples
        if model not in samples:
            raise UserError(f"{model!r} has no result on {self.name}; {nearest(model, samples)}")
        family = sorted(compare(samples, model), key=lambda c: -c.difference)
        rows = [
            {"model": c.model, "reference_model": c.reference, **compared_columns(c)}
            | {"agree_pct": self.board.agreement(c.model, c.reference)}
            for c in family
        ]
        return pd.DataFrame(rows, columns=["model", "reference_model", *compared_columns(None), "agree_pct"])

    def ranks(self) -> pd.DataFrame:
        """The lowest and highest possible rank of each model, with 95 % confidence for all models together.

        The index is the model; values are missing if a model has no rank. See docs/statistics.md.
        """
        import pandas as pd

        ranks = {model: self.board.ranks.get(model) or (None, None) for model in self.models}
        frame = pd.DataFrame.from_dict(ranks, orient="index", columns=["rank_low", "rank_high"])
        return frame.rename_axis("model").astype("Int64")

    @public
    def plot(self, name: str = "accuracy-flops") -> Axes:
        """One of the plots of the published site, as a matplotlib axis; a notebook also shows it.

        Args:
            name: ``accuracy-parameters``, ``accuracy-flops``, ``accuracy-seconds``, ``accuracy-equivariance``,
                ``error-angle``, ``accuracy-angle``, ``learning-curves`` or ``differences``.

        Raises:
            UserError: there is no such plot, or this board has nothing to draw in it.
        """
        from ..publish.plots.figures import PLOTS, PlotData
        from ..publish.plots.style import house_style

        found = {plot.stem: plot for plot in PLOTS}
        if name not in found:
            raise UserError(f"there is no plot {name!r}; {nearest(name, found)}")
        with house_style():
            figure = found[name].draw(PlotData(self.board)) if self.board.chosen else None
            if figure is None:
                raise UserError(f"{self.name} has nothing to draw for {name!r}; it needs {found[name].needs}")
            if is_notebook():
                show_figure(figure)
        return figure.axes[0]

    @public
    def predictions(self, model: str | None = None) -> pd.DataFrame:
        """The predicted class of every test image: one row per image, in the order of the test set.

        The first column is `label`. Each further column is a run, by (model, seed). A prediction of -1 means that the
        logits were not finite. Runs without stored outcomes are left out.

        Args:
            model: name of a model; None for all models.

        Raises:
            UserError: there is no such model, no run has stored outcomes, or the runs have different test sets.
        """
        import numpy as np
        import pandas as pd

        board, root = self.board, self.board.root
        if model is not None and model not in board.counted:
            raise UserError(f"{model!r} has no run on {self.name}; {nearest(model, board.counted)}")
        columns: dict[tuple[str, str | int], Any] = {}
        for record in (r for own in board.counted.values() for r in own if model in (None, r.spec.model)):
            path = outcomes_path(root, record) if root is not None else None
            if root is None or path is None or not path.exists():
                continue
            predicted, labels, classes = read_predictions(root, record)
            if not np.array_equal(columns.setdefault(("label", ""), labels), labels):
                raise UserError(f"the runs of {self.name} have different test sets; choose one model")
            columns[record.spec.model, record.spec.seed] = np.where(predicted == classes, -1, predicted)
        if not columns:
            raise UserError(f"no run of {model or self.name} has stored the outcomes of each image")
        names = pd.MultiIndex.from_tuples(columns, names=["model", "seed"])
        return pd.DataFrame(columns, columns=names).rename_axis(index="image")

    def __repr__(self) -> str:
        board = self.board
        if board.is_table:
            return board_table(board)
        if not board.chosen:
            return f"{board.name}: no runs"
        return "\n".join([*(record.line for record, _ in board.chosen), board.why_no_table])

    def _repr_html_(self) -> str:
        board = self.board
        if not board.is_table:
            return f"<pre>{html.escape(repr(self))}</pre>"
        from tabulate import tabulate

        rows = table_rows(board, board.frame)
        table = tabulate(rows, headers="keys", tablefmt="html", disable_numparse=True, colalign=alignment(rows))
        notes = "<br>".join(map(html.escape, board_notes(board, board.frame, here=True)))
        return f"<div><p>{html.escape(board_heading(board))}</p>{table}<p><small>{notes}</small></p></div>"
