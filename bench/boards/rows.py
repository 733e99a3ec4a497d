"""Tables of boards: one row per run, one row per model, and the CSVs derived from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...registry import MODELS, UserError
from ..records.kept_verdicts import NO, kept_verdict, worst_verdict
from ..records.provenance import REGISTERED, Provenance, machine_of, registration
from ..records.record import CORE_ERRORS, FINAL, Context, RunRecord, Size, without_garbage_collection
from ..records.sidecar import FULL_ERRORS, FULL_PREDICTIONS, Sidecar
from ..records.store import SIDECARS, board_folder, csv_files
from ..spec.suite import find_suite, plan
from ..tools.files import write_atomically
from .board import Board, load_board
from .claims import claim_columns
from .repeats import judge_repeats, repeats_text
from .row_marks import marks_text
from .statistics import Comparison, accuracy_intervals, binomial_error_pct, mean

if TYPE_CHECKING:
    import pandas as pd


def _model_facts(record: RunRecord) -> dict[str, str]:
    """The registration of the model here, else the registration in its record."""
    try:
        return registration(MODELS.find(record.spec.model))
    except UserError:
        return {key: record.provenance.registered.get(key, "") for key in REGISTERED}


def run_rows(board: Board) -> pd.DataFrame:
    """One row per run: all numbers of a record."""
    import pandas as pd

    return pd.DataFrame([_run_row(record, stale, board.sidecars) for record, stale in board.chosen])


def full_columns(sidecars: Sequence[Sidecar]) -> dict[str, float | None]:
    """The columns of the full profile, ``<metric>_init`` before and ``<metric>`` after training: means over runs."""
    init, trained = [s.init for s in sidecars], [s.trained for s in sidecars]
    columns: dict[str, float | None] = {}
    for metric in FULL_ERRORS:
        columns[f"{metric}_init"] = mean([getattr(point, metric) for point in init])
        columns[metric] = mean([getattr(point, metric) for point in trained])
    return columns | {metric: mean([getattr(point, metric) for point in trained]) for metric in FULL_PREDICTIONS}


#: Columns of a model's size, as in `record.Size`.
SIZES = tuple(Size.model_fields)
#: Columns of a row without failures.
_OK = {"status": "ok", "reason": ""}


def _run_row(record: RunRecord, stale: str, sidecars: dict[str, Sidecar]) -> dict[str, Any]:
    spec, results, made, steps = record.spec, record.results, record.provenance, record.steps_done
    sidecar, trained = sidecars.get(record.run_id), getattr(results, "trained", None)

    def of_results(*names: str) -> dict[str, Any]:
        return {name: getattr(results, name, None) for name in names}

    row: dict[str, Any] = {"model": spec.model, "seed": spec.seed, "status": record.status, "reason": record.reason}
    row |= of_results("test_acc_pct", "val_acc_pct")
    row |= claim_columns([record], _model_facts(record)["invariant"])
    for name in CORE_ERRORS:
        row[f"{name}_init"] = getattr(getattr(results, "init", None), name, None)
        row[name] = getattr(trained, name, None)
    row |= full_columns([sidecar] if sidecar else [])
    row["collapsed"] = getattr(trained, "collapsed", None)
    row["equivariance_full_s"] = sidecar.phases["equivariance_full_s"] if sidecar else None
    row |= {name: getattr(record.cost, name, None) for name in SIZES}
    row |= of_results("train_s", "step_ms", "host_ms")
    row["launch_bound"] = getattr(results, "is_launch_bound", None)
    row |= of_results("peak_mib", "evaluation_peak_mib", "peak_kind")
    row |= {"steps": steps, "examples": None if steps is None else steps * spec.recipe.batch}
    row |= of_results("test_images", "train_images")
    row |= {"attempt": record.attempt, "stale": stale, "run": record.run_id}
    # Wall-clock time of the process, unlike the device-seconds of training above.
    row |= {f"phase_{name}": seconds for name, seconds in record.phases.items()}
    row |= {"source_hash": made.source_hash, **of_results("weights_sha256")}
    return row | {
        "hardware_key": made.hardware.get("hardware_key", ""), "threads": made.threads,
        "runs_on_device": record.runs_on_device, "checked": made.checked, "commit": made.commit,
        "harness_hash": made.harness_hash, "machine": machine_of(made.hardware),
        "processor": made.hardware.get("cpu", ""), "torch": made.versions.get("torch", ""), "started": made.started,
    }  # fmt: skip


def model_rows(board: Board) -> pd.DataFrame:
    """One row per model, best mean test accuracy first; failed models at the end, by name."""
    import pandas as pd

    compared = {c.model: c for c in board.against_reference}
    rows = [
        _model_row(name, counted, board) | _comparison(name, board, compared.get(name))
        for name, counted in board.counted.items()
    ]
    rows.sort(key=lambda r: (r["test_acc_mean_pct"] is None, -(r["test_acc_mean_pct"] or 0), r["model"]))
    return pd.DataFrame(rows)


#: Shorter trainings, in seconds, say nothing about the evenness of a machine.
_LEAST_COMPARED_S = 1.0


def _model_row(name: str, records: list[RunRecord], board: Board) -> dict[str, Any]:
    runs, sidecars = board.runs[name], board.sidecars
    measured = [r for r in board.averaged[name] if r.status in FINAL]
    results = [r.results for r in measured if r.results is not None]
    # The accuracy of a diverged run, which is chance level, counts. Its time and its weights do not count, because it
    # did not train for its whole budget.
    completed = [(r, r.results) for r in measured if r.status == "ok" and r.results is not None]
    accuracies = [r.test_acc_pct for r in results]
    failed = next((r for r in records if r.status != "ok"), None)
    spec, unmatched = records[0].spec, board.why_not_matched(name)
    average = mean(accuracies)
    row: dict[str, Any] = {"model": name, **_model_facts(records[0])}
    row["parameter_class"] = None if unmatched is None else "not matched" if unmatched else "matched"
    row["reference_parameters"] = board.reference_parameters
    row |= {"runs": len(runs), "runs_ok": sum(r.status == "ok" for r in records)}
    row |= {"status": failed.status, "reason": f"{failed.status}: {failed.reason}"} if failed else _OK
    if name in board.mixed:
        row |= {"status": "error", "reason": board.mixed[name]}
    row["repeated"] = repeats_text(judge_repeats(board, name))
    row["checked"] = worst_verdict(_checked(r, board) for r in records if r.status in FINAL)
    row["test_acc_mean_pct"] = average
    sample = board.samples.get(name)
    halves = accuracy_intervals(sample) if sample is not None else None
    row["test_acc_ci95_pct"], row["test_acc_ci95_seeds_pct"] = halves or (None, None)
    row["test_acc_ci95_over"] = _over(sample.is_by_image) if sample is not None and halves else ""
    row |= {"test_acc_min_pct": min(accuracies, default=None), "test_acc_max_pct": max(accuracies, default=None)}
    row["test_se_binomial_pct"] = binomial_error_pct(average, results[0].test_images) if average is not None else None
    row["val_acc_mean_pct"] = mean([r.val_acc_pct for r in results])
    row |= claim_columns([r for r, _ in completed], row["invariant"])
    for metric in CORE_ERRORS:
        row[f"{metric}_init"] = mean([getattr(r.init, metric) for r in results])
        row[metric] = mean([getattr(r.trained, metric) for _, r in completed])
    full = [sidecars[r.run_id] for r in measured if r.run_id in sidecars] if sidecars else []
    row |= full_columns(full)
    row["runs_collapsed"] = sum(r.trained.collapsed for _, r in completed)
    row["runs_equivariance_full"] = len(full)
    for cost in SIZES:
        sizes = [getattr(r.cost, cost) for r in records if r.cost is not None and name not in board.mixed]
        row[cost] = max(sizes, default=None)  # the maximum, because some buffers start to learn late in a run
    # Times of a run on a shared device do not measure the model.
    alone = [results for r, results in completed if r.runs_on_device == 1]
    row["runs_timed"] = len(alone)
    row["runs_shared"] = sum(r.runs_on_device > 1 for r, _ in completed)
    row["runs_diverged"] = sum(r.status == "diverged" for r in records)
    row["train_s_mean"] = mean([r.train_s for r in alone])
    row["step_ms_mean"] = mean([r.step_ms for r in alone])
    long = [r.step_ms for r in alone if r.train_s >= _LEAST_COMPARED_S and r.step_ms]
    row["step_ms_ratio"] = max(long) / min(long) if len(long) > 1 else None
    row["host_ms_mean"] = mean([r.host_ms for r in alone])
    row["runs_launch_bound"] = sum(r.is_launch_bound for r in alone)
    row["peak_mib_max"] = max((r.peak_mib for r in results), default=None)
    apart = (r.evaluation_peak_mib for r in results if r.evaluation_peak_mib is not None)
    row["evaluation_peak_mib_max"] = max(apart, default=None)
    row["peak_kind"] = " and ".join(sorted({r.peak_kind for r in results}))
    spent = next((r.spec for r, _ in completed), None)
    row |= {"steps": spent and spent.steps, "examples": spent and spent.steps * spent.recipe.batch}
    row |= {"dataset": spec.dataset, "fit": spec.fit, "budget": spec.budget.name, "recipe": spec.recipe.name}
    row |= {"profile": spec.profile, "protocol": spec.protocol, "batch_norm": spec.recipe.batch_norm}
    row["stale"] = ", ".join(sorted({part for _, stale in runs for part in stale.split(", ") if part}))
    row["marks"] = marks_text(row)
    return row


def _checked(record: RunRecord, board: Board) -> str:
    """The last verdict on the source of a run: it may have been made after the run."""
    source = record.provenance.source_hash
    key = (record.spec.model, source)
    if board.root is not None and key not in board.verdicts:
        board.verdicts[key] = kept_verdict(board.root, record.spec.model, source)
    found = board.verdicts.get(key, NO)
    return record.provenance.checked if found == NO else found


#: Columns of the comparison with the reference, and the attributes of `Comparison` that they show.
COMPARED = {
    "diff_mean_pct": "difference", "diff_ci95_pct": "interval", "diff_ci95_seeds_pct": "interval_seeds",
    "diff_ci95_over": "by_image", "diff_pairs": "pairs", "p": "p", "p_holm": "p_holm", "comparisons": "family",
    "p_sign_flip": "p_sign_flip", "p_smallest": "p_smallest", "diff_detectable_pct": "detectable",
}  # fmt: skip


def compared_columns(against: Comparison | None) -> dict[str, Any]:
    """A comparison as columns; without a comparison, all of them are empty."""
    row = {column: getattr(against, attribute, None) for column, attribute in COMPARED.items()}
    over = _over(against.by_image) if against is not None and against.interval is not None else ""
    return row | {"diff_ci95_over": over}


def _over(by_image: bool) -> str:
    """The sources of variation that an interval covers."""
    return "seeds and images" if by_image else "seeds"


def _comparison(model: str, board: Board, against: Comparison | None) -> dict[str, Any]:
    low, high = board.ranks.get(model) or (None, None)
    return {"rank_low": low, "rank_high": high, "reference_model": board.reference, **compared_columns(against)}


def column_names() -> dict[str, list[str]]:
    """The columns of the two CSVs: ``models`` with one row per model, and ``runs`` with one row per run."""
    spec = plan(find_suite("smoke"))[0]
    nothing = Provenance.of(None, also={}, source_hash="", hardware={}, threads=1, command="")
    context = Context(suite="", parameter_class="as-published", reference_parameters=None, reference_model=None)
    record = RunRecord.without_result(spec=spec, context=context, provenance=nothing)
    board = Board(spec.board, chosen=[(record, "")])
    models = {**_model_row(spec.model, [record], board), **_comparison(spec.model, board, None)}
    return {"models": list(models), "runs": list(_run_row(record, "", {}))}


def write_board(root: Path, name: str, reference_parameters: int | None = None) -> Board:
    """Rebuild the CSVs of a board: ``<board>.csv``, one row per model, and ``<board>.runs.csv``, one row per run.

    Several processes may rebuild it at the same time, and the last one to write may have read the oldest records. So a
    process repeats the rebuild if new records appeared while it wrote.
    """
    for _ in range(_REBUILDS):
        files = _files(root, name)
        with without_garbage_collection():
            board = load_board(root, name)
            if board.chosen and board.is_table:
                write_tables(root, board)
        if _files(root, name) == files:
            break
    # The classes in the files are always relative to the reference model.
    return replace(board, asked_parameters=reference_parameters) if reference_parameters else board


def write_tables(folder: Path, board: Board) -> list[Path]:
    """Write the two CSVs of the rows of a board; returns their paths."""
    paths = csv_files(folder, board.name)
    for path, frame in zip(paths, (board.frame, run_rows(board)), strict=True):
        write_atomically(path, csv_text(frame).encode())
    return list(paths)


#: Largest number of rebuilds. If new records still appear, their writers rebuild the CSVs again.
_REBUILDS = 5


def _files(root: Path, name: str) -> list[str]:
    try:
        folder = board_folder(root, name)
    except UserError:  # not a board's name, or a link: nothing is read
        return []
    return sorted(p.name for part in (folder, folder / SIDECARS) for p in part.glob("*.json"))


def csv_text(frame: pd.DataFrame) -> str:
    """A table as CSV: numbers are numbers, and no text is read as a formula by a spreadsheet or as a missing value by
    pandas.

    Such a text gets an apostrophe before it, and so does a text that begins with an apostrophe. Removing one apostrophe
    from every text that begins with one restores the original.
    """
    # Whole numbers stay whole if a value is missing.
    frame = frame.convert_dtypes()
    for column in frame.select_dtypes(include=["string", "object"]):
        if any(_as_text(text) != text for text in frame[column].dropna().unique()):
            frame[column] = frame[column].map(_as_text, na_action="ignore")
    return str(frame.to_csv(index=False, lineterminator="\n"))


def _as_text(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    return f"'{text}" if text.startswith(_FORMULA) or text.lstrip().startswith(_FORMULA) or text in _MISSING else text


#: Texts that pandas reads as a missing value by default (without ``keep_default_na=False``), except the empty text.
_MISSING = (
    "#N/A", "#N/A N/A", "#NA", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
#: First characters of texts that spreadsheets read as formulas, also after a line end or in full width; and "'".
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")
