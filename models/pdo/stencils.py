"""Stencils that approximate partial derivatives on the pixel grid, computed from their moment conditions.

A 1-D stencil s of order n on the offsets o = -r..r approximates the n-th derivative by ``sum_o s_o f(x + o h) / h^n``.
Its moments ``m_k = sum_o s_o o^k`` decide what it computes: Taylor's theorem gives
``sum_k m_k / k! h^(k-n) f^(k)(x)``, so it is consistent when ``m_k = 0`` for k < n and ``m_n = n!``, and second order
accurate when ``m_(n+1) = 0`` as well. In two dimensions the stencil of ∂x^i ∂y^j is an outer product.

Three families, all antisymmetric or symmetric about the middle:

* ``fd``: the narrowest stencil, ``2 ceil(n / 2) + 1`` offsets wide. These are the finite differences of the PDO-eConv
  paper and its official code. Error h^2.
* ``gauss``: a Gaussian window of 0.8 pixels times the polynomial of degree n that fulfils the conditions, i.e. the
  sampled Gaussian derivative with its moments put right. Error h^2 with a constant three to four times smaller, and
  no amplification of high frequencies. (A sampled Gaussian derivative as such is not even consistent.)
* ``gauss7``: the same on 7 offsets with two more conditions, ``m_(n+1) = 0`` and ``m_(n+2) = (n+2)! sigma^2 / 2``. The
  leading error is then D(1 + sigma^2 Laplacian / 2), which no rotation changes: the equivariance error is of order h^4.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

#: Width of the Gaussian window in pixels; the best of 0.6 ... 1.0 for the equivariance error over a 1/f^2 spectrum.
SIGMA = 0.8
#: Names of the families and their usual widths.
DEFAULT_WIDTHS = {"fd": 5, "gauss": 5, "gauss7": 7}


def check_stencil(stencil: str, width: int | None, order: int) -> int:
    """The width to use.

    Args:
        stencil: ``"fd"``, ``"gauss"`` or ``"gauss7"``.
        width: offsets in each direction, odd; None for the usual width of the family.
        order: highest derivative in one direction.

    Raises:
        ValueError: the family is unknown, or the width is even or too small for the order.
    """
    if stencil not in DEFAULT_WIDTHS:
        raise ValueError(f"stencil {stencil!r}: the choices are {', '.join(map(repr, DEFAULT_WIDTHS))}")
    width = DEFAULT_WIDTHS[stencil] if width is None else width
    if width < 1 or width % 2 == 0:
        raise ValueError(f"a stencil {width} pixels wide has no middle: the kernel size must be odd and positive")
    highest = width - 1 - (2 if stencil == "gauss7" else 0)
    if order > highest:
        raise ValueError(
            f"derivatives of order {order} do not fit a {stencil!r} stencil {width} pixels wide:"
            + (f" it carries orders up to {highest}" if highest >= 0 else " it carries none")
        )
    return width


@cache
def stencil_1d(stencil: str, order: int, width: int) -> np.ndarray:
    """Weights (width,) of the derivative of this order, offset -r first; unit grid step. Read-only.

    Raises:
        ValueError: as `check_stencil`.
    """
    check_stencil(stencil, width, order)
    radius = width // 2
    if stencil == "fd":
        reach = (order + 1) // 2
        narrow = _solve(np.ones(2 * reach + 1), order, [])
        weights = np.pad(narrow, radius - reach)
    else:
        offsets = np.arange(-radius, radius + 1)
        window = np.exp(-0.5 * (offsets / SIGMA) ** 2)
        further = [0.0, math.factorial(order + 2) * SIGMA**2 / 2] if stencil == "gauss7" else []
        weights = _solve(window / window.sum(), order, further)
    weights.setflags(write=False)
    return weights


def _solve(window: np.ndarray, order: int, further: list[float]) -> np.ndarray:
    """Window times the polynomial whose moments are 0, ..., 0, order!, and then `further`.

    Without a window (all ones) the polynomial has as many coefficients as there are offsets, and the further
    moments that the offsets leave free are zero.
    """
    radius = len(window) // 2
    offsets = np.arange(-radius, radius + 1, dtype=np.float64)
    wanted = [0.0] * order + [float(math.factorial(order)), *further]
    if np.all(window == 1):
        wanted += [0.0] * (len(window) - len(wanted))
    powers = offsets ** np.arange(len(wanted))[:, None]
    if len(wanted) == len(window):  # as many conditions as offsets leave no choice of a window
        weights = np.linalg.solve(powers, wanted)
    else:
        weights = window * (np.linalg.solve((powers * window) @ powers.T, wanted) @ powers)
    # Exactly (anti)symmetric, as the solution is in exact arithmetic: flips must not leave a rounding error.
    return (weights + (-1) ** order * weights[::-1]) / 2


def stencil_2d(stencil: str, order_x: int, order_y: int, width: int) -> np.ndarray:
    """Weights (width, width) of ∂x^order_x ∂y^order_y for a cross-correlation; row 0 is the top, y = +r.

    Raises:
        ValueError: as `check_stencil`.
    """
    return np.outer(stencil_1d(stencil, order_y, width)[::-1], stencil_1d(stencil, order_x, width))
