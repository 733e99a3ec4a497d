"""Checks of the claimed invariance, and measurements at other sizes and other angles."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from ..boards.claims import CLAIMS
from ..measures.angle_and_depth import Scene, angle_curve
from ..measures.equivariance import ANGLES
from ..measures.invariance import claim_error, claim_errors, move_weights
from ..records.record import EXACT
from ..records.verdict import Finding, failed, noted, passed
from ..tools.text import clipped, error_text, first_line
from .checked_model import Input, Subject

#: Number of closed-form images that are rotated.
DRAWS = 16


def invariance(subject: Subject) -> Finding:
    """The logits are invariant under the claimed group, at every declared input, also after a change of the weights."""
    claim = str(subject.resolved.get("invariant", "none"))
    if claim not in CLAIMS:
        says = f"invariant={claim!r}: the pixel grid is not invariant under this group, so the claim cannot be exact"
        do = f"claim one of {', '.join(CLAIMS)}, the part of the group that only moves pixels; group={claim!r} can stay"
        return failed(says, do)
    if claim == "none":
        return _unclaimed(subject)
    errors = {f"{of.size} px": _error(subject, subject.build(of=of), of, claim) for of in subject.inputs}
    after = f"{subject.input.size} px after a change of the weights"
    errors[after] = _error(subject, _moved(subject), subject.input, claim)
    if errors[after] is None:
        says = "the logits hardly depend on the image, so their invariance cannot be measured"
        return failed(says, "check that the forward pass uses its input, and that no factor is zero")
    if wrong := {where: e for where, e in errors.items() if e is not None and not e <= EXACT}:
        where, error = next(iter(wrong.items()))
        do = "usual causes: a stride or a pooling that is not centred at this size, padding on one side, a head that"
        do += " does not pool over orientations and positions; or claim invariant='none', which is a valid claim"
        if where == after:  # only there
            do = "training breaks the invariance: normalisation, scales and biases must be shared by all orientations"
            do += " of a field (batch norm over fields, not over channels)"
        says = f"claimed {claim}, but its logits change by {error:.1e} at {where}"
        return failed(f"{says}; 1 means as much as for another image (allowed {EXACT:g})", do)
    return passed(f"{claim}: " + ", ".join(f"{_text(e)} at {where}" for where, e in errors.items()))


def _moved(subject: Subject) -> nn.Module:
    """The model after its few training steps, with an additional random change of every trainable number."""
    return move_weights(subject.loaded(subject.trained.state), subject.images(subject.batch))


def _unclaimed(subject: Subject) -> Finding:
    errors = claim_errors(_moved(subject), subject.images(subject.shown), lambda x: x, ("D4", "C4", "D2", "C2", "D1"))
    for group, size in errors.items():
        if size is not None and size <= EXACT:
            says = f"no invariance is claimed, but the logits are invariant under {group} ({error_text(size)})"
            return noted(says, f"invariant={group!r} could be claimed")
    error = _text(errors["C4"])
    return passed(f"none claimed; quarter turns change the logits by {error}; 1 means as much as for another image")


def _error(subject: Subject, model: nn.Module, of: Input, group: str) -> float | None:
    return claim_error(model, subject.images(subject.shown, of), lambda x: x, group)


def neighbours(subject: Subject) -> Finding:
    """Invariance at one pixel less and one pixel more, where strides and paddings differ. Reported, never failed."""
    claim = str(subject.resolved.get("invariant", "none"))
    group = claim if claim in CLAIMS and claim != "none" else "C4"
    parts = []
    for size in (subject.input.size - 1, subject.input.size + 1):
        of = replace(subject.input, size=size)
        try:
            error = _error(subject, move_weights(subject.build(of=of), subject.images(subject.batch, of)), of, group)
            parts.append(f"{size} px: {_text(error)}")
        except Exception as error:  # a model may raise any error for an unsupported size
            why = clipped(first_line(error), 90)
            parts.append(f"{size} px: cannot be built at this size ({why})")
    return noted(f"change of the logits under {group} at other sizes: " + "; ".join(parts))


def angles(subject: Subject) -> Finding:
    """Change of the logits under rotations of closed-form images by other angles. Reported, never failed."""
    channels = subject.input.channels
    scene = Scene(subject.input.size, lambda x: x, [0.0] * channels, 1, torch.device("cpu"))
    errors = angle_curve(subject.build(), scene, ANGLES, DRAWS)
    texts = [f"{_text(error)} at {angle:g}°" for angle, error in zip(ANGLES, errors, strict=True)]
    return noted(f"change of the logits under rotation at initialisation: {', '.join(texts)}")


def _text(error: float | None) -> str:
    if error is None:
        return "undefined (the logits hardly depend on the image)"
    return f"{error:.2f}" if error >= 0.01 else error_text(error)
