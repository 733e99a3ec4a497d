"""Everything this package needs from escnn: sampled bases of steerable kernels, and a convolution made of them.

A steerable kernel between fields of a group G satisfies K(g x) = rho_out(g) K(x) rho_in(g)^-1; Weiler & Cesa (2019)
solve this constraint by circular harmonics times Gaussian rings, and escnn samples the solutions on a pixel grid.
Only this sampled basis is taken from escnn, with its normalisation, order and parametrisation. The modules here are
plain torch, so the following behaviours of escnn 1.0.11 cannot affect a network:

* Sampled bases are buffers shared by all models of a process; casting one model breaks another. Here each module
  has its own copy.
* ``.eval()`` stores an expanded filter that goes stale, enters the state dictionary in one mode only, keeps a graph
  that `copy.deepcopy` refuses, and has the current autocast type. Here filters are expanded by one matrix
  product; one that is kept for evaluation is compared with its weights and has none of these faults
  (`filters.ExpandedLayer`).
* Pooling over the group allocates float32, bases are float32: no float64. Here entries of the basis that the exact
  symmetries of the pixel grid connect are made bit-identical, so that a module cast to float64 is equivariant under
  those to rounding.
* Null spaces are found by a randomised SVD of scikit-learn, seeded from numpy's global state (and failing with
  scikit-learn >= 1.2), and the result is kept in a cache inside the installed package. Here the null space gets a
  canonical basis that depends on neither; the disk cache is not used, and numpy's random state is restored.
* The default initialisation loops over all pairs of fields in Python (minutes for a Wide ResNet). Here the
  same variances are computed once for a pair.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn

from .filters import ExpandedLayer, gather, gather_tables

with warnings.catch_warnings():
    # It regrets the absence of py3nj, which only SO(3) needs.
    warnings.simplefilter("ignore")
    import escnn.group._clebsh_gordan as _coefficients
    import escnn.group._numerical as _numerical
    from escnn import gspaces
    from escnn import nn as escnn_nn

#: Kinds of fields: ``"trivial"`` has one channel, ``"regular"`` one channel for each element of the group.
KINDS = ("trivial", "regular")
#: Every D_N mirrors at the vertical axis, swapping left and right, see `groups`. Angle of the axis from x, in radians.
_AXIS = math.pi / 2


@dataclass(frozen=True)
class KernelBasis:
    """A sampled basis of the steerable kernels between two fields.

    Attributes:
        filters: float32 (n, out, in, k, k), read-only; each element has unit norm as escnn defines it.
        std: float64 (n,), read-only: standard deviations of He's initialisation for one input field. For m input
            fields they are to be divided by sqrt(m).
        central: for each irrep that both fields contain, its elements at radius 0 that map it to itself:
            int (copies in the output field, copies in the input field, elements a pair), indices into `filters`.
    """

    filters: np.ndarray
    std: np.ndarray
    central: tuple[np.ndarray, ...]


def canonical_null_space(matrix: np.ndarray, tolerance: float = 1e-9) -> np.ndarray:
    """An orthonormal basis (columns) of the null space that depends on the space only.

    An SVD gives some basis, which differs between libraries and machines; the projector onto the space does not.
    Its columns, orthonormalised from the left, are the answer.

    Args:
        matrix: (m, n), any real numbers.
        tolerance: singular values below it count as zero.
    """
    _, values, rows = np.linalg.svd(np.asarray(matrix, dtype=np.float64), full_matrices=True)
    rank = int((values > tolerance).sum())
    projector = rows[rank:].T @ rows[rank:]
    basis = np.zeros((projector.shape[0], 0))
    for column in projector.T:
        for _ in range(2):  # twice is enough for full orthogonality
            column = column - basis @ (basis.T @ column)
        length = np.linalg.norm(column)
        if length > 1e-4 and basis.shape[1] < rows.shape[0] - rank:
            basis = np.column_stack([basis, column / length])
    return basis


def _constraints(rho_1: list[np.ndarray], rho_2: list[np.ndarray]) -> sparse.csc_matrix:
    """The linear equations of ``X rho_1(g) = rho_2(g) X``, as escnn stacks them, without its loop of sparse
    products.
    """
    rows = []
    for first, second in zip(rho_1, rho_2, strict=True):
        first, second = np.asarray(first), np.asarray(second)
        rows.append(np.kron(np.eye(len(second)), first) - np.kron(second.T, np.eye(len(first))))
    return sparse.csc_matrix(np.concatenate(rows))


#: What replaces parts of escnn while it computes. The ``func`` of a joblib-cached function is the function itself.
_PATCHES: tuple[tuple[Any, str, Any], ...] = (
    (_numerical, "null", lambda matrix, use_sparse=False, eps=1e-12: canonical_null_space(matrix)),
    (_numerical, "build_sylvester_constraint", _constraints),
    (_coefficients, "build_sylvester_constraint", _constraints),
    (_coefficients, "_clebsh_gordan_tensor", functools.cache(_coefficients._clebsh_gordan_tensor.func)),
    (_coefficients, "_find_tensor_decomposition", functools.cache(_coefficients._find_tensor_decomposition.func)),
)


@contextlib.contextmanager
def tamed() -> Iterator[None]:
    """Inside, escnn computes deterministically, quietly and on the CPU in float32, and leaves no trace.

    Null spaces are canonical, the disk cache is by-passed, and numpy's random state and torch's default type are
    as before afterwards.
    """
    originals = [(module, name, getattr(module, name)) for module, name, _ in _PATCHES]
    state, dtype = np.random.get_state(), torch.get_default_dtype()
    for module, name, replacement in _PATCHES:
        setattr(module, name, replacement)
    torch.set_default_dtype(torch.float32)
    try:
        with contextlib.redirect_stdout(io.StringIO()), torch.device("cpu"), torch.no_grad():
            yield
    finally:
        torch.set_default_dtype(dtype)
        np.random.set_state(state)
        for module, name, original in originals:
            setattr(module, name, original)


def parse_group(group: str) -> tuple[str, int]:
    """``"D8"`` as ("D", 8).

    Raises:
        ValueError: anything but C or D with a number of rotations from 1 on.
    """
    if group[:1] not in ("C", "D") or not group[1:].isdigit() or int(group[1:]) < 1:
        raise ValueError(f"group={group!r}: use C<N> (rotations) or D<N> (and reflections), as 'C8'")
    return group[0], int(group[1:])


@functools.cache
def _gspace(group: str) -> Any:
    kind, rotations = parse_group(group)
    with tamed():
        if rotations == 1:
            return gspaces.flip2dOnR2(axis=_AXIS) if kind == "D" else gspaces.trivialOnR2()
        return gspaces.flipRot2dOnR2(rotations, axis=_AXIS) if kind == "D" else gspaces.rot2dOnR2(rotations)


def order_of(group: str) -> int:
    """Number of elements of ``"C<N>"`` (N) or ``"D<N>"`` (2 N)."""
    kind, rotations = parse_group(group)
    return rotations * (2 if kind == "D" else 1)


def size_of(group: str, kind: str) -> int:
    """Channels of one field.

    Raises:
        ValueError: the kind is none of `KINDS`.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: fields are 'trivial' or 'regular'")
    return order_of(group) if kind == "regular" else 1


