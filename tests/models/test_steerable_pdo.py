"""Steerable PDOs: stencils against automatic differentiation, layers against their definition, and what rotations
do.
"""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from equibench.models.filter_basis import BasisConv
from equibench.models.groups import PlanarGroup, transform_fields
from equibench.models.pdo.operators import PAPER_OPERATORS, filter_basis
from equibench.models.steerable_pdo import DISCRETISATIONS, SIGMAS, operator_basis, stencil
from equibench.registry import MODELS, UserError, build_model
from torch import nn

torch.set_num_threads(1)

C8 = PlanarGroup(8)
ORDERS = [(order, size) for order, size in ((2, 3), (3, 5), (4, 5))]
UP_TO = {size: [(i, j) for i in range(5) for j in range(5) if i + j < size] for size in (3, 5)}


def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the pixels of a filter; row 0 is the top."""
    axis = np.arange(size) - size // 2.0
    return np.meshgrid(axis, -axis)


def derivative(function, i: int, j: int, at: tuple[float, float]) -> float:
    """∂x^i ∂y^j of a function of two tensors, by automatic differentiation, one derivative after the other."""
    x, y = (torch.tensor(v, dtype=torch.double, requires_grad=True) for v in at)
    value = function(x, y)
    for variable in i * [x] + j * [y]:
        (value,) = torch.autograd.grad(value, variable, create_graph=True)
    return value.item()


@pytest.mark.parametrize("size", [3, 5])
def test_gaussian_stencils_are_derivatives_of_a_gaussian(size: int) -> None:
    """Mirrored, as the cross-correlation with a stencil is the convolution with the mirrored one."""
    sigma = SIGMAS[size]
    assert sigma == pytest.approx({3: 0.707, 5: 1.195}[size], abs=5e-4)
    x, y = grid(size)
    for i, j in UP_TO[size]:
        values = [
            derivative(lambda a, b: torch.exp(-(a**2 + b**2) / (2 * sigma**2)), i, j, (-u, -v))
            for u, v in zip(x.ravel(), y.ravel(), strict=True)
        ]
        np.testing.assert_allclose(stencil("gauss", i, j, size).ravel(), values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [3, 5])
def test_rbf_stencils_differentiate_the_interpolant(size: int) -> None:
    """Of random data: Gaussians exp(-r^2) at all pixels and polynomials up to the order, solved and differentiated."""
    x, y = (axis.ravel() for axis in grid(size))
    data = np.random.default_rng(0).normal(size=size**2)
    for i, j in UP_TO[size]:
        powers = [(a, b) for a, b in itertools.product(range(i + j + 1), repeat=2) if a + b <= i + j]
        radial = np.exp(-((x[:, None] - x) ** 2) - (y[:, None] - y) ** 2)
        columns = np.stack([x**a * y**b for a, b in powers], 1)
        system = np.block([[radial, columns], [columns.T, np.zeros((len(powers),) * 2)]])
        solution = torch.from_numpy(np.linalg.solve(system, np.concatenate([data, np.zeros(len(powers))])))
        tx, ty = torch.from_numpy(x), torch.from_numpy(y)

        def interpolant(a, b, solution=solution, powers=powers, tx=tx, ty=ty):
            value = (solution[: size**2] * torch.exp(-((a - tx) ** 2) - (b - ty) ** 2)).sum()
            return value + sum(s * a**p * b**q for s, (p, q) in zip(solution[size**2 :], powers, strict=True))

        wanted = derivative(interpolant, i, j, (0.0, 0.0))
        assert (stencil("rbf", i, j, size).ravel() * data).sum() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("discretisation", ["fd", "rbf"])
@pytest.mark.parametrize("size", [3, 5])
def test_stencils_are_exact_on_polynomials(discretisation: str, size: int) -> None:
    """Finite differences up to degree k - 1 in x and in y, RBF-FD up to the order of the operator in all."""
    x, y = grid(size)
    for i, j in UP_TO[size]:
        weights = stencil(discretisation, i, j, size)
        for a, b in itertools.product(range(size), repeat=2):
            if discretisation == "fd" or a + b <= i + j:
                wanted = math.factorial(i) * math.factorial(j) if (a, b) == (i, j) else 0
                assert (weights * x**a * y**b).sum() == pytest.approx(wanted, abs=1e-10)


def test_known_stencils() -> None:
    """The five-point differences of textbooks, and the RBF-FD stencil of ∂x on 3x3 pixels."""
    np.testing.assert_allclose(12 * stencil("fd", 1, 0, 5)[2], [1, -8, 0, 8, -1], atol=1e-12)
    np.testing.assert_allclose(12 * stencil("fd", 0, 2, 5)[:, 2], [-1, 16, -30, 16, -1], atol=1e-12)
    np.testing.assert_allclose(2 * stencil("fd", 0, 3, 5)[::-1, 2], [-1, 2, 0, -2, 1], atol=1e-12)
    np.testing.assert_allclose(stencil("rbf", 1, 0, 3)[:, 2], [-0.102, 0.704, -0.102], atol=5e-4)


def options(order: int, size: int, discretisation: str) -> dict:
    return dict(rotations=8, order=order, discretisation=discretisation, kernel_size=size)


@pytest.mark.parametrize("discretisation", DISCRETISATIONS)
@pytest.mark.parametrize(("order", "size"), ORDERS)
def test_numbers_of_weights(order: int, size: int, discretisation: str) -> None:
    """(M + 1) (M + 2) / 2 for a lifting layer, N times as many between regular fields; all are independent."""
    basis = partial(operator_basis, **options(order, size, discretisation))
    lift, group = (BasisConv(1, 1, group="C8", basis=basis, lifting=lifting) for lifting in (True, False))
    wanted = {2: (6, 48), 3: (10, 80), 4: (15, 120)}[order]
    assert (lift.weight.numel(), group.weight.numel()) == wanted
    assert np.linalg.matrix_rank(lift.basis[0].reshape(wanted[0], -1)) == wanted[0]


@pytest.mark.parametrize("discretisation", DISCRETISATIONS)
@pytest.mark.parametrize(("order", "size"), ORDERS)
def test_the_operators_are_closed_under_every_rotation(order: int, size: int, discretisation: str) -> None:
    """Turned by any angle they span the same space; those of PDO-eConv span a larger one with every angle."""
    frames = PlanarGroup(24).frames(0.1)
    basis = operator_basis(frames, **options(order, size, discretisation))
    flat = basis.reshape(-1, size**2)
    assert np.linalg.matrix_rank(flat, tol=1e-9 * len(flat)) == basis.shape[1]
    theirs = filter_basis(frames, PAPER_OPERATORS, stencil="gauss", weights="coefficients").reshape(-1, 25)
    assert np.linalg.matrix_rank(theirs, tol=1e-9 * len(theirs)) > len(PAPER_OPERATORS)


@pytest.mark.parametrize("discretisation", DISCRETISATIONS)
@pytest.mark.parametrize("lifting", [True, False])
def test_a_layer_equals_its_definition(lifting: bool, discretisation: str) -> None:
    """sum_h H_(g^-1 h)(turned derivatives) f(., h), each polynomial multiplied out, one filter at a time."""
    torch.manual_seed(0)
    order, size = 3, 5
    basis = partial(operator_basis, **options(order, size, discretisation))
    layer = BasisConv(2, 2, group="C8", basis=basis, lifting=lifting).double()
    x = torch.randn(1, 2 * layer.in_order, 9, 9, dtype=torch.double)
    weight = layer.weight.detach().view(2, 2, layer.in_order, -1).numpy()
    pairs = [(total - k, k) for total in range(order + 1) for k in range(total + 1)]

    def turned(i: int, j: int, g: int) -> np.ndarray:
        """(c ∂x + s ∂y)^i (-s ∂x + c ∂y)^j by the binomial theorem."""
        c, s = math.cos(math.pi * g / 4), math.sin(math.pi * g / 4)
        total = np.zeros((size, size))
        for a, b in itertools.product(range(i + 1), range(j + 1)):  # powers of ∂y in either factor
            factor = math.comb(i, a) * c ** (i - a) * s**a * math.comb(j, b) * (-s) ** (j - b) * c**b
            total += factor * stencil(discretisation, i - a + j - b, a + b, size)
        return total

    kernels = np.stack([np.stack([turned(i, j, g) for i, j in pairs]) for g in range(8)])
    kernels /= np.sqrt((kernels**2).sum((-2, -1)).mean(0))[:, None, None]
    out = torch.zeros(1, 2, 8, 9, 9, dtype=torch.double)
    for o, c, g, h in itertools.product(range(2), range(2), range(8), range(layer.in_order)):
        kernel = np.tensordot(weight[o, c, (h - g) % layer.in_order], kernels[g], 1)
        field = x.view(1, 2, layer.in_order, 9, 9)[:, c : c + 1, h]
        out[:, o, g] += F.conv2d(field, torch.from_numpy(kernel)[None, None], padding=2)[:, 0]
    torch.testing.assert_close(layer(x), out.flatten(1, 2), rtol=0, atol=1e-11)


@pytest.mark.parametrize("discretisation", DISCRETISATIONS)
@pytest.mark.parametrize(("order", "size"), ORDERS)
def test_quarter_turns_are_exact(order: int, size: int, discretisation: str) -> None:
    torch.manual_seed(0)
    basis = partial(operator_basis, **options(order, size, discretisation))
    lift, layer = (BasisConv(2, 2, group="C8", basis=basis, lifting=lifting).double() for lifting in (True, False))
    for side in (8, 9):
        x = torch.randn(2, 2, side, side, dtype=torch.double)
        y = lift(x)
        z = layer(y)
        for s in (2, 4, 6):
            moved = lift(x.rot90(s // 2, (-2, -1)))
            assert (moved - transform_fields(y, C8, s)).abs().max() <= 1e-12 * y.abs().max()
            assert (layer(moved) - transform_fields(z, C8, s)).abs().max() <= 1e-12 * z.abs().max()


@pytest.mark.parametrize("discretisation", ["fd", "rbf"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_eighth_turns_converge(order: int, discretisation: str) -> None:
    """The operators of a smooth function and of the same turned by 45 degrees, at its middle: the error falls with h^2.

    Both kinds of stencils are consistent and even or odd, so that their first error is of second order at least.
    """
    half = math.sqrt(0.5)
    basis = operator_basis(C8.frames(), **options(order, 5, discretisation))[:, -order - 1 :]

    def function(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.sin(1.1 * x + 0.4) * np.cos(0.7 * y - 0.3) + np.exp(0.5 * x - 0.2 * y)

    errors = []
    for h in (0.4, 0.2, 0.1):
        x, y = (h * axis for axis in grid(5))
        plain = np.tensordot(basis, function(x, y), 2) / h**order
        turned = np.tensordot(basis, function(half * (x + y), half * (y - x)), 2) / h**order
        errors.append(np.abs(turned - np.roll(plain, 1, 0)).max() / np.abs(plain).max())
    assert errors[0] < 0.2
    assert all(after < before / 3.5 for before, after in itertools.pairwise(errors))


def test_gaussians_have_nearly_the_same_gain_in_all_orientations() -> None:
    """Energy of an operator, largest over smallest of the eight: a sampled Gaussian of 1.2 pixels is nearly
    isotropic.
    """

    def spread(discretisation: str) -> float:
        energy = (operator_basis(C8.frames(), **options(3, 5, discretisation)) ** 2).sum((-2, -1))
        return (energy.max(0) / energy.min(0)).max()

    assert spread("gauss") < 1.1 and spread("fd") > 5


@pytest.mark.parametrize("name", [f"steerable-pdo-c8-{n}" for n in ("2-gauss", "3-gauss", "4-gauss", "3-fd", "3-rbf")])
def test_networks_are_invariant_under_quarter_turns_and_nothing_else(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, 1, 10, 28).double().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            nn.init.uniform_(module.weight, 0.5, 1.5), nn.init.normal_(module.bias)
    x = torch.randn(2, 1, 28, 28, dtype=torch.double)
    with torch.no_grad():
        y = model(x)
        for k in (1, 2, 3):
            assert (model(x.rot90(k, (-2, -1))) - y).abs().max() <= 1e-11 * y.abs().max()
        assert (model(x.flip(-1)) - y).abs().max() > 1e-4 * y.abs().max()
    assert 0.95 * 25_700 <= MODELS.entries()[name].fields["params"]["1x28x28->10"] <= 1.05 * 25_700


def test_what_cannot_be_built_is_named() -> None:
    for name, words in (
        ("steerable-pdo-c8-o2-spline-k3-w4", "'spline'.*'fd', 'rbf', 'gauss'"),
        ("steerable-pdo-c8-o3-fd-k3-w4", "wider than their order"),
        ("steerable-pdo-c8-o2-fd-k4-w4", "odd stencil"),
        ("steerable-pdo-c8-o2-gauss-k7-w4", "3 and 5 pixels"),
        ("steerable-pdo-c8-o5-fd-k7-w4", "order of 0 to 4"),
        ("steerable-pdo-c8-o0-fd-k1-w4", "stencils of 3 pixels"),
        ("steerable-pdo-c8-o2-fd-k3-w0", "one field"),
    ):
        with pytest.raises(UserError, match=words):
            build_model(name, 1, 10, 28)
    with pytest.raises(UserError, match=r"image_size=20: .* 22 or more"):
        build_model("steerable-pdo-c8-3-gauss", 1, 10, 20)
    assert build_model("steerable-pdo-c8-o2-fd-k3-w2", 3, 5, 24)(torch.zeros(2, 3, 24, 24)).shape == (2, 5)
