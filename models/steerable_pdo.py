"""Steerable PDOs of Jenner & Weiler (ICLR 2022, arXiv:2106.10163) on regular fields: all operators up to an order.

Between regular fields of C_N the space of equivariant differential operators is: one free polynomial in ∂x, ∂y of total
order up to M for every relative element g^-1 h, its derivatives turned by g. That set is closed under every rotation,
where the operators of PDO-eConv, order up to 2 in each direction, are not. Each operator is discretised by

* ``fd``: finite differences, outer products of the 1-D stencils that are exact up to degree k - 1;
* ``rbf``: RBF-FD, the derivative of the interpolation by Gaussians exp(-r^2), r in pixels, and by all polynomials up to
  the order of the operator; exact on these polynomials;
* ``gauss``: the derivative of a Gaussian, sampled. Its standard deviation is s^2 / sqrt(2) pixels with the s of the
  authors' settings, 1 for 3x3 and 1.3 for 5x5: their library takes s for another quantity than its documentation says.

Each operator is then divided by the norm of its stencil, root mean square over the group.
"""

from __future__ import annotations

import math
from functools import cache, partial

import numpy as np
from numpy.polynomial.hermite import hermval
from torch import nn

from ..registry import UserError, register_model
from .filter_basis import mnist_rot_net
from .groups import PlanarGroup
from .pdo.operators import MAX_ORDER, monomials, order_matrix

DISCRETISATIONS = ("fd", "rbf", "gauss")
#: Standard deviations of the Gaussians in pixels, by the width of the stencil.
SIGMAS = {3: 1 / math.sqrt(2), 5: 1.3**2 / math.sqrt(2)}


def _gaussian(order: int, offsets: np.ndarray, sigma: float) -> np.ndarray:
    """(-1)^n times the n-th derivative of exp(-x^2 / (2 sigma^2)): its cross-correlation estimates the derivative."""
    scaled = offsets / (sigma * math.sqrt(2))
    return hermval(scaled, [0.0] * order + [1.0]) * np.exp(-(scaled**2)) / (sigma * math.sqrt(2)) ** order


def _finite_difference(order: int, offsets: np.ndarray) -> np.ndarray:
    wanted = np.zeros(len(offsets))
    wanted[order] = math.factorial(order)
    return np.linalg.solve(offsets ** np.arange(len(offsets))[:, None], wanted)


def _rbf(i: int, j: int, offsets: np.ndarray) -> np.ndarray:
    """Weights (k, k), x along the first axis, of the derivative of the interpolant at the middle."""
    x, y = (axis.ravel() for axis in np.meshgrid(offsets, offsets, indexing="ij"))
    radial = np.exp(-((x[:, None] - x) ** 2) - (y[:, None] - y) ** 2)
    powers = [power for total in range(i + j + 1) for power in monomials(total)]
    polynomials = np.stack([x**a * y**b for a, b in powers], 1)
    system = np.block([[radial, polynomials], [polynomials.T, np.zeros((len(powers), len(powers)))]])
    sigma = 1 / math.sqrt(2)  # exp(-r^2)
    derivative = _gaussian(i, x, sigma) * _gaussian(j, y, sigma)  # of exp(-|z - p|^2) by z, at z = 0
    of_polynomials = [math.factorial(i) * math.factorial(j) * ((a, b) == (i, j)) for a, b in powers]
    weights = np.linalg.solve(system, np.concatenate([derivative, of_polynomials]))[: len(x)]
    return weights.reshape(len(offsets), -1)


@cache
def stencil(discretisation: str, i: int, j: int, kernel_size: int) -> np.ndarray:
    """Weights (k, k) of ∂x^i ∂y^j for a cross-correlation; row 0 is the top, y = +k // 2; unit grid step. Read-only.

    Args:
        discretisation: one of `DISCRETISATIONS`.
        kernel_size: k, odd and above i + j.

    Raises:
        UserError: the discretisation is unknown, or the stencil cannot carry the operator.
    """
    if discretisation not in DISCRETISATIONS:
        raise UserError(f"discretisation {discretisation!r}: the choices are {', '.join(map(repr, DISCRETISATIONS))}")
    if discretisation == "gauss" and kernel_size not in SIGMAS:
        raise UserError(f"kernel_size={kernel_size}: Gaussian derivatives are known for 3 and 5 pixels")
    if kernel_size % 2 == 0 or kernel_size <= i + j:
        raise UserError(
            f"kernel_size={kernel_size}: operators of order {i + j} need an odd stencil wider than their order"
        )
    offsets = np.arange(kernel_size, dtype=np.float64) - kernel_size // 2
    if discretisation == "rbf":
        weights = _rbf(i, j, offsets) if i >= j else _rbf(j, i, offsets).T
    else:
        one_d = _finite_difference if discretisation == "fd" else partial(_gaussian, sigma=SIGMAS[kernel_size])
        weights = np.outer(one_d(i, offsets), one_d(j, offsets))
    # Exactly even or odd, as in exact arithmetic: flips must not leave a rounding error.
    weights = (weights + (-1) ** i * weights[::-1]) / 2
    weights = (weights + (-1) ** j * weights[:, ::-1]) / 2
    weights = np.ascontiguousarray(weights.T[::-1])
    weights.setflags(write=False)
    return weights


