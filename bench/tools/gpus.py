"""The GPUs that runs may use here, and the reasons against the others; always reported before training starts."""

from __future__ import annotations

import os

from ...registry import UserError, option
from . import gpu_driver
from .schema import Strict

#: Values of ``CUDA_VISIBLE_DEVICES`` that hide every GPU: none, no number, and Slurm's word for a job without GPUs. Any
#: other value that leaves torch without a GPU is a mistake.
HIDING = ("", "-1", "NoDevFiles")


class Gpus(Strict):
    """The GPUs that torch can use: UUIDs of ``cuda:0``, ``cuda:1``, …; `why` is torch's explanation if there is none.

    `expected` says whether a GPU was expected: the machine has one, and it is not hidden.
    """

    uuids: list[str] = []
    why: str = ""
    expected: bool = False


def usable_gpus() -> Gpus:
    """The GPUs that this process can use; needs torch. With an old driver, torch counts GPUs that it cannot use."""
    import torch

    if torch.version.hip:
        why = "this torch is built for ROCm, but equibench supports only NVIDIA GPUs and CPUs"
        return Gpus(why=why, expected=torch.cuda.is_available())
    if torch.cuda.is_available():
        return Gpus(uuids=[gpu_driver.uuid_of(f"cuda:{index}") for index in range(torch.cuda.device_count())])
    try:
        torch.cuda.init()
        why = "torch gives no reason"
    except (RuntimeError, AssertionError) as error:
        why = " ".join(str(error).split()).removesuffix(".")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    why += "" if visible is None else f"; CUDA_VISIBLE_DEVICES is {visible[:80]!r}"
    return Gpus(why=why, expected=bool(gpu_driver.gpus()) and visible not in HIDING)


def one_device(name: str) -> str:
    """``auto`` becomes an existing device; any other name is checked. Needs torch. Raises UserError if it cannot be
    used.
    """
    from .machine import Machine, device_names

    if len(device_names(name)) > 1:
        raise UserError(f"{option('device', repr(name))}: give one device, as cpu or cuda:0")
    here = Gpus() if name == "cpu" else usable_gpus()
    device = Machine(name).slots(len(here.uuids), here.why)[0]
    refuse_modes([device], here)
    return device


def refuse_modes(slots: list[str], here: Gpus) -> None:
    """Refuse (UserError) GPUs whose compute mode does not allow these simultaneous processes (device of each)."""
    for name in dict.fromkeys(slot for slot in slots if slot != "cpu"):
        gpu = gpu_driver.find_gpu(here.uuids[int(name.partition(":")[2])])
        mode = gpu.compute_mode if gpu is not None else None
        is_mode = f"{option('device', name)}: the compute mode of this GPU is"
        if mode == "prohibited":
            raise UserError(f"{is_mode} PROHIBITED, so nothing can compute on it; {_CHANGE}")
        if mode == "exclusive process" and slots.count(name) > 1:
            once = f"leave out {option('seeds-in-parallel')} and name it once"
            raise UserError(f"{is_mode} EXCLUSIVE_PROCESS, so only one run at a time can use it; {once}; or: {_CHANGE}")


def refuse_for_seconds(name: str, uuid: str) -> None:
    """Refuse (UserError) a GPU, by its name in torch, whose seconds cannot be measured or are not an equal budget."""
    gpu = gpu_driver.find_gpu(uuid)
    if gpu is None:
        return
    if gpu.is_instance:
        raise UserError(
            f"{name} is a MIG instance: it shares clocks and power with the other instances of its GPU, so its"
            " speed depends on their load; budgets of device-seconds need a whole GPU; use an E budget"
            f" ({option('budget', 'e20')})"
        )
    if gpu.compute_mode == "exclusive process":
        raise UserError(
            f"{name} has the compute mode EXCLUSIVE_PROCESS, but step times are measured by processes that take turns"
            f" on it; use an E budget ({option('budget', 'e20')}); or: {_CHANGE}"
        )


_CHANGE = "its administrator changes the mode with nvidia-smi --compute-mode=DEFAULT"


def unused_gpu_warning(here: Gpus, device: str, slots: list[str]) -> str:
    """A warning if `device` was requested and runs use the CPU although there is a GPU; else empty."""
    if device != "auto" or slots[0] != "cpu" or not here.expected:
        return ""
    return f"there is a GPU, but torch cannot use it, so runs use the CPU: {here.why}"
