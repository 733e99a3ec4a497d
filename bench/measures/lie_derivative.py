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

from .equivariance import Blobs, Prepare, grid, scale_of

#: Images per forward pass; derivatives need twice the memory of values.
LIE_BATCH = 64


def rotation_tangent(blobs: Blobs, size: int) -> torch.Tensor:
    """d/dθ of the images rotated by θ degrees counter-clockwise about the centre, at θ = 0, per degree.

    With (R_θ f)(p) = f(R_θ⁻¹ p) and d/dθ R_θ⁻¹ p = (y, −x) per radian, a blob with offset o = p − c from its centre
    contributes −(o · (y, −x)) / σ² times itself.

    Returns:
        float64 (draws, channels, size, size), heights in 0…1.
    """
    x, y = grid(size)
    return _tangent(blobs, x, y, torch.stack([y, -x], dim=-1)) * (math.pi / 180)


def shift_tangent(blobs: Blobs, size: int, direction: tuple[float, float]) -> torch.Tensor:
    """d/dt of the images shifted by t pixels along a unit vector (x right, y up), at t = 0, per pixel.

    Returns:
        float64 (draws, channels, size, size).
    """
    x, y = grid(size)
    velocity = -torch.tensor(direction, dtype=torch.float64).expand(size, size, 2)
    return _tangent(blobs, x, y, velocity)


def _tangent(blobs: Blobs, x: torch.Tensor, y: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
    """Derivative of the images when the point under each pixel moves with `velocity` (h, w, 2)."""
    points = torch.stack([x, y], dim=-1)
    # o · v = p · v − c · v
    along = (points * velocity).sum(-1) - torch.einsum("dbk,hwk->dbhw", blobs.centres, velocity)
    slopes = -along / blobs.widths[:, :, None, None] ** 2 * blobs.bumps(points)
    return torch.einsum("dcb,dbhw->dchw", blobs.heights, slopes)


def derivative(
    model: nn.Module, images: torch.Tensor, tangents: torch.Tensor, prepare: Prepare, batch: int = LIE_BATCH
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and their derivative along `tangents`, by one Jacobian-vector product per batch.

    Args:
        images, tangents: (n, c, size, size), in the form that `prepare` accepts.

    Returns:
        Both (n, classes), in evaluation mode.

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


def lie_errors(
    model: nn.Module, blobs: Blobs, size: int, prepare: Prepare, background: list[float], maximum: int,
    device: torch.device, origin: torch.Tensor,
) -> tuple[float | None, float | None]:  # fmt: skip
    """Mean length of the Lie derivative of the logits, divided by s: ``lee_rot`` per degree, ``lee_shift`` per pixel.

    The shift derivative is the mean over shifts along x and along y.

    Args:
        origin: logits (1, classes) of the zero image.

    Returns:
        Two values, both None if the model is collapsed or its logits are not finite.
    """

    def place(values: torch.Tensor) -> torch.Tensor:
        return (values * maximum).to(device, torch.float32)

    images = place(blobs.sample(size, 0.0, background))
    directions = [rotation_tangent(blobs, size), *(shift_tangent(blobs, size, d) for d in ((1.0, 0.0), (0.0, 1.0)))]
    lengths = []
    for tangents in directions:
        values, slopes = derivative(model, images, place(tangents), prepare)
        lengths.append(float(slopes.double().norm(dim=1).mean()))
    scale = scale_of(values, origin)
    if scale is None or not all(map(math.isfinite, lengths)):
        return None, None
    return lengths[0] / scale, (lengths[1] + lengths[2]) / 2 / scale
