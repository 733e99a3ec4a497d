"""Equivariance error of logits: the ``core`` profile, in every record, before and after training.

f = logits in float32 and evaluation mode; s = mean of ‖f(x) − f(x′)‖ over all pairs of different inputs. Errors are
divided by s. So an error of 1 means that the logits change as much as for another image, and errors do not depend on
the scale and the offset of the logits. A model whose logits hardly depend on the input (s < 1e-5 · max ‖f(x) − f(0)‖)
is *collapsed*: its errors are None, because zeros would look good.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ...models.groups import PlanarGroup, transform_image
from ..records.record import CorePoint
from ..spec.seeds import derive
from .accuracy import logits
from .execution_profile import FULL, float32_precision, set_float32_precision

Prepare = Callable[[torch.Tensor], torch.Tensor]

#: All symmetries of the square pixel grid: four rotations, then four reflections.
GRID = PlanarGroup(4, mirrored=True)
#: Angles of `CorePoint.eq_rot_analytic` in degrees.
ANGLES = (15.0, 30.0, 45.0, 60.0, 75.0)
#: Seed of the closed-form inputs; it is part of the protocol.
BLOB_SEED = 20_200_710
#: Number of closed-form images. It is small because every run measures them twice.
BLOB_DRAWS = 32


def measure_core(model: nn.Module, images: torch.Tensor, scene: Scene, claim: str = "none") -> CorePoint:
    """The ``core`` profile of a model.

    Args:
        images: integers (n, c, size, size) of the test set, balanced by class, on the device of the scene.
        scene: for the closed-form images of the same size; its `prepare` normalises the `images` too.
        claim: the group under which the model's logits are claimed to be invariant.
    """
    with reference_arithmetic():
        origin = zero_logits(model, images)
        orbit = [logits(model, transform_image(images, GRID, g), scene.prepare) for g in GRID.elements]
        blobs = scene.blobs(BLOB_DRAWS)
        analytic = [logits(model, scene.image(blobs, angle), scene.prepare) for angle in (0.0, *ANGLES)]
    claimed = claimed_elements(claim)
    c4, d4 = relative_error(orbit[: GRID.rotations], origin), relative_error(orbit, origin)
    rotated = relative_error(analytic, origin)
    return CorePoint(
        eq_exact_c4=c4, eq_exact_d4=d4, eq_rot_analytic=rotated, collapsed=c4 is None or rotated is None,
        scale=scale_of(orbit[0], origin), scale_analytic=scale_of(analytic[0], origin),
        eq_claimed=relative_error([orbit[g] for g in claimed], origin) if len(claimed) > 1 else None,
    )  # fmt: skip


@contextmanager
def reference_arithmetic() -> Iterator[None]:
    """Inside this context, convolutions and matrix products use full float32, in every execution profile."""
    before = float32_precision()
    set_float32_precision(FULL)
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        set_float32_precision(before)


def zero_logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits (1, classes) of an image that is zero after normalisation and has the shape of `images`."""
    return logits(model, torch.zeros(1, *images.shape[1:], device=images.device), lambda x: x)


def claimed_elements(claim: str) -> list[int]:
    """Elements of `GRID` that belong to the claimed group, the identity first; empty if nothing is claimed.

    `models.groups` defines the reflections of each group. Elements that do not map the grid to itself (in ``"C8"``,
    ``"D3"``) are left out.
    """
    if claim in ("", "none"):
        return []
    group = PlanarGroup.parse(claim)
    own = [group.matrix(g) for g in group.grid_symmetries()]
    return [g for g in GRID.elements if any(np.allclose(GRID.matrix(g), m) for m in own)]


