"""The published PDO-eConv with one change at a time: each member differs from it in what its name says, and only
there.
"""

from __future__ import annotations

import pytest
import torch
from equibench.models.pdo.fields import FibreBatchNorm
from equibench.models.pdo.layers import PDOConv
from equibench.registry import MODELS, UserError, build_model
from torch import nn

PAPER = "pdo-econv-p8-paper"


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, 1, 10, 28)


def facts(model: nn.Module) -> dict[str, object]:
    """What the corrections change, read from the modules."""
    convs = [m for m in model[0].modules() if isinstance(m, PDOConv)]
    norms = [m for m in model[0].modules() if isinstance(m, FibreBatchNorm)]
    return {
        "dropout": [m.p for m in model[0].modules() if isinstance(m, nn.Dropout)],
        "eps": {m.eps for m in norms},
        "momentum": {m.momentum for m in norms},
        "stencil": {m.stencil for m in convs},
        "turn": {round(m.offset, 9) for m in convs},
        "head": type(model[1]).__name__,
        "shapes": [tuple(m.weight.shape) for m in convs],
    }


def test_without_a_change_it_is_the_published_network_to_the_bit() -> None:
    one, other = built(PAPER), built("pdo-econv-p8-fd-conv-drop20-eps3-turn8")
    assert facts(one) == facts(other)
    assert list(one.state_dict()) == list(other.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    images = torch.randn(4, 1, 28, 28)
    for model in (one, other):
        torch.manual_seed(1)  # dropout
        model.logits = model.train()(images)
    assert torch.equal(one.logits, other.logits)


@pytest.mark.parametrize(
    ("member", "changed"),
    [
        ("pdo-econv-p8-paper-no-dropout", {"dropout"}),
        ("pdo-econv-p8-paper-eps-5", {"eps"}),
        ("pdo-econv-p8-w7-pooled", {"head"}),
        ("pdo-econv-p8-paper-gauss", {"stencil"}),
        ("pdo-econv-p8-w7-corrected", {"dropout", "eps", "head", "stencil"}),
        ("pdo-econv-p8-w7-corrected-turn-0", {"dropout", "eps", "head", "stencil", "turn"}),
    ],
)
def test_each_member_changes_what_it_says(member: str, changed: set[str]) -> None:
    before, after = facts(built(PAPER)), facts(built(member))
    assert {key for key in before if before[key] != after[key]} == changed


def test_the_head_decides_the_invariance() -> None:
    """Its trunk is equivariant under all changes."""
    exact = {"pdo-econv-p8-w7-pooled", "pdo-econv-p8-w7-corrected", "pdo-econv-p8-w7-corrected-turn-0"}
    for name in {"pdo-econv-p8-paper-no-dropout", "pdo-econv-p8-paper-eps-5", *exact}:
        assert MODELS.find(name).get("invariant") == ("C4" if name in exact else "none")


@pytest.mark.parametrize("name", ["pdo-econv-p8-rbf-conv-drop20-eps3-turn8", "pdo-econv-p8-fd-mean-drop20-eps3-turn8"])
def test_an_unknown_word_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="the stencil is fd or gauss, the head conv or pool"):
        built(name)
