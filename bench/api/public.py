"""The functions of the Python interface: messages name their arguments, and wrong types of arguments are refused."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from functools import wraps
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar, cast

from ...registry import PYTHON_CALL, UserError, as_given
from ..tools.machine import Machine
from ..tools.text import clipped

F = TypeVar("F", bound=Callable[..., Any])
#: Annotations of arguments that are checked: in words, and as types. The functions themselves check other arguments.
_TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "str": ("a text", (str,)),
    "int": ("a whole number", (Integral,)),
    "float": ("a number", (Real,)),
    "bool": ("True or False", (bool,)),
    "Machine": ("a Machine", (Machine,)),
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
        try:
            bound = signature.bind_partial(*arguments, **options)
        except TypeError:  # Python's own message, from this call, names the function
            return function(*arguments, **options)
        given = bound.arguments
        for name, value in given.items():
            given[name] = _with_home(str(signature.parameters[name].annotation), value)
        before = PYTHON_CALL.set({**given.get("keys", {}), **given})
        try:
            for name, value in given.items():
                parameter = signature.parameters[name]
                several = parameter.kind is inspect.Parameter.VAR_POSITIONAL
                for one in value if several else (value,):
                    if why := _what_is_wrong(str(parameter.annotation), one):
                        raise UserError(f"equibench.{function.__qualname__}: {name} should be {why}")
            return function(*bound.args, **bound.kwargs)
        except UserError as error:
            error.args = tuple(as_given(part) if isinstance(part, str) else part for part in error.args)
            raise
        finally:
            PYTHON_CALL.reset(before)

    return cast(F, call)


def _with_home(annotation: str, value: Any) -> Any:
    """An argument with the home folder instead of ``~``, as a shell would give it; files become a list."""
    if annotation == _FILES and isinstance(value, Iterable) and not isinstance(value, str | bytes | os.PathLike):
        return [_with_home("str | Path", one) for one in value]
    if annotation.startswith("str | Path") and isinstance(value, str | os.PathLike) and str(value).startswith("~"):
        home = os.path.expanduser(value)
        return home if isinstance(value, str) else Path(home)
    return value


def _what_is_wrong(annotation: str, value: Any) -> str:
    """What an argument should be, and what it is; empty if its type is right, or is not checked here."""
    kind, optional, _ = annotation.partition(" | None")
    not_this = f"not {clipped(repr(value), 80)}"
    if value is None and optional:
        return ""
    if kind == _FILES:
        is_list = isinstance(value, Iterable) and not isinstance(value, str | bytes | os.PathLike)
        is_list = is_list and all(isinstance(one, str | os.PathLike) for one in value)
        return "" if is_list else f"a list of files, as ['my_net.py'], {not_this}"
    if kind not in _TYPES:
        return ""
    words, types = _TYPES[kind]
    is_right = isinstance(value, types) and (kind == "bool" or not isinstance(value, bool))
    return "" if is_right else f"{words}, {not_this}"
