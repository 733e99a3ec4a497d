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


class HostClock:
    """The clock of a CPU, where work is done when a call returns."""

    def mark(self) -> float:
        return time.perf_counter()

    def seconds(self, start: float, end: float) -> float:
        return end - start


class CudaClock:
    """The clock of a CUDA device: events in its stream, so that no step is synchronised to be timed."""

    def mark(self) -> Any:
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float:
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000.0


def clock_for(device: str) -> Clock:
    """The clock of a device, ``cpu`` or ``cuda[:i]``."""
    return CudaClock() if device.startswith("cuda") else HostClock()


class Phases:
    """Named phases that partition an interval; whatever lies between them is ``other_s``.

    Args:
        start: reading of `now` at the first line of the runner; by default, now.
        now: a monotonic clock in seconds.
    """

    def __init__(self, start: float | None = None, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._start = now() if start is None else start
        self._seconds: dict[str, float] = {}
        self._open: str | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the block under `name`; the same name adds up.

        Raises:
            RuntimeError: another phase is open: phases partition the interval, they do not nest.
        """
        if self._open is not None:
            raise RuntimeError(f"phase {name!r} inside phase {self._open!r}")
        self._open, begun = name, self._now()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + self._now() - begun
            self._open = None

    def add(self, name: str, seconds: float) -> None:
        """Count `seconds` that were measured before this object could exist (imports)."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def total(self) -> dict[str, float]:
        """Seconds of each phase, ``<name>_s``, with ``other_s`` and ``total_s`` at the end."""
        total = self._now() - self._start
        named = {f"{name}_s": seconds for name, seconds in self._seconds.items()}
        return {**named, "other_s": total - sum(named.values()), "total_s": total}
