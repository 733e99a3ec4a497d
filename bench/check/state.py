"""The global state of a process: read, compare and restore it."""

from __future__ import annotations

import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from typing import Any

import numpy as np
import torch

from ..measures.execution_profile import flushes_denormals

#: Parts of the names of torch's switches that select implementations and precision.
_SWITCHES = (
    "blas", "cpu_allow", "cudnn", "float32", "linalg", "mkldnn", "miopen", "nnpack", "onednn", "qengine", "sdp",
)  # fmt: skip


def _readable_getters() -> list[str]:
    """The names of the switches' getters that work in this build without an argument."""
    found = []
    for name in dir(torch._C):
        if name.startswith("_get_") and any(part in name for part in _SWITCHES):
            with suppress(Exception):  # a build may lack the backend, or the getter may need an argument
                getattr(torch._C, name)()
                found.append(name)
    return found


_GETTERS = _readable_getters()
#: Setters whose names differ from those of the getters.
_SETTERS = {
    f"_get_{kind}_sdp_enabled": f"_set_sdp_use_{kind}"
    for kind in ("cudnn", "fa3", "flash", "math", "mem_efficient", "overrideable")
}
#: Backends and operations with their own precision of float32.
_PRECISIONS = [(backend, "all") for backend in ("generic", "cuda", "mkldnn")]
_PRECISIONS += product(("cuda", "mkldnn"), ("matmul", "conv", "rnn"))
_AUTOCAST = ("cpu", "cuda")


def _flags() -> dict[str, Any]:
    """The switches of all backends; ``mixed`` if one cannot be read any more (old and new settings at once)."""
    einsum = torch.backends.opt_einsum
    found = {"opt_einsum": (einsum.enabled, einsum.strategy), "mha_fastpath": torch.backends.mha.get_fastpath_enabled()}
    for name in _GETTERS:
        try:
            found[name.removeprefix("_get_")] = getattr(torch._C, name)()
        except RuntimeError:
            found[name.removeprefix("_get_")] = "mixed"
    return found


def _set_flags(values: dict[str, Any]) -> None:
    now = _flags()
    torch.backends.opt_einsum.enabled, torch.backends.opt_einsum.strategy = values["opt_einsum"]
    torch.backends.mha.set_fastpath_enabled(values["mha_fastpath"])
    for name in _GETTERS:
        short = name.removeprefix("_get_")
        setter = getattr(torch._C, _SETTERS.get(name, f"_set_{short}"), None)
        if setter is not None and now[short] != values[short] != "mixed":
            # Some values are pairs, and their setters take two arguments.
            setter(*values[short]) if isinstance(values[short], tuple) else setter(values[short])


def _precisions() -> dict[str, str]:
    return {f"{b}.{operation}": torch._C._get_fp32_precision_getter(b, operation) for b, operation in _PRECISIONS}


def _set_precisions(values: dict[str, str]) -> None:
    for b, operation in _PRECISIONS:
        torch._C._set_fp32_precision_setter(b, operation, values[f"{b}.{operation}"])


def _autocast() -> dict[str, Any]:
    found = {kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in _AUTOCAST}
    return {**found, "cache": torch.is_autocast_cache_enabled()}


def _set_autocast(values: dict[str, Any]) -> None:
    for kind in _AUTOCAST:
        torch.set_autocast_enabled(kind, values[kind][0])
        torch.set_autocast_dtype(kind, values[kind][1])
    torch.set_autocast_cache_enabled(values["cache"])


def _set_interop_threads(count: int) -> None:
    with suppress(RuntimeError):  # torch allows setting it only once per process
        torch.set_num_interop_threads(count)


def _numpy_state() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()
    return (kind, tuple(keys.tolist()), *rest)  # type: ignore[attr-defined]


def _environment() -> dict[str, str]:
    """The environment variables that affect computations; libraries may set others."""
    return {k: v for k, v in os.environ.items() if k.startswith(_COMPUTING) and not k.endswith(_PLACES)}


def _set_environment(values: dict[str, str]) -> None:
    for name in set(_environment()) - set(values):
        del os.environ[name]
    os.environ.update(values)


def _broad_filters() -> list[Any]:
    """Warning filters without a message, a module or a library's own category: they hide warnings of all code."""
    return [f for f in warnings.filters if f[1] is None and f[3] is None and f[2].__module__ == "builtins"]


def _set_filters(values: list[Any]) -> None:
    for added in [f for f in _broad_filters() if f not in values]:
        warnings.filters.remove(added)  # type: ignore[attr-defined]
    warnings._filters_mutated()  # type: ignore[attr-defined]


#: Prefixes of variables that affect threads, precision, devices, Python or this harness.
_COMPUTING = (
    "ATEN_", "BLIS_", "CUBLAS", "CUDA_", "CUDNN_", "DNNL_", "EQUIBENCH_", "MKL_", "NUMEXPR_", "NVIDIA_", "OMP_",
    "ONEDNN_", "OPENBLAS_", "PYTHON", "PYTORCH_", "TORCH",
)  # fmt: skip
#: Suffixes of variables that name folders; computations do not depend on them.
_PLACES = ("_CACHE", "_DIR", "_HOME", "_PATH")


#: The global state: functions to read and to restore each part.
SHARED: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (lambda: str(torch.get_default_device()), torch.set_default_device),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's number of threads between operations": (torch.get_num_interop_threads, _set_interop_threads),
    "torch's gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's deterministic mode": (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    "torch's filling of fresh memory": (
        lambda: torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        lambda value: setattr(torch.utils.deterministic, "fill_uninitialized_memory", value),
    ),
    "torch's anomaly mode": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "torch's autocast mode": (_autocast, _set_autocast),
    # The first also sets the second, so it is restored first.
    "torch's backends": (_flags, _set_flags),
    "torch's precision of float32": (_precisions, _set_precisions),
    "the treatment of denormal numbers as zero": (flushes_denormals, torch.set_flush_denormal),
    "numpy's random generator": (_numpy_state, np.random.set_state),
    "numpy's error handling": (np.geterr, lambda value: np.seterr(**value)),
    "Python's random generator": (random.getstate, random.setstate),
    "Python's recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "the environment": (_environment, _set_environment),
    "the working folder": (os.getcwd, os.chdir),
    "the filter of warnings": (_broad_filters, _set_filters),
}


def snapshot() -> dict[str, Any]:
    """The current global state."""
    return {name: read() for name, (read, _) in SHARED.items()}


def changes(before: dict[str, Any]) -> list[str]:
    """The differences from `before`, each as a short text."""
    after = snapshot()
    return [_clause(name, before[name], after[name]) for name in SHARED if before[name] != after[name]]


def restore(before: dict[str, Any]) -> None:
    """Restore everything that differs from `before`."""
    for name, (read, write) in SHARED.items():
        if read() != before[name]:
            write(before[name])


@contextmanager
def state_restored() -> Iterator[dict[str, Any]]:
    """Restore the global state at the end, including torch's generator."""
    before, generator = snapshot(), torch.get_rng_state()
    try:
        yield before
    finally:
        restore(before)
        torch.set_rng_state(generator)


def _clause(name: str, before: Any, after: Any) -> str:
    if name == "the environment":
        return f"{name} ({', '.join(k for k in sorted({*before, *after}) if before.get(k) != after.get(k))})"
    if isinstance(before, dict):
        changed = (f"{k}: {v} → {after[k]}" for k, v in before.items() if v != after[k])
        return f"{name} ({', '.join(changed)})"
    short = isinstance(before, bool | int | str | torch.dtype)
    return f"{name} ({before} → {after})" if short else name
