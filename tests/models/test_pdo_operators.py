"""Operators in turned frames, against evaluations that do not expand anything."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from equibench.models.groups import PlanarGroup, rotation
from equibench.models.pdo.operators import (
    PAPER_OPERATORS,
    check_operators,
    coefficient_units,
    expand_operator,
    filter_basis,
    monomials,
    operator_kernels,
    order_matrix,
    taps_to_coefficients,
)
from equibench.models.pdo.stencils import DEFAULT_WIDTHS, stencil_2d
from hypothesis import given
from hypothesis import strategies as st

ANGLES = st.floats(-7, 7)
ALL = [op for n in range(5) for op in monomials(n)]


def frame_of(angle: float, mirrored: bool) -> np.ndarray:
    return rotation(angle) @ np.diag([1.0, -1.0 if mirrored else 1.0])


@given(ANGLES, st.booleans(), st.sampled_from(ALL), st.floats(-2, 2), st.floats(-2, 2))
def test_the_expansion_is_the_symbol_of_the_turned_derivatives(
    angle: float, mirrored: bool, operator: tuple[int, int], u: float, v: float
) -> None:
    """Derivatives act on exp(u x + v y) as numbers: ∂x as u, ∂y as v, d1 and d2 as A^T (u, v)."""
    (i, j), frame = operator, frame_of(angle, mirrored)
    d1, d2 = frame.T @ [u, v]
    terms = zip(expand_operator(frame, operator), monomials(i + j), strict=True)
    assert sum(c * u**a * v**b for c, (a, b) in terms) == pytest.approx(d1**i * d2**j, abs=1e-12)


@given(ANGLES, st.sampled_from(ALL))
def test_the_published_matrix_for_rotations(angle: float, operator: tuple[int, int]) -> None:
    """The closed formula with binomials, a11 = a22 = cos, a21 = -a12 = sin."""
    (i, j), c, s = operator, math.cos(angle), math.sin(angle)
    wanted = np.zeros(i + j + 1)
    for p, q in itertools.product(range(i + 1), range(j + 1)):
        wanted[p + q] += math.comb(i, p) * math.comb(j, q) * c ** (i - p) * s**p * (-s) ** (j - q) * c**q
    assert np.abs(expand_operator(rotation(angle), operator) - wanted).max() < 1e-13


@given(ANGLES, ANGLES, st.booleans(), st.booleans(), st.integers(0, 4))
def test_each_order_is_a_representation(a: float, b: float, m: bool, n: bool, order: int) -> None:
    """(A B)^T grad = B^T (A^T grad), so that the matrices multiply in the other order; the identity is the identity."""
    first, second = frame_of(a, m), frame_of(b, n)
    product = order_matrix(second, order) @ order_matrix(first, order)
    assert np.abs(order_matrix(first @ second, order) - product).max() < 1e-13
    assert np.array_equal(order_matrix(np.eye(2), order), np.eye(order + 1))


@pytest.mark.parametrize("name", ["p4", "p5", "p6m", "p8m", "p12"])
def test_orders_up_to_two_represent_the_group(name: str) -> None:
    group = PlanarGroup.parse(name)
    for order, g, h in itertools.product(range(3), group.elements, group.elements):
        # Row vectors of coefficients: transposed, the matrices multiply as the elements do.
        one, two, both = (order_matrix(group.matrix(e), order).T for e in (g, h, group.product(g, h)))
        assert np.abs(one @ two - both).max() < 1e-13


def test_taps_are_the_inverse_of_the_finite_differences() -> None:
    """The official code inverts the matrix T whose rows are the nine 3x3 stencils; ours is the Taylor table."""
    matrix = np.stack([stencil_2d("fd", i, j, 3).ravel() for i, j in PAPER_OPERATORS])
    assert abs(np.linalg.det(matrix)) == pytest.approx(1)
    assert np.abs(taps_to_coefficients(PAPER_OPERATORS) - np.linalg.inv(matrix)).max() < 1e-13


def test_taps_in_the_identity_frame_are_the_filter_itself() -> None:
    basis = filter_basis(np.eye(2)[None])[0]
    for tap in range(9):
        wanted = np.zeros((5, 5))
        wanted[1 + tap // 3, 1 + tap % 3] = 1
        assert np.abs(basis[tap] - wanted).max() < 1e-13


def test_gains_at_the_angles_of_the_paper() -> None:
    """Mean energy of a turned filter of random taps: 1 at 0°, 1.352 at 22.5°, 2.174 at 45°; C8 at pi/8 has one."""

    def gains(offset: float) -> np.ndarray:
        return (filter_basis(PlanarGroup(8).frames(offset)) ** 2).sum((1, 2, 3)) / 9

    assert gains(math.pi / 8) == pytest.approx([1.352] * 8, abs=5e-4)
    assert gains(0) == pytest.approx([1, 2.174] * 4, abs=5e-4)


@given(ANGLES, st.booleans(), st.sampled_from(sorted(DEFAULT_WIDTHS)), st.sampled_from(PAPER_OPERATORS))
def test_turned_operators_differentiate_polynomials_exactly(
    angle: float, mirrored: bool, stencil: str, operator: tuple[int, int]
) -> None:
    """On (A^T x)_1^i (A^T x)_2^j / (i! j!), of the operator's own order, the filter gives 1 at the origin: moments."""
    (i, j), frame, width = operator, frame_of(angle, mirrored), DEFAULT_WIDTHS[stencil]
    kernel = operator_kernels(frame, [operator], stencil, width)[0]
    steps = np.arange(width) - width // 2
    x, y = np.meshgrid(steps, -steps)
    first, second = frame[0, 0] * x + frame[1, 0] * y, frame[0, 1] * x + frame[1, 1] * y
    for a, b in ALL:
        value = (kernel * first**a * second**b).sum() / (math.factorial(a) * math.factorial(b))
        if a + b <= i + j:
            assert value == pytest.approx(float((a, b) == (i, j)), abs=1e-10)


