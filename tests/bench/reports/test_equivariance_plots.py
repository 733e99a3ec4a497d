"""Pictures: the same bytes for the same figures, gaps where nothing can be said."""

from pathlib import Path

from equibench.bench.reports.equivariance_plots import plot_angles, plot_depth


def test_a_picture_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    curves = {"one": [1e-6, 0.5, None], "two": [None, None, None]}
    first, second = (plot_angles([0, 1, 2], curves, "title", tmp_path / f"{n}.png")[0] for n in (1, 2))
    other = plot_angles([0, 1, 2], {"one": [1e-6, 1e-6, 0.5]}, "title", tmp_path / "other.png")[0]
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()


def test_curves_and_depth_are_drawn_with_gaps(tmp_path: Path) -> None:
    (angle,) = plot_angles([0, 120, 240], {"28 px": [0.0, None, 0.5]}, "title", tmp_path / "angle.png")
    series = {"quarter turns": {"a": 1e-7, "b": None}, "others": {"a": 0.1, "b": 0.2}}
    (depth,) = plot_depth(series, "title", tmp_path / "depth.png")
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in (angle, depth))
