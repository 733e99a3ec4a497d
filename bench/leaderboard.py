"""From records to tables: one row a run, one row a model, and the CSVs derived from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..registry import MODELS, UserError
from .budget import steps_in
from .calibrate import folder, latest, read_calibrations
from .classes import counts_of, why_not_matched
from .files import write_atomically
from .provenance import REGISTERED, registration
from .record import FINAL, Refused, RunRecord, Size, board_folder, read_board, without_collection
from .sidecar import Sidecar, full_columns, read_sidecars, sidecar_of
from .staleness import Among
from .statistics import Comparison, binomial_error_pct, compare, compare_all, interval, mean, ranks

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Board:
    """A board as its records say it.

    Attributes:
        chosen: the record of each (model, seed) that counts, with the reason why it is stale (or "").
        later: number of further attempts of the same runs.
        refused: files among the records that are none.
        sidecars: full equivariance profiles, by the id of the run whose row they join.
        asked_parameters: the count that a reader compares parameters with, instead of the reference model's.
    """

    name: str
    chosen: list[tuple[RunRecord, str]] = field(default_factory=list)
    later: int = 0
    refused: list[Refused] = field(default_factory=list)
    sidecars: dict[str, Sidecar] = field(default_factory=dict)
    asked_parameters: int | None = None

    @property
    def is_table(self) -> bool:
        """Smoke runs, and trials that chose a rate, are barred from tables."""
        return any(r.spec.budget.kind != "smoke" and not r.spec.is_trial for r, _ in self.chosen)

    @cached_property
    def values(self) -> dict[str, dict[int, float]]:
        """Test accuracy in % of every measured run, by model and seed."""
        found: dict[str, dict[int, float]] = {}
        for record in (r for runs in self.counted.values() for r in runs):
            if record.status in FINAL and record.results is not None and not record.spec.is_trial:
                found.setdefault(record.spec.model, {})[record.spec.seed] = record.results.test_acc_pct
        return found

    @cached_property
    def counted(self) -> dict[str, list[RunRecord]]:
        """The runs that the figures of each model are of: those that are current; all of them where none is measured.

        So no mean is of runs of two programs, two recipes or two sets of data.
        """
        current = {model: [r for r, stale in own if not stale] for model, own in self.runs.items()}
        return {
            model: current[model] if any(r.status in FINAL for r in current[model]) else [r for r, _ in own]
            for model, own in self.runs.items()
        }

    @cached_property
    def runs(self) -> dict[str, list[tuple[RunRecord, str]]]:
        """What is `chosen`, by model."""
        found: dict[str, list[tuple[RunRecord, str]]] = {}
        for record, stale in self.chosen:
            found.setdefault(record.spec.model, []).append((record, stale))
        return found

    @cached_property
    def reference(self) -> str | None:
        """The model that the others are compared with: what most runs' suites say, of those that have a result."""
        named = Counter(r.context.reference_model for r, _ in self.chosen)
        there = [(-count, name) for name, count in named.items() if name in self.values]
        return min(there)[1] if there else None

    @cached_property
    def reference_parameters(self) -> int | None:
        """The count that a matched model is near to: what was asked for, else that of the reference model."""
        sizes = (r.cost for r in self.counted.get(self.reference or "", ()) if r.cost is not None)
        return self.asked_parameters or next((size.parameters for size in sizes), None)

    def why_not_matched(self, model: str) -> str | None:
        """See `classes.why_not_matched`, of all its runs that count; None where there is nothing to compare."""
        sizes = [r.cost for r in self.counted[model] if r.cost is not None]
        if self.reference_parameters is None or not sizes:
            return None
        return next(filter(None, (why_not_matched(self.reference_parameters, **counts_of(size)) for size in sizes)), "")

    @cached_property
    def against_reference(self) -> list[Comparison]:
        """Every model against the reference, one family; empty without a reference."""
        return compare(self.values, self.reference) if self.reference else []

    @cached_property
    def all_pairs(self) -> list[Comparison]:
        """Every model against every other, one family."""
        return compare_all(self.values)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """See `model_rows`; made once, not to be changed."""
        return model_rows(self)

    def rows_of(self, frame: pd.DataFrame) -> list[dict[str, Any]]:
        """Rows of the `frame`, or of a part of it, as dictionaries, not to be changed."""
        return self._rows if frame is self.frame else frame.to_dict("records")

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        return self.frame.to_dict("records")

    @cached_property
    def ranks(self) -> dict[str, int | None]:
        """See `statistics.ranks`."""
        return ranks(self.values)


