"""Whether logits are invariant under a group: at initialisation, and after a change of the weights.

If the architecture guarantees invariance, it holds for all weights. Some models are invariant only at initialisation,
and training destroys the invariance. An example is a normalisation with one scale for each orientation: all scales are
1 at initialisation.
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

#: Size of the change of the weights, relative to their root mean square.
MOVE = 0.05


def claim_error(model: nn.Module, images: torch.Tensor, prepare: Prepare, claim: str) -> float | None:
    """Relative error over the grid symmetries of the claimed group; None if there are none, or if collapsed."""
    return claim_errors(model, images, prepare, [claim])[claim]


def claim_errors(
    model: nn.Module, images: torch.Tensor, prepare: Prepare, claims: Sequence[str]
) -> dict[str, float | None]:
    """The relative error for each of several groups; transformed images that several groups need are computed once."""
    elements = {claim: claimed_elements(claim) for claim in claims}
    groups = {claim: found for claim, found in elements.items() if len(found) > 1}
    with reference_arithmetic():
        needed = dict.fromkeys(g for found in groups.values() for g in found)
        seen = {g: logits(model, transform_image(images, GRID, g), prepare) for g in needed}
        zero = zero_logits(model, images)
    errors = {claim: relative_error([seen[g] for g in found], zero) for claim, found in groups.items()}
    return {claim: errors.get(claim) for claim in claims}


@dataclass(frozen=True)
class Judgement:
    """Relative errors under a group, at initialisation (`built`) and after all weights were changed (`moved`).

    None if the group has no grid symmetries, or if the model is collapsed.
    """

    built: float | None
    moved: float | None

    @property
    def exact(self) -> bool:
        """Whether the logits are invariant for all weights: both errors are only rounding."""
        return all(e is not None and e <= EXACT for e in (self.built, self.moved))

    @property
    def at_initialisation_only(self) -> bool:
        """Whether the logits are invariant at initialisation only."""
        return self.built is not None and self.built <= EXACT and not self.exact


def judge(model: nn.Module, images: torch.Tensor, prepare: Prepare, claim: str) -> Judgement:
    """Judge whether the logits of a newly built model are invariant under a group. This changes the weights."""
    built = claim_error(model, images, prepare, claim)
    move_weights(model, prepare(images))
    return Judgement(built, claim_error(model, images, prepare, claim))


def move_weights(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Change every trainable number independently by a small amount, as training does; returns the model.

    Batch-norm statistics are re-estimated from the normalised images (n, c, size, size).
    """
    generator = torch.Generator().manual_seed(0)
    model.train()  # as for a training step: this discards filters that were kept for evaluation
    with torch.no_grad():
        for weights in model.parameters():
            if weights.requires_grad and weights.numel():
                size = float(weights.abs().square().mean().sqrt()) or 1.0
                noise = torch.randn(weights.shape, generator=generator, dtype=weights.dtype)
                weights.add_(noise.to(weights.device), alpha=MOVE * size)
    reestimate_batch_norm(model, [images])
    return model
