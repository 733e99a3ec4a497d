"""Bringing the results of others into a results folder.

Every file is read as a stranger's: schema, both hashes in its name, the board that it says, and whether its budget was
spent. The same record is written once. Where a run is there already with another content, what comes is kept as a
further attempt, so that the row that a board shows does not change by what others bring.

A record is written after its outcomes and before its sidecars, each file whole or not at all. So a merge that was
interrupted is repeated by the same command.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, TypeVar

from ...registry import UserError
from ..boards.rows import write_board
from ..records.calibration import Calibration, latest, read_calibration, read_calibrations
from ..records.outcomes import outcomes_path, read_distances, read_predictions
from ..records.provenance import machine_of
from ..records.record import FINAL, RunRecord, read_record, without_garbage_collection
from ..records.replay_verdict import ReplayVerdict, read_verdict
from ..records.sidecar import Sidecar, read_sidecar
from ..records.store import (
    board_folder,
    board_names,
    calibrations_folder,
    outcomes_folder,
    replays_folder,
    sidecar_folder,
)
from ..spec.budget import steps_in
from ..spec.suite import tuned_file
from ..tools.files import ensure_writable, write_exclusively
from ..tools.schema import read_text, visible
from .archive import PARTS, opened
from .tuned import merge_tuned

Kind = Literal["record", "sidecar", "verdict", "calibration", "recipe"]
State = Literal["new", "known", "further attempt", "refused"]
STATES: tuple[State, ...] = ("new", "known", "further attempt", "refused")
F = TypeVar("F", Sidecar, ReplayVerdict)
#: What comes leaves room for the numbers of further attempts, which are at most a million.
MOST_ATTEMPTS = 10_000


@dataclass(frozen=True)
class Arrival:
    """A file that came, and what became of it.

    Attributes:
        name: of the file, without its folder.
        why: of what was refused, and of a further attempt which one.
        record: what it holds, of a record that was read.
    """

    board: str
    kind: Kind
    name: str
    state: State
    why: str = ""
    record: RunRecord | None = None


@dataclass
class Merged:
    """What a merge came to, file by file in the order of sources, boards and names."""

    arrivals: list[Arrival] = field(default_factory=list)

    @property
    def boards(self) -> list[str]:
        """Boards of which something came that is, or was before, in the results folder."""
        return sorted({a.board for a in self.arrivals if a.state != "refused"})

    def of(self, *states: State) -> list[Arrival]:
        return [a for a in self.arrivals if a.state in states]


def merge(sources: Sequence[Path], root: Path, dry_run: bool = False) -> Merged:
    """Bring the results of folders and archives into the results folder `root`, and rebuild the boards.

    Args:
        dry_run: write nothing there; say what would be done.

    Raises:
        UserError: a source is none, or an archive that is refused as a whole (then nothing is written), or `root`
            cannot be written.
    """
    done = Merged()
    with ExitStack() as stack:
        folders = [stack.enter_context(opened(source)) for source in sources]
        for source, folder in zip(sources, folders, strict=True):
            if folder.resolve() == root.resolve():
                raise UserError(f"{source}: this is the results folder itself; name another one with --results")
        if dry_run:
            root = stack.enter_context(copied(root, {board for folder in folders for board in board_names(folder)}))
        ensure_writable(root)
        for folder in folders:
            with without_garbage_collection():
                for board in board_names(folder):
                    done.arrivals += _Incoming(folder, root, board).take()
            done.arrivals += [
                Arrival(board, "recipe", name, state, why) for board, name, state, why in merge_tuned(folder, root)
            ]
    for board in done.boards if not dry_run else ():
        write_board(root, board)
    return done


@contextmanager
def copied(root: Path, boards: Iterable[str]) -> Iterator[Path]:
    """A copy of what a results folder holds of these boards, without weights and logs, for as long as the context
    lasts.
    """
    with TemporaryDirectory(prefix="equibench-") as folder:
        copy = Path(folder) / "results"
        for board in sorted(boards):
            paths = [p for part in ("", *PARTS) for p in (root / "runs" / board / part).glob("*.json")]
            for path in [*paths, tuned_file(root, board)]:
                if path.is_file() and not path.is_symlink():
                    target = copy / path.relative_to(root)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, target)
        yield copy


class _Incoming:
    """The files of one board of one source."""

    def __init__(self, folder: Path, root: Path, board: str) -> None:
        self.folder, self.root, self.board = folder, root, board
        self.arrivals: list[Arrival] = []
        self.local: dict[str, list[RunRecord]] = {}
        self.names: dict[str, list[Path]] = {}
        #: What a run of the source is called here, with the digest of its weights; only of records that were accepted.
        self.here: dict[str, list[tuple[str, str]]] = {}

    def take(self) -> list[Arrival]:
        try:
            theirs, ours = board_folder(self.folder, self.board), board_folder(self.root, self.board)
        except UserError as error:
            return [Arrival(self.board, "record", self.board, "refused", str(error))]
        for path in ours.glob("*.json"):
            self.names.setdefault(path.name.partition(".")[0], []).append(path)
        calibrated, records = self._calibrations(), []
        for path in sorted(theirs.glob("*.json"), key=lambda p: p.name):
            try:
                record = read_record(path)
                self._check(record, calibrated)
                if (ours / path.name).exists():
                    read_record(ours / path.name)  # one that is damaged here is named, and stays
                records.append(record)
            except UserError as error:
                self.arrivals.append(self._refusal("record", path, str(error)))
        for record in sorted(records, key=lambda r: (r.attempt, r.file_name)):
            self._take_record(record)
        self._follow("sidecar", sidecar_folder, read_sidecar, self._sidecar_here)
        self._follow("verdict", replays_folder, read_verdict, self._verdict_here)
        return self.arrivals

    def _check(self, record: RunRecord, calibrated: list[Calibration]) -> None:
        """See that a record has the files that it names, and trained the steps of a calibration that is here.

        Raises:
            UserError: what is wrong.
        """
        if record.attempt > MOST_ATTEMPTS:
            raise UserError(f"{record.file_name}: attempt {record.attempt:,}, where {MOST_ATTEMPTS:,} are the most")
        if outcomes_path(self.folder, record) is not None:
            read_predictions(self.folder, record)
        seconds, spec = record.spec.budget.seconds, record.spec
        if seconds is None or record.status not in FINAL:
            return
        steps = {steps_in(seconds, c.exact_step_s) for c in calibrated if c.model == spec.model and not c.confirms}
        if steps and spec.steps not in steps:
            raise UserError(
                f"{record.file_name}: {spec.model} trained {spec.steps:,} steps, where this board's calibration says"
                f" {min(steps):,}; machines that share a board of device-seconds share a calibration"
            )

    def _take_record(self, record: RunRecord) -> None:
        there = self._there(record.spec.digest())
        same = next((r for r in there if r.file_name == record.file_name or r.identity == record.identity), None)
        kept, why = same or record, ""
        state: State = "known"
        if same is None:
            state = "new"
            if any(r.attempt == record.attempt for r in there):
                state, kept = "further attempt", _renumbered(record, max(r.attempt for r in there) + 1)
                why = f"run {record.run_id} is here with another content; kept as attempt {kept.attempt}"
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
        self.arrivals.append(Arrival(self.board, "record", record.file_name, state, why, kept))

    def _there(self, digest: str) -> list[RunRecord]:
        """The records of a spec that are here, with those that have come."""
        if digest not in self.local:
            found = self.local[digest] = []
            for path in self.names.get(digest, ()):
                with suppress(UserError):  # the board's reader names it
                    found.append(read_record(path))
        return self.local[digest]

    def _write_outcomes(self, record: RunRecord, kept: RunRecord) -> None:
        """Write the outcomes of a record, and the labels, before the record itself, as a run does."""
        source, target = outcomes_path(self.folder, record), outcomes_path(self.root, kept)
        if source is None or target is None or kept.results != record.results:
            return
        _copy(source, target)
        found, _ = read_distances(self.folder, record)
        name = f"labels.{found.labels_sha256[:16]}.json"
        _copy(outcomes_folder(self.folder, self.board) / name, outcomes_folder(self.root, self.board) / name)

    def _calibrations(self) -> list[Calibration]:
        """Take the calibrations that agree with those that are here, and return all that are here then.

        A calibration of a model that has one here is taken where it goes on from that one: else its steps would
        replace those of the runs that are here.
        """
        try:
            known = read_calibrations(self.root, self.board)
        except UserError as error:  # nothing can be compared with what is damaged
            raise UserError(f"{error}; mend the results folder first") from error
        theirs: dict[Path, Calibration] = {}
        for path in sorted(calibrations_folder(self.folder, self.board).glob("*.json")):
            try:
                theirs[path] = read_calibration(path)
            except UserError as error:
                self.arrivals.append(self._refusal("calibration", path, str(error)))
        ours = latest(known)
        own = {c.canonical() for c in known}
        shared = {c.model for c in theirs.values() if c.model in ours and c == ours[c.model]}
        for path, calibration in theirs.items():
            state: State = "known"
            if calibration.canonical() in own:
                pass
            elif calibration.model in ours and calibration.model not in shared:
                why = f"{path.name}: {calibration.model} has another calibration here, by which its runs were made"
                self.arrivals.append(self._refusal("calibration", path, why))
                continue
            else:
                state = "new"
                known.append(calibration)
                _copy(path, calibrations_folder(self.root, self.board) / path.name)
            self.arrivals.append(Arrival(self.board, "calibration", path.name, state))
        return known

    def _follow(
        self, kind: Kind, place: Callable[[Path, str], Path], read: Callable[[Path], F], here: Callable[[F], list[F]]
    ) -> None:
        """Take the files of a kind that belong to records, under the ids that these have here."""
        target = place(self.root, self.board)
        there = {p.name for p in target.glob("*.json")}
        for path in sorted(place(self.folder, self.board).glob("*.json")):
            try:
                content = read(path)
                found = here(content)
            except UserError as error:
                self.arrivals.append(self._refusal(kind, path, str(error)))
                continue
            for own in found:
                name = path.name if own == content else own.file_name
                state: State = "known" if name in there else "new"
                there.add(name)
                if state == "new" and own == content:
                    _copy(path, target / name)
                elif state == "new":
                    _write(target / name, own.canonical() + "\n")
                self.arrivals.append(Arrival(self.board, kind, path.name, state))

    def _sidecar_here(self, sidecar: Sidecar) -> list[Sidecar]:
        names = [run for run, weights in self.here.get(sidecar.run, ()) if weights == sidecar.weights_sha256]
        if not names:
            raise UserError(f"{sidecar.file_name}: no accepted record has this run {sidecar.run} with these weights")
        return [sidecar.model_copy(update={"run": run}) for run in names]

    def _verdict_here(self, verdict: ReplayVerdict) -> list[ReplayVerdict]:
        runs, again = self.here.get(verdict.run, ()), self.here.get(verdict.again, ())
        if not runs or (verdict.again and not again):
            raise UserError(f"{verdict.file_name}: no accepted record has the runs that this verdict is about")
        # Of two records of one attempt nobody knows which was meant: the first, as `find_run` takes it.
        update = {"run": runs[0][0], "again": again[0][0] if again else ""}
        return [verdict.model_copy(update=update)]

    def _refusal(self, kind: Kind, path: Path, why: str) -> Arrival:
        # Where an archive was unpacked is nobody's business.
        return Arrival(self.board, kind, visible(path.name), "refused", why.replace(f"{self.folder}/", ""))


def _renumbered(record: RunRecord, attempt: int) -> RunRecord:
    first = record.first_attempt or record.attempt
    return record.model_copy(update={"attempt": attempt, "first_attempt": first})


def _copy(source: Path, target: Path) -> None:
    if not target.exists():
        _write(target, read_text(source, link=False))


def _write(path: Path, text: str) -> None:
    with suppress(FileExistsError):  # the name holds the hash of the content
        write_exclusively(path, text.encode())


def devices(arrivals: Iterable[Arrival]) -> Counter[str]:
    """What computed the records that came, and how many of them."""
    found = (a.record.provenance.hardware for a in arrivals if a.record is not None)
    return Counter(machine_of(hardware).split(";")[0] or "unknown" for hardware in found)


def versions(arrivals: Iterable[Arrival]) -> Counter[str]:
    """Releases of equibench and torch that made the records that came, and how many of them."""
    found = (a.record.provenance.versions for a in arrivals if a.record is not None)
    return Counter(f"equibench {v.get('equibench', '?')}, torch {v.get('torch', '?')}" for v in found)
