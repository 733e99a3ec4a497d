"""Networks that are random in evaluation, as they are scored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class RandomEvaluation(nn.Module):
    """A network with random evaluation, as it is scored: the mean of its logits over several passes.

    So Augerino (arXiv:2010.11882) averages its logits over random transformations. Each pass in evaluation draws the
    same random numbers again, from the seed that the network was built with, which its state dictionary keeps:
    evaluation is one function of the images, for scores, equivariance errors and replays alike, and leaves torch's
    generators as they were. In training it is the network, one pass a step.

    Args:
        samples: passes that are averaged, as ``evaluation="random:<samples>"`` registers them.
    """

    def __init__(self, model: nn.Module, samples: int) -> None:
        super().__init__()
        self.model, self.samples = model, samples
        digest = hashlib.sha256(f"{torch.initial_seed()} evaluation".encode()).digest()
        self.seed = int.from_bytes(digest[:8], "big") >> 1

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
