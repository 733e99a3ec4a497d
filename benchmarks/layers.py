"""What equivariant convolutions cost against ordinary ones of the same dense shape; prints a table of ratios.

    uv run python benchmarks/layers.py [--device cuda:0] [--only p8-25k] [--rounds 15]

In each network every PDO-eConv or G-CNN convolution is replaced, all else left as it is, by

* ``dense``: `torch.nn.Conv2d` with as many channels, the same kernel, stride and padding;
* ``escnn``: escnn's `R2Conv` between the same fields, with the same kernel (PDO-eConv over C_N without pooled strides);
* ``loops``: the same PDO-eConv whose filters are put together by Python loops over the group in every step, as public
  code does.

A training step is forward, cross entropy, backward and an SGD step; the forward pass is that of evaluation, without
gradients. Ratios are medians over rounds in which all take turns, with their quartiles.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from equibench.models.g_conv import GroupConv2d
from equibench.models.pdo.layers import PDOConv
from equibench.models.pdo.networks import InvariantHead, MnistTrunk
from equibench.registry import build_model
from side_by_side import hardware, side_by_side
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
    """escnn's convolution between the fields of a PDO-eConv layer, from tensor to tensor."""

    def __init__(self, layer: PDOConv) -> None:
        super().__init__()
        from escnn import gspaces
        from escnn import nn as enn

        space = gspaces.rot2dOnR2(layer.group.order)
        regular, trivial = space.regular_repr, space.trivial_repr
        self.fields = enn.FieldType(space, layer.in_fields * [regular if layer.in_order > 1 else trivial])
        out = enn.FieldType(space, layer.out_fields * [regular])
        size, padding = _seen(layer)
        self.conv = enn.R2Conv(self.fields, out, size, stride=layer.stride, padding=padding, bias=False, initialize=False)
        nn.init.normal_(self.conv.weights, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        from escnn.nn import GeometricTensor

        return self.conv(GeometricTensor(x, self.fields)).tensor


def _seen(layer: PDOConv) -> tuple[int, int]:
    """Width of the filter without its empty rings, and the padding that then remains."""
    return layer.basis.shape[-1], layer.padding - layer._margin


def as_dense(layer: nn.Module) -> nn.Module:
    """An ordinary convolution of the same dense shape."""
    if isinstance(layer, PDOConv):
        size, padding = _seen(layer)
        channels = layer.in_fields * layer.in_order, layer.out_fields * layer.group.order
        return nn.Conv2d(*channels, size, layer.stride, padding, bias=False)
    assert isinstance(layer, GroupConv2d)
    channels = layer.in_fields * layer.in_order, layer.out_fields * layer.order
    return nn.Conv2d(*channels, layer.kernel_size, layer.stride, layer.padding, bias=layer.bias is not None)


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
            if isinstance(child, PDOConv | GroupConv2d):
                setattr(parent, name, make(child))
    return model


def trunk(group: str, offset: float, stencil: str = "fd") -> nn.Module:
    """The 25K network for MNIST over another group or offset."""
    fields = 56 // int(group[1:])
    body = MnistTrunk(1, 28, group=group, stencil=stencil, widths=(fields,) * 6, offset=offset)
    return nn.Sequential(body, InvariantHead(fields, 42, 10, group=group))


#: Network, shape of a batch, and what it is compared with beside the dense one.
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, Make]]] = {
    "p8-25k": (lambda: build_model("pdo-econv-p8-paper", 1, 10, 28), (64, 1, 28, 28), {"escnn": EscnnConv, "loops": as_loops}),
    "p8-25k-offset-0": (lambda: trunk("C8", 0.0), (64, 1, 28, 28), {}),
    "p4-25k-offset-0": (lambda: trunk("C4", 0.0), (64, 1, 28, 28), {}),
    "p8-44": (
        lambda: build_model("pdo-econv-p8-44-paper", 3, 10, 32), (32, 3, 32, 32), {"escnn": EscnnConv, "loops": as_loops},
    ),
    "p6-26": (
        lambda: build_model("pdo-econv-p6-26-paper", 3, 10, 32), (32, 3, 32, 32), {"escnn": EscnnConv, "loops": as_loops},
    ),
    "g-cnn-p4": (lambda: build_model("p4cnn", 1, 10, 28), (64, 1, 28, 28), {}),
    "g-cnn-p4m": (lambda: build_model("p4m-resnet-44", 3, 10, 32), (32, 3, 32, 32), {}),
}  # fmt: skip
#: What each case shall reach: contender, pass -> the largest ratio of the network's own time to the contender's.
TARGETS = {
    "p8-25k": {"dense": 1.10, "escnn": 1.0, "loops": 1.0},
    "p8-25k-offset-0": {"dense": 0.75},
    "p4-25k-offset-0": {"dense": 0.40},
    "p8-44": {"dense": 1.05, "escnn": 1.0, "loops": 1.0},
    "p6-26": {"dense": 1.05, "escnn": 1.0, "loops": 1.0},
    "g-cnn-p4": {"dense": 1.05},
    "g-cnn-p4m": {"dense": 1.05},
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


def run_case(name: str, device: str, rounds: int) -> list[tuple[object, ...]]:
    """Rows of the table for one network."""
    make, shape, others = CASES[name]
    torch.manual_seed(0)
    base = make()
    ours = base.to(device)
    contenders = {"dense": as_dense, **others}
    images = torch.randn(shape, device=device)
    labels = torch.arange(shape[0], device=device) % 10
    rows: list[tuple[object, ...]] = []
    for phase in ("step", "forward"):
        for other, replace in contenders.items():
            pair = {other: replaced(base, replace).to(device), "ours": copy.deepcopy(ours)}
            act = {k: step(m, images, labels) if phase == "step" else forward(m, images) for k, m in pair.items()}
            result = side_by_side(act, rounds=rounds, device=device)
            own, base_s = result["ours"], result[other].seconds
            target = TARGETS[name][other] if device == "cpu" or other == "dense" else {"escnn": 1 / 1.5, "loops": 0.5}[other]
            met = "yes" if own.ratio <= target else "no"
            spread = f"{own.low:.2f}–{own.high:.2f}"
            rows.append(
                (name, phase, other, 1e3 * base_s, 1e3 * own.seconds, own.ratio, spread, target, met)
            )
    return rows


def main() -> None:
    """Time the cases and print a table."""
    from tabulate import tabulate

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=list(CASES), action="append")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    print(hardware(options.device))
    rows = [row for name in options.only or CASES for row in run_case(name, options.device, options.rounds)]
    heads = ["network", "pass", "against", "its ms", "ours ms", "ratio", "quartiles", "target", "met"]
    print(tabulate(rows, heads, floatfmt=("", "", "", ".1f", ".1f", ".2f", "", ".2f", "")))


if __name__ == "__main__":
    main()
