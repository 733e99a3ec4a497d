"""An examined device: the worker processes of the checks, commands of equibench, and the remaining time."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from ...records.record import RunRecord, read_board
from ...records.store import board_names
from ...tools.gpu_processes import memory_held_mib
from ...training.job import Examination
from ..process import NoAnswer, Process

#: Seconds that the checks of one device may take together.
BOUND_S = 300.0


class NotApplicable(Exception):
    """There is nothing to check here; with the reason."""


class LeftOut(Exception):
    """A check was not done, or could not decide; with the reason."""


class Failed(Exception):
    """A check failed; with the problem."""


class ExaminedDevice(AbstractContextManager["ExaminedDevice"]):
    """One device of this machine (``cpu`` or ``cuda:<i>``), with the state that its checks share.

    Args:
        devices: all CUDA devices that should be busy at the same time.
        quick: whether long checks are shortened.
        explanation: torch's explanation if it sees no CUDA device.
        bound_s: seconds that all checks may take.
        patience: factor for the time limits of all checks, for machines with busy cores.
    """

    def __init__(
        self, device: str, devices: list[str], quick: bool = False, data_root: str | None = None,
        explanation: str = "", bound_s: float = BOUND_S, patience: float = 1.0,
    ) -> None:  # fmt: skip
        self.device, self.devices, self.quick, self.data_root = device, devices, quick, data_root
        self.explanation, self._patience = explanation, patience
        self._until = time.monotonic() + bound_s
        self._kept: Process | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="equibench-doctor-"))

    def __exit__(self, *_: object) -> None:
        self.leave()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def is_gpu(self) -> bool:
        return self.device != "cpu"

    def left(self, limit_s: float) -> float:
        """The time limit of an operation that usually takes less than `limit_s`; `LeftOut` if all time is over."""
        left = self._until - time.monotonic()
        if left < 1:
            raise LeftOut("the time of the examination was over")
        return min(self._patience * limit_s, left)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """See `operations.facts`."""
        return self.ask("facts", 90)

    @cached_property
    def other_processes(self) -> dict[str, Any]:
        """See `operations.other_processes`, for a process that is the only one of this program on the device."""
        uuid = self.facts["uuid"]
        self.leave()
        before = memory_held_mib(uuid, self.left(5))
        return {**self.ask("other_processes", 60, before_mib=before), "before_mib": before}

    def ask(self, do: str, limit_s: float, **arguments: Any) -> dict[str, Any]:
        """The answer of the process that the checks share, or `NoAnswer`; a failed process is replaced next time."""
        if self._kept is None:
            self._kept = self.fresh()
        try:
            return self._kept.ask(do, self.left(limit_s), **arguments)
        except NoAnswer:
            self.leave()
            self.left(1)
            raise

    def fresh(self, also: dict[str, str] | None = None, device: str | None = None) -> Process:
        """A new process; the caller must end it."""
        return Process(Examination(device=device or self.device, threads=1, data_root=self.data_root), also)

    def leave(self) -> None:
        """End the shared process, so that the device is free."""
        if self._kept is not None:
            self._kept.end()
            self._kept = None

    def equibench(self, *arguments: str, limit_s: float) -> tuple[list[RunRecord], str]:
        """Run a command alone on the device, in a new results folder; return the records and its standard error.

        Raises:
            NoAnswer: the command exceeded its time limit.
            LeftOut: the time of the whole examination is over.
        """
        self.leave()
        root = Path(tempfile.mkdtemp(dir=self.folder))
        command = [sys.executable, "-P", "-m", "equibench.bench.cli", *arguments, "--results", str(root), "--json"]
        command += ["--data-root", self.data_root] if self.data_root else []
        limit = self.left(limit_s)
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            _, said = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.terminate()  # it ends its runs properly
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=15)
            process.kill()
            self.left(1)
            raise NoAnswer(f"no result after {limit:.0f} s") from None
        except BaseException:
            process.terminate()
            raise
        records = [record for board in board_names(root) for record in read_board(root, board)[0]]
        return records, said.strip()
