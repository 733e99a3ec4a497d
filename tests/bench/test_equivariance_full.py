"""The full profile against models whose figures are known."""

import math

import numpy as np
import pytest
import torch
from equibench.bench.equivariance import draw_blobs
from equibench.bench.equivariance_full import Full, Inputs, measure_full
from equibench.bench.resample import soft_disc
from equibench.datasets.images import balanced_order
from torch import nn

SIZE = 17


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.function(images)


def inputs(count: int = 12, rotation: bool = True, images: torch.Tensor | None = None) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    if images is None:
        images = torch.randint(0, 256, (count, 1, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    labels = torch.arange(len(images)) % 3
    return Inputs(images, labels, lambda x: x.float() / 255, [0.1], 255, rotation)


def full(function, data: Inputs | None = None, **options) -> Full:
    return measure_full(Function(function), data or inputs(), draws=8, **options)


def linear(seed: int = 3) -> torch.Tensor:
    return torch.randn(SIZE * SIZE, 3, generator=torch.Generator().manual_seed(seed))


def centre(images: torch.Tensor) -> torch.Tensor:
    """The middle pixel is where it was after every rotation, whatever is interpolated elsewhere."""
    return torch.stack([images[:, 0, SIZE // 2, SIZE // 2], 0 * images[:, 0, 0, 0]], 1)


def test_a_function_of_what_no_rotation_moves_has_no_error() -> None:
    # Derivative by the angle: the tangent vanishes at the middle. The function sees nothing else.
    measured = full(centre)
    assert measured.lee_rot_per_deg <= 1e-6 and measured.lee_shift_per_px > 0.01
    assert not measured.collapsed


def test_a_known_error_comes_out_as_computed_by_hand() -> None:
    # f = the first moments of the image, (Σ x I, Σ y I), a vector that turns with the image: rotating by θ moves it
    # by 2 sin(θ/2) of its length. The mean of that over 15, 30, …, 345 degrees is 2 cot(π/48) / 23.
    axis = torch.arange(29).double() - 14
    blobs = draw_blobs(8, 1, 29)
    images = (100 + 60 * blobs.sample(29, 0, [0.0])).clamp(0, 255).to(torch.uint8)
    data = Inputs(images, torch.zeros(8, dtype=torch.long), lambda x: x.double() / 255, [100 / 255], 255, True)

    def moments(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([(x[:, 0].double() * axis).sum((1, 2)), (x[:, 0].double() * axis[:, None]).sum((1, 2))], 1)

    f = moments((images.double() - 100) * soft_disc(29))
    s = (f - f.mean(0)).norm(dim=1).mean()
    by_hand = 2 / math.tan(math.pi / 48) / 23 * f.norm(dim=1).mean() / s
    assert full(moments, data).eq_rot_data == pytest.approx(float(by_hand), rel=0.02)


def test_consistency_and_accuracies_are_shares_computable_by_hand() -> None:
    # The prediction is whether the bright bar is seen right of the middle: for a bar on the right, at 11 of 24 angles
    # it is, at 11 it is not, at 90 and 270 degrees both sides are equal and the first class (not right) is said.
    images = torch.zeros(1, 1, SIZE, SIZE, dtype=torch.uint8)
    images[0, 0, 8, 10:14] = 255
    data = Inputs(images, torch.tensor([1]), lambda x: x.float() / 255, [0.0], 255, True)

    def function(x: torch.Tensor) -> torch.Tensor:
        right = x[:, 0, :, 9:].sum((1, 2)) - x[:, 0, :, :8].sum((1, 2))
        return torch.stack([torch.full_like(right, 1e-2), right], 1)

    data = Inputs(torch.cat([images, images.flip(-1)]), torch.tensor([1, 0]), data.prepare, [0.0], 255, True)
    measured = full(function, data)
    # Right image: right at 0, ±15 … ±75 (11 angles); left image: class 0 at all but 11 angles around 180.
    assert measured.acc_orbit_pct == pytest.approx(100 * (11 + 13) / 48)
    assert measured.acc_worst_angle_pct == pytest.approx(0.0)
    # Angle by angle, from 0 in steps of 15: both images right at 0 … 75 and 285 … 345, the left one alone at a
    # quarter turn, where both sides are equal, neither between.
    assert measured.acc_by_angle_pct == [100.0] * 6 + [50.0] + [0.0] * 11 + [50.0] + [100.0] * 5
    assert measured.consistency_pct == pytest.approx(100 * (10 + 12) / 46)


def test_where_labels_do_not_survive_rotation_there_are_no_accuracies() -> None:
    measured = full(lambda x: x.flatten(1) @ linear(), inputs(rotation=False))
    assert measured.acc_orbit_pct is None and measured.acc_worst_angle_pct is None
    assert measured.consistency_pct is not None and measured.eq_rot_data is not None


def test_a_collapsed_model_is_flagged_not_praised() -> None:
    measured = full(lambda x: torch.ones(len(x), 3) + 1e-9 * x.mean())
    assert measured.collapsed
    assert (measured.eq_rot_data, measured.eq_floor, measured.lee_rot_per_deg, measured.consistency_pct) == (None,) * 4


def test_logits_that_are_no_numbers_have_no_figures() -> None:
    measured = full(lambda x: x.flatten(1) @ linear() * math.nan)
    assert measured.collapsed and measured.eq_rot_data is None and measured.lee_shift_per_px is None
    assert measured.acc_orbit_pct == 0.0


@pytest.mark.parametrize("change", ["scale", "batch", "order"])
def test_what_must_not_count_does_not(change: str) -> None:
    weights = linear()
    data = inputs()

    def function(x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) @ weights).square()

    plain = full(function, data)
    if change == "scale":
        other = full(lambda x: 3 * function(x) + 2, data)
    elif change == "batch":
        other = full(function, data, batch=5)
    else:
        # The first eight images are those of the errors: reorder within them.
        order = torch.tensor([5, 2, 7, 0, 1, 3, 6, 4, 11, 8, 10, 9])
        other = full(function, Inputs(data.images[order], data.labels[order], data.prepare, [0.1], 255, True))
    for name in ("eq_rot_data", "eq_floor", "lee_rot_per_deg", "lee_shift_per_px", "consistency_pct", "acc_orbit_pct"):
        assert getattr(other, name) == pytest.approx(getattr(plain, name), rel=1e-4), name


def test_without_predictions_only_the_errors_are_measured() -> None:
    weights = linear()
    whole, part = (full(lambda x: x.flatten(1) @ weights, predictions=p) for p in (True, False))
    assert part.consistency_pct is None and part.acc_orbit_pct is None
    assert part.eq_rot_data == pytest.approx(whole.eq_rot_data, rel=1e-5)
    assert part.eq_floor == pytest.approx(whole.eq_floor, rel=1e-5)


def test_a_layer_without_forward_derivative_costs_only_the_lie_derivative() -> None:
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

    weights = linear()
    measured = full(lambda x: Opaque.apply(x).flatten(1) @ weights)
    assert measured.lee_rot_per_deg is None and "no Lie derivative" in measured.note
    assert measured.eq_rot_data is not None and not measured.collapsed


def test_every_prefix_of_the_balanced_order_is_balanced() -> None:
    labels = np.array([0] * 50 + [1] * 5 + [2] * 20)
    order = balanced_order(labels, 3, 30)
    assert len(order) == 30 and len(set(order)) == 30
    assert labels[order[:6]].tolist() == [0, 1, 2] * 2 and labels[order[:15]].tolist().count(1) == 5
    assert order[:3].tolist() == [0, 50, 55]
    assert len(balanced_order(labels, 3, 1000)) == 75
