"""Which files Python opens in this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_watching: list[set[str]] = []
_refused: list[bool] = []


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _watching and isinstance(arguments[0], str | bytes | os.PathLike):
        path = os.path.abspath(os.fsdecode(arguments[0]))
        for seen in _watching:
            seen.add(path)
    elif event in ("socket.connect", "socket.getaddrinfo") and _refused:
        raise OSError("no connection is made here")


_installed: list[bool] = []


def watch(seen: set[str]) -> None:
    """Note from now on, in `seen`, the full path of every file that Python opens in this process."""
    if not _installed:
        sys.addaudithook(_listen)  # it cannot be taken away again
        _installed.append(True)
    _watching.append(seen)


@contextmanager
def watched(offline: bool = False) -> Iterator[set[str]]:
    """What Python opens inside; `offline` refuses connections meanwhile."""
    seen: set[str] = set()
    watch(seen)
    if offline:
        _refused.append(True)
    try:
        yield seen
    finally:
        _watching.remove(seen)
        if offline:
            _refused.pop()
