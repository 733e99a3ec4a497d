"""The cost of a model: parameters, floating-point operations, memory."""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from ...models.random_evaluation import one_sample
from ..records.record import Size
from .operations import (
    ELEMENTWISE,
    OUTSIDE_TORCH,
    UNSUMMED_SHARE,
    Operations,
    OtherLibraries,
    real_numbers,
    tensors,
    unfused,
)

#: Number of images whose operations are compared.
VARIED = 16
#: Layers whose buffers are normalisation statistics.
_NORMALISE = (nn.modules.batchnorm._NormBase, _SpectralNorm)


def count_numbers(model: nn.Module) -> dict[str, int]:
    """``parameters``, ``frozen`` and ``buffers`` of `record.Size`; shared tensors count once."""
    parameters, buffers = (
        {(t.data_ptr(), t.numel()): t for t in own}.values() for own in (model.parameters(), model.buffers())
    )
    trained, frozen = (
        sum(real_numbers(p) for p in parameters if p.requires_grad is wanted) for wanted in (True, False)
    )
    return {"parameters": trained, "frozen": frozen, "buffers": sum(map(real_numbers, buffers))}


def count_parameters(model: nn.Module) -> int:
    """The number of trainable parameters."""
    return count_numbers(model)["parameters"]


def measure_cost(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, batch: int | None = None) -> Size:
    """Cost of a model. It changes gradients and running statistics, so give a copy of the model.

    Args:
        images: normalised training images (b, c, size, size) with labels (b,); a few are enough.
        batch: images per training step; None means b.
    """
    batch = len(images) if batch is None else batch
    before = buffers_to_learn(model.train())
    step, unknown = step_operations(model, images, labels, batch)
    learned = sum(changed_buffers(model, before).values())
    numbers, forward = count_numbers(model), evaluation_operations(model, images)
    return Size(
        **numbers, learned_buffers=learned, dense_weights=forward.dense_weights,
        flops_per_image=forward.flops_per_image, train_flops_per_image=round(step / batch),
        uncounted=", ".join(sorted({*forward.unknown, *unknown})),
    )  # fmt: skip


def step_operations(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, batch: int) -> tuple[int, set[str]]:
    """Operations of a training step of a batch (forward and backward), and the names of uncounted operations."""
    # A step has a fixed part, the expansion of filters, and a part for each image. Two small steps determine both.
    model.train()
    found, unknown = [], set[str]()
    for count in (2, 3):
        with unfused(), Operations() as operations:
            F.cross_entropy(model(_first_images(images, count)), _first_images(labels, count)).backward()
        model.zero_grad(set_to_none=True)
        found.append(operations.flops)
        unknown |= operations.unknown
    return found[0] + (batch - 2) * (found[1] - found[0]), unknown


def learned_buffers(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> int:
    """`record.Size.learned_buffers`, measured by one training step if the model has such buffers; changes gradients."""
    before = buffers_to_learn(model.train())
    if before:
        F.cross_entropy(model(images), labels).backward()
    return sum(changed_buffers(model, before).values())


def changed_buffers(model: nn.Module, before: dict[str, torch.Tensor]) -> dict[str, int]:
    """Those of `buffers_to_learn` that are new or changed, with their counts of real numbers."""
    now = buffers_to_learn(model)
    return {n: real_numbers(b) for n, b in now.items() if n not in before or not same_numbers(b, before[n])}


def same_numbers(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Whether two tensors, on any device, have the same shape and equal numbers; NaN equals NaN."""
    one, two = one.cpu(), two.cpu()
    return one.shape == two.shape and bool(((one == two) | (one.isnan() & two.isnan())).all())


def _first_images(values: torch.Tensor, count: int) -> torch.Tensor:
    """A copy of the first images or labels; they are repeated if there are fewer than `count`."""
    return values[torch.arange(count, device=values.device) % len(values)]


def buffers_to_learn(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all buffers except normalisation statistics and counters (single whole numbers)."""
    return {
        f"{path}.{name}".removeprefix("."): buffer.detach().clone()
        for path, module in model.named_modules()
        if not isinstance(module, _NORMALISE)
        for name, buffer in module.named_buffers(recurse=False)
        if name not in _of_spectral_norm(module)
        and (buffer.is_floating_point() or buffer.is_complex() or buffer.numel() > 1)
    }


def _of_spectral_norm(module: nn.Module) -> set[str]:
    """Names of the vectors that torch's older `spectral_norm`, a hook, keeps as buffers of the layer itself."""
    hooks = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, SpectralNorm)]
    return {f"{hook.name}_{vector}" for hook in hooks for vector in "uv"}


@dataclass(frozen=True)
class ForwardOperations:
    """Operations of one image in evaluation; see `record.Size`. `unknown` has the names of uncounted operations."""

    flops_per_image: int
    dense_weights: int
    unknown: set[str]


@torch.no_grad()
def evaluation_operations(model: nn.Module, images: torch.Tensor) -> ForwardOperations:
    """Operations of a forward pass in evaluation; `images` are normalised (b, c, size, size), b > 0."""
    model.eval()
    # A model that averages several passes is counted with one pass. Other models may expand their filters in this pass
    # and keep them.
    with one_sample(model):
        single, _ = _counted(model, _first_images(images, 1))
    (one, _), (two, logits) = (_counted(model, _first_images(images, count)) for count in (1, 2))
    # The cost of one image is what a second image adds. The expansion of filters does not depend on the images.
    flops, unsummed = two.flops - one.flops, two.unsummed - one.unsummed
    unknown = two.unknown | ({ELEMENTWISE} if 2 * unsummed > UNSUMMED_SHARE * flops else set())
    if not any(map(two.comes_from_image, tensors(logits))):
        unknown.add(OUTSIDE_TORCH)
    return ForwardOperations(flops, single.dense_weights, unknown)


def operations_vary(model: nn.Module, images: torch.Tensor, flops_per_image: int) -> bool:
    """Whether the trained model has other operations than counted before, or other ones for each image.

    So do networks that leave early or iterate to a tolerance. `images` are those of the count (b, c, size, size).
    """
    now = evaluation_operations(model, images).flops_per_image  # filters that are kept are expanded in here
    with torch.no_grad():
        each = {_counted(model, image[None])[0].flops for image in images[:VARIED]}
    model.train()  # drops filters that were expanded on the counting path
    return now != flops_per_image or len(each) > 1


def _counted(model: nn.Module, images: torch.Tensor) -> tuple[Operations, Any]:
    """The operations of a forward pass, and its output."""
    with unfused(), Operations(images) as operations, OtherLibraries(operations):
        return operations, model(images)


def reset_peak_memory(device: torch.device) -> None:
    """Restart `peak_memory_mib`; on a CPU only if the system can reset the peak of a process, as Linux can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)  # a run's process keeps what it frees, see `runner.local.MALLOC`
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # 5: only the peak of resident memory


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory so far in MiB: allocated memory on a GPU, or resident memory of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        # On Linux, `ru_maxrss` of a new program includes the peak of its parent; VmHWM does not.
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10  # KiB
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)  # in bytes on macOS, else in KiB
