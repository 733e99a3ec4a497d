"""A small vision transformer (Dosovitskiy et al., ICLR 2021, arXiv:2010.11929): the planar control without
convolutions.

The image is cut into patches; each patch is a token. A layer adds to every token the output of attention over all
tokens, then the output of a network of two dense layers on the token. Each of the two has normalisation before it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import UserError, register_model


class Attention(nn.Module):
    """Self-attention of several heads: ``softmax(q k^T / sqrt(d)) v`` of each, side by side, then a dense layer.

    Args:
        width: numbers of a token, a multiple of `heads`.
        heads: each has ``d = width / heads`` numbers of queries, keys and values.

    Shapes:
        (B, tokens, width) -> the same.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        # Not `scaled_dot_product_attention`, whose operations depend on the device, and which has no forward mode.
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        shares = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        mixed: Tensor = self.out((shares @ v).transpose(1, 2).flatten(2))
        return mixed


class TransformerLayer(nn.Module):
    """``x + attention(norm(x))``, then ``x + dense(norm(x))`` with a GELU between two dense layers: (B, tokens, width).

    Args:
        width, heads: as `Attention`.
        hidden: numbers of a token between the two dense layers.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm_1, self.attention = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm_2, self.wide, self.narrow = (
            nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, hidden),
            nn.Linear(hidden, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x))
        return x + self.narrow(F.gelu(self.wide(self.norm_2(x))))


class VisionTransformer(nn.Module):
    """Patches, learned positions, layers, normalisation, mean over the tokens, a dense layer.

    Args:
        image_size: pixels, a multiple of `patch`.
        patch: side of a patch in pixels.
        width, heads, hidden: as `TransformerLayer`.
        depth: number of layers.

    Shapes:
        (B, in_channels, image_size, image_size) -> (B, num_classes).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int,
        *,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.empty(1, (image_size // patch) ** 2, width))
        self.layers = nn.Sequential(*(TransformerLayer(width, heads, hidden) for _ in range(depth)))
        self.norm, self.classify = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, num_classes)
        nn.init.normal_(self.positions, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.classify(self.norm(self.layers(tokens)).mean(1))
        return logits


@register_model(
    "vit-p{patch}-w{width}-d{depth}",
    group="none",
    invariant="none",
    family="vit",
    source="arXiv:2010.11929",
    note="a mean over the tokens in place of a class token, and no dropout",
    members={
        "vit-25k": {
            "args": {"patch": 4, "width": 24, "depth": 4},
            "params": {"1x28x28->10": 26_074},
            "sizes": "4k",
        },
    },
)
def vit(in_channels: int, num_classes: int, image_size: int, *, patch: int, width: int, depth: int) -> nn.Module:
    """A vision transformer of `depth` layers on patches of `patch` pixels, with `width` numbers a token.

    Four heads, three times `width` between the two dense layers of a layer, learned positions. The sizes are ours: the
    smallest of the paper has 86 million parameters.

    Raises:
        UserError: the image is no whole number of patches, or `width` no multiple of 4.
    """
    name = f"vit-p{patch}-w{width}-d{depth}"
    if min(patch, width, depth) < 1 or width % 4:
        raise UserError(
            f"{name}: patches have a pixel or more, a token has 4, 8, … numbers (4 heads), layers are one or more"
        )
    if image_size % patch or not image_size:
        raise UserError(
            f"{name}: images of {image_size} pixels are no whole number of patches; it takes multiples of {patch}"
        )
    sizes = {"patch": patch, "width": width, "depth": depth, "heads": 4, "hidden": 3 * width}
    return VisionTransformer(in_channels, num_classes, image_size, **sizes)
