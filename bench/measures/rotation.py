"""Rotation of sampled images with as little resampling error as can be had cheaply.

A test image is known at its pixels only: whoever rotates it must say what lies between them, and a network sees
the difference. Here an image is faded to its background outside a disc (corners would leave the image), enlarged
three times by bicubic interpolation, rotated there by bicubic interpolation, and reduced by an antialiased bicubic
filter. The unrotated image takes the same way, so that the reduction's blur is common to all angles and drops out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

#: How much finer the grid is on which images are rotated.
ENLARGED = 3
#: The disc ends one pixel inside the image and fades over two.
MARGIN, EDGE = 1.0, 2.0
#: Rotations of which orbits consist: multiples of 15 degrees.
STEP_DEGREES = 15
ORBIT_DEGREES = tuple(range(0, 360, STEP_DEGREES))


def soft_disc(size: int, device: torch.device | None = None) -> torch.Tensor:
    """Weights (size, size) in 0…1: 1 inside the disc, 0 outside, half a cosine between."""
    axis = torch.arange(size, dtype=torch.float32, device=device) - (size - 1) / 2
    radius = (axis[:, None] ** 2 + axis[None, :] ** 2).sqrt()
    inside = ((size / 2 - MARGIN - radius) / EDGE).clamp(0, 1)
    return 0.5 - 0.5 * torch.cos(math.pi * inside)


class Turntable:
    """Images on a soft disc, ready to be rotated by any angle about their middle.

    Args:
        images: (n, c, size, size) of any real type, square.
        background: per channel, in units of the images; the disc lies on it.
    """

    def __init__(self, images: torch.Tensor, background: Sequence[float]) -> None:
        self._size = images.shape[-1]
        self._ground = torch.tensor(background, dtype=torch.float32, device=images.device)[:, None, None]
        self._disc = (images.to(torch.float32) - self._ground) * soft_disc(self._size, images.device)
        self._fine = enlarge(self._disc)
        self._turned: dict[float, torch.Tensor] = {}

    def rotated(self, degrees: float) -> torch.Tensor:
        """The images rotated counter-clockwise: float32 (n, c, size, size).

        A multiple of 90 degrees on top of another angle only moves pixels, so that it is exact.
        """
        turns, rest = divmod(degrees % 360, 90)
        if rest not in self._turned:
            self._turned[rest] = reduce(turn(self._fine, rest) if rest else self._fine, self._size)
        return torch.rot90(self._turned[rest], int(turns), (-2, -1)) + self._ground

    def back_and_forth(self, degrees: float) -> torch.Tensor:
        """R₋θ Rθ of the images. What differs from ``back_and_forth(0)`` is the error of resampling.

        Quarter turns cancel, so that θ counts modulo 90 degrees.
        """
        rest = degrees % 90
        there = enlarge(self.rotated(rest) - self._ground)
        return reduce(turn(there, -rest) if rest else there, self._size) + self._ground


def enlarge(images: torch.Tensor) -> torch.Tensor:
    """Bicubic interpolation on a grid that is `ENLARGED` times finer."""
    return F.interpolate(images, scale_factor=ENLARGED, mode="bicubic", align_corners=False)


def reduce(images: torch.Tensor, size: int) -> torch.Tensor:
    """Back to `size` pixels, low-passed."""
    return F.interpolate(images, size=(size, size), mode="bicubic", align_corners=False, antialias=True)


def turn(images: torch.Tensor, degrees: float, mode: str = "bicubic") -> torch.Tensor:
    """Rotation counter-clockwise by interpolation on the images' own grid, zero outside.

    Args:
        mode: ``"bilinear"`` or ``"bicubic"``.
    """
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # The point of the source under each pixel; y points down here.
    matrix = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0]], device=images.device, dtype=images.dtype)
    where = F.affine_grid(matrix.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, where, mode=mode, padding_mode="zeros", align_corners=False)
