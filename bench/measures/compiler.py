"""Keep torch's compiler out of processes that measure models: no profile compiles.

A model may contain `torch.compile`. It is computed without compilation, as all other models of its board are.

torch imports its compiler (three seconds) when an optimiser or a dispatch mode is used for the first time, only to
mark functions that must not be compiled. Avoiding this import changes no computation. With another release of torch it
may have no effect.
"""

from __future__ import annotations

import inspect
import os

import torch


def compile_nothing() -> None:
    """From now on, `torch.compile` returns what it is given; call this before a model's file is imported."""
    os.environ["TORCH_COMPILE_DISABLE"] = "1"  # torch reads it when it imports the compiler


def avoid_compiler() -> None:
    """As `compile_nothing`, and set the compiler's mark on torch's functions, so that torch does not import it."""
    compile_nothing()
    for function in vars(torch.optim.Optimizer).values():
        original = getattr(function, "__wrapped__", None)
        if original is not None:
            original.__dynamo_disable = original


def plain_step(optimizer: torch.optim.Optimizer) -> None:
    """One step of an optimiser, without its decorators for the profiler, the compiler and hooks."""
    step = inspect.unwrap(type(optimizer).step)
    with torch.no_grad():  # as in the decorators: no recipe differentiates through its optimiser
        step(optimizer)
