"""Accuracy of the final weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

#: Images a forward pass in evaluation: fixed by the protocol, so that a score never depends on it.
EVAL_BATCH = 250


def chunks(images: torch.Tensor, size: int = EVAL_BATCH) -> Iterator[torch.Tensor]:
    """The images in batches of `size`, the last one shorter."""
    return iter(images.split(size))


@torch.no_grad()
def logits(
    model: nn.Module, images: torch.Tensor, prepare: Callable[[torch.Tensor], torch.Tensor], batch: int = EVAL_BATCH
) -> torch.Tensor:
    """Logits (n, classes) in float32 and evaluation mode.

    Args:
        images: (n, c, size, size), of any type that `prepare` takes.
        prepare: normalisation, applied batch by batch.
    """
    model.eval()
    return torch.cat([model(prepare(chunk)).float() for chunk in chunks(images, batch)])


def predictions(scores: torch.Tensor) -> torch.Tensor:
    """The class of the largest logit, (n,); the number of classes, one past the last, where logits are no numbers."""
    return scores.argmax(1).where(scores.isfinite().all(1), scores.shape[1])


def accuracy_pct(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images whose largest logit is at the label, in percent; logits that are no numbers are wrong."""
    return 100.0 * float((predictions(scores) == labels).double().mean())
