"""Steerable kernels: the same functions as escnn's, a layer with exactly its kernels, and what rotations do."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from equibench.models.escnn_adapter import kernel_basis as escnn_kernels
from equibench.models.filter_basis import BasisConv
from equibench.models.groups import PlanarGroup, transform_fields, transform_image
from equibench.models.steerable_kernels import kernel_basis, kernel_functions, rings
from equibench.registry import UserError, build_model

torch.set_num_threads(1)

C8 = PlanarGroup(8)


def rotation(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def projector(rows: np.ndarray) -> np.ndarray:
    """The orthogonal projection onto the span of the rows."""
    _, singular, right = np.linalg.svd(rows.reshape(len(rows), -1).astype(np.float64), full_matrices=False)
    kept = right[singular > 1e-4 * singular[0]]
    return kept.T @ kept


def layer(lifting: bool, size: int) -> BasisConv:
    basis = partial(kernel_basis, rotations=8, kernel_size=size)
    return BasisConv(1, 1, group="C8", basis=basis, lifting=lifting).double()


@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("lifting", [True, False])
def test_filters_span_exactly_the_kernels_of_escnn(size: int, lifting: bool) -> None:
    """All kernels (out, in, k, k) that a layer can have, and those that escnn samples: one space."""
    conv = layer(lifting, size)
    ours = []
    for index in range(conv.weight.numel()):
        with torch.no_grad():
            conv.weight.zero_().view(-1)[index] = 1.0
            ours.append(conv.expanded().numpy())
    theirs = escnn_kernels("C8", "trivial" if lifting else "regular", "regular", size).filters
    assert len(ours) == len(theirs)
    # escnn numbers the group as we do and rotates counter-clockwise; its samples are float32.
    np.testing.assert_allclose(projector(np.stack(ours)), projector(theirs), rtol=0, atol=2e-5)


@pytest.mark.parametrize(("size", "count"), [(3, 6), (5, 11), (7, 18)])
def test_functions_at_turned_points(size: int, count: int) -> None:
    """A slow reference: every function, pixel and frame by itself."""
    angles = [0.0, 0.3, math.pi / 4, math.pi / 2]
    found = kernel_functions(np.stack([rotation(a) for a in angles]), size)
    assert found.shape == (4, count, size, size)
    for frame, angle in enumerate(angles):
        for row in range(size):
            for column in range(size):
                x, y = column - size // 2, size // 2 - row
                r, phi = math.hypot(x, y), math.atan2(y, x) - angle
                wanted = []
                for middle, sigma, highest in rings(size):
                    ring = math.exp(-((r - middle) ** 2) / (2 * sigma**2))
                    wanted.append(ring)
                    for m in range(1, highest + 1):
                        wanted += [ring * math.cos(m * phi) * (r > 0), ring * math.sin(m * phi) * (r > 0)]
                np.testing.assert_allclose(found[frame, :, row, column], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lifting", [True, False])
def test_quarter_turns_are_exact(lifting: bool) -> None:
    conv = layer(lifting, 5)
    images = torch.randn(2, conv.in_order, 11, 11, dtype=torch.double)
    quarter = PlanarGroup(4)
    for g in range(1, 4):
        moved = transform_image(images, quarter, g) if lifting else transform_fields(images, C8, 2 * g)
        torch.testing.assert_close(conv(moved), transform_fields(conv(images), C8, 2 * g), rtol=0, atol=1e-12)


def test_the_network_is_invariant_under_quarter_turns_and_nothing_else() -> None:
    torch.manual_seed(0)
    net = build_model("steerable-kernel-c8", 1, 10, 28).double().eval()
    images, quarter = torch.randn(2, 1, 28, 28, dtype=torch.double), PlanarGroup(4, mirrored=True)
    with torch.no_grad():
        plain, *moved = [net(transform_image(images, quarter, g)) for g in quarter.elements]
    for g, logits in enumerate(moved, 1):
        assert ((logits - plain).abs().max() < 1e-10) == (g < quarter.rotations)


def test_what_cannot_be_built_is_named() -> None:
    with pytest.raises(UserError, match="3, 5, 7"):
        build_model("steerable-kernel-c8-k4-w8", 1, 10, 28)
    with pytest.raises(UserError, match=r"need \d+ or more"):
        build_model("steerable-kernel-c8", 1, 10, 14)
