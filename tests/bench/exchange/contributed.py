"""A model that somebody contributes: a file for --include."""

import torch
from equibench import register_model
from torch import nn


class SmallNet(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 8, 5, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.convolution(images)).relu().amax((2, 3)))


@register_model("small-net", group="none", invariant="none", source="arXiv:1602.07576", params={"1x12x12->2": 234})
def small_net(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """One convolution and a maximum over the image."""
    return SmallNet(in_channels, num_classes)
