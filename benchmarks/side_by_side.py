"""What the commands here share: timing of contenders in turns, so that a slow moment meets all of them, and tables."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """What a contender took.

    Attributes:
        seconds: median of a call.
        ratio: median over the rounds of its time divided by that of the first contender in the same round.
        low, high: quartiles of that ratio.
    """

    seconds: float
    ratio: float
    low: float
    high: float


def side_by_side(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int, device: str = "cpu", least_s: float = 0.02
) -> dict[str, Timing]:
    """Time functions in turns.

    Every round calls each of them, beginning with another one each time, as often as the first takes to fill
    `least_s`; two calls of each are made before and not counted.

    Args:
        contenders: functions without arguments; the first is what the others are compared with.
        rounds: how many times each takes its turn.
        device: where they work; a CUDA device is waited for.
        least_s: seconds that a turn shall last.
    """
    names = list(contenders)
    for name in names:
        for _ in range(2):
            contenders[name]()
    calls = max(1, round(least_s / _seconds(contenders[names[0]], 1, device)))
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(_seconds(contenders[name], calls, device))
    return {name: _timing(times[name], times[names[0]]) for name in names}


def _seconds(function: Callable[[], object], calls: int, device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        function()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / calls


def _timing(times: list[float], base: list[float]) -> Timing:
    ratios = [a / b for a, b in zip(times, base, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return Timing(statistics.median(times), middle, low, high)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that all commands have."""
    made = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    made.add_argument(
        "--format", default="simple", help="Format of the table, as tabulate knows them: simple, github, …"
    )
    return made


def show(rows: Sequence[Sequence[object]], heads: Sequence[str], digits: Sequence[str], style: str) -> None:
    """Print a table, the digits of its numbers as format specifications."""
    from tabulate import tabulate

    print(tabulate(rows, heads, floatfmt=tuple(digits), tablefmt=style))


def hardware(device: str) -> str:
    """The device in words, with torch's version and the number of its threads on a CPU."""
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    else:
        name = _cpu_name() + f", {torch.get_num_threads()} of {os.cpu_count()} cores"
    return f"{name}; torch {torch.__version__}"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
