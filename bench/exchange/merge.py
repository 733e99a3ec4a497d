"""Adds the results of other machines to a results folder.

Every file is checked as untrusted input: schema, both hashes in its name, its board, and whether its budget was used.
The same record is written once. If a run exists already with different content, the new record is kept as a further
attempt. So a merge does not change existing rows.

A record is written after its outcomes and before its sidecars; every file is written completely or not at all. After
an interruption, the same command can be repeated.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeVar

from ...registry import UserError
from ..boards.rows import write_board
from ..records.calibration import Calibration, latest, read_calibration, read_calibrations
from ..records.outcomes import labels_path, outcomes_path, read_distances, read_predictions
from ..records.provenance import machine_of
from ..records.record import FINAL, RunRecord, read_all, read_record, without_garbage_collection
from ..records.sidecar import ReplayVerdict, Sidecar, read_sidecar, read_verdict
from ..records.store import REPLAYS, SIDECARS, board_folder, board_names, calibrations_folder, exchanged_files
from ..runner.tune import add_tuned
from ..spec.budget import steps_in
from ..spec.recipe import TUNED, read_tuned, tuned_recipe
from ..spec.suite import tuned_file
from ..tools.files import ensure_writable, write_exclusively
from ..tools.schema import parse_toml, read_text, visible
from .archive import opened

Kind = Literal["record", "sidecar", "verdict", "calibration", "recipe"]
State = Literal["new", "known", "further attempt", "refused"]
STATES: tuple[State, ...] = ("new", "known", "further attempt", "refused")
F = TypeVar("F", Sidecar, ReplayVerdict)
#: Largest attempt number in a source. Attempts have at most a million numbers, so there is room for further ones.
MOST_ATTEMPTS = 10_000


@dataclass(frozen=True)
class MergedFile:
    """A file of a source (its name without folder), what was done with it, and why: a refusal, or another number.

    `record` is the content of a record; None for other files and unreadable ones.
    """

    board: str
    kind: Kind
    name: str
    state: State
    why: str = ""
    record: RunRecord | None = None


@dataclass
class Merged:
    """The result of a merge: all files in the order of sources, boards and names."""

    files: list[MergedFile] = field(default_factory=list)

    @property
    def boards(self) -> list[str]:
        """Boards with accepted files."""
        return sorted({a.board for a in self.files if a.state != "refused"})

    def of(self, *states: State) -> list[MergedFile]:
        return [a for a in self.files if a.state in states]

    def by_board(self) -> Iterator[tuple[str, list[MergedFile], list[int]]]:
        """Each board, its files, and for each of `STATES` the number of records; refused files of every kind count."""
        for board in dict.fromkeys(a.board for a in self.files):
            own = [a for a in self.files if a.board == board]
            states = Counter(a.state for a in own if a.kind == "record" or a.state == "refused")
            yield visible(board), own, [states[state] for state in STATES]


def merge(sources: Sequence[Path], root: Path, dry_run: bool = False) -> Merged:
    """Add the results of folders and archives to the results folder `root`, and rebuild the boards.

    Nothing is written to `root` in a `dry_run`, and if a source is refused as a whole (UserError).
    """
    done = Merged()
    with ExitStack() as stack:
        folders = [stack.enter_context(opened(source)) for source in sources]
        for source, folder in zip(sources, folders, strict=True):
            if folder.resolve() == root.resolve():
                raise UserError(f"{source}: this is the results folder itself; name another one with --results")
        if dry_run:
            root = stack.enter_context(copied(root, {board for folder in folders for board in board_names(folder)}))
        ensure_writable(root, "results")
        for folder in folders:
            with without_garbage_collection():
                for board in board_names(folder):
                    done.files += _BoardMerge(folder, root, board).take()
            done.files += _merge_tuned(folder, root)
    for board in done.boards if not dry_run else ():
        write_board(root, board)
    return done


@contextmanager
def copied(root: Path, boards: Iterable[str]) -> Iterator[Path]:
    """A temporary copy of these boards of a results folder, without weights and logs."""
    with TemporaryDirectory(prefix="equibench-") as folder:
        copy = Path(folder) / "results"
        for board in sorted(boards):
            for path in [*exchanged_files(root, [board]), tuned_file(root, board)]:
                if path.is_file() and not path.is_symlink():
                    target = copy / path.relative_to(root)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, target)
        yield copy


class _BoardMerge:
    """The files of one board of one source."""

    def __init__(self, folder: Path, root: Path, board: str) -> None:
        self.folder, self.root, self.board = folder, root, board
        self.files: list[MergedFile] = []
        self.local: dict[str, list[RunRecord]] = {}
        self.names: dict[str, list[Path]] = {}
        #: For accepted records: the run id here and the digest of the weights, by the run id in the source.
        self.here: dict[str, list[tuple[str, str]]] = {}

    def take(self) -> list[MergedFile]:
        try:
            theirs, ours = board_folder(self.folder, self.board), board_folder(self.root, self.board)
        except UserError as error:
            return [MergedFile(self.board, "record", self.board, "refused", str(error))]
        for path in ours.glob("*.json"):
            self.names.setdefault(path.name.partition(".")[0], []).append(path)
        calibrated, records = self._calibrations(), []
        for path in sorted(theirs.glob("*.json"), key=lambda p: p.name):
            try:
                record = read_record(path)
                self._check(record, calibrated)
                if (ours / path.name).exists():
                    read_record(ours / path.name)  # a damaged record here is reported, and stays
                records.append(record)
            except UserError as error:
                self._refuse("record", path, str(error))
        for record in sorted(records, key=lambda r: (r.attempt, r.file_name)):
            self._take_record(record)
        self._follow("sidecar", SIDECARS, read_sidecar, self._sidecar_here)
        self._follow("verdict", REPLAYS, read_verdict, self._verdict_here)
        return self.files

    def _check(self, record: RunRecord, calibrated: list[Calibration]) -> None:
        """Refuse (UserError) a record without its outcomes, or with other steps than those of a calibration here."""
        if record.attempt > MOST_ATTEMPTS:
            most = f"attempt {record.attempt:,}, but at most {MOST_ATTEMPTS:,} are allowed"
            raise UserError(f"{record.file_name}: {most}")
        if outcomes_path(self.folder, record) is not None:
            read_predictions(self.folder, record)
        seconds, spec = record.spec.budget.seconds, record.spec
        if seconds is None or record.status not in FINAL:
            return
        steps = {steps_in(seconds, c.exact_step_s) for c in calibrated if c.model == spec.model and not c.confirms}
        if steps and spec.steps not in steps:
            raise UserError(
                f"{record.file_name}: {spec.model} trained {spec.steps:,} steps, but this board's calibration gives"
                f" {min(steps):,}; machines that share a board of device-seconds must share a calibration"
            )

    def _take_record(self, record: RunRecord) -> None:
        there = self._there(record.spec.digest())
        same = next((r for r in there if r.file_name == record.file_name or r.identity == record.identity), None)
        kept, why = same or record, ""
        state: State = "known"
        if same is None:
            state = "new"
            if any(r.attempt == record.attempt for r in there):
                numbers = {"attempt": max(r.attempt for r in there) + 1}
                numbers["first_attempt"] = record.first_attempt or record.attempt
                state, kept = "further attempt", record.model_copy(update=numbers)
                why = f"run {record.run_id} exists here with different content; kept as attempt {kept.attempt}"
            there.append(kept)
        weights = record.results.weights_sha256 if record.results else ""
        self.here.setdefault(record.run_id, []).append((kept.run_id, weights))
        self._write_outcomes(record, kept)
        if same is None:
            path = board_folder(self.root, self.board) / kept.file_name
            if kept.file_name == record.file_name:
                _copy(board_folder(self.folder, self.board) / record.file_name, path)
            else:
                _write(path, kept.canonical() + "\n")
        self.files.append(MergedFile(self.board, "record", record.file_name, state, why, kept))

    def _there(self, digest: str) -> list[RunRecord]:
        """The records of a spec in the results folder, with those added in this merge."""
        if digest not in self.local:  # reading the board reports refused files
            self.local[digest], _ = read_all(self.names.get(digest, ()), read_record)
        return self.local[digest]

    def _write_outcomes(self, record: RunRecord, kept: RunRecord) -> None:
        """Write the outcomes and labels of a record before the record itself, as a run does."""
        source, target = outcomes_path(self.folder, record), outcomes_path(self.root, kept)
        if source is None or target is None or kept.results != record.results:
            return
        _copy(source, target)
        found, _ = read_distances(self.folder, record)
        _copy(labels_path(self.folder, self.board, found), labels_path(self.root, self.board, found))

    def _calibrations(self) -> list[Calibration]:
        """Add the calibrations that agree with those here; returns all calibrations.

        If a model has a calibration here, only its continuations are added: others would replace the number of steps of
        the runs here.
        """
        try:
            known = read_calibrations(self.root, self.board)
        except UserError as error:  # damaged calibrations cannot be compared
            raise UserError(f"{error}; repair the results folder first") from error
        theirs: dict[Path, Calibration] = {}
        for path in sorted(calibrations_folder(self.folder, self.board).glob("*.json")):
            try:
                theirs[path] = read_calibration(path)
            except UserError as error:
                self._refuse("calibration", path, str(error))
        ours = latest(known)
        own = {c.canonical() for c in known}
        shared = {c.model for c in theirs.values() if c.model in ours and c == ours[c.model]}
        for path, calibration in theirs.items():
            state: State = "known" if calibration.canonical() in own else "new"
            if state == "new" and calibration.model in ours and calibration.model not in shared:
                why = f"{path.name}: {calibration.model} has another calibration here, and its runs have used that one"
                self._refuse("calibration", path, why)
                continue
            if state == "new":
                known.append(calibration)
                _copy(path, calibrations_folder(self.root, self.board) / path.name)
            self.files.append(MergedFile(self.board, "calibration", path.name, state))
        return known

    def _follow(self, kind: Kind, part: str, read: Callable[[Path], F], here: Callable[[F], list[F]]) -> None:
        """Add the files of a subfolder that belong to records, with the run ids that these have here."""
        target = board_folder(self.root, self.board) / part
        there = {p.name for p in target.glob("*.json")}
        for path in sorted((board_folder(self.folder, self.board) / part).glob("*.json")):
            try:
                content = read(path)
                found = here(content)
            except UserError as error:
                self._refuse(kind, path, str(error))
                continue
            for own in found:
                name = path.name if own == content else own.file_name
                state: State = "known" if name in there else "new"
                there.add(name)
                if state == "new" and own == content:
                    _copy(path, target / name)
                elif state == "new":
                    _write(target / name, own.canonical() + "\n")
                self.files.append(MergedFile(self.board, kind, path.name, state))

    def _sidecar_here(self, sidecar: Sidecar) -> list[Sidecar]:
        names = [run for run, weights in self.here.get(sidecar.run, ()) if weights == sidecar.weights_sha256]
        if not names:
            raise UserError(f"{sidecar.file_name}: no accepted record has this run {sidecar.run} with these weights")
        return [sidecar.model_copy(update={"run": run}) for run in names]

    def _verdict_here(self, verdict: ReplayVerdict) -> list[ReplayVerdict]:
        runs, again = self.here.get(verdict.run, ()), self.here.get(verdict.again, ())
        if not runs or (verdict.again and not again):
            raise UserError(f"{verdict.file_name}: no accepted record has the runs that this verdict is about")
        # If an attempt has two records, the verdict is given to the first one, as in `find_run`.
        update = {"run": runs[0][0], "again": again[0][0] if again else ""}
        return [verdict.model_copy(update=update)]

    def _refuse(self, kind: Kind, path: Path, why: str) -> None:
        # Messages do not show the temporary folder of an unpacked archive.
        shown = why.replace(f"{self.folder}/", "")
        self.files.append(MergedFile(self.board, kind, visible(path.name), "refused", shown))


def _copy(source: Path, target: Path) -> None:
    if not target.exists():
        _write(target, read_text(source, link=False))


def _write(path: Path, text: str) -> None:
    with suppress(FileExistsError):  # the name holds the hash of the content
        write_exclusively(path, text.encode())


def devices(files: Iterable[MergedFile]) -> Counter[str]:
    """The devices of the records, and the number of records of each."""
    found = (a.record.provenance.hardware for a in files if a.record is not None)
    return Counter(machine_of(hardware).split(";")[0] or "unknown" for hardware in found)


def versions(files: Iterable[MergedFile]) -> Counter[str]:
    """The releases of equibench and torch of the records, and the number of records of each."""
    found = (a.record.provenance.versions for a in files if a.record is not None)
    return Counter(f"equibench {v.get('equibench', '?')}, torch {v.get('torch', '?')}" for v in found)


def _merge_tuned(folder: Path, root: Path) -> Iterator[MergedFile]:
    """Add the tuned recipes of models without a recipe to the files of their boards; existing recipes are kept."""
    for path in sorted((folder / TUNED).glob("*.toml")):
        state: State = "refused"
        why = ""
        try:
            board_folder(root, path.stem)  # refuses names that are not names of boards
            state = _take_tuned(path, tuned_file(root, path.stem))
        except UserError as error:
            why = str(error).replace(f"{folder}/", "")
        yield MergedFile(path.stem, "recipe", path.name, state, why)


def _take_tuned(path: Path, ours: Path) -> State:
    theirs, there = _recipes(path, parse_toml(read_text(path, link=False), str(path))), _recipes(ours, read_tuned(ours))
    new = {model: recipe for model, recipe in theirs.items() if model not in there}
    if new:
        add_tuned(ours, new)
    others = [model for model, recipe in theirs.items() if there.get(model, recipe) != recipe]
    if others:
        raise UserError(f"{path.name}: {', '.join(others[:5])} has another tuned recipe here, which is kept")
    return "new" if new else "known"


def _recipes(path: Path, tables: dict[str, Any]) -> dict[str, Any]:
    recipes = {model: tuned_recipe(TUNED, model, tables, path) for model in tables}
    return {model: recipe.model_dump(exclude={"name"}, exclude_none=True) for model, recipe in recipes.items()}
