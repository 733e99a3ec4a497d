"""Whether logits are invariant under a group: as a model is built, and once its weights have moved.

An invariance that the architecture guarantees holds for all weights. One that holds only as the model is initialised,
as with a normalisation that has one scale (all of them 1 at first) for each orientation, is lost by training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ...models.groups import transform_image
from ..records.record import EXACT
from .accuracy import logits
from .equivariance import GRID, Prepare, claimed_elements, reference_arithmetic, relative_error, zero_logits
from .norms import reestimate_batch_norm

#: How far weights are moved, as a share of their root mean square.
MOVE = 0.05


def claim_error(model: nn.Module, images: torch.Tensor, prepare: Prepare, claim: str) -> float | None:
    """Relative error over the grid symmetries that a claim names; None if there are none, or collapsed."""
    return claim_errors(model, images, prepare, [claim])[claim]


def claim_errors(
    model: nn.Module, images: torch.Tensor, prepare: Prepare, claims: Sequence[str]
) -> dict[str, float | None]:
    """The relative error over each of several groups; an image that more than one of them demands is looked at once."""
    elements = {claim: claimed_elements(claim) for claim in claims}
    with reference_arithmetic():
        seen = {
            g: logits(model, transform_image(images, GRID, g), prepare)
            for g in dict.fromkeys(g for found in elements.values() if len(found) > 1 for g in found)
        }
        zero = zero_logits(model, images)
    return {
        claim: relative_error([seen[g] for g in found], zero) if len(found) > 1 else None
        for claim, found in elements.items()
    }


@dataclass(frozen=True)
class Judgement:
    """Relative errors under a group; None if there are no elements, or collapsed.

    Attributes:
        built: with the weights as the model is built.
        moved: once all weights have moved.
    """

    built: float | None
    moved: float | None

    @property
    def exact(self) -> bool:
        """Whether the logits are invariant for all weights: both errors are rounding."""
        return all(e is not None and e <= EXACT for e in (self.built, self.moved))

    @property
    def at_first_only(self) -> bool:
        """Whether the logits are invariant as the model is built, and not once its weights have moved."""
        return self.built is not None and self.built <= EXACT and not self.exact


def judge(model: nn.Module, images: torch.Tensor, prepare: Prepare, claim: str) -> Judgement:
    """Whether the logits of a model that was just built are invariant under a group; its weights are moved.

    Args:
        images: (n, c, size, size), as `prepare` takes them.
    """
    built = claim_error(model, images, prepare, claim)
    move_weights(model, prepare(images))
    return Judgement(built, claim_error(model, images, prepare, claim))


def move_weights(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Move every trainable number a little by itself, as long training does; returns the model.

    Args:
        images: normalised (n, c, size, size); batch-norm statistics are re-estimated from them.
    """
    generator = torch.Generator().manual_seed(0)
    model.train()  # as for a training step: filters that were kept for evaluation are forgotten
    with torch.no_grad():
        for weights in model.parameters():
            if weights.requires_grad and weights.numel():
                size = float(weights.abs().square().mean().sqrt()) or 1.0
                noise = torch.randn(weights.shape, generator=generator, dtype=weights.dtype)
                weights.add_(noise.to(weights.device), alpha=MOVE * size)
    reestimate_batch_norm(model, lambda index: images if index == 0 else None)
    return model
