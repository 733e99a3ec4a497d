"""Checks whether rows may enter the published boards.

The contribution is merged into a temporary copy of the published results. Neither of the two folders is changed.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...registry import DATASETS, UserError, include
from ..boards.board import Board, load_board
from ..boards.repeats import repeat_notes
from ..boards.rows import csv_text, run_rows
from ..boards.terminal_table import rank_text
from ..check.session import BUDGET, check_model
from ..publish.bibtex import is_known_source, sources_of
from ..records.outcomes import outcomes_path, read_distances
from ..records.record import FINAL, RunRecord
from ..records.sidecar import read_sidecars
from ..records.staleness import is_known, staleness
from ..records.store import board_names, csv_files, exchanged_files
from ..records.verdict import Verdict
from ..spec.suite import PROTOCOL
from ..tools.files import results_root
from ..tools.schema import Strict, read_text
from ..tools.text import plural
from .archive import opened
from .merge import Merged, copied, merge

#: Paths of a machine: absolute paths with at least two parts, paths in a home folder, paths of Windows.
_PATH = re.compile(r"(?<![\w.:/])/(?!/)[\w.+-]+/\S|(?<![\w/])~\w*/|\b[A-Za-z]:[\\/](?!/)|\\\\[\w.-]+\\|\bfile:/")
#: Parts of cells that come from verdicts of `check`: these are local to one machine.
_VERDICTS = {"checked": ".*", "marks": "(; |^)(not checked|check failed)"}
#: Counts that must be equal for a model built here and the networks of its records.
_COUNTED = ("parameters", "frozen", "flops_per_image")


@dataclass
class Judgement:
    """The result of `validate`.

    Attributes:
        problems: reasons why the rows may not enter; empty if they may.
        warnings: notes for the reviewer.
        merged: the files of the contribution.
        boards: each board with new rows, before (None if it is new) and after.
        verdicts: of `check`, by model and data set.
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    merged: Merged = field(default_factory=Merged)
    boards: list[tuple[Board | None, Board]] = field(default_factory=list)
    verdicts: dict[tuple[str, str], Verdict] = field(default_factory=dict)

    @property
    def accepted(self) -> bool:
        return not self.problems

    @property
    def new(self) -> list[RunRecord]:
        """The records that are not published yet."""
        came = self.merged.of("new", "further attempt")
        return [a.record for a in came if a.record is not None]


def validate(
    source: Path,
    published: Path | None = None,
    *,
    complete: bool = False,
    includes: Iterable[str] = (),
    deadline_s: float = 120.0,
    check: Callable[..., Verdict] = check_model,
    listen: Callable[[str], None] = lambda _: None,
) -> Judgement:
    """Judge a contribution.

    Args:
        source: a results folder, or an archive of one.
        published: the results folder that it would enter; default as everywhere.
        complete: whether the contribution replaces the published folder, as in a pull request: then no published file
            may be missing or changed.
        includes: files that register its models and data sets.
        deadline_s: time limit of each check of a model in seconds.
        listen: called with the name of each check.

    Raises:
        UserError: the source is not a results folder or archive, or is the published folder itself.
    """
    include(includes := [str(Path(path).resolve()) for path in includes])
    published, found = results_root(published, "against"), Judgement()
    with opened(source) as folder:
        if folder.resolve() == published.resolve():
            raise UserError(f"{source}: these are the published results themselves; give another folder with --against")
        with copied(published, board_names(folder)) as scratch:
            found.merged = merge([folder], scratch)
            found.problems += [f"`{a.board}`: {a.why}" for a in found.merged.of("refused")]
            found.warnings += [a.why for a in found.merged.of("further attempt")]
            _judge_boards(found, published, scratch)
            known: dict[object, str] = {}
            for record in found.new:
                problems = record_problems(record, scratch, known)
                found.problems += [f"`{record.file_name}`: {why}" for why in problems]
            found.problems += list(_foreign_sidecars(found, scratch))
            found.problems += list(_edited_tables(folder, published, complete))
            found.problems += list(_missing(folder, published)) if complete else []

    def checked(model: str, dataset: str, budget: str) -> Verdict:
        listen(f"check {model}")
        return check(model, dataset=dataset, budget=budget, includes=includes, deadline_s=deadline_s)

    _judge_models(found, checked)
    return found


