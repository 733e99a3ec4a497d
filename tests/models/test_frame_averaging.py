"""Frame averaging: exact invariance, equality with the plain mean, and the rotation by 45 degrees."""

import copy

import numpy as np
import pytest
import torch
from equibench.models.frame_averaging import FrameAverage, eighth_turn_taps
from equibench.registry import MODELS, build_model
from scipy.ndimage import map_coordinates
from torch import nn


def probe(size: int, group: str, channels: int = 2) -> FrameAverage:
    """A model without any symmetry of its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, 16), nn.Tanh(), nn.Linear(16, 3))
    return FrameAverage(model, group).double()


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("group", ["C4", "D4", "C8"])
def test_invariance_is_exact(group: str, size: int) -> None:
    model = probe(size, group)
    x = torch.randn(3, 2, size, size, dtype=torch.double)
    copies = [x.rot90(k, (-2, -1)) for k in range(1, 4)]
    if group == "D4":
        copies += [x.flip(-1), x.flip(-2), x.transpose(-2, -1)]
    for moved in copies:
        assert (model(moved) - model(x)).abs().max() <= 1e-12
    assert (model.model(copies[0]) - model.model(x)).abs().max() > 0.01


def test_c4_frames_do_not_hide_a_missing_reflection() -> None:
    model = probe(8, "C4")
    x = torch.randn(3, 2, 8, 8, dtype=torch.double)
    assert (model(x.flip(-1)) - model(x)).abs().max() > 0.01


@pytest.mark.parametrize("group,order", [("C4", 4), ("D4", 8), ("C8", 8)])
def test_equals_the_mean_over_single_evaluations(group: str, order: int) -> None:
    model = probe(8, group)
    x = torch.randn(3, 2, 8, 8, dtype=torch.double)
    frames = model.frames(x)
    assert len(frames) == order and frames[0] is not None and torch.equal(frames[0], x)
    single = sum(model.model(frame) for frame in frames) / order
    torch.testing.assert_close(model(x), single, rtol=0, atol=1e-13)


def test_eighth_turn_is_counter_clockwise_and_accurate() -> None:
    """A smooth closed-form picture, rotated exactly, against the interpolated one."""
    size = 28
    axis = torch.arange(size, dtype=torch.double) - (size - 1) / 2
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")

    def picture(column: float, row: float) -> torch.Tensor:
        return torch.exp(-((columns - column) ** 2 + (rows - row) ** 2) / 8)[None, None]

    half = 0.5**0.5
    turned = probe(size, "C8", channels=1)._eighth_turn(picture(6, 0))
    assert (turned - picture(6 * half, -6 * half)).abs().max() < 0.01
    twice = probe(size, "C8", channels=1)._eighth_turn(turned)
    assert (twice - picture(6, 0).rot90(1, (-2, -1))).abs().max() < 0.02


def test_taps_interpolate_linear_pictures_exactly_and_keep_a_constant() -> None:
    """Keys' cubic kernel reproduces polynomials up to degree two away from the border."""
    size = 16
    indices, weights = eighth_turn_taps(size)
    assert np.abs(weights.sum(1) - 1).max() <= 1e-14
    rows, columns = np.meshgrid(np.arange(size) - 7.5, np.arange(size) - 7.5, indexing="ij")
    image = 2 * columns - 3 * rows + 0.5 * columns**2
    turned = (image.reshape(-1)[indices] * weights).sum(1).reshape(size, size)
    half = np.sqrt(0.5)
    source_row, source_column = half * (rows + columns), half * (columns - rows)
    inside = np.hypot(rows, columns) < 5
    exact = 2 * source_column - 3 * source_row + 0.5 * source_column**2
    assert np.abs(turned - exact)[inside].max() <= 1e-12
    near = map_coordinates(image, [source_row + 7.5, source_column + 7.5], order=1, mode="nearest")
    assert np.abs(turned - near)[inside].max() < 0.2


def test_wrapper_names_build_what_they_say() -> None:
    for suffix, group in (("frame-c4", "C4"), ("frame-d4", "D4"), ("frame-c8", "C8")):
        model = build_model(f"z2cnn-4+{suffix}", 1, 10, 28)
        assert isinstance(model, FrameAverage) and model.group == group
    assert MODELS.find("z2cnn-22+frame-d4").get("invariant") == "D4"
    assert MODELS.find("z2cnn-22+frame-c8").get("invariant") == "C4"


def test_counts_of_the_wrapped_model_are_its_own() -> None:
    wrapped, plain = build_model("z2cnn-22+frame-c8", 1, 10, 28), build_model("z2cnn-22", 1, 10, 28)
    assert sum(p.numel() for p in wrapped.parameters()) == sum(p.numel() for p in plain.parameters())


def test_training_copies_and_derivatives() -> None:
    model = probe(9, "C8")
    x = torch.randn(2, 2, 9, 9, dtype=torch.double)
    with torch.inference_mode():
        first = model(x)
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    torch.testing.assert_close(copy.deepcopy(model)(x), first.clone(), rtol=0, atol=1e-13)
    assert model.float()(x.float()).dtype == torch.float32
    torch.func.jvp(model, (x.float(),), (x.float(),))
    assert all(name.startswith("model.") for name in model.state_dict())


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="'C6'"):
        FrameAverage(nn.Identity(), "C6")
    with pytest.raises(ValueError, match="square"):
        probe(8, "C4")(torch.zeros(1, 2, 8, 9, dtype=torch.double))
