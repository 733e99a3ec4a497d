"""Networks that are exactly invariant as they are built, one of which stays so when it is trained.

They are given to equibench with --include, as a stranger's file would be.
"""

import torch
from equibench import register_model
from torch import nn


class Orbit(nn.Module):
    """A field over C4, made of four turned images, and its sum over the orientations."""

    def __init__(self, channels, classes, how):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(channels, 4, 5), nn.ReLU(), nn.Conv2d(4, 8, 5), nn.ReLU())
        self.head, self.how = nn.Linear(8, classes), how
        self.scales, self.biases = nn.Parameter(torch.ones(4, 1)), nn.Parameter(torch.zeros(4, 1, 8))
        self.norm = nn.BatchNorm1d(32 if how == "norm" else 8)

    def forward(self, images):
        # One field over C4: orientation, image, channel.
        field = torch.stack([self.features(images.rot90(k, (-2, -1))).mean((2, 3)) for k in range(4)])
        if self.how == "scales":
            field = field / field.norm(dim=-1, keepdim=True) * self.scales[:, None]
        if self.how == "biases":
            field = field + self.biases
        if self.how == "norm":
            field = self.norm(field.movedim(0, 1).flatten(1)).unflatten(1, (4, 8)).movedim(1, 0)
        if self.how == "sound":
            field = self.norm(field.flatten(0, 1)).unflatten(0, (4, -1))
        return self.head(field.relu().sum(0))


@register_model("orbit-{how}", group="C4", invariant="C4", source="arXiv:1602.07576")
def orbit(in_channels, num_classes, image_size, *, how: str):
    return Orbit(in_channels, num_classes, how)