def record_problems(record: RunRecord, root: Path, known: dict[object, str] | None = None) -> list[str]:
    """Reasons why a valid record may not be published; arguments as for `staleness.staleness`."""
    spec, made, problems = record.spec, record.provenance, []
    if spec.budget.kind == "smoke" or spec.is_trial:
        problems.append("smoke runs and trials of learning rates are not shown in tables")
    if spec.protocol != PROTOCOL:
        problems.append(f"it is of protocol {spec.protocol}, but new runs have protocol {PROTOCOL}")
    if not is_known(spec.model):
        advice = "add its file to models/, or give it with --include"
        problems.append(f"the source of {spec.model} is not available; {advice}")
    elif spec.dataset not in DATASETS.entries():
        problems.append(f"the data set {spec.dataset} is not registered here")
    elif changed := staleness(record, root, known):
        problems.append(f"its {changed} differs from the one here; run it again, or contribute that version")
    if record.status in FINAL and record.results is not None:
        results = record.results
        missing = {
            "the outcomes of each image": results.outcomes_sha256,
            "the digest of its weights": results.weights_sha256,
            "the digest of its data": made.data_digest,
            "the hash of its source": made.source_hash,
            "the versions of its packages": made.versions.get("torch", ""),
        }
        problems += [f"it does not have {what}" for what, value in missing.items() if not value]
    return problems + foreign(record)


def foreign(document: Strict) -> list[str]:
    """Problems with paths and names of a machine in a record or a sidecar."""
    content = document.model_dump(mode="json")
    host = content["provenance"]["hardware"].pop("host", "")
    texts = [text for text in _texts(content) if _PATH.search(text)]
    problems = [f"it contains a path of a machine: {text[:120]!r}" for text in texts[:3]]
    if host and not re.fullmatch("[0-9a-f]{16}", host):
        problems.append(f"it contains the name of a machine: {host[:60]!r}; this release records a hash instead")
    return problems


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        parts = [part for pair in value.items() for part in pair] if isinstance(value, dict) else value
        for part in parts:
            yield from _texts(part)


def _foreign_sidecars(found: Judgement, scratch: Path) -> Iterator[str]:
    new = {(a.board, a.name) for a in found.merged.of("new") if a.kind == "sidecar"}
    for board in sorted({board for board, _ in new}):
        for sidecar in read_sidecars(scratch, board)[0]:
            if (board, sidecar.file_name) in new:
                yield from (f"`{sidecar.file_name}`: {why}" for why in foreign(sidecar))


def _judge_boards(found: Judgement, published: Path, scratch: Path) -> None:
    """Collect the boards with new rows, before and after, and their problems and warnings."""
    for name in dict.fromkeys(record.spec.board for record in found.new):
        before = load_board(published, name) if name in board_names(published) else None
        after = load_board(scratch, name)
        found.boards.append((before, after))
        new = [record for record in found.new if record.spec.board == name]
        if before is not None:
            found.problems += _other_images(before, published, new, scratch)
            found.warnings += _about_rows(before, after, new)
        found.warnings += [f"`{name}`: {note}" for note in repeat_notes(after)]
        for record in new:
            if record.status not in FINAL:
                why = f"{record.status}: {record.reason}"
                found.warnings.append(f"{record.spec.model} seed {record.spec.seed} has no result ({why})")
            found.warnings += [f"{record.spec.model} seed {record.spec.seed}: {text}" for text in record.warnings]


def _other_images(before: Board, published: Path, new: list[RunRecord], scratch: Path) -> list[str]:
    """Problems with runs that have other data or labels than their board."""
    counted = [r for own in before.counted.values() for r in own if r.status in FINAL]
    digests = {r.provenance.data_digest for r in counted} - {""}
    labels = set(_labels(published, counted[:1]))
    problems = []
    for record in (r for r in new if r.status in FINAL):
        if digests and record.provenance.data_digest not in digests:
            problems.append(f"`{record.file_name}`: its data differ from those of the rows of {before.name}")
        elif labels and not set(_labels(scratch, [record])) <= labels:
            problems.append(f"`{record.file_name}`: the labels of its test images differ from those of {before.name}")
    return problems


def _labels(root: Path, records: Iterable[RunRecord]) -> Iterator[str]:
    for record in records:
        path = outcomes_path(root, record)
        if path is not None and path.is_file():
            yield read_distances(root, record)[0].labels_sha256


def _about_rows(before: Board, after: Board, new: list[RunRecord]) -> list[str]:
    seeds = {r.spec.seed for r, _ in before.chosen}
    warnings = []
    for model in dict.fromkeys(r.spec.model for r in new):
        own = {r.spec.seed for r, _ in after.runs[model]}
        if not own & seeds:
            rows = f"the other rows of `{before.name}`"
            warnings.append(f"{model} has no seed in common with {rows}: no paired comparison")
    stale = [m for m, own in after.runs.items() if any(s for _, s in own)]
    was = [m for m, own in before.runs.items() if any(s for _, s in own)]
    return warnings + [f"the row of {m} on `{before.name}` becomes stale" for m in stale if m not in was]


