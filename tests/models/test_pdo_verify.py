"""The proof behind `equibench verify pdo-econv`: it holds, and it would notice what does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from equibench.models.groups import rotation
from equibench.models.pdo import operators
from equibench.models.pdo.layers import PDOConv, PDOLift
from equibench.models.pdo.proof import report, verify
from equibench.models.pdo.proof.closed_form import field_samples, patch_points, waves

SUBSET = [
    ("lift", "p4", "fd", 17.3, False, 2),
    ("lift", "p8", "fd", 45.0, False, 2),
    ("group", "p8", "fd", 111.7, False, 2),
    ("group", "p6", "fd", 60.0, False, 2),
    ("lift", "p6m", "fd", 60.0, True, 2),
    ("group", "p4m", "fd", 17.3, True, 2),
    ("lift", "p8", "gauss", 45.0, False, 2),
    ("lift", "p6", "gauss7", 17.3, False, 4),
    ("lift-tanh-group", "p6", "fd", 30.0, False, 2),
]


@pytest.mark.parametrize(("kind", "group", "stencil", "degrees", "mirrored", "order"), SUBSET)
def test_the_error_vanishes_with_the_order_of_the_stencil(
    kind: str, group: str, stencil: str, degrees: float, mirrored: bool, order: int
) -> None:
    row = verify.convergence_row(kind, group, stencil, degrees, mirrored)
    assert order - 0.1 <= row["slope"] <= order + 0.1
    assert row["errors"] == sorted(row["errors"], reverse=True)
    assert 1e-4 < row["errors"][0] < 0.5  # the coarsest grid has an error worth the name
    assert row["ok"] and row["expected"] == order


@pytest.mark.parametrize(("group", "degrees", "mirrored"), [("p4", 90, False), ("p4m", 90, True), ("p6", 180, False)])
@pytest.mark.parametrize("kind", ["lift", "group"])
def test_symmetries_of_the_grid_are_exact(kind: str, group: str, degrees: float, mirrored: bool) -> None:
    row = verify.convergence_row(kind, group, "fd", degrees, mirrored)
    assert row["expected"] == "exact" and row["slope"] is None and row["in_group"] and row["ok"]
    assert row["errors"][0] <= 1e-12


def test_only_what_is_in_the_group_is_said_to_be() -> None:
    turned = {angle: verify.convergence_row("lift", "p6", "fd", angle)["in_group"] for angle in (60.0, 30.0)}
    assert turned == {60.0: True, 30.0: False}


def test_a_wrong_frame_does_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same test with the frames turned the wrong way: the row says so."""
    right = PDOConv.turned
    monkeypatch.setattr(PDOConv, "turned", lambda layer, transform: right(layer, transform.T))
    row = verify.convergence_row("lift", "p8", "fd", 17.3)
    assert not row["ok"] and row["errors"][-1] > 0.1


