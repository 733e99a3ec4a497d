"""Finite groups of the plane: C_N (rotations by 2 pi / N) and D_N (the same and reflections).

Conventions. Coordinates are (x, y) with y pointing up; angles grow counter-clockwise. The element with index
``g = N * m + k`` is the matrix ``R(2 pi k / N) F^m`` with ``F = diag(-1, 1)``: first the reflection that swaps left and
right (m = 1), then k steps of rotation. The identity is element 0, and D_N holds C_N as its first half.

Which D_N. Every D_N holds F, so its mirror axes are the vertical one and those turned from it by multiples of pi / N.
For even N the horizontal axis is among them, for odd N it is not: D1 is F alone, the flip of photographs, and an image
of D1 or D3 that is turned upside down is another image. escnn has the same groups, and so has the check of a claim.

Fields. A regular field over a group assigns a number to every pixel and every element. A feature map of C fields
has ``C * |G|`` channels, field-major: channel ``c * |G| + h`` is field c at element h. An element s acts by
``[s f](x, h) = f(s^-1 x, s^-1 h)``: it moves the pixels and permutes the channels of each field.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

#: A matrix whose entries are this close to whole numbers carries the pixel grid into itself.
_TOLERANCE = 1e-12


def rotation(angle: float) -> np.ndarray:
    """Matrix (2, 2) of the counter-clockwise rotation by `angle` radians, exact at multiples of 90 degrees."""
    quarter = angle / (math.pi / 2)
    if abs(quarter - round(quarter)) < 1e-14 * max(1.0, abs(quarter)):
        c, s = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)][round(quarter) % 4]
    else:
        c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s], [s, c]])


@dataclass(frozen=True)
class PlanarGroup:
    """C_N (``mirrored=False``) or D_N (``mirrored=True``).

    Args:
        rotations: N, at least 1.
        mirrored: whether it holds reflections.

    Raises:
        ValueError: N is below 1 or no integer.
    """

    rotations: int
    mirrored: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.rotations, bool) or not isinstance(self.rotations, int) or self.rotations < 1:
            raise ValueError(f"a planar group of {self.rotations!r} rotations: the number must be an integer from 1 on")

    @classmethod
    def parse(cls, name: str | PlanarGroup) -> PlanarGroup:
        """The group called `name`: ``"C8"``, ``"D6"``, or after the plane groups ``"p8"``, ``"p6m"``.

        Raises:
            ValueError: the name is none of these.
        """
        if isinstance(name, cls):
            return name
        found = re.fullmatch(r"(?:(C|D)(\d+)|p(\d+)(m?))", str(name))
        if not found:
            raise ValueError(f"group {name!r}: write 'C8' or 'p8' for rotations, 'D8' or 'p8m' with reflections")
        return cls(int(found[2] or found[3]), found[1] == "D" or found[4] == "m")

    @property
    def name(self) -> str:
        """``"C8"`` or ``"D8"``."""
        return f"{'D' if self.mirrored else 'C'}{self.rotations}"

    @property
    def order(self) -> int:
        """Number of elements |G|."""
        return self.rotations * (2 if self.mirrored else 1)

    @property
    def elements(self) -> range:
        """Indices of the elements."""
        return range(self.order)

    def _split(self, element: int) -> tuple[int, int]:
        if not 0 <= element < self.order:
            raise ValueError(f"element {element!r} of {self.name}: the indices run from 0 to {self.order - 1}")
        mirror, turns = divmod(element, self.rotations)
        return turns, mirror

    def product(self, g: int, h: int) -> int:
        """Index of ``g h`` (h acts first)."""
        (k, m), (j, n) = self._split(g), self._split(h)
        return self.rotations * (m ^ n) + (k + (-j if m else j)) % self.rotations

    def inverse(self, g: int) -> int:
        """Index of ``g^-1``; a reflection is its own inverse."""
        k, m = self._split(g)
        return g if m else -k % self.rotations

    def matrix(self, g: int) -> np.ndarray:
        """The orthogonal matrix (2, 2) of element g, acting on columns (x, y)."""
        k, m = self._split(g)
        return rotation(2 * math.pi * k / self.rotations) @ np.diag([-1.0 if m else 1.0, 1.0])

    def frames(self, offset: float = 0.0) -> np.ndarray:
        """The left coset ``g R(offset)`` as matrices (|G|, 2, 2), in the order of the elements.

        A left coset keeps the mirror axes of the group in place for every offset (radians): the axes of
        ``R(2 pi k / N + offset) F^m`` would be tilted by the offset and exact flips would be lost.
        """
        return np.stack([self.matrix(g) @ rotation(offset) for g in self.elements])

    def relative(self) -> np.ndarray:
        """Table (|G|, |G|) of ``g^-1 h``: row g, column h. Read-only; computed once."""
        return _relative(self)

    def permutation(self, s: int) -> np.ndarray:
        """How s acts on the channels of a field: ``new[h] = old[permutation[h]]``, that is ``s^-1 h``."""
        return self.relative()[s]

    def grid_symmetries(self) -> list[int]:
        """Elements that carry the square pixel grid into itself: multiples of 90 degrees, with flips if any."""
        return [g for g in self.elements if np.abs(self.matrix(g) - np.rint(self.matrix(g))).max() < _TOLERANCE]

    def fields(self, channels: int) -> int:
        """Number of regular fields in `channels` channels.

        Raises:
            ValueError: |G| does not divide it.
        """
        if channels % self.order:
            raise ValueError(
                f"{channels} channels are no whole number of fields over {self.name}: they must be a multiple of"
                f" {self.order}"
            )
        return channels // self.order


@cache
def _relative(group: PlanarGroup) -> np.ndarray:
    table = np.array(
        [[group.product(group.inverse(g), h) for h in group.elements] for g in group.elements], dtype=np.int64
    )
    table.setflags(write=False)
    return table


def transform_image(image: Tensor, group: PlanarGroup, s: int) -> Tensor:
    """An image (..., H, W) moved by a grid symmetry: ``[s f](x) = f(s^-1 x)``, without interpolation.

    Raises:
        ValueError: element s does not carry the pixel grid into itself.
    """
    if s not in group.grid_symmetries():
        raise ValueError(
            f"element {s} of {group.name} does not carry the pixel grid into itself: {group.grid_symmetries()} do"
        )
    turned = group.matrix(s)[:, 1]  # the upward direction, which the reflection leaves in place
    turns = round(math.atan2(-turned[0], turned[1]) / (math.pi / 2))
    if s >= group.rotations:
        image = image.flip(-1)
    return torch.rot90(image, turns, dims=(-2, -1))


def permute_fields(features: Tensor, group: PlanarGroup, s: int) -> Tensor:
    """Regular fields (B, C * |G|, ...) with their channels permuted by s; pixels stay.

    Raises:
        ValueError: |G| does not divide the channels.
    """
    group.fields(features.shape[1])
    index = torch.from_numpy(group.permutation(s).copy()).to(features.device)
    return features.unflatten(1, (-1, group.order)).index_select(2, index).flatten(1, 2)


def transform_fields(features: Tensor, group: PlanarGroup, s: int) -> Tensor:
    """Regular fields (B, C * |G|, H, W) moved by a grid symmetry s: ``[s f](x, h) = f(s^-1 x, s^-1 h)``.

    Raises:
        ValueError: s is no grid symmetry, or |G| does not divide the channels.
    """
    return permute_fields(transform_image(features, group, s), group, s)
