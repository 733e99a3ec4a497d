"""Pictures: the same bytes for the same figures, gaps where nothing can be said."""

from pathlib import Path

from equibench.bench.reports.equivariance_plots import plot_angles, plot_depth, plot_parity


def test_a_picture_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    errors = {"one": [1e-6, 0.5, None], "two": [None, None, None]}
    first = plot_parity((28, 29, 30), errors, "title", tmp_path / "a" / "parity")
    second = plot_parity((28, 29, 30), errors, "title", tmp_path / "b" / "parity")
    assert [p.suffix for p in first] == [".svg", ".png"]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    other = plot_parity((28, 29, 30), {"one": [1e-6, 1e-6, 0.5]}, "title", tmp_path / "c" / "parity")
    assert first[0].read_bytes() != other[0].read_bytes()


def test_curves_and_depth_are_drawn_with_gaps(tmp_path: Path) -> None:
    (angle,) = plot_angles([0, 120, 240], {"28 px": [0.0, None, 0.5]}, "title", tmp_path / "angle.png")
    series = {"quarter turns": {"a": 1e-7, "b": None}, "others": {"a": 0.1, "b": 0.2}}
    (depth,) = plot_depth(series, "title", tmp_path / "depth.png")
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in (angle, depth))
