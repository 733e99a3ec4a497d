"""What equivariant convolutions cost against ordinary ones of the same dense shape; prints a table of ratios.

    uv run python benchmarks/layers.py [--device cuda:0] [--only p8-25k] [--rounds 15]

In each network every PDO-eConv, G-CNN or E2CNN convolution is replaced, all else left as it is, by

* ``dense``: `torch.nn.Conv2d` with as many channels, the same kernel, stride and padding; for PDO-eConv without frame
  offset the kernel is the 5x5 of the paper, though frames at multiples of 90 degrees need 3x3 of it;
* ``escnn``: escnn's `R2Conv` between the same fields, with the same kernel (for PDO-eConv over C_N without pooled
  strides; for E2CNN with the same basis, so that it stands for what our adapter replaces);
* ``loops``: the same PDO-eConv whose filters are put together by Python loops over the group in every step, as public
  code does.

``last`` replaces nothing: it is the same network with channels last in memory.

A training step is forward, cross entropy, backward and an SGD step; the forward pass is that of evaluation, without
gradients. Ratios are medians over rounds in which all take turns, with their quartiles. A second table says what share
of a step it takes to expand all filters from the weights, and to bring their gradients back: all that can make a step
longer than the dense network's.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.nn.functional as F
from equibench.bench.measures.execution_profile import begin, renew_profile
from equibench.models.escnn_adapter import SteerableConv2d
from equibench.models.g_conv import GroupConv2d
from equibench.models.pdo.layers import PDOConv
from equibench.models.pdo.networks import InvariantHead, MnistTrunk
from equibench.models.pdo.split import split_frames
from equibench.registry import build_model
from side_by_side import hardware, parser, show, side_by_side
from torch import Tensor, nn

Make = Callable[[nn.Module], nn.Module]


class LoopedPDOConv(PDOConv):
    """A PDO-eConv whose filter is put together element by element, without any cache."""

    def filters(self) -> Tensor:
        basis = torch.from_numpy(self.basis).to(self.weight)
        relative, order = self.group.relative(), self.group.order
        weight = self.weight.view(self.out_fields, self.in_fields, self.in_order, -1)
        rows = []
        for g in range(order):
            taken = [weight[:, :, relative[g, h] if self.in_order > 1 else 0] for h in range(self.in_order)]
            moved = [torch.einsum("oiw,wyx->oiyx", one, basis[g]) for one in taken]
            rows.append(torch.stack(moved, 2).flatten(1, 2))
        return torch.stack(rows, 1).flatten(0, 1)


class EscnnConv(nn.Module):
    """escnn's convolution between the fields of one of our layers over C_N, from tensor to tensor."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        from escnn import gspaces
        from escnn import nn as enn

        shape = Dense.of(layer)
        lifting = shape.in_channels == layer.in_fields
        space = gspaces.rot2dOnR2(shape.out_channels // layer.out_fields)
        regular, trivial = space.regular_repr, space.trivial_repr
        self.fields = enn.FieldType(space, layer.in_fields * [trivial if lifting else regular])
        out = enn.FieldType(space, layer.out_fields * [regular])
        options = {"stride": shape.stride, "padding": shape.padding, "bias": shape.bias, "initialize": False}
        if isinstance(layer, SteerableConv2d):
            _, _, _, _, options["frequencies_cutoff"], options["sigma"] = layer._key
        self.conv = enn.R2Conv(self.fields, out, shape.kernel_size, **options)
        nn.init.normal_(self.conv.weights, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        from escnn.nn import GeometricTensor

        return self.conv(GeometricTensor(x, self.fields)).tensor


@dataclass(frozen=True)
class Dense:
    """The ordinary convolution that has the shape of one of our layers."""

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    padding: int
    bias: bool

    @classmethod
    def of(cls, layer: nn.Module) -> Dense:
        """Of a PDO-eConv without the rings of its filters that are zero."""
        if isinstance(layer, PDOConv):
            channels = layer.in_fields * layer.in_order, layer.out_fields * layer.group.order
            return cls(*channels, layer.basis.shape[-1], layer.stride, layer.padding - layer._margin, False)
        if isinstance(layer, SteerableConv2d):
            channels = layer.in_fields * layer.in_size, layer.out_fields * layer.out_size
        else:
            channels = layer.in_fields * layer.in_order, layer.out_fields * layer.order
        return cls(*channels, layer.kernel_size, layer.stride, layer.padding, layer.bias is not None)

    def make(self) -> nn.Conv2d:
        channels = self.in_channels, self.out_channels
        return nn.Conv2d(*channels, self.kernel_size, self.stride, self.padding, bias=self.bias)


def as_dense(layer: nn.Module) -> nn.Module:
    """An ordinary convolution of the same dense shape."""
    return Dense.of(layer).make()


def as_whole(layer: PDOConv) -> nn.Module:
    """An ordinary convolution with the whole kernel of a PDO-eConv, zeros included."""
    return replace(Dense.of(layer), kernel_size=layer.kernel_size, padding=layer.padding).make()


def as_loops(layer: nn.Module) -> nn.Module:
    """The same layer with its filters built by loops; it shares nothing with the original."""
    layer = copy.deepcopy(layer)
    layer.__class__ = LoopedPDOConv
    return layer


def replaced(model: nn.Module, make: Make) -> nn.Module:
    """A copy of a network with every equivariant convolution replaced."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, PDOConv | GroupConv2d | SteerableConv2d):
                setattr(parent, name, make(child))
    return model


class ChannelsLast(nn.Module):
    """A network that works with channels last in memory."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.contiguous(memory_format=torch.channels_last))


def trunk(group: str, offset: float, stencil: str = "fd") -> nn.Module:
    """The 25K network for MNIST over another group or offset."""
    fields = 56 // int(group[1:])
    body = MnistTrunk(1, 28, group=group, stencil=stencil, widths=(fields,) * 6, offset=offset)
    return split_frames(nn.Sequential(body, InvariantHead(fields, 42, 10, group=group)))


@dataclass(frozen=True)
class Case:
    """A network, the shape of a batch, and what it is compared with.

    Attributes:
        targets: contender -> the largest ratio of the network's own time to the contender's; None: none was set.
        cuda_targets: those that are others on a GPU.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, int, int, int]
    contenders: dict[str, Make]  # of networks
    targets: dict[str, float | None]
    cuda_targets: dict[str, float] = field(default_factory=dict)


def _case(name: str, shape: tuple[int, int, int, int], targets: dict[str, float | None], **cuda: float) -> Case:
    """A registered network for 10 classes."""
    contenders = {other: CONTENDERS[other] for other in targets}
    return Case(lambda: build_model(name, shape[1], 10, shape[2]), shape, contenders, targets, cuda)


CONTENDERS: dict[str, Make] = {
    "dense": partial(replaced, make=as_dense),
    "escnn": partial(replaced, make=EscnnConv),
    "loops": partial(replaced, make=as_loops),
    "last": ChannelsLast,
}
_WHOLE = {"dense": partial(replaced, make=as_whole), "last": ChannelsLast}
_MNIST, _CIFAR = (64, 1, 28, 28), (32, 3, 32, 32)
_SMALL: dict[str, float | None] = {"dense": 1.10, "escnn": 1.0, "loops": 1.0}
_LARGE: dict[str, float | None] = {"dense": 1.05, "escnn": 1.0, "loops": 1.0}
CASES = {
    "p8-25k": _case("pdo-econv-p8-paper", _MNIST, {**_SMALL, "last": None}, escnn=1 / 1.5, loops=0.5),
    "p8-25k-invariant": _case("pdo-econv-p8", _MNIST, _SMALL, escnn=1 / 1.5, loops=0.5),
    "p8-25k-offset-0": Case(lambda: trunk("C8", 0.0), _MNIST, _WHOLE, {"dense": 0.75, "last": None}),
    "p4-25k-offset-0": Case(lambda: trunk("C4", 0.0), _MNIST, _WHOLE, {"dense": 0.40, "last": None}),
    "p8-44": _case("pdo-econv-p8-44-paper", _CIFAR, _LARGE, escnn=1 / 1.5),
    "p6-26": _case("pdo-econv-p6-26-paper", _CIFAR, _LARGE, escnn=1 / 1.5),
    "g-cnn-p4": _case("p4cnn", _MNIST, {"dense": 1.05, "last": None}),
    "g-cnn-p4m": _case("p4m-resnet-44", _CIFAR, {"dense": 1.05}),
    "e2cnn-c8": _case("e2cnn-c8-25k", _MNIST, {"dense": None, "escnn": None}),
    "e2cnn-c16-1.2m": _case("e2cnn-bench-c16", _MNIST, {"dense": None, "escnn": None}),
}


def step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """A function that does one training step."""
    model = model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return train


def forward(model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """A function that does one forward pass of evaluation."""
    model = model.eval()

    def evaluate() -> Tensor:
        with torch.no_grad():
            return model(images)

    return evaluate


def expansion(model: nn.Module) -> Callable[[], None]:
    """A function that expands all filters of a network and brings a gradient back to the weights."""
    layers = [m for m in model.modules() if isinstance(m, PDOConv | GroupConv2d | SteerableConv2d)]

    def filters() -> list[Tensor]:
        return [layer.expanded() for layer in layers]

    gradients = [torch.ones_like(f) for f in filters()]
    return lambda: torch.autograd.backward(filters(), gradients)


def run_case(name: str, device: str, rounds: int) -> tuple[list[tuple[object, ...]], tuple[object, ...]]:
    """Rows of the first table for one network, and that of the second."""
    case = CASES[name]
    torch.manual_seed(0)
    base = case.make()
    images = torch.randn(case.shape, device=device)
    labels = torch.arange(case.shape[0], device=device) % 10
    targets = {**case.targets, **(case.cuda_targets if device.startswith("cuda") else {})}
    rows: list[tuple[object, ...]] = []
    seconds = {}
    for phase in ("step", "forward"):
        models = {"ours": copy.deepcopy(base), **{other: make(base) for other, make in case.contenders.items()}}
        renew_profile()  # as after the build of a run's model
        act = {k: step(m.to(device), images, labels) if phase == "step" else forward(m.to(device), images)
               for k, m in models.items()}  # fmt: skip
        result = side_by_side(act, rounds=rounds, device=device)
        own = seconds[phase] = result["ours"].seconds
        for other in case.contenders:
            its, target = result[other], targets[other]
            # Of the contender's time to ours it is the inverse that is asked for; the quartiles change places.
            ratio, spread = 1 / its.ratio, f"{1 / its.high:.2f}–{1 / its.low:.2f}"
            met = "" if target is None else "yes" if ratio <= target else "no"
            rows.append((name, phase, other, 1e3 * its.seconds, 1e3 * own, ratio, spread, target, met))
    alone = side_by_side({"expansion": expansion(base.to(device))}, rounds=rounds, device=device)["expansion"].seconds
    return rows, (name, 1e3 * alone, 1e3 * seconds["step"], f"{100 * alone / seconds['step']:.1f} %")


def main() -> None:
    """Time the cases and print a table."""
    parse = parser(__doc__)
    parse.add_argument("--device", default="cpu")
    parse.add_argument("--only", choices=list(CASES), action="append")
    parse.add_argument("--rounds", type=int, default=15)
    parse.add_argument("--threads", type=int, default=1)
    options = parse.parse_args()
    warnings.simplefilter("ignore")
    begin(options.device, "strict", options.threads)
    print(hardware(options.device))
    found = [run_case(name, options.device, options.rounds) for name in options.only or CASES]
    rows = [row for own, _ in found for row in own]
    heads = ["network", "pass", "against", "its ms", "ours ms", "ratio", "quartiles", "target", "met"]
    show(rows, heads, ("", "", "", ".1f", ".1f", ".2f", "", ".2f", ""), options.format)
    print()
    show(
        [row for _, row in found],
        ["network", "expansion ms", "step ms", "share"],
        ("", ".2f", ".1f", ""),
        options.format,
    )


if __name__ == "__main__":
    main()
