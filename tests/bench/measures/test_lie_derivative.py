"""Lie derivatives against central differences, through every system."""

import math

import pytest
import torch
from equibench.bench.measures.equivariance import Blobs, Scene, draw_blobs
from equibench.bench.measures.lie_derivative import derivative, lie_errors, rotation_tangent, shift_tangent
from equibench.registry import build_model
from torch import nn

SIZE = 28


def moved(blobs: Blobs, x: float, y: float) -> Blobs:
    return Blobs(blobs.centres + torch.tensor([x, y], dtype=torch.float64), blobs.widths, blobs.heights)


def central(function, step: float) -> torch.Tensor:
    return (function(step) - function(-step)) / (2 * step)


def test_tangents_are_the_derivatives_of_the_closed_form() -> None:
    blobs = draw_blobs(4, 3, 15)
    by_angle = central(lambda t: blobs.sample(15, t, [0.1] * 3), 1e-4)
    assert rotation_tangent(blobs, 15).allclose(by_angle, atol=1e-9)
    along_x = central(lambda t: moved(blobs, t, 0).sample(15, 0, [0.1] * 3), 1e-5)
    along_y = central(lambda t: moved(blobs, 0, t).sample(15, 0, [0.1] * 3), 1e-5)
    assert shift_tangent(blobs, 15, (1.0, 0.0)).allclose(along_x, atol=1e-8)
    assert shift_tangent(blobs, 15, (0.0, 1.0)).allclose(along_y, atol=1e-8)


class Smooth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 5), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 3, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).square().mean((2, 3))


def test_the_derivative_of_a_smooth_model_is_its_central_difference() -> None:
    model, blobs = Smooth().double().eval(), draw_blobs(6, 1, SIZE)
    images = blobs.sample(SIZE, 0, [0.0])
    values, slopes = derivative(model, images, rotation_tangent(blobs, SIZE), lambda x: x, batch=4)
    assert values.allclose(model(images))
    assert slopes.allclose(central(lambda t: model(blobs.sample(SIZE, t, [0.0])), 1e-3), rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("name", ["p4cnn", "pdo-econv-p8", "e2cnn-c8-25k", "wrn-10-b9"])
def test_the_derivative_runs_through_every_system(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, 1, 10, SIZE).double()
    with torch.no_grad():  # running statistics that are not those of a fresh layer
        model.train()(torch.randn(8, 1, SIZE, SIZE, dtype=torch.float64))
    model.eval()
    blobs = draw_blobs(2, 1, SIZE)
    images, tangents = blobs.sample(SIZE, 0, [0.0]), rotation_tangent(blobs, SIZE)
    with torch.no_grad():
        model(images)  # filters that are kept for evaluation are there now
        expected = central(lambda t: model(images + t * tangents), 1e-6)
    _, slopes = derivative(model, images, tangents, lambda x: x)
    # The networks are piecewise smooth: no kink lies within a millionth of a degree.
    assert slopes.abs().max() > 1e-6 and slopes.allclose(expected, rtol=1e-4, atol=1e-7)


def measure(function, **options) -> tuple[float | None, float | None]:
    class Function(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return function(images)

    scene = Scene(29, lambda x: x.double() / 255, [0.0], 255, torch.device("cpu"))
    return lie_errors(Function(), scene, 16, torch.zeros(1, 2).double())


def test_known_derivatives_come_out_as_computed_by_hand() -> None:
    # f = the first moments of the image, (Σ x I, Σ y I): rotating turns this vector by the angle, so that its speed
    # per degree is its length times π/180; shifting adds the image's mass m along the shift, so that its speed per
    # pixel is |m|. (The blobs lie inside the image, where sums over the grid are integrals.)
    axis = torch.arange(29).double() - 14

    def moments(images: torch.Tensor) -> torch.Tensor:
        return torch.stack([(images[:, 0] * axis).sum((1, 2)), -(images[:, 0] * axis[:, None]).sum((1, 2))], 1)

    images = draw_blobs(16, 1, 29).sample(29, 0, [0.0])
    f, mass = moments(images), images.sum((1, 2, 3))
    scale = sum(float((a - b).norm()) for a in f for b in f) / (16 * 15)
    by_angle, by_shift = measure(moments)
    assert by_angle == pytest.approx(float(f.norm(dim=1).mean()) * math.pi / 180 / scale, rel=0.02)
    assert by_shift == pytest.approx(float(mass.abs().mean()) / scale, rel=0.02)


def test_an_invariant_function_has_no_derivative() -> None:
    # Total mass of the image, and of its square: the blobs move inside the image.
    by_angle, by_shift = measure(lambda x: torch.stack([x.sum((1, 2, 3)), x.square().sum((1, 2, 3))], 1))
    assert by_angle < 1e-3 and by_shift < 1e-2


def test_a_collapsed_model_has_no_figures() -> None:
    assert measure(lambda x: torch.ones(len(x), 2) + 1e-9 * x.mean((2, 3))) == (None, None)
