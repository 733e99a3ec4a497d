"""The core profile against models whose error is known."""

import math

import pytest
import torch
from equibench.bench.measures.accuracy import logits
from equibench.bench.measures.equivariance import (
    ANGLES,
    Scene,
    _cos_sin,
    draw_blobs,
    measure_core,
    reference_arithmetic,
    relative_error,
    scale_of,
)
from equibench.registry import build_model
from torch import nn

SIZE = 13


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.function(images)


def core(function, images: torch.Tensor | None = None):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (20, 1, SIZE, SIZE), dtype=torch.uint8) if images is None else images
    return measure_core(Function(function), images, scene(images.shape[-1]))


def scene(size: int) -> Scene:
    return Scene(size, lambda x: x.float() / 255, [0.0], 255, torch.device("cpu"))


def radial_moments(images: torch.Tensor) -> torch.Tensor:
    axis = torch.arange(images.shape[-1]) - (images.shape[-1] - 1) / 2
    radius, images = axis[:, None] ** 2 + axis[None, :] ** 2, images.double()  # sums in float64: order must not count
    return torch.stack([(images * torch.exp(-radius / w)).sum((1, 2, 3)) for w in (4, 9, 25)], 1)


def test_an_invariant_function_has_no_error() -> None:
    # At 29 pixels the blobs lie well inside the image, as they do at every declared size.
    measured = core(radial_moments, torch.randint(0, 256, (20, 1, 29, 29), dtype=torch.uint8))
    assert measured.eq_exact_c4 < 1e-6 and measured.eq_exact_d4 < 1e-6 and not measured.collapsed
    # Sums over a grid of well resolved blobs are integrals: what is left at 45 degrees is tiny.
    assert measured.eq_rot_analytic < 1e-2


def test_a_known_error_comes_out_as_computed_by_hand() -> None:
    # f reads one corner a, whose orbit under C4 is the corners a, b, c, d.
    images = torch.zeros(2, 1, SIZE, SIZE, dtype=torch.uint8)
    images[0, 0, 0, 0] = 255  # f = 1 here; 0 after every other quarter turn
    images[1, 0, 6, 6] = 255  # f = 0 in every orientation
    measured = core(lambda x: torch.stack([x[:, 0, 0, 0], torch.zeros(len(x))], 1), images)
    # numerators: image 0 moves by 1 under all three turns, image 1 by 0: mean 1/2;
    # s: f = 1 and f = 0, one pair, 1 apart.
    assert measured.scale == pytest.approx(1.0) and measured.eq_exact_c4 == pytest.approx(1 / 2)
    # Of the seven other elements of D4 one fixes the corner: 6/7 of the moves.
    assert measured.eq_exact_d4 == pytest.approx(6 / 7 / 2)


def test_scale_and_offset_of_the_logits_do_not_count() -> None:
    weights = torch.randn(SIZE * SIZE, 5, generator=torch.Generator().manual_seed(3))
    plain, scaled = core(lambda x: x.flatten(1) @ weights), core(lambda x: 3 * (x.flatten(1) @ weights) + 2)
    assert plain.eq_exact_c4 == pytest.approx(scaled.eq_exact_c4, rel=1e-4)
    assert plain.eq_rot_analytic == pytest.approx(scaled.eq_rot_analytic, rel=1e-4)


def test_the_order_of_images_does_not_count() -> None:
    weights = torch.randn(SIZE * SIZE, 5, generator=torch.Generator().manual_seed(3))
    images = torch.randint(0, 256, (20, 1, SIZE, SIZE), dtype=torch.uint8)
    forward, backward = (core(lambda x: x.flatten(1) @ weights, i) for i in (images, images.flip(0)))
    assert forward.eq_exact_c4 == pytest.approx(backward.eq_exact_c4, rel=1e-5)


@pytest.mark.parametrize("function", [lambda x: torch.ones(len(x), 3), lambda x: 1e-9 * radial_moments(x) + 7.0])
def test_a_collapsed_model_is_flagged_not_praised(function) -> None:
    measured = core(function)
    assert measured.collapsed and measured.eq_exact_c4 is None and measured.eq_rot_analytic is None
    assert measured.scale is None and measured.scale_analytic is None


def test_logits_that_are_no_numbers_have_no_error() -> None:
    assert core(lambda x: torch.full((len(x), 3), math.nan)).eq_exact_c4 is None


