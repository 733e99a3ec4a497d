"""Facts about GPUs from the NVIDIA driver, through NVML; without torch, and without a CUDA context.

A GPU is identified by its UUID (``GPU-…``, or ``MIG-…`` for a MIG instance), because its number depends on
``CUDA_VISIBLE_DEVICES``. NVML may be missing, such as in containers without the driver's tools, and single queries may
fail. Such an answer is None: unknown, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")
MIB = 2**20

#: Reasons for a clock below the maximum, by NVML's bits. An idle GPU and clocks set by an administrator are no fault.
_REASONS = {
    0x1: "idle", 0x2: "clocks set by an administrator", 0x4: "power cap", 0x8: "hardware slowdown", 0x10: "sync boost",
    0x20: "software thermal slowdown", 0x40: "hardware thermal slowdown", 0x80: "power brake", 0x100: "display clock",
}  # fmt: skip
#: The reasons that make a step slower than the GPU's settings say.
SLOWDOWNS = ("power cap", "hardware slowdown", "software thermal slowdown", "hardware thermal slowdown", "power brake")
_MODES = {0: "default", 2: "prohibited", 3: "exclusive process"}


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a MIG instance of one.

    Attributes:
        uuid: in the form that ``CUDA_VISIBLE_DEVICES`` accepts.
        memory_mib: total memory.
        power_limit_w: in watts; for an instance, the limit of its whole GPU.
        compute_mode: ``default``, ``exclusive process`` (one process at a time) or ``prohibited``.
        is_instance: whether it is a MIG instance: clocks and power are shared with the other instances.
    """

    uuid: str
    name: str
    memory_mib: float | None
    power_limit_w: float | None
    compute_mode: str | None
    is_instance: bool


@dataclass(frozen=True)
class Process:
    """A process with a context on a GPU; `computes` is false if it only uses graphics.

    In a container, `pid` may differ from the number inside. `memory_mib` includes the context; None means unknown.
    """

    pid: int
    memory_mib: float | None
    computes: bool = True


@dataclass(frozen=True)
class Load:
    """State of a GPU at this moment; None means unknown.

    Attributes:
        sm_mhz, memory_mhz: clocks; `sm_max_mhz` is the highest possible.
        power_w, temperature_c: watts, degrees Celsius.
        busy_pct: share of the last moments (up to a second) in which a kernel of any process ran.
        reasons: why the clock is below the maximum, see `SLOWDOWNS`.
    """

    sm_mhz: int | None
    sm_max_mhz: int | None
    memory_mhz: int | None
    power_w: float | None
    temperature_c: int | None
    busy_pct: int | None
    reasons: tuple[str, ...] | None


@cache
def _nvml() -> ModuleType | None:
    """NVML, started once; None if that is not possible."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _ask(question: Callable[[Any], T]) -> T | None:
    """The answer of NVML to a query, which is called with NVML; None if there is none."""
    nvml = _nvml()
    if nvml is None:
        return None
    try:
        return question(nvml)
    except (nvml.NVMLError, nvml.NVMLLibraryMismatchError, UnicodeDecodeError):
        return None


def driver_version() -> str | None:
    """Version of the driver, such as ``580.65.06``."""
    return _ask(lambda nvml: str(nvml.nvmlSystemGetDriverVersion()))


def _handle(uuid: str) -> Any:
    return _ask(lambda nvml: nvml.nvmlDeviceGetHandleByUUID(uuid))


def _ask_of(uuid: str, question: Callable[[Any, Any], T]) -> T | None:
    """As `_ask`, for one GPU; `question` is called with NVML and the GPU's handle."""
    handle = _handle(uuid)
    return None if handle is None else _ask(lambda nvml: question(nvml, handle))


def gpus() -> list[Gpu]:
    """Every GPU of the driver, with MIG instances, including those that ``CUDA_VISIBLE_DEVICES`` hides."""
    found = []
    for index in range(_ask(lambda nvml: int(nvml.nvmlDeviceGetCount())) or 0):
        uuid = _ask(lambda nvml, i=index: str(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(i))))  # type: ignore[misc]
        if uuid is None:
            continue
        found += [gpu for name in (uuid, *_instances(uuid)) if (gpu := find_gpu(name)) is not None]
    return found


