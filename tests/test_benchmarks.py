"""The benchmark commands compare like with like: what stands in for a layer has its shape, or its very values."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from equibench.bench.measures.equivariance import Scene
from equibench.bench.measures.equivariance_full import FULL_DRAWS, Inputs, measure_full
from equibench.models.pdo.layers import PDOConv, PDOLift
from torch.utils._python_dispatch import TorchDispatchMode

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


class Convolutions(TorchDispatchMode):
    """The shapes of input, filter and output of every convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[object, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.shapes.append(tuple(tuple(t.shape) for t in (args[0], args[1], out)))
        return out


def loaded(name: str) -> ModuleType:
    """A command of the folder as a module."""
    sys.path.insert(0, str(FOLDER))
    try:
        return import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
        # Other tests have files of these names.
        for name in [n for n, m in sys.modules.items() if str(getattr(m, "__file__", None)).startswith(str(FOLDER))]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def layers() -> ModuleType:
    return loaded("layers")


def test_a_figure_of_the_documentation_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    plot = loaded("documentation_figures").plot_parity
    errors = {"one": [1e-6, 0.5, None], "two": [None, None, None]}
    first, second = (plot((28, 29, 30), errors, "title", tmp_path / n / "parity") for n in "ab")
    assert [p.suffix for p in first] == [".svg", ".png"]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    other = plot((28, 29, 30), {"one": [1e-6, 1e-6, 0.5]}, "title", tmp_path / "c" / "parity")
    assert first[0].read_bytes() != other[0].read_bytes()


def test_a_network_that_turns_with_its_input_is_nearly_invariant() -> None:
    """The one of the figure on interpolation: under a quarter turn of any image its means are the same."""
    model = loaded("documentation_figures").RadialNet()
    images = torch.rand(2, 1, 14, 14, dtype=torch.float64)
    assert torch.allclose(model(images), model(images.rot90(1, (2, 3))), rtol=0, atol=1e-12)


@pytest.mark.parametrize("group", ["C4", "C6", "D4", "C8"])
def test_filters_by_loops_are_the_same_filters(layers: ModuleType, group: str) -> None:
    torch.manual_seed(0)
    for kind, channels in ((PDOLift, 2), (PDOConv, 2)):
        layer = kind(channels, 3, group=group, offset=0.3).double()
        assert torch.allclose(layers.as_loops(layer).filters(), layer.expanded(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("case", ["p8-25k", "p8-25k-invariant", "g-cnn-p4", "e2cnn-c8"])
def test_contenders_do_the_same_work(layers: ModuleType, case: str) -> None:
    """Between the same shapes, with dense filters of the same shape, from one layer to the next."""
    found = layers.CASES[case]
    base = found.make().eval()
    images = torch.randn(2, *found.shape[1:])
    assert work(base, images)
    for make_other in found.contenders.values():
        other = make_other(base).eval()
        assert other(images).shape == base(images).shape
        assert work(other, images) == work(base, images)


@pytest.mark.parametrize(("case", "first"), [("p8-25k-offset-0", 5), ("p4-25k-offset-0", 3)])
def test_without_offset_the_ordinary_kernel_is_that_of_the_paper(layers: ModuleType, case: str, first: int) -> None:
    """Five pixels against the three that are left of them, to the same maps; single taps aside."""
    found = layers.CASES[case]
    base = found.make().eval()
    whole = found.contenders["dense"](base).eval()
    images = torch.randn(2, *found.shape[1:])
    ours, theirs = work(base, images), work(whole, images)
    assert [filters[-1] for _, filters, _ in ours if filters[-1] > 1] == [first, *[3] * 5]
    assert [filters[-1] for _, filters, _ in theirs if filters[-1] > 1] == [5] * 6
    assert {out[2:] for _, _, out in theirs} <= {out[2:] for _, _, out in ours}
    assert base(images).shape == whole(images).shape


def work(model: torch.nn.Module, images: torch.Tensor) -> list[tuple[object, ...]]:
    """The convolutions of a pass of evaluation."""
    with torch.no_grad():
        model(images)  # filters are expanded at the first pass
        with Convolutions() as seen:
            model(images)
    return seen.shapes


def test_the_passes_of_the_full_profile_are_those_that_it_makes() -> None:
    """Counted in a network that counts; a derivative is one call, and the logits of the zero image are left out."""
    seen = {"images": 0, "zero": 0}

    class Counting(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen["zero" if len(images) == 1 else "images"] += len(images)
            return images[:, 0, 2:4, 3]

    images = torch.randint(0, 256, (300, 1, 8, 8), dtype=torch.uint8)
    scene = Scene(8, lambda x: x.float() / 255, [0.1], 255, torch.device("cpu"))
    inputs = Inputs(images, torch.arange(300) % 2, scene, True)
    for predictions in (False, True):
        assert not measure_full(Counting(), inputs, predictions)[0].collapsed
    derivatives = 2 * 3 * FULL_DRAWS
    assert seen["images"] + derivatives == loaded("startup").passes(300)
