"""The two figures of ``docs/equivariance-error.md``, computed again from real digits; a minute or two on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ..measures.accuracy import logits
from ..measures.equivariance import draw_blobs, relative_error
from ..measures.invariance import claim_error
from ..measures.rotation import Turntable, soft_disc, turn
from ..tools.files import ensure_writable
from ..training.prepare import set_profile
from .equivariance import Sample, built
from .equivariance_plots import plot_interpolation, plot_parity

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
    ground = [b * sample.maximum for b in sample.background]
    model, size = RadialNet(), sample.images.shape[-1]
    disc = (sample.images.float() - ground[0]) * soft_disc(size) + ground[0]
    table = Turntable(sample.images, ground)
    blobs = draw_blobs(len(sample.images), 1, size)

    def curve(rotated: Callable[[float], torch.Tensor], still: torch.Tensor) -> list[float]:
        plain = logits(model, still, sample.prepare)
        origin = logits(model, torch.zeros_like(still[:1]), lambda x: x)
        moved = [logits(model, rotated(t), sample.prepare) for t in DEGREES]
        return [relative_error([plain, m], origin) or 0.0 for m in moved]

    def closed_form(degrees: float) -> torch.Tensor:
        return (blobs.sample(size, degrees, sample.background) * sample.maximum).float()

    def simply(mode: str) -> Callable[[float], torch.Tensor]:
        return lambda t: turn(disc - ground[0], t, mode) + ground[0]

    curves = {
        "bilinear rotation": curve(simply("bilinear"), disc),
        "bicubic rotation": curve(simply("bicubic"), disc),
        "eq_floor": curve(table.back_and_forth, table.back_and_forth(0)),
        "eq_rot_data": curve(table.rotated, table.rotated(0)),
        "eq_rot_analytic": curve(closed_form, closed_form(0)),
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
    model = built(name, sample, size)
    if not isinstance(model, nn.Module):
        return None
    return claim_error(model, sample.at(size)[:PARITY_IMAGES], sample.prepare, "C4")


def documentation_figures(out: Path, data_folder: str | None = None) -> list[Path]:
    """Both figures, each as SVG and as PNG.

    Raises:
        UserError: `out` cannot be written.
    """
    ensure_writable(out)
    set_profile("strict", 1)
    return interpolation_figure(out, data_folder) + parity_figure(out, data_folder)
