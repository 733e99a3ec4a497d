"""The counter of operations against counts by hand, for every kind of layer, and against a path that fuses nothing."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from equibench.bench.measures.cost import measure_cost
from equibench.bench.measures.operations import ELEMENTWISE, OUTSIDE_TORCH, Operations, unfused
from equibench.bench.records.record import Size
from torch import Tensor, nn

Forward = Callable[[nn.Module, Tensor], Tensor]


def forward_flops(model: nn.Module, images: Tensor) -> int:
    """All operations of a forward pass, those that expand filters included."""
    with torch.no_grad(), unfused(), Operations() as operations:
        model(images)
    return operations.flops


class Wrapped(nn.Module):
    """A module used in some way on images of one channel."""

    def __init__(self, module: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.module, self.use = module, forward

    def forward(self, images: Tensor) -> Tensor:
        return self.use(self.module, images)


def cost_of(module: nn.Module, forward: Forward, side: int = 8) -> Size:
    torch.manual_seed(0)
    return measure_cost(Wrapped(module, forward), torch.randn(3, 1, side, side), torch.arange(3) % 2)


def weights(*shape: int) -> nn.ParameterList:
    return nn.ParameterList([nn.Parameter(torch.randn(*shape))])


def attend(m: nn.Module, x: Tensor) -> Tensor:
    t = x[:, 0]
    return m(t, t, t, need_weights=False)[0].mean(1)


class Shifted(nn.Module):
    """A 3x3 convolution as a gather of windows, a multiplication and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Parameter(torch.randn(5, 9, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (F.unfold(x, 3)[:, None] * self.filters).sum(2).mean(2)


#: Name, module, how it is used on images (b, 1, 8, 8), multiply-accumulates of an image, of its training step, dense
#: weights. A training step is 2 x the forward pass where the input needs no gradient, and 3 x where it does.
LAYERS: list[tuple[str, nn.Module, Forward, int, int, int]] = [
    ("Linear", nn.Linear(64, 5), lambda m, x: m(x.flatten(1)), 320, 640, 320),
    ("Conv2d", nn.Conv2d(1, 5, 3), lambda m, x: m(x).mean((2, 3)), 36 * 45, 2 * 36 * 45, 45),
    ("strided", nn.Conv2d(1, 5, 3, stride=2, padding=1), lambda m, x: m(x).mean((2, 3)), 16 * 45, 2 * 16 * 45, 45),
    ("grouped", nn.Conv2d(4, 8, 3, groups=4), lambda m, x: m(x.expand(-1, 4, -1, -1)).mean((2, 3)), 36 * 72,
    2 * 36 * 72, 72),
    ("transposed", nn.ConvTranspose2d(1, 5, 3), lambda m, x: m(x).mean((2, 3)), 64 * 45, 2 * 64 * 45, 45),
    ("Conv1d", nn.Conv1d(8, 5, 3), lambda m, x: m(x[:, 0]).mean(2), 6 * 120, 2 * 6 * 120, 120),
    ("Conv3d", nn.Conv3d(1, 5, (1, 3, 3)), lambda m, x: m(x[:, None]).mean((2, 3, 4)), 36 * 45, 2 * 36 * 45, 45),
    ("Bilinear", nn.Bilinear(8, 8, 5), lambda m, x: m(x[:, 0, 0], x[:, 0, 1]), 5 * 64 + 5 * 8, 2 * 320 + 40, 320),
    ("RNN", nn.RNN(8, 5, batch_first=True), lambda m, x: m(x[:, 0])[0][:, -1], 8 * 5 * 13, -1, 65),
    ("LSTM", nn.LSTM(8, 5, batch_first=True), lambda m, x: m(x[:, 0])[0][:, -1], 8 * 20 * 13, -1, 260),
    ("LSTM, both ways", nn.LSTM(8, 5, 2, batch_first=True, bidirectional=True), lambda m, x: m(x[:, 0])[0][:, -1],
     2 * 8 * 20 * (13 + 15), -1, 2 * 20 * (13 + 15)),
    ("GRU", nn.GRU(8, 5, batch_first=True), lambda m, x: m(x[:, 0])[0][:, -1], 8 * 15 * 13, -1, 195),
    # Projections of 8 tokens by four 8x8 matrices; comparisons and mixtures of 8 x 8 tokens.
    ("MultiheadAttention", nn.MultiheadAttention(8, 2, batch_first=True), attend, 8 * 4 * 64 + 2 * 8 * 64, -1, 256),
    ("attention", nn.Linear(8, 2), lambda m, x: m(F.scaled_dot_product_attention(x, x, x).mean((1, 2))),
    2 * 8 * 64 + 16, 2 * 8 * 64 + 32, 16),
    ("einsum", weights(8, 5), lambda m, x: torch.einsum("bchw,wk->bk", x, m[0]), 40, 80, 40),
    ("matrix, vector", weights(64), lambda m, x: (x.flatten(1) @ m[0])[:, None].expand(-1, 2), 64, 128, 64),
    ("baddbmm", weights(3, 8, 5), lambda m, x: torch.baddbmm(torch.zeros(1), x[:, 0], m[0][:1].expand(len(x), -1,
    -1)).mean(1), 320, -1, 40),
    ("multiplied and summed", weights(8, 5), lambda m, x: (x[:, 0, 0, :, None] * m[0]).sum(1), 40, 80, 40),
    ("weighted sum", weights(8, 1), lambda m, x: (x[:, 0] * m[0]).sum(1), 64, 128, 8),
    ("windows multiplied and summed", Shifted(), lambda m, x: m(x), 5 * 9 * 36, 2 * 5 * 9 * 36, 45),
    # A complex convolution is three real ones: of the real parts, the imaginary parts, and the sums of both.
    ("complex convolution", nn.Conv2d(1, 5, 3, bias=False, dtype=torch.cfloat),
    lambda m, x: m(x.cfloat()).abs().mean((2, 3)), 3 * 36 * 45, -1, 3 * 45),
    # Another complex product is four real ones, and its matrix twice as many numbers.
    ("complex", nn.Linear(64, 5, False, dtype=torch.cfloat), lambda m, x: m(x.flatten(1).cfloat()).abs(), 4 * 320,
    2 * 4 * 320, 640),
]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "use", "products", "training", "dense"), [row[1:] for row in LAYERS], ids=[row[0] for row in LAYERS]
)
def test_layers_by_hand(module: nn.Module, use: Forward, products: int, training: int, dense: int) -> None:
    cost = cost_of(module, use)
    assert cost.flops_per_image == 2 * products and cost.dense_weights == dense and cost.uncounted == ""
    if training >= 0:
        assert cost.train_flops_per_image == 2 * training
    else:
        assert 2 * 2 * products <= cost.train_flops_per_image <= 2 * 3 * products + 4 * dense


