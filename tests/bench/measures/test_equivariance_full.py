"""The full profile against models whose figures are known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from equibench.bench.measures.equivariance import Scene, draw_blobs
from equibench.bench.measures.equivariance_full import Inputs, divergence_nats, measure_full, normalised_variance
from equibench.bench.measures.rotation import soft_disc
from equibench.bench.records.sidecar import FullPoint
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
    return Inputs(images, labels, scene(images.shape[-1], 0.1), rotation)


def scene(size: int, background: float) -> Scene:
    return Scene(size, lambda x: x.float() / 255, [background], 255, torch.device("cpu"))


def noted(function, data: Inputs | None = None, **options) -> tuple[FullPoint, str]:
    return measure_full(Function(function), data or inputs(), draws=8, **options)


def full(function, data: Inputs | None = None, **options) -> FullPoint:
    return noted(function, data, **options)[0]


def linear(seed: int = 3) -> torch.Tensor:
    return torch.randn(SIZE * SIZE, 3, generator=torch.Generator().manual_seed(seed))


def centre(images: torch.Tensor) -> torch.Tensor:
    """The middle pixel stays in place under every rotation, with any interpolation of the others."""
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
    in_float64 = replace(scene(29, 100 / 255), prepare=lambda x: x.double() / 255)
    data = Inputs(images, torch.zeros(8, dtype=torch.long), in_float64, True)

    def moments(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([(x[:, 0].double() * axis).sum((1, 2)), (x[:, 0].double() * axis[:, None]).sum((1, 2))], 1)

    f = moments((images.double() - 100) * soft_disc(29))
    s = sum(float((a - b).norm()) for a in f for b in f) / (8 * 7)
    by_hand = 2 / math.tan(math.pi / 48) / 23 * float(f.norm(dim=1).mean())
    measured = full(moments, data)
    assert measured.eq_rot_data == pytest.approx(by_hand / s, rel=0.02)
    # `data` has its images in 0…1, `f` in 0…255.
    assert measured.eq_rot_data_abs == pytest.approx(by_hand / 255, rel=0.02)


def test_consistency_and_accuracies_are_shares_computable_by_hand() -> None:
    # The prediction is whether the bright bar is seen right of the middle: for a bar on the right, at 11 of 24 angles
    # it is, at 11 it is not, at 90 and 270 degrees both sides are equal and the first class (not right) is said.
    images = torch.zeros(1, 1, SIZE, SIZE, dtype=torch.uint8)
    images[0, 0, 8, 10:14] = 255

    def function(x: torch.Tensor) -> torch.Tensor:
        right = x[:, 0, :, 9:].sum((1, 2)) - x[:, 0, :, :8].sum((1, 2))
        return torch.stack([torch.full_like(right, 1e-2), right], 1)

    data = Inputs(torch.cat([images, images.flip(-1)]), torch.tensor([1, 0]), scene(SIZE, 0.0), True)
    measured = full(function, data)
    # Right image: right at 0, ±15 … ±75 (11 angles); left image: class 0 at all but 11 angles around 180.
    assert measured.acc_orbit_pct == pytest.approx(100 * (11 + 13) / 48)
    assert measured.acc_worst_angle_pct == pytest.approx(0.0)
    # Angle by angle, from 0 in steps of 15: both images right at 0 … 75 and 285 … 345, the left one alone at a
    # quarter turn, where both sides are equal, neither between.
    assert measured.acc_by_angle_pct == [100.0] * 6 + [50.0] + [0.0] * 11 + [50.0] + [100.0] * 5
    assert measured.consistency_pct == pytest.approx(100 * (10 + 12) / 46)


def test_the_divergence_is_its_sum() -> None:
    orbit = 3 * torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(2))
    total = 0.0
    for moved in orbit[1:].double().softmax(-1):
        for p, q in zip(orbit[0].double().softmax(-1), moved, strict=True):
            total += sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True))
    assert divergence_nats(orbit) == pytest.approx(total / (4 * 7), rel=1e-9)
    # By hand: (1/2, 1/2) against (1/4, 3/4) is ln 2 - ln 3 / 2.
    pair = torch.tensor([[[0.0, 0.0]], [[0.0, math.log(3)]]], dtype=torch.float64)
    assert divergence_nats(pair) == pytest.approx(math.log(2) - math.log(3) / 2)
    assert divergence_nats(orbit + 5) == pytest.approx(divergence_nats(orbit), rel=1e-6), "an offset is no change"
    assert divergence_nats(orbit[:1].expand(3, 7, 4)) == 0


def by_the_formula(orbit: np.ndarray) -> float:
    """Normalised variance, word for word: `orbit` is (transformations, images, logits)."""
    moves, images, classes = orbit.shape
    ratios = []
    for k in range(classes):
        of_transformations = sum(np.std(orbit[:, i, k], ddof=1) for i in range(images)) / images
        of_images = sum(np.std(orbit[g, :, k], ddof=1) for g in range(moves)) / moves
        ratios.append(1.0 if of_transformations == of_images == 0 else of_transformations / of_images)
    return sum(ratios) / classes


def by_the_package(orbit: np.ndarray) -> float:
    """The same by its authors."""
    tmeasures = pytest.importorskip(
        "tmeasures", reason="a reference that is no dependency: pip install tmeasures statsmodels"
    )

    class Iterator:
        def layer_names(self) -> list[str]:
            return ["logits"]

        def samples_first(self):
            for i in range(orbit.shape[1]):
                yield None, [(None, [orbit[:, i]])]

        def transformations_first(self):
            for moved in orbit:
                yield None, [(None, [moved])]

    (ratios,) = tmeasures.np.NormalizedVarianceInvariance().eval(Iterator()).layers
    return float(ratios.mean())


@pytest.mark.parametrize("reference", [by_the_formula, by_the_package])
def test_the_normalised_variance_is_that_of_its_authors(reference) -> None:
    random = np.random.RandomState(4)
    orbit = random.normal(0, 1, (24, 9, 4)) + 3 * random.normal(0, 1, (1, 9, 4))
    orbit[..., 3] = 2.5  # a logit that never changes
    found = normalised_variance(torch.from_numpy(orbit))
    assert 0.3 < found < 1 and found == pytest.approx(reference(orbit), rel=1e-9)


def test_the_normalised_variance_of_known_orbits() -> None:
    random = torch.Generator().manual_seed(6)
    plain = torch.randn(1, 300, 3, generator=random)
    assert normalised_variance(plain.expand(24, 300, 3)) == pytest.approx(0, abs=1e-6), "invariant"
    assert normalised_variance(torch.randn(24, 300, 3, generator=random)) == pytest.approx(1, abs=0.05), "unrelated"
    assert normalised_variance(torch.randn(24, 1, 3, generator=random).expand(24, 300, 3)) is None


def test_where_labels_do_not_survive_rotation_there_are_no_accuracies() -> None:
    measured = full(lambda x: x.flatten(1) @ linear(), inputs(rotation=False))
    assert measured.acc_orbit_pct is None and measured.acc_worst_angle_pct is None
    assert measured.consistency_pct is not None and measured.eq_rot_data is not None


def test_a_collapsed_model_is_flagged_not_praised() -> None:
    measured = full(lambda x: torch.ones(len(x), 3) + 1e-9 * x.mean())
    assert measured.collapsed
    assert (measured.eq_rot_data, measured.eq_floor, measured.lee_rot_per_deg, measured.consistency_pct) == (None,) * 4
    assert (measured.eq_rot_data_abs, measured.nv_rot_data, measured.kl_rot_data_nats) == (None,) * 3


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
        other = full(function, Inputs(data.images[order], data.labels[order], data.scene, True))
    names = [
        "eq_rot_data",
        "eq_floor",
        "nv_rot_data",
        "lee_rot_per_deg",
        "lee_shift_per_px",
        "consistency_pct",
        "acc_orbit_pct",
    ]
    # The bridges that are made for it do see the scale.
    names += [] if change == "scale" else ["eq_rot_data_abs", "kl_rot_data_nats"]
    for name in names:
        assert getattr(other, name) == pytest.approx(getattr(plain, name), rel=1e-4), name
    if change == "scale":
        assert other.eq_rot_data_abs == pytest.approx(3 * plain.eq_rot_data_abs, rel=1e-4)


def test_without_predictions_only_the_errors_are_measured() -> None:
    weights = linear()
    whole, part = (full(lambda x: x.flatten(1) @ weights, predictions=p) for p in (True, False))
    assert part.consistency_pct is None and part.acc_orbit_pct is None
    assert part.eq_rot_data == pytest.approx(whole.eq_rot_data, rel=1e-5)
    assert part.nv_rot_data == pytest.approx(whole.nv_rot_data, rel=1e-5)
    assert part.eq_floor == pytest.approx(whole.eq_floor, rel=1e-5)


def test_a_layer_without_forward_derivative_costs_only_the_lie_derivative() -> None:
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

    weights = linear()
    measured, note = noted(lambda x: Opaque.apply(x).flatten(1) @ weights)
    assert measured.lee_rot_per_deg is None and "no Lie derivative" in note
    assert measured.eq_rot_data is not None and not measured.collapsed


def test_every_prefix_of_the_balanced_order_is_balanced() -> None:
    labels = np.array([0] * 50 + [1] * 5 + [2] * 20)
    order = balanced_order(labels, 3, 30)
    assert len(order) == 30 and len(set(order)) == 30
    assert labels[order[:6]].tolist() == [0, 1, 2] * 2 and labels[order[:15]].tolist().count(1) == 5
    assert order[:3].tolist() == [0, 50, 55]
    assert len(balanced_order(labels, 3, 1000)) == 75
