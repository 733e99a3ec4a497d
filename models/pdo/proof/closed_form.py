"""Equivariance errors of PDO layers without interpolation: closed-form inputs, sampled around moved points.

The input moved by an orthogonal Q is sampled exactly: ``[Q f](x) = f(Q^-1 x)``. What a network makes of ``Q f`` at a
point x in the frames A must equal what it makes of f at ``Q^-1 x`` in the frames ``Q^-1 A``. Around both points an
axis-aligned patch of samples is cut and run through unpadded layers, so that one value an orientation is left. For Q
in the group the turned frames are a permutation of the frames, and the statement is the equivariance of the layer;
off the group it is that of the continuous operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers import PDOConv

#: A function of the plane: (…, 2) -> (…).
Image = Callable[[np.ndarray], np.ndarray]
#: A function of the plane and of frames, ``(…, 2), (n, 2, 2) -> (n, …)``.
Field = Callable[[np.ndarray, np.ndarray], np.ndarray]


def disc_points(generator: np.random.Generator, count: int, radius: float) -> np.ndarray:
    """Points (count, 2) spread evenly over a disc about the origin."""
    angle, distance = generator.uniform(0, 2 * math.pi, count), radius * np.sqrt(generator.uniform(0, 1, count))
    return np.stack([distance * np.cos(angle), distance * np.sin(angle)], -1)


def waves(generator: np.random.Generator, turning: bool = False) -> Field:
    """A sum of six Gaussian-windowed cosines on the scale of the unit disc, as a function of points and frames A.

    With `turning` the phase of each depends on the directions of both columns of A; otherwise it is the same for all
    frames, and the function is an image.
    """
    centres = generator.uniform(-0.5, 0.5, (6, 2))
    widths = generator.uniform(0.25, 0.45, 6)
    vectors = generator.normal(0, 5, (6, 2))
    phases = generator.uniform(0, 2 * math.pi, 6)
    turns = generator.normal(0, 1, (6, 2, 2)) * turning

    def value(points: np.ndarray, frames: np.ndarray) -> np.ndarray:
        away = points[..., None, :] - centres
        window = np.exp(-0.5 * (away**2).sum(-1) / widths**2)
        angle = (away * vectors).sum(-1)
        phase = phases + (turns * frames[:, None]).sum((2, 3))
        # cos(angle + phase), taken apart so that the plane is visited once for all frames
        even, odd = window * np.cos(angle), window * np.sin(angle)
        return np.tensordot(np.cos(phase), even, (1, -1)) - np.tensordot(np.sin(phase), odd, (1, -1))

    return value


def blobs(generator: np.random.Generator, size: float = 28.0) -> Image:
    """Twelve signed Gaussian blobs of 1 to 1.5 pixels, centres within 0.28 of the size of the middle; pixel units."""
    centres = disc_points(generator, 12, 0.28 * size)
    widths, signs = generator.uniform(1, 1.5, 12), generator.choice([-1.0, 1.0], 12)

    def value(points: np.ndarray) -> np.ndarray:
        away = ((points[..., None, :] - centres) ** 2).sum(-1)
        return (signs * np.exp(-0.5 * away / widths**2)).sum(-1)

    return value


def patch_points(centres: np.ndarray, radius: int, pitch: float) -> np.ndarray:
    """Sample points (n, k, k, 2) of axis-aligned patches, k = 2 radius + 1, row 0 at the top."""
    steps = pitch * np.arange(-radius, radius + 1)
    grid = np.stack(np.meshgrid(steps, -steps), -1)
    return centres[:, None, None, :] + grid


def run_unpadded(layers: Sequence[PDOConv], patches: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """The layers one after another without padding: (n, channels, k, k) -> (n, fields, |G|) at the middle."""
    for index, layer in enumerate(layers):
        patches = F.conv2d(activation(patches) if index else patches, layer.expanded())
    middle = patches[:, :, patches.shape[-2] // 2, patches.shape[-1] // 2]
    return middle.unflatten(1, (-1, layers[-1].group.order))


def turn_error(
    layers: Sequence[PDOConv],
    samples: Callable[[np.ndarray], np.ndarray],
    transform: np.ndarray,
    centres: np.ndarray,
    pitch: float,
    activation: Callable[[Tensor], Tensor] = torch.tanh,
) -> float:
    """Relative equivariance error of unpadded layers under an orthogonal Q.

    Args:
        layers: PDO layers, all in float64 or, where the error is far above 1e-6, in float32.
        samples: the input of the first layer as a closed form, points (…, 2) -> (channels, …). Where it is a field
            over the group, its channels are the frames ``Q^-1 A`` of the turned layer, see `field_samples`.
        transform: Q (2, 2).
        centres: test points (n, 2).
        pitch: grid step.
        activation: between the layers.

    Returns:
        Root mean square of the difference over the standard deviation of the features.
    """
    radius = sum(layer.kernel_size // 2 for layer in layers)
    # Row vectors: a point times Q is Q^-1 of it.
    moved, fixed = (
        torch.from_numpy(samples(points)).movedim(0, 1).to(layers[0].weight.dtype)
        for points in (
            patch_points(centres, radius, pitch) @ transform,
            patch_points(centres @ transform, radius, pitch),
        )
    )
    with torch.no_grad():
        left = run_unpadded(layers, moved, activation).double()
        right = run_unpadded([layer.turned(transform) for layer in layers], fixed, activation).double()
    return float((left - right).norm() / (left - left.mean(0)).norm())


def image_samples(image: Image) -> Callable[[np.ndarray], np.ndarray]:
    """An image as the input of a lifting layer."""
    return lambda points: image(points)[None]


def field_samples(
    fields: Sequence[Field], frames: np.ndarray, transform: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Fields over frames as the input of a group layer: ``[Q e](x, A) = e(Q^-1 x, Q^-1 A)``, at ``Q^-1 A``."""
    turned = np.asarray(transform).T @ frames
    return lambda points: np.concatenate([field(points, turned) for field in fields])
