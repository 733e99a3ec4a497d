"""From records to tables: one row a run, one row a model, and the CSVs derived from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..registry import MODELS, UserError
from .budget import steps_in
from .calibrate import folder, latest, read_calibrations
from .checked import NO, checked, worst
from .claims import claim_columns
from .classes import counts_of, why_not_matched
from .files import write_atomically
from .outcomes import outcomes_path, read_distances
from .provenance import REGISTERED, machine_of, registration
from .record import CORE_ERRORS, FINAL, Refused, RunRecord, Size, board_folder, read_board, without_collection
from .sidecar import Sidecar, full_columns, read_sidecars, sidecar_of
from .staleness import Among, when
from .statistics import (
    Comparison, Sample, accuracy_intervals, binomial_error_pct, compare, compare_all, mean, rank_sets, told_apart,
)  # fmt: skip
from .words import some

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass
class Board:
    """A board as its records say it.

    Attributes:
        chosen: the record of each (model, seed) that counts, with the reason why it is stale (or "").
        later: number of further attempts of the same runs.
        refused: files among the records that are none.
        sidecars: full equivariance profiles, by the id of the run whose row they join.
        root: results folder that it was read from.
        verdicts: of `equibench check`, by model and source hash, as far as they were looked up.
        outcomes: which test images they are of, and the predictions' distances from the labels (0 is right), (images,),
            by the id of the run.
        asked_parameters: the count that a reader compares parameters with, instead of the reference model's.
    """

    name: str
    chosen: list[tuple[RunRecord, str]] = field(default_factory=list)
    later: int = 0
    refused: list[Refused] = field(default_factory=list)
    sidecars: dict[str, Sidecar] = field(default_factory=dict)
    root: Path | None = None
    verdicts: dict[tuple[str, str], str] = field(default_factory=dict)
    outcomes: dict[str, tuple[str, np.ndarray]] = field(default_factory=dict)
    asked_parameters: int | None = None

    @property
    def is_table(self) -> bool:
        """Smoke runs, and trials that chose a rate, are barred from tables."""
        return any(r.spec.budget.kind != "smoke" and not r.spec.is_trial for r, _ in self.chosen)

    @cached_property
    def values(self) -> dict[str, dict[int, float]]:
        """Test accuracy in % of every measured run, by model and seed."""
        return {model: dict(sample.values) for model, sample in self.samples.items()}

    @cached_property
    def samples(self) -> dict[str, Sample]:
        """The measured runs of every model that has any, as `statistics` takes them."""
        measured = {model: [r for r in own if _is_measured(r)] for model, own in self.averaged.items()}
        return {model: self._sample(own) for model, own in measured.items() if own}

    def _sample(self, records: list[RunRecord]) -> Sample:
        results = {r.spec.seed: r.results for r in records if r.results is not None}
        known = {r.spec.seed: self.outcomes[r.run_id] for r in records if r.run_id in self.outcomes}
        sets = {name for name, _ in known.values()}
        # Outcomes of two test sets make no table.
        right = {seed: (own == 0).view("u1") for seed, (_, own) in known.items()} if len(sets) == 1 else {}
        diverged = sum(r.status == "diverged" for r in records)
        collapsed = sum(r.trained.collapsed for r in results.values()) if not diverged else 0
        void = f"{diverged} of {some(len(records), 'run')} diverged, which counts as chance level" if diverged else ""
        void = f"the logits of {collapsed} of {some(len(records), 'run')} hardly depend on the image" if collapsed else void
        return Sample(
            {seed: r.test_acc_pct for seed, r in results.items()}, min(r.test_images for r in results.values()), right,
            next(iter(sets)) if right else "", void,
        )  # fmt: skip

    @cached_property
    def counted(self) -> dict[str, list[RunRecord]]:
        """The runs that the figures of each model are of: those that are current; where none is measured, the newest.

        So no mean is of runs of two programs, two recipes or two sets of data.
        """
        current = {model: [r for r, stale in own if not stale] for model, own in self.runs.items()}
        return {
            model: current[model] if any(r.status in FINAL for r in current[model]) else _newest([r for r, _ in own])
            for model, own in self.runs.items()
        }

    @cached_property
    def mixed(self) -> dict[str, str]:
        """Models whose counted runs trained networks of different size, each with a sentence: of them there is no mean.

        The sources agree, so that something that nobody sees decides what is built: the environment, the clock, a file.
        """
        sizes = {model: [r.cost for r in own if r.status in FINAL and r.cost] for model, own in self.counted.items()}
        return {model: sentence for model, own in sizes.items() if (sentence := _how_they_differ(model, own))}

    @cached_property
    def averaged(self) -> dict[str, list[RunRecord]]:
        """What is `counted`, without the models that are `mixed`."""
        return {model: [] if model in self.mixed else own for model, own in self.counted.items()}

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
        return compare(self.samples, self.reference) if self.reference else []

    @cached_property
    def all_pairs(self) -> list[Comparison]:
        """Every model against every other, one family."""
        return compare_all(self.samples)

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

    def agreement(self, model: str, other: str) -> float | None:
        """Share of images, in %, of which two models predict the same class, right or wrong: mean over common seeds.

        None where no common seed has outcomes of the same images for both.
        """
        own, his = (
            {r.spec.seed: self.outcomes[r.run_id] for r in self.counted[m] if r.run_id in self.outcomes} for m in (model, other)
        )
        pairs = [(own[s], his[s]) for s in sorted(own.keys() & his.keys())]
        return mean([100 * float((a == b).mean()) for (of, a), (also, b) in pairs if of == also])

    @cached_property
    def told(self) -> np.ndarray:
        """See `statistics.told_apart`, in the order of `values`."""
        return told_apart(self.samples)

    @cached_property
    def ranks(self) -> dict[str, tuple[int, int] | None]:
        """Lowest and highest rank of every model that has values, see `statistics.rank_sets`."""
        return dict(zip(self.samples, rank_sets(self.told), strict=True))

    @cached_property
    def best(self) -> set[str]:
        """Models that rank 1 is possible for: the ones that tables show in bold."""
        return {model for model, rank in self.ranks.items() if rank is not None and rank[0] == 1}


def _is_measured(record: RunRecord) -> bool:
    return record.status in FINAL and record.results is not None and not record.spec.is_trial


#: What the runs of a row must agree in; training FLOPs may differ where layers are dropped at random.
_SAME = {"parameters": "parameters", "frozen": "frozen numbers", "buffers": "buffers", "flops_per_image": "FLOPs an image"}


def _how_they_differ(model: str, sizes: list[Size]) -> str:
    found = {words: sorted({getattr(size, key, 0) for size in sizes}) for key, words in _SAME.items()}
    parts = [f"{' and '.join(f'{n:,}' for n in own[:4])} {words}" for words, own in found.items() if len(own) > 1]
    if not parts:
        return ""
    return f"no mean is formed: the runs of {model} are of different networks, of {'; of '.join(parts)}"


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
    board = Board(name, refused=refused, later=superseded, root=root, asked_parameters=reference_parameters)
    among = Among(records, root)
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
    _read_outcomes(root, board)
    return board


def _read_outcomes(root: Path, board: Board) -> None:
    """Add the outcomes of the runs whose figures are shown; those that are missing are, those that are wrong refused."""
    for record in (r for own in board.counted.values() for r in own if _is_measured(r)):
        path = outcomes_path(root, record)
        if path is None or not path.exists():
            continue
        try:
            found, distances = read_distances(root, record)
        except UserError as error:
            board.refused.append(Refused(path, str(error)))
            continue
        # The same labels may belong to other images.
        board.outcomes[record.run_id] = f"{record.provenance.data_digest} {found.labels_sha256}", distances


def _current_steps(root: Path, name: str, records: list[RunRecord]) -> tuple[list[RunRecord], int]:
    """Leave out what a later calibration of a T board has replaced: all seeds of a model train N steps."""
    current = latest(read_calibrations(root, name))
    kept = [
        r
        for r in records
        if r.spec.budget.seconds is None
        or r.spec.model not in current
        or r.spec.steps == steps_in(r.spec.budget.seconds, current[r.spec.model].exact_step_s)
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
    """The first finished attempt that is current; else the first of the newest program (stale); else the last failure."""
    finished = [(r, staleness(r)) for r in attempts if r.status in FINAL]
    if not finished:
        return attempts[-1], staleness(attempts[-1])
    current = [attempt for attempt in finished if not attempt[1]]
    # What was replaced once does not come back when the row becomes stale again.
    newest = {id(record) for record in _newest([record for record, _ in finished])}
    return (current or [attempt for attempt in finished if id(attempt[0]) in newest])[0]


def _newest(records: list[RunRecord]) -> list[RunRecord]:
    """Of the measured runs, those of the program and the data of the one that began last; the others as they are."""
    measured = [r for r in records if r.status in FINAL]
    if not measured:
        return records
    last = max(measured, key=when).provenance
    return [
        r
        for r in records
        if r.status not in FINAL
        or (r.provenance.source_hash, r.provenance.data_digest) == (last.source_hash, last.data_digest)
    ]


def _model_facts(record: RunRecord) -> dict[str, str]:
    """What the model is registered with here, else what it was registered with where it was trained."""
    try:
        return registration(MODELS.find(record.spec.model))
    except UserError:
        return {key: record.provenance.registered.get(key, "") for key in REGISTERED}


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
    row |= claim_columns([record], _model_facts(record)["invariant"])
    for name in CORE_ERRORS:
        row[f"{name}_init"] = getattr(getattr(results, "init", None), name, None)
        row[name] = getattr(getattr(results, "trained", None), name, None)
    row |= full_columns([sidecar] if sidecar else [])
    row["collapsed"] = getattr(getattr(results, "trained", None), "collapsed", None)
    row["equivariance_full_s"] = sidecar.phases["equivariance_full_s"] if sidecar else None
    for name in SIZES:
        row[name] = getattr(cost, name, None)
    row |= {name: getattr(results, name, None) for name in ("train_s", "step_ms", "peak_mib", "peak_kind")}
    steps = record.steps_done
    row |= {"steps": steps, "examples": None if steps is None else steps * spec.recipe.batch}
    row |= {"test_images": getattr(results, "test_images", None), "train_images": getattr(results, "train_images", None)}
    row |= {"attempt": record.attempt, "stale": stale, "run": run}
    # Wall clock of the process; the device-seconds of training above are another thing.
    row |= {f"phase_{name}": seconds for name, seconds in record.phases.items()}
    row |= {"source_hash": record.provenance.source_hash, "weights_sha256": getattr(results, "weights_sha256", None)}
    row |= {"hardware_key": record.provenance.hardware.get("hardware_key", ""), "threads": record.provenance.threads}
    row |= {"runs_on_device": record.runs_on_device, "checked": record.provenance.checked}
    made = record.provenance
    row |= {"commit": made.commit, "harness_hash": made.harness_hash, "machine": machine_of(made.hardware)}
    row |= {"torch": made.versions.get("torch", ""), "started": made.started}
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
    measured = [r for r in board.averaged[name] if r.status in FINAL]
    results = [r.results for r in measured if r.results is not None]
    # A run that diverged counts with its accuracy, which is chance level. It spent less than its budget, so that its
    # time is that of no training, and its weights are those of none.
    completed = [(r, r.results) for r in measured if r.status == "ok" and r.results is not None]
    accuracies = [r.test_acc_pct for r in results]
    failures = [f"{r.status}: {r.reason}" for r in records if r.status != "ok"]
    spec, unmatched = records[0].spec, board.why_not_matched(name)
    average = mean(accuracies)
    row: dict[str, Any] = {"model": name, **_model_facts(records[0])}
    row["parameter_class"] = None if unmatched is None else "not matched" if unmatched else "matched"
    row["reference_parameters"] = board.reference_parameters
    row |= {"runs": len(runs), "runs_ok": sum(r.status == "ok" for r in records)}
    row |= {"status": _worst(records), "reason": failures[0] if failures else ""}
    if name in board.mixed:
        row |= {"status": "error", "reason": board.mixed[name]}
    row["checked"] = worst(_checked(r, board) for r in records if r.status in FINAL)
    row["test_acc_mean_pct"] = average
    sample = board.samples.get(name)
    halves = accuracy_intervals(sample) if sample is not None else None
    row["test_acc_ci95_pct"], row["test_acc_ci95_seeds_pct"] = halves or (None, None)
    row["test_acc_ci95_over"] = _over(sample.is_by_image) if sample is not None and halves else ""
    row["test_acc_min_pct"], row["test_acc_max_pct"] = (min(accuracies), max(accuracies)) if accuracies else (None, None)
    row["test_se_binomial_pct"] = binomial_error_pct(average, results[0].test_images) if average is not None else None
    row["val_acc_mean_pct"] = mean([r.val_acc_pct for r in results])
    row |= claim_columns((r for r, _ in completed), row["invariant"])
    for metric in CORE_ERRORS:
        row[f"{metric}_init"] = mean([getattr(r.init, metric) for r in results])
        row[metric] = mean([getattr(r.trained, metric) for _, r in completed])
    full = [sidecars[r.run_id] for r in measured if r.run_id in sidecars] if sidecars else []
    row |= full_columns(full)
    row["runs_collapsed"] = sum(r.trained.collapsed for _, r in completed)
    row["runs_equivariance_full"] = len(full)
    for cost in SIZES:
        sizes = [getattr(r.cost, cost) for r in records if r.cost is not None and name not in board.mixed]
        row[cost] = max(sizes, default=None)  # of buffers, those that learn late count in every run that came so far
    # Times of a run that shared its device with others are no measure of the model.
    alone = [results for r, results in completed if r.runs_on_device == 1]
    row["runs_timed"] = len(alone)
    row["train_s_mean"] = mean([r.train_s for r in alone])
    row["step_ms_mean"] = mean([r.step_ms for r in alone])
    row["peak_mib_max"] = max((r.peak_mib for r in results), default=None)
    spent = next((r.spec for r, _ in completed), None)
    row |= {"steps": spent and spent.steps, "examples": spent and spent.steps * spent.recipe.batch}
    row |= {"dataset": spec.dataset, "fit": spec.fit, "budget": spec.budget.name, "recipe": spec.recipe.name}
    row |= {"profile": spec.profile, "protocol": spec.protocol, "batch_norm": spec.recipe.batch_norm}
    row["stale"] = ", ".join(sorted({part for _, stale in runs for part in stale.split(", ") if part}))
    return row


def _checked(record: RunRecord, board: Board) -> str:
    """The last verdict on the source of a run: it may have been made after the run."""
    source = record.provenance.source_hash
    key = (record.spec.model, source)
    if board.root is not None and key not in board.verdicts:
        board.verdicts[key] = checked(board.root, record.spec.model, source)
    found = board.verdicts.get(key, NO)
    return record.provenance.checked if found == NO else found


#: Columns of the comparison with the reference, and the attributes of `Comparison` that they show.
COMPARED = {
    "diff_mean_pct": "difference", "diff_ci95_pct": "interval", "diff_ci95_seeds_pct": "interval_seeds",
    "diff_ci95_over": "by_image", "diff_pairs": "pairs", "p": "p", "p_holm": "p_holm", "comparisons": "family",
    "p_sign_flip": "p_sign_flip", "p_smallest": "p_smallest", "diff_detectable_pct": "detectable",
}  # fmt: skip


def compared_columns(against: Comparison | None) -> dict[str, Any]:
    """A comparison as columns, all of them empty without one."""
    row = {column: getattr(against, attribute, None) for column, attribute in COMPARED.items()}
    return row | {"diff_ci95_over": _over(against.by_image) if against is not None and against.interval is not None else ""}


def _over(by_image: bool) -> str:
    """What an interval is over: what another experiment would draw anew."""
    return "seeds and images" if by_image else "seeds"


def _comparison(model: str, board: Board, against: Comparison | None) -> dict[str, Any]:
    low, high = board.ranks.get(model) or (None, None)
    return {"rank_low": low, "rank_high": high, "reference_model": board.reference, **compared_columns(against)}


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
    """A table as CSV: numbers as numbers, no text that a spreadsheet would take for a formula or pandas for a missing value.

    Such a cell gets an apostrophe before it, and so does one that begins with an apostrophe: whoever takes one away
    where there is one has every text as it was.
    """
    # Whole numbers stay whole where a value is missing.
    frame = frame.convert_dtypes()
    for column in frame.select_dtypes(include=["string", "object"]):
        texts = frame[column].dropna().unique()
        if any(_as_text(text) != text for text in texts):
            frame[column] = frame[column].map(_as_text, na_action="ignore")
    return frame.to_csv(index=False, lineterminator="\n")


def _as_text(text: Any) -> Any:
    special = isinstance(text, str) and (text.startswith(_FORMULA) or text.lstrip().startswith(_FORMULA) or text in _MISSING)
    return f"'{text}" if special else text


#: What pandas reads as a missing value unless it is told ``keep_default_na=False``, the empty text left out.
_MISSING = (
    "#N/A", "#N/A N/A", "#NA", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip


#: How texts begin that spreadsheets take for formulas, some of them after a line end or in full width; and "'".
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")
