"""Where and how runs are executed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ...registry import UserError
from .text import some


@dataclass(frozen=True)
class Machine:
    """Where and how runs are executed, and for whom; of the figures of an E board, only times depend on it.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<i>``, several with commas.
        jobs: processes at a time; None: one a device, on a CPU as many as cores that we may use, four at most.
        threads: of torch, in each process.
        deadline_s: seconds after which a run is ended as ``timeout``.
        checkpoint_s: seconds from one checkpoint of a run to the next.
        seeds_in_parallel: runs that share a GPU, 1 for a GPU each. Their times are those of a shared device.
        data_root: folder of the data sets; None: ``EQUIBENCH_DATA``, else the user's cache.
        includes: files that register models or data sets.
        command: what the records say as the command line.
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

    @property
    def data_folder(self) -> str | None:
        """`data_root` for processes with other current folders."""
        return None if self.data_root is None else str(Path(self.data_root).absolute())

    @property
    def files(self) -> list[str]:
        """`includes` for processes with other current folders."""
        return [str(Path(path).resolve()) for path in self.includes]

    def slots(self, cuda_devices: int, why: str = "") -> list[str]:
        """A device for every process at a time.

        Args:
            cuda_devices: how many there are.
            why: why there is none, where there is none.

        Raises:
            UserError: a device does not exist.
        """
        names = ["cuda" if cuda_devices else "cpu"] if self.device == "auto" else self.device.split(",")
        if names == ["cuda"]:
            names = [f"cuda:{i}" for i in range(cuda_devices)] or ["cuda:0"]
        for place, name in enumerate(names):
            kind, _, index = name.partition(":")
            if kind not in ("cpu", "cuda") or (kind == "cpu" and index) or (index and not index.isdecimal()):
                raise UserError(f"--device {name!r}: use auto, cpu, cuda or cuda:<number>, several with commas")
            if kind == "cuda" and int(index or 0) >= cuda_devices:
                last = f" to cuda:{cuda_devices - 1}" if cuda_devices > 1 else ""
                use = f"cuda:0{last}" if cuda_devices else "--device cpu"
                seen = some(cuda_devices, "CUDA device")
                raise UserError(f"--device {name!r}: torch sees {seen} here{f' ({why})' if why else ''}; use {use}")
            names[place] = f"cuda:{int(index or 0)}" if kind == "cuda" else kind
        if names == ["cpu"]:
            if self.seeds_in_parallel > 1:
                raise UserError("--seeds-in-parallel is for GPUs; on a CPU --jobs says how many runs go on at a time")
            return ["cpu"] * (self.jobs or max(1, min(usable_cores() // self.threads, 4)))
        return (names * self.seeds_in_parallel)[: self.jobs or None]

    def sharing(self, slots: list[str]) -> int:
        """The most runs at a time that these slots put on one device, whose times are then no measure of a model.

        1 on a CPU where each has cores of its own.
        """
        crowded = slots.count("cpu") * self.threads > usable_cores()
        return max((slots.count(name) for name in slots if name != "cpu" or crowded), default=1)


def usable_cores() -> int:
    """Cores that this process may use, which in a container or under a scheduler are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
