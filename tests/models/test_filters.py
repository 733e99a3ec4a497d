"""The gather against torch's own, what the gradients of all models are made of, and filters that are kept."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from equibench.models.escnn_adapter import SteerableConv2d
from equibench.models.filter_basis import BasisConv
from equibench.models.filters import ExpandedLayer, gather, gather_tables
from equibench.models.g_conv import GroupConv2d
from equibench.models.pdo.layers import GroupConv1x1, PDOConv, PDOLift
from equibench.models.pdo.networks import MnistTrunk
from equibench.models.pdo.split import SplitPDOConv, split_frames
from equibench.models.relaxed_g_conv import RelaxedGroupConv2d
from equibench.models.steerable_pdo import operator_basis
from equibench.registry import MODELS, WRAPPERS, build_model, parse_shape
from torch import nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

torch.set_num_threads(1)

#: A permutation, and copies of which every place has three.
TABLES = {"bijection": np.array([3, 0, 4, 1, 2]), "copies": np.array([1, 1, 0, 3, 2, 3, 0, 2, 1, 0, 2, 3])}


def tensors(table: str, dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    index, readers = gather_tables(TABLES[table])
    shape = [2, 2, 2]
    shape[dim] = int(index.max()) + 1
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x.requires_grad_(), index, readers


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_values_and_gradients_are_those_of_index_select(table: str, dim: int) -> None:
    x, index, readers = tensors(table, dim)
    ours, theirs = gather(x, dim, index, readers), x.index_select(dim, index)
    assert torch.equal(ours, theirs)
    upper = torch.randn(theirs.shape, dtype=torch.float64)
    (mine,), (wanted,) = torch.autograd.grad(ours, x, upper), torch.autograd.grad(theirs, x, upper)
    torch.testing.assert_close(mine, wanted, rtol=0, atol=0 if table == "bijection" else 1e-15)


@pytest.mark.parametrize("table", TABLES)
def test_derivatives_of_both_modes_and_of_second_order(table: str) -> None:
    x, index, readers = tensors(table, 1)

    def f(x: torch.Tensor) -> torch.Tensor:
        return gather(x, 1, index, readers).sin()

    assert torch.autograd.gradcheck(f, (x,), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(f, (x,))
    tangent = torch.randn_like(x)
    value, slope = torch.func.jvp(f, (x,), (tangent,))
    assert torch.equal(value, f(x))
    torch.testing.assert_close(slope, x.index_select(1, index).cos() * tangent.index_select(1, index))
    stacked = torch.stack([x, 2 * x])
    assert torch.equal(torch.func.vmap(f)(stacked), torch.stack([f(x), f(2 * x)]))


def test_a_compiled_gather_is_the_same() -> None:
    """In one graph; the compiler has no rule for functions with a forward mode."""
    x, index, readers = tensors("copies", 1)
    compiled = torch.compile(lambda x: gather(x, 1, index, readers), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), x.index_select(1, index))
    (gradient,) = torch.autograd.grad(compiled(x).sin().sum(), x)
    torch.testing.assert_close(gradient, torch.autograd.grad(x.index_select(1, index).sin().sum(), x)[0])


@pytest.mark.parametrize("index", [[0, 1, 1], [0, 2], [1, 1]])
def test_places_that_are_not_read_equally_often(index: list[int]) -> None:
    with pytest.raises(ValueError, match="equally often"):
        gather_tables(np.array(index))


# The gradients of all models ----------------------------------------------------------------------------------

#: Adds values one by one in any order; with `torch.use_deterministic_algorithms` a GPU sorts them first.
SORTED = ("index_put", "index_add", "scatter", "put", "embedding_dense_backward")
#: Networks of more parameters, and those whose kernels take seconds to solve, are looked at in the slow run.
SMALL, KERNELS = 400_000, ("e2wrn",)
DECLARED = {e.name: next(iter(e.fields["params"])) for e in MODELS.match() if e.fields.get("params")}
WRAPPED = {f"z2cnn-2+{w.name}": "1x28x28->10" for w in WRAPPERS.match()}


def case(name: str, shape: str) -> Any:
    parameters = MODELS.find(name).get("params") or {shape: 0}
    quick = min(parameters.values()) <= SMALL and not name.startswith(KERNELS)
    return pytest.param(name, shape, id=name, marks=[] if quick else pytest.mark.slow)


class _Operations(TorchDispatchMode):
    """The names of the operations that are called inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name.removeprefix("aten::").strip("_"))
        return func(*args, **(kwargs or {}))


def operations(step: Callable[[], torch.Tensor]) -> set[str]:
    with _Operations() as seen:
        step().sum().backward()
    return seen.names


def sorted_ones(names: set[str]) -> list[str]:
    return sorted(n for n in names if n.startswith(SORTED))


def test_a_gradient_that_adds_into_places_is_seen() -> None:
    x, index, readers = tensors("copies", 1)
    for step in (lambda: x.index_select(1, index), lambda: x[:, [0, 1, 0]], lambda: x.gather(1, index.view(1, -1, 1))):
        assert sorted_ones(operations(step))
    assert sorted_ones(operations(lambda: gather(x, 1, index, readers))) == []