def load_board(root: Path, name: str, reference_parameters: int | None = None) -> Board:
    """Read all records of a board and choose those that count.

    Args:
        reference_parameters: see `Board.asked_parameters`.
    """
    records, refused = read_board(root, name)
    try:
        records, superseded = _current_steps(root, name, records)
    except UserError as error:  # a damaged calibration; its records are whole
        superseded, refused = 0, [*refused, Refused(folder(root, name), str(error))]
    board, among = Board(name, refused=refused, later=superseded, asked_parameters=reference_parameters), Among(records, root)
    for attempts in _by_run(records).values():
        board.chosen.append(_choose(attempts, among))
        board.later += len(attempts) - 1
    sidecars, more = read_sidecars(root, name)
    board.refused += more
    by_run: dict[str, list[Sidecar]] = {}
    for sidecar in sidecars:
        by_run.setdefault(sidecar.run, []).append(sidecar)
    if by_run:
        found = ((r.run_id, sidecar_of(r, by_run.get(r.run_id, ()))) for r, _ in board.chosen)
        board.sidecars = {run: sidecar for run, sidecar in found if sidecar is not None}
    return board


def _current_steps(root: Path, name: str, records: list[RunRecord]) -> tuple[list[RunRecord], int]:
    """Leave out what a later calibration of a T board has replaced: all seeds of a model train N steps."""
    current = latest(read_calibrations(root, name))
    kept = [
        r
        for r in records
        if r.spec.budget.seconds is None
        or r.spec.model not in current
        or r.spec.steps == steps_in(r.spec.budget.seconds, current[r.spec.model].step_s)
    ]
    return kept, len(records) - len(kept)


def _by_run(records: Iterable[RunRecord]) -> dict[tuple[str, int, float], list[RunRecord]]:
    runs: dict[tuple[str, int, float], list[RunRecord]] = {}
    # The sort is stable, and records come in the order of their files' names.
    for record in sorted(records, key=lambda r: (r.spec.model, r.spec.seed, r.attempt)):
        # The trials of a tuning board differ in their rate as well.
        rate = record.spec.recipe.lr if record.spec.is_trial else 0.0
        runs.setdefault((record.spec.model, record.spec.seed, rate), []).append(record)
    return runs


def _choose(attempts: list[RunRecord], staleness: Among) -> tuple[RunRecord, str]:
    """The first finished attempt that is current, else the first finished (stale), else the last failure."""
    finished = [(r, staleness(r)) for r in attempts if r.status in FINAL]
    for record, stale in finished:
        if not stale:
            return record, ""
    return finished[0] if finished else (attempts[-1], staleness(attempts[-1]))


def _model_facts(record: RunRecord) -> dict[str, str]:
    """What the model is registered with here, else what it was registered with where it was trained."""
    recorded = record.provenance.registered
    return _registered(record.spec.model) or {key: recorded.get(key, "") for key in REGISTERED}


@cache
def _registered(model: str) -> dict[str, str]:
    try:
        return registration(MODELS.find(model))
    except UserError:
        return {}


def run_rows(board: Board) -> pd.DataFrame:
    """One row a run: everything that a record says in numbers."""
    import pandas as pd

    return pd.DataFrame([_run_row(record, stale, board.sidecars) for record, stale in board.chosen])


#: Columns of a model's size, as `record.Size` has them.
SIZES = tuple(Size.model_fields)


