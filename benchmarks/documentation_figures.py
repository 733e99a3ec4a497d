"""The two figures of ``docs/equivariance-error.md``, computed again from real digits; a minute or two on a CPU.

uv run python benchmarks/documentation_figures.py docs/figures
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from equibench.bench.measures.accuracy import logits
from equibench.bench.measures.equivariance import relative_error
from equibench.bench.measures.invariance import claim_error
from equibench.bench.measures.rotation import ImageRotator, rotate, soft_disc
from equibench.bench.reports.equivariance import Sample, build_at_size
from equibench.bench.reports.equivariance_plots import COLOURS, FLOOR, MARKERS, STYLE, save, with_gaps
from equibench.bench.tools.files import ensure_writable
from equibench.bench.training.prepare import set_profile
from matplotlib import pyplot as plt
from torch import nn

DATASET = "digits-rot"
DEGREES = tuple(range(5, 90, 5))
#: Name -> how it halves its maps.
PARITY_MODELS = {
    "p4cnn": "p4cnn (2x2 pooling)",
    "pdo-econv-p8": "pdo-econv-p8 (2x2 pooling)",
    "e2cnn-c8-25k": "e2cnn-c8-25k (2x2 pooling)",
    "p4-all-cnn-c": "p4-all-cnn-c (stride 2)",
    "wrn-10-b9": "wrn-10-b9 (no group)",
}
PARITY_SIZES = tuple(range(28, 35))
PARITY_IMAGES = 20
#: Below this an error is rounding, in the picture of grid parity.
ROUNDING = 1e-5


class RadialNet(nn.Module):
    """A network that is rotation-invariant but for the grid: Gaussian and Laplacian filters, ReLU, squares, means.

    Shapes:
        (B, 1, H, W) -> (B, 10), float64.
    """

    filters: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        axis = torch.arange(-5, 6, dtype=torch.float64)
        square = axis[:, None] ** 2 + axis[None, :] ** 2
        bell = torch.exp(-square / (2 * 1.2**2))
        hat = bell * (square / 1.2**2 - 2)
        hat = hat - bell * hat.sum() / bell.sum()
        self.register_buffer("filters", torch.stack([bell / bell.sum(), hat / hat.abs().sum()])[:, None])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        conv = torch.nn.functional.conv2d
        first = conv(images.double(), self.filters, padding=5)
        second = conv(first[:, 1:].relu(), self.filters, padding=5)
        maps = torch.cat([first, first.square(), second, second.relu(), second.square()], 1)
        return maps.mean((2, 3))


def interpolation_figure(out: Path, data_folder: str | None = None) -> list[Path]:
    """``interpolation-error``: one nearly invariant network, and what five ways of rotating its input say of it."""
    sample = Sample.of(DATASET, data_folder, torch.device("cpu"))
    model, scene = RadialNet(), sample.scene
    ground = [b * scene.maximum for b in scene.background]
    disc = (sample.images.float() - ground[0]) * soft_disc(scene.size) + ground[0]
    table = ImageRotator(sample.images, ground)
    blobs = scene.blobs(len(sample.images))

    def curve(rotated: Callable[[float], torch.Tensor], still: torch.Tensor) -> list[float]:
        plain = logits(model, still, scene.prepare)
        origin = logits(model, torch.zeros_like(still[:1]), lambda x: x)
        moved = [logits(model, rotated(t), scene.prepare) for t in DEGREES]
        return [relative_error([plain, m], origin) or 0.0 for m in moved]

    def simply(mode: str) -> Callable[[float], torch.Tensor]:
        return lambda t: rotate(disc - ground[0], t, mode) + ground[0]

    curves = {
        "bilinear rotation": curve(simply("bilinear"), disc),
        "bicubic rotation": curve(simply("bicubic"), disc),
        "eq_floor": curve(table.back_and_forth, table.back_and_forth(0)),
        "eq_rot_data": curve(table.rotated, table.rotated(0)),
        "eq_rot_analytic": curve(partial(scene.image, blobs), scene.image(blobs, 0)),
    }
    title = "A nearly invariant network: most of the apparent error is interpolation"
    return plot_interpolation(DEGREES, curves, title, out / "interpolation-error")


def parity_figure(out: Path, data_folder: str | None = None) -> list[Path]:
    """``grid-parity``: error under exact quarter turns, at initialisation, against the size of the image."""
    sample = Sample.of(DATASET, data_folder, torch.device("cpu"))
    errors = {label: [_parity(name, sample, n) for n in PARITY_SIZES] for name, label in PARITY_MODELS.items()}
    title = "Quarter turns at initialisation: the size of the image decides which network is exact"
    return plot_parity(PARITY_SIZES, errors, title, out / "grid-parity")


def _parity(name: str, sample: Sample, size: int) -> float | None:
    model = build_at_size(name, sample, size)
    if not isinstance(model, nn.Module):
        return None
    return claim_error(model, sample.at(size)[:PARITY_IMAGES], sample.scene.prepare, "C4")


def plot_interpolation(
    degrees: Sequence[float], curves: Mapping[str, Sequence[float]], title: str, stem: Path
) -> list[Path]:
    """What different ways to rotate an image make of one network's error, logarithmic."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 4.0))
        for (label, values), colour, marker in zip(curves.items(), COLOURS, MARKERS, strict=False):
            dashed = {"ls": "--", "marker": None} if "floor" in label else {"marker": marker}
            axes.plot(degrees, values, color=colour, ms=4.5, lw=1.5, label=label, **dashed)
        axes.set_yscale("log")
        axes.set(xticks=range(0, 91, 15), xlabel="rotation of the input in degrees", ylabel="apparent relative error")
        axes.set_title(title, loc="left", fontsize=10.5)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return save(figure, [stem.with_suffix(".svg"), stem.with_suffix(".png")])


