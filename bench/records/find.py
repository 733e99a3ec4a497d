"""A run by the beginning of its id."""

from __future__ import annotations

from pathlib import Path

from ...registry import UserError
from .record import FINAL, RunRecord, read_record
from .staleness import staleness
from .store import board_names

#: Characters of an id that say enough: fewer begin too many runs.
FEWEST = 2


def begins_some(beginning: str, root: Path) -> bool:
    """Whether a run's id begins so."""
    return len(beginning) >= FEWEST and bool(_files(beginning, root))


def _files(beginning: str, root: Path) -> list[Path]:
    """Records of runs whose id begins so."""
    folders = [root / "runs" / board for board in board_names(root)]
    files = [path for folder in folders if not folder.is_symlink() for path in folder.glob("*.json")]
    end = "." if "." in beginning else ""  # a number of an attempt is whole
    return [path for path in files if f"{path.name}{end}".startswith(f"{beginning}{end}")]


def find_run(beginning: str, root: Path) -> RunRecord:
    """The record that counts of the run whose id begins so.

    Of its attempts this is the first that was finished and is current, else the first that was finished, else the last.

    Args:
        beginning: at least `FEWEST` characters; the whole id, with its attempt, or a file's name names that attempt.

    Raises:
        UserError: it is shorter, or none or several runs begin so, or no file of the run can be read.
    """
    files = _files(beginning, root)
    runs = sorted({path.name.split(".")[0] for path in files})
    if len(beginning) < FEWEST:
        why = f"is too short: give at least {FEWEST} characters"
    else:
        why = f"begins {len(runs) or 'no'} runs in {root}" + (f" ({', '.join(runs[:5])})" if runs else "")
    if len(beginning) < FEWEST or len(runs) != 1:
        raise UserError(f"{beginning[:80]!r} {why}; the column 'run' of a board's .runs.csv has the ids")
    records, refused = [], []
    for path in files:
        try:
            records.append(read_record(path))
        except UserError as error:
            refused.append(error)
    if not records:
        raise refused[0]
    records.sort(key=lambda r: (r.attempt, r.file_name))
    finished = [r for r in records if r.status in FINAL]
    return next((r for r in finished if not staleness(r, root)), (finished or records[-1:])[0])


def find_finished(beginning: str, root: Path, option: str) -> RunRecord:
    """As `find_run`, of a run that has final weights.

    Args:
        option: what a message calls it.

    Raises:
        UserError: there is none, or it was not finished.
    """
    try:
        record = find_run(beginning, root)
    except UserError as error:
        raise UserError(f"{option} {error}") from None
    if record.status != "ok":
        raise UserError(
            f"{option} {beginning!r}: this run ended as {record.status!r}; only finished runs have a network"
        )
    return record
