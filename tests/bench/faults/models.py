"""A model that does harm at a chosen moment, in the run's own process; given to equibench with --include.

EQUIBENCH_FAULT says ``<moment> <harm>``: ``train:17 SIGKILL`` in the 17th training step, ``evaluate raise`` at the
first image after training, ``link:json SIGTERM`` when a record that is written gets its name, ``remove:json SIGKILL``
when it has it, ``link:outcomes SIGKILL`` when outcomes by image get theirs, ``rename:pt SIGKILL`` when a checkpoint
gets its name, ``train dawdle`` in all of them. Without it the model is well-behaved.
"""

import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from equibench import register_model
from torch import nn

#: The twin that is measured before the training, and thrown away, is trained for fewer steps than these.
TWIN = 10
MOMENT, _, HARM = os.environ.get("EQUIBENCH_FAULT", "never nothing").partition(" ")


class Fragile(nn.Module):
    """A net with dropout and running statistics."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 8, 5)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(8, classes)
        self.steps = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        if self.training and f"train:{self.steps}" == MOMENT:
            harm()
        if self.training and HARM == "dawdle" and self.steps > TWIN:
            time.sleep(0.2)
        if not self.training and self.steps > TWIN and MOMENT == "evaluate":
            self.steps = 0
            harm()
        if not self.training and HARM == "fill-a-while":
            (Path(os.environ["EQUIBENCH_FAULT_DISK"]) / "filler").unlink(missing_ok=True)
        out = self.head(self.dropout(self.norm(self.convolution(images)).relu().amax((2, 3))))
        return out * float("nan") if HARM == "nan" and self.training and self.steps > TWIN else out


@register_model("fragile", group="none", invariant="none", source="made up")
def fragile(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return Fragile(in_channels, num_classes)


def harm() -> None:
    if HARM.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, HARM))
    if HARM == "raise":
        raise ValueError("this model always fails")
    if HARM == "hang":
        time.sleep(3600)
    if HARM == "exit":
        os._exit(7)
    if HARM == "oom-torch":
        torch.empty(1 << 50)
    if HARM in ("oom-limit", "oom-python"):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
        bytearray(1 << 30) if HARM == "oom-python" else torch.zeros(1 << 30)
    if HARM == "pause":
        time.sleep(4)
    if HARM in ("fill", "fill-a-while"):
        fill(Path(os.environ["EQUIBENCH_FAULT_DISK"]))


def fill(folder: Path) -> None:
    """Leave no byte on a file system."""
    with (folder / "filler").open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    """Python tells it of every call that names a file, before the call."""
    moments = {"os.link": 1, "os.rename": 1, "os.remove": 0}
    if event in moments:
        name = str(arguments[moments[event]])
        wanted, _, suffix = MOMENT.partition(":")
        # A record is a JSON file in the folder of its board; outcomes have a folder of their own there.
        of_outcomes = "/outcomes/" in name
        fits = of_outcomes if suffix == "outcomes" else not of_outcomes and f".{suffix}" in name
        if event == f"os.{wanted}" and fits and "/runs/" in name:
            harm()


if ":" in MOMENT and not MOMENT.startswith("train"):
    sys.addaudithook(hook)