def plot_parity(
    sizes: Sequence[int], errors: Mapping[str, Sequence[float | None]], title: str, stem: Path
) -> list[Path]:
    """Error under quarter turns against the size of the image, logarithmic; sizes that cannot be built are gaps."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 4.0))
        step = 0.6 / max(len(errors) - 1, 1)
        for place, ((label, values), colour, marker) in enumerate(zip(errors.items(), COLOURS, MARKERS, strict=False)):
            shown = with_gaps([None if v is None else max(v, FLOOR) for v in values])
            # Side by side: points at one size would hide each other, and there is nothing between two sizes.
            axes.plot([n - 0.3 + place * step for n in sizes], shown, marker, color=colour, ms=6, label=label)
        for n in (*sizes, sizes[-1] + 1):
            axes.axvline(n - 0.5, color="#dddddd", lw=0.8, zorder=0)
        axes.grid(False, axis="x")
        axes.axhspan(ROUNDING / 100, ROUNDING, color="#eeeeee", zorder=0)
        axes.text(sizes[0] - 0.45, ROUNDING / 80, "float32 rounding", fontsize=8.5, color="#555555", va="bottom")
        axes.set_yscale("log")
        axes.set(ylim=(ROUNDING / 100, 4), xlim=(sizes[0] - 0.5, sizes[-1] + 0.5))
        axes.set(xticks=list(sizes), xlabel="side of the image in pixels", ylabel="eq_exact_c4")
        axes.set_title(title, loc="left", fontsize=10.5)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return save(figure, [stem.with_suffix(".svg"), stem.with_suffix(".png")])


def main() -> None:
    """Draw both figures, each as SVG and as PNG."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("out", type=Path, help="folder of the figures")
    asked.add_argument("--data-root", help="folder of the data sets")
    given = asked.parse_args()
    ensure_writable(given.out, "out")
    set_profile("strict", 1)
    for path in interpolation_figure(given.out, given.data_root) + parity_figure(given.out, given.data_root):
        print(path)


if __name__ == "__main__":
    main()
