"""Equivariance error of logits: the ``core`` profile, in every record, before and after training.

f = logits in float32 and evaluation mode; s = mean over the inputs of ‖f(x) − mean f‖, so that the figures
do not depend on the scale and offset of the logits. A model whose logits hardly depend on the input
(s < 1e-5 · max ‖f(x) − f(0)‖) is *collapsed*: its figures are None, not praiseworthy zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from .arithmetic import FULL, float32_precision, set_float32_precision
from .evaluate import logits
from .seeds import derive

Prepare = Callable[[torch.Tensor], torch.Tensor]

#: Degrees of `Core.eq_rot_analytic`.
ANGLES = (15.0, 30.0, 45.0, 60.0, 75.0)
#: Seed of the closed-form inputs, part of the protocol.
BLOB_SEED = 20_200_710
#: Every run pays for them twice.
BLOB_DRAWS = 32


@dataclass(frozen=True)
class Core:
    """Relative equivariance errors (0: invariant; about 1: unrelated logits), None where collapsed.

    Attributes:
        eq_exact_c4: over the rotations by 90, 180 and 270 degrees of real images, no interpolation.
        eq_exact_d4: over these and the four reflections.
        eq_rot_analytic: over `ANGLES` of closed-form images, no resampling.
        collapsed: whether the logits hardly depend on the input.
    """

    eq_exact_c4: float | None
    eq_exact_d4: float | None
    eq_rot_analytic: float | None
    collapsed: bool


def measure_core(
    model: nn.Module, images: torch.Tensor, prepare: Prepare, background: Sequence[float], maximum: int
) -> Core:
    """The ``core`` profile of a model.

    Args:
        images: integers (n, c, size, size) of the test set, balanced by class.
        prepare: normalisation of such integers, or of real values in their units.
        background: per channel, of the closed-form images, in 0…1.
        maximum: integer that stands for 1.0.
    """
    size, device = images.shape[-1], images.device
    with reference_arithmetic():
        origin = zero_logits(model, images)
        orbit = [logits(model, dihedral(images, k, flip), prepare) for flip in (False, True) for k in range(4)]
        blobs = draw_blobs(BLOB_DRAWS, len(background), size)
        analytic = [
            logits(model, (blobs.sample(size, angle, background) * maximum).to(device, torch.float32), prepare)
            for angle in (0.0, *ANGLES)
        ]
    c4, d4 = relative_error(orbit[:4], origin), relative_error(orbit, origin)
    rotated = relative_error(analytic, origin)
    return Core(c4, d4, rotated, collapsed=c4 is None or rotated is None)


@contextmanager
def reference_arithmetic() -> Iterator[None]:
    """Inside, convolutions and matrix products are float32 throughout, whatever the execution profile."""
    before = float32_precision()
    set_float32_precision(FULL)
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        set_float32_precision(before)


def zero_logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits (1, classes) of the image that is zero after normalisation, shaped as `images`."""
    return logits(model, torch.zeros(1, *images.shape[1:], device=images.device), lambda x: x)


def dihedral(images: torch.Tensor, quarter_turns: int, flip: bool) -> torch.Tensor:
    """The images moved by an exact symmetry of the grid: a reflection, if any, then counter-clockwise turns."""
    return torch.rot90(images.flip(-1) if flip else images, quarter_turns, (-2, -1))


def relative_error(orbit: Sequence[torch.Tensor], origin: torch.Tensor) -> float | None:
    """Mean over inputs and g ≠ e of ‖f(gx) − f(x)‖, divided by s.

    Args:
        orbit: logits (n, classes) of gx for each g, the identity first.
        origin: logits (1, classes) of the zero image.

    Returns:
        The error, or None where the model is collapsed or its logits are no numbers.
    """
    plain = orbit[0].double()
    scale = spread(plain, origin)
    drift = torch.stack([(moved.double() - plain).norm(dim=1).mean() for moved in orbit[1:]]).mean()
    return None if scale is None or not math.isfinite(float(drift)) else float(drift) / scale


def spread(plain: torch.Tensor, origin: torch.Tensor) -> float | None:
    """s = mean ‖f(x) − mean f‖, or None where it is below 1e-5 · max ‖f(x) − f(0)‖ (collapsed) or no number.

    Args:
        plain: logits (n, classes) of the inputs.
        origin: logits (1, classes) of the zero image.
    """
    plain = plain.double()
    scale = float((plain - plain.mean(0)).norm(dim=1).mean())
    reach = float((plain - origin.double()).norm(dim=1).max())
    return scale if math.isfinite(scale) and scale > 1e-5 * reach else None


@dataclass(frozen=True)
class Blobs:
    """Images in closed form: sums of Gaussian blobs.

    Attributes:
        centres: (draws, blobs, 2), pixels from the middle of the image, (x right, y up).
        widths: (draws, blobs), standard deviations in pixels.
        heights: (draws, channels, blobs), in 0…1 with a sign.
    """

    centres: torch.Tensor
    widths: torch.Tensor
    heights: torch.Tensor

    def sample(self, size: int, degrees: float, background: Sequence[float]) -> torch.Tensor:
        """The images, rotated counter-clockwise about the middle, sampled at the pixels' centres.

        Returns:
            float64 (draws, channels, size, size), the first row at the top. Nothing is resampled: the
            rotated function is evaluated at the grid's points.
        """
        cosine, sine = _cos_sin(degrees)
        x, y = grid(size)
        # (R f)(p) = f(R⁻¹ p)
        points = torch.stack([cosine * x + sine * y, -sine * x + cosine * y], dim=-1)
        images = torch.einsum("dcb,dbhw->dchw", self.heights, self.bumps(points))
        return images + torch.tensor(background, dtype=torch.float64)[:, None, None]

    def bumps(self, points: torch.Tensor) -> torch.Tensor:
        """Every blob, of height 1, at `points` (h, w, 2): (draws, blobs, h, w)."""
        offsets = points[None, None] - self.centres[:, :, None, None]
        return torch.exp(-offsets.square().sum(-1) / (2 * self.widths[:, :, None, None] ** 2))


def grid(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates x, y (size, size) of the pixels' centres from the middle of the image; y points up. float64."""
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    return axis[None, :].expand(size, size), -axis[:, None].expand(size, size)


def draw_blobs(draws: int, channels: int, size: int, blobs: int = 12) -> Blobs:
    """Blobs from the protocol's seed: σ in 1…1.5 px, centres within 0.28 · size of the middle."""
    generator = torch.Generator().manual_seed(derive(BLOB_SEED, "blobs", draws, channels, size))

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    radius, angle = 0.28 * size * uniform(draws, blobs).sqrt(), 2 * math.pi * uniform(draws, blobs)
    centres = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
    signs = torch.where(uniform(draws, channels, blobs) < 0.5, -1.0, 1.0)
    return Blobs(centres, 1 + 0.5 * uniform(draws, blobs), signs * (0.5 + 0.5 * uniform(draws, channels, blobs)))


def _cos_sin(degrees: float) -> tuple[float, float]:
    """Cosine and sine, exact at multiples of 90 degrees."""
    turns, rest = divmod(degrees % 360, 90)
    if rest == 0:
        return ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(turns)]
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
