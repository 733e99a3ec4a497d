"""Steerable kernels of Weiler & Cesa (NeurIPS 2019, arXiv:1911.08251) on regular fields: rings times angular waves.

Between regular fields of C_N the space of equivariant kernels is: one free function of the plane for every relative
element g^-1 h, turned by g. escnn spans it by Gaussian rings exp(-(|x| - R)^2 / (2 σ^2)) times cos(m φ) and sin(m φ),
with its own table of radii R, widths σ and highest frequencies m. This file evaluates the same functions at turned
pixels, so that the layers, and the network, are those of `steerable_pdo` and `f_conv`. Then only the filters differ.
A test compares the spans with the kernels that escnn samples.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from torch import nn

from ..registry import UserError, register_model
from .filter_basis import mnist_rot_net
from .groups import PlanarGroup


def rings(kernel_size: int) -> list[tuple[float, float, int]]:
    """Radius and standard deviation in pixels, and highest angular frequency, of escnn's rings for k x k pixels.

    Args:
        kernel_size: k, odd and 3 or more.

    Raises:
        UserError: k is not.
    """
    if kernel_size < 3 or kernel_size % 2 == 0:
        raise UserError(f"kernel_size={kernel_size}: these kernels have 3, 5, 7, … pixels")
    last = kernel_size // 2
    inner = [(float(r), 0.6, 2 * r - (r + 1) % 2) for r in range(1, last)]
    return [(0.0, 0.005, 0), *inner, (float(last), 0.4, 2)]


def kernel_functions(frames: np.ndarray, kernel_size: int) -> np.ndarray:
    """The functions in each frame at the pixels of a kernel: (frames, r, k, k), float64; see `filter_basis.Basis`.

    r is the sum of 2 m + 1 over the rings with highest frequency m. At the origin, where φ is undefined, functions
    with m > 0 are 0.
    """
    axis = np.arange(kernel_size, dtype=np.float64) - kernel_size // 2
    points = np.stack(np.meshgrid(axis, -axis), -1) @ frames[:, None]  # rows times A: A^-1 x of an orthogonal A
    x, y = points[..., 0], points[..., 1]
    radius = np.hypot(x, y)
    wave = np.divide(x + 1j * y, radius, out=np.zeros(x.shape, complex), where=radius > 0)
    functions = []
    for middle, sigma, highest in rings(kernel_size):
        ring = np.exp(-((radius - middle) ** 2) / (2 * sigma**2))
        functions.append(ring)
        for frequency in range(1, highest + 1):
            functions += [ring * (wave**frequency).real, ring * (wave**frequency).imag]
    return np.stack(functions, 1)


def kernel_basis(frames: np.ndarray, *, rotations: int, kernel_size: int) -> np.ndarray:
    """`kernel_functions`, each divided by its norm, the root mean square over the group C_N.

    Args:
        frames: orthogonal matrices (frames, 2, 2), in the group or not.
        rotations: N of the group.
        kernel_size: k, odd and 3 or more.

    Raises:
        UserError: k is not.
    """
    of_group = kernel_functions(PlanarGroup(rotations).frames(), kernel_size)
    return kernel_functions(frames, kernel_size) / np.sqrt((of_group**2).sum((-2, -1)).mean(0))[:, None, None]


@register_model(
    "steerable-kernel-c8-k{size}-w{width}",
    group="C8",
    invariant="C4",
    family="e2cnn",
    source="arXiv:1911.08251",
    note="the network of the steerable PDOs with the kernels of escnn; e2cnn-c8-25k has other geometry and widths",
    members={
        "steerable-kernel-c8": {
            "args": {"size": 5, "widths": (7, 7, 7, 8, 8, 8)},
            "params": {"1x28x28->10": 25_073},
        },
    },
)
def steerable_kernel(
    in_channels: int,
    num_classes: int,
    image_size: int,
    *,
    size: int,
    width: int = 8,
    widths: tuple[int, ...] | None = None,
) -> nn.Module:
    """Steerable kernels on regular fields of C8 for MNIST-rot, to compare kernels with differential operators.

    As published: the kernels between regular fields with escnn's rings and frequencies. Ours: depth and geometry, those
    of P4CNN; widths; the head; He initialisation; norms by function.

    Args:
        size: width of the kernels in pixels, odd, 3 or more.
        width: fields of all six layers; `widths`: of each.

    Raises:
        UserError: any of these cannot be built.
    """
    if width < 1:
        raise UserError(f"width {width}: these networks have one field at least")
    basis = partial(kernel_basis, rotations=8, kernel_size=size)
    return mnist_rot_net(in_channels, num_classes, image_size, group="C8", basis=basis, widths=widths or (width,) * 6)
