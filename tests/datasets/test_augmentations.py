"""Augmentations that resample: against exact motions of the pixel grid, and against functions in closed form."""

import math

import pytest
import torch
from equibench.datasets.batches import AUGMENTATIONS

ROTATIONS = ("rotate", "rotate-bilinear", "rotate-nearest", "rotate-slight")


def blob(size: int, x: float, y: float, width: float = 2.5) -> torch.Tensor:
    """A Gaussian centred at (x, y) pixels from the middle, y upwards."""
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    squared = (axis[None, :] - x) ** 2 + (-axis[:, None] - y) ** 2
    return (-squared / (2 * width**2)).exp().float()[None, None]


@pytest.mark.parametrize("name", ROTATIONS)
@pytest.mark.parametrize("size", [9, 12])
def test_quarter_turns_are_exact_and_counter_clockwise(name: str, size: int) -> None:
    images = torch.randn(4, 2, size, size)
    turned = AUGMENTATIONS[name][1](images, torch.arange(4)[:, None] * math.pi / 2)
    for k in range(4):
        torch.testing.assert_close(turned[k], images[k].rot90(k, (-2, -1)), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("name", "tolerance"), [("rotate", 0.02), ("rotate-bilinear", 0.05), ("rotate-nearest", 0.25)])
def test_any_angle_moves_a_blob_where_it_belongs(name: str, tolerance: float) -> None:
    for angle in (0.3, 1.1, 4.0):
        moved = AUGMENTATIONS[name][1](blob(29, 6, 2), torch.tensor([[angle]]))
        cosine, sine = math.cos(angle), math.sin(angle)
        expected = blob(29, 6 * cosine - 2 * sine, 6 * sine + 2 * cosine)
        assert (moved - expected).abs().max() < tolerance


def test_an_even_background_stays_even() -> None:
    images = torch.full((3, 1, 10, 10), -0.4)
    for name in (*ROTATIONS, "shift2"):
        draw, move = AUGMENTATIONS[name]
        torch.testing.assert_close(move(images, draw(torch.Generator().manual_seed(0), 3)), images)


def test_angles_cover_the_circle_and_slight_ones_three_degrees() -> None:
    random = torch.Generator().manual_seed(0)
    angles = AUGMENTATIONS["rotate"][0](random, 100_000)
    assert angles.min() >= 0 and angles.max() < 2 * math.pi and abs(float(angles.mean()) - math.pi) < 0.02
    slight = AUGMENTATIONS["rotate-slight"][0](random, 10_000)
    assert math.pi * 0.99 < math.degrees(float(slight.abs().max())) <= math.pi


def test_subpixel_shifts() -> None:
    draw, move = AUGMENTATIONS["shift2"]
    moved = move(blob(21, 1, 2), torch.tensor([[0.6, -1.3]]))
    # The sampling point moves by (+0.6, -1.3) pixels to the right and down, so the picture moves the other way.
    assert (moved - blob(21, 1 - 0.6, 2 - 1.3)).abs().max() < 0.02
    shifts = draw(torch.Generator().manual_seed(0), 50_000)
    assert shifts.abs().max() <= 2 and shifts.abs().max() > 1.99


def test_reflected_crops() -> None:
    images = torch.arange(36.0).view(1, 1, 6, 6)
    moved = AUGMENTATIONS["crop4-reflect"][1](images, torch.tensor([[2.0, 0.0]]))
    rows = images[0, 0, [2, 3, 4, 5, 4, 3]]
    assert moved[0, 0].equal(rows)
    still = AUGMENTATIONS["crop4-reflect"][1](images, torch.tensor([[0.0, 0.0]]))
    assert still.equal(images)
