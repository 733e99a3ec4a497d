"""The laws of the planar groups and of their actions, for any N."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from equibench.models.groups import PlanarGroup, permute_fields, rotation, transform_fields, transform_image
from hypothesis import given, settings
from hypothesis import strategies as st

GROUPS = st.builds(PlanarGroup, st.integers(1, 13), st.booleans())


@st.composite
def elements(draw: st.DrawFn, count: int) -> tuple[PlanarGroup, ...]:
    group = draw(GROUPS)
    return group, *(draw(st.integers(0, group.order - 1)) for _ in range(count))


@given(elements(3))
def test_the_laws_of_a_group(drawn: tuple) -> None:
    group, a, b, c = drawn
    assert group.product(a, b) in group.elements
    assert group.product(group.product(a, b), c) == group.product(a, group.product(b, c))
    assert group.product(0, a) == group.product(a, 0) == a
    assert group.product(a, group.inverse(a)) == group.product(group.inverse(a), a) == 0


@given(elements(2))
def test_the_matrices_are_a_representation_and_tell_elements_apart(drawn: tuple) -> None:
    group, a, b = drawn
    assert np.abs(group.matrix(a) @ group.matrix(b) - group.matrix(group.product(a, b))).max() < 1e-14
    assert np.abs(group.matrix(a) @ group.matrix(a).T - np.eye(2)).max() < 1e-15
    assert np.linalg.det(group.matrix(a)) == pytest.approx(1 if a < group.rotations else -1)
    assert (np.abs(group.matrix(a) - group.matrix(b)).max() < 1e-9) == (a == b)


@given(elements(2))
def test_relative_and_permutation_are_the_inverse_times_the_element(drawn: tuple) -> None:
    group, g, h = drawn
    assert group.relative()[g, h] == group.product(group.inverse(g), h) == group.permutation(g)[h]


@given(GROUPS, st.floats(-4, 4))
def test_frames_are_a_left_coset(group: PlanarGroup, offset: float) -> None:
    frames = group.frames(offset)
    assert frames.shape == (group.order, 2, 2)
    for g in group.elements:  # every element carries the set of frames into itself: mirror axes stay where they are
        moved = group.matrix(g) @ frames
        places = [group.product(g, h) for h in group.elements]
        assert np.abs(moved - frames[places]).max() < 1e-13


@pytest.mark.parametrize("quarter", range(-9, 10))
def test_rotations_by_multiples_of_90_degrees_are_exact(quarter: int) -> None:
    angle = quarter * math.pi / 2
    matrix = rotation(angle)
    assert set(np.abs(matrix).ravel()) == {0.0, 1.0}
    assert matrix[:, 0] == pytest.approx([math.cos(angle), math.sin(angle)], abs=1e-14)
    assert matrix[:, 1] == pytest.approx([-math.sin(angle), math.cos(angle)], abs=1e-14)


def test_rotations_turn_counter_clockwise_and_close_to_a_quarter_they_are_not_rounded() -> None:
    assert rotation(math.pi / 6) @ [1, 0] == pytest.approx([math.sqrt(3) / 2, 0.5])
    assert rotation(math.pi / 2 + 1e-9)[0, 0] == pytest.approx(-1e-9, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "symmetries"),
    [("C1", 1), ("C2", 2), ("C3", 1), ("C4", 4), ("C6", 2), ("C8", 4), ("C12", 4), ("D1", 2), ("D2", 4),
     ("D3", 2), ("D4", 8), ("D6", 4), ("D8", 8)],
)  # fmt: skip
def test_symmetries_of_the_grid(name: str, symmetries: int) -> None:
    group = PlanarGroup.parse(name)
    found = group.grid_symmetries()
    assert len(found) == symmetries
    assert {group.product(a, b) for a in found for b in found} == set(found)
    for s in found:
        assert set(np.abs(group.matrix(s)).ravel()) == {0.0, 1.0}


@given(elements(1), st.integers(1, 5))
@settings(max_examples=50)
def test_images_are_moved_as_coordinates_are(drawn: tuple, size: int) -> None:
    """The pixel at x goes to s x: `[s f](x) = f(s^-1 x)`, pixel by pixel."""
    group, pick = drawn
    symmetries = group.grid_symmetries()
    s = symmetries[pick % len(symmetries)]
    image = torch.arange(size * size, dtype=torch.float64).view(1, size, size)
    moved, middle = transform_image(image, group, s), (size - 1) / 2
    for row in range(size):
        for column in range(size):
            x, y = group.matrix(s) @ [column - middle, middle - row]
            assert moved[0, round(middle - y), round(x + middle)] == image[0, row, column]


@given(elements(2))
@settings(max_examples=50)
def test_the_action_on_fields_is_an_action(drawn: tuple) -> None:
    group, a, b = drawn
    symmetries = group.grid_symmetries()
    a, b = symmetries[a % len(symmetries)], symmetries[b % len(symmetries)]
    field = torch.arange(1.0, 2 * group.order * 9 + 1).view(1, 2 * group.order, 3, 3)
    once = transform_fields(field, group, group.product(a, b))
    assert transform_fields(transform_fields(field, group, b), group, a).equal(once)
    assert transform_fields(field, group, 0).equal(field)


@given(elements(1))
@settings(max_examples=50)
def test_channels_are_permuted_field_by_field(drawn: tuple) -> None:
    """`[s f](h) = f(s^-1 h)`: what stood at h stands at s h, and fields do not mix."""
    group, s = drawn
    field = torch.arange(2.0 * group.order).view(1, -1, 1)
    moved = permute_fields(field, group, s)
    for c in range(2):
        for h in group.elements:
            assert moved[0, c * group.order + group.product(s, h)] == field[0, c * group.order + h]


@pytest.mark.parametrize("name", ["C8", "p8"])
def test_names_of_rotations(name: str) -> None:
    assert PlanarGroup.parse(name) == PlanarGroup(8) == PlanarGroup.parse(PlanarGroup(8))
    assert PlanarGroup.parse(name).name == "C8"


@pytest.mark.parametrize("name", ["D12", "p12m"])
def test_names_with_reflections(name: str) -> None:
    assert PlanarGroup.parse(name) == PlanarGroup(12, mirrored=True)
    assert PlanarGroup.parse(name).name == "D12"


@pytest.mark.parametrize("name", ["", "C", "8", "c8", "p8n", "C8m", "C-1", "C1.5", " C8", "C8 ", "SO2", "p", "CD8"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="write 'C8' or 'p8'"):
        PlanarGroup.parse(name)


@pytest.mark.parametrize("name", ["C0", "D0", "p0", "p0m"])
def test_an_order_below_one_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"0 rotations.*from 1 on"):
        PlanarGroup.parse(name)


@pytest.mark.parametrize("rotations", [0, -3, 2.0, "4", True, None])
def test_an_order_that_is_none(rotations: object) -> None:
    with pytest.raises(ValueError, match="integer from 1 on"):
        PlanarGroup(rotations)  # type: ignore[arg-type]


def test_bad_elements_channels_and_symmetries() -> None:
    group = PlanarGroup(8)
    for element in (8, -1):
        with pytest.raises(ValueError, match=f"{element}.*from 0 to 7"):
            group.matrix(element)
    with pytest.raises(ValueError, match=r"12 channels.*multiple of 8"):
        group.fields(12)
    with pytest.raises(ValueError, match=r"12 channels.*multiple of 8"):
        permute_fields(torch.zeros(1, 12, 2, 2), group, 1)
    with pytest.raises(ValueError, match=r"element 1 of C8.*\[0, 2, 4, 6\]"):
        transform_image(torch.zeros(3, 3), group, 1)
    assert group.fields(24) == 3
