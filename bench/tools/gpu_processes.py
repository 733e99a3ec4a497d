"""Whether a run is alone on its GPU. Equal device-seconds require this.

There are two sources: the processes that the driver lists, and the memory in use. The list may be incomplete: in a
container it may have only its own processes, none, or those of the host under other numbers. The memory in use is that
of the whole GPU, and a computing process holds a context of some hundred MiB. A run is alone if only the run itself is
listed and accounts for all memory. It is not alone if others are listed, or if no listed process holds some of the
memory. Otherwise it is unknown. The driver's utilisation does not help: it does not say whose kernels ran.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from . import gpu_driver
from .gpu_driver import Process

#: MiB that no listed process holds: up to the first number it is the driver's own memory, from the second on it is a
#: context of another process.
LITTLE_MIB, MUCH_MIB = 64, 256
#: The MPS server lets several processes compute at the same time. It computes nothing itself, but other processes may
#: start at any time.
SERVER = "nvidia-cuda-mps-server"


@dataclass(frozen=True)
class OtherProcesses:
    """Other processes on a GPU.

    Attributes:
        others: other computing processes, as a reason for the record; empty if none was found.
        unknown: why it is not known whether there are others; empty if it is known.
        count: number of known processes at a time, including this one.
    """

    others: str = ""
    unknown: str = ""
    count: int = 1

    @property
    def alone(self) -> str:
        """``yes``, or ``no: …`` or ``unknown: …`` with the reason."""
        if self.others:
            return f"no: {self.others.partition(': ')[2]}"
        return f"unknown: {self.unknown}" if self.unknown else "yes"


def judge(
    processes: Sequence[Process] | None,
    own: int,
    used_mib: float | None,
    before_mib: float | None = None,
    grown_mib: float = 0.0,
    partners: Collection[int] = (),
) -> OtherProcesses:
    """Judge which other processes are on a GPU where this process holds a context.

    Args:
        processes: as `gpu_driver.processes_on` gives them.
        own: number of this process.
        used_mib: memory in use on the GPU now; None means unknown.
        before_mib: the same before this process had a context; None means unknown.
        grown_mib: growth of the memory outside of torch while this process trained.
        partners: numbers of other processes that take turns with this one on the GPU.
    """
    computing = [p for p in processes or () if p.computes]
    ours = {own, *partners}
    others = [p for p in computing if p.pid not in ours]
    if all(p.pid != own for p in computing) and len(computing) <= len(ours):
        others = []  # they have other numbers there: they are ours, if they account for all memory
    if others:
        names = [gpu_driver.process_name(p.pid) for p in others]
        shown = ", ".join(f"{name} ({p.pid})" for name, p in zip(names[:3], others, strict=False))
        servers = names.count(SERVER)
        count = max(len(computing) - servers, 1 if servers == len(others) else 2)
        return _others(f"{shown}, …" if len(others) > 3 else shown, count)
    known = [p.memory_mib for p in processes or () if p.memory_mib is not None]
    if used_mib is None:
        return OtherProcesses(unknown="the driver does not say how much memory of the GPU is in use")
    if computing and processes is not None and len(known) == len(processes):
        hidden = used_mib - sum(known)
        if hidden >= MUCH_MIB:
            return _others(f"{hidden:.0f} MiB of it are held by processes that are not visible")
        unlisted = f"{hidden:.0f} MiB of the GPU are not held by any process that the driver lists"
        return OtherProcesses(unknown=unlisted if hidden > LITTLE_MIB else "")
    drawn = sum(p.memory_mib or 0.0 for p in processes or () if not p.computes)
    if before_mib is not None and before_mib - drawn >= MUCH_MIB:
        return _others(f"{before_mib:.0f} MiB of it were held before the run began")
    if grown_mib >= MUCH_MIB:
        return _others(f"{grown_mib:.0f} MiB of it were taken by another process during the run")
    silent = "the driver does not name the processes on the GPU, or does not say how much memory they hold"
    return OtherProcesses(unknown=silent)


def _others(what: str, count: int = 2) -> OtherProcesses:
    return OtherProcesses(f"not alone on its GPU: {what}", count=count)


def memory_held_mib(uuid: str, patience_s: float = 5.0) -> float | None:
    """Memory in use on a GPU on which this program has no process, in MiB; None means unknown.

    The driver needs a moment to release the memory of a process that has ended.
    """
    until = time.monotonic() + patience_s
    while ((held := gpu_driver.memory_used_mib(uuid)) or 0.0) > LITTLE_MIB and time.monotonic() < until:
        time.sleep(0.5)
    return held


class GpuWatch:
    """Monitors the processes on the GPU of this process, from before its first context to its end."""

    def __init__(self, device: str) -> None:
        import torch

        self._device = torch.device(device)
        self._uuid = gpu_driver.uuid_of(device)
        # Once this process has a context, the memory that was in use before cannot be determined any more.
        begun = torch._C._cuda_hasPrimaryContext(self._device.index or 0)  # type: ignore[attr-defined]
        self._before = None if begun else gpu_driver.memory_used_mib(self._uuid)
        #: The least memory in use outside of torch so far.
        self._least_outside = math.inf
        #: The result so far. Of several looks, "others" takes precedence over "unknown", and "unknown" over "alone".
        self.found: OtherProcesses | None = None

    def look(self) -> OtherProcesses:
        """Look, and return what was found so far."""
        import torch

        processes, used = gpu_driver.processes_on(self._uuid), gpu_driver.memory_used_mib(self._uuid)
        grown = 0.0
        if used is not None:
            outside = used - torch.cuda.memory_reserved(self._device) / gpu_driver.MIB
            self._least_outside = min(self._least_outside, outside)
            grown = outside - self._least_outside
        now = judge(processes, os.getpid(), used, self._before, grown)
        if self.found is None or now.others or (now.unknown and not self.found.others):
            self.found = now
        return self.found
