"""The published PDO-eConv for MNIST-rot with one change at a time: what each correction is worth.

Source: arXiv:2007.10408 and the authors' TensorFlow script for MNIST. `pdo_econv` holds the published network and the
corrected one, which differ in several things at once.
"""

from __future__ import annotations

import math

from torch import nn

from ..registry import UserError, register_model
from .pdo.networks import TF_BN, InvariantHead, MnistTrunk, OrdinaryHead

#: Fields of all layers, and of the invariant head: with them the number of parameters stays within 5 % of 25,700.
_WIDTH, _HIDDEN = 7, 116


@register_model(
    "pdo-econv-p8-{stencil}-{head}-drop{dropout}-eps{eps}-turn{turn}",
    group="C8",
    invariant="none",
    family="pdo-econv",
    source="arXiv:2007.10408",
    note="the published network with any of the corrections",
    members={
        "pdo-econv-p8-paper-no-dropout": {
            "args": {"stencil": "fd", "head": "conv", "dropout": 0, "eps": 3, "turn": 8},
            "params": {"1x28x28->10": 26_747},
            "note": "the published network without dropout; its head is not rotation-invariant",
        },
        "pdo-econv-p8-paper-eps-5": {
            "args": {"stencil": "fd", "head": "conv", "dropout": 20, "eps": 5, "turn": 8},
            "params": {"1x28x28->10": 26_747},
            "note": "the published network, batch normalisation with 1e-5 instead of 1e-3; its head is not"
            " rotation-invariant",
        },
        "pdo-econv-p8-w7-pooled": {
            "args": {"stencil": "fd", "head": "pool", "dropout": 20, "eps": 3, "turn": 8},
            "params": {"1x28x28->10": 25_685},
            "invariant": "C4",
            "note": "the published seven fields a layer and all else, but a rotation-invariant head",
        },
        "pdo-econv-p8-w7-corrected": {
            "args": {"stencil": "gauss", "head": "pool", "dropout": 0, "eps": 5, "turn": 8},
            "params": {"1x28x28->10": 25_685},
            "invariant": "C4",
            "note": "the published seven fields a layer with all corrections at once",
        },
        "pdo-econv-p8-w7-corrected-turn-0": {
            "args": {"stencil": "gauss", "head": "pool", "dropout": 0, "eps": 5, "turn": 0},
            "params": {"1x28x28->10": 25_685},
            "invariant": "C4",
            "note": "the published seven fields a layer with all corrections at once, frames not turned by pi / 8",
        },
    },
)
def mnist_p8_changes(
    in_channels: int, num_classes: int, image_size: int, *, stencil: str, head: str, dropout: int, eps: int, turn: int
) -> nn.Module:
    """PDO-eConv p8 for MNIST-rot as the official code builds it, but for what the arguments say.

    The published network is ``fd``, ``conv``, 20, 3, 8 and is registered as ``pdo-econv-p8-paper``.

    Args:
        stencil: ``fd``, finite differences, or ``gauss``, moment-fixed Gaussian derivatives.
        head: ``conv``, the published 4x4 convolution over all orientations, or ``pool``: 1x1 group layer to 116 fields,
            maximum over the group, mean over space, linear layer.
        dropout: in percent, after all layers but the second.
        eps: batch normalisation adds 10 to the power of minus this.
        turn: all frames are turned by pi / `turn`; 0 for not at all.

    Raises:
        UserError: the stencil, the head or the dropout is none of these.
    """
    if stencil not in ("fd", "gauss") or head not in ("conv", "pool") or not 0 <= dropout < 100:
        raise UserError(
            f"stencil {stencil!r}, head {head!r}, dropout {dropout}: the stencil is fd or gauss, the head conv or"
            " pool, and the"
            " dropout 0 to 99 percent"
        )
    trunk = MnistTrunk(
        in_channels,
        image_size,
        group="p8",
        stencil=stencil,
        widths=(_WIDTH,) * 6,
        offset=math.pi / turn if turn else 0.0,
        dropout=dropout / 100,
        bn={**TF_BN, "eps": 10.0**-eps},
    )
    if head == "pool":
        return nn.Sequential(trunk, InvariantHead(_WIDTH, _HIDDEN, num_classes, group="p8"))
    return nn.Sequential(trunk, OrdinaryHead(8 * _WIDTH, num_classes, trunk.out_size))