@functools.cache
def kernel_basis(
    group: str, in_kind: str, out_kind: str, kernel_size: int, cutoff: float | None = None, sigma: float | None = None
) -> KernelBasis:
    """The steerable kernels between two fields, sampled by escnn on a k x k grid.

    Args:
        group: ``"C<N>"`` or ``"D<N>"``.
        in_kind, out_kind: kind of the input and of the output field.
        kernel_size: k.
        cutoff: the highest angular frequency at radius r is ``cutoff * r``; None takes escnn's table.
        sigma: width of the Gaussian rings in pixels; None takes escnn's.

    Raises:
        ValueError: group or kind are unknown.
    """
    size_of(group, in_kind), size_of(group, out_kind)
    space = _gspace(group)
    with tamed():
        fields = {"trivial": space.trivial_repr, "regular": space.regular_repr}
        conv = escnn_nn.R2Conv(
            escnn_nn.FieldType(space, [fields[in_kind]]),
            escnn_nn.FieldType(space, [fields[out_kind]]),
            kernel_size,
            bias=False,
            sigma=sigma,
            frequencies_cutoff=cutoff,
            recompute=True,
            initialize=False,
        )
        expansion = conv.basisexpansion
        (block,) = (m for m in expansion.modules() if hasattr(m, "sampled_basis"))
        filters = block.sampled_basis.numpy().astype(np.float32)
        orbits = _orbit_representatives(space, fields[in_kind], fields[out_kind], expansion.points)
        elements = [dict(e) for e in expansion.get_basis_info()]
    exact = filters.reshape(len(filters), -1)[:, orbits].reshape(filters.shape)
    if np.abs(exact - filters).max() > 1e-4:
        raise RuntimeError("escnn's kernels do not have the symmetry that its representations promise")
    filters = np.ascontiguousarray(exact).reshape(*filters.shape[:3], kernel_size, kernel_size)
    std = _he_std(elements)
    filters.setflags(write=False)
    std.setflags(write=False)
    return KernelBasis(filters, std, _central_elements(elements))


