"""Processes of the checks of models and devices: started like the process of a run, with a time limit for answers."""

from __future__ import annotations

import json
import queue
import signal
import tempfile
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any

from ..runner.local import end, events_of, start
from ..tools.text import last_line
from ..training.job import Check, Examination


class NoAnswer(RuntimeError):
    """A process raised an exception, ended, or gave no answer in time."""


class Process(AbstractContextManager["Process"]):
    """A new process that does a job; `also` are additional environment variables."""

    def __init__(self, job: Check | Examination, also: Mapping[str, str] | None = None) -> None:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  as long as the process
        self._process = start(job, self._log, also)
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for event in events_of(self._process):
            self._events.put(event)
        self._events.put(None)

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End the process; harmless if it has ended."""
        end(self._process)
        self._log.close()

    def event(self, limit_s: float) -> dict[str, Any] | None:
        """The next event; None if the process has ended. Without one in the limit, ends it and raises `NoAnswer`."""
        try:
            return self._events.get(timeout=min(limit_s, threading.TIMEOUT_MAX))
        except queue.Empty:
            self.end()
            raise NoAnswer(f"no answer after {limit_s:.0f} s") from None

    def how_it_ended(self) -> tuple[int, str]:
        """The exit code, and the last line of the log, of a process that ended by itself."""
        with suppress(Exception):
            self._process.wait(10)
        said = ""
        if not self._log.closed:
            self._log.seek(0)
            said = last_line(self._log.read())
        self.end()
        return self._process.returncode, said

    def ask(self, do: str, limit_s: float, **arguments: Any) -> dict[str, Any]:
        """The answer to a request, see `doctor.operations`; `NoAnswer` if there is none."""
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):  # it has ended; the missing answer shows it
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        answer = self.event(limit_s)
        if answer is None:
            code, said = self.how_it_ended()
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise NoAnswer(f"the process {how}" + (f": {said}" if said else ""))
        if answer["event"] == "raised":
            raise NoAnswer(answer["reason"])
        return answer["answer"]
