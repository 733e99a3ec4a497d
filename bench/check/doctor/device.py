"""A device under examination: the processes that checks ask, commands of equibench, and the time that is left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from ...records.record import RunRecord, read_board
from ...records.store import board_names
from ...tools.driver import memory_used_mib
from ...tools.gpu_processes import LITTLE_MIB
from .process import Process, Unanswered

#: Seconds that the checks of one device may take together.
BOUND_S = 300.0


class NotApplicable(Exception):
    """There is nothing to check here; why."""


class LeftOut(Exception):
    """A check was not done, or could not decide; why."""


class Failed(Exception):
    """A check has found something wrong; what."""


class Place:
    """One device of this machine, and what its checks share.

    Args:
        device: ``cpu`` or ``cuda:<i>``.
        devices: all CUDA devices that are to be busy at the same time.
        quick: whether long checks are shortened.
        explanation: torch's, where it sees no CUDA device.
        bound_s: seconds that all checks may take.
        patience: how many times as long as usual each check may take, as on a machine whose cores are busy.
    """

    def __init__(
        self,
        device: str,
        devices: list[str],
        quick: bool = False,
        data_root: str | None = None,
        explanation: str = "",
        bound_s: float = BOUND_S,
        patience: float = 1.0,
    ) -> None:
        self.device, self.devices, self.quick, self.data_root = device, devices, quick, data_root
        self.explanation, self._patience = explanation, patience
        self._until = time.monotonic() + bound_s
        self._kept: Process | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="equibench-doctor-"))

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def is_gpu(self) -> bool:
        return self.device != "cpu"

    def need_gpu(self, why: str) -> None:
        """Raise NotApplicable on a CPU."""
        if not self.is_gpu:
            raise NotApplicable(why)

    def left(self, limit_s: float) -> float:
        """The seconds that something may take which usually takes less than `limit_s`.

        Raises:
            LeftOut: the time of the whole examination is over.
        """
        left = self._until - time.monotonic()
        if left < 1:
            raise LeftOut("the time of the examination was over")
        return min(self._patience * limit_s, left)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """See `operations.facts`."""
        return self.ask("facts", 90)

    @cached_property
    def company(self) -> dict[str, Any]:
        """See `operations.company`, of a process that is alone on the device as far as this program goes."""
        uuid = self.facts["uuid"]
        self.leave()
        until = time.monotonic() + self.left(5)
        while ((before := memory_used_mib(uuid)) or 0.0) > LITTLE_MIB and time.monotonic() < until:
            time.sleep(0.5)  # the driver takes a moment to forget our own process
        return {**self.ask("company", 60, before_mib=before), "before_mib": before}

    def ask(self, do: str, limit_s: float, **arguments: Any) -> dict[str, Any]:
        """The answer of a process that checks share; a new one where the last one has failed.

        Raises:
            Unanswered: there is none within the limit.
            LeftOut: the time of the whole examination is over.
        """
        if self._kept is None:
            self._kept = self.fresh()
        try:
            return self._kept.ask(do, self.left(limit_s), **arguments)
        except Unanswered:
            self.leave()
            self.left(1)
            raise

    def fresh(self, also: dict[str, str] | None = None, device: str | None = None) -> Process:
        """A process of its own, to be ended by whoever asked for it."""
        return Process(device or self.device, self.data_root, also)

    def leave(self) -> None:
        """End the shared process, so that the device is free."""
        if self._kept is not None:
            self._kept.end()
            self._kept = None

    def equibench(self, *arguments: str, limit_s: float) -> tuple[list[RunRecord], str]:
        """Runs of a command line, in a results folder of its own: the records, and what it said on standard error.

        Nothing else of this program is on the device meanwhile.

        Raises:
            Unanswered: it took longer than it may.
            LeftOut: the time of the whole examination is over.
        """
        self.leave()
        root = Path(tempfile.mkdtemp(dir=self.folder))
        command = [sys.executable, "-P", "-m", "equibench.bench.cli", *arguments, "--results", str(root), "--json"]
        command += ["--data-root", self.data_root] if self.data_root else []
        limit = self.left(limit_s)
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={**os.environ}, start_new_session=True,
        )  # fmt: skip
        try:
            _, said = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.terminate()  # it ends its runs in order
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=15)
            process.kill()
            self.left(1)
            raise Unanswered(f"no result after {limit:.0f} s") from None
        except BaseException:
            process.terminate()
            raise
        records = [record for board in board_names(root) for record in read_board(root, board)[0]]
        return records, said.strip()
