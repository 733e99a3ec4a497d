"""The functions of the Python interface: messages name their arguments, and wrong types of arguments are refused."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from functools import wraps
from numbers import Integral
from typing import Any, TypeVar, cast

from ...registry import IN_PYTHON, UserError
from ..tools.text import clipped

F = TypeVar("F", bound=Callable[..., Any])
#: Annotations of arguments that are checked: in words, and as types. The functions themselves check other arguments.
_TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "str": ("a text", (str,)),
    "int": ("a whole number", (Integral,)),
    "str | Path": ("a path", (str, os.PathLike)),
}
_FILES = "Iterable[str | Path]"


def public(function: F) -> F:
    """Decorator of a function that users call from Python.

    Raises:
        UserError: an argument has a wrong type.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        before = IN_PYTHON.set(True)
        try:
            try:
                given = signature.bind_partial(*arguments, **options).arguments
            except TypeError:  # Python's own message, from the call below, names the function
                given = {}
            for name, value in given.items():
                parameter = signature.parameters[name]
                several = parameter.kind is inspect.Parameter.VAR_POSITIONAL
                for one in value if several else (value,):
                    if why := _what_is_wrong(str(parameter.annotation), one):
                        raise UserError(f"equibench.{function.__qualname__}: {name} should be {why}")
            return function(*arguments, **options)
        finally:
            IN_PYTHON.reset(before)

    return cast(F, call)


def _what_is_wrong(annotation: str, value: Any) -> str:
    """What an argument should be, and what it is; empty if its type is right, or is not checked here."""
    kind, optional, _ = annotation.partition(" | None")
    not_this = f"not {clipped(repr(value), 80)}"
    if value is None and optional:
        return ""
    if kind == _FILES:
        is_list = isinstance(value, Iterable) and not isinstance(value, str | os.PathLike)
        return "" if is_list else f"a list of files, as ['my_net.py'], {not_this}"
    if kind not in _TYPES:
        return ""
    words, types = _TYPES[kind]
    return "" if isinstance(value, types) and not isinstance(value, bool) else f"{words}, {not_this}"
