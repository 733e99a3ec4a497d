"""Requests to end a run: by a signal, or because the parent process is gone.

During training, a request waits for the end of the step, so that a last checkpoint can be written. A second request,
later than `REPEAT_S`, does not wait. At any other time there is nothing to save, and the process ends immediately.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

#: Seconds after which a run without a parent is killed: a model that hangs must not run for ever.
ORPHAN_S = 600.0
#: Seconds within which a second signal counts as the same request: a scheduler signals a task and its run, and the task
#: signals its run too.
REPEAT_S = 2.0


class Stopped(BaseException):
    """The run was asked to end, by a signal or by the end of its parent (``SIGHUP``); this does not become a row."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Stop:
    """The requests to end this process so far.

    Attributes:
        signal: number of the signal that asked the run to end, or 0.
        orphaned: whether the parent is gone. Then a training ends after its step; later phases are short, and finish.
    """

    def __init__(self) -> None:
        self.signal, self.orphaned, self._patient, self._heard = 0, False, False, 0.0

    @property
    def asked(self) -> bool:
        return bool(self.signal) or self.orphaned

    def listen(self) -> None:
        """Take SIGTERM and SIGINT as requests to end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)

    def _hear(self, number: int, _: object) -> None:
        now = time.monotonic()
        if not self._patient or (self.signal and now - self._heard > REPEAT_S):
            raise Stopped(number)
        if not self.signal:
            self.signal, self._heard = number, now

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Inside, a request is only noted in `signal`, and the process does not end immediately."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def check(self, finished: bool) -> None:
        """Raise `Stopped` if there was a request; `finished` is whether the training has ended."""
        if self.signal or (self.orphaned and not finished):
            raise Stopped(self.signal or signal.SIGHUP)

    def watch_parent(self, handle: int) -> None:
        """Watch a pipe that the parent holds open while it lives."""
        threading.Thread(target=self._watch, args=(handle,), daemon=True).start()

    def _watch(self, handle: int) -> None:
        while os.read(handle, 1024):
            pass
        self.orphaned = True
        time.sleep(ORPHAN_S)
        os.kill(os.getpid(), signal.SIGKILL)


def end_by(number: int) -> NoReturn:
    """End this process with a signal, so that its parent sees the reason."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # the signal is blocked
