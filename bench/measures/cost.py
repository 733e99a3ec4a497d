"""What a model costs: parameters, floating-point operations, memory."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from ...models.random_evaluation import one_sample
from ..records.record import Size
from .operations import ELEMENTWISE, LOOSE_SHARE, OUTSIDE, Handovers, Operations, real_numbers, tensors, unfused


@dataclass(frozen=True)
class Numbers:
    """The real numbers of a model; see `record.Size`."""

    parameters: int
    frozen: int
    buffers: int


#: Layers whose buffers are statistics of a normalisation.
_NORMALISE = (nn.modules.batchnorm._NormBase, _SpectralNorm, SpectralNorm)


def count_numbers(model: nn.Module) -> Numbers:
    """The numbers of a model, each once."""
    parameters, buffers = (
        {(t.data_ptr(), t.shape): t for t in own}.values() for own in (model.parameters(), model.buffers())
    )
    trained, frozen = (
        sum(real_numbers(p) for p in parameters if p.requires_grad is wanted) for wanted in (True, False)
    )
    return Numbers(trained, frozen, sum(map(real_numbers, buffers)))


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers."""
    return count_numbers(model).parameters


def measure_cost(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, batch: int | None = None) -> Size:
    """Cost of a model; leaves gradients and running statistics changed, so give a throw-away twin.

    Args:
        images: normalised training images (b, c, size, size); a few are enough.
        labels: (b,).
        batch: images of a training step; b without.
    """
    batch = len(images) if batch is None else batch
    before = buffers_to_learn(model.train())
    step, unknown = step_operations(model, images, labels, batch)
    learned = changed_buffers(model, before)
    numbers, forward = count_numbers(model), evaluation_operations(model, images)
    return Size(
        **asdict(numbers),
        learned_buffers=learned,
        dense_weights=forward.dense_weights,
        flops_per_image=forward.flops_per_image,
        train_flops_per_image=round(step / batch),
        uncounted=", ".join(sorted({*forward.unknown, *unknown})),
    )


def step_operations(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, batch: int) -> tuple[int, set[str]]:
    """Operations of a training step of a batch, forward and backward, and the names of those that are not counted.

    A step costs a fixed part, the expansion of filters, and a part for each image: two small steps tell both.
    """
    model.train()
    found, unknown = [], set[str]()
    for count in (2, 3):
        with unfused(), Operations() as operations:
            F.cross_entropy(model(_few(images, count)), _few(labels, count)).backward()
        model.zero_grad(set_to_none=True)
        found.append(operations.flops)
        unknown |= operations.unknown
    return found[0] + (batch - 2) * (found[1] - found[0]), unknown


def learned_buffers(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> int:
    """As in `record.Size`, by one training step where there is any buffer to look at; leaves gradients behind."""
    before = buffers_to_learn(model.train())
    if before:
        F.cross_entropy(model(images), labels).backward()
    return changed_buffers(model, before)


def changed_buffers(model: nn.Module, before: dict[str, torch.Tensor]) -> int:
    """The real numbers in those of `buffers_to_learn` that are new, or not what they were before."""
    now = buffers_to_learn(model)
    return sum(real_numbers(b) for n, b in now.items() if n not in before or not _same(b.cpu(), before[n].cpu()))


def _same(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Whether two buffers hold the same; what is no number in both is the same."""
    return one.shape == two.shape and bool(((one == two) | (one.isnan() & two.isnan())).all())


def _few(values: torch.Tensor, count: int) -> torch.Tensor:
    """The first of some images or labels, from the beginning again where there are fewer; a copy."""
    return values[torch.arange(count, device=values.device) % len(values)]


def buffers_to_learn(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the buffers that are no statistics of a normalisation, and no counters: single whole numbers."""
    return {
        f"{path}.{name}".removeprefix("."): buffer.detach().clone()
        for path, module in model.named_modules()
        if not isinstance(module, _NORMALISE)
        for name, buffer in module.named_buffers(recurse=False)
        if buffer.is_floating_point() or buffer.is_complex() or buffer.numel() > 1
    }


@dataclass(frozen=True)
class Forward:
    """Operations of an image in evaluation; see `record.Size`. Those that are not counted are in `unknown`."""

    flops_per_image: int
    dense_weights: int
    unknown: set[str]


@torch.no_grad()
def evaluation_operations(model: nn.Module, images: torch.Tensor) -> Forward:
    """Operations of a forward pass in evaluation.

    Args:
        images: normalised (b, c, size, size), b > 0.
    """
    model.eval()
    # Filters that are drawn for each pass of an evaluation are there once; others may be expanded here, then kept.
    with one_sample(model):
        single, _ = _counted(model, _few(images, 1))
    (one, _), (two, logits) = (_counted(model, _few(images, count)) for count in (1, 2))
    # What a second image adds: the expansion of filters, done once a pass or kept, belongs to no image.
    flops, loose = two.flops - one.flops, two.loose - one.loose
    unknown = two.unknown | ({ELEMENTWISE} if 2 * loose > LOOSE_SHARE * flops else set())
    if not any(map(two.comes_from_image, tensors(logits))):
        unknown.add(OUTSIDE)
    return Forward(flops, single.dense_weights, unknown)


def _counted(model: nn.Module, images: torch.Tensor) -> tuple[Operations, Any]:
    """What a pass computes, and what it returns."""
    with unfused(), Operations(images) as operations, Handovers(operations):
        return operations, model(images)


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory_mib` start again; on a CPU only where the system can forget a process' peak, as Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak of resident memory, nothing else


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