def test_the_error_is_relative_to_the_distance_of_two_images() -> None:
    plain = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    moved = plain + torch.tensor([[0.0, 0.5], [0.0, 0.5]])
    assert relative_error([plain, moved], torch.zeros(1, 2)) == pytest.approx(0.25)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_the_scale_is_the_mean_over_all_pairs(offset: float) -> None:
    plain = torch.randn(23, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 3 + offset
    distances = [float((a - b).norm()) for i, a in enumerate(plain) for b in plain[:i]]
    found = scale_of(plain, torch.full((1, 5), offset))
    assert len(distances) == 23 * 22 / 2 and found == pytest.approx(sum(distances) / len(distances), rel=1e-9)


@pytest.mark.parametrize("name", ["z2cnn", "pdo-econv-p8"])
def test_an_error_of_one_is_exactly_another_image(name: str) -> None:
    """If every g turned an image into another image of the set, each into each, the error would be 1; by the distance
    to the mean it was 1.36 and 1.31."""
    torch.manual_seed(0)
    model = build_model(name, 1, 10, 28)
    scores = logits(model, draw_blobs(16, 1, 28).sample(28, 0, [0.0]).float(), lambda x: x)
    others = [scores.roll(k, 0) for k in range(len(scores))]
    assert relative_error(others, torch.zeros(1, 10)) == pytest.approx(1.0, rel=1e-9)


def test_unrelated_logits_have_an_error_of_one() -> None:
    # Independent draws for x and for gx: nothing of x is left in f(gx).
    generator = torch.Generator().manual_seed(5)
    plain, *moved = torch.randn(8, 400, 10, generator=generator).unbind()
    assert relative_error([plain, *moved], torch.zeros(1, 10)) == pytest.approx(1.0, abs=0.02)


def test_one_image_alone_has_no_scale() -> None:
    assert scale_of(torch.ones(1, 3), torch.zeros(1, 3)) is None


def test_errors_times_scales_are_distances_of_logits() -> None:
    weights = torch.randn(SIZE * SIZE, 5, generator=torch.Generator().manual_seed(3))
    images = torch.randint(0, 256, (20, 1, SIZE, SIZE), dtype=torch.uint8)
    measured = core(lambda x: x.flatten(1) @ weights, images)
    f = [(torch.rot90(images, k, (-2, -1)).double() / 255).flatten(1) @ weights.double() for k in range(4)]
    distance = torch.stack([(moved - f[0]).norm(dim=1) for moved in f[1:]]).mean()
    assert measured.eq_exact_c4 * measured.scale == pytest.approx(float(distance), rel=1e-5)
    ten = core(lambda x: 10 * (x.flatten(1) @ weights), images)
    assert ten.scale == pytest.approx(10 * measured.scale, rel=1e-5)
    assert ten.scale_analytic == pytest.approx(10 * measured.scale_analytic, rel=1e-5)


def test_closed_form_inputs_turn_exactly_by_quarter_turns() -> None:
    blobs = draw_blobs(8, 3, 28)
    plain = blobs.sample(28, 0, [0.1, 0.2, 0.3])
    for turns in range(1, 4):
        assert (
            blobs.sample(28, 90 * turns, [0.1, 0.2, 0.3]).equal(torch.rot90(plain, turns, (-2, -1)))
            or (blobs.sample(28, 90 * turns, [0.1, 0.2, 0.3]) - torch.rot90(plain, turns, (-2, -1))).abs().max() < 1e-14
        )


def test_closed_form_inputs_are_what_they_say() -> None:
    blobs = draw_blobs(64, 2, 28)
    assert blobs.centres.norm(dim=-1).max() <= 0.28 * 28
    assert blobs.widths.min() >= 1 and blobs.widths.max() <= 1.5
    assert (blobs.heights > 0).any() and (blobs.heights < 0).any()
    assert not blobs.heights[:, 0].equal(blobs.heights[:, 1])  # colours of their own
    # One blob alone, rotated: its peak moves as the rotation says, counter-clockwise with y up.
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    lone = blobs.__class__(torch.tensor([[[6.0, 0.0]]], dtype=torch.float64), one[0], one)
    image = lone.sample(29, 90, [0.0])[0, 0]
    assert divmod(int(image.argmax()), 29) == (14 - 6, 14)


def test_angles_are_between_the_exact_symmetries() -> None:
    assert all(0 < a < 90 for a in ANGLES)
    assert _cos_sin(90) == (0.0, 1.0) and _cos_sin(180) == (-1.0, 0.0) and _cos_sin(-90) == (0.0, -1.0)


@pytest.mark.parametrize(("size", "exact"), [(28, True), (29, False), (30, True)])
def test_grid_parity_decides_whether_p4cnn_is_invariant(size: int, exact: bool) -> None:
    # Its 2x2 pooling leaves out a row and a column of the 25 pixels that an image of 29 is reduced to.
    torch.manual_seed(0)
    model = build_model("p4cnn", 1, 10, size)
    images = torch.randint(0, 256, (8, 1, size, size), dtype=torch.uint8)
    measured = measure_core(model, images, scene(size))
    assert measured.eq_exact_c4 <= 1e-5 if exact else measured.eq_exact_c4 > 0.02
    assert measured.eq_exact_d4 > 0.02


def test_reduced_precision_is_switched_off_while_measuring_and_back_afterwards() -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with reference_arithmetic():
            assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
