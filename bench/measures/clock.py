"""Time on the host, time on the device (by events), and the named phases of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class HostClock:
    """Time marks in the device's stream of work. On a CPU, the work is finished when a call returns."""

    def mark(self) -> Any:
        """A mark after all work that was submitted so far."""
        return time.perf_counter()

    def seconds(self, start: Any, end: Any) -> float:
        """Seconds between two marks; waits until the device has reached both."""
        return float(end - start)

    def host_seconds(self, start: Any, end: Any) -> float | None:
        """Seconds of the host between the two marks, independent of the device; None if the host is the device."""
        return None


class CudaClock(HostClock):
    """The clock of a CUDA device: a mark is an event in the stream (no synchronisation), and the host's time."""

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


def clock_for(device: str) -> HostClock:
    """The clock of a device, ``cpu`` or ``cuda[:i]``."""
    return CudaClock() if device.startswith("cuda") else HostClock()


class Phases:
    """Named phases that partition an interval; the time between them is ``other_s``.

    Args:
        start: value of `now` at the start of the process; by default, the current value.
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
        """Add the time of the block to the phase `name`; phases cannot be nested (RuntimeError)."""
        if self._open is not None:
            raise RuntimeError(f"phase {name!r} inside phase {self._open!r}")
        self._switch(name)
        try:
            yield
        finally:
            self._switch(None)

    @contextmanager
    def instead(self, name: str) -> Iterator[None]:
        """Add the time of the block to the phase `name`, and not to the phase that is open around it."""
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
        """Add `seconds` that were measured before this object existed (such as imports)."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def carry(self, total: dict[str, float]) -> None:
        """Add the `total` of an earlier process of the same run; the time between the two processes is not counted."""
        for name, seconds in total.items():
            if name not in ("other_s", "total_s"):
                self.add(name.removesuffix("_s"), seconds)
        self._start -= total.get("total_s", 0.0)

    def total(self) -> dict[str, float]:
        """Seconds of each phase so far, ``<name>_s``, with ``other_s`` and ``total_s`` at the end."""
        self._switch(self._open)
        total = self._since - self._start
        named = {f"{name}_s": seconds for name, seconds in self._seconds.items()}
        # Rounding must not make it negative.
        return {**named, "other_s": max(0.0, total - sum(named.values())), "total_s": total}