class Tokens(nn.Module):
    """The network of a bug report: two encoder layers over the rows of an image of 28 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(28, 32)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True), 2)
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(images[:, 0])).mean(1))


def test_a_transformer_costs_the_same_however_it_is_run() -> None:
    layer = 28 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 28 * 28 * 32  # projections and the two linear maps; attention
    products = 28 * 28 * 32 + 2 * layer + 320
    cost = measure_cost(Tokens(), torch.randn(4, 1, 28, 28), torch.arange(4))
    assert cost.flops_per_image == 2 * products and cost.uncounted == ""
    # Backward: both factors of each product, but not the images.
    assert cost.train_flops_per_image == 2 * (3 * products - 28 * 28 * 32)
    assert cost.dense_weights == 28 * 32 + 2 * (4 * 32 * 32 + 2 * 32 * 64) + 320
    model = Tokens()
    images = torch.randn(2, 1, 28, 28)
    assert forward_flops(model.eval(), images) == forward_flops(model.train(), images) == 4 * products
    with torch.inference_mode():
        assert forward_flops(model.eval(), images) == 4 * products


@pytest.mark.parametrize(("module", "use"), [row[1:3] for row in LAYERS], ids=[row[0] for row in LAYERS])
def test_another_device_counts_the_same(module: nn.Module, use: Forward) -> None:
    """Seen on torch's device without numbers, which has none of the libraries of a CPU."""
    model, images = Wrapped(copy.deepcopy(module), use).eval(), torch.randn(2, 1, 8, 8)
    here = forward_flops(model, images)
    assert forward_flops(model.to("meta"), images.to("meta")) == here > 0


def test_nothing_is_left_switched_off() -> None:
    def state() -> tuple[bool, ...]:
        return (
            torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled(),
            torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled(),
        )  # fmt: skip

    before = state()
    with pytest.raises(ZeroDivisionError), unfused():
        assert not any(state())
        raise ZeroDivisionError
    assert state() == before and any(before)


#: What is not counted is named.
NAMED: list[tuple[str, nn.Module, Forward, str]] = [
    ("Fourier", nn.Linear(8, 2), lambda m, x: m(torch.fft.fft2(x).abs()[:, 0, 0]), "fft"),
    ("real Fourier", nn.Linear(5, 2), lambda m, x: m(torch.fft.rfft(x).abs()[:, 0, 0]), "fft"),
    ("sampling", nn.Linear(8, 2), lambda m, x: m(F.grid_sample(x, x.new_zeros(len(x), 8, 8, 2), align_corners=False)[:,
    0, 0]),
     "grid_sampler"),
    ("inverse", nn.Linear(8, 2), lambda m, x: m(torch.linalg.inv(x + 9 * torch.eye(8))[:, 0, 0]), "inv"),
    ("distances", weights(2, 8), lambda m, x: torch.cdist(x[:, 0], m[0], p=1).mean(1), "cdist"),
    ("sparse", weights(8, 2), lambda m, x: torch.sparse.mm(torch.eye(8).to_sparse(), x[:,
    0].mean(0)).mean(0).expand(len(x), -1) @ m[0],
     "sparse"),
    # A stencil of shifted images that are multiplied and added; distances |x - w| of a network without products.
    ("stencil", weights(9), lambda m, x: sum(x[..., i : i + 4, :] * m[0][i : i + 1] for i in range(4)).flatten(1)[:,
    :2], ELEMENTWISE),
    ("adder", weights(8, 2), lambda m, x: (x[:, 0, 0, :, None] - m[0]).abs().sum(1), ELEMENTWISE),
    ("numpy", nn.Linear(8, 2), lambda m, x: m(torch.from_numpy(x.detach().numpy().copy())[:, 0, 0]), OUTSIDE_TORCH),
    # A part of the logits comes from another library, or only numbers by which filters are weighted do.
    ("numpy in part", nn.Linear(8, 2), lambda m, x: m(x[:, 0, 0]) + torch.from_numpy(x.detach().numpy()[:, 0, 0, :2]),
     OUTSIDE_TORCH),
    ("asarray", nn.Linear(8, 2), lambda m, x: m(x[:, 0, 0]) * float(np.linalg.norm(np.asarray(x.detach()))),
     OUTSIDE_TORCH),
    ("list", nn.Linear(8, 2), lambda m, x: m(x[:, 0, 0]) * max(map(max, x[:, 0, 0].tolist())), OUTSIDE_TORCH),
]  # fmt: skip


