"""A board, made from its records: which records count, and their common figures."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...registry import UserError, nearest
from ..records.calibration import latest, read_calibrations
from ..records.outcomes import outcomes_path, read_distances
from ..records.record import FINAL, VARYING, RefusedFile, RunRecord, Size, read_board
from ..records.sidecar import Sidecar, read_sidecars, sidecar_of
from ..records.size_classes import why_not_matched
from ..records.staleness import BoardStaleness, start_order
from ..records.store import board_names, calibrations_folder
from ..spec.budget import steps_in
from ..spec.suite import AD_HOC
from ..tools.text import follow_up_command, plural
from .repeats import find_repeats
from .statistics import Comparison, Sample, compare, compare_all, mean, rank_sets, significant_differences

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from ..spec.suite import Suite


@dataclass
class Board:
    """A board, made from its records.

    Attributes:
        chosen: the record that counts for each (model, seed), with the reason why it is stale (or "").
        others: further attempts of the same runs, and runs that a later calibration replaced.
        refused: files that were refused as records.
        sidecars: full equivariance profiles, by the id of the run whose row they join.
        root: results folder that it was read from.
        data_root: folder of the data sets, if the call that made the board was given one.
        verdicts: of `equibench check`, by model and source hash, as far as they were looked up.
        outcomes: by the id of the run: an identifier of its test images, and the distances of its predictions from the
            labels (0 is right), (images,).
        repeats: further attempts that repeat a chosen run, see `repeats`, by the file name of the chosen run.
        asked_parameters: the requested reference count of parameters, instead of the reference model's.
        asked_reference: the requested reference model, instead of the one in most runs' suites.
        suite: the suite whose rows these are; empty if the board has all its rows.
        title: title of that suite.
    """

    name: str
    chosen: list[tuple[RunRecord, str]] = field(default_factory=list)
    others: list[RunRecord] = field(default_factory=list)
    refused: list[RefusedFile] = field(default_factory=list)
    sidecars: dict[str, Sidecar] = field(default_factory=dict)
    root: Path | None = None
    data_root: str | Path | None = None
    verdicts: dict[tuple[str, str], str] = field(default_factory=dict)
    outcomes: dict[str, tuple[str, NDArray[Any]]] = field(default_factory=dict)
    repeats: dict[str, list[RunRecord]] = field(default_factory=dict)
    asked_parameters: int | None = None
    asked_reference: str | None = None
    suite: str = ""
    title: str = ""

    def of_suite(self, suite: Suite) -> Board:
        """The board with only the rows of a suite: its models, seeds and reference, and comparisons over these rows."""
        models, seeds = suite.models, suite.seed_list
        kept = self._of_runs(lambda record: record.spec.model in models and record.spec.seed in seeds)
        return replace(
            kept,
            suite="" if suite.name == AD_HOC else suite.name,
            title=suite.title,
            asked_parameters=self.asked_parameters or suite.reference_parameters,
            asked_reference=suite.reference_model,
        )

    def without(self, patterns: Sequence[str]) -> Board:
        """The board without the models that match a shell pattern; the comparisons leave them out too."""
        if not patterns:
            return self
        return self._of_runs(lambda record: not any(fnmatch.fnmatchcase(record.spec.model, p) for p in patterns))

    def _of_runs(self, is_kept: Callable[[RunRecord], bool]) -> Board:
        chosen = [(r, stale) for r, stale in self.chosen if is_kept(r)]
        return replace(self, chosen=chosen, others=list(filter(is_kept, self.others)))

    @property
    def is_table(self) -> bool:
        """Whether the board has a table; boards of smoke runs and of tuning trials have none."""
        return any(r.spec.budget.kind != "smoke" and not r.spec.is_trial for r, _ in self.chosen)

    @property
    def why_no_table(self) -> str:
        """A sentence that says which runs a board without a table has."""
        what = "trials of learning rates" if self.chosen[0][0].spec.is_trial else "smoke runs"
        return f"{self.name}: {what}, which are not shown in tables"

    @cached_property
    def values(self) -> dict[str, dict[int, float]]:
        """Test accuracy in % of every measured run, by model and seed."""
        return {model: dict(sample.values) for model, sample in self.samples.items()}

    @cached_property
    def samples(self) -> dict[str, Sample]:
        """The measured runs of every model with results, for `statistics`."""
        measured = {model: [r for r in own if _is_measured(r)] for model, own in self.averaged.items()}
        return {model: self._sample(own) for model, own in measured.items() if own}

    def _sample(self, records: list[RunRecord]) -> Sample:
        results = {r.spec.seed: r.results for r in records if r.results is not None}
        known = {r.spec.seed: self.outcomes[r.run_id] for r in records if r.run_id in self.outcomes}
        sets = {name for name, _ in known.values()}
        # Predictions on different test sets cannot be combined.
        right = {seed: (own == 0).view("u1") for seed, (_, own) in known.items()} if len(sets) == 1 else {}
        test_set, images = next(iter(sets)) if right else "", min(r.test_images for r in results.values())
        count, void = plural(len(records), "run"), ""
        if diverged := sum(r.status == "diverged" for r in records):
            void = f"{diverged} of {count} diverged, which counts as chance level"
        elif collapsed := sum(r.trained.collapsed for r in results.values()):
            void = f"the logits of {collapsed} of {count} hardly depend on the image"
        return Sample({seed: r.test_acc_pct for seed, r in results.items()}, images, right, test_set, void)

    @cached_property
    def counted(self) -> dict[str, list[RunRecord]]:
        """The runs behind the figures of each model: the current ones; if none is measured, the newest.

        So a mean never mixes runs of different code, recipes or data.
        """
        current = {model: [r for r, stale in own if not stale] for model, own in self.runs.items()}
        return {
            model: current[model] if any(r.status in FINAL for r in current[model]) else _newest([r for r, _ in own])
            for model, own in self.runs.items()
        }

    @cached_property
    def mixed(self) -> dict[str, str]:
        """Models whose counted runs trained networks of different size, each with a sentence; they have no mean.

        Their sources agree, so something else decides what is built: the environment, the clock, a file.
        """
        sizes = {model: [r.cost for r in own if r.status in FINAL and r.cost] for model, own in self.counted.items()}
        return {model: sentence for model, own in sizes.items() if (sentence := _how_they_differ(model, own))}

    @cached_property
    def averaged(self) -> dict[str, list[RunRecord]]:
        """The `counted` runs, without the models that are `mixed`."""
        return {model: [] if model in self.mixed else own for model, own in self.counted.items()}

    @cached_property
    def runs(self) -> dict[str, list[tuple[RunRecord, str]]]:
        """The `chosen` runs, by model."""
        found: dict[str, list[tuple[RunRecord, str]]] = {}
        for record, stale in self.chosen:
            found.setdefault(record.spec.model, []).append((record, stale))
        return found

    @cached_property
    def reference(self) -> str | None:
        """The reference model, if it has a result: the requested one, else the one in most runs' suites."""
        if self.asked_reference in self.values:
            return self.asked_reference
        named = Counter(r.context.reference_model for r, _ in self.chosen)
        there = [(-count, name) for name, count in named.items() if name in self.values]
        return min(there)[1] if there else None

    @cached_property
    def reference_parameters(self) -> int | None:
        """The reference count of parameters: the requested one, else that of the reference model."""
        sizes = (r.cost for r in self.counted.get(self.reference or "", ()) if r.cost is not None)
        return self.asked_parameters or next((size.parameters for size in sizes), None)

    def why_not_matched(self, model: str) -> str | None:
        """See `size_classes.why_not_matched`, for all counted runs of the model; None if nothing can be compared."""
        sizes = [r.cost for r in self.counted[model] if r.cost is not None]
        if self.reference_parameters is None or not sizes:
            return None
        return next(filter(None, (why_not_matched(self.reference_parameters, size) for size in sizes)), "")

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
        """See `rows.model_rows`; made once, do not change it."""
        from .rows import model_rows

        return model_rows(self)

    def rows_of(self, frame: pd.DataFrame) -> list[dict[str, Any]]:
        """Rows of the `frame`, or of a part of it, as dictionaries; do not change them."""
        return self._rows if frame is self.frame else frame.to_dict("records")

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        return list(self.frame.to_dict("records"))

    def agreement(self, model: str, other: str) -> float | None:
        """Share of images, in %, for which two models predict the same class, right or wrong: mean over common seeds.

        None if no common seed has predictions on the same images for both.
        """
        own, his = (
            {r.spec.seed: self.outcomes[r.run_id] for r in self.counted[m] if r.run_id in self.outcomes}
            for m in (model, other)
        )
        pairs = [(own[s], his[s]) for s in sorted(own.keys() & his.keys())]
        return mean([100 * float((a == b).mean()) for (of, a), (also, b) in pairs if of == also])

    @cached_property
    def significance(self) -> NDArray[Any]:
        """See `statistics.significant_differences`, in the order of `values`."""
        return significant_differences(self.samples)

    @cached_property
    def ranks(self) -> dict[str, tuple[int, int] | None]:
        """Lowest and highest rank of every model that has values, see `statistics.rank_sets`."""
        return dict(zip(self.samples, rank_sets(self.significance), strict=True))

    @cached_property
    def best(self) -> set[str]:
        """Models for which rank 1 is possible; tables show them in bold."""
        return {model for model, rank in self.ranks.items() if rank is not None and rank[0] == 1}


