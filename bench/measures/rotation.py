"""Rotation of sampled images with a small resampling error at low cost.

A test image is known at its pixels only. A rotation needs values between the pixels, and a network reacts to the
interpolation. Here an image is faded to its background outside a disc, because its corners would leave the image. Then
it is enlarged three times by bicubic interpolation, rotated by bicubic interpolation, and reduced by an antialiased
bicubic filter. The unrotated image is processed in the same way, so that the blur of the reduction is equal for all
angles and cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

#: Enlargement factor of the images before rotation.
ENLARGED = 3
#: In pixels: the disc ends one pixel inside the image, and fades over two pixels.
MARGIN, EDGE = 1.0, 2.0
#: The rotations of an orbit: multiples of 15 degrees.
ORBIT_DEGREES = tuple(range(0, 360, 15))


def soft_disc(size: int, device: torch.device | None = None) -> torch.Tensor:
    """Weights (size, size) in 0…1: 1 inside the disc, 0 outside, with a cosine-shaped transition."""
    axis = torch.arange(size, dtype=torch.float32, device=device) - (size - 1) / 2
    radius = (axis[:, None] ** 2 + axis[None, :] ** 2).sqrt()
    inside = ((size / 2 - MARGIN - radius) / EDGE).clamp(0, 1)
    return 0.5 - 0.5 * torch.cos(math.pi * inside)


class ImageRotator:
    """Images (n, c, size, size) of any real type on a soft disc, which can be rotated by any angle about their centre.

    `background` is the value per channel outside the disc, in units of the images.
    """

    def __init__(self, images: torch.Tensor, background: Sequence[float]) -> None:
        self._size = images.shape[-1]
        self._ground = torch.tensor(background, dtype=torch.float32, device=images.device)[:, None, None]
        self._disc = (images.to(torch.float32) - self._ground) * soft_disc(self._size, images.device)
        self._fine = enlarge(self._disc)
        self._turned: dict[float, torch.Tensor] = {}

    def rotated(self, degrees: float) -> torch.Tensor:
        """The images rotated counter-clockwise: float32 (n, c, size, size). Quarter turns are exact."""
        turns, rest = divmod(degrees % 360, 90)
        if rest not in self._turned:
            self._turned[rest] = reduce(rotate(self._fine, rest) if rest else self._fine, self._size)
        return torch.rot90(self._turned[rest], int(turns), (-2, -1)) + self._ground

    def back_and_forth(self, degrees: float) -> torch.Tensor:
        """R₋θ Rθ of the images. The difference to ``back_and_forth(0)`` is the resampling error."""
        # Quarter turns cancel.
        rest = degrees % 90
        there = enlarge(self.rotated(rest) - self._ground)
        return reduce(rotate(there, -rest) if rest else there, self._size) + self._ground


def enlarge(images: torch.Tensor) -> torch.Tensor:
    """Bicubic interpolation on a grid that is `ENLARGED` times finer."""
    return F.interpolate(images, scale_factor=ENLARGED, mode="bicubic", align_corners=False)


def reduce(images: torch.Tensor, size: int) -> torch.Tensor:
    """Reduction to `size` pixels, with a low-pass filter."""
    return F.interpolate(images, size=(size, size), mode="bicubic", align_corners=False, antialias=True)


def rotate(images: torch.Tensor, degrees: float, mode: str = "bicubic") -> torch.Tensor:
    """Counter-clockwise rotation by interpolation (``bilinear`` or ``bicubic``) on the images' grid; zero outside."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # The source point of each pixel; y points down here.
    matrix = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0]], device=images.device, dtype=images.dtype)
    where = F.affine_grid(matrix.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, where, mode=mode, padding_mode="zeros", align_corners=False)
