"""Where and how runs are executed."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...registry import UserError, option
from .text import plural


def device_names(text: str) -> list[str]:
    """The devices that the option ``--device`` names: ``["auto"]``, or some of ``cpu``, ``cuda`` and ``cuda:<i>``.

    Raises:
        UserError: a name is none of these. Whether a device exists is checked later, see `Machine.slots`.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names if names != ["auto"] else ():
        if not re.fullmatch(r"cpu|cuda(:[0-9]{1,4})?", name):
            raise UserError(
                f"{option('device', repr(name[:40]))}: use auto, cpu, cuda or cuda:<number>, several with commas"
            )
    return names


@dataclass(frozen=True)
class Machine:
    """Where and how runs are executed. On an E board, only times depend on it.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<i>``, several with commas.
        jobs: processes at a time; None: one per device; on a CPU as many as usable cores, at most four.
        threads: of torch, in each process.
        deadline_s: seconds after which a run is ended as ``timeout``.
        checkpoint_s: seconds from one checkpoint of a run to the next.
        seeds_in_parallel: number of runs that share a GPU; 1 means that each has its own. Shared devices change times.
        data_root: folder of the data sets; None: ``EQUIBENCH_DATA``, else the user's cache.
        includes: files that register models or data sets.
        command: the command line for the records.
    """

    device: str = "auto"
    jobs: int | None = None
    threads: int = 1
    deadline_s: float | None = None
    checkpoint_s: float = 60.0
    seeds_in_parallel: int = 1
    data_root: str | Path | None = None
    includes: tuple[str | Path, ...] = ()
    command: str = ""

    def __post_init__(self) -> None:
        device_names(self.device)  # refuses a wrong name before anything is loaded
        if self.jobs is not None and self.jobs < 1:
            raise UserError(f"{option('jobs', self.jobs)}: give a whole number of at least 1")

    @property
    def data_folder(self) -> str | None:
        """`data_root` for processes with other current folders."""
        return None if self.data_root is None else str(Path(self.data_root).absolute())

    @property
    def files(self) -> list[str]:
        """`includes` for processes with other current folders."""
        return [str(Path(path).resolve()) for path in self.includes]

    def slots(self, cuda_devices: int, why: str = "") -> list[str]:
        """The device of each simultaneous process, of this number of CUDA devices. Raises UserError if one does not
        exist.
        """
        names = device_names(self.device)
        if names == ["auto"]:
            names = ["cuda" if cuda_devices else "cpu"]
        if names == ["cuda"]:
            names = [f"cuda:{i}" for i in range(cuda_devices)] or ["cuda:0"]
        for place, name in enumerate(names):
            kind, _, index = name.partition(":")
            if kind == "cuda" and int(index or 0) >= cuda_devices:
                last = f" to cuda:{cuda_devices - 1}" if cuda_devices > 1 else ""
                use = f"cuda:0{last}" if cuda_devices else option("device", "cpu")
                seen, given = plural(cuda_devices, "CUDA device"), option("device", repr(name))
                raise UserError(f"{given}: torch sees {seen} here{f' ({why})' if why else ''}; use {use}")
            names[place] = f"cuda:{int(index or 0)}" if kind == "cuda" else kind
        if names == ["cpu"]:
            if self.seeds_in_parallel > 1:
                parallel, jobs = option("seeds-in-parallel"), option("jobs", "N")
                raise UserError(f"{parallel} is for GPUs; on a CPU, use {jobs} for N runs at a time")
            return ["cpu"] * (self.jobs or max(1, min(usable_cores() // self.threads, 4)))
        return (names * self.seeds_in_parallel)[: self.jobs or None]

    def sharing(self, slots: list[str]) -> int:
        """The largest number of simultaneous runs on one device. Above 1, their times do not measure a model.

        It is 1 on a CPU if each run has its own cores.
        """
        crowded = slots.count("cpu") * self.threads > usable_cores()
        return max((slots.count(name) for name in slots if name != "cpu" or crowded), default=1)


def usable_cores() -> int:
    """Cores that this process may use. In a container or under a scheduler they are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def waited_s() -> float:
    """Seconds in which threads of this process were ready to compute, but the processors were in use.

    This is the run delay of Linux (``schedstat``), of all threads that exist now; 0 where it is not known.
    """
    waited = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # a thread that ended, or a kernel without these figures
            waited += int(path.read_text().split()[1])
    return waited / 1e9