def _is_measured(record: RunRecord) -> bool:
    return record.status in FINAL and record.results is not None and not record.spec.is_trial


def _how_they_differ(model: str, sizes: list[Size]) -> str:
    # Training FLOPs may differ if layers are dropped at random.
    found = {
        "parameters": sorted({size.parameters for size in sizes}),
        "frozen numbers": sorted({size.frozen for size in sizes}),
        "buffers": sorted({size.buffers for size in sizes}),
        "FLOPs per image": sorted({size.flops_per_image for size in sizes if VARYING not in size.uncounted}),
    }
    parts = [f"{' and '.join(f'{n:,}' for n in own[:4])} {words}" for words, own in found.items() if len(own) > 1]
    if not parts:
        return ""
    return f"there is no mean: the runs of {model} are of different networks, with {'; with '.join(parts)}"


def find_board(name: str, root: Path) -> str:
    """A board's name as given, or with its version left out.

    Raises:
        UserError: there is no such board in the results folder.
    """
    names = board_names(root)
    fits = [n for n in names if n == name or n.rpartition("-v")[0] == name]
    if not fits:
        raise UserError(f"there is no board {name!r} in {root}; {nearest_board(name, names)}")
    return fits[-1]


def nearest_board(name: str, names: Sequence[str]) -> str:
    """The known names that are most similar to a name of a board; without any, how to make a board."""
    return nearest(name, names) if names else f"there are no boards yet; {_how_to_make_one()}"


