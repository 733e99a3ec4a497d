"""What a model costs: parameters, floating-point operations, memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from .evaluate import one_sample


@dataclass(frozen=True)
class Cost:
    """Size and compute of a model on its input.

    Attributes:
        parameters: trainable numbers.
        dense_weights: numbers in the dense filters and matrices that a forward pass works with; for layers
            that expand filters from a basis this is what the parameters grow to.
        buffers: numbers in buffers (running statistics, sampled bases), while training.
        flops_per_image: forward pass in evaluation, 2 x multiply-accumulates of convolutions and matrix
            products; without the expansion of filters.
        train_flops_per_image: forward and backward pass of a training step, expansion of filters included.
    """

    parameters: int
    dense_weights: int
    buffers: int
    flops_per_image: int
    train_flops_per_image: int


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def measure_cost(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Cost:
    """Cost of a model; leaves gradients and running statistics changed, so give a throw-away twin.

    Args:
        images: normalised training batch (b, c, size, size).
        labels: (b,).
    """
    model.train()
    buffers = sum(b.numel() for b in model.buffers())
    with FlopCounterMode(display=False) as training:
        F.cross_entropy(model(images), labels).backward()
    model.zero_grad(set_to_none=True)
    model.eval()
    with torch.no_grad():
        # What a second image adds: the expansion of filters, done once a pass or kept, belongs to no image.
        flops = _forward_flops(model, images[:1].repeat(2, 1, 1, 1)) - _forward_flops(model, images[:1])
    return Cost(
        parameters=count_parameters(model),
        dense_weights=count_dense_weights(model, images[:1]),
        buffers=buffers,
        flops_per_image=flops,
        train_flops_per_image=round(training.get_total_flops() / len(images)),
    )


def _forward_flops(model: nn.Module, images: torch.Tensor) -> int:
    model(images)  # filters may be expanded at the first pass, then kept
    return forward_flops(model, images)


def forward_flops(model: nn.Module, images: torch.Tensor) -> int:
    """Operations of a forward pass, those that expand filters included."""
    with frozen(model), torch.no_grad(), FlopCounterMode(display=False) as forward:
        model(images)
    return int(forward.get_total_flops())


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """The model with no parameter that asks for a gradient.

    Without gradients torch's counter of operations fails where a module is given a view of a parameter that asks for one,
    as escnn's expansion of bases is.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


class _DenseWeights(TorchDispatchMode):
    """Collects what convolutions and matrix products apply to the images: the operand that does not come from them.

    A product of two operands neither of which comes from an image expands filters; of two that both do, it compares
    images with each other. What comes from an image is followed by storage: through views, and into tensors that are
    written to.
    """

    #: Operands of each operation.
    _OPERANDS: ClassVar[dict[Any, tuple[int, int]]] = {
        torch.ops.aten.convolution.default: (0, 1),
        torch.ops.aten.mm.default: (0, 1),
        torch.ops.aten.bmm.default: (0, 1),
        torch.ops.aten.mv.default: (0, 1),
        torch.ops.aten.addmm.default: (1, 2),
        torch.ops.aten.addmv.default: (1, 2),
        torch.ops.aten.baddbmm.default: (1, 2),
        torch.ops.aten.linear.default: (0, 1),
    }

    def __init__(self, image: torch.Tensor) -> None:
        super().__init__()
        # Keyed by storage, so that a filter that is used twice counts once; kept alive, so that no
        # address is given out again.
        self._seen: dict[tuple[int, int], torch.Tensor] = {}
        self._from_image = {_storage(image): image}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, see `lean`

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in self._OPERANDS:
            one, two = (args[place] for place in self._OPERANDS[func])
            if self._comes_from_image(one) != self._comes_from_image(two):
                weight = two if self._comes_from_image(one) else one
                self._seen[weight.data_ptr(), weight.numel()] = weight
        if any(map(self._comes_from_image, _tensors((args, kwargs)))):
            self._from_image |= {_storage(tensor): tensor for tensor in _tensors(out)}
        return out

    def _comes_from_image(self, tensor: torch.Tensor) -> bool:
        return _storage(tensor) in self._from_image

    def count(self) -> int:
        return sum(weight.numel() for weight in self._seen.values())


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def count_dense_weights(model: nn.Module, image: torch.Tensor) -> int:
    """Numbers in the dense filters and matrices that a forward pass in evaluation applies to an image.

    Args:
        image: normalised (1, c, size, size).
    """
    image = image.clone()
    # Filters that are drawn anew for each pass are there once.
    with torch.no_grad(), one_sample(model), _DenseWeights(image) as dense:
        model.eval()(image)
    return dense.count()


def peak_memory_mib(device: torch.device) -> float:
    """Largest memory so far in MiB: allocated on the device, or resident of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        # Where Linux starts a program, `ru_maxrss` goes on from what its parent had; this does not.
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10  # KiB
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere
