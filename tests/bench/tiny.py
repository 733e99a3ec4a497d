"""A data set that is made in milliseconds and models that behave in every way, for tests of the harness.

It is given to equibench with --include, as a stranger's file would be.
"""

import hashlib
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from equibench import register_dataset, register_model
from equibench.datasets.images import ImageData, Split
from equibench.models.groups import PlanarGroup, transform_image
from torch import nn


@register_dataset("bars", shape=(1, 12, 12), classes=2, sizes=(240, 40, 60), source="made up", rotation=False)
def bars(root: Path) -> ImageData:
    """Horizontal or vertical bars in noise."""
    random = np.random.RandomState(0)

    def split(count: int) -> Split:
        labels = np.arange(count) % 2
        images = random.randint(0, 120, (count, 1, 12, 12))
        for image, label in zip(images, labels, strict=True):
            line = random.randint(2, 10)
            (image[0] if label else image[0].T)[line] += 100
        return Split(images.astype(np.uint8), labels.astype(np.int64))

    return ImageData("bars", split(240), split(40), split(60), 2, 255)


class Net(nn.Module):
    def __init__(self, channels: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 8, 5)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.norm(self.convolution(images)).relu().amax((2, 3))))


@register_model("tiny", group="none", invariant="none", source="made up", params={"1x12x12->2": 242})
def tiny(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return Net(in_channels, num_classes)


@register_model("tiny-dropout", group="none", invariant="none", source="made up")
def tiny_dropout(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return Net(in_channels, num_classes, 0.3)


@register_model("tiny-claims", group="none", invariant="D1", source="made up")
def tiny_claims(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return Net(in_channels, num_classes)


class Counts(Net):
    """Counts its training passes in a plain attribute, on which its logits may depend."""

    def __init__(self, channels: int, classes: int, how: str) -> None:
        super().__init__(channels, classes)
        self.how, self.passes = how, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += self.training
        return super().forward(images) * (1 + self.passes if self.how == "sharpens" else 1)


@register_model("tiny-counts", group="none", invariant="none", source="made up")
def tiny_counts(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return Counts(in_channels, num_classes, "counts")


@register_model("tiny-sharpens", group="none", invariant="none", source="made up")
def tiny_sharpens(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return Counts(in_channels, num_classes, "sharpens")


class Draws(Counts):
    """Drops features in evaluation too; its extra state is another object once it is trained."""

    def get_extra_state(self) -> dict[str, int] | None:
        return {"passes": self.passes} if self.passes else None

    def set_extra_state(self, state: dict[str, int] | None) -> None:
        pass

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(super().forward(images), 0.2)


@register_model("tiny-draws", group="none", invariant="none", source="made up")
def tiny_draws(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return Draws(in_channels, num_classes, "draws")


@register_model("tiny-loose-statistics", group="none", invariant="none", source="made up")
def tiny_loose_statistics(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    model = Net(in_channels, num_classes)
    model.norm.register_buffer("running_mean", model.norm.running_mean, persistent=False)
    return model


class Centres(Net):
    """Subtracts a running mean of its logits, which no state dictionary holds, or only that of a trained network."""

    def __init__(self, channels: int, classes: int, how: str) -> None:
        super().__init__(channels, classes)
        self.how = how
        if how == "loose":
            self.register_buffer("centre", torch.zeros(classes), persistent=False)

    def get_extra_state(self) -> dict[str, int]:
        return {"no": 1, "tensor": 2}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = super().forward(images)
        if self.training:
            if not hasattr(self, "centre"):
                self.register_buffer("centre", torch.zeros(scores.shape[1]))
            self.centre = self.centre.lerp(scores.detach().mean(0), 0.5)
        return scores - getattr(self, "centre", 0)


@register_model("tiny-centres-{how}", group="none", invariant="none", source="made up")
def tiny_centres(in_channels: int, num_classes: int, image_size: int, *, how: str) -> nn.Module:
    return Centres(in_channels, num_classes, how)


class Expands(Net):
    """Keeps its expanded filters as a buffer in evaluation only, as layers of escnn and e2cnn do."""

    def train(self, mode: bool = True) -> "Expands":
        if not mode:
            self.register_buffer("filters", 2 * self.convolution.weight.detach())
        elif hasattr(self, "filters"):
            del self.filters
        return super().train(mode)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        filters = getattr(self, "filters", 2 * self.convolution.weight)
        maps = self.norm(nn.functional.conv2d(images, filters, self.convolution.bias))
        return self.head(maps.relu().amax((2, 3)))


@register_model("tiny-expands", group="none", invariant="none", source="made up")
def tiny_expands(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return Expands(in_channels, num_classes)


class Keeps(Net):
    """Keeps its expanded filters in a plain attribute, from the first pass in evaluation until it is trained."""

    kept: torch.Tensor | None = None

    def train(self, mode: bool = True) -> "Keeps":
        self.kept = None if mode else self.kept
        return super().train(mode)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        filters = 2 * self.convolution.weight if self.kept is None else self.kept
        self.kept = None if self.training else filters.detach()
        maps = self.norm(nn.functional.conv2d(images, filters, self.convolution.bias))
        return self.head(maps.relu().amax((2, 3)))


@register_model("tiny-keeps", group="none", invariant="none", source="made up")
def tiny_keeps(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return Keeps(in_channels, num_classes)


class Deepens(Net):
    """Uses another layer once it is trained."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)
        self.more = nn.Linear(classes, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = super().forward(images)
        return self.more(scores) if self.norm.bias.any() else scores


@register_model("tiny-deepens", group="none", invariant="none", source="made up")
def tiny_deepens(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return Deepens(in_channels, num_classes)


class Pairs(Net):
    """Takes no single image in evaluation once it is trained; only the count of operations gives one that is not 0."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.training and len(images) == 1 and images.any() and self.norm.bias.any():
            raise ValueError("give two images")
        return super().forward(images)


@register_model("tiny-pairs", group="none", invariant="none", source="made up")
def tiny_pairs(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return Pairs(in_channels, num_classes)


class Flips(nn.Module):
    """The mean over the two elements of D1."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images) + self.model(transform_image(images, PlanarGroup.parse("D1"), 1))


@register_model("tiny-flips", group="none", invariant="D1", source="made up")
def tiny_flips(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return Flips(Net(in_channels, num_classes))


class Misbehaving(Net):
    """Behaves while it is looked at, and not when it is trained for the second time (the first is warm-up)."""

    def __init__(self, channels: int, classes: int, how: str) -> None:
        super().__init__(channels, classes)
        self.how = how

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and len(images) > 2:
            misbehave(self.how, images)
        scores = super().forward(images) * (float("nan") if self.training and self.how == "nan" else 1.0)
        if self.how in ("mute", "stutters") and not self.training:
            scores[: len(scores) if self.how == "mute" else 1] = float("nan")
        return scores


def misbehave(how: str, images: torch.Tensor) -> None:
    if how == "raises":
        raise ValueError("this model always fails")
    if how == "exits":
        os._exit(7)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hangs":
        time.sleep(600)
    if how == "oom":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB")
    if how == "talks":
        print("this goes to the log")
        print('{"event": "done", "status": "ok"}', flush=True)
        sys.stderr.write("so does this\n")


@register_model("bad-{how}", group="none", invariant="none", source="made up")
def bad(in_channels: int, num_classes: int, image_size: int, *, how: str) -> nn.Module:
    if how == "unbuildable":
        raise ValueError("cannot be built at this size")
    return Misbehaving(in_channels, num_classes, how)


class Spy(Net):
    """Writes down what it is shown while it is trained."""

    def __init__(self, channels: int, classes: int, name: str) -> None:
        super().__init__(channels, classes)
        self.head, self.name = nn.Linear(8, classes, bias=name == "a"), name

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and images.shape[-1] == 12 and "EQUIBENCH_TEST_SPY" in os.environ:
            digest = hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()
            with open(Path(os.environ["EQUIBENCH_TEST_SPY"]) / f"{self.name}-{os.getpid()}", "a") as log:
                log.write(digest + "\n")
        return super().forward(images)


@register_model("spy-{name}", group="none", invariant="none", source="made up")
def spy(in_channels: int, num_classes: int, image_size: int, *, name: str) -> nn.Module:
    return Spy(in_channels, num_classes, name)


@register_model("wrong-shape", group="none", invariant="none", source="made up")
def wrong_shape(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return Net(in_channels, num_classes + 1)