def _orbit_representatives(space: Any, in_repr: Any, out_repr: Any, points: np.ndarray) -> np.ndarray:
    """For each entry (out, in, pixel) of a kernel, the first entry that an exact grid symmetry connects it with."""
    shape = (out_repr.size, in_repr.size, len(points))
    flat = np.arange(math.prod(shape)).reshape(shape)
    representatives = flat.copy()
    for element in space.fibergroup.elements:
        action = np.asarray(space.basespace_action(element))
        if np.abs(action - action.round()).max() > 1e-9:
            continue  # does not map pixels to pixels
        moved = np.asarray(points) @ action.round().T
        pixels = np.abs(moved[:, None] - np.asarray(points)[None]).sum(-1).argmin(1)
        rows, columns = (np.asarray(r(element)).argmax(0) for r in (out_repr, in_repr))
        representatives = np.minimum(representatives, flat[np.ix_(rows, columns, pixels)])
    return representatives.reshape(-1)


def _he_std(elements: list[dict[str, Any]]) -> np.ndarray:
    """Standard deviations of escnn's generalised He initialisation, for one input and one output field.

    Each irrep of the output receives the same variance from every irrep type of the input, shared by the basis
    elements that connect the two.
    """
    pairs = [(e["in_irrep"], e["out_irreps_position"]) for e in elements]
    inputs = {out: len({i for i, o in pairs if o == out}) for _, out in set(pairs)}
    counts = {pair: pairs.count(pair) for pair in set(pairs)}
    return np.array([1 / math.sqrt(inputs[pair[1]] * counts[pair]) for pair in pairs])


def _central_elements(elements: list[dict[str, Any]]) -> tuple[np.ndarray, ...]:
    """See `KernelBasis.central`."""
    found: dict[Any, dict[tuple[int, int], list[int]]] = {}
    for index, e in enumerate(elements):
        if e["in_irrep"] == e["out_irrep"] and math.isclose(e["radius"], 0.0, abs_tol=1e-9):
            pairs = found.setdefault(e["in_irrep"], {})
            pairs.setdefault((e["out_irreps_position"], e["in_irreps_position"]), []).append(index)
    tables = []
    for pairs in found.values():
        rows, columns = (sorted({pair[axis] for pair in pairs}) for axis in (0, 1))
        tables.append(np.array([[pairs[row, column] for column in columns] for row in rows]))
    return tuple(tables)


@functools.cache
def restriction_order(group: str, subgroup: str) -> tuple[int, ...]:
    """How to reorder the channels of a regular field so that it becomes regular fields of a subgroup.

    Channel ``order[i]`` of the field moves to place i; the places are consecutive regular fields of `subgroup`
    (its cosets, by their first channel).

    Raises:
        ValueError: `subgroup` is none of `group`, or their elements do not act alike.
    """
    space, sub = _gspace(group), _gspace(subgroup)
    actions = {_rounded(space.basespace_action(g)): g for g in space.fibergroup.elements}
    inside = [actions.get(_rounded(sub.basespace_action(h))) for h in sub.fibergroup.elements]
    if None in inside:
        raise ValueError(f"{subgroup} is no subgroup of {group}")
    permutations = [np.asarray(space.regular_repr(g)).argmax(0) for g in inside]
    order: list[int] = []
    for channel in range(space.regular_repr.size):
        if channel not in order:
            order += [int(p[channel]) for p in permutations]
    return tuple(order)


def _rounded(matrix: Any) -> tuple[float, ...]:
    return tuple((np.asarray(matrix).reshape(-1).round(6) + 0.0).tolist())


