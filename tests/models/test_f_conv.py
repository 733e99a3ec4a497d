"""F-Conv: its functions against the formula, what they span, layers against their definition, and what rotations do."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from equibench.models.f_conv import fourier_basis, fourier_functions, wave_numbers
from equibench.models.filter_basis import BasisConv
from equibench.models.groups import PlanarGroup, rotation, transform_fields
from equibench.registry import MODELS, UserError, build_model
from torch import nn

torch.set_num_threads(1)

C8 = PlanarGroup(8)


def functions_of(size: int, q: int, *, window: bool = True, frames: np.ndarray | None = None) -> np.ndarray:
    return fourier_functions(C8.frames() if frames is None else frames, window=window, kernel_size=size, frequencies=q)


@pytest.mark.parametrize(("q", "wanted"), [(1, [0]), (2, [0, 1]), (4, [0, 1, 2, -1]), (5, [0, 1, 2, -2, -1])])
def test_wave_numbers_are_folded(q: int, wanted: list[int]) -> None:
    assert wave_numbers(q).tolist() == wanted


@pytest.mark.parametrize(("size", "q"), [(3, 3), (5, 5), (5, 4), (7, 6)])
def test_functions_are_the_series_at_turned_points(size: int, q: int) -> None:
    """The formula of the authors' code, y pointing down, one pixel at a time; functions may differ by their sign."""
    ours, v, middle = functions_of(size, q), math.pi * (q - 1) / q, (size - 1) / 2
    # The cosines are largest in the middle, where every window is 1; sines follow their cosines.
    cosines = ours[0, :, size // 2, size // 2]
    twice = np.where(cosines > 0.5, cosines, np.roll(cosines, 1)) > 1.2
    assert twice.sum() == (q if q % 2 else q - 1) ** 2 - 1
    for g, (row, column) in itertools.product(range(8), itertools.product(range(size), repeat=2)):
        theta, x, y = 2 * math.pi * g / 8, (column - middle) / middle, (row - middle) / middle
        turned_x, turned_y = x * math.cos(theta) - y * math.sin(theta), y * math.cos(theta) + x * math.sin(theta)
        window = math.exp(-max(x**2 + y**2 - 1, 0) / (0.2 if size > 4 else 2))
        wanted = []
        for k, l in itertools.product(range(q), repeat=2):
            k, l = (n - q if n > q / 2 else n for n in (k, l))
            phase = v * (k * turned_x + l * turned_y)
            wanted += [math.cos(phase) * window] + [math.sin(phase) * window] * ((k, l) != (0, 0))
        values = np.abs(ours[g, :, row, column])
        values = np.where(twice, values / math.sqrt(2), values)
        # Each of the formula's is one of ours, and none of ours is another.
        assert np.abs(np.abs(wanted)[:, None] - values).min(1).max() <= 1e-12
        assert np.abs(np.abs(wanted)[:, None] - values).min(0).max() <= 1e-12


@pytest.mark.parametrize(("size", "q", "r"), [(3, 2, 7), (5, 4, 23), (7, 6, 47), (3, 3, 9), (5, 5, 25), (7, 5, 25)])
def test_number_of_functions_and_their_independence(size: int, q: int, r: int) -> None:
    """As many as are different, and independent over the pixels of all orientations."""
    functions = functions_of(size, q)
    every = functions.transpose(1, 0, 2, 3).reshape(r, -1)
    assert functions.shape[1] == r == np.linalg.matrix_rank(every)
    # All 2 q^2 functions of the formula span no more.
    axis, v = np.linspace(-1, 1, size), math.pi * (q - 1) / q
    x, y = np.meshgrid(axis, axis)
    formula = []
    for k, l in itertools.product(wave_numbers(q), repeat=2):
        turned = [
            (x * c - y * s, y * c + x * s) for c, s in ((math.cos(t), math.sin(t)) for t in np.arange(8) * math.pi / 4)
        ]
        window = np.exp(-np.maximum(x**2 + y**2 - 1, 0) / (0.2 if size > 4 else 2))
        formula += [np.stack([f(v * (k * a + l * b)) * window for a, b in turned]).ravel() for f in (np.cos, np.sin)]
    assert np.linalg.matrix_rank(np.concatenate([every, np.stack(formula)])) == r


@pytest.mark.parametrize("size", [3, 5, 7])
def test_as_many_frequencies_as_pixels_represent_every_filter(size: int) -> None:
    """No representation error for a filter that is not turned, as of the discrete Fourier series."""
    basis = fourier_basis(np.eye(2)[None], rotations=8, kernel_size=size, frequencies=size)[0].reshape(-1, size**2)
    wanted = np.random.default_rng(0).normal(size=size**2)
    found, *_ = np.linalg.lstsq(basis.T, wanted, rcond=None)
    np.testing.assert_allclose(found @ basis, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("rotations", "size", "q"), [(8, 5, 5), (8, 5, 4), (8, 3, 3), (12, 5, 3), (4, 5, 5)])
def test_random_filters_are_those_of_the_published_construction(rotations: int, size: int, q: int) -> None:
    """All 2 q^2 functions, singular value decomposition, whitened and damped: the same covariance of random filters.

    The decomposition is not unique, the covariance is.
    """
    axis, v = np.linspace(-1, 1, size), math.pi * (q - 1) / q
    x, y = np.meshgrid(axis, axis)
    window = np.exp(-np.maximum(x**2 + y**2 - 1, 0) / (0.2 if size > 4 else 2)) if rotations != 4 else 1
    columns = []
    for k, l in itertools.product(wave_numbers(q), repeat=2):
        for wave in (np.cos, np.sin):
            angles = 2 * np.pi * np.arange(rotations) / rotations
            turned = [(x * c - y * s, y * c + x * s) for c, s in zip(np.cos(angles), np.sin(angles), strict=True)]
            columns.append(np.stack([wave(v * (k * a + l * b)) * window for a, b in turned]).ravel())
    left, singular, _ = np.linalg.svd(np.stack(columns, 1), full_matrices=False)
    left = left[:, singular**2 > 1e-4]
    pixels = left.reshape(rotations, size * size, left.shape[1])
    sums, energy = pixels.sum(1) ** 2, (size * size * pixels**2).sum(1)
    spread = (sums.std(0) + energy.std(0)) / (sums + energy).mean(0)
    damping = 1 / (25 * np.maximum(spread, 0.04))
    wanted = (left * damping**2) @ left.T
    basis = fourier_basis(PlanarGroup(rotations).frames(), rotations=rotations, kernel_size=size, frequencies=q)
    flat = basis.transpose(1, 0, 2, 3).reshape(basis.shape[1], -1)
    assert flat.shape[0] == left.shape[1]
    np.testing.assert_allclose(flat.T @ flat / np.trace(flat.T @ flat), wanted / np.trace(wanted), rtol=0, atol=1e-10)
    assert (flat**2).sum() / rotations / len(flat) == pytest.approx(1)
    assert (damping.min() < 0.5) == (rotations != 4)  # there is nothing to damp without interpolation


def test_folding_is_what_keeps_turned_filters_smooth() -> None:
    """Random filters of the same taps, turned by 45 degrees: without folding their energy runs away.

    The values of a filter at its own pixels are those of either series; between them the unfolded one oscillates.
    """
    size, half = 5, math.sqrt(0.5)
    axis = np.arange(size) - size // 2
    x, y = np.meshgrid(axis, -axis)
    tx, ty = half * (x + y), half * (y - x)
    inside = x**2 + y**2 <= 4

    def turned(numbers: np.ndarray) -> np.ndarray:
        def columns(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            phases = [2 * math.pi / size * (k * a + l * b).ravel() for k, l in itertools.product(numbers, repeat=2)]
            return np.exp(1j * np.stack(phases, 1))

        return columns(tx, ty) @ np.linalg.inv(columns(x, y))

    taps = np.random.default_rng(0).normal(size=(size**2, 1000))
    energy = [(np.abs((turned(n) @ taps)[inside.ravel()]) ** 2).mean() for n in (wave_numbers(size), np.arange(size))]
    assert 0.5 < energy[0] < 1.5
    # The folded series of real taps is real, the other is not.
    assert (
        np.abs((turned(wave_numbers(size)) @ taps).imag).max()
        <= 1e-12
        < np.abs((turned(np.arange(size)) @ taps).imag).max()
    )


def test_turned_filters_are_the_interpolation_between_their_pixels() -> None:
    """A smooth filter in closed form, fitted at its own pixels, against the same filter turned by 45 degrees."""
    size = 9
    axis = np.linspace(-1, 1, size)
    x, y = np.meshgrid(axis, -axis)

    def blob(angle: float) -> np.ndarray:
        return np.exp(-((x - 0.3 * math.cos(angle)) ** 2 + (y - 0.3 * math.sin(angle)) ** 2) / (2 * 0.25**2))

    plain = fourier_basis(np.eye(2)[None], rotations=8, kernel_size=size, frequencies=size)[0].reshape(-1, size**2)
    turned = fourier_basis(rotation(math.pi / 4)[None], rotations=8, kernel_size=size, frequencies=size)[0]
    weights, *_ = np.linalg.lstsq(plain.T, blob(0).ravel(), rcond=None)
    error = np.abs(np.tensordot(weights, turned, 1) - blob(math.pi / 4))
    assert error[x**2 + y**2 <= 1].max() < 0.02


def layer_of(lifting: bool, size: int = 5, q: int = 5) -> BasisConv:
    torch.manual_seed(0)
    basis = partial(fourier_basis, rotations=8, kernel_size=size, frequencies=q)
    return BasisConv(2, 2, group="C8", basis=basis, lifting=lifting).double()


@pytest.mark.parametrize("lifting", [True, False])
def test_a_layer_equals_its_definition(lifting: bool) -> None:
    """sum_h sum_r W[g^-1 h, r] b_r(g^-1 x) f(., h), one filter at a time."""
    layer = layer_of(lifting)
    x = torch.randn(1, 2 * layer.in_order, 9, 9, dtype=torch.double)
    weight = layer.weight.detach().view(2, 2, layer.in_order, 25).numpy()
    out = torch.zeros(1, 2, 8, 9, 9, dtype=torch.double)
    for g in range(8):
        functions = fourier_basis(rotation(2 * math.pi * g / 8)[None], rotations=8, kernel_size=5, frequencies=5)[0]
        for o, c, h in itertools.product(range(2), range(2), range(layer.in_order)):
            kernel = sum(w * f for w, f in zip(weight[o, c, (h - g) % layer.in_order], functions, strict=True))
            field = x.view(1, 2, layer.in_order, 9, 9)[:, c : c + 1, h]
            out[:, o, g] += F.conv2d(field, torch.from_numpy(kernel)[None, None], padding=2)[:, 0]
    torch.testing.assert_close(layer(x), out.flatten(1, 2), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("size", "q"), [(3, 3), (5, 5), (5, 4)])
def test_quarter_turns_are_exact(size: int, q: int) -> None:
    for k in range(4):
        plain, turned = (functions_of(size, q, frames=rotation(k * math.pi / 2 * on)[None])[0] for on in (0, 1))
        np.testing.assert_allclose(turned, np.rot90(plain, k, (-2, -1)), rtol=0, atol=1e-15)
    lift, layer = layer_of(True, size, q), layer_of(False, size, q)
    for side in (8, 9):
        x = torch.randn(2, 2, side, side, dtype=torch.double)
        y = lift(x)
        z = layer(y)
        for s in (2, 4, 6):
            moved = lift(x.rot90(s // 2, (-2, -1)))
            assert (moved - transform_fields(y, C8, s)).abs().max() <= 1e-12 * y.abs().max()
            assert (layer(moved) - transform_fields(z, C8, s)).abs().max() <= 1e-12 * z.abs().max()


@pytest.mark.parametrize("q", [3, 5])
def test_eighth_turns_converge_with_the_mesh(q: int) -> None:
    """The same filters on finer grids, applied to a smooth image and to the same turned by 45 degrees, at its middle.

    In the continuum they are exact, but for what the window leaves outside the disc.
    """
    half = math.sqrt(0.5)

    def image(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        first = np.exp(-((x - 0.3) ** 2 + (y + 0.1) ** 2) / (2 * 0.15**2))
        return first + 0.5 * np.exp(-((x + 0.2) ** 2 + (y - 0.4) ** 2) / (2 * 0.15**2))

    errors = []
    for size in (7, 9, 11):
        axis = np.linspace(-1, 1, size)
        x, y = np.meshgrid(axis, -axis)
        functions = functions_of(size, q)
        plain = np.tensordot(functions, image(x, y), 2)
        turned = np.tensordot(functions, image(half * (x + y), half * (y - x)), 2)
        errors.append(np.abs(turned - np.roll(plain, 1, 0)).max() / np.abs(plain).max())
    assert errors[0] < 0.5 and errors[-1] < 0.01
    assert all(after < before / 4 for before, after in itertools.pairwise(errors))


@pytest.mark.parametrize(
    ("rotations", "widths", "count"),
    [(8, (10,) * 6, 92_610), (12, (16, 16, 32, 32, 32, 64, 96), 3_049_658)],
    ids=["simple", "normal"],
)
def test_parameters_of_the_published_networks(rotations: int, widths: tuple[int, ...], count: int) -> None:
    """7x7 filters with q = 5, then 5x5 with q = 4; batch normalisation by field, no biases; two dense layers with one
    between.
    """

    def weights(lifting: bool, size: int, q: int) -> int:
        """Of one field on either side."""
        basis = partial(fourier_basis, rotations=rotations, kernel_size=size, frequencies=q)
        return BasisConv(1, 1, group=f"C{rotations}", lifting=lifting, basis=basis).weight.numel()

    layers = weights(True, 7, 5) * widths[0] + weights(False, 5, 4) * sum(a * b for a, b in itertools.pairwise(widths))
    last = widths[-1]
    head = last * last + last + 2 * last + 10 * last + 10
    assert layers + 2 * sum(widths) + head == count


def test_the_network_is_invariant_under_quarter_turns_and_nothing_else() -> None:
    torch.manual_seed(0)
    model = build_model("f-conv-p8", 1, 10, 28).double().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            nn.init.uniform_(module.weight, 0.5, 1.5), nn.init.normal_(module.bias)
    x = torch.randn(2, 1, 28, 28, dtype=torch.double)
    with torch.no_grad():
        y = model(x)
        for k in (1, 2, 3):
            assert (model(x.rot90(k, (-2, -1))) - y).abs().max() <= 1e-11 * y.abs().max()
        assert (model(x.flip(-1)) - y).abs().max() > 1e-4 * y.abs().max()
    assert 0.95 * 25_700 <= MODELS.entries()["f-conv-p8"].fields["params"]["1x28x28->10"] <= 1.05 * 25_700


def test_what_cannot_be_built_is_named() -> None:
    for name, words in (
        ("f-conv-p8-q6-k5-w4", "6 frequencies on 5 pixels"),
        ("f-conv-p8-q0-k5-w4", "0 frequencies"),
        ("f-conv-p8-q4-k4-w4", "filters of 3, 5"),
        ("f-conv-p8-q3-k3-w0", "one field"),
    ):
        with pytest.raises(UserError, match=words):
            build_model(name, 1, 10, 28)
    with pytest.raises(UserError, match="cannot tell the functions"):
        fourier_basis(np.eye(2)[None], rotations=4, kernel_size=4, frequencies=4)
    assert build_model("f-conv-p8-q3-k3-w2", 3, 5, 24)(torch.zeros(2, 3, 24, 24)).shape == (2, 5)
