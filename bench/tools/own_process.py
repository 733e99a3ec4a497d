"""One process a model: files of different models may import helpers of the same name, and change what all share."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from ...registry import DATASETS, MODELS, WRAPPERS, UserError, include

T = TypeVar("T")

#: Torch is imported once, before the fork, which takes 10 ms; elsewhere processes with threads are not safe to fork.
_START = "fork" if sys.platform == "linux" else "spawn"


class Died(RuntimeError):
    """The process of a model ended before it had an answer."""


def apart(function: Callable[..., T], *arguments: Any) -> T:
    """What a function returns, called in a process of its own, on one thread.

    Args:
        function: of the top level of a module; what it takes and returns can be pickled.

    Raises:
        Died: the process ended without an answer.
        UserError, RuntimeError: what the function raised; other errors as a RuntimeError with type and message.
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
        raise Died(f"its process ended, exit code {process.exitcode}") from None
    process.join()
    if kind == "value":
        found: T = value
        return found
    raise UserError(value) if kind == "user" else RuntimeError(value)


def _answer(send: Connection, files: list[str], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch

    # A forked process has none of the threads that its parent may have computed with.
    torch.set_num_threads(1)
    try:
        include(dict.fromkeys(files))
        send.send(("value", function(*arguments)))
    except UserError as error:
        send.send(("user", str(error)))
    except Exception as error:  # a model may raise anything
        send.send(("error", f"{type(error).__name__}: {error}"))