def _run_row(record: RunRecord, stale: str, sidecars: dict[str, Sidecar]) -> dict[str, Any]:
    spec, results, cost, run = record.spec, record.results, record.cost, record.run_id
    sidecar = sidecars.get(run)
    row: dict[str, Any] = {"model": spec.model, "seed": spec.seed, "status": record.status, "reason": record.reason}
    row |= {name: getattr(results, name, None) for name in ("test_acc_pct", "val_acc_pct")}
    for name in ("eq_exact_c4", "eq_exact_d4", "eq_rot_analytic"):
        row[f"{name}_init"] = getattr(getattr(results, "init", None), name, None)
        row[name] = getattr(getattr(results, "trained", None), name, None)
    row |= full_columns([sidecar] if sidecar else [])
    row["collapsed"] = getattr(getattr(results, "trained", None), "collapsed", None)
    row["equivariance_full_s"] = sidecar.phases["equivariance_full_s"] if sidecar else None
    for name in SIZES:
        row[name] = getattr(cost, name, None)
    row |= {name: getattr(results, name, None) for name in ("train_s", "step_ms", "peak_mib", "peak_kind")}
    row |= {"steps": spec.steps, "examples": spec.steps * spec.recipe.batch}
    row |= {"test_images": getattr(results, "test_images", None), "train_images": getattr(results, "train_images", None)}
    row |= {"attempt": record.attempt, "stale": stale, "run": run}
    # Wall clock of the process; the device-seconds of training above are another thing.
    row |= {f"phase_{name}": seconds for name, seconds in record.phases.items()}
    row |= {"source_hash": record.provenance.source_hash, "weights_sha256": getattr(results, "weights_sha256", None)}
    row |= {"hardware_key": record.provenance.hardware.get("hardware_key", ""), "threads": record.provenance.threads}
    row["runs_on_device"] = record.runs_on_device
    return row


def model_rows(board: Board) -> pd.DataFrame:
    """One row a model, best mean test accuracy first; failed models at the end, by name."""
    import pandas as pd

    rows = [_model_row(name, counted, board) for name, counted in board.counted.items()]
    compared = {c.model: c for c in board.against_reference}
    for row in rows:
        row |= _comparison(row["model"], board, compared.get(row["model"]))
    rows.sort(key=lambda r: (r["test_acc_mean_pct"] is None, -(r["test_acc_mean_pct"] or 0), r["model"]))
    return pd.DataFrame(rows)


def _model_row(name: str, records: list[RunRecord], board: Board) -> dict[str, Any]:
    runs, sidecars = board.runs[name], board.sidecars
    measured = [r for r in records if r.status in FINAL]
    results = [r.results for r in measured if r.results is not None]
    accuracies = [r.test_acc_pct for r in results]
    failures = [f"{r.status}: {r.reason}" for r in records if r.status != "ok"]
    spec, unmatched = records[0].spec, board.why_not_matched(name)
    average = mean(accuracies)
    row: dict[str, Any] = {"model": name, **_model_facts(records[0])}
    row["parameter_class"] = None if unmatched is None else "not matched" if unmatched else "matched"
    row["reference_parameters"] = board.reference_parameters
    row |= {"runs": len(runs), "runs_ok": sum(r.status == "ok" for r in records)}
    row |= {"status": _worst(records), "reason": failures[0] if failures else ""}
    row["test_acc_mean_pct"] = average
    row["test_acc_ci95_pct"] = interval(accuracies)
    row["test_acc_min_pct"], row["test_acc_max_pct"] = (min(accuracies), max(accuracies)) if accuracies else (None, None)
    row["test_se_binomial_pct"] = binomial_error_pct(average, results[0].test_images) if average is not None else None
    row["val_acc_mean_pct"] = mean([r.val_acc_pct for r in results])
    for metric in ("eq_exact_c4", "eq_exact_d4", "eq_rot_analytic"):
        row[f"{metric}_init"] = mean([getattr(r.init, metric) for r in results])
        row[metric] = mean([getattr(r.trained, metric) for r in results])
    full = [sidecars[r.run_id] for r in measured if r.run_id in sidecars] if sidecars else []
    row |= full_columns(full)
    row["runs_collapsed"] = sum(r.trained.collapsed for r in results)
    row["runs_equivariance_full"] = len(full)
    for cost in SIZES:
        sizes = [getattr(r.cost, cost) for r in records if r.cost is not None]
        row[cost] = sizes[0] if sizes else None
    # Times of a run that shared its device with others are no measure of the model.
    alone = [r.results for r in measured if r.results is not None and r.runs_on_device == 1]
    row["runs_timed"] = len(alone)
    row["train_s_mean"] = mean([r.train_s for r in alone])
    row["step_ms_mean"] = mean([r.step_ms for r in alone])
    row["peak_mib_max"] = max((r.peak_mib for r in results), default=None)
    row |= {"steps": spec.steps, "examples": spec.steps * spec.recipe.batch}
    row |= {"dataset": spec.dataset, "fit": spec.fit, "budget": spec.budget.name, "recipe": spec.recipe.name}
    row |= {"profile": spec.profile, "protocol": spec.protocol, "batch_norm": spec.recipe.batch_norm}
    row["stale"] = ", ".join(sorted({part for _, stale in runs for part in stale.split(", ") if part}))
    return row


