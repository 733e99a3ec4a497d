"""A model whose training waits at its third step until a file exists, so that a test can do something to a run."""

import os
import time
from pathlib import Path

import torch
from equibench import register_model
from torch import nn


class Waits(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(channels, 8, 5), nn.Linear(8, classes)
        self.steps = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.steps += self.training and len(images) > 2  # what only looks at the model shows it two images at most
        while self.steps >= 3 and self.training and not Path(os.environ["EQUIBENCH_TEST_GO"]).exists():
            time.sleep(0.1)
        return self.head(self.convolution(images).relu().amax((2, 3)))


@register_model("waits", group="none", invariant="none", source="made up")
def waits(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return Waits(in_channels, num_classes)
