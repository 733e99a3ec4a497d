"""Checks for growing memory, for logits that depend on earlier images, and for access to files of data sets."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.machinery import all_suffixes
from itertools import chain, compress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...datasets.images import data_root
from ...opened_files import opened_by, watching
from ...registry import DATASETS
from ..records.verdict import Finding, failed, passed
from ..tools.text import listed
from .checked_model import Subject, same_bits

#: Number of passes between two measurements of memory; each has a training pass and an evaluation pass.
PASSES = 4
_CONTAINERS = (list, dict, set, deque)
_PLAIN = frozenset(_CONTAINERS)
#: Folders without data.
_SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/")


def memory(subject: Subject) -> Finding:
    """Memory does not grow from pass to pass, and logits do not depend on the images that were evaluated before."""
    model = subject.loaded(subject.trained.state)
    entries, octets = [0, 0, 0], [0, 0, 0]  # created before anything is counted
    with _without_older_objects() as old:
        for look in range(3):
            for _ in range(PASSES):
                subject.training_loss(model).backward()
                subject.evaluate(model)
            model.zero_grad(set_to_none=True)
            entries[look], octets[look] = _kept(model, *old)
    for counts, what in ((entries, "entries of lists and dictionaries"), (octets, "bytes of tensors")):
        if min(counts[1] - counts[0], counts[2] - counts[1]) < PASSES:  # what only the first passes allocate
            continue
        says = f"each training step with an evaluation leaves {(counts[2] - counts[1]) // PASSES:,} {what} behind, so a"
        says += " long run fills the memory"
        do = "do not append to a list, dictionary, hook or tensor in forward(); keep at most the last value"
        return failed(says, do)
    first, second = subject.images(subject.shown), subject.images(subject.shown, seed=1)
    one, two = subject.loaded(subject.trained.state), subject.loaded(subject.trained.state)
    forwards = subject.evaluate(one, first), subject.evaluate(one, second)
    backwards = subject.evaluate(two, second), subject.evaluate(two, first)
    if not (same_bits(forwards[0], backwards[1]) and same_bits(forwards[1], backwards[0])):
        says = "in evaluation the logits depend on which images were evaluated before"
        do = "keep no values of images in an attribute; statistics of training images belong in a buffer that only"
        do += " training changes"
        return failed(says, do)
    return passed("memory does not grow from pass to pass; the logits do not depend on earlier images")


@contextmanager
def _without_older_objects() -> Iterator[tuple[list[Any], list[Any]]]:
    """Yields the countable objects that exist already: the plain containers, which are nearly all, and the others.

    Garbage collections inside skip them, which saves most time.
    """
    existing = gc.get_objects()
    types = list(map(type, existing))
    kinds = {kind for kind in set(types) if issubclass(kind, (*_CONTAINERS, torch.Tensor))}
    plain = list(compress(existing, map(_PLAIN.__contains__, types)))
    others = list(compress(existing, map((kinds - _PLAIN).__contains__, types)))
    del existing, types
    gc.freeze()
    try:
        yield plain, others
    finally:
        gc.unfreeze()


def _kept(model: nn.Module, plain: list[Any], others: list[Any]) -> tuple[int, int]:
    """Memory in use by this process: number of entries of containers, and bytes of tensors."""
    gc.collect()
    entries, storages = sum(map(len, plain)), dict[int, int]()
    for value in chain(others, gc.get_objects()):
        if value is storages:
            continue
        kind = type(value)
        if issubclass(kind, _CONTAINERS):
            entries += next(c for c in _CONTAINERS if issubclass(kind, c)).__len__(value)
        elif issubclass(kind, torch.Tensor):
            with suppress(Exception):  # a tensor without storage
                storage = value.untyped_storage()
                storages[storage._cdata] = storage.nbytes()
    for module in model.modules():
        for value in vars(module).values():  # texts and arrays, which the garbage collector does not track
            if isinstance(value, str | bytes | bytearray):
                entries += len(value)
            elif type(value).__module__ == "numpy":
                entries += int(getattr(value, "nbytes", 0))
    return entries, sum(storages.values())


def opening_key(subject: Subject) -> str:
    """The key under which files are recorded that are opened during the check of a model."""
    return f"the check of {subject.name}"


def data_files(subject: Subject) -> Finding:
    """Importing, building and running the model opens no file of a data set."""
    opened = {path for path in map(str, opened_by(opening_key(subject)).read) if _may_be_data(path)}
    root = str(Path(data_root(None)).resolve())
    if cached := sorted(p for p in opened if Path(os.path.realpath(p)).is_relative_to(root)):
        return failed(f"the model's code opens {listed(cached, 3)}, below the folder of the data sets", _BLIND)
    for name, files in _files_of_data_sets(subject) if opened else ():
        if theirs := sorted({os.path.realpath(p) for p in opened} & files):
            return failed(f"the model's code opens {listed(theirs, 3)}, which belongs to data set {name!r}", _BLIND)
    return passed("no file of a data set was opened when the model was imported, built and run")


_BLIND = (
    "a model may see images only through forward(), otherwise it may have seen the test images; remove the code that"
    " reads them"
)


def _may_be_data(path: str) -> bool:
    return not path.endswith(tuple(all_suffixes())) and not path.startswith(_SYSTEM) and ".dist-info" not in path


def _files_of_data_sets(subject: Subject) -> Iterator[tuple[str, set[str]]]:
    """The files that are opened to make the data set of the board, and those of the user's own data sets."""
    for entry in DATASETS.match():
        if entry.is_template or (entry.name != subject.job.dataset and entry.origin == "equibench"):
            continue
        key = f"the data set {entry.name} in a check"
        with _offline(), tempfile.TemporaryDirectory() as folder, watching(key), suppress(Exception):
            # It may fail without a connection; the files that it opened until then are known.
            entry.load()(Path(folder), **entry.arguments)
        seen = map(str, opened_by(key).read)
        yield entry.name, {os.path.realpath(p) for p in seen if _may_be_data(p) and not p.startswith(folder)}


_state = {"hooked": False, "offline": False}


@contextmanager
def _offline() -> Iterator[None]:
    """Inside this context, the process makes no network connection."""
    if not _state["hooked"]:  # Python cannot remove such a hook
        sys.addaudithook(_refuse)
    _state.update(hooked=True, offline=True)
    try:
        yield
    finally:
        _state["offline"] = False


def _refuse(event: str, _arguments: tuple[Any, ...]) -> None:
    if _state["offline"] and event in ("socket.connect", "socket.getaddrinfo"):
        raise OSError("network connections are not allowed here")
