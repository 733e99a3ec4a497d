"""SRE-Conv: kernels whose weights are shared within rings around their centre."""

from __future__ import annotations

from equibench import register_model
from torch import nn

from .trunk import Trunk, authors_module


@register_model(
    "sre-cnn-{width}",
    group="D4",
    invariant="D4",
    source="arXiv:2501.09753",
    family="sre-conv",
    members={"sre-cnn": {"args": {"width": 18}, "params": {"1x28x28->10": 25_336}}},
    note="the authors' layer in a plain trunk of ours; isotropic kernels are nearly invariant to all rotations",
)
def sre_cnn(in_channels: int, num_classes: int, image_size: int, *, width: int) -> nn.Module:
    """Five SRE convolutions of Du et al. 2025 with batch normalisation and average pooling; `width` channels first.

    `SRE_Conv2d` is the authors' (SRE-Conv 1.0.2) with its defaults, but expands its kernels in every pass: what it
    keeps on `eval()` is not renewed when weights are loaded afterwards, and cannot be copied.
    """
    layer = authors_module("SRE-Conv", "SRE_Conv/sre_conv.py").SRE_Conv2d

    def convolution(before: int, after: int, size: int) -> nn.Module:
        return layer(before, after, size, padding=size // 2, bias=False, inference_accelerate=False)

    return Trunk(convolution, in_channels, num_classes, width)
