"""Which GPUs runs may use here, and why not where they may not: said before anything is trained, and never silently."""

from __future__ import annotations

import os

from ...registry import UserError
from . import driver
from .schema import Strict


class Gpus(Strict):
    """The GPUs that torch can use.

    Attributes:
        uuids: those of ``cuda:0``, ``cuda:1``, …
        why: why there is none, by torch's own explanation; empty where there are some.
        expected: whether that is a surprise: there is a GPU, and nobody has hidden it.
    """

    uuids: list[str] = []
    why: str = ""
    expected: bool = False


def usable() -> Gpus:
    """The GPUs that this process, which has torch, can use. Where the driver is too old, torch counts some that it
    cannot.
    """
    import torch

    if torch.version.hip:
        why = "this torch is built for ROCm, and runs are made on NVIDIA's GPUs and on CPUs alone"
        return Gpus(why=why, expected=torch.cuda.is_available())
    if torch.cuda.is_available():
        return Gpus(uuids=[driver.uuid_of(f"cuda:{index}") for index in range(torch.cuda.device_count())])
    try:
        torch.cuda.init()
        why = "torch gives no reason"
    except (RuntimeError, AssertionError) as error:
        why = " ".join(str(error).split()).removesuffix(".")
    return Gpus(why=why, expected=bool(driver.gpus()) and "CUDA_VISIBLE_DEVICES" not in os.environ)


def one_device(name: str) -> str:
    """``auto`` as the device that is there; any other is checked. In a process that has torch.

    Raises:
        UserError: there is no such device, or it cannot be used.
    """
    from .machine import Machine

    if "," in name:
        raise UserError(f"--device {name!r}: give one device, as cpu or cuda:0")
    here = Gpus() if name == "cpu" else usable()
    device = Machine(name).slots(len(here.uuids), here.why)[0]
    refuse_modes([device], here)
    return device


def refuse_modes(slots: list[str], here: Gpus) -> None:
    """Refuse GPUs whose compute mode forbids what is asked for.

    Args:
        slots: a device for every process at a time.

    Raises:
        UserError: which GPU, its mode, and what to do.
    """
    for name in dict.fromkeys(slot for slot in slots if slot != "cpu"):
        gpu = driver.find_gpu(here.uuids[int(name.partition(":")[2])])
        mode = gpu.compute_mode if gpu is not None else None
        if mode == "prohibited":
            raise UserError(
                f"--device {name}: the compute mode of this GPU is PROHIBITED, so that nothing may compute on it;"
                f" {_CHANGE}"
            )
        if mode == "exclusive process" and slots.count(name) > 1:
            raise UserError(
                f"--device {name}: the compute mode of this GPU is EXCLUSIVE_PROCESS, so that one run at a time may"
                " use it; leave"
                f" out --seeds-in-parallel and name it once; or: {_CHANGE}"
            )


def refuse_for_seconds(name: str, uuid: str) -> None:
    """Refuse a GPU whose seconds cannot be measured, or are no equal budget.

    Args:
        name: as torch names it.

    Raises:
        UserError: which GPU, why, and what to do.
    """
    gpu = driver.find_gpu(uuid)
    if gpu is None:
        return
    if gpu.is_instance:
        raise UserError(
            f"{name} is a MIG instance: it shares clocks and power with the other instances of its GPU, so that its"
            " seconds"
            " depend on what they do; budgets of device-seconds need a whole GPU; use an E budget (--budget e20)"
        )
    if gpu.compute_mode == "exclusive process":
        raise UserError(
            f"{name} has the compute mode EXCLUSIVE_PROCESS, and step times are measured by processes that take turns"
            " on it;"
            f" use an E budget (--budget e20); or: {_CHANGE}"
        )


_CHANGE = "its administrator changes the mode with nvidia-smi --compute-mode=DEFAULT"


def unused(here: Gpus, device: str, slots: list[str]) -> str:
    """A sentence where runs go to the CPU although there is a GPU; empty where they need none.

    Args:
        device: what was asked for.
        slots: what came of it.
    """
    if device != "auto" or slots[0] != "cpu" or not here.expected:
        return ""
    return f"there is a GPU, but torch cannot use it, so that runs are made on the CPU: {here.why}"
