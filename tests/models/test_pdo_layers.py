"""PDO layers against a reference that evaluates the definition, and the symmetries that theory demands."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from equibench.models.groups import PlanarGroup, rotation, transform_fields, transform_image
from equibench.models.pdo.fields import FibreBatchNorm, GroupPool
from equibench.models.pdo.layers import GroupConv1x1, PDOConv, PDOLift
from equibench.models.pdo.operators import PAPER_OPERATORS
from equibench.models.pdo.stencils import stencil_2d
from torch import Tensor, nn

GROUPS = ["p1", "p3", "p4", "p6", "p8", "p1m", "p4m", "p6m", "p8m"]
LAYERS = {"lift": PDOLift, "group": PDOConv, "1x1": GroupConv1x1}
OFFSET = 0.3  # no special angle for any group


def reference(layer: PDOConv, x: Tensor) -> Tensor:
    """`sum_h H_(g^-1 h)(A^T grad) e(., h)`, one group element, operator and pixel offset at a time, in float64.

    Coefficients come from the weights by their definition: the Taylor table for taps, the size of the unturned filter
    for coefficients. d1^i d2^j is expanded one factor at a time, in a dictionary of powers of ∂x and ∂y.
    """
    group, width, weight = layer.group, layer.kernel_size, layer.weight.detach().numpy()
    padding = layer.padding
    x = F.pad(x, (padding,) * 4).numpy()
    height, across = (n - width + 1 for n in x.shape[-2:])
    out = np.zeros((len(x), layer.out_fields * group.order, height, across))
    for g, (i, j) in itertools.product(group.elements, layer.operators):
        frame = group.matrix(g) @ rotation(layer.offset)
        terms = {(0, 0): 1.0}
        for column in [0] * i + [1] * j:
            grown: dict[tuple[int, int], float] = {}
            for (a, b), c in terms.items():
                grown[a + 1, b] = grown.get((a + 1, b), 0) + c * frame[0, column]
                grown[a, b + 1] = grown.get((a, b + 1), 0) + c * frame[1, column]
            terms = grown
        kernel = sum(c * stencil_2d(layer.stencil, a, b, width) for (a, b), c in terms.items())
        derivative = np.zeros((*x.shape[:2], height, across))
        for row, column in itertools.product(range(width), range(width)):
            derivative += kernel[row, column] * x[:, :, row : row + height, column : column + across]
        for h in range(layer.in_order):
            slot = group.product(group.inverse(g), h) if layer.in_order > 1 else 0
            coefficient = coefficients_of(layer, weight[:, slot :: layer.in_order], (i, j))
            out[:, g :: group.order] += np.einsum("oc,bcyx->boyx", coefficient, derivative[:, h :: layer.in_order])
    out = torch.from_numpy(out)
    return F.avg_pool2d(out, 2) if layer.pooled else out[..., :: layer.stride, :: layer.stride]


def coefficients_of(layer: PDOConv, weight: np.ndarray, operator: tuple[int, int]) -> np.ndarray:
    """The coefficient of one operator, (out, in), from weights (out, in, n) at one slot."""
    i, j = operator
    if layer.weights == "coefficients":
        kernel = stencil_2d(layer.stencil, i, j, layer.kernel_size)
        return weight[..., layer.operators.index(operator)] / np.linalg.norm(kernel)
    offsets = [(x, y) for y in (1, 0, -1) for x in (-1, 0, 1)]
    moments = sum(weight[..., t] * x**i * y**j for t, (x, y) in enumerate(offsets))
    return moments / (math.factorial(i) * math.factorial(j))


def make(kind: str, group: str, **options: object) -> PDOConv:
    torch.manual_seed(0)
    return LAYERS[kind](2, 3, group=group, **options).double()


def noise(layer: PDOConv, size: int | tuple[int, int] = 7) -> Tensor:
    shape = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, layer.in_fields * layer.in_order, *shape, dtype=torch.float64, generator=generator)


def assert_close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("kind", ["lift", "group"])
@pytest.mark.parametrize("offset", [0.0, OFFSET])
def test_the_definition_for_every_group(group: str, kind: str, offset: float) -> None:
    layer = make(kind, group, offset=offset)
    x = noise(layer)
    assert_close(layer(x), reference(layer, x))


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"stride": 2}, 7),
        ({"stride": 2}, (8, 9)),
        ({"stride": 3}, 8),
        ({"padding": 0}, 7),
        ({"padding": 1}, (7, 6)),
        ({"padding": 1, "stride": 2}, 8),
        ({"padding": 3}, 5),
        ({"pooled": True}, 8),
        ({"pooled": True}, 7),
        ({"pooled": True, "padding": 0}, 8),
        ({"stencil": "gauss"}, 7),
        ({"stencil": "gauss7"}, 8),
        ({"stencil": "fd", "kernel_size": 7}, 8),
        ({"stencil": "gauss", "kernel_size": 7, "pooled": True}, 8),
        ({"weights": "coefficients"}, 7),
        ({"weights": "coefficients", "operators": [(0, 0), (3, 0), (1, 3), (0, 4)], "stencil": "gauss7"}, 8),
        ({"operators": [(0, 0), (1, 0), (0, 1)], "kernel_size": 3}, 6),
        ({"offset": 0.0, "padding": 0}, 7),
        ({"offset": 0.0, "pooled": True, "padding": 0}, 8),
    ],
)
@pytest.mark.parametrize(("kind", "group"), [("lift", "p3m"), ("group", "p4"), ("group", "p3m")])
def test_the_definition_for_every_option(kind: str, group: str, options: dict, size: int | tuple[int, int]) -> None:
    layer = make(kind, group, **{"offset": OFFSET, **options})
    x = noise(layer, size)
    assert_close(layer(x), reference(layer, x))


@pytest.mark.parametrize("group", ["p1", "p5", "p4m"])
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"pooled": True}])
def test_the_definition_of_the_1x1_layer(group: str, options: dict) -> None:
    layer = make("1x1", group, **options)
    x = noise(layer, 6)
    assert layer.weight.shape == (3, 2 * layer.group.order, 1)
    assert_close(layer(x), reference(layer, x))


def test_p4_without_offset_is_the_group_convolution_of_rot90() -> None:
    """Frames that are grid symmetries: Taylor expansion and differences cancel, and the filter is the taps turned."""
    layer, lift = make("group", "p4"), make("lift", "p4")
    taps = layer.weight.detach().view(3, 2, 4, 3, 3)
    filters = torch.stack([taps.roll(k, 2).rot90(k, (-2, -1)) for k in range(4)], 1).reshape(12, 8, 3, 3)
    x = noise(layer)
    assert_close(layer(x), F.conv2d(x, filters, padding=1))
    taps = lift.weight.detach().view(3, 2, 3, 3)
    filters = torch.stack([taps.rot90(k, (-2, -1)) for k in range(4)], 1).reshape(12, 2, 3, 3)
    x = noise(lift)
    assert_close(lift(x), F.conv2d(x, filters, padding=1))
    assert layer.expanded().shape[-1] == 3  # the empty rings are not computed


def test_p4m_without_offset_is_the_group_convolution_of_rot90_and_flips() -> None:
    layer = make("group", "p4m")
    taps = layer.weight.detach().view(3, 2, 8, 3, 3)
    filters = []
    for m, k in itertools.product((0, 1), range(4)):  # R^k F^m on the pixels: left and right swapped first
        moved = (taps.flip(-1) if m else taps).rot90(k, (-2, -1))
        slots = [4 * (m ^ n) + ((k - j) if m else (j - k)) % 4 for n in (0, 1) for j in range(4)]
        filters.append(moved[:, :, slots])
    x = noise(layer)
    assert_close(layer(x), F.conv2d(x, torch.stack(filters, 1).reshape(24, 16, 3, 3), padding=1))


def test_frame_offsets_of_c8_by_one_step_only_rename_the_elements() -> None:
    plain, turned = make("lift", "p8"), make("lift", "p8", offset=math.pi / 4)
    x = noise(plain)
    roll = plain(x).unflatten(1, (3, 8)).roll(-1, 2).flatten(1, 2)
    assert_close(turned(x), roll)


@pytest.mark.parametrize("group", ["p2", "p4", "p6", "p8", "p12", "p1m", "p4m", "p6m", "p8m"])
@pytest.mark.parametrize("kind", ["lift", "group"])
@pytest.mark.parametrize(
    ("options", "size"),
    [({}, 8), ({}, 7), ({"stride": 2}, 9), ({"pooled": True}, 8), ({"stencil": "gauss7", "padding": 0}, 9)],
)
def test_grid_symmetries_are_exact(group: str, kind: str, options: dict, size: int) -> None:
    layer = make(kind, group, offset=OFFSET, **options)
    assert equivariance_error(layer, size) <= 1e-12


@pytest.mark.parametrize(("options", "size"), [({"stride": 2}, 8), ({"pooled": True}, 9)])
def test_samples_off_the_middle_are_not(options: dict, size: int) -> None:
    """A test of exactness that could not see this would see nothing."""
    assert equivariance_error(make("group", "p4", **options), size) > 0.05


def equivariance_error(layer: PDOConv, size: int) -> float:
    x, group = noise(layer, size), layer.group
    y = layer(x)
    act = transform_fields if layer.in_order > 1 else transform_image
    errors = [layer(act(x, group, s)) - transform_fields(y, group, s) for s in group.grid_symmetries()]
    return max(e.abs().max().item() for e in errors) / y.abs().max().item()


def test_mirrored_frames_are_a_left_coset() -> None:
    """`R(2 pi k / N + offset) F^m`, the obvious frames, tilt the mirror axes and lose exact flips."""
    layer = make("lift", "p4m", offset=OFFSET)
    layer._set_frames(np.stack([rotation(math.pi / 2 * k + OFFSET) @ np.diag([(-1.0) ** m, 1])
                                for m in (0, 1) for k in range(4)]))  # fmt: skip
    assert equivariance_error(layer, 7) > 0.1


@pytest.mark.parametrize("stencil", ["fd", "gauss", "gauss7"])
@pytest.mark.parametrize("group", ["p8", "p6m"])
def test_fields_pool_and_normalise_equivariantly(stencil: str, group: str) -> None:
    own = PlanarGroup.parse(group)
    torch.manual_seed(0)
    network = nn.Sequential(
        PDOLift(1, 3, group=group, stencil=stencil, offset=OFFSET), FibreBatchNorm(3, group=group), nn.ReLU()
    ).double()  # in training mode: statistics of the batch
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    for s in own.grid_symmetries():
        features = network(x)
        assert_close(network(transform_image(x, own, s)), transform_fields(features, own, s))
        for mode in ("max", "mean"):
            pool = GroupPool(group, mode)
            assert_close(pool(transform_fields(features, own, s)), transform_image(pool(features), own, s))
    assert GroupPool(group)(features).shape == (3, 3, 8, 8)


def test_batch_norm_has_one_mean_and_variance_a_field() -> None:
    norm = FibreBatchNorm(3, group="p4", momentum=1.0).double()
    x = torch.randn(5, 12, 3, 4, dtype=torch.float64) * 3 + 1
    y = norm(x).unflatten(1, (3, 4))
    assert y.mean((0, 2, 3, 4)).abs().max() < 1e-12
    assert (y.var((0, 2, 3, 4), correction=0) - 1).abs().max() < 1e-4
    assert (norm.running_mean - x.unflatten(1, (3, 4)).mean((0, 2, 3, 4))).abs().max() < 1e-12


@pytest.mark.parametrize(("kind", "group"), [("lift", "p1m"), ("group", "p3"), ("group", "p1m"), ("1x1", "p1m")])
@pytest.mark.parametrize("pooled", [False, True])
def test_gradients(kind: str, group: str, pooled: bool) -> None:
    layer = LAYERS[kind](1, 2, group=group, pooled=pooled).double()
    x = torch.randn(1, layer.in_order, 2, 2, dtype=torch.float64, requires_grad=True)

    def through(x: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight}, (x,))

    for mode in (True, False):  # the filter is never taken from the cache where its gradient is wanted
        layer.train(mode)
        assert torch.autograd.gradcheck(through, (x, layer.weight))
    assert torch.autograd.gradcheck(layer, (x,))


def test_coefficients_are_those_of_the_weights() -> None:
    taps = make("group", "p4")
    direct = make("group", "p4", weights="coefficients")
    norms = np.array([np.linalg.norm(stencil_2d("fd", i, j, 5)) for i, j in PAPER_OPERATORS])
    with torch.no_grad():
        direct.weight.copy_(taps.coefficients() * torch.from_numpy(norms))
    x = noise(taps)
    assert_close(direct(x), taps(x))


def test_the_kept_filter_is_never_stale() -> None:
    """In evaluation the filter is expanded once, and again whenever the weights hold other numbers."""
    layer = make("group", "p4").eval()
    x = noise(layer, 5)

    def check() -> None:
        with torch.no_grad():
            assert torch.equal(layer(x), layer(x))
            assert_close(layer(x), F.conv2d(x, layer.expanded(), padding=1), 0.0)
            assert_close(layer(x), reference(layer, x))

    check()
    with torch.no_grad():
        kept = layer.filters()
        assert layer.filters() is kept  # it is indeed kept
        layer.weight.mul_(2)
    check()
    layer.weight.data.add_(1)  # no version counter sees this
    check()
    layer.weight.data = torch.randn_like(layer.weight)
    check()
    layer.load_state_dict({"weight": torch.randn_like(layer.weight)})
    check()
    layer.weight = nn.Parameter(torch.randn_like(layer.weight))
    check()
    with torch.inference_mode():
        inside = layer(x)
    with torch.no_grad():
        assert torch.equal(layer(x), inside)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        assert torch.equal(twin(x), layer(x))
        twin.weight.zero_()
        assert not twin(x).any() and layer(x).any()
    layer(x).square().mean().backward()  # in evaluation mode: gradients reach the weights
    with torch.no_grad():
        layer.weight.sub_(layer.weight.grad)
    check()


def test_the_kept_filter_follows_dtype() -> None:
    layer = make("lift", "p6").float().eval()
    x = noise(layer)
    with torch.no_grad():
        single = layer(x.float())
        assert single.dtype == torch.float32
        double = layer.double()(x)
        assert double.dtype == torch.float64
        assert_close(double, reference(layer, x))  # the basis is computed in float64, never through float32
        assert_close(layer.bfloat16()(x.bfloat16()).double(), double, 0.05)
        assert torch.equal(layer.float()(x.float()).double().isfinite(), double.isfinite())


def test_weights_in_a_state_dict_are_all_there_is() -> None:
    layer = make("group", "p8").eval()
    with torch.no_grad():
        layer(noise(layer))
    assert list(layer.state_dict()) == ["weight"]
    assert layer.weight.shape == (3, 16, 9)


def test_filters_keep_full_precision_under_autocast() -> None:
    """The weights sum to zero in every derivative; rounding them first to bfloat16 would not."""
    layer = make("group", "p8").float()
    plain = layer.expanded()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.expanded(), plain)
        assert layer(noise(layer).float()).dtype == torch.bfloat16


def test_the_analytic_derivative_of_a_transformed_input() -> None:
    """`torch.func.jvp` through a layer in evaluation, as the Lie derivative needs it."""
    layer = make("lift", "p8").eval()
    x, tangent = noise(layer), noise(layer).flip(-1)
    with torch.no_grad():
        value, derivative = torch.func.jvp(layer, (x,), (tangent,))
        assert_close(value, layer(x))
        assert_close(derivative, layer(tangent))


def test_initial_weights_have_the_variance_of_the_official_code() -> None:
    """Truncated normal of variance 2 / fan-in, fan-in 9 * channels, cut at two deviations of what is cut."""
    torch.manual_seed(0)
    weight = PDOConv(16, 64, group="p8").weight
    std = math.sqrt(2 / (9 * 16 * 8))
    assert weight.std().item() == pytest.approx(std, rel=0.01)
    assert 1.9 < weight.abs().max().item() / (std / 0.8796) <= 2


def test_turned_shares_the_weights_and_leaves_the_layer_alone() -> None:
    """By an element of the group the turned layer is the layer with its outputs renamed."""
    layer = make("lift", "p6m", offset=OFFSET)
    x, before = noise(layer), layer(noise(layer))
    for s in layer.group.elements:
        other = layer.turned(layer.group.matrix(s))
        assert other.weight is layer.weight
        places = torch.from_numpy(layer.group.permutation(s).copy())
        assert_close(other(x), before.unflatten(1, (3, -1))[:, :, places].flatten(1, 2))
    assert torch.equal(layer(x), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": "p0"}, "0 rotations.*from 1 on"),
        ({"group": "p8x"}, "group 'p8x'"),
        ({"group": "p8", "kernel_size": 4}, "4 pixels wide.*odd"),
        ({"group": "p8", "kernel_size": 3}, "order 4 do not fit.*up to 2"),
        ({"group": "p8", "stencil": "gauss7", "kernel_size": 5}, "order 4 do not fit.*up to 2"),
        ({"group": "p8", "operators": ((4, 1),)}, r"\(4, 1\)"),
        ({"group": "p8", "operators": ()}, "at least one operator"),
        ({"group": "p8", "operators": ((3, 0),)}, "weights='coefficients'"),
        ({"group": "p8", "weights": "beta"}, "weights='beta'"),
        ({"group": "p8", "stencil": "sobel"}, "stencil 'sobel'"),
        ({"group": "p8", "stride": 0}, "stride=0"),
        ({"group": "p8", "stride": 2, "pooled": True}, "stride=2, pooled=True"),
    ],
)
@pytest.mark.parametrize("kind", [PDOLift, PDOConv])
def test_bad_arguments(kind: type[PDOConv], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(2, 2, **options)


def test_bad_channels() -> None:
    with pytest.raises(ValueError, match="0 fields to 3"):
        PDOLift(0, 3, group="p4")
    with pytest.raises(ValueError, match="12 channels: this layer takes 16, 2 fields of 8"):
        PDOConv(2, 2, group="p8")(torch.zeros(1, 12, 5, 5))
    with pytest.raises(ValueError, match="3 channels: this layer takes 1, 1 fields of 1"):
        PDOLift(1, 2, group="p8")(torch.zeros(1, 3, 5, 5))
    with pytest.raises(ValueError, match=r"12 channels.*multiple of 8"):
        GroupPool("p8")(torch.zeros(1, 12, 5, 5))
    with pytest.raises(ValueError, match=r"12 channels.*multiple of 8"):
        FibreBatchNorm(2, group="p8")(torch.zeros(1, 12, 5, 5))
    with pytest.raises(ValueError, match=r"24 channels are 3 fields over C8.*normalises 2, 16 channels"):
        FibreBatchNorm(2, group="p8")(torch.zeros(1, 24, 5, 5))
    with pytest.raises(ValueError, match=r"mode='sum'.*'max' or 'mean'"):
        GroupPool("p8", "sum")
