"""Learned canonicalisation of Kaba, Mondal, Zhang, Bengio & Ravanbakhsh (ICML 2023, arXiv:2211.06489), around any
network.

A small equivariant network votes for an orientation g of the image x. The image is turned back, and the network sees
only ``g^-1 x``: ``f(x) = p(k(x)^-1 x)``. A turned image gets the same votes in another order, so it is turned back to
the same image, for every network p. If two orientations get equally many votes, the first one is used. For an image
with a symmetry, both give the same image. In other cases, quarter turns of x may give different logits.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import UserError, register_wrapper
from .filter_basis import BasisConv
from .frame_averaging import FrameAverage
from .g_conv import FibreBatchNorm2d, GroupConv2d
from .steerable_pdo import operator_basis

#: Fields of the two hidden layers of the voting network.
FIELDS = 4
#: By the group: width of its filters, and pixels around the image to which its border is continued.
GEOMETRY = {"C4": (5, 0), "C8": (3, 3)}


class Votes(nn.Sequential):
    """The voting network: one number for each element of C4 or C8, (B, C, n, n) -> (B, |G|).

    Three layers without padding, with batch normalisation by field and ReLU between them, then the mean over space. So
    a turned image has the votes of the image, moved along the group. For quarter turns this is exact at every size. For
    45 degrees it depends on the layers. Over C4 they have free 5x5 filters. Over C8 they have Gaussian derivatives of
    order 0 and 1 on 3x3 pixels, which turn better than filters with more detail, and the border of the image is
    continued, so that the mean contains the whole image. The last layer has one field and no bias: the mean over
    several fields in the authors' code represents the same functions, and only the order of the votes matters.

    Args:
        in_channels: of the images.
        group: ``"C4"`` or ``"C8"``.
    """

    def __init__(self, in_channels: int, group: str) -> None:
        kernel, margin = GEOMETRY[group]

        def layer(before: int, after: int, lifting: bool) -> nn.Module:
            if group == "C4":
                return GroupConv2d(before, after, kernel, group=group, lifting=lifting, bias=False, gain=2**0.5)
            basis = partial(operator_basis, rotations=8, order=1, discretisation="gauss", kernel_size=kernel)
            return BasisConv(before, after, group=group, basis=basis, lifting=lifting, padding=0)

        hidden = [
            module
            for before, lifting in ((in_channels, True), (FIELDS, False))
            for module in (layer(before, FIELDS, lifting), FibreBatchNorm2d(FIELDS), nn.ReLU())
        ]
        super().__init__(*hidden, layer(FIELDS, 1, False))
        self.order, self.margin = int(group[1:]), margin

    def forward(self, x: Tensor) -> Tensor:
        votes: Tensor = super().forward(F.pad(x, (self.margin,) * 4, "replicate") if self.margin else x)
        return votes.to(x.dtype).mean((-2, -1))  # under autocast a mean would be rounded, and tie more often


class Canonicalised(nn.Module):
    """A network that sees the image turned back from the orientation that a small network votes for.

    In training the choice is a step forward and a softmax backward (straight-through), so that the votes learn which
    orientation suits the network. In evaluation it is the step alone.

    Args:
        model: (B, C, n, n) -> (B, classes).
        in_channels: C.
        group: ``"C4"``, or ``"C8"`` (whose odd elements interpolate).

    Shapes:
        (B, C, n, n) -> (B, classes).

    Raises:
        ValueError: unknown group; or, in the forward pass, an image that is not square.
    """

    def __init__(self, model: nn.Module, in_channels: int, group: str) -> None:
        super().__init__()
        if group not in ("C4", "C8"):
            raise ValueError(f"group={group!r}: images are turned back over 'C4' or 'C8'")
        self.votes = Votes(in_channels, group)  # before the model: wrappers take what is registered last for its head
        self.model = model
        self._turns = FrameAverage(nn.Identity(), group)

    def choice(self, x: Tensor) -> Tensor:
        """1 for the element that has the most votes, the first of several, and 0 for all others: (B, |G|)."""
        votes = self.votes(x)
        chosen = F.one_hot(votes.argmax(1), self.votes.order).to(votes.dtype)
        if not self.training:
            return chosen
        soft = votes.softmax(1)
        return chosen + (soft - soft.detach())  # in this order the numbers stay 0 and 1 exactly

    def turned_back(self, x: Tensor) -> Tensor:
        """The images after the inverse of their elements, (B, C, n, n)."""
        copies = self._turns.frames(x)
        if self.votes.order == 8:  # from quarter turns of x and of x turned by 45 degrees to elements in their order
            copies = [copies[k // 2 + 4 * (k % 2)] for k in range(8)]
        inverse = torch.stack([copies[-k % len(copies)] for k in range(len(copies))], 1)
        # No product of matrices, which would round the image where these are computed in fewer bits.
        return (self.choice(x)[:, :, None, None, None] * inverse).sum(1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(self.turned_back(x))
        return out


def canonicalised(model: nn.Module, in_channels: int, image_size: int, group: str) -> nn.Module:
    """`Canonicalised`, where the voting network fits the image.

    Raises:
        UserError: the image is too small for it.
    """
    kernel, margin = GEOMETRY[group]
    smallest = 3 * (kernel - 1) + 1 - 2 * margin
    if image_size < smallest:
        raise UserError(
            f"+canon-{group.lower()}: the network that votes for an orientation needs images of {smallest} pixels or"
            f" more, not {image_size}"
        )
    return Canonicalised(model, in_channels, group)


@register_wrapper(
    "canon-c4",
    source="arXiv:2211.06489",
    invariant="C4",
    note="one evaluation of the model, and one of a network that votes for the orientation; its parameters count",
)
def canon_c4(model: nn.Module, *, in_channels: int, image_size: int) -> nn.Module:
    """The model on images that a small p4 network turns back by a quarter turn of its choice; exactly C4-invariant, but
    for images where votes tie.
    """
    return canonicalised(model, in_channels, image_size, "C4")


@register_wrapper(
    "canon-c8",
    source="arXiv:2211.06489",
    invariant="C4",
    note="as canon-c4, over eight rotations; odd multiples of 45 degrees interpolate, so the invariance is to C4",
)
def canon_c8(model: nn.Module, *, in_channels: int, image_size: int) -> nn.Module:
    """The model on images that a small p8 network turns back by an eighth turn of its choice: C4-invariant, but for
    images where votes tie. Under 45 degrees votes move only nearly as they should, so that another orientation may win.
    Rotations as in `frame_averaging.frame_c8`.
    """
    return canonicalised(model, in_channels, image_size, "C8")
