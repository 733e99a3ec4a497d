"""Every place below the results folder: where records lie, and what lies beside them. Needs no torch.

<board>.csv, <board>.runs.csv         derived from the records
runs/<board>/                         records; in folders below: weights, logs, locks, checkpoints, sidecars, …
tuned/, checks/, doctor/, .sweeps/    tuned recipes, verdicts, reports, what was handed to a cluster
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from ...registry import UserError
from ..spec.suite import LONGEST_BOARD
from ..tools.schema import NAME

_BOARD = re.compile(NAME.replace("0,99", f"0,{LONGEST_BOARD}"))
_CHECKPOINT = re.compile(r"[0-9a-f]{16}\.(\d+)\.(\d+)\.[0-9a-f]{16}\.pt")


def board_folder(root: Path, board: str) -> Path:
    """Folder of a board's records under the results folder.

    Raises:
        UserError: the name is no board's, or somebody put a symbolic link there: nothing is read or written elsewhere.
    """
    folder = root / "runs" / board
    if len(board) > LONGEST_BOARD or not _BOARD.fullmatch(board):
        raise UserError(f"{folder}: this is not the name of a board, as the name of a folder here must be")
    if folder.is_symlink():
        raise UserError(f"{folder}: this is a symbolic link, which is not allowed; put the folder itself there")
    return folder


def board_names(root: Path) -> list[str]:
    """Boards that have records."""
    folder = root / "runs"
    return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def weights_path(root: Path, board: str, run: str) -> Path:
    """The file of a run's final weights, by the run's id."""
    return board_folder(root, board) / "weights" / f"{run}.pt"


def log_path(root: Path, board: str, name: str) -> Path:
    """The log of a process: of a run by its id, or of a calibration."""
    return board_folder(root, board) / "logs" / f"{name}.log"


def lock_path(folder: Path, name: str) -> Path:
    """A file that processes of one host lock, in a folder that is there."""
    (folder / ".locks").mkdir(parents=True, exist_ok=True)
    return folder / ".locks" / f"{name}.lock"


def sidecar_folder(root: Path, board: str) -> Path:
    """Where a board's sidecars lie."""
    return board_folder(root, board) / "equivariance"


def outcomes_folder(root: Path, board: str) -> Path:
    """Where a board's outcomes lie."""
    return board_folder(root, board) / "outcomes"


def replays_folder(root: Path, board: str) -> Path:
    """Where the verdicts on a board's replays lie."""
    return board_folder(root, board) / "replays"


def calibrations_folder(root: Path, board: str) -> Path:
    """Where a board's calibrations lie; asked of every folder that is there, under any name."""
    return root / "runs" / board / "calibrations"


def verdict_path(root: Path, model: str, source: str) -> Path:
    """The file of the verdict on one source of a model."""
    return root / "checks" / f"{model}.{source}.json"


def doctor_folder(root: Path, host: str) -> Path:
    """Where the reports on a host lie; the files themselves say its whole name."""
    return root / "doctor" / (safe_name(host) or "host")


def safe_name(name: str) -> str:
    """A name as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:100].strip("-")


def sweeps_folder(root: Path) -> Path:
    """Where the sweeps on a cluster lie."""
    return root / ".sweeps"


def checkpoint_folder(root: Path, board: str) -> Path:
    """Where a board's checkpoints lie."""
    return board_folder(root, board) / "checkpoints"


def checkpoints_of(root: Path, board: str, spec: str) -> list[Path]:
    """Checkpoints of a run by the digest of its spec, the one with the fewest steps first."""
    files = checkpoint_folder(root, board).glob(f"{spec}.*.pt")
    found = [(m, p) for p in files if (m := _CHECKPOINT.fullmatch(p.name))]
    return [path for _, path in sorted(found, key=lambda f: (int(f[0][2]), int(f[0][1]), f[1].name))]


def last_step(root: Path, board: str, spec: str) -> int | None:
    """Optimiser steps of a run that its newest checkpoint holds; None without one."""
    paths = checkpoints_of(root, board, spec)
    return int(paths[-1].name.split(".")[2]) if paths else None


def discard(root: Path, board: str, spec: str, attempt: int) -> None:
    """Remove the checkpoints of a run that is finished, up to this attempt: a replay is a later one."""
    for path in checkpoints_of(root, board, spec):
        if int(path.name.split(".")[1]) <= attempt:
            with suppress(OSError):
                path.unlink()
