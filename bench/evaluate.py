"""Accuracy of the final weights, and networks that are random in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .seeds import derive

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


class RandomEvaluation(nn.Module):
    """A network that is random in evaluation, as it is scored: the mean of its logits over some passes.

    So Augerino (arXiv:2010.11882) averages its logits over random transformations. Each pass in evaluation draws the same
    random numbers again, from the seed that the network was built with, which its state dictionary keeps: evaluation is
    one function of the images, for scores, equivariance errors and replays alike, and leaves torch's generators as they
    were. In training it is the network, one pass a step.

    Args:
        samples: passes that are averaged, as ``evaluation="random:<samples>"`` registers them.
    """

    def __init__(self, model: nn.Module, samples: int) -> None:
        super().__init__()
        self.model, self.samples = model, samples
        self.seed = derive(torch.initial_seed(), "evaluation")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) of images (n, c, size, size)."""
        if self.training:
            out: torch.Tensor = self.model(images)
            return out
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.seed)
            total: torch.Tensor = self.model(images)
            for _ in range(self.samples - 1):
                total = total + self.model(images)
        return total / self.samples

    def get_extra_state(self) -> torch.Tensor:
        """The seed, for the state dictionary."""
        return torch.tensor([self.seed])

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Take the seed of a state dictionary."""
        self.seed = int(state)


@contextmanager
def one_sample(model: nn.Module) -> Iterator[None]:
    """Inside, a network that is random in evaluation is evaluated by a single pass."""
    if not isinstance(model, RandomEvaluation):
        yield
        return
    samples, model.samples = model.samples, 1
    try:
        yield
    finally:
        model.samples = samples


def accuracy_pct(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images whose largest logit is at the label, in percent; logits that are no numbers are wrong."""
    return 100.0 * float((predictions(scores) == labels).double().mean())
