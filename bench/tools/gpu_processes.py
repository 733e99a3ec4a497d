"""Whether a run is alone on its GPU, as equal device-seconds demand.

Two things tell it: the processes that the driver lists, and the memory that is in use. The list may be cut short, as in
a container, which is shown its own processes only, none, or those of the host under other numbers. Memory in use is
counted for the whole GPU, and a process that computes holds a context there of some hundred MiB. So a run is alone
where the listed processes are itself and account for all memory; it is not where others are listed, or memory is held
by nobody that is listed; else it is unknown. The driver's utilisation adds nothing: it does not say whose kernels ran.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from . import driver
from .driver import Process

#: MiB that nobody listed holds: up to the first number they are the driver's own, from the second on somebody's
#: context.
LITTLE_MIB, MUCH_MIB = 64, 256
#: Lets several processes compute at the same time; it computes nothing itself, but beside it nobody knows who else may
#: begin.
SERVER = "nvidia-cuda-mps-server"


@dataclass(frozen=True)
class Company:
    """Who else is on a GPU.

    Attributes:
        others: who computes beside us, for a reason; empty if nobody was found.
        unknown: why it is not known whether anybody does; empty if it is.
        count: processes at a time, this one included, as far as they are known.
    """

    others: str = ""
    unknown: str = ""
    count: int = 1

    @property
    def alone(self) -> str:
        """``yes``, or ``no: …`` or ``unknown: …`` with the reason."""
        return (
            f"no: {self.others.partition(': ')[2]}"
            if self.others
            else f"unknown: {self.unknown}"
            if self.unknown
            else "yes"
        )


def judge(
    processes: Sequence[Process] | None,
    own: int,
    used_mib: float | None,
    before_mib: float | None = None,
    grown_mib: float = 0.0,
    partners: Collection[int] = (),
) -> Company:
    """Who else is on a GPU on which this process holds a context.

    Args:
        processes: as `driver.processes_on` gives them.
        own: number of this process.
        used_mib: memory in use on the GPU now; None is unknown.
        before_mib: the same before this process had a context; None is unknown.
        grown_mib: by how much the memory that torch knows nothing of has grown while this process trained.
        partners: numbers of other processes that compute there only in turns with this one.
    """
    computing = [p for p in processes or () if p.computes]
    ours = {own, *partners}
    others = [p for p in computing if p.pid not in ours]
    if all(p.pid != own for p in computing) and len(computing) <= len(ours):
        others = []  # known under other numbers: they are ours, if they account for all memory
    if others:
        names = [driver.process_name(p.pid) for p in others]
        shown = ", ".join(f"{name} ({p.pid})" for name, p in zip(names[:3], others, strict=False)) + (
            ", …" if len(others) > 3 else ""
        )
        servers = names.count(SERVER)
        return Company(
            f"not alone on its GPU: {shown}", count=max(len(computing) - servers, 1 if servers == len(others) else 2)
        )
    known = [p.memory_mib for p in processes or () if p.memory_mib is not None]
    if used_mib is None:
        return Company(unknown="the driver does not say how much memory of the GPU is in use")
    if computing and processes is not None and len(known) == len(processes):
        hidden = used_mib - sum(known)
        if hidden >= MUCH_MIB:
            return Company(
                f"not alone on its GPU: {hidden:.0f} MiB of it are held by processes that are not shown here", count=2
            )
        if hidden > LITTLE_MIB:
            return Company(unknown=f"{hidden:.0f} MiB of the GPU are held by nobody that the driver lists")
        return Company()
    drawn = sum(p.memory_mib or 0.0 for p in processes or () if not p.computes)
    if before_mib is not None and before_mib - drawn >= MUCH_MIB:
        return Company(f"not alone on its GPU: {before_mib:.0f} MiB of it were held before the run began", count=2)
    if grown_mib >= MUCH_MIB:
        return Company(
            f"not alone on its GPU: {grown_mib:.0f} MiB of it were taken by somebody else during the run", count=2
        )
    return Company(unknown="the driver does not name the processes on the GPU, or not what they hold")


class Watch:
    """Looks who is on the GPU of this process, from before its first context to its end.

    Args:
        device: as torch names it.
    """

    def __init__(self, device: str) -> None:
        import torch

        self._device = torch.device(device)
        self._uuid = driver.uuid_of(device)
        # Once this process has a context of its own, what was used before cannot be told any more.
        begun = torch._C._cuda_hasPrimaryContext(self._device.index or 0)  # type: ignore[attr-defined]
        self._before = None if begun else driver.memory_used_mib(self._uuid)
        self._loose: float | None = None
        #: What was found so far: of several looks, company counts more than none, and unknown more than alone.
        self.found: Company | None = None

    def look(self) -> Company:
        """Look, and return what was found so far."""
        import torch

        processes, used = driver.processes_on(self._uuid), driver.memory_used_mib(self._uuid)
        grown = 0.0
        if used is not None:
            loose = used - torch.cuda.memory_reserved(self._device) / driver.MIB
            self._loose = loose if self._loose is None else min(self._loose, loose)
            grown = loose - self._loose
        now = judge(processes, os.getpid(), used, self._before, grown)
        if self.found is None or now.others or (now.unknown and not self.found.others):
            self.found = now
        return self.found
