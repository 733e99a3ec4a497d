"""Keep torch's compiler out of processes that compile nothing.

torch imports its compiler (three seconds) the first time that an optimiser or a dispatch mode is used, only
to mark functions that must not be compiled. Under the ``strict`` profile nothing is compiled. What is done
here leaves every computation as it is; where another release of torch is built differently it does nothing.
"""

from __future__ import annotations

import inspect

import torch


def spare_compiler() -> None:
    """Mark torch's own functions as needing no mark from the compiler."""
    for function in vars(torch.optim.Optimizer).values():
        original = getattr(function, "__wrapped__", None)
        if original is not None:
            original.__dynamo_disable = original


def plain_step(optimizer: torch.optim.Optimizer) -> None:
    """One step of an optimiser without the decorators for the profiler, for the compiler and for hooks."""
    step = inspect.unwrap(type(optimizer).step)
    with torch.no_grad():  # as the decorators would: no recipe differentiates through its optimiser
        step(optimizer)