def test_one_wrong_stencil_does_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth too much in ∂x alone: the error stays where it is, the slope goes to zero."""
    right = operators.stencil_2d

    def wrong(stencil: str, order_x: int, order_y: int, width: int) -> np.ndarray:
        return right(stencil, order_x, order_y, width) * (1.1 if (order_x, order_y) == (1, 0) else 1.0)

    monkeypatch.setattr(operators, "stencil_2d", wrong)
    operators._stencils.cache_clear()
    try:
        row = verify.convergence_row("lift", "p8", "fd", 45.0)
    finally:
        operators._stencils.cache_clear()
    assert not row["ok"] and row["slope"] < 0.5


def test_exactness_on_noise_and_without_the_coset(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verify.exactness_row("p8", "gauss")["ok"]
    mirrored = verify.exactness_row("p6m", "fd", verify.PAPER_OFFSET)
    assert mirrored["ok"] and mirrored["symmetries"] == "180° turns and flips" and mirrored["offset_deg"] == 22.5

    def obvious(group: object, offset: float = 0.0) -> np.ndarray:
        flips = [np.diag([1.0, -1.0 if g >= 6 else 1.0]) for g in range(12)]
        return np.stack([rotation(math.pi / 3 * (g % 6) + offset) @ flips[g] for g in range(12)])

    monkeypatch.setattr(verify.PlanarGroup, "frames", obvious)
    assert not verify.exactness_row("p6m", "fd", verify.PAPER_OFFSET)["ok"]


def test_at_the_pitch_of_the_pixels_fd_is_worse() -> None:
    fd, gauss = verify.pitch_row("fd", 1), verify.pitch_row("gauss", 1)
    assert gauss["error"] < fd["error"] / 4
    for row in (fd, gauss):
        assert row["error_quarter"] < row["error_half"] < row["error"]
        assert math.log2(row["error_half"] / row["error_quarter"]) > 2.5  # the constant dominates: better than h^2


def test_physical_layers_compute_the_same_operator_at_every_pitch() -> None:
    values = []
    for pitch in (0.02, 0.01):
        generator = np.random.default_rng(3)
        layer = verify.physical_layer(PDOLift, (1, 2), pitch, generator, group="p4", stencil="fd")
        image = waves(np.random.default_rng(5))
        patch = torch.from_numpy(image(patch_points(np.array([[0.1, 0.2]]), 2, pitch), np.eye(2)[None]))
        values.append(torch.nn.functional.conv2d(patch, torch.nn.functional.pad(layer.expanded(), (1,) * 4))[..., 0, 0])
    assert torch.allclose(*values, rtol=0.05)


def test_fields_are_moved_with_their_frames() -> None:
    """`[Q e](x, A) = e(Q^-1 x, Q^-1 A)`; without `turning`, a function of the plane alone."""
    frames, transform = np.stack([rotation(a) for a in (0.0, 1.0, 2.0)]), rotation(0.7)
    points = np.random.default_rng(0).normal(0, 0.3, (5, 2))
    fields = [waves(np.random.default_rng(seed), turning=True) for seed in (1, 2)]
    found = field_samples(fields, frames, transform)(points)
    for f, field in enumerate(fields):
        for k, frame in enumerate(frames):
            alone = field(points, (transform.T @ frame)[None])[0]
            assert np.allclose(found[3 * f + k], alone)
    assert not np.allclose(found[0], found[1])
    plain = waves(np.random.default_rng(1))(points, frames)
    assert np.allclose(plain[0], plain[1])


def test_patches_are_centred_with_y_up() -> None:
    patch = patch_points(np.array([[2.0, 3.0]]), 1, 0.5)[0]
    assert patch.shape == (3, 3, 2)
    assert patch[0, 0].tolist() == [1.5, 3.5] and patch[1, 1].tolist() == [2, 3] and patch[2, 2].tolist() == [2.5, 2.5]


def test_bad_names() -> None:
    with pytest.raises(ValueError, match="kind='both'"):
        verify.convergence_error("both", "p4", "fd", np.eye(2), 0.1)
    with pytest.raises(ValueError, match=r"part 'slopes'.*'convergence', 'exactness', 'pitch'"):
        verify.verify(["slopes"])


def small_rows() -> dict[str, list[verify.Row]]:
    convergence = [verify.convergence_row("lift", "p4", "fd", a) for a in (90.0, 17.3)]
    pitch = [{**verify.pitch_row(s, 1), "ok": True} for s in ("fd", "gauss", "gauss7")]
    return {"convergence": convergence, "exactness": [verify.exactness_row("p4", "fd")], "pitch": pitch}


def test_the_tables_show_what_fails() -> None:
    rows = small_rows()
    for part, (_, table) in zip(rows, report.summary(rows), strict=True):
        assert all(line["ok"] in ("yes", "") for line in table), part
        broken = {part: [{**row, "ok": False} for row in rows[part]]}
        assert any(line["ok"] == "NO" for line in report.summary(broken)[0][1]), part
    first = report.summary(rows)[0][1]
    assert [line["Ψ"] for line in first] == ["exact", f"{rows['convergence'][1]['slope']:.2f}"]
    assert report.plot(rows)[:4] == b"\x89PNG"
    assert report.plot({"exactness": rows["exactness"]}) is None


@pytest.mark.slow
def test_the_whole_proof() -> None:
    rows = verify.verify()
    assert all(row["ok"] for part in rows.values() for row in part)
    single = [row for row in rows["convergence"] if row["kind"] != "lift-tanh-group" and row["stencil"] != "gauss7"]
    assert {row["group"] for row in single} == {"p4", "p6", "p8", "p4m", "p6m", "p8m"}
    assert all(row["slope"] is None or 1.9 <= row["slope"] <= 2.1 for row in single)
    assert {row["depth"] for row in rows["pitch"]} == {1, 3, 6}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_the_slope_does_not_depend_on_the_draw(seed: int) -> None:
    for group, angle in (("p4", 17.3), ("p8", 45.0), ("p6m", 60.0)):
        errors = [
            verify.convergence_error(kind, group, "fd", rotation(math.radians(angle)), h, seed=seed)
            for kind in ("lift", "group")
            for h in verify.PITCHES[-2:]
        ]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1)
        assert math.log2(errors[2] / errors[3]) == pytest.approx(2, abs=0.1)
