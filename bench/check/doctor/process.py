"""The doctor's worker processes: started like the process of a run, with a time limit."""

from __future__ import annotations

import json
import queue
import signal
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from ...runner.local import end, events_of, start
from ...tools.text import last_line
from ...training.job import Examination


class NoAnswer(RuntimeError):
    """A process raised an exception, ended, or gave no answer in time."""


class Process:
    """A new process on one device that answers requests, see `operations`.

    Args:
        device: torch's name of the device.
        also: additional environment variables.
    """

    def __init__(self, device: str, data_root: str | None = None, also: Mapping[str, str] | None = None) -> None:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  as long as the process
        self._process = start(Examination(device=device, threads=1, data_root=data_root), self._log, also or {})
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, limit_s: float, **arguments: Any) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            NoAnswer: there is no answer within `limit_s` seconds.
        """
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):  # it has ended; the missing answer shows it
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        try:
            answer = self._answers.get(timeout=limit_s)
        except queue.Empty:
            self.end()
            raise NoAnswer(f"no answer after {limit_s:.0f} s") from None
        if answer is None:
            raise NoAnswer(self._how_it_ended())
        if answer["event"] == "raised":
            raise NoAnswer(answer["reason"])
        return answer["answer"]

    def end(self) -> None:
        """End the process; harmless if it has ended."""
        end(self._process)
        if not self._log.closed:
            self._log.close()

    def _read(self) -> None:
        for event in events_of(self._process):
            self._answers.put(event)
        self._answers.put(None)

    def _how_it_ended(self) -> str:
        with suppress(Exception):
            self._process.wait(10)
        said = ""
        if not self._log.closed:
            self._log.seek(0)
            said = last_line(self._log.read()[-4000:])
        self.end()
        code = self._process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"the process {how}" + (f": {said}" if said else "")
