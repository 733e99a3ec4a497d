"""F-Conv of Xie, Zhao, Xu & Meng (TPAMI 2022, arXiv:2107.14519): filters as truncated Fourier series on a disc.

On the square [-1, 1]^2 of a filter, x and y in units of its radius, the functions are
``cos(v (k x + l y)) m(x, y)`` and ``sin(v (k x + l y)) m(x, y)`` with v = pi (q - 1) / q and q wave numbers in either
direction, 0 to q - 1. Those above q / 2 are folded to k - q: so the highest is q / 2 and not q - 1, which a turned
filter could not show on the grid. A filter is turned in closed form, by evaluating its functions at turned points. With
q = k they span all filters of k x k pixels. The window m falls outside the disc.
"""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
from torch import nn

from ..registry import UserError, register_model
from .filter_basis import mnist_rot_net
from .groups import PlanarGroup

#: Where the Gram matrix of the functions has an eigenvalue below this, they are not independent.
_SMALLEST = 1e-4
#: Relative spread of a direction over the group up to which it is not damped.
_STEADY = 0.04


def wave_numbers(frequencies: int) -> np.ndarray:
    """Integers (q,), folded: 0, 1, …, q // 2, and from there negative, as those of a discrete Fourier transform.

    For even q the middle one is q / 2, not -q / 2.
    """
    k = np.arange(frequencies)
    return np.where(k > frequencies / 2, k - frequencies, k)


def fourier_functions(frames: np.ndarray, *, window: bool, kernel_size: int, frequencies: int) -> np.ndarray:
    """The different ones of the functions in each frame: (frames, r, k, k), float64; row 0 is the top, y = +1.

    Of two opposite pairs of wave numbers one is left out, as its functions are those of the other but for a sign, and
    the other counts twice: its functions are multiplied by sqrt(2). The sine of zero is left out. Then r = q^2 for odd
    q and (q + 1)^2 - 2 for even q.

    Args:
        frames: orthogonal matrices (frames, 2, 2). In the frame A the function b is b(A^-1 x).
        window: whether the functions fall outside the disc, by exp(-(r^2 - 1) / 0.2), or / 2 in filters up to 4 pixels.
        kernel_size: k.
        frequencies: q, wave numbers in each direction.
    """
    axis = np.linspace(-1, 1, kernel_size)
    # As if y pointed down: which of the two middle frequencies of an even q is kept depends on it.
    points = np.stack(np.meshgrid(axis, -axis), -1) @ frames[:, None]  # (A^T x)^T = x^T A
    x, y = points[..., 0], -points[..., 1]
    outside = np.maximum(x**2 + y**2 - 1, 0) if window else np.zeros_like(x)
    fall = np.exp(-outside / (0.2 if kernel_size > 4 else 2))
    found: dict[tuple[int, int], list[np.ndarray]] = {}
    pairs = list(itertools.product(wave_numbers(frequencies).tolist(), repeat=2))
    for k, l in pairs:
        if (-k, -l) not in found:
            phase = math.pi * (frequencies - 1) / frequencies * (k * x + l * y)
            times = fall * (math.sqrt(2) if (-k, -l) in pairs and (k, l) != (0, 0) else 1)
            found[k, l] = [np.cos(phase) * times] + [np.sin(phase) * times] * ((k, l) != (0, 0))
    return np.stack([function for pair in found.values() for function in pair], 1)


def fourier_basis(frames: np.ndarray, *, rotations: int, kernel_size: int, frequencies: int) -> np.ndarray:
    """The functions, made orthonormal and damped, in each frame: (frames, r, k, k), float64.

    They are vectors over all pixels and all elements of C_N; their principal directions are made orthonormal.
    Directions that depend on the orientation, which the grid does not resolve, are damped: by 0.04 over their relative
    spread, where that is larger. The spread is the standard deviation over the group of a direction's squared sum of
    pixels, plus that of k² times its energy, over the mean of both. Over C4, which needs no interpolation, there are
    neither window nor damping. Principal directions are not unique where several have the same size. So the basis is
    not they themselves but the sums of them that lie nearest to the functions: a saved weight means the same filter on
    every machine, and independent weights of equal variance make the same random filters. The mean square of the norms
    is 1, over functions and group.

    Args:
        frames: orthogonal matrices (frames, 2, 2), in the group or not.
        rotations: N of the group.
        kernel_size: k, at least 2.
        frequencies: q, 1 to k.

    Raises:
        UserError: k or q is none of these, or the pixels cannot tell the functions apart.
    """
    if kernel_size < 2 or not 1 <= frequencies <= kernel_size:
        raise UserError(
            f"{frequencies} frequencies on {kernel_size} pixels: filters have 2 pixels or more, and 1 to as many"
            " frequencies"
        )
    functions = partial(fourier_functions, window=rotations != 4, kernel_size=kernel_size, frequencies=frequencies)
    of_group = functions(PlanarGroup(rotations).frames())
    values, vectors = np.linalg.eigh(np.einsum("gayx,gbyx->ab", of_group, of_group))
    if values[0] < _SMALLEST:
        raise UserError(
            f"{frequencies} frequencies on {kernel_size} pixels over C{rotations}: these pixels cannot tell the"
            " functions"
            " apart; take an odd number of frequencies, or fewer"
        )
    white = vectors / np.sqrt(values)
    directions = np.einsum("ar,gayx->gryx", white, of_group)
    sums, energy = directions.sum((-2, -1)) ** 2, kernel_size**2 * (directions**2).sum((-2, -1))
    spread = (sums.std(0) + energy.std(0)) / (sums + energy).mean(0)
    damping = _STEADY / np.maximum(spread, _STEADY)
    nearest = (white * damping) @ vectors.T * math.sqrt(rotations / (damping**2).mean())
    return np.einsum("ar,gayx->gryx", nearest, functions(frames))


@register_model(
    "f-conv-p8-q{frequencies}-k{size}-w{width}",
    group="C8",
    invariant="C4",
    family="f-conv",
    source="arXiv:2107.14519",
    note="own code; the authors' networks for MNIST-rot are wider, with a 7x7 filter first and dropout",
    members={
        "f-conv-p8": {"args": {"frequencies": 5, "size": 5, "width": 5}, "params": {"1x28x28->10": 25_245}},
    },
)
def f_conv(
    in_channels: int, num_classes: int, image_size: int, *, frequencies: int, size: int, width: int
) -> nn.Module:
    """F-Conv over eight rotations for MNIST-rot: filters are Fourier series of `frequencies` wave numbers a direction.

    As published: functions, folding, window, number of weights, layers. Ours: depth and geometry, those of P4CNN;
    widths; the head; He initialisation, where the authors' code for MNIST damps the initial weights a second time.

    Args:
        frequencies: q, 1 to `size`.
        size: width of the filters in pixels, odd, 3 or more.
        width: fields of all six layers.

    Raises:
        UserError: any of these cannot be built.
    """
    if width < 1 or size < 3 or size % 2 == 0:
        raise UserError(
            f"size {size}, width {width}: these networks have filters of 3, 5, … pixels and one field at least"
        )
    basis = partial(fourier_basis, rotations=8, kernel_size=size, frequencies=frequencies)
    return mnist_rot_net(in_channels, num_classes, image_size, group="C8", basis=basis, widths=(width,) * 6)
