"""A network that writes down under which settings of its process it is trained, into a file of its process."""

import json
import os
from pathlib import Path

import torch
from equibench import register_model
from equibench.bench.measures.execution_profile import float32_precision
from torch import nn


def settings() -> dict[str, object]:
    """What decides how long a step takes and what it computes, and is not the network's own."""
    return {
        "environment": {
            name: os.environ.get(name) for name in ("CUBLAS_WORKSPACE_CONFIG", "OMP_NUM_THREADS", "PYTHONHASHSEED")
        },
        "device": torch.cuda.current_device(),
        "deterministic": torch.get_deterministic_debug_mode(),
        "cudnn": [torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic],
        "precision": float32_precision(),
        "threads": torch.get_num_threads(),
    }


class Witness(nn.Module):
    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes)
        )
        self.written: set[str] = set()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and images.is_cuda and "EQUIBENCH_TEST_WITNESS" in os.environ:
            line = json.dumps(
                {**settings(), "images": len(images), "momentum": self.layers[2].momentum}, sort_keys=True
            )
            if line not in self.written:
                self.written.add(line)
                with open(Path(os.environ["EQUIBENCH_TEST_WITNESS"]) / str(os.getpid()), "a") as file:
                    file.write(line + "\n")
        return self.layers(images)


@register_model("witness", group="none", invariant="none", source="made up")
def witness(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return Witness(in_channels * image_size**2, num_classes)