class Restrict(nn.Module):
    """Regular fields of a group seen as regular fields of a subgroup: the same channels in another order.

    Args:
        group, subgroup: ``"C<N>"`` or ``"D<N>"``.

    Shapes:
        (B, fields * |G|, H, W) -> the same, as ``fields * |G| / |H|`` fields.
    """

    order: Tensor
    _readers: Tensor

    def __init__(self, group: str, subgroup: str) -> None:
        super().__init__()
        order, readers = gather_tables(np.array(restriction_order(group, subgroup)))
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("_readers", readers, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return gather(x.unflatten(1, (-1, len(self.order))), 2, self.order, self._readers).flatten(1, 2)


class SteerableConv2d(ExpandedLayer):
    """A convolution with trainable coefficients of steerable kernels, equal to escnn's ``R2Conv``.

    Fields are of one kind on either side; channels are field-major, in escnn's order of the group's elements. For the
    dense filter see `ExpandedLayer`.

    Args:
        in_fields, out_fields: number of fields.
        kernel_size: side of the filter.
        group: ``"C<N>"`` or ``"D<N>"``.
        in_kind, out_kind: ``"trivial"`` or ``"regular"``.
        stride, padding: as `torch.nn.Conv2d`.
        bias: one number a field.
        cutoff, sigma: as `kernel_basis`.
        init: ``"he"`` (escnn's generalised He initialisation) or ``"delta-orthogonal"``.

    Shapes:
        (B, in_fields * size, H, W) -> (B, out_fields * size', H', W'), sizes being the channels of a field.

    Raises:
        ValueError: group, kind or init are unknown.
    """

    basis: Tensor

    def __init__(
        self,
        in_fields: int,
        out_fields: int,
        kernel_size: int,
        *,
        group: str,
        in_kind: str = "regular",
        out_kind: str = "regular",
        stride: int = 1,
        padding: int = 0,
        bias: bool = False,
        cutoff: float | None = None,
        sigma: float | None = None,
        init: str = "he",
    ) -> None:
        super().__init__()
        if init not in ("he", "delta-orthogonal"):
            raise ValueError(f"init={init!r}: use 'he' or 'delta-orthogonal'")
        self.in_fields, self.out_fields, self.kernel_size = in_fields, out_fields, kernel_size
        self.group, self.stride, self.padding, self.init = group, stride, padding, init
        self.in_size, self.out_size = size_of(group, in_kind), size_of(group, out_kind)
        self._key = (group, in_kind, out_kind, kernel_size, cutoff, sigma)
        filters = kernel_basis(*self._key).filters
        basis = torch.tensor(filters.reshape(len(filters), -1), dtype=torch.get_default_dtype())
        self.register_buffer("basis", basis, persistent=False)
        self.weight = nn.Parameter(torch.zeros(out_fields, in_fields, len(filters)))
        self.bias = nn.Parameter(torch.zeros(out_fields)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the coefficients from torch's global generator; the bias is zero. escnn's distributions."""
        basis = kernel_basis(*self._key)
        if self.init == "he":
            std = torch.tensor(basis.std / math.sqrt(self.in_fields)).to(self.weight)
            self.weight.copy_(torch.randn_like(self.weight) * std)
        else:
            self.weight.zero_()
            for table in basis.central:
                self._draw_orthogonal(torch.tensor(table))
        if self.bias is not None:
            self.bias.zero_()

    def _draw_orthogonal(self, table: Tensor) -> None:
        """Map the copies of one irrep by a random orthogonal matrix, at the centre of the filter only."""
        rows, columns, elements = table.shape
        outputs, inputs = self.out_fields * rows, self.in_fields * columns
        matrix = _random_orthogonal(max(outputs, inputs)).to(self.weight)[:outputs, :inputs]
        # Elements of a pair span the maps of the irrep to itself; a unit vector among them keeps lengths.
        unit = F.normalize(torch.randn(outputs, elements), dim=1).to(self.weight)
        values = matrix[:, :, None] * unit[:, None]
        values = values.view(self.out_fields, rows, self.in_fields, columns, elements)
        self.weight[:, :, table.flatten()] = values.transpose(1, 2).flatten(2)

    def expanded(self) -> Tensor:
        """The dense filter (out channels, in channels, k, k)."""
        k = self.kernel_size
        blocks = self.weight.flatten(0, 1) @ self.basis
        blocks = blocks.view(self.out_fields, self.in_fields, self.out_size, self.in_size, k, k)
        return blocks.transpose(1, 2).reshape(self.out_fields * self.out_size, self.in_fields * self.in_size, k, k)

    def expanded_bias(self) -> Tensor | None:
        """One number a channel, or None."""
        if self.bias is None:
            return None
        # escnn's parameter is the coefficient of the trivial irrep, whose vector in a field has unit length.
        return self.bias.repeat_interleave(self.out_size) / math.sqrt(self.out_size)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.filters(), self.expanded_bias(), self.stride, self.padding)

    def extra_repr(self) -> str:
        return (
            f"{self.in_fields}x{self.in_size}, {self.out_fields}x{self.out_size}, kernel_size={self.kernel_size}, "
            f"group={self.group!r}, stride={self.stride}, padding={self.padding}, bias={self.bias is not None}"
        )


def _random_orthogonal(size: int) -> Tensor:
    """A matrix from the uniform (Haar) distribution over the orthogonal group, by a QR decomposition."""
    q, r = torch.linalg.qr(torch.randn(size, size))
    return q * r.diagonal().sign()
