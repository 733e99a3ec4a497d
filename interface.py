"""How messages name what a user gave: as an option of the command line, or as an argument of a function in Python."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar
from numbers import Integral
from typing import Any

#: The arguments of the function of the Python interface that the user called. Without such a call, messages name the
#: options of the command line.
PYTHON_CALL: ContextVar[Mapping[str, Any] | None] = ContextVar("PYTHON_CALL", default=None)
#: Words in the place of a value.
_PLACEHOLDERS = ("DIR", "FILE", "N", "NAME", "SECONDS")


def option(name: str, value: object = "") -> str:
    """An option as the user gives it: ``--data-root DIR`` to a command, ``data_root=…`` to a function in Python.

    Args:
        value: a value, possibly in quotes, or ``DIR``, ``FILE``, ``N``, ``NAME`` or ``SECONDS`` in the place of one.
    """
    if PYTHON_CALL.get() is None:
        return f"--{name} {value}".rstrip()
    text = "…" if value in ("", *_PLACEHOLDERS) else str(value)
    text = text if text[0] in "'\"…" or isinstance(value, Integral) else repr(text)
    odd = {"include": f"includes=[{text}]", "class": f"**{{'class': {text}}}"}  # class is a keyword of Python
    return odd.get(name, f"{name.replace('-', '_')}={text}")


def as_given(text: str) -> str:
    """A sentence of a place that does not know the interface, with each option and placeholder as `option` names it.

    Such places are other processes, and files whose source is hashed. Other options belong to a whole command.
    """
    return re.sub(rf"--([a-z][a-z-]*) ({'|'.join(_PLACEHOLDERS)})\b", lambda found: option(*found.groups()), text)