def relative_error(orbit: Sequence[torch.Tensor], origin: torch.Tensor) -> float | None:
    """Mean over inputs and g ≠ e of ‖f(gx) − f(x)‖, divided by s; None if collapsed, or if logits are not finite.

    `orbit` has the logits (n, classes) of gx for each g, the identity first; `origin` those (1, classes) of zero.
    """
    plain = orbit[0].double()
    scale = scale_of(plain, origin)
    drift = torch.stack([(moved.double() - plain).norm(dim=1).mean() for moved in orbit[1:]]).mean()
    return None if scale is None or not math.isfinite(float(drift)) else float(drift) / scale


def scale_of(plain: torch.Tensor, origin: torch.Tensor) -> float | None:
    """s = mean of ‖f(x) − f(x′)‖ over the pairs of different inputs, in units of the logits.

    None if it is below 1e-5 · max ‖f(x) − f(0)‖ (collapsed), if it is not finite, or if there is no pair. `plain` has
    the logits (n, classes) of the inputs; `origin` those (1, classes) of the zero image.
    """
    plain = plain.double()
    # Computed from differences in float64: with scalar products, a large offset of the logits would cost precision.
    scale = float(torch.pdist(plain).mean())
    reach = float((plain - origin.double()).norm(dim=1).max())
    return scale if math.isfinite(scale) and scale > 1e-5 * reach else None


@dataclass(frozen=True)
class Blobs:
    """Images in closed form: sums of Gaussian blobs.

    Attributes:
        centres: (draws, blobs, 2), in pixels from the centre of the image (x right, y up).
        widths: (draws, blobs), standard deviations in pixels.
        heights: (draws, channels, blobs), signed, with magnitudes in 0…1.
    """

    centres: torch.Tensor
    widths: torch.Tensor
    heights: torch.Tensor

    def sample(self, size: int, degrees: float, background: Sequence[float]) -> torch.Tensor:
        """The images, rotated counter-clockwise about the centre and sampled at the centres of the pixels.

        float64 (draws, channels, size, size), the first row at the top. Nothing is resampled.
        """
        cosine, sine = _cos_sin(degrees)
        x, y = grid(size)
        # (R f)(p) = f(R⁻¹ p)
        points = torch.stack([cosine * x + sine * y, -sine * x + cosine * y], dim=-1)
        images = torch.einsum("dcb,dbhw->dchw", self.heights, self.bumps(points))
        return images + torch.tensor(background, dtype=torch.float64)[:, None, None]

    def bumps(self, points: torch.Tensor) -> torch.Tensor:
        """Every blob with height 1, evaluated at `points` (h, w, 2): (draws, blobs, h, w)."""
        offsets = points[None, None] - self.centres[:, :, None, None]
        return torch.exp(-offsets.square().sum(-1) / (2 * self.widths[:, :, None, None] ** 2))


@dataclass(frozen=True)
class Scene:
    """Closed-form images as inputs of a model, `size` pixels high and wide.

    Attributes:
        prepare: normalisation of the data's integers, or of real values in their units.
        background: value of the images' background per channel, in 0…1.
        maximum: the data's integer that means 1.0.
    """

    size: int
    prepare: Prepare
    background: Sequence[float]
    maximum: int
    device: torch.device

    def blobs(self, draws: int) -> Blobs:
        return draw_blobs(draws, len(self.background), self.size)

    def image(self, blobs: Blobs, degrees: float) -> torch.Tensor:
        """The images, rotated by an angle, as `tensor`."""
        return self.tensor(blobs.sample(self.size, degrees, self.background))

    def tensor(self, values: torch.Tensor) -> torch.Tensor:
        """Values in 0…1 in units of the data's integers: float32 (draws, c, size, size)."""
        return (values * self.maximum).to(self.device, torch.float32)


def grid(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates x, y (size, size) of the pixel centres relative to the centre of the image; y points up. float64."""
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    return axis[None, :].expand(size, size), -axis[:, None].expand(size, size)


def draw_blobs(draws: int, channels: int, size: int) -> Blobs:
    """Twelve blobs an image from the protocol's seed: σ in 1…1.5 px, centres within 0.28 · size of the image centre."""
    blobs = 12
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
