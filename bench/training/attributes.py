"""What the modules of a model hold beside parameters and buffers: Python attributes that training may change.

Plain ones (`is_plain`) are kept in checkpoints. Of all others it is only seen whether they changed: their content is
hashed before the training and again when a checkpoint is written.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

#: What every module has by itself; all of it but ``training`` is kept elsewhere, or no state.
_OWN = set(nn.Module().__dict__) - {"training"}
#: Whole numbers of more bits, and containers nested more deeply, are not plain.
_BITS, _DEPTH = 1000, 20

#: What has no parts and no state.
_ATOMS = (str, bytes, int, float, complex, type(None), np.generic)

#: Values of attributes by the name of their module and their own.
Plain = dict[str, dict[str, Any]]


def is_plain(value: Any, depth: int = _DEPTH) -> bool:
    """Whether a value is a number, a text, True, False, None, or a tuple, list or dictionary of such, of exactly these
    types.
    """
    kind = type(value)
    if kind in (list, tuple):
        return depth > 0 and all(is_plain(v, depth - 1) for v in value)
    if kind is dict:
        return depth > 0 and all(is_plain(k, depth - 1) and is_plain(v, depth - 1) for k, v in value.items())
    return kind in (float, str, bool, type(None)) or (kind is int and value.bit_length() <= _BITS)


def plain_attributes(model: nn.Module) -> Plain:
    """The plain attributes of all modules, ``training`` among them."""
    return {name: {k: v for k, v in _attributes(m) if is_plain(v)} for name, m in model.named_modules()}


def put_attributes(model: nn.Module, values: Plain) -> None:
    """Give all modules the plain attributes that `plain_attributes` found; equal values are left as they are."""
    for name, module in model.named_modules():
        for attribute, value in values[name].items():
            # An object of the model may share an unchanged list; texts also tell 0.0 from -0.0, and 1 from True.
            if attribute not in module.__dict__ or repr(module.__dict__[attribute]) != repr(value):
                module.__dict__[attribute] = value


def fit_attributes(model: nn.Module, values: Plain) -> bool:
    """Whether the values are those of modules with these names."""
    return [name for name, _ in model.named_modules()] == list(values)


def contents(model: nn.Module) -> dict[str, str]:
    """A hash of the content of every attribute by name, empty where it is plain; to be compared within one process."""
    # What is registered is kept where it is, also if others refer to it.
    registered = {id(x) for part in (model.modules(), model.parameters(), model.buffers()) for x in part}
    return {
        f"{name}.{attribute}".lstrip("."): "" if is_plain(value) else _content(value, registered)
        for name, module in model.named_modules()
        for attribute, value in _attributes(module)
    }


def changed(before: dict[str, str], model: nn.Module) -> list[str]:
    """Names of the attributes that `plain_attributes` does not tell and that have not the content that they had."""
    now = contents(model)
    return [name for name in {**before, **now} if now.get(name) != "" and now.get(name) != before.get(name)]


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((k, v) for k, v in _state(module).items() if k not in _OWN)


def _state(one: Any) -> dict[str, Any]:
    """Attributes of an object, as far as it calls them its state: what `__getstate__` leaves out can be made again."""
    attributes = getattr(one, "__dict__", {})
    if type(one).__getstate__ is object.__getstate__:
        return attributes
    try:
        told = one.__getstate__()
    except Exception:  # torch's parametrised modules refuse
        return attributes
    # None stands for what is left out; other values may be copies.
    return (
        {k: v for k, v in attributes.items() if told.get(k) is not None or v is None}
        if isinstance(told, dict)
        else {"": told}
    )


def _content(value: Any, registered: set[int]) -> str:
    """A hash of everything that can be reached from a value, what is registered left out."""
    # Objects by their number in the order of the walk, and kept alive, so that none gets the address of another.
    seen: dict[int, int] = {}
    kept: list[Any] = []
    digest, waiting = hashlib.sha256(), [value]
    while waiting:
        one = waiting.pop()
        if id(one) in registered or id(one) in seen:
            digest.update(f"#{seen.get(id(one), id(one))}\0".encode())
            continue
        if not isinstance(one, _ATOMS):  # of equal ones, nobody can say whether they are one object
            seen[id(one)] = len(kept)
            kept.append(one)
        told, parts = _look(one)
        digest.update(f"{type(one).__module__}.{type(one).__qualname__}\0".encode() + told + b"\0")
        waiting += parts
    return digest.hexdigest()


def _look(one: Any) -> tuple[bytes, list[Any]]:
    """What an object says itself, and the objects that it consists of."""
    if isinstance(one, torch.Tensor):
        return repr((one.dtype, tuple(one.shape), one.requires_grad)).encode() + _bytes(one), []
    if isinstance(one, np.ndarray):
        return repr((one.dtype, one.shape)).encode() + (b"" if one.dtype.hasobject else one.tobytes()), (
            one.ravel().tolist() if one.dtype.hasobject else []
        )
    if isinstance(one, torch.Generator):
        return _bytes(one.get_state()), []
    if isinstance(one, (*_ATOMS, bytearray, torch.dtype, torch.device)):
        return repr(one).encode("utf-8", "surrogatepass"), []
    if isinstance(one, (type, types.ModuleType, types.BuiltinFunctionType)):
        return repr(one).encode(), []
    if isinstance(one, types.MethodType):
        return b"", [one.__self__, one.__func__]
    if isinstance(one, types.FunctionType):
        cells = [c.cell_contents for c in one.__closure__ or () if _is_filled(c)]
        return one.__qualname__.encode(), [one.__defaults__, one.__kwdefaults__, one.__dict__, *cells]
    return _look_into(one)


def _look_into(one: Any) -> tuple[bytes, list[Any]]:
    """The parts of containers and of objects with attributes; else what pickle would keep, else the object's
    address.
    """
    parts: list[Any] = []
    found = False
    if isinstance(one, dict):
        found, parts = True, [p for item in one.items() for p in item]
    elif isinstance(one, Iterable) and hasattr(one, "__len__"):  # not iterators: looking would change them
        try:
            found, parts = True, list(one)
        except Exception:  # a length does not always mean that it can be read
            found = False
    attributes = {**_slots(one), **_state(one)}
    # A value that is computed once, when it is first asked for, is no change.
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
    except Exception:  # files, locks and much that is written in C
        return str(id(one)).encode(), []
    return (reduced.encode(), []) if isinstance(reduced, str) else (b"", [p for p in reduced[:3] if p is not one])


def _slots(one: Any) -> dict[str, Any]:
    names = [n for c in type(one).__mro__ for n in _listed(getattr(c, "__slots__", ()))]
    return {n: getattr(one, n) for n in names if n not in ("__dict__", "__weakref__") and hasattr(one, n)}


def _listed(slots: Any) -> list[str]:
    return [slots] if isinstance(slots, str) else list(slots)


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _bytes(tensor: torch.Tensor) -> bytes:
    """The numbers of a tensor; its address where it has none that can be read so."""
    try:
        return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    except (RuntimeError, TypeError, NotImplementedError):  # sparse, quantised, on meta
        return str(id(tensor)).encode()
