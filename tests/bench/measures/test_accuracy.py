"""Forward passes without gradients: the same logits as torch's own layers, for every batch size."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from equibench.bench.measures.accuracy import FastMaxPool, logits
from equibench.registry import build_model
from hypothesis import given
from hypothesis import strategies as st
from torch import nn


@given(st.data())
def test_pooling_by_comparing_has_the_maxima_of_torch(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=2)) + [
        data.draw(st.integers(2, 9)) for _ in "hw"
    ]
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99)))).round()
    x.view(-1)[:: data.draw(st.integers(3, 50))] = float(data.draw(st.sampled_from(["nan", "inf", "-inf"])))
    kernel = data.draw(st.sampled_from([2, (2, 2), [2], 1, (1, 2), (2, 1)]))
    more = data.draw(
        st.sampled_from(
            [{}, {"stride": 2}, {"stride": 1}, {"ceil_mode": True}, {"return_indices": True}, {"stride": (2, 2)}]
        )
    )
    with torch.no_grad():
        expected = F.max_pool2d(x, kernel, **more)
        with FastMaxPool():
            found = F.max_pool2d(x, kernel, **more)
    if "return_indices" in more:
        assert torch.equal(expected[1], found[1])
        expected, found = expected[0], found[0]
    assert torch.equal(found.isnan(), expected.isnan()) and torch.equal(found.nan_to_num(7.0), expected.nan_to_num(7.0))


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: nn.MaxPool2d(2)(x),
        lambda x: torch.max_pool2d(x, 2),
        lambda x: torch.max_pool2d(x, 3, 2, 1),
        lambda x: F.max_pool2d(x, 3, 2, np.int64(1)),
        lambda x: F.max_pool2d(x, np.int64(2), (2, 2), np.int64(0)),
    ],
)
def test_every_way_to_pool_is_the_same(pool) -> None:
    x = torch.randn(2, 3, 7, 8)
    with torch.no_grad(), FastMaxPool():
        found = pool(x)
    assert torch.equal(found, pool(x)) and found.is_contiguous()


def test_with_gradients_pooling_is_torch_s_own() -> None:
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    with FastMaxPool():
        F.max_pool2d(x, 2).sum().backward()
    assert x.grad.flatten().tolist() == [1, 0, 0, 0], "of equal values the first gets all"


@pytest.mark.parametrize("name", ["pdo-econv-p8", "z2cnn-22", "p4cnn"])
def test_logits_are_those_of_plain_forward_passes(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, 1, 10, 28)
    images = torch.randn(7, 1, 28, 28)
    with torch.no_grad():
        expected = torch.cat([model.eval()(part) for part in images.split(3)])
    assert torch.equal(logits(model, images, lambda x: x, 3), expected)


def test_torch_s_compiler_stays_away() -> None:
    code = (
        "import sys, torch\nfrom equibench.bench.measures.accuracy import FastMaxPool\n"
        "with torch.no_grad(), FastMaxPool(): torch.nn.functional.max_pool2d(torch.zeros(1, 1, 2, 2), 2)\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
