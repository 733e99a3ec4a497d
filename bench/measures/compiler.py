"""Keep torch's compiler out of processes that compile nothing.

torch imports its compiler (three seconds) when an optimiser or a dispatch mode is used for the first time, only to
mark functions that must not be compiled. This module changes no computation. With another release of torch it may have
no effect.
"""

from __future__ import annotations

import inspect

import torch


def avoid_compiler() -> None:
    """Set the compiler's mark on torch's own functions, so that torch does not import the compiler for it."""
    for function in vars(torch.optim.Optimizer).values():
        original = getattr(function, "__wrapped__", None)
        if original is not None:
            original.__dynamo_disable = original


def plain_step(optimizer: torch.optim.Optimizer) -> None:
    """One step of an optimiser, without its decorators for the profiler, the compiler and hooks."""
    step = inspect.unwrap(type(optimizer).step)
    with torch.no_grad():  # as in the decorators: no recipe differentiates through its optimiser
        step(optimizer)
