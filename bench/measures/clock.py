"""Time: on the host, on the device by events, and the named phases of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Clock(Protocol):
    """Marks in the device's stream of work, and the seconds between them."""

    def mark(self) -> Any:
        """A mark behind all work that was submitted so far."""

    def seconds(self, start: Any, end: Any) -> float:
        """Seconds between two marks; waits until the device has passed both."""

    def host_seconds(self, start: Any, end: Any) -> float | None:
        """Seconds that the host took from one mark to the other, without regard to the device; None if it is the
        device.
        """


class HostClock:
    """The clock of a CPU, where work is done when a call returns."""

    def mark(self) -> float:
        return time.perf_counter()

    def seconds(self, start: float, end: float) -> float:
        return end - start

    def host_seconds(self, start: float, end: float) -> None:
        return None


class CudaClock:
    """The clock of a CUDA device: events in its stream, so that no step is synchronised to be timed.

    A mark is such an event, and the host's time when it was put into the stream.
    """

    def mark(self) -> Any:
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event, time.perf_counter()

    def seconds(self, start: Any, end: Any) -> float:
        end[0].synchronize()
        return float(start[0].elapsed_time(end[0])) / 1000.0

    def host_seconds(self, start: Any, end: Any) -> float:
        return float(end[1] - start[1])


def clock_for(device: str) -> Clock:
    """The clock of a device, ``cpu`` or ``cuda[:i]``."""
    return CudaClock() if device.startswith("cuda") else HostClock()


class Phases:
    """Named phases that partition an interval; the time between them is ``other_s``.

    Args:
        start: reading of `now` at the first line of the runner; by default, now.
        now: a monotonic clock in seconds.
    """

    def __init__(self, start: float | None = None, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._start = now() if start is None else start
        self._seconds: dict[str, float] = {}
        self._open: str | None = None
        self._since = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the block under `name`; the same name adds up.

        Raises:
            RuntimeError: another phase is open: phases partition the interval, they do not nest.
        """
        if self._open is not None:
            raise RuntimeError(f"phase {name!r} inside phase {self._open!r}")
        self._switch(name)
        try:
            yield
        finally:
            self._switch(None)

    @contextmanager
    def instead(self, name: str) -> Iterator[None]:
        """Count the time of the block under `name`, and not under the phase that is open around it."""
        around = self._open
        self._switch(name)
        try:
            yield
        finally:
            self._switch(around)

    def _switch(self, name: str | None) -> None:
        now = self._now()
        if self._open is not None:
            self.add(self._open, now - self._since)
        self._open, self._since = name, now

    def add(self, name: str, seconds: float) -> None:
        """Count `seconds` that were measured before this object could exist (imports)."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def carry(self, total: dict[str, float]) -> None:
        """Add the `total` of an earlier process that worked on the same run; the time between the two counts
        nowhere.
        """
        for name, seconds in total.items():
            if name not in ("other_s", "total_s"):
                self.add(name.removesuffix("_s"), seconds)
        self._start -= total.get("total_s", 0.0)

    def total(self) -> dict[str, float]:
        """Seconds of each phase so far, ``<name>_s``, with ``other_s`` and ``total_s`` at the end."""
        self._switch(self._open)
        total = self._since - self._start
        named = {f"{name}_s": seconds for name, seconds in self._seconds.items()}
        # Never below zero by rounding.
        return {**named, "other_s": max(0.0, total - sum(named.values())), "total_s": total}
