"""The proof behind the claims about PDO-eConv: order of convergence, exactness on the grid, error at the pixel pitch.

No interpolation enters anywhere, see `closed_form`. All functions return rows, dictionaries of plain numbers and
strings; `ok` says whether the row is as theory demands (or, for the pitch of the pixels, as the documentation claims).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ...groups import PlanarGroup, rotation, transform_fields, transform_image
from ..layers import GroupConv1x1, PDOConv, PDOLift
from ..networks import PAPER_OFFSET
from ..operators import PAPER_OPERATORS, coefficient_units
from ..stencils import DEFAULT_WIDTHS
from .closed_form import blobs, disc_points, field_samples, image_samples, turn_error, waves

Row = dict[str, Any]

#: Grid steps of the convergence test; the disc of test points has radius 0.6.
PITCHES = (0.1, 0.05, 0.025, 0.0125, 0.00625)
#: Groups and the angles in degrees at which they are tested: the first is in the group, the others are not.
ANGLES = {
    "p4": (90.0, 45.0, 17.3),
    "p8": (45.0, 17.3, 111.7),
    "p6": (60.0, 30.0, 17.3),
    "p4m": (90.0, 45.0, 17.3),
    "p6m": (60.0, 30.0, 17.3),
    "p8m": (45.0, 17.3, 111.7),
}
#: What counts as zero in float64 relative to the features.
EXACT = 1e-12
#: How far the last slope may be from the order of the stencil: 1.9 to 2.1 for the second.
SLOPE_TOLERANCE = 0.1
#: The order of the equivariance error in the grid step.
ORDERS = {"fd": 2, "gauss": 2, "gauss7": 4}
#: Where a slope is read: the error of the fourth-order stencils meets the rounding error soon after.
_LAST = {"fd": 5, "gauss": 5, "gauss7": 4}
#: Images and weights that the error at the pitch of the pixels is averaged over.
_DRAWS = 4
#: Test points of one convergence error, and of one error at the pitch of the pixels.
_POINTS = {"convergence": 100, "pitch": 24}


def physical_layer(
    kind: type[PDOConv], fields: tuple[int, int], pitch: float, generator: np.random.Generator, **options: Any
) -> PDOConv:
    """A layer whose operators have random coefficients that do not depend on the pitch, as the claim demands.

    ``beta_ij ~ N(0, 0.1^2) 0.12^(i + j)`` in units of the plane, which keeps tanh off saturation; on the grid it is
    ``beta_ij / pitch^(i + j)``.
    """
    layer = kind(*fields, weights="coefficients", **options).double()
    orders = np.array([i + j for i, j in PAPER_OPERATORS])
    beta = generator.normal(0, 0.1, tuple(layer.weight.shape)) * (0.12 / pitch) ** orders
    units = coefficient_units(PAPER_OPERATORS, layer.stencil, layer.kernel_size)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(beta * units))
    return layer


def convergence_error(
    kind: str, group: str, stencil: str, transform: np.ndarray, pitch: float, *, offset: float = 0.0, seed: int = 0
) -> float:
    """Equivariance error in float64 at one grid step.

    Args:
        kind: ``"lift"`` (Psi alone), ``"group"`` (Phi alone, on a closed-form field over the group) or
            ``"lift-tanh-group"``.
        group, stencil, offset: as `PDOConv`.
        transform: Q (2, 2).
        pitch: grid step on the scale of the unit disc.
        seed: of functions, weights and test points.

    Raises:
        ValueError: the kind is unknown.
    """
    generator = np.random.default_rng(seed)
    options = {"group": group, "stencil": stencil, "offset": offset}
    image, fields = waves(generator), [waves(generator, turning=True) for _ in range(2)]

    def layer(which: type[PDOConv], sizes: tuple[int, int]) -> PDOConv:
        return physical_layer(which, sizes, pitch, generator, **options)

    if kind == "group":
        layers = [layer(PDOConv, (2, 2))]
        samples = field_samples(fields, layers[0].frames, transform)
    elif kind in ("lift", "lift-tanh-group"):
        layers = [layer(PDOLift, (1, 2))] + ([layer(PDOConv, (2, 2))] if kind != "lift" else [])
        samples = image_samples(lambda points: image(points, np.eye(2)[None])[0])
    else:
        raise ValueError(f"kind={kind!r}: the choices are 'lift', 'group' and 'lift-tanh-group'")
    return turn_error(layers, samples, transform, disc_points(generator, _POINTS["convergence"], 0.6), pitch)


def convergence_row(kind: str, group: str, stencil: str, degrees: float, mirrored: bool = False) -> Row:
    """Errors over `PITCHES` and the slopes between them, in powers of the grid step.

    Where the transform carries the pixel grid into itself, theory demands exactness: `ok` where the error on the
    coarsest grid is a rounding error (which grows with h^-4 as the grid gets finer), and `slope` is None. Elsewhere
    `slope` is the last one, `ok` within 0.1 of the order of the stencil.

    Args:
        kind, group, stencil: as `convergence_error`; p8 and p8m have the frame offset of the paper, the others none.
        degrees, mirrored: the transform, R(degrees) F^mirrored.
    """
    transform = rotation(math.radians(degrees)) @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    offset = PAPER_OFFSET if group in ("p8", "p8m") else 0.0
    pitches = PITCHES[: _LAST[stencil]]
    errors = [convergence_error(kind, group, stencil, transform, h, offset=offset) for h in pitches]
    slopes = [
        math.log(a / b) / math.log(h / k) if min(a, b) > 0 else None
        for a, b, h, k in zip(errors, errors[1:], pitches, pitches[1:], strict=False)
    ]
    exact = bool(np.abs(transform - np.rint(transform)).max() < EXACT)
    order, slope = ORDERS[stencil], None if exact else slopes[-1]
    return {
        "kind": kind,
        "group": group,
        "stencil": stencil,
        "angle_deg": degrees,
        "mirrored": mirrored,
        "in_group": _contains(PlanarGroup.parse(group), transform),
        "pitches": list(pitches),
        "errors": errors,
        "slopes": slopes,
        "slope": slope,
        "expected": "exact" if exact else order,
        "ok": errors[0] <= EXACT if exact else slope is not None and abs(slope - order) <= SLOPE_TOLERANCE,
    }


def _contains(group: PlanarGroup, transform: np.ndarray) -> bool:
    return any(np.abs(group.matrix(g) - transform).max() < 1e-9 for g in group.elements)


def convergence_rows() -> list[Row]:
    """Every group at every angle with the paper's stencils; the other stencils at p8 and p6m."""
    rows = []
    for group, angles in ANGLES.items():
        for kind in ("lift", "group", "lift-tanh-group"):
            rows += [convergence_row(kind, group, "fd", angle) for angle in angles]
            if group.endswith("m"):
                rows += [convergence_row(kind, group, "fd", angle, True) for angle in (angles[0], 17.3)]
    for stencil in ("gauss", "gauss7"):
        for group in ("p8", "p6m"):
            rows += [convergence_row(kind, group, stencil, ANGLES[group][0]) for kind in ("lift", "group")]
    return rows


