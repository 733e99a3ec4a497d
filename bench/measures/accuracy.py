"""Accuracy of the final weights, and forward passes without gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

#: Images per forward pass in evaluation. The protocol fixes the number, so that scores never depend on it. Feature maps
#: of this many images of 28 pixels fit into the cache of a processor.
EVAL_BATCH = 125


class FastMaxPool(TorchFunctionMode):
    """Inside this context, 2x2 max pooling on a CPU compares slices of the maps: ten times as fast, same maxima.

    With gradients, torch's pooling is used: for equal values, it passes the gradient to the first one only.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        pools = func in (F.max_pool2d, torch.max_pool2d) and not torch.is_grad_enabled()
        return _max_pool(func, *args, **(kwargs or {})) if pools else func(*args, **(kwargs or {}))


def _max_pool(
    func: Any, input: torch.Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """Compare slices if the windows are 2x2 and do not overlap, without other options; else call `func`."""
    usual = _pair(kernel_size) == _pair(stride or kernel_size) == (2, 2)
    usual = usual and (_pair(padding), _pair(dilation)) == ((0, 0), (1, 1))
    if not usual or ceil_mode or return_indices or type(input) is not torch.Tensor or input.device.type != "cpu":
        more = {"return_indices": return_indices} if func is F.max_pool2d else {}
        return func(input, kernel_size, stride, padding, dilation, ceil_mode, **more)
    height, width = input.shape[-2] // 2 * 2, input.shape[-1] // 2 * 2
    rows = torch.maximum(input[..., 0:height:2, :width], input[..., 1:height:2, :width])
    return torch.maximum(rows[..., 0::2], rows[..., 1::2])


def _pair(value: Any) -> tuple[Any, ...]:
    return tuple(value) * (2 // len(value)) if isinstance(value, Sequence) else (value, value)


@torch.no_grad()
def logits(
    model: nn.Module, images: torch.Tensor, prepare: Callable[[torch.Tensor], torch.Tensor], batch: int = EVAL_BATCH
) -> torch.Tensor:
    """Logits (n, classes) in float32 and evaluation mode.

    Args:
        images: (n, c, size, size), of any type that `prepare` accepts.
        prepare: normalisation, applied batch by batch.
    """
    model.eval()
    with FastMaxPool():
        return torch.cat([model(prepare(chunk)).float() for chunk in images.split(batch)])


def accuracy_pct(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images whose largest logit is at the label, in percent; images with non-finite logits count as wrong."""
    right = (scores.argmax(1) == labels) & scores.isfinite().all(1)
    return 100.0 * float(right.double().mean())


def predictions(scores: torch.Tensor) -> torch.Tensor:
    """The class of the largest logit, (n,); for non-finite logits the number of classes, which is no class."""
    return scores.argmax(1).where(scores.isfinite().all(1), scores.shape[1])
