"""Running statistics of normalisation layers, re-estimated after training.

The method works for every layer that derives from torch's batch or instance normalisation. torch documents that a call
in training mode moves the running statistics towards those of the batch, by the share `momentum`. With momentum 1 they
become the statistics of the batch. This also holds if a derived layer changes its input first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from .accuracy import FastMaxPool

#: Largest relative difference between statistics that differ only in the order of a sum.
STATISTICS_TOLERANCE = 1e-3

#: Running mean and variance.
Statistics = tuple[torch.Tensor, torch.Tensor]


class UnknownStatistics(ValueError):
    """A layer's running statistics cannot be re-estimated; the message names the layer."""


class _PooledStatistics:
    """The statistics of a layer over all its calls.

    Batch normalisation: mean and unbiased variance of all values of a channel, as if all batches were one batch
    (Chan, Golub, LeVeque 1983, eq. 2.1). Instance normalisation: the averages of the means and variances of the single
    images, as in torch.
    """

    def __init__(self) -> None:
        self.count = 0.0
        self.mean: torch.Tensor | float = 0.0
        self.variance: torch.Tensor | float = 0.0

    def add(self, layer: _NormBase, values: torch.Tensor) -> None:
        """Add the statistics that the layer has after a call on `values`."""
        mean, variance = (t.double() for t in _tensors(layer))
        if isinstance(layer, _InstanceNorm):
            count = float(len(values))
            share = count / (self.count + count)
            self.variance = self.variance + share * (variance - self.variance)
        else:
            count = values.numel() / layer.num_features
            share = count / (self.count + count)
            within = (self.count - 1) * self.variance if self.count else 0.0
            between = share * self.count * (mean - self.mean) ** 2
            self.variance = (within + (count - 1) * variance + between) / (self.count + count - 1)
        self.mean = self.mean + share * (mean - self.mean)
        self.count += count


def running_layers(model: nn.Module) -> dict[str, _NormBase]:
    """The layers with running statistics that derive from torch's layers, by their names in the model."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _NormBase) and module.track_running_stats and _state(module) is not None
    }


def _tensors(layer: _NormBase) -> Statistics:
    return layer.running_mean, layer.running_var  # type: ignore[return-value]


def _state(layer: _NormBase) -> Statistics | None:
    """Copies of the running mean and variance; None if they do not exist (yet)."""
    if any(t is None or isinstance(t, nn.UninitializedBuffer) for t in _tensors(layer)):
        return None
    mean, variance = _tensors(layer)
    return mean.clone(), variance.clone()


def _same(one: Statistics | None, two: Statistics | None) -> bool:
    return one is not None and two is not None and all(map(torch.equal, one, two))


@torch.no_grad()
def reestimate_batch_norm(model: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Replace the running statistics of normalisation layers by the statistics of all given images together.

    All other layers are in evaluation mode (dropout off, filters expanded once). Each batch is normalised by its own
    statistics, as in training. The statistics of all batches are combined, weighted by their numbers of values. Layers
    that are never called keep their statistics, and so do layers whose statistics do not change in training, among
    them those that the model keeps in evaluation mode while it trains.

    Raises:
        UnknownStatistics: the statistics of a layer change although the layer is not called.
    """
    model.train()
    layers = {name: layer for name, layer in running_layers(model).items() if layer.training}
    pools = {name: _PooledStatistics() for name in layers}
    momenta = {name: layer.momentum for name, layer in layers.items()}
    model.eval()
    for layer in layers.values():
        if not all(t.isfinite().all() for t in _tensors(layer)):
            layer.reset_running_stats()  # 0 times infinity is NaN
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.zero_()
        layer.momentum, layer.training = 1.0, True
    before = {name: _state(layer) for name, layer in layers.items()}
    moved = dict.fromkeys(layers, False)

    def seen(name: str, layer: _NormBase, *given: Any) -> None:
        pools[name].add(layer, next(value for value in given if isinstance(value, torch.Tensor)))
        moved[name] = moved[name] or not _same(before[name], _state(layer))

    try:
        with ExitStack() as hooks:
            for name, layer in layers.items():
                hook = layer.register_forward_hook(
                    lambda module, args, named, out, name=name: seen(name, module, *args, *named.values(), out),
                    with_kwargs=True,
                )
                hooks.enter_context(hook)
            for batch in batches if layers else ():
                with FastMaxPool():
                    model(batch)
    finally:
        for name, layer in layers.items():
            layer.momentum = momenta[name]
    for name, layer in layers.items():
        pool = pools[name]
        if not pool.count and not _same(before[name], _state(layer)):
            raise _uncalled_error(name, layer)
        if moved[name]:
            for statistic, pooled in zip(_tensors(layer), (pool.mean, pool.variance), strict=True):
                statistic.copy_(torch.as_tensor(pooled))
        layer.eval()  # a derived layer may do something here, such as averaging the statistics of its splits