def _comparison(model: str, board: Board, against: Comparison | None) -> dict[str, Any]:
    row: dict[str, Any] = {"rank": board.ranks.get(model), "reference_model": board.reference}
    row["diff_mean_pct"] = against and against.difference
    row["diff_ci95_pct"] = against and against.interval
    row["diff_pairs"] = against and against.pairs
    row |= {"p_sign_flip": against and against.p, "p_holm": against and against.p_holm}
    return row | {"p_smallest": against and against.p_smallest}


def _worst(records: list[RunRecord]) -> str:
    failed = [r.status for r in records if r.status != "ok"]
    return failed[0] if failed else "ok"


def write_board(root: Path, name: str, reference_parameters: int | None = None) -> Board:
    """Rebuild the CSVs of a board: ``<board>.csv``, one row a model, and ``<board>.runs.csv``, one row a run.

    Where others rebuild it too, the last to write may have been the first to read: whoever sees that records came
    while it wrote does it again, so that no row is left out.
    """
    for _ in range(_REBUILDS):
        files = _files(root, name)
        with without_collection():
            board = load_board(root, name)
            if board.chosen and board.is_table:
                write_atomically(root / f"{name}.csv", csv_text(board.frame).encode())
                write_atomically(root / f"{name}.runs.csv", csv_text(run_rows(board)).encode())
        if _files(root, name) == files:
            break
    # The files say classes beside the reference model, whoever writes them.
    return replace(board, asked_parameters=reference_parameters) if reference_parameters else board


#: More than enough where a few runs end at once; where records never stop coming, the last of their writers goes on.
_REBUILDS = 5


def _files(root: Path, name: str) -> list[str]:
    try:
        folder = board_folder(root, name)
    except UserError:  # no board's name, or a link: nothing is read there
        return []
    return sorted(p.name for part in (folder, folder / "equivariance") for p in part.glob("*.json"))


def csv_text(frame: pd.DataFrame) -> str:
    """A table as CSV: numbers as numbers, and no text that a spreadsheet would take for a formula.

    Such a cell gets an apostrophe before it, and so does one that begins with an apostrophe: whoever takes one away
    where there is one has every text as it was.
    """
    # Whole numbers stay whole where a value is missing.
    frame = frame.convert_dtypes()
    for column in frame.select_dtypes(include=["string", "object"]):
        texts = frame[column].dropna().unique()
        if any(_no_formula(text) != text for text in texts):
            frame[column] = frame[column].map(_no_formula, na_action="ignore")
    return frame.to_csv(index=False, lineterminator="\n")


def _no_formula(text: Any) -> Any:
    return f"'{text}" if isinstance(text, str) and (text.startswith(_FORMULA) or text.lstrip().startswith(_FORMULA)) else text


#: How texts begin that spreadsheets take for formulas, some of them after a line end or in full width; and "'".
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")
