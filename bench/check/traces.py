"""What a model leaves behind and where it looks: memory that grows, a history that counts, files of a data set."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.machinery import all_suffixes
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...datasets.images import data_root
from ...opened import opened_by, watching
from ...registry import DATASETS
from ..records.verdict import Finding, failed, passed
from .subject import Subject, loss_of, names, same_bits

#: Passes between two looks at what is kept: in each, one in training and one in evaluation.
PASSES = 4
_CONTAINERS = (list, dict, set, deque)
#: Where no data lie.
_SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/")


def memory(subject: Subject) -> Finding:
    """Nothing grows from pass to pass, and logits do not depend on what was evaluated before."""
    model = subject.loaded(subject.trained.state)
    entries, octets = [0, 0, 0], [0, 0, 0]  # made before anything is counted
    with _apart() as old:
        for look in range(3):
            for _ in range(PASSES):
                loss_of(model.train(), subject.images(subject.batch), subject.labels(subject.batch)).backward()
                subject.evaluate(model)
            model.zero_grad(set_to_none=True)
            entries[look], octets[look] = _kept(model, old)
    for counts, what in ((entries, "entries of lists and dictionaries"), (octets, "bytes of tensors")):
        # What torch itself sets up in the first passes does not come again.
        if min(counts[1] - counts[0], counts[2] - counts[1]) < PASSES:
            continue
        return failed(
            f"each training step with an evaluation leaves {(counts[2] - counts[1]) // PASSES:,} {what} behind, so"
            " that a long"
            " run fills the memory",
            "append nothing to a list, dictionary, hook or tensor in forward(); keep at most the last value, or"
            " remove it",
        )
    first, second = subject.images(subject.shown), subject.images(subject.shown, seed=1)
    one, two = subject.loaded(subject.trained.state), subject.loaded(subject.trained.state)
    forwards = subject.evaluate(one, first), subject.evaluate(one, second)
    backwards = subject.evaluate(two, second), subject.evaluate(two, first)
    if not (same_bits(forwards[0], backwards[1]) and same_bits(forwards[1], backwards[0])):
        return failed(
            "in evaluation the logits depend on which images were evaluated before",
            "keep no figure of an image in an attribute; what training learns of images belongs in a buffer that only"
            " training changes",
        )
    return passed("nothing grows from pass to pass; the logits do not depend on what was evaluated before")


@contextmanager
def _apart() -> Iterator[list[Any]]:
    """What is counted of all that is alive; collections inside pass over it, which would take most of their time."""
    there = gc.get_objects()
    kinds = {kind for kind in set(map(type, there)) if issubclass(kind, (*_CONTAINERS, torch.Tensor))}
    old = [value for value in there if type(value) in kinds]
    del there
    gc.freeze()
    try:
        yield old
    finally:
        gc.unfreeze()


def _kept(model: nn.Module, old: list[Any]) -> tuple[int, int]:
    """How much is alive in this process, old and new: entries of containers, bytes of tensors."""
    gc.collect()
    entries, storages = 0, dict[int, int]()
    for value in chain(old, gc.get_objects()):
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
        entries += sum(map(_length, vars(module).values()))
    return entries, sum(storages.values())


def _length(value: Any) -> int:
    """Of what holds numbers or characters without being seen by the collector of garbage."""
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    return int(getattr(value, "nbytes", 0)) if type(value).__module__ == "numpy" else 0


def opening_key(subject: Subject) -> str:
    """What the files are noted under that are opened while a model is checked."""
    return f"the check of {subject.name}"


def data_files(subject: Subject) -> Finding:
    """Importing, building and running it opened no file of a data set."""
    opened = {path for path in map(str, opened_by(opening_key(subject)).read) if _may_be_data(path)}
    root = str(Path(data_root(None)).resolve())
    cached = sorted(p for p in opened if Path(os.path.realpath(p)).is_relative_to(root))
    if cached:
        return failed(f"the model's code opens {names(cached)}, below the folder of the data sets", _BLIND)
    for name, files in _files_of_data_sets(subject) if opened else ():
        theirs = sorted({os.path.realpath(p) for p in opened} & files)
        if theirs:
            return failed(f"the model's code opens {names(theirs)}, of which data set {name!r} is made", _BLIND)
    return passed("no file of a data set was opened when it was imported, built and run")


_BLIND = "a model sees images through forward() alone, else it may have seen those of the test; remove what reads them"


def _may_be_data(path: str) -> bool:
    return not path.endswith(tuple(all_suffixes())) and not path.startswith(_SYSTEM) and ".dist-info" not in path


def _files_of_data_sets(subject: Subject) -> Iterator[tuple[str, set[str]]]:
    """What is opened where the data set of the board is made, and those that the user's own files register."""
    for entry in DATASETS.match():
        if entry.is_template or (entry.name != subject.job.dataset and entry.origin == "equibench"):
            continue
        key = f"the data set {entry.name} in a check"
        with _offline(), tempfile.TemporaryDirectory() as folder, watching(key), suppress(Exception):
            entry.load()(
                Path(folder), **entry.arguments
            )  # it may need a connection; what it opened until then is known
        seen = map(str, opened_by(key).read)
        yield entry.name, {os.path.realpath(p) for p in seen if _may_be_data(p) and not p.startswith(folder)}


_state = {"hooked": False, "offline": False}


@contextmanager
def _offline() -> Iterator[None]:
    """Inside, this process makes no connection."""
    if not _state["hooked"]:  # a hook stays for ever
        sys.addaudithook(_refuse)
    _state.update(hooked=True, offline=True)
    try:
        yield
    finally:
        _state["offline"] = False


def _refuse(event: str, _arguments: tuple[Any, ...]) -> None:
    if _state["offline"] and event in ("socket.connect", "socket.getaddrinfo"):
        raise OSError("no connection is made here")
