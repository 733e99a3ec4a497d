"""The turntable: directions, exactness, and how small its error is."""

import math

import pytest
import torch
from equibench.bench.measures.equivariance import Scene, draw_blobs
from equibench.bench.measures.equivariance_full import Inputs, measure_full
from equibench.bench.measures.rotation import ORBIT_DEGREES, ImageRotator, rotate, soft_disc
from torch import nn

SIZE = 28


def digits(count: int = 24) -> torch.Tensor:
    """Strokes with edges as sharp as a pen's: broad lines through random points, as integers."""
    generator = torch.Generator().manual_seed(2)
    x = torch.arange(SIZE).float() - (SIZE - 1) / 2
    images = torch.zeros(count, 1, SIZE, SIZE)
    for image in images:
        for _ in range(3):
            px, py = torch.rand(2, generator=generator) * 12 - 6
            angle = math.pi * float(torch.rand(1, generator=generator))
            along = (x[None, :] - px) * math.cos(angle) + (x[:, None] - py) * math.sin(angle)
            across = -(x[None, :] - px) * math.sin(angle) + (x[:, None] - py) * math.cos(angle)
            image[0] = torch.maximum(image[0], ((across.abs() < 1.3) & (along.abs() < 6)).float())
    return (255 * images).to(torch.uint8)


class Radial(nn.Module):
    """Layers of rotation-symmetric filters, ReLU, squares and means: invariant but for the grid."""

    def __init__(self) -> None:
        super().__init__()
        axis = torch.arange(-5, 6).double()
        square = axis[:, None] ** 2 + axis[None, :] ** 2
        bell = torch.exp(-square / (2 * 1.2**2))
        hat = bell * (square / 1.2**2 - 2)
        hat -= bell * hat.sum() / bell.sum()
        self.filters = torch.stack([bell / bell.sum(), hat / hat.abs().sum()])[:, None]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = nn.functional.conv2d(images.double(), self.filters, padding=5)
        return torch.cat([maps, maps.relu(), maps.square()], 1).mean((2, 3))


def test_the_disc_is_soft_and_leaves_no_corner() -> None:
    disc = soft_disc(SIZE)
    assert disc.max() == 1 and disc[0].max() == 0 and disc[SIZE // 2, SIZE // 2] == 1
    assert disc.equal(disc.flip(0)) and disc.equal(disc.T) and ((disc > 0.05) & (disc < 0.95)).any()


def test_quarter_turns_are_exact_on_top_of_any_angle() -> None:
    table = ImageRotator(digits(3), [10.0])
    for angle in (0, 30):
        assert table.rotated(angle + 90).equal(torch.rot90(table.rotated(angle), 1, (-2, -1)))
    assert table.back_and_forth(105).equal(table.back_and_forth(15))
    assert table.back_and_forth(90).equal(table.back_and_forth(0))


def test_it_turns_as_the_closed_form_does() -> None:
    # Counter-clockwise, about the middle, for blobs that the disc does not cut.
    blobs = draw_blobs(8, 2, 41)
    images = 100 * blobs.sample(41, 0, [0.0, 0.0])
    wide = torch.nn.functional.pad(images, (10, 10, 10, 10))
    table = ImageRotator(wide, [0.0, 0.0])
    expected = torch.nn.functional.pad(100 * blobs.sample(41, 35, [0.0, 0.0]), (10, 10, 10, 10)).float()
    wrong = torch.nn.functional.pad(100 * blobs.sample(41, -35, [0.0, 0.0]), (10, 10, 10, 10)).float()
    middle = (..., slice(18, 43), slice(18, 43))
    size = expected[middle].norm()
    assert (table.rotated(35)[middle] - expected[middle]).norm() < 0.1 * size
    assert (table.rotated(35)[middle] - wrong[middle]).norm() > 0.5 * size


def test_an_even_background_stays() -> None:
    table = ImageRotator(torch.full((1, 3, 15, 15), 40, dtype=torch.uint8), [40.0, 40.0, 40.0])
    assert table.rotated(33).allclose(torch.full((1, 3, 15, 15), 40.0))


def test_a_radial_network_scores_below_twice_the_floor_and_bilinear_rotation_would_exaggerate() -> None:
    images = digits()
    scene = Scene(SIZE, lambda x: x.float() / 255, [0.0], 255, torch.device("cpu"))
    data = Inputs(images, torch.zeros(len(images), dtype=torch.long), scene, True)
    measured = measure_full(Radial(), data, predictions=False, draws=len(images))[0]
    assert measured.eq_rot_data < 2 * measured.eq_floor
    # The reason for all this: what the same network would score if images were simply rotated.
    disc, model = images * soft_disc(SIZE), Radial()
    plain = model(scene.prepare(disc))
    spread = (plain - plain.mean(0)).norm(dim=1).mean()
    moved = [model(scene.prepare(rotate(disc, t, "bilinear"))) for t in ORBIT_DEGREES[1:]]
    bilinear = float(torch.stack([(m - plain).norm(dim=1).mean() for m in moved]).mean() / spread)
    assert bilinear > 5 * measured.eq_rot_data


@pytest.mark.parametrize("angle", [15, 45, 75])
def test_what_is_turned_back_and_forth_stands_where_it_was(angle: int) -> None:
    table = ImageRotator(digits(4), [0.0])
    still, back = table.back_and_forth(0), table.back_and_forth(angle)
    assert (back - still).norm() < 0.1 * still.norm()
