"""Lie derivatives of logits: how fast the logits change when the input starts to rotate or to shift.

The inputs are images in closed form (`equivariance.Blobs`). Their derivatives with respect to the angle and the shift
are also in closed form. Nothing is resampled, and no derivative is taken through a sampler. So only one Jacobian-vector
product of the network is needed, and it is exact up to rounding. (Gruver et al., "The Lie derivative for measuring
learned equivariance", ICLR 2023, differentiate through bilinear sampling instead.)
"""

from __future__ import annotations

import math

import torch
from torch import nn

from .equivariance import Blobs, Prepare, Scene, grid, scale_of

#: Images per forward pass; derivatives need twice the memory of values.
LIE_BATCH = 64


def rotation_tangent(blobs: Blobs, size: int) -> torch.Tensor:
    """d/dθ of the images rotated by θ degrees counter-clockwise about the centre, at θ = 0, per degree.

    float64 (draws, channels, size, size), heights in 0…1. With (R_θ f)(p) = f(R_θ⁻¹ p) and d/dθ R_θ⁻¹ p = (y, −x) per
    radian, a blob with offset o = p − c from its centre contributes −(o · (y, −x)) / σ² times itself.
    """
    x, y = grid(size)
    return _tangent(blobs, torch.stack([y, -x], dim=-1)) * (math.pi / 180)


def shift_tangent(blobs: Blobs, size: int, direction: tuple[float, float]) -> torch.Tensor:
    """d/dt of the images shifted by t pixels along a unit vector (x right, y up), at t = 0, per pixel.

    float64 (draws, channels, size, size), heights in 0…1.
    """
    return _tangent(blobs, -torch.tensor(direction, dtype=torch.float64).expand(size, size, 2))


def _tangent(blobs: Blobs, velocity: torch.Tensor) -> torch.Tensor:
    """Derivative of the images when the point under each pixel moves with `velocity` (size, size, 2)."""
    points = torch.stack(grid(len(velocity)), dim=-1)
    # o · v = p · v − c · v
    along = (points * velocity).sum(-1) - torch.einsum("dbk,hwk->dbhw", blobs.centres, velocity)
    slopes = -along / blobs.widths[:, :, None, None] ** 2 * blobs.bumps(points)
    return torch.einsum("dcb,dbhw->dchw", blobs.heights, slopes)


def derivative(
    model: nn.Module, images: torch.Tensor, tangents: torch.Tensor, prepare: Prepare, batch: int = LIE_BATCH
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (n, classes) in evaluation mode, and their derivative along `tangents`, of the same shape.

    Args:
        images, tangents: (n, c, size, size), in the form that `prepare` accepts.

    Raises:
        RuntimeError, NotImplementedError: an operation of the model has no forward-mode derivative.
    """
    model.eval()
    values, slopes = [], []
    with torch.no_grad():  # parameters need no graph; forward mode still works inside
        for image, tangent in zip(images.split(batch), tangents.split(batch), strict=True):
            value, slope = torch.func.jvp(lambda x: model(prepare(x)), (image,), (tangent,))  # type: ignore[misc]
            values.append(value)
            slopes.append(slope)
    return torch.cat(values), torch.cat(slopes)


def lie_errors(model: nn.Module, scene: Scene, draws: int, origin: torch.Tensor) -> tuple[float | None, float | None]:
    """Mean length of the Lie derivative of the logits, divided by s: ``lee_rot`` per degree, ``lee_shift`` per pixel.

    The shift derivative is the mean over shifts along x and along y. Both values are None if the model is collapsed or
    its logits are not finite. `origin` has the logits (1, classes) of the zero image.
    """
    blobs, size = scene.blobs(draws), scene.size
    images = scene.image(blobs, 0.0)
    directions = [rotation_tangent(blobs, size), *(shift_tangent(blobs, size, d) for d in ((1.0, 0.0), (0.0, 1.0)))]
    lengths = []
    for tangents in directions:
        values, slopes = derivative(model, images, scene.tensor(tangents), scene.prepare)
        lengths.append(float(slopes.double().norm(dim=1).mean()))
    scale = scale_of(values, origin)
    if scale is None or not all(map(math.isfinite, lengths)):
        return None, None
    return lengths[0] / scale, (lengths[1] + lengths[2]) / 2 / scale
