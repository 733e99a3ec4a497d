"""The state that all code of a process shares: read, compared, put back."""

from __future__ import annotations

import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..arithmetic import float32_precision, set_float32_precision

Getter = Callable[[], Any]
Setter = Callable[[Any], Any]


def _attribute(owner: Any, name: str) -> tuple[Getter, Setter]:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _numpy_state() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()
    return (kind, tuple(keys.tolist()), *rest)


def _set_environment(values: dict[str, str]) -> None:
    for name in set(os.environ) - set(values):
        del os.environ[name]
    os.environ.update(values)


def _broad_filters() -> list[Any]:
    """Filters of warnings that name neither a message nor a module nor a library's own category: they hide everybody's.

    Libraries hide single messages, or a category that they define (scipy.special, when it is imported), which is their
    business.
    """
    return [f for f in warnings.filters if f[1] is None and f[3] is None and f[2].__module__ == "builtins"]


def _set_filters(values: list[Any]) -> None:
    for added in [f for f in _broad_filters() if f not in values]:
        warnings.filters.remove(added)
    warnings._filters_mutated()  # type: ignore[attr-defined]


#: What is shared: how it is read, and how it is put back.
SHARED: dict[str, tuple[Getter, Setter]] = {
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (lambda: str(torch.get_default_device()), torch.set_default_device),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's deterministic mode": (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    "torch's anomaly mode": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "torch's autocast mode": (
        lambda: torch.is_autocast_enabled("cpu"),
        lambda value: torch.set_autocast_enabled("cpu", value),
    ),
    "torch.backends.cudnn.benchmark": _attribute(torch.backends.cudnn, "benchmark"),
    "torch.backends.cudnn.deterministic": _attribute(torch.backends.cudnn, "deterministic"),
    "torch.backends.cudnn.enabled": _attribute(torch.backends.cudnn, "enabled"),
    "torch's float32 precision": (float32_precision, set_float32_precision),
    "numpy's random generator": (_numpy_state, lambda value: np.random.set_state((value[0], np.array(value[1]), *value[2:]))),
    "numpy's error handling": (np.geterr, lambda value: np.seterr(**value)),
    "Python's random generator": (random.getstate, random.setstate),
    "Python's recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "the environment": (lambda: dict(os.environ), _set_environment),
    "the working folder": (os.getcwd, os.chdir),
    "the filter of warnings": (_broad_filters, _set_filters),
}

Snapshot = dict[str, Any]


def snapshot() -> Snapshot:
    """The shared state as it is."""
    return {name: read() for name, (read, _) in SHARED.items()}


def changes(before: Snapshot) -> list[str]:
    """What differs from `before`, each as a clause."""
    after = snapshot()
    return [_clause(name, before[name], after[name]) for name in SHARED if before[name] != after[name]]


def restore(before: Snapshot) -> None:
    """Put back what differs from `before`."""
    for name, (read, write) in SHARED.items():
        if read() != before[name]:
            write(before[name])


def harmless(before: Snapshot) -> bool:
    """Whether the environment only got new variables, none of which changes what torch computes.

    Libraries do this when they are imported (scikit-learn, for one).
    """
    then, now = before["the environment"], dict(os.environ)
    new = set(now) - set(then)
    return all(now.get(k) == v for k, v in then.items()) and not any(k.startswith(_COMPUTING) for k in new)


#: How variables begin that threads, precision, devices or Python itself listen to.
_COMPUTING = (
    "ATEN_", "BLIS_", "CUBLAS", "CUDA_", "CUDNN_", "DNNL_", "MKL_", "NUMEXPR_", "NVIDIA_", "OMP_", "ONEDNN_", "OPENBLAS_",
    "PYTHON", "PYTORCH_", "TORCH",
)  # fmt: skip


@contextmanager
def kept() -> Iterator[Snapshot]:
    """Put the shared state back at the end, torch's generator included."""
    before, generator = snapshot(), torch.get_rng_state()
    try:
        yield before
    finally:
        restore(before)
        torch.set_rng_state(generator)


def _clause(name: str, before: Any, after: Any) -> str:
    if isinstance(before, dict):
        keys = sorted(k for k in {*before, *after} if before.get(k) != after.get(k))
        return f"{name} ({', '.join(keys)})"
    short = isinstance(before, bool | int | str | torch.dtype)
    return f"{name} ({before} → {after})" if short else name
