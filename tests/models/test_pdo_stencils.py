"""Stencils: their moments, the published finite differences, and the order of accuracy as measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
from equibench.models.pdo.stencils import DEFAULT_WIDTHS, SIGMA, check_stencil, stencil_1d, stencil_2d
from hypothesis import given
from hypothesis import strategies as st

ORDERS = [(s, n) for s in DEFAULT_WIDTHS for n in range(5)]
PAIRS = [(i, j) for i in range(5) for j in range(5 - i)]


def moments(weights: np.ndarray, highest: int) -> np.ndarray:
    offsets = np.arange(len(weights)) - len(weights) // 2
    return np.array([(weights * offsets**k).sum() for k in range(highest + 1)])


@pytest.mark.parametrize(("stencil", "order"), ORDERS)
def test_moments(stencil: str, order: int) -> None:
    """Consistent: lower moments vanish, the own is n!; no error of first order: the next vanishes."""
    found = moments(stencil_1d(stencil, order, DEFAULT_WIDTHS[stencil]), order + 2)
    wanted = [0.0] * order + [math.factorial(order), 0.0]
    assert np.abs(found[: order + 2] - wanted).max() < 1e-12
    if stencil == "gauss7":  # the leading error is the same for all orders, as for a Gaussian blur
        assert found[order + 2] == pytest.approx(math.factorial(order + 2) * SIGMA**2 / 2)


def test_gauss7_has_the_leading_error_of_a_blur_in_the_plane() -> None:
    """The error of every operator is D sigma^2 / 2 Laplacian, which no rotation changes.

    For the stencil of ∂x^i ∂y^j that says its moments of total order i + j + 2: sigma^2 / 2 (i+2)! j! at (i + 2, j),
    sigma^2 / 2 i! (j+2)! at (i, j + 2), none elsewhere.
    """
    y, x = np.meshgrid(np.arange(3, -4, -1.0), np.arange(-3, 4.0), indexing="ij")
    for i, j in PAIRS:
        weights = stencil_2d("gauss7", i, j, 7)
        for a in range(i + j + 3):
            b = i + j + 2 - a
            moment = (weights * x**a * y**b).sum() / (math.factorial(a) * math.factorial(b))
            assert moment == pytest.approx(SIGMA**2 / 2 if (a, b) in ((i + 2, j), (i, j + 2)) else 0, abs=1e-11)


@pytest.mark.parametrize(
    ("order", "weights"),
    [(0, [0, 0, 1, 0, 0]), (1, [0, -0.5, 0, 0.5, 0]), (2, [0, 1, -2, 1, 0]), (3, [-0.5, 1, 0, -1, 0.5]),
     (4, [1, -4, 6, -4, 1])],
)  # fmt: skip
def test_fd_is_the_table_of_the_paper(order: int, weights: list[float]) -> None:
    assert np.abs(stencil_1d("fd", order, 5) - weights).max() < 1e-14


def test_fd_of_mixed_derivatives_are_products_with_y_up() -> None:
    quarter = np.array([[-1.0, 0, 1], [0, 0, 0], [1, 0, -1]]) / 4  # row 0 is y = +1
    assert np.abs(stencil_2d("fd", 1, 1, 5)[1:4, 1:4] + -quarter).max() < 1e-15
    assert np.abs(stencil_2d("fd", 0, 1, 3)[:, 1] - [0.5, 0, -0.5]).max() < 1e-15
    assert np.abs(stencil_2d("fd", 1, 0, 3)[1] - [-0.5, 0, 0.5]).max() < 1e-15


@pytest.mark.parametrize(
    ("order", "weights"),
    [(0, [0.02193, 0.22851, 0.49912, 0.22851, 0.02193]), (1, [-0.06935, -0.36131, 0, 0.36131, 0.06935]),
     (2, [0.19466, 0.22138, -0.83207, 0.22138, 0.19466]), (3, [-0.5, 1, 0, -1, 0.5]), (4, [1, -4, 6, -4, 1])],
)  # fmt: skip
def test_gauss_is_the_sampled_gaussian_derivative_put_right(order: int, weights: list[float]) -> None:
    """Figures of an independent construction: Hermite polynomial times window, then lower moments removed."""
    assert np.abs(stencil_1d("gauss", order, 5) - weights).max() < 6e-6


def measured_orders(stencil: str, i: int, j: int) -> np.ndarray:
    """log2 of the ratios of the error of ∂x^i ∂y^j, on a wave whose derivatives are known, as the step is halved."""
    a, b, x0, y0 = 1.3, -0.7, 0.4, 0.9
    width = DEFAULT_WIDTHS[stencil]
    steps = np.arange(width) - width // 2
    true = a**i * b**j * math.sin(a * x0 + b * y0 + (i + j) * math.pi / 2)
    errors = []
    for h in 0.4 / 2.0 ** np.arange(4):
        patch = np.sin(a * (x0 + h * steps) + b * (y0 - h * steps)[:, None])
        errors.append(abs((stencil_2d(stencil, i, j, width) * patch).sum() / h ** (i + j) - true))
    return np.log2(np.array(errors[:-1]) / errors[1:])


@pytest.mark.parametrize("stencil", DEFAULT_WIDTHS)
@pytest.mark.parametrize(("i", "j"), PAIRS)
def test_every_derivative_is_of_second_order_as_measured(stencil: str, i: int, j: int) -> None:
    if stencil == "fd" and i == j == 0:
        assert np.array_equal(stencil_2d("fd", 0, 0, 5), np.outer(np.eye(5)[2], np.eye(5)[2]))  # no error at all
    else:
        assert measured_orders(stencil, i, j)[-1] == pytest.approx(2, abs=0.05)


@given(st.sampled_from(ORDERS), st.integers(0, 2))
def test_stencils_are_exactly_symmetric_at_every_width(drawn: tuple[str, int], wider: int) -> None:
    stencil, order = drawn
    weights = stencil_1d(stencil, order, DEFAULT_WIDTHS[stencil] + 2 * wider)
    assert np.array_equal(weights[::-1], (-1) ** order * weights)
    assert np.abs(moments(weights, order)[order] - math.factorial(order)) < 1e-9


def test_what_is_cached_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        stencil_1d("fd", 1, 5)[0] = 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("FD", None, 1), r"stencil 'FD': the choices are 'fd', 'gauss', 'gauss7'"),
        (("fd", 4, 1), "4 pixels wide.*odd"),
        (("gauss", 0, 0), "0 pixels wide.*odd and positive"),
        (("fd", -3, 0), "-3 pixels wide.*odd and positive"),
        (("fd", 3, 3), "order 3 do not fit a 'fd' stencil 3 pixels wide: it carries orders up to 2"),
        (("gauss7", 5, 3), "order 3 do not fit a 'gauss7' stencil 5 pixels wide: it carries orders up to 2"),
        (("gauss7", 1, 0), "it carries none"),
    ],
)
def test_bad_input(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_stencil(*arguments)


def test_usual_widths() -> None:
    assert [check_stencil(s, None, 4) for s in ("fd", "gauss", "gauss7")] == [5, 5, 7]