@contextmanager
def one_seed(images: torch.Tensor) -> Iterator[None]:
    """Inside, torch's random generators have a fixed seed, because a network may be random in evaluation."""
    with torch.random.fork_rng([images.device] if images.is_cuda else []):
        torch.manual_seed(0)
        yield


def _uncalled_error(name: str, layer: _NormBase) -> UnknownStatistics:
    return UnknownStatistics(
        f"the running statistics of {name!r} ({type(layer).__name__}) change although the layer is not called, so they"
        " cannot be re-estimated; call the layer itself"
    )


@torch.no_grad()
def check_statistics(model: nn.Module, images: torch.Tensor) -> None:
    """Check that the running statistics of a model can be re-estimated. Do not use the model afterwards.

    With momentum 1 the statistics after a batch (of at least two images) must be those of the batch, for any initial
    values; frozen statistics must not change.

    Raises:
        UnknownStatistics: the statistics of a layer follow another rule.
    """
    layers = running_layers(model)
    with one_seed(images):
        _check_calls(model, layers, images)
    begun = {name: _state(layer) for name, layer in layers.items()}
    with one_seed(images):
        reestimate_batch_norm(model, [images])
    # Frozen layers keep their values: from other values, the layers after them would get other inputs.
    layers = {name: layer for name, layer in layers.items() if not _same(begun[name], _state(layer))}
    ends: dict[str, list[Statistics | None]] = {name: [] for name in layers}
    for start in (0.0, 1.0):
        for layer in layers.values():
            mean, variance = _tensors(layer)
            mean.fill_(start)
            variance.fill_(1 + start)
        with one_seed(images):
            reestimate_batch_norm(model, [images])
        for name, layer in layers.items():
            ends[name].append(_state(layer))
    for name, (one, two) in ends.items():
        assert one is not None and two is not None
        # Non-finite statistics are not compared: a network that diverges is a row of a board, not an error.
        pairs = [(a, b) for a, b in zip(one, two, strict=True) if a.isfinite().all() and b.isfinite().all()]
        if not all(
            torch.allclose(a, b, rtol=STATISTICS_TOLERANCE, atol=STATISTICS_TOLERANCE * float(b.abs().mean()))
            for a, b in pairs
        ):
            raise UnknownStatistics(
                f"the running statistics of {name!r} ({type(layers[name]).__name__}) do not become those of the"
                " batch when momentum is 1, so they cannot be re-estimated; update them with `momentum` as torch does"
            )


def _check_calls(model: nn.Module, layers: dict[str, _NormBase], images: torch.Tensor) -> None:
    """Check that training changes the statistics of no layer that is not called, in training or in evaluation."""
    called, before = set[str](), {name: _state(layer) for name, layer in layers.items()}
    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.enter_context(layer.register_forward_hook(lambda *_, name=name: called.add(name)))
        # Evaluation may call others: a moving average of the network, whose statistics training averages too.
        for mode in (True, False) if layers else ():
            model.train(mode)(images)
    for name, layer in layers.items():
        if name not in called and not _same(before[name], _state(layer)):
            raise _uncalled_error(name, layer)
