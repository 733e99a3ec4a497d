"""Python attributes of a model's modules (not parameters or buffers) that training may change.

Checkpoints keep plain attributes (`is_plain`). For all others, only changes are detected: their content is hashed
before the training, and again for each checkpoint. Files of final weights keep no attributes.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import nn

#: Attributes that every `nn.Module` has. All except ``training`` are saved elsewhere, or are not state.
_OWN = set(nn.Module().__dict__) - {"training"}
#: Integers with more bits, and more deeply nested containers, are not plain.
_BITS, _DEPTH = 1000, 20

#: Types without parts and without state.
_ATOMS = (str, bytes, int, float, complex, type(None), np.generic)

#: Values of attributes, by the name of their module and their own name.
Plain = dict[str, dict[str, Any]]


def is_plain(value: Any, depth: int = _DEPTH) -> bool:
    """Whether a value has exactly a plain type: int, float, str, bool, None, or a tuple, list or dict of these."""
    kind = type(value)
    if kind in (list, tuple):
        return depth > 0 and all(is_plain(v, depth - 1) for v in value)
    if kind is dict:
        return depth > 0 and all(is_plain(k, depth - 1) and is_plain(v, depth - 1) for k, v in value.items())
    return kind in (float, str, bool, type(None)) or (kind is int and value.bit_length() <= _BITS)


def plain_attributes(model: nn.Module) -> Plain:
    """The plain attributes of all modules, ``training`` included."""
    return {name: {k: v for k, v in _attributes(m) if is_plain(v)} for name, m in model.named_modules()}


def put_attributes(model: nn.Module, values: Plain) -> None:
    """Set the plain attributes of all modules to the result of `plain_attributes`; equal values are not replaced."""
    for name, module in model.named_modules():
        for attribute, value in values[name].items():
            # An unchanged list may be shared with other objects. `repr` distinguishes 0.0 from -0.0, and 1 from True.
            if attribute not in module.__dict__ or repr(module.__dict__[attribute]) != repr(value):
                module.__dict__[attribute] = value


def contents(model: nn.Module) -> dict[str, str]:
    """A hash of the content of each attribute by name; empty for plain ones. Comparable only within one process."""
    # Registered modules, parameters and buffers are saved elsewhere, also if attributes refer to them.
    registered = {id(x) for part in (model.modules(), model.parameters(), model.buffers()) for x in part}
    return {
        f"{name}.{attribute}".lstrip("."): "" if is_plain(value) else _content(value, registered)
        for name, module in model.named_modules()
        for attribute, value in _attributes(module)
    }


def changed(before: dict[str, str], model: nn.Module) -> list[str]:
    """Names of the attributes that are not plain and whose content has changed since `contents` returned `before`."""
    now = contents(model)
    return [name for name in {**before, **now} if now.get(name) != "" and now.get(name) != before.get(name)]


def changed_plain(before: Plain, model: nn.Module) -> list[str]:
    """Names of the plain attributes, without ``training``, that changed since `plain_attributes` returned `before`."""
    return [
        f"{path}.{k}".lstrip(".")
        for path, values in plain_attributes(model).items()
        for k, v in values.items()
        if k != "training" and repr(before.get(path, {}).get(k)) != repr(v)
    ]


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((k, v) for k, v in _state(module).items() if k not in _OWN)


def _state(one: Any) -> dict[str, Any]:
    """The attributes of an object that are its state: those that `__getstate__` leaves out can be computed again."""
    attributes = getattr(one, "__dict__", {})
    if type(one).__getstate__ is object.__getstate__:
        return attributes
    try:
        told = one.__getstate__()
    except Exception:  # torch's parametrised modules raise here
        return attributes
    if not isinstance(told, dict):
        # A checkpoint puts attributes of modules back, so it must look at the attributes themselves.
        return attributes if isinstance(one, nn.Module) else {"": told}
    # `__getstate__` may set omitted attributes to None, and may return copies of others.
    return {k: v for k, v in attributes.items() if told.get(k) is not None or v is None}


def _content(value: Any, registered: set[int]) -> str:
    """A hash of all objects that can be reached from a value, without registered ones."""
    # Objects are numbered in the order of the walk, and kept alive so that no address is used twice.
    seen: dict[int, int] = {}
    kept: list[Any] = []
    digest, waiting = hashlib.sha256(), [value]
    while waiting:
        one = waiting.pop()
        if id(one) in registered or id(one) in seen:
            digest.update(f"#{seen.get(id(one), id(one))}\0".encode())
            continue
        if not isinstance(one, _ATOMS):  # equal atoms may be one object or several
            seen[id(one)] = len(kept)
            kept.append(one)
        told, parts = _look(one)
        digest.update(f"{type(one).__module__}.{type(one).__qualname__}\0".encode() + told + b"\0")
        waiting += parts
    return digest.hexdigest()


def _look(one: Any) -> tuple[bytes, list[Any]]:
    """The own content of an object as bytes, and the objects that it consists of."""
    if isinstance(one, torch.Tensor):
        return repr((one.dtype, tuple(one.shape), one.requires_grad)).encode() + _bytes(one), []
    if isinstance(one, np.ndarray):
        kind = repr((one.dtype, one.shape)).encode()
        return (kind, one.ravel().tolist()) if one.dtype.hasobject else (kind + one.tobytes(), [])
    if isinstance(one, torch.Generator):
        return _bytes(one.get_state()), []
    named = (type, types.ModuleType, types.BuiltinFunctionType)
    if isinstance(one, (*_ATOMS, bytearray, torch.dtype, torch.device, *named)):
        return repr(one).encode("utf-8", "surrogatepass"), []
    if isinstance(one, types.MethodType):
        return b"", [one.__self__, one.__func__]
    if isinstance(one, types.FunctionType):
        cells = [c.cell_contents for c in one.__closure__ or () if _is_filled(c)]
        return one.__qualname__.encode(), [one.__defaults__, one.__kwdefaults__, one.__dict__, *cells]
    return _look_into(one)


def _look_into(one: Any) -> tuple[bytes, list[Any]]:
    """The parts of containers and of objects with attributes; for others what pickle would save, or the address."""
    found, parts = False, list[Any]()
    if isinstance(one, dict):
        found, parts = True, [p for item in one.items() for p in item]
    elif isinstance(one, Iterable) and hasattr(one, "__len__"):  # not iterators: reading would change them
        with suppress(Exception):  # some objects with a length cannot be iterated
            parts, found = list(one), True
    attributes = {**_slots(one), **_state(one)}
    # A cached property that is computed later is not a change of state.
    parts += [
        part
        for name, value in attributes.items()
        if not isinstance(getattr(type(one), name, None), functools.cached_property)
        for part in (name, value)
    ]
    if found or attributes:
        return str(len(parts)).encode(), parts
    try:
        reduced = one.__reduce_ex__(2)
    except Exception:  # files, locks and many objects written in C
        return str(id(one)).encode(), []
    return (reduced.encode(), []) if isinstance(reduced, str) else (b"", [p for p in reduced[:3] if p is not one])


def _slots(one: Any) -> dict[str, Any]:
    slots = [getattr(c, "__slots__", ()) for c in type(one).__mro__]
    names = [n for some in slots for n in ([some] if isinstance(some, str) else some)]
    return {n: getattr(one, n) for n in names if n not in ("__dict__", "__weakref__") and hasattr(one, n)}


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _bytes(tensor: torch.Tensor) -> bytes:
    """The numbers of a tensor as bytes; its address if the numbers cannot be read."""
    try:
        return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    except (RuntimeError, TypeError, NotImplementedError):  # sparse, quantised, on meta
        return str(id(tensor)).encode()
