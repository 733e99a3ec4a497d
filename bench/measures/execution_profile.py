"""Device, precision, determinism and threads of a process: set in one place, and checked after a model's code has run.

torch has two interfaces for the precision of float32 products. They can contradict each other. This module uses the
newer one, which has a setting for each library and kind of operation. It sets the older one to agreeing values, so that
reading the older one raises no error.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch

from .compiler import avoid_compiler, compile_nothing

#: Library and kind of operation -> ``"ieee"`` (full float32), ``"tf32"``, ``"bf16"``, or ``"none"`` (the default).
Precision = dict[str, str]

_backends = torch.backends
#: The torch objects that have a precision setting.
_OWNERS: dict[str, Any] = {
    "cuda.matmul": _backends.cuda.matmul,
    "cudnn.conv": _backends.cudnn.conv,  # type: ignore[attr-defined]
    "cudnn.rnn": _backends.cudnn.rnn,
    "mkldnn.matmul": _backends.mkldnn.matmul,  # type: ignore[attr-defined]
    "mkldnn.conv": _backends.mkldnn.conv,  # type: ignore[attr-defined]
    "mkldnn.rnn": _backends.mkldnn.rnn,  # type: ignore[attr-defined]
}
#: Full float32 on every device.
FULL: Precision = dict.fromkeys(_OWNERS, "ieee")
#: TF32 on GPUs.
REDUCED: Precision = {**FULL, "cuda.matmul": "tf32", "cudnn.conv": "tf32", "cudnn.rnn": "tf32"}


def float32_precision() -> Precision:
    """The current precision of float32 products."""
    return {name: owner.fp32_precision for name, owner in _OWNERS.items()}


def set_float32_precision(values: Precision) -> None:
    """Set the values that `float32_precision` reads, also if a model used the other interface of torch before."""
    torch.set_float32_matmul_precision("high" if values["cuda.matmul"] == "tf32" else "highest")
    _backends.cudnn.allow_tf32 = values["cudnn.conv"] == "tf32"
    for name, owner in _OWNERS.items():
        owner.fp32_precision = values[name]


def flushes_denormals() -> bool:
    """Whether numbers below the smallest normal number become zero."""
    return sys.float_info.min / 2 == 0


#: Devices whose autocast setting is checked.
_AUTOCAST = ("cpu", "cuda")
#: Whether each library was enabled before any model was imported: yes, if torch has it.
_LIBRARIES = {"mkldnn": _backends.mkldnn.enabled, "cudnn": _backends.cudnn.enabled}
#: The profile and the number of threads of this process, once they are set, and its GPU, once `begin` was called.
_held: tuple[str, int] | None = None
_gpu: torch.device | None = None
#: cuBLAS is deterministic only with buffers of a fixed size: here eight of 4 MiB. It reads this setting at its start.
WORKSPACE = ":4096:8"


class ProfileChanged(RuntimeError):
    """The code of a model changed a setting that the execution profile fixes for all models."""


def begin(device: str, profile: str, threads: int) -> torch.device:
    """Set up this process for measurements, before anything is computed. See `set_profile`.

    The device (``cpu``, ``cuda`` or ``cuda:<i>``) becomes the current device, so that contexts, events and launches
    without a named device are on it.
    """
    global _gpu
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = WORKSPACE
    chosen = torch.device(device)
    _gpu = torch.device("cuda", chosen.index or 0) if chosen.type == "cuda" else None
    set_profile(profile, threads)
    return chosen


def set_profile(profile: str, threads: int) -> None:
    """Set precision, determinism and the number of torch's threads for the process, and check them."""
    global _held
    if _gpu is not None:
        torch.cuda.set_device(_gpu)
    torch.set_num_threads(threads)
    strict = profile == "strict"
    compile_nothing()
    if strict:
        avoid_compiler()
    # Not `use_deterministic_algorithms`: it also sets up the compiler, which takes five seconds and is not needed.
    torch.set_deterministic_debug_mode("warn" if strict else "default")
    # Otherwise this mode fills every new tensor with NaN. This check is for torch's developers and takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # With benchmarking, each process may choose other algorithms, and steps of a run may differ from calibrated steps.
    _backends.cudnn.benchmark = False
    _backends.cudnn.deterministic = False
    for device in _AUTOCAST:
        torch.set_autocast_enabled(device, False)
    for name, enabled in _LIBRARIES.items():
        getattr(_backends, name).enabled = enabled
    torch.set_flush_denormal(False)
    torch.set_default_dtype(torch.float32)
    set_float32_precision(FULL if strict else REDUCED)
    _held = profile, threads
    check_profile()


def renew_profile() -> None:
    """Set the profile of the process again, if it has one, after a model was imported and built."""
    if _held is not None:
        set_profile(*_held)


def check_profile() -> None:
    """Raise `ProfileChanged` if a setting of the process does not agree with its profile (if it has one)."""
    if _held is None:
        return
    settings = _settings(*_held).items()
    wrong = [f"{name} is {now}, not {wanted}" for name, (now, wanted) in settings if now != wanted]
    if wrong:
        raise ProfileChanged(
            f"the model changed settings that profile {_held[0]!r} fixes for all models ({'; '.join(wrong)}); a model"
            " must not change these settings"
        )


def _settings(profile: str, threads: int) -> dict[str, tuple[Any, Any]]:
    """The current value of each setting, and the value that a profile requires."""
    strict = profile == "strict"
    precision = FULL if strict else REDUCED
    current = {} if _gpu is None else {"the current GPU": (torch.device("cuda", torch.cuda.current_device()), _gpu)}
    return {
        **current,
        "the number of threads": (torch.get_num_threads(), threads),
        "torch's deterministic debug mode": (torch.get_deterministic_debug_mode(), int(strict)),
        "fill_uninitialized_memory": (torch.utils.deterministic.fill_uninitialized_memory, False),  # type: ignore[attr-defined]
        "cudnn.benchmark": (_backends.cudnn.benchmark, False),
        "cudnn.deterministic": (_backends.cudnn.deterministic, False),
        **{f"{name}.enabled": (getattr(_backends, name).enabled, wanted) for name, wanted in _LIBRARIES.items()},
        "whether denormal numbers become zero": (flushes_denormals(), False),
        "torch's default dtype": (torch.get_default_dtype(), torch.float32),
        **{f"autocast on {device}": (torch.is_autocast_enabled(device), False) for device in _AUTOCAST},
        **{f"float32 precision of {name}": (now, precision[name]) for name, now in float32_precision().items()},
    }
