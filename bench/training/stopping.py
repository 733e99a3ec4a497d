"""How a run is asked to end: by a signal, or because the process that started it is gone.

While a model is trained a request waits for the end of the step, so that a last checkpoint can be written; a second
one, later than `REPEAT_S`, does not wait. At any other time there is nothing to keep that is not kept already, and the
process ends at once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

#: Seconds after which a run whose parent is gone ends in any case: a model that hangs must not hang for ever.
ORPHAN_S = 600.0
#: Seconds within which a second signal is the same request: a scheduler signals a task and its run, and the task its
#: run.
REPEAT_S = 2.0


class Stopped(BaseException):
    """The run was asked to end. Not an `Exception`: it says nothing about the model, and no row is made of it.

    Args:
        number: the signal that asked; ``SIGHUP`` where the parent process is gone.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Stop:
    """What was asked of this process so far.

    Attributes:
        signal: number of the signal that asked the run to end, or 0.
        orphaned: whether the parent is gone. A training then ends at its next step, with a checkpoint; what comes
            after training is a matter of seconds and is finished.
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
        """Inside, a request is noted in `signal` instead of ending the process at once."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def check(self, finished: bool) -> None:
        """End here if that was asked.

        Args:
            finished: whether the training is over.

        Raises:
            Stopped: it was.
        """
        if self.signal or (self.orphaned and not finished):
            raise Stopped(self.signal or signal.SIGHUP)

    def watch_parent(self, handle: int) -> None:
        """Notice when the other end of a pipe is closed, which the parent holds open while it lives."""
        threading.Thread(target=self._watch, args=(handle,), daemon=True).start()

    def _watch(self, handle: int) -> None:
        while os.read(handle, 1024):
            pass
        self.orphaned = True
        time.sleep(ORPHAN_S)
        os.kill(os.getpid(), signal.SIGKILL)


def end_by(number: int) -> NoReturn:
    """End this process by a signal, so that a waiting process sees why."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # the signal is blocked
