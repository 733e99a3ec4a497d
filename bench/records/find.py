"""Find a run by the beginning of its id."""

from __future__ import annotations

from pathlib import Path

from ...registry import UserError
from .record import FINAL, RunRecord, read_all, read_record
from .staleness import staleness
from .store import RUNS, board_names

#: The fewest characters of an id that are accepted; with fewer, too many runs match.
FEWEST = 2


def matches_a_run(beginning: str, root: Path) -> bool:
    """Whether the id of at least one run begins with this text."""
    return len(beginning) >= FEWEST and bool(_files(beginning, root))


def _files(beginning: str, root: Path) -> list[Path]:
    """Record files of the runs whose id begins with this text."""
    folders = [root / RUNS / board for board in board_names(root)]
    files = [path for folder in folders if not folder.is_symlink() for path in folder.glob("*.json")]
    end = "." if "." in beginning else ""  # the number of an attempt must be complete
    return [path for path in files if f"{path.name}{end}".startswith(f"{beginning}{end}")]


def find_run(beginning: str, root: Path) -> RunRecord:
    """The valid record of the run whose id begins with this text; a whole id with its attempt selects that attempt.

    It is the first finished attempt that is current, else the first finished attempt, else the last attempt.

    Raises:
        UserError: the text is too short, no run or several runs match, or no file of the run can be read.
    """
    files = _files(beginning, root)
    runs = sorted({path.name.split(".")[0] for path in files})
    why = f"matches {len(runs) or 'no'} runs in {root}" + (f" ({', '.join(runs[:5])})" if runs else "")
    if len(beginning) < FEWEST:
        why = f"is too short: give at least {FEWEST} characters"
    if len(beginning) < FEWEST or len(runs) != 1:
        raise UserError(f"{beginning[:80]!r} {why}; the column 'run' of a board's .runs.csv has the ids")
    records, refused = read_all(files, read_record)
    if not records:
        raise UserError(refused[0].reason)
    records.sort(key=lambda r: (r.attempt, r.file_name))
    finished = [r for r in records if r.status in FINAL]
    return next((r for r in finished if not staleness(r, root)), (finished or records[-1:])[0])


def find_finished(beginning: str, root: Path, option: str) -> RunRecord:
    """As `find_run`, for a run that has final weights; UserError if it was not finished. Messages name the option."""
    try:
        record = find_run(beginning, root)
    except UserError as error:
        raise UserError(f"{option} {error}") from None
    if record.status != "ok":
        status = f"this run has the status {record.status!r}"
        raise UserError(f"{option} {beginning!r}: {status}; only finished runs have a network")
    return record