def _instances(uuid: str) -> list[str]:
    """UUIDs of the MIG instances of a GPU."""

    def name(nvml: Any, gpu: Any, index: int) -> str:
        return str(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index)))

    count = _ask_of(uuid, lambda nvml, gpu: int(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu))) or 0
    names = (_ask_of(uuid, partial(name, index=index)) for index in range(count))
    return [found for found in names if found is not None]


def find_gpu(uuid: str) -> Gpu | None:
    """The fixed properties and settings of a GPU; None if the driver does not know it."""
    if _handle(uuid) is None:
        return None
    instance = bool(_ask_of(uuid, lambda nvml, gpu: nvml.nvmlDeviceIsMigDeviceHandle(gpu).value))
    whole = _whole(uuid) if instance else uuid
    limit = _ask_of(whole, lambda nvml, gpu: nvml.nvmlDeviceGetPowerManagementLimit(gpu) / 1000)
    mode = _ask_of(whole, lambda nvml, gpu: _MODES.get(nvml.nvmlDeviceGetComputeMode(gpu)))
    memory = _ask_of(uuid, lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu, nvml.nvmlMemory_v2).total / MIB)
    name = _ask_of(uuid, lambda nvml, gpu: str(nvml.nvmlDeviceGetName(gpu)))
    return Gpu(uuid, name or "unknown", memory, limit, mode, instance)


def _whole(uuid: str) -> str:
    """UUID of the whole GPU of an instance; the instance's UUID if the driver does not say."""

    def ask(nvml: Any, instance: Any) -> str:
        return str(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(instance)))

    return _ask_of(uuid, ask) or uuid


def processes_on(uuid: str) -> list[Process] | None:
    """The visible processes with a context on a GPU, by number.

    In a container the list may be empty, have only our own processes, or have those of the host under other numbers.
    """
    computing = _ask_of(uuid, lambda nvml, gpu: nvml.nvmlDeviceGetComputeRunningProcesses(gpu))
    if computing is None:
        return None
    drawing = _ask_of(uuid, lambda nvml, gpu: nvml.nvmlDeviceGetGraphicsRunningProcesses(gpu)) or []

    def process(one: Any, computes: bool) -> Process:
        return Process(int(one.pid), None if one.usedGpuMemory is None else one.usedGpuMemory / MIB, computes)

    # A process that does both is in both lists.
    found = {one.pid: process(one, False) for one in drawing} | {one.pid: process(one, True) for one in computing}
    return [found[pid] for pid in sorted(found)]


def process_name(pid: int) -> str:
    """The driver's name of a process: the last part of its program's path."""
    name = _ask(lambda nvml: str(nvml.nvmlSystemGetProcessName(pid))) or ""
    return name.split(" ")[0].rpartition("/")[2] or "a process"


def memory_used_mib(uuid: str) -> float | None:
    """Memory of a GPU that all contexts use, visible or not, in MiB, without that of the driver itself."""
    return _ask_of(uuid, lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu, nvml.nvmlMemory_v2).used / MIB)


def load_of(uuid: str) -> Load:
    """Clocks, power, temperature and slowdowns of a GPU at this moment."""
    ask = partial(_ask_of, uuid)
    bits = ask(lambda nvml, gpu: int(nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)))
    return Load(
        sm_mhz=ask(lambda nvml, gpu: int(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM))),
        sm_max_mhz=ask(lambda nvml, gpu: int(nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM))),
        memory_mhz=ask(lambda nvml, gpu: int(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM))),
        power_w=ask(lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000),
        temperature_c=ask(lambda nvml, gpu: int(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU))),
        busy_pct=ask(lambda nvml, gpu: int(nvml.nvmlDeviceGetUtilizationRates(gpu).gpu)),
        reasons=None if bits is None else tuple(words for bit, words in _REASONS.items() if bits & bit),
    )


def uuid_of(device: str) -> str:
    """UUID of a torch device, ``cuda[:i]``; needs torch, and makes no context.

    torch does not say whether it belongs to a GPU or an instance. If the driver knows neither, it counts as a GPU's.
    """
    import torch

    bare = str(torch.cuda.get_device_properties(device).uuid)
    names = [f"{kind}-{bare}" for kind in ("GPU", "MIG")]
    return next((name for name in names if _handle(name) is not None), names[0])
