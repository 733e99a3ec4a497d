"""Which reflections D_N holds: one definition for PDO, G-CNN and escnn layers, and for the check of a claim."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from equibench.bench.measures.equivariance import GRID, claimed_elements
from equibench.bench.measures.invariance import claim_error
from equibench.bench.records.record import EXACT
from equibench.models import escnn_adapter, g_conv
from equibench.models.groups import PlanarGroup
from equibench.models.pdo.fields import FibreBatchNorm
from equibench.models.pdo.layers import PDOConv, PDOLift
from equibench.models.pdo.networks import InvariantHead
from torch import nn

torch.set_num_threads(1)

#: Coordinates (x, y), y up: left and right swapped, and upside down.
LEFT_RIGHT, UPSIDE_DOWN = np.diag([-1.0, 1.0]), np.diag([1.0, -1.0])


def pdo(group: str) -> nn.Module:
    layers = PDOLift(1, 2, group=group, offset=0.3), FibreBatchNorm(2, group=group), nn.ReLU()
    more = PDOConv(2, 2, group=group, offset=0.3, pooled=True), nn.ReLU()
    return nn.Sequential(*layers, *more, InvariantHead(2, 5, 4, group=group))


def escnn(group: str) -> nn.Module:
    lift = escnn_adapter.SteerableConv2d(1, 2, 5, group=group, in_kind="trivial", padding=2)
    more = escnn_adapter.SteerableConv2d(2, 3, 5, group=group, bias=True)
    pool = g_conv.GroupPool(escnn_adapter.order_of(group))
    return nn.Sequential(lift, nn.ELU(), nn.MaxPool2d(2), more, pool, nn.ELU(), *mean_and_linear())


def mean_and_linear() -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)


def g_cnn(group: str) -> nn.Module:
    lift = g_conv.GroupConv2d(1, 2, 3, group=group, lifting=True)
    more = g_conv.GroupConv2d(2, 3, 3, group=group)
    pool = g_conv.GroupPool(g_conv.order_of(group), "mean")
    return nn.Sequential(lift, nn.ELU(), nn.MaxPool2d(2), more, pool, nn.ELU(), *mean_and_linear())


#: Kinds of layers, and dihedral groups that they are made for.
NETWORKS: list[tuple[Callable[[str], nn.Module], str]] = [
    *itertools.product((pdo, escnn), ("D1", "D2", "D3", "D4", "D5")),
    (g_cnn, "D4"),
]


def made(network: Callable[[str], nn.Module], group: str) -> nn.Module:
    """With random biases, scales and shifts: an exact invariance is there for any."""
    torch.manual_seed(0)
    model = network(group).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def images() -> torch.Tensor:
    return torch.randn(6, 1, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def matrices(network: Callable[[str], nn.Module], group: str) -> list[np.ndarray]:
    """The elements of a group as its layers have them."""
    if network is pdo:
        own = PlanarGroup.parse(group)
        return [own.matrix(g) for g in own.elements]
    if network is escnn:
        space = escnn_adapter._gspace(group)
        return [np.asarray(space.basespace_action(g)) for g in space.fibergroup.elements]
    mirror, turn = UPSIDE_DOWN, np.array([[0.0, -1.0], [1.0, 0.0]])
    return [np.linalg.matrix_power(mirror, m) @ np.linalg.matrix_power(turn, r) for m in (0, 1) for r in range(4)]


def contains(elements: list[np.ndarray], wanted: np.ndarray) -> bool:
    return any(np.abs(e - wanted).max() < 1e-9 for e in elements)


@pytest.mark.parametrize(("network", "group"), [*NETWORKS, (pdo, "D6"), (escnn, "D6"), (pdo, "D7"), (escnn, "D7")])
def test_every_d_n_is_the_same_group(network: Callable[[str], nn.Module], group: str) -> None:
    own, definition = matrices(network, group), matrices(pdo, group)
    assert len(own) == len(definition) == 2 * int(group[1:])
    assert all(contains(definition, e) for e in own)
    assert contains(own, LEFT_RIGHT)
    assert contains(own, UPSIDE_DOWN) == (int(group[1:]) % 2 == 0)


def test_a_claim_holds_the_same_mirror() -> None:
    """A reflection, if any, swaps the columns before the turns: left and right."""
    matrices = {
        claim: [GRID.matrix(g).round().tolist() for g in claimed_elements(claim)] for claim in ("D1", "D2", "D3")
    }
    identity, left_right, upside_down = [[1, 0], [0, 1]], [[-1, 0], [0, 1]], [[1, 0], [0, -1]]
    assert matrices["D1"] == matrices["D3"] == [identity, left_right]
    assert left_right in matrices["D2"] and upside_down in matrices["D2"] and len(matrices["D2"]) == 4


@pytest.mark.parametrize(("network", "group"), NETWORKS)
def test_the_mirror_of_the_group_is_exact_and_another_is_not(network: Callable[[str], nn.Module], group: str) -> None:
    model, x = made(network, group), images()
    with torch.no_grad():
        plain, flipped, reversed_rows = model(x), model(x.flip(-1)), model(x.flip(-2))
    spread = (plain - plain.mean(0)).norm(dim=1).mean()
    assert (flipped - plain).norm(dim=1).max() <= 1e-12 * spread
    other = (reversed_rows - plain).norm(dim=1).mean() / spread
    assert other <= 1e-12 if int(group[1:]) % 2 == 0 else other > 0.05


class Turned(nn.Module):
    """A network that sees images turned by 90 degrees: its mirror is the other one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x.rot90(1, (-2, -1)))


@pytest.mark.parametrize(("network", "group"), NETWORKS)
def test_a_claim_is_true_of_the_right_mirror_only(network: Callable[[str], nn.Module], group: str) -> None:
    model, odd = made(network, group).float(), int(group[1:]) % 2 == 1
    x = images().float()
    assert claim_error(model, x, lambda x: x, "D1") <= EXACT
    wrong = claim_error(Turned(model), x, lambda x: x, "D1")
    assert wrong > 0.05 if odd else wrong <= EXACT
    larger = claim_error(model, x, lambda x: x, "D2")
    assert larger > 0.05 if odd else larger <= EXACT


@pytest.mark.parametrize(("network", "group"), [(pdo, "C4"), (escnn, "C4"), (g_cnn, "C4")])
def test_rotations_alone_hold_no_mirror(network: Callable[[str], nn.Module], group: str) -> None:
    assert claim_error(made(network, group).float(), images().float(), lambda x: x, "D1") > 0.05