@pytest.mark.parametrize(("module", "use", "name"), [row[1:] for row in NAMED], ids=[row[0] for row in NAMED])
def test_what_is_not_counted_is_named(module: nn.Module, use: Forward, name: str) -> None:
    assert name in cost_of(module, use).uncounted


def test_numbers_that_come_from_no_image_may_leave_torch() -> None:
    """A size, a table of a layer, one number of a whole image: nothing is computed for each image elsewhere."""

    def forward(module: nn.Module, x: Tensor) -> Tensor:
        scale = float(module.weight.detach().numpy().max()) + np.prod(x.shape) * 0.0 + 0.0 * x.detach().max().numpy()
        return module(x[:, 0, 0]) * scale

    assert cost_of(nn.Linear(8, 2), forward).uncounted == ""


class Library(torch.autograd.Function):
    """Stands for an operation of another package, as deformable convolutions are: registered, unknown here."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        return torch.ops.equibench_test.deform(x)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return gradient


@torch.library.custom_op("equibench_test::deform", mutates_args=())
def deform(x: Tensor) -> Tensor:
    return x.clone()


def test_operations_of_other_packages_are_named() -> None:
    cost = cost_of(nn.Linear(8, 2), lambda m, x: m(Library.apply(x)[:, 0, 0]))
    assert cost.uncounted == "deform" and cost.flops_per_image == 2 * 16


COMMON = nn.Sequential(
    nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.GroupNorm(2, 8), nn.GELU(), nn.Conv2d(8, 8,
    1),
    nn.InstanceNorm2d(8), nn.SiLU(), nn.Dropout(0.5), nn.Upsample(scale_factor=2, mode="bilinear"), nn.ELU(),
    nn.PReLU(),
    nn.ReflectionPad2d(1), nn.AvgPool2d(2), nn.Mish(), nn.Hardswish(), nn.LeakyReLU(), nn.Softplus(),
    nn.AdaptiveMaxPool2d(2),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.GLU(), nn.Softmax(1), nn.LogSigmoid(),
)  # fmt: skip


def test_what_is_cheap_is_not_named() -> None:
    cost = cost_of(COMMON, lambda m, x: m(x))
    assert cost.uncounted == "" and cost.flops_per_image == 2 * (36 * 72 + 9 * 64)


@pytest.mark.parametrize(
    "moved",
    [
        lambda x: x.rot90(1, (2, 3)) + x.rot90(2, (2, 3)),
        lambda x: torch.complex(x, x).abs(),
        lambda x: torch.polar(x.abs(), x).real,
        lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
        lambda x: torch.linalg.cross(x[..., :3], x[..., 1:4]),
    ],
)
def test_turns_and_complex_numbers_are_cheap(moved: Forward) -> None:
    cost = cost_of(nn.Conv2d(1, 4, 3, padding=1), lambda m, x: moved(m(x)).flatten(1))
    assert cost.uncounted == "" and cost.flops_per_image == 2 * 64 * 4 * 9


class Recorded(nn.Module):
    """Quantises its maps as in training for 8 bits, inside a mark for the profiler."""

    def __init__(self) -> None:
        super().__init__()
        self.quantise = torch.ao.quantization.FakeQuantize()

    def forward(self, x: Tensor) -> Tensor:
        with torch.profiler.record_function("layer"):
            return self.quantise(x)


class Averaged(nn.Module):
    """Keeps a moving average of its scale."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.register_buffer("mean", torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        torch._foreach_lerp_([self.mean], [self.scale.detach()], 0.1)
        return x + self.scale


@pytest.mark.parametrize("module", [nn.DataParallel(nn.Identity()), Recorded(), Averaged()])
def test_marks_for_the_profiler_quantisation_and_moving_averages_are_cheap(module: nn.Module) -> None:
    cost = cost_of(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), module), lambda m, x: m(x).flatten(1))
    assert cost.uncounted == "" and cost.flops_per_image == 2 * 64 * 4 * 9
