"""Errors as one line."""

import pytest
import torch
from equibench.bench.tools.own_process import in_own_process
from equibench.bench.tools.text import error_line, first_line
from torch import nn


def load_wrong_weights() -> None:
    nn.Linear(3, 2).load_state_dict({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)})


def test_an_error_that_announces_its_cause_keeps_it() -> None:
    """torch says which weights do not fit in the second line only."""
    with pytest.raises(RuntimeError, match=r"in loading state_dict for Linear: size mismatch for weight.* 3]"):
        in_own_process(load_wrong_weights)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("a b\nc", "ValueError: a b"),
        ("\n  a b\nc", "ValueError: a b"),
        ("a:\n\n\tb\nc", "ValueError: a: b"),
        ("a:", "ValueError: a:"),
        (" \n ", "ValueError: no message"),
        ("", "ValueError: no message"),
    ],
)
def test_an_error_is_one_line(said: str, line: str) -> None:
    assert error_line(ValueError(said)) == line
    assert first_line(ValueError(said)) == (line.removeprefix("ValueError: ") if said.strip() else "ValueError")