@pytest.mark.parametrize(("name", "shape"), [case(*one) for one in {**DECLARED, **WRAPPED}.items()])
def test_no_training_step_adds_into_places(name: str, shape: str) -> None:
    channels, size, classes = parse_shape(shape, name)
    with torch.device("meta"):
        model = build_model(name, channels, classes, size).train()
        images, labels = torch.zeros(2, channels, size, size), torch.zeros(2, dtype=torch.int64)
        names = operations(lambda: F.cross_entropy(model(images), labels))
    assert "convolution_backward" in names and sorted_ones(names) == []


# Filters that are kept ----------------------------------------------------------------------------------------


def split_layer() -> nn.Module:
    trunk = MnistTrunk(1, 28, group="p8", stencil="fd", widths=(1, 1), offset=0.0)
    return next(m for m in split_frames(trunk).modules() if isinstance(m, SplitPDOConv))


OPERATORS = partial(operator_basis, rotations=8, order=2, discretisation="gauss", kernel_size=3)
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "PDO lift": lambda: PDOLift(2, 3, group="p6m"),
    "PDO": lambda: PDOConv(2, 3, group="p8", stencil="gauss"),
    "PDO 1x1": lambda: GroupConv1x1(2, 3, group="p3"),
    "PDO steerable": lambda: BasisConv(2, 3, group="C8", basis=OPERATORS),
    "PDO steerable lift": lambda: BasisConv(2, 3, group="C8", basis=OPERATORS, lifting=True),
    "PDO split": split_layer,
    "G-CNN": lambda: GroupConv2d(2, 3, 3, group="D4"),
    "G-CNN lift": lambda: GroupConv2d(2, 3, 3, group="C4", lifting=True),
    "relaxed": lambda: RelaxedGroupConv2d(2, 3, 3, group="C4", banks=2),
    "escnn": lambda: SteerableConv2d(2, 3, 3, group="C4", bias=True),
    "escnn lift": lambda: SteerableConv2d(2, 3, 3, group="D3", in_kind="trivial"),
}


def made(kind: str) -> tuple[ExpandedLayer, torch.Tensor]:
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    assert isinstance(layer, ExpandedLayer)
    lift = kind.endswith("lift")
    order = getattr(layer, "in_size", None) or layer.in_order
    assert (order == 1) == lift
    return layer.eval(), torch.randn(2, layer.in_fields * order, 7, 7)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_filter_is_expanded_once_for_an_evaluation(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = made(kind)
    wanted, calls = layer(x), []
    expand = type(layer).expanded
    monkeypatch.setattr(type(layer), "expanded", lambda self: calls.append(1) or expand(self))
    with torch.no_grad():
        assert torch.equal(layer(x), wanted) and torch.equal(layer(x), wanted)
        assert len(calls) == 1
        layer.train(), layer.eval()
        layer(x)
        assert len(calls) == 2  # nothing is carried over a training
        layer.train()
        layer(x), layer(x)
        assert len(calls) == 4
    layer.eval()
    layer(x).sum().backward()  # a gradient is wanted
    assert layer.weight.grad is not None and len(calls) == 5


CHANGES: dict[str, Callable[[ExpandedLayer], Any]] = {
    "in place": lambda layer: layer.weight.mul_(1.5),
    "data": lambda layer: layer.weight.data.mul_(1.5),
    "other data": lambda layer: setattr(layer.weight, "data", 1.5 * layer.weight),
    "load": lambda layer: layer.load_state_dict({**layer.state_dict(), "weight": 1.5 * layer.weight}),
    "parameter": lambda layer: setattr(layer, "weight", nn.Parameter(1.5 * layer.weight)),
    "parametrized": lambda layer: parametrize.register_parametrization(layer, "weight", Scaled()),
}


class Scaled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 1.5 * weight


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_kept_filter_is_never_stale(kind: str, change: str) -> None:
    layer, x = made(kind)
    with torch.no_grad():
        if getattr(layer, "bias", None) is not None:
            layer.bias.zero_()
        before, twin = layer(x), copy.deepcopy(layer)
        CHANGES[change](layer)
        torch.testing.assert_close(layer(x), 1.5 * before)
        assert torch.equal(twin(x), before)
        # Other types, and back.
        torch.testing.assert_close(layer.double()(x.double()).float(), 1.5 * before)
        torch.testing.assert_close(layer.float()(x), 1.5 * before)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_filter_that_is_kept_inside_a_transform_is_an_ordinary_one(kind: str) -> None:
    """The first evaluation may be inside `torch.func.jvp`, in inference mode or under autocast."""
    layer, x = made(kind)
    with torch.no_grad():
        wanted = layer.expanded()
        value, slope = torch.func.jvp(layer, (x,), (x,))
        assert torch.equal(layer.filters(), wanted) and type(layer.filters()) is torch.Tensor
        assert not torch._C._functorch.is_functorch_wrapped_tensor(layer.filters())
        assert torch.equal(value, layer(x)) and slope.isfinite().all()
        for context in (torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
            layer.train(), layer.eval()
            with context:
                layer(x)
            assert layer.filters().dtype == torch.float32 and torch.equal(layer.filters(), wanted)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert set(layer.state_dict()) == {name for name, _ in layer.named_parameters()}