def test_weights_by_coefficients_have_filters_of_one_size() -> None:
    for stencil, width in DEFAULT_WIDTHS.items():
        basis = filter_basis(np.eye(2)[None], stencil=stencil, weights="coefficients")[0]
        assert (basis**2).sum((1, 2)) == pytest.approx(np.ones(9))
        units = coefficient_units(PAPER_OPERATORS, stencil, width)
        plain = operator_kernels(np.eye(2), PAPER_OPERATORS, stencil, width)
        assert np.abs(basis * units[:, None, None] - plain).max() < 1e-12


@pytest.mark.parametrize(
    ("operators", "message"),
    [
        ([], "at least one operator"),
        ([(0, 5)], r"\(0, 5\).*at most 4"),
        ([(3, 2)], r"\(3, 2\).*at most 4"),
        ([(-1, 0)], r"\(-1, 0\).*from 0 on"),
        ([(0.5, 0)], r"\(0.5, 0\).*whole numbers"),
        ([(1, 0), (1, 0)], r"\(1, 0\) is given twice"),
    ],
)
def test_bad_operators(operators: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_operators(operators)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "tap"}, "weights='tap': the choices are 'taps' and 'coefficients'"),
        ({"operators": [(3, 0)]}, r"\(3, 0\) cannot be had from 3x3 taps.*weights='coefficients'"),
        ({"kernel_size": 3}, "order 4 do not fit a 'fd' stencil 3 pixels wide: it carries orders up to 2"),
        ({"kernel_size": 4}, "4 pixels wide.*odd"),
        ({"stencil": "sobel"}, "stencil 'sobel'"),
    ],
)
def test_bad_bases(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        filter_basis(np.eye(2)[None], **{"operators": PAPER_OPERATORS, **options})
