"""The paths of checkpoints, and the runs that they belong to. Needs no torch."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from .record import board_folder

_NAME = re.compile(r"[0-9a-f]{16}\.(\d+)\.(\d+)\.[0-9a-f]{16}\.pt")


def checkpoint_folder(root: Path, board: str) -> Path:
    """Folder of a board's checkpoints."""
    return board_folder(root, board) / "checkpoints"


def checkpoints_of(root: Path, board: str, spec: str) -> list[Path]:
    """Checkpoints of a run, by the digest of its spec, in order of their steps."""
    found = [(m, p) for p in checkpoint_folder(root, board).glob(f"{spec}.*.pt") if (m := _NAME.fullmatch(p.name))]
    return [path for _, path in sorted(found, key=lambda f: (int(f[0][2]), int(f[0][1]), f[1].name))]


def last_step(root: Path, board: str, spec: str) -> int | None:
    """Optimiser steps in the newest checkpoint of a run; None without a checkpoint."""
    paths = checkpoints_of(root, board, spec)
    return int(paths[-1].name.split(".")[2]) if paths else None


def discard(root: Path, board: str, spec: str, attempt: int) -> None:
    """Remove the checkpoints of a finished run up to this attempt. Later attempts are replays and keep theirs."""
    for path in checkpoints_of(root, board, spec):
        if int(path.name.split(".")[1]) <= attempt:
            with suppress(OSError):
                path.unlink()
