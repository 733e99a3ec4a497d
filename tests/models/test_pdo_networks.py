"""The registered PDO-eConv networks: counts, claimed invariance, determinism, evaluation caches."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from equibench.models.groups import PlanarGroup, transform_image
from equibench.registry import MODELS, build_model, parse_shape

torch.set_num_threads(1)

OURS = [e for e in MODELS.match() if e.fields.get("family") == "pdo-econv" and not e.is_template]


def _declared() -> list[tuple[str, str, int]]:
    return [(e.name, shape, count) for e in OURS for shape, count in (e.fields.get("params") or {}).items()]


@pytest.mark.parametrize(("name", "shape", "count"), _declared())
def test_parameter_count_is_as_declared(name: str, shape: str, count: int) -> None:
    channels, size, classes = parse_shape(shape, "test")
    with torch.device("meta"):
        model = build_model(name, channels, classes, size)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count