def no_boards_reason(root: Path) -> str:
    """A sentence if a results folder has no boards."""
    return f"there are no boards in {root}; {_how_to_make_one()}"


def _how_to_make_one() -> str:
    return f"{follow_up_command('run', 'quickstart')} makes one"


def load_board(root: Path, name: str, reference_parameters: int | None = None) -> Board:
    """Read all records of a board and choose those that count; `reference_parameters` is `Board.asked_parameters`."""
    records, refused = read_board(root, name)
    try:
        records, replaced = _current_steps(root, name, records)
    except UserError as error:  # a damaged calibration; its records are whole
        replaced, refused = [], [*refused, RefusedFile(calibrations_folder(root, name), str(error))]
    board = Board(name, refused=refused, others=replaced, root=root, asked_parameters=reference_parameters)
    among = BoardStaleness(records, root)
    for attempts in _by_run(records).values():
        chosen, stale = _choose(attempts, among)
        board.chosen.append((chosen, stale))
        if repeats := find_repeats(chosen, attempts):
            board.repeats[chosen.file_name] = repeats
        board.others += [record for record in attempts if record is not chosen]
    sidecars, more = read_sidecars(root, name)
    by_run: dict[str, list[Sidecar]] = {}
    for sidecar in sidecars:
        by_run.setdefault(sidecar.run, []).append(sidecar)
    for record, _ in board.chosen if by_run else ():
        if found := sidecar_of(record, by_run.get(record.run_id, ())):
            board.sidecars[record.run_id] = found
    board.refused += [*more, *_read_outcomes(root, board)]
    return board


def _read_outcomes(root: Path, board: Board) -> Iterator[RefusedFile]:
    """Add the recorded predictions of the runs whose figures are shown; wrong files are refused, missing files are
    ignored.
    """
    for record in (r for own in board.counted.values() for r in own if _is_measured(r)):
        path = outcomes_path(root, record)
        if path is None or not path.exists():
            continue
        try:
            found, distances = read_distances(root, record)
        except UserError as error:
            yield RefusedFile(path, str(error))
        else:
            # The same labels may belong to other images.
            board.outcomes[record.run_id] = f"{record.provenance.data_digest} {found.labels_sha256}", distances


def _current_steps(root: Path, name: str, records: list[RunRecord]) -> tuple[list[RunRecord], list[RunRecord]]:
    """The runs of a board, and those that a later calibration of a T board has replaced: all seeds of a model train N
    steps.
    """
    current = latest(read_calibrations(root, name))
    kept, replaced = list[RunRecord](), list[RunRecord]()
    for record in records:
        spec = record.spec
        is_current = (
            spec.budget.seconds is None
            or spec.model not in current
            or spec.steps == steps_in(spec.budget.seconds, current[spec.model].exact_step_s)
        )
        (kept if is_current else replaced).append(record)
    return kept, replaced


def _by_run(records: Iterable[RunRecord]) -> dict[tuple[str, int, float], list[RunRecord]]:
    runs: dict[tuple[str, int, float], list[RunRecord]] = {}
    # The sort is stable, and records are in the order of their file names.
    for record in sorted(records, key=lambda r: (r.spec.model, r.spec.seed, r.attempt)):
        # The trials of a tuning board differ in their rate as well.
        rate = record.spec.recipe.lr if record.spec.is_trial else 0.0
        runs.setdefault((record.spec.model, record.spec.seed, rate), []).append(record)
    return runs


def _choose(attempts: list[RunRecord], staleness: BoardStaleness) -> tuple[RunRecord, str]:
    """The first finished attempt that is current; else the first of the newest code (stale); else the last failure."""
    finished = [r for r in attempts if r.status in FINAL]
    if not finished:
        return attempts[-1], staleness(attempts[-1])
    stale = [(r, staleness(r)) for r in finished]
    # A replaced run does not come back when the row becomes stale again.
    newest = [id(record) for record in _newest(finished)]
    return next((found for found in stale if not found[1]), None) or next(f for f in stale if id(f[0]) in newest)


def _newest(records: list[RunRecord]) -> list[RunRecord]:
    """The measured runs with the same code and data as the last one, and all runs without a measurement."""
    measured = [r for r in records if r.status in FINAL]
    if not measured:
        return records
    last = max(measured, key=start_order).provenance
    own = last.source_hash, last.data_digest
    return [r for r in records if r.status not in FINAL or (r.provenance.source_hash, r.provenance.data_digest) == own]
