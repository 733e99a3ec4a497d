"""Every path below the results folder. Needs no torch.

<board>.csv, <board>.runs.csv         derived from the records
runs/<board>/                         records; its subfolders: weights, logs, locks, checkpoints, sidecars, …
tuned/, checks/, doctor/, .sweeps/    tuned recipes (`spec.suite.tuned_file`), verdicts, reports, sweeps on a cluster
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ...registry import UserError
from ..spec.recipe import TUNED
from ..spec.suite import LONGEST_BOARD
from ..tools.schema import NAME

_BOARD = re.compile(NAME.replace("0,99", f"0,{LONGEST_BOARD}"))
_CHECKPOINT = re.compile(r"[0-9a-f]{16}\.(\d+)\.(\d+)\.[0-9a-f]{16}\.pt")
#: Folders of the records, of the pictures of READMEs, and of the models from cells of notebooks.
RUNS, FIGURES, SOURCES = "runs", "figures", "sources"
#: Subfolders of a board's folder that are exchanged together with its records; replays are the verdicts on them.
OUTCOMES, SIDECARS, CALIBRATIONS, REPLAYS = _PARTS = ("outcomes", "equivariance", "calibrations", "replays")
_FILE = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}"
#: Paths below the results folder that are read from an archive.
EXCHANGED = re.compile(rf"{RUNS}/{_FILE}/(({'|'.join(_PARTS)})/)?{_FILE}\.json|{TUNED}/{_FILE}\.toml|{_FILE}\.csv")


def board_folder(root: Path, board: str) -> Path:
    """Folder of a board's records. Raises UserError for a name that no board can have, and for a symbolic link."""
    folder = root / RUNS / board
    if len(board) > LONGEST_BOARD or not _BOARD.fullmatch(board):
        raise UserError(f"{folder}: this is not the name of a board")
    if folder.is_symlink():
        raise UserError(f"{folder}: this is a symbolic link, which is not allowed; put the folder itself there")
    return folder


def board_names(root: Path) -> list[str]:
    """The names of all boards with a folder of records."""
    folder = root / RUNS
    return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def csv_files(root: Path, board: str) -> tuple[Path, Path]:
    """The CSVs of a board: with one row per model, and with one row per run."""
    return root / f"{board}.csv", root / f"{board}.runs.csv"


def exchanged_files(root: Path, boards: Iterable[str], suffix: str = ".json") -> Iterator[Path]:
    """The records of these boards, and the files that are exchanged together with them."""
    for board in boards:
        for part in ("", *_PARTS):
            yield from (root / RUNS / board / part).glob(f"*{suffix}")


def weights_path(root: Path, board: str, run: str) -> Path:
    """The file of a run's final weights, by the run's id."""
    return board_folder(root, board) / "weights" / f"{run}.pt"


def log_path(root: Path, board: str, name: str) -> Path:
    """The log of a run (by its id) or of a calibration."""
    return board_folder(root, board) / "logs" / f"{name}.log"


def lock_path(folder: Path, name: str) -> Path:
    """The lock file for a name, for processes of one host; its folder is created."""
    (folder / ".locks").mkdir(parents=True, exist_ok=True)
    return folder / ".locks" / f"{name}.lock"


def calibrations_folder(root: Path, board: str) -> Path:
    """Folder of a board's calibrations. The name is not checked, because this is also called for unknown folders."""
    return root / RUNS / board / CALIBRATIONS


def verdict_path(root: Path, model: str, source: str) -> Path:
    """The file of the verdict on one source of a model."""
    return root / "checks" / f"{model}.{source}.json"


def doctor_folder(root: Path, host: str) -> Path:
    """Folder of the reports on a host; the full name of the host is in the files."""
    return root / "doctor" / (safe_name(host) or "host")


def safe_name(name: str) -> str:
    """A name made safe for use in a file's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:100].strip("-")


def sweeps_folder(root: Path) -> Path:
    """Folder of the sweeps on a cluster."""
    return root / ".sweeps"


def checkpoint_folder(root: Path, board: str) -> Path:
    """Folder of a board's checkpoints."""
    return board_folder(root, board) / "checkpoints"


def checkpoints_of(root: Path, board: str, spec: str) -> list[Path]:
    """Checkpoints of a run by the digest of its spec, the one with the fewest steps first."""
    files = checkpoint_folder(root, board).glob(f"{spec}.*.pt")
    found = [(m, p) for p in files if (m := _CHECKPOINT.fullmatch(p.name))]
    return [path for _, path in sorted(found, key=lambda f: (int(f[0][2]), int(f[0][1]), f[1].name))]


def last_step(root: Path, board: str, spec: str) -> int | None:
    """Number of optimiser steps in the newest checkpoint of a run; None if there is no checkpoint."""
    paths = checkpoints_of(root, board, spec)
    return int(paths[-1].name.split(".")[2]) if paths else None


def remove_checkpoints(root: Path, board: str, spec: str, attempt: int) -> None:
    """Remove the checkpoints of a finished run up to this attempt; a replay is a later attempt."""
    for path in checkpoints_of(root, board, spec):
        if int(path.name.split(".")[1]) <= attempt:
            with suppress(OSError):
                path.unlink()