def exactness_row(group: str, stencil: str, offset: float = 0.0) -> Row:
    """Equivariance error of a small network under the grid symmetries of a group, on noise with zero padding.

    Lifting layer, ReLU, group layer pooled to half the size, ReLU, group layer, 1x1 group layer; 16 pixels, float64.
    `error` is the largest difference over all symmetries over the largest feature; `ok` at 1e-12 and below.
    """
    own = PlanarGroup.parse(group)
    options: dict[str, Any] = {"group": own, "stencil": stencil, "offset": offset}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            PDOLift(1, 2, **options),
            nn.ReLU(),
            PDOConv(2, 2, pooled=True, **options),
            nn.ReLU(),
            PDOConv(2, 2, **options),
            GroupConv1x1(2, 2, group=own),
        ).double()
        noise = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        features = network(noise)
        errors = [
            (network(transform_image(noise, own, s)) - transform_fields(features, own, s)).abs().max().item()
            for s in own.grid_symmetries()
        ]
    error = max(errors) / features.abs().max().item()
    turns = sum(s < own.rotations for s in own.grid_symmetries())
    return {
        "group": group,
        "stencil": stencil,
        "offset_deg": math.degrees(offset),
        "symmetries": f"{360 // turns}° turns" + (" and flips" if own.mirrored else ""),
        "error": error,
        "ok": error <= EXACT,
    }


