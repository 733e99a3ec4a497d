"""Common parts of layers that expand filters from a basis: a gather with a cheap gradient, and cached filters.

The gradient of `torch.index_select` adds values at the indices that were read. In deterministic mode on a GPU, torch
sorts the indices first, which costs a small network more than the gather itself. In the tables of groups, every index
is read equally often. So its readers can be listed in advance, and the gradient is a gather too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def gather_tables(index: np.ndarray) -> tuple[Tensor, Tensor]:
    """The two tables of `gather`, on the CPU.

    Args:
        index: integers (m,), the places that are read: each of 0 to n - 1, and each equally often.

    Raises:
        ValueError: some places are read more often than others.
    """
    index = np.asarray(index, dtype=np.int64)
    if len(set(np.bincount(index).tolist())) != 1:
        raise ValueError("every place from 0 on must be read equally often")
    return torch.from_numpy(index.copy()), torch.from_numpy(np.argsort(index, kind="stable"))


def gather(x: Tensor, dim: int, index: Tensor, readers: Tensor) -> Tensor:
    """``x.index_select(dim, index)``, whose gradient gathers and sums in place of adding into places one by one.

    Args:
        x: any tensor with n entries along `dim`.
        dim: not negative.
        index, readers: as `gather_tables` makes them for n places, on the device of x.

    Returns:
        m entries along `dim`; the other axes are those of x. Derivatives of both modes and of any order are those of
        `torch.index_select`.
    """
    if torch.compiler.is_compiling():  # the compiler makes a gradient of its own, and knows no forward mode
        return x.index_select(dim, index)
    return _Gather.apply(x, dim, index, readers)


class _Gather(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dim: int, index: Tensor, readers: Tensor) -> Tensor:
        return x.index_select(dim, index)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.dim, index, readers = inputs
        ctx.places = x.shape[ctx.dim]
        ctx.save_for_backward(index, readers)
        ctx.save_for_forward(index, readers)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        _, readers = ctx.saved_tensors
        gathered = gradient.index_select(ctx.dim, readers)
        if len(readers) > ctx.places:
            shape = gathered.shape
            gathered = gathered.reshape(*shape[: ctx.dim], ctx.places, -1, *shape[ctx.dim + 1 :]).sum(ctx.dim + 1)
        return gathered, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        index, _ = ctx.saved_tensors
        return tangent.index_select(ctx.dim, index)


class ExpandedLayer(nn.Module):
    """A layer whose dense filter is expanded from its `weight`.

    In every forward pass that may need a gradient of the weights, the filter is expanded again. Otherwise (evaluation
    mode without gradients) it is kept and reused as long as the weights hold the very same numbers; it is not part of
    the state.
    """

    weight: Tensor
    _kept: tuple[Tensor, Tensor] | None = None

    def expanded(self) -> Tensor:
        """The dense filter, differentiable with respect to the weights."""
        raise NotImplementedError

    def filters(self) -> Tensor:
        """The dense filter for a forward pass, reused in evaluation while the weights are the same numbers."""
        weight = self.weight
        differentiable = torch.is_grad_enabled() and weight.requires_grad
        # Other tensors stand in for the parameter under `torch.func`, and fake ones under compilation.
        plain = type(weight) is nn.Parameter and not weight.is_meta and not torch.compiler.is_compiling()
        # Under autocast a filter may have the type of the moment.
        if self.training or differentiable or not plain or torch.is_autocast_enabled(weight.device.type):
            return self.expanded()
        kept = self._kept
        # The numbers are compared, not a version counter, which does not count what is written through `.data`.
        if kept is None or not _same(kept[0], weight):
            if torch._C._are_functorch_transforms_active():
                return self.expanded()  # what is made inside `torch.func.jvp` and the like does not outlive it
            with torch.inference_mode(False), torch.no_grad():
                kept = weight.detach().clone(), self.expanded()
            self._kept = kept
        return kept[1]

    def train(self, mode: bool = True) -> ExpandedLayer:
        self._kept = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}


def _same(kept: Tensor, weight: Tensor) -> bool:
    return kept.dtype == weight.dtype and kept.device == weight.device and torch.equal(kept, weight)
