"""Differential operators ∂x^i ∂y^j, how a frame turns them, and the bases of filters that result.

In a frame A (an orthogonal matrix) the derivatives along its columns are ``d1 = a11 ∂x + a21 ∂y`` and
``d2 = a12 ∂x + a22 ∂y``. Expanding ``d1^i d2^j`` is a product of polynomials in t = ∂y / ∂x:
``(a11 + a21 t)^i (a12 + a22 t)^j``, whose coefficient of t^k belongs to ∂x^(i+j-k) ∂y^k. Each total order is closed,
so orders never mix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from .stencils import check_stencil, stencil_2d

#: The highest total order i + j of an operator.
MAX_ORDER = 4
#: The nine operators of the paper, 0 <= i, j <= 2, in the order of the official code.
PAPER_OPERATORS = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (2, 1), (1, 2), (2, 2))

Operator = tuple[int, int]


def monomials(order: int) -> list[Operator]:
    """All (i, j) with i + j = order, x first."""
    return [(order - k, k) for k in range(order + 1)]


def check_operators(operators: Sequence[Operator]) -> tuple[Operator, ...]:
    """The operators as a tuple of pairs.

    Raises:
        ValueError: there is none, one twice, or one of negative or broken order or total order above four.
    """
    pairs = tuple((i, j) for i, j in operators)
    if not pairs:
        raise ValueError("operators=(): a layer needs at least one operator ∂x^i ∂y^j")
    for i, j in pairs:
        if not all(isinstance(n, int | np.integer) for n in (i, j)) or min(i, j) < 0 or i + j > MAX_ORDER:
            raise ValueError(
                f"the operator {(i, j)}: its orders are whole numbers from 0 on, and i + j is at most {MAX_ORDER}"
            )
        if pairs.count((i, j)) > 1:
            raise ValueError(f"the operator {(i, j)} is given twice")
    return pairs


def expand_operator(frame: np.ndarray, operator: Operator) -> np.ndarray:
    """Coefficients (i + j + 1,) of ``d1^i d2^j`` in the frame, over `monomials(i + j)`.

    Args:
        frame: matrix (2, 2); its columns are the directions of d1 and d2.
        operator: (i, j).
    """
    i, j = operator
    coefficients = np.ones(1)
    for column, power in ((frame[:, 0], i), (frame[:, 1], j)):
        for _ in range(power):
            coefficients = np.convolve(coefficients, column)
    return coefficients


def order_matrix(frame: np.ndarray, order: int) -> np.ndarray:
    """How a frame acts on all derivatives of one total order: (order + 1, order + 1), one row a turned operator.

    ``order_matrix(A @ B, n) == order_matrix(B, n) @ order_matrix(A, n)``, because ``(A B)^T grad = B^T (A^T grad)``.
    """
    return np.stack([expand_operator(frame, operator) for operator in monomials(order)])


def taps_to_coefficients(operators: Sequence[Operator]) -> np.ndarray:
    """Matrix (9, n) that turns the taps of a 3x3 filter (row-major, top row first) into coefficients.

    ``beta_ij = sum_o w_o ox^i oy^j / (i! j!)`` over the nine offsets o, y up: the Taylor table. For the paper's
    operators it is the inverse of the matrix of their 3x3 finite differences, which is how the official code writes
    it.

    Raises:
        ValueError: an operator has a partial order above 2, which nine taps cannot tell from a lower one.
    """
    for i, j in operators:
        if max(i, j) > 2:
            raise ValueError(
                f"the operator {(i, j)} cannot be had from 3x3 taps: orders in x and in y run from 0 to 2;"
                " use weights='coefficients'"
            )
    offsets = [(x, y) for y in (1, 0, -1) for x in (-1, 0, 1)]
    return np.array([[x**i * y**j / (math.factorial(i) * math.factorial(j)) for i, j in operators] for x, y in offsets])


def operator_kernels(frame: np.ndarray, operators: Sequence[Operator], stencil: str, kernel_size: int) -> np.ndarray:
    """Filters (n, k, k) of the operators turned into a frame, for cross-correlation; unit grid step."""
    kernels = []
    for operator in operators:
        coefficients = expand_operator(frame, operator)
        kernels.append(np.tensordot(coefficients, _stencils(stencil, sum(operator), kernel_size), 1))
    return np.stack(kernels)


@cache
def _stencils(stencil: str, order: int, kernel_size: int) -> np.ndarray:
    """Stencils (order + 1, k, k) of `monomials(order)`."""
    return np.stack([stencil_2d(stencil, i, j, kernel_size) for i, j in monomials(order)])


def coefficient_units(operators: Sequence[Operator], stencil: str, kernel_size: int) -> np.ndarray:
    """Norms (n,) of the filters of the operators in the identity frame.

    They differ by a factor of six and more, and a step of an optimiser should not: weights of the kind
    ``"coefficients"`` are coefficients times these norms.
    """
    return np.sqrt((operator_kernels(np.eye(2), operators, stencil, kernel_size) ** 2).sum((1, 2)))


def weights_to_coefficients(
    operators: Sequence[Operator], *, stencil: str, kernel_size: int, weights: str
) -> np.ndarray:
    """Matrix (weights, n) from the weights of a layer to the coefficients of its operators.

    Args:
        operators: pairs (i, j).
        stencil, kernel_size: as `stencils.check_stencil`.
        weights: ``"taps"``: the nine taps of a 3x3 filter, as in the official code; ``"coefficients"``: one number an
            operator, in the units of `coefficient_units`.

    Raises:
        ValueError: the kind of weights is unknown, or the operators do not fit it.
    """
    if weights == "taps":
        return taps_to_coefficients(operators)
    if weights == "coefficients":
        return np.diag(1 / coefficient_units(operators, stencil, kernel_size))
    raise ValueError(f"weights={weights!r}: the choices are 'taps' and 'coefficients'")


def filter_basis(
    frames: np.ndarray,
    operators: Sequence[Operator] = PAPER_OPERATORS,
    *,
    stencil: str = "fd",
    kernel_size: int | None = None,
    weights: str = "taps",
) -> np.ndarray:
    """What each weight of a layer contributes to the filter in each frame: (frames, weights, k, k), float64.

    Args:
        frames: orthogonal matrices (frames, 2, 2).
        operators: pairs (i, j) of total order up to four.
        stencil, kernel_size: as `stencils.check_stencil`.
        weights: as `weights_to_coefficients`.

    Raises:
        ValueError: the operators do not fit the stencil or the weights, or a name is unknown.
    """
    operators = check_operators(operators)
    kernel_size = check_stencil(stencil, kernel_size, max(i + j for i, j in operators))
    to_coefficients = weights_to_coefficients(operators, stencil=stencil, kernel_size=kernel_size, weights=weights)
    kernels = np.stack([operator_kernels(frame, operators, stencil, kernel_size) for frame in frames])
    return np.einsum("wn,gnyx->gwyx", to_coefficients, kernels)
