"""Attributes of modules beside parameters and buffers: the plain ones come back, and a change of any other is seen."""

import collections
import functools
import io
import itertools
import math
import random
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from equibench.bench.spec.suite import find_suite
from equibench.bench.training.module_attributes import (
    changed,
    changed_plain,
    contents,
    is_plain,
    plain_attributes,
    put_attributes,
)
from equibench.bench.training.prepare import check_output
from equibench.registry import build_model
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

ATOMS = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(st.characters(codec="utf-8"))
PLAIN = st.recursive(
    ATOMS, lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(ATOMS, inner), max_leaves=8
)


@given(PLAIN)
def test_plain_values_come_back_from_a_file_that_executes_nothing(value: object) -> None:
    assert is_plain(value)
    model, other, stream = nn.Sequential(nn.Linear(1, 1)), nn.Sequential(nn.Linear(1, 1)), io.BytesIO()
    model[0].state = value
    torch.save(plain_attributes(model), stream)
    stream.seek(0)
    put_attributes(other, torch.load(stream, weights_only=True))
    assert repr(other[0].state) == repr(value) and not changed({**contents(other)}, other)


@pytest.mark.parametrize(
    "value",
    [torch.zeros(1), np.float64(1), np.zeros(2), object(), {1}, [object()], {1: len}, torch.Size([1]), 2**2000, 1j],
)
def test_other_values_are_not_plain(value: object) -> None:
    assert not is_plain(value)


def test_a_list_that_holds_itself_is_not_plain() -> None:
    value: list = []
    value.append(value)
    assert not is_plain(value)


class Meter:
    def __init__(self) -> None:
        self.seen = 0

    @functools.cached_property
    def constant(self) -> float:
        return math.sqrt(2)


class Slotted:
    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Forgets:
    """Says itself that its cache is no state."""

    def __init__(self) -> None:
        self.cache: dict = {}

    def __getstate__(self) -> dict:
        return {}


class Packed(nn.Module):
    """Its state is no dictionary, so pickle alone would know how to put it back."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.seen = 0, collections.deque()

    def __getstate__(self) -> tuple:
        return self.steps, tuple(self.seen)


def test_attributes_of_a_module_with_a_state_of_its_own_are_kept_or_named() -> None:
    model, other = Packed(), Packed()
    before = contents(model)
    model.steps = 3
    assert not changed(before, model), "a plain attribute is kept"
    put_attributes(other, plain_attributes(model))
    assert other.steps == 3
    model.seen.append(3)
    assert changed(before, model) == ["seen"]


def counting() -> Callable[[], None]:
    count = [0]

    def function() -> None:
        count[0] += 1

    return function


class Holder(nn.Module):
    """Holds attributes of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.number, self.texts = 0, ["a"]
        self.meter, self.slotted, self.forgets = Meter(), Slotted(), Forgets()
        self.python, self.generator = random.Random(0), torch.Generator()
        self.numpy = np.random.default_rng(0)
        self.array, self.tensor, self.scalar = np.zeros(2), torch.zeros(2), np.float64(0)
        self.queue, self.counter, self.set = collections.deque([1]), collections.Counter(), {1}
        self.iterator, self.function, self.lock = itertools.count(), counting(), threading.Lock()
        self.partial = functools.partial(print, [1])
        self.hidden, self.known, self.weight = [nn.BatchNorm1d(2)], [self.linear], self.linear.weight
        self.loop = [object()]
        self.loop.append(self.loop)


CHANGES: dict[str, Callable[[Holder], object]] = {
    "meter": lambda h: setattr(h.meter, "seen", 1),
    "slotted": lambda h: setattr(h.slotted, "count", 1),
    "python": lambda h: h.python.random(),
    "generator": lambda h: torch.rand(1, generator=h.generator),
    "numpy": lambda h: h.numpy.random(),
    "array": lambda h: h.array.__setitem__(0, 1),
    "tensor": lambda h: h.tensor.add_(1),
    "scalar": lambda h: setattr(h, "scalar", np.float64(1)),
    "queue": lambda h: h.queue.append(2),
    "counter": lambda h: h.counter.update("a"),
    "set": lambda h: h.set.add(2),
    "iterator": lambda h: next(h.iterator),
    "function": lambda h: h.function(),
    "partial": lambda h: h.partial.args[0].append(2),
    "hidden": lambda h: h.hidden[0](torch.randn(3, 2)),
    "loop": lambda h: h.loop.append(1),
    "new": lambda h: setattr(h, "new", object()),
    "number": lambda h: delattr(h, "number"),
    "texts": lambda h: setattr(h, "texts", Meter()),
}
HARMLESS: dict[str, Callable[[Holder], object]] = {
    "nothing": lambda h: None,
    "plain": lambda h: (setattr(h, "number", 5), h.texts.append("b")),
    "weights": lambda h: h.linear.weight.data.add_(1),
    "the same again": lambda h: setattr(h, "tensor", torch.zeros(2)),
    "computed once": lambda h: h.meter.constant,
    "no state by its own word": lambda h: h.forgets.cache.update(a=1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_cannot_be_kept_is_seen(name: str) -> None:
    holder = Holder()
    before = contents(holder)
    CHANGES[name](holder)
    assert changed(before, holder) == [name]


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_kept_or_no_change_is_told_from_it(name: str) -> None:
    holder = Holder()
    before = contents(holder)
    HARMLESS[name](holder)
    assert changed(before, holder) == []


def test_a_list_that_several_modules_share_stays_shared() -> None:
    def pair() -> nn.Sequential:
        made = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        made[0].seen = made[1].seen = [0]
        return made

    model, other, stream = pair(), pair(), io.BytesIO()
    model[0].seen.append(1)
    torch.save(plain_attributes(model), stream)
    stream.seek(0)
    put_attributes(other, torch.load(stream, weights_only=True))
    other[1].seen.append(2)
    assert other[0].seen == [0, 1, 2]


@pytest.mark.parametrize(
    "make",
    [lambda: nn.LSTM(2, 2), lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)), lambda: nn.GRU(2, 2)],
)
def test_layers_of_torch_that_hold_their_weights_twice_do_not_change(make: Callable[[], nn.Module]) -> None:
    layer = make()
    before = contents(layer)
    out = layer(torch.randn(2, 2))
    (out[0] if isinstance(out, tuple) else out).sum().backward()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    assert changed(before, layer) == []


@pytest.mark.parametrize("name", find_suite("quickstart").models)
def test_our_networks_hold_nothing_that_cannot_be_kept(name: str) -> None:
    model = build_model(name, 1, 10, 28)
    check_output(model, 1, 10, 28)
    before = contents(model)
    model(torch.randn(2, 1, 28, 28)).sum().backward()
    assert changed(before, model) == []


def test_changed_attributes_are_named() -> None:
    holder = Holder()
    plain, hashes = plain_attributes(holder), contents(holder)
    holder.eval()
    holder.linear.weight.data.add_(1)
    assert changed_plain(plain, holder) == changed(hashes, holder) == []
    holder.number, holder.linear.seen = 5, True
    holder.queue.append(2)
    assert changed_plain(plain, holder) == ["number", "linear.seen"] and changed(hashes, holder) == ["queue"]
