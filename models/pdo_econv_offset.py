"""PDO-eConv without the frame offset of pi / 8 of the official code, to measure its effect and cost."""

from __future__ import annotations

from torch import nn

from ..registry import register_model
from .pdo.networks import InvariantHead, MnistTrunk
from .pdo.split import split_frames


@register_model(
    "pdo-econv-p8-fd-offset-0",
    group="C8",
    invariant="C4",
    family="pdo-econv",
    source="arXiv:2007.10408",
    params={"1x28x28->10": 25_696},
    note="pdo-econv-p8-fd with frames at multiples of 45 degrees; its layers leave out the zeros of their filters",
)
def mnist_p8_offset_0(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """The corrected p8 network for MNIST-rot with the finite differences of the paper, its frames not turned.

    Published: the trunk's depth, geometry and group; the official code turns all frames by pi / 8. Ours: all else, as
    `pdo-econv-p8-fd`. Without the offset half of the filters fill 3x3 pixels and half 13 of 5x5, about half of the
    multiplications; but filters of the second kind pass on 2.17 times as much energy as those of the first, where with
    the offset all frames have the same gain.
    """
    widths = (4, 6, 8, 9, 9, 9)
    trunk = MnistTrunk(in_channels, image_size, group="p8", stencil="fd", widths=widths, offset=0.0)
    return split_frames(nn.Sequential(trunk, InvariantHead(widths[-1], 42, num_classes, group="p8")))
