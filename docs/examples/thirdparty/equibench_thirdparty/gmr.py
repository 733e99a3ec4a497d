"""GMR-Conv: isotropic kernels made of Gaussian mixtures of rings."""

from __future__ import annotations

from equibench import register_model
from torch import nn

from .trunk import Trunk, authors_module


@register_model(
    "gmr-cnn-{width}",
    group="D4",
    invariant="D4",
    source="arXiv:2504.02819",
    family="gmr-conv",
    members={"gmr-cnn": {"args": {"width": 18}, "params": {"1x28x28->10": 25_357}}},
    note="the authors' layer in a plain trunk of ours; isotropic kernels are nearly invariant to all rotations",
)
def gmr_cnn(in_channels: int, num_classes: int, image_size: int, *, width: int) -> nn.Module:
    """Five GMR convolutions of Du et al. 2025 with batch normalisation and average pooling; `width` channels first.

    `GMR_Conv2d` is the authors' (GMR-Conv 1.0.3) with its defaults: learnt widths of the rings, and their forward
    pass by rings, which costs less than a dense kernel only at their widths. `inference_accelerate` is off: it has no
    effect in this pass, and what it keeps cannot be copied.
    """
    layer = authors_module("GMR-Conv", "GMR_Conv/gmr_conv.py").GMR_Conv2d

    def convolution(before: int, after: int, size: int) -> nn.Module:
        return layer(before, after, size, padding=size // 2, bias=False, inference_accelerate=False)

    return Trunk(convolution, in_channels, num_classes, width)
