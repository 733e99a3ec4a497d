"""One process per model, because model files may import helpers of the same name and change global state."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from ...registry import DATASETS, MODELS, WRAPPERS, UserError, include
from .text import error_line

T = TypeVar("T")

#: On Linux, torch is imported once, before the fork of 10 ms. On other systems a fork with threads is not safe.
_START = "fork" if sys.platform == "linux" else "spawn"


class ProcessDied(RuntimeError):
    """The process of a model ended without an answer."""


def in_own_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a separate process with one thread, and return its result.

    The function is from the top level of a module; its arguments and its result can be pickled. Raises ProcessDied if
    there was no answer, a UserError of the function, and RuntimeError with type and message for its other errors.
    """
    context: Any = multiprocessing.get_context(_START)  # the base class has no Process in its types
    receive, send = context.Pipe(duplex=False)
    files = [str(path) for registry in (MODELS, WRAPPERS, DATASETS) for path in registry.included]
    process = context.Process(target=_answer, args=(send, files, function, arguments), daemon=True)
    process.start()
    send.close()
    try:
        kind, value = receive.recv()
    except EOFError:
        process.join()
        raise ProcessDied(f"its process ended, exit code {process.exitcode}") from None
    process.join()
    if kind == "value":
        found: T = value
        return found
    raise UserError(value) if kind == "user" else RuntimeError(value)


def _answer(send: Connection, files: list[str], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch

    # A forked process does not have the threads of its parent.
    torch.set_num_threads(1)
    try:
        include(dict.fromkeys(files))
        send.send(("value", function(*arguments)))
    except UserError as error:
        send.send(("user", str(error)))
    except Exception as error:  # a model may raise anything
        send.send(("error", error_line(error)))