def operator_basis(
    frames: np.ndarray, *, rotations: int, order: int, discretisation: str, kernel_size: int
) -> np.ndarray:
    """All operators of total order 0 to `order` in each frame: (frames, (order + 1) (order + 2) / 2, k, k), float64.

    Args:
        frames: orthogonal matrices (frames, 2, 2), in the group or not.
        rotations: N of the group C_N over which the norms are taken.
        order: M, the highest total order, 0 to 4.
        discretisation, kernel_size: as `stencil`.

    Raises:
        UserError: the order or the stencil is none of these.
    """
    if not 0 <= order <= MAX_ORDER:
        raise UserError(f"order {order}: the operators have a total order of 0 to {MAX_ORDER}")
    parts = []
    for total in range(order + 1):
        plain = np.stack([stencil(discretisation, i, j, kernel_size) for i, j in monomials(total)])
        turned, of_group = (
            np.stack([np.tensordot(order_matrix(a, total), plain, 1) for a in some])
            for some in (frames, PlanarGroup(rotations).frames())
        )
        parts.append(turned / np.sqrt((of_group**2).sum((-2, -1)).mean(0))[:, None, None])
    return np.concatenate(parts, 1)


@register_model(
    "steerable-pdo-c8-o{order}-{discretisation}-k{size}-w{width}",
    group="C8",
    invariant="C4",
    family="steerable-pdo",
    source="arXiv:2106.10163",
    note="regular fields and all operators up to an order; the fields of its authors' networks are wider",
    members={
        "steerable-pdo-c8-2-gauss": {
            "args": {"order": 2, "discretisation": "gauss", "size": 3, "widths": (10, 10, 10, 10, 11, 11)},
            "params": {"1x28x28->10": 25_792},
        },
        "steerable-pdo-c8-3-gauss": {
            "args": {"order": 3, "discretisation": "gauss", "size": 5, "width": 8},
            "params": {"1x28x28->10": 25_866},
        },
        "steerable-pdo-c8-3-fd": {
            "args": {"order": 3, "discretisation": "fd", "size": 5, "width": 8},
            "params": {"1x28x28->10": 25_866},
        },
        "steerable-pdo-c8-3-rbf": {
            "args": {"order": 3, "discretisation": "rbf", "size": 5, "width": 8},
            "params": {"1x28x28->10": 25_866},
        },
        "steerable-pdo-c8-4-gauss": {
            "args": {"order": 4, "discretisation": "gauss", "size": 5, "widths": (6, 6, 6, 7, 7, 7)},
            "params": {"1x28x28->10": 25_688},
        },
    },
)
def steerable_pdo(
    in_channels: int,
    num_classes: int,
    image_size: int,
    *,
    order: int,
    discretisation: str,
    size: int,
    width: int = 8,
    widths: tuple[int, ...] | None = None,
) -> nn.Module:
    """Steerable PDOs on regular fields of C8 for MNIST-rot: all differential operators of total order up to `order`.

    As published: the operators between regular fields, their discretisations, norms by operator, stencils of 3x3 up to
    order 2 and of 5x5 above. Ours: depth and geometry, those of P4CNN; widths; the head; He initialisation; all
    frequencies, where the experiments of the paper drop aliased ones (`maximum_offset` 0).

    Args:
        order: highest total order, 0 to 4.
        discretisation: ``fd``, ``rbf`` or ``gauss``.
        size: width of the stencils in pixels, odd and above the order; 3 or 5 for ``gauss``.
        width: fields of all six layers; `widths`: of each.

    Raises:
        UserError: any of these cannot be built.
    """
    if width < 1 or size < 3:
        raise UserError(f"size {size}, width {width}: these networks have stencils of 3 pixels and one field at least")
    basis = partial(operator_basis, rotations=8, order=order, discretisation=discretisation, kernel_size=size)
    return mnist_rot_net(in_channels, num_classes, image_size, group="C8", basis=basis, widths=widths or (width,) * 6)