def _judge_models(found: Judgement, check: Callable[[str, str, str], Verdict]) -> None:
    """Run `check` on every model with new rows, for each data set; compare source and counts, look up citations."""
    for record in found.new:
        model, dataset, budget = record.spec.model, record.spec.dataset, record.spec.budget
        if not is_known(model) or dataset not in DATASETS.entries():
            continue
        if (model, dataset) not in found.verdicts:
            try:
                verdict = check(model, dataset, budget.name if budget.kind == "E" else BUDGET)
            except UserError as error:
                found.problems.append(f"{model} cannot be checked for {dataset}: {error}")
                verdict = Verdict(model, "", "", "")
            found.verdicts[model, dataset] = verdict
            bad = [f for f in verdict.findings if f.status in ("fail", "skip")]
            for finding in [f for f in bad if f.status == "fail"] or bad[:1]:
                found.problems.append(f"{model} does not pass `equibench check`: {finding.check}: {finding.says}")
            why = "has no entry in bench/publish/sources.toml; it is cited as plain text"
            found.warnings += [f"{source} {why}" for source in sources_of([model]) if not is_known_source(source)]
        verdict = found.verdicts[model, dataset]
        if verdict.source_hash and verdict.source_hash != record.provenance.source_hash:
            found.problems.append(f"`{record.file_name}`: {model} has another source here")
        for name in _COUNTED if record.cost is not None and verdict.dataset == dataset else ():
            here, there = verdict.row.get(name), getattr(record.cost, name)
            if here is not None and here != there:
                why = f"{name} is {there:,}, but {model} built here has {here:,.0f}"
                found.problems.append(f"`{record.file_name}`: {why}")


def _edited_tables(folder: Path, published: Path, complete: bool) -> Iterator[str]:
    """Problems with CSVs that differ from their records."""
    owners = {path: board for board in board_names(folder) for path in csv_files(folder, board)}
    for path in sorted(folder.glob("*.csv")):
        if path.name == "reported.csv" or _same_file(path, published / path.name):
            continue
        if (name := owners.get(path)) is None:
            yield f"`{path.name}`: there are no records of this board; tables are made from records only"
            continue
        board = load_board(folder, name)
        made = csv_text(run_rows(board) if path == csv_files(folder, name)[1] else board.frame)
        if not board.is_table or (why := _difference(read_text(path, link=False), made)):
            why = why if board.is_table else "smoke runs and trials have no table"
            yield f"`{path.name}` is not what the records say ({why}); `equibench leaderboard {name}` makes it"
    for name in board_names(folder) if complete else ():
        path, _ = csv_files(folder, name)
        if not path.exists() and load_board(folder, name).is_table:
            yield f"`{path.name}` is missing; `equibench leaderboard {name}` makes it"


def _same_file(path: Path, other: Path) -> bool:
    return other.is_file() and read_text(path, link=False) == read_text(other)


def _difference(said: str, made: str) -> str:
    """The first cell in which two CSVs differ by more than rounding; empty if there is none."""
    tables = [list(csv.reader(io.StringIO(text))) for text in (said, made)]
    header, *rows = tables[1]
    if tables[0][:1] != [header]:
        return "other columns"
    if len(tables[0]) - 1 != len(rows):
        return f"{plural(len(tables[0]) - 1, 'row')}, not {len(rows)}"
    for was, own in zip(tables[0][1:], rows, strict=True):
        for column, a, b in zip(header, was, own, strict=False):
            if column in _VERDICTS:
                a, b = (re.sub(_VERDICTS[column], "", cell).removeprefix("; ") for cell in (a, b))
            if a != b and not _close(a, b):
                return f"{own[0]}: {column} is {a[:40] or 'empty'}, not {b[:40] or 'empty'}"
        if len(was) != len(own):
            return f"{own[0]}: a row of {len(was)} cells"
    return ""


def _close(a: str, b: str) -> bool:
    try:
        return math.isclose(float(a), float(b), rel_tol=1e-6)
    except ValueError:
        return False


def _missing(folder: Path, published: Path) -> Iterator[str]:
    """Problems with published files that a contribution removes or changes."""
    for path in sorted(exchanged_files(published, board_names(published))):
        name = path.relative_to(published)
        if not (folder / name).is_file():
            yield f"`{name}` is published, but missing here; results are never removed"
        elif not _same_file(folder / name, path):
            yield f"`{name}` is published with different content; records are never changed"


def rank_changes(before: Board | None, after: Board) -> list[str]:
    """The changes of ranks on a board, by model."""
    changes = []
    for model in after.ranks:
        now = rank_text(after.ranks.get(model)) or "none"
        if before is None or model not in before.runs:
            changes.append(f"{model} enters with rank {now}")
        elif (was := rank_text(before.ranks.get(model)) if model in before.ranks else "none") != now:
            changes.append(f"{model}: rank {was or 'none'} → {now}")
    return changes
