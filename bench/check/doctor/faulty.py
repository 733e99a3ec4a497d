"""Networks that fail in training, and one that does not. The doctor gives this file to equibench with ``--include``."""

from __future__ import annotations

import torch
from equibench import register_model
from torch import nn


class _Net(nn.Module):
    """One convolution; `how` determines the failure in training."""

    def __init__(self, channels: int, classes: int, width: int, how: str) -> None:
        super().__init__()
        self.convolution, self.head, self.how = nn.Conv2d(channels, width, 5), nn.Linear(width, classes), how

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # Not during inspection with two images on the CPU.
        if self.training and len(images) > 3:
            device = images.device
            if self.how == "memory":  # more than the device has
                cpu = device.type == "cpu"
                size = 2**62 if cpu else 4 * torch.cuda.get_device_properties(device).total_memory
                torch.empty(size, dtype=torch.uint8, device=device)
            if self.how == "index":  # on a GPU this is an assertion, and the process cannot use the GPU any more
                torch.arange(4, device=device)[torch.full((1,), 10**6, device=device)]
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
        return self.head(self.convolution(images).relu().amax((2, 3)))


# The wider networks have more operations, so they run before the healthy one.
@register_model("doctor-out-of-memory", group="none", invariant="none", source="made up")
def out_of_memory(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return _Net(in_channels, num_classes, 24, "memory")


@register_model("doctor-index-outside", group="none", invariant="none", source="made up")
def index_outside(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return _Net(in_channels, num_classes, 16, "index")


@register_model("doctor-healthy", group="none", invariant="none", source="made up")
def healthy(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return _Net(in_channels, num_classes, 8, "")