def exactness_rows() -> list[Row]:
    """Every group and stencil, without an offset and with that of the paper."""
    return [
        exactness_row(group, stencil, offset)
        for group in ANGLES
        for stencil in DEFAULT_WIDTHS
        for offset in (0.0, PAPER_OFFSET)
    ]


def pitch_row(stencil: str, depth: int, *, group: str = "p8", degrees: float = 45.0, fields: int = 3) -> Row:
    """Equivariance error at the pitch of the pixels, as a network has it at initialisation.

    `depth` layers of He-random weights with ReLU in between, on blobs of 1 to 1.5 pixels in 28, over four draws of
    images and weights. `error` is the difference over the standard deviation of the features, its mean over the
    draws; `error_half` and `error_quarter` the same where the image is sampled twice and four times as finely.
    """
    transform = rotation(math.radians(degrees))
    errors = np.array([_pitch_errors(stencil, depth, group, transform, fields, seed) for seed in range(_DRAWS)])
    keys = ("error", "error_half", "error_quarter")
    means = errors.mean(0).tolist()
    row: Row = {"stencil": stencil, "depth": depth, "group": group, "angle_deg": degrees}
    return row | dict(zip(keys, means, strict=True))


def _pitch_errors(stencil: str, depth: int, group: str, transform: np.ndarray, fields: int, seed: int) -> list[float]:
    generator = np.random.default_rng(seed)
    image = blobs(generator)
    centres = disc_points(generator, _POINTS["pitch"], 9.0)
    options: dict[str, Any] = {"group": group, "stencil": stencil, "offset": PAPER_OFFSET}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[PDOConv] = [PDOLift(1, fields, **options)]
        layers += [PDOConv(fields, fields, **options) for _ in range(depth - 1)]
    # Double precision where the error goes down to 1e-6; deeper networks have errors of 1e-2 and take ten times longer.
    layers = [layer.double() if depth == 1 else layer for layer in layers]
    return [turn_error(layers, image_samples(image), transform, centres, h, F.relu) for h in (1.0, 0.5, 0.25)]


def pitch_rows() -> list[Row]:
    """The stencils side by side over depths 1, 3 and 6: p8 at 45 degrees. `ok` where they beat `fd`."""
    rows = [pitch_row(stencil, depth) for depth in (1, 3, 6) for stencil in DEFAULT_WIDTHS]
    reference = {row["depth"]: row["error"] for row in rows if row["stencil"] == "fd"}
    return [{**row, "ok": row["stencil"] == "fd" or row["error"] < reference[row["depth"]]} for row in rows]


#: The parts of the proof, in the order in which they are shown.
PARTS: dict[str, Callable[[], list[Row]]] = {
    "convergence": convergence_rows,
    "exactness": exactness_rows,
    "pitch": pitch_rows,
}


def verify(
    parts: Sequence[str] = tuple(PARTS), on_part: Callable[[str], None] = lambda _: None
) -> dict[str, list[Row]]:
    """The proof, part by part.

    Args:
        parts: names out of `PARTS`.
        on_part: called with the name of each part before it is computed.

    Raises:
        ValueError: a part is unknown.
    """
    rows = {}
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"part {part!r}: the parts are {', '.join(map(repr, PARTS))}")
        on_part(part)
        rows[part] = PARTS[part]()
    return rows
