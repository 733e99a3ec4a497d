"""Errors by angle and by layer, and how the layers say that rotations act on them."""

import numpy as np
import pytest
import torch
from equibench.bench.measures.angle_and_depth import angle_curve, feature_errors
from equibench.bench.measures.equivariance import Scene
from equibench.models.features import action_of, feature_layers
from equibench.registry import build_model
from torch import nn


def scene(size: int) -> Scene:
    return Scene(size, lambda x: x / 255, [0.0], 255, torch.device("cpu"))


def fresh(name: str, size: int) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, 1, 10, size)


@pytest.mark.parametrize("name", ["p4cnn", "pdo-econv-p8", "e2cnn-c8-25k"])
def test_every_layer_of_an_exact_network_is_exact_under_quarter_turns(name: str) -> None:
    errors = feature_errors(fresh(name, 28), scene(28), draws=4)
    assert len(errors) >= 7 and all(e.eq_feat_exact < 1e-5 for e in errors)
    # Off the grid only the groups that hold eighth turns have a figure, and there the first layer is the best.
    fibre = [e.eq_feat_fibre for e in errors if e.eq_feat_fibre is not None]
    assert (name == "p4cnn") == (not fibre)
    assert not fibre or (fibre[0] < 0.02 and max(fibre) > 2 * fibre[0])


def test_features_show_where_parity_breaks() -> None:
    errors = {e.layer: e.eq_feat_exact for e in feature_errors(fresh("p4cnn", 29), scene(29), draws=4)}
    assert errors["features.1.0"] < 1e-5 < 0.05 < errors["features.3.0"]  # the pooling lies between them


@pytest.mark.parametrize("name", ["p4cnn", "p4m-all-cnn-c"])
def test_a_wrong_action_would_be_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from equibench.models import features

    size = 33 if "all" in name else 28
    model = fresh(name, size)
    assert max(e.eq_feat_exact for e in feature_errors(model, scene(size), draws=2)) < 1e-5
    right = features.action_of

    def backwards(module: nn.Module) -> features.Action | None:
        action = right(module)
        return action and (action[0], lambda k: action[1](-k % action[0]))

    monkeypatch.setattr(features, "action_of", backwards)
    assert max(e.eq_feat_exact for e in feature_errors(model, scene(size), draws=2)) > 0.1


def test_a_strangers_layer_says_it_by_a_method() -> None:
    class Stranger(nn.Conv2d):
        def rotation_action(self):
            return 4, lambda k: np.roll(np.arange(4), k)

    model = nn.Sequential(nn.Conv2d(1, 2, 3), Stranger(2, 8, 3), nn.Flatten(), nn.Linear(8 * 81, 3))
    (layer,) = feature_layers(model)
    assert layer.name == "1" and layer.rotations == 4
    marked = torch.arange(8.0).reshape(1, 8, 1, 1)
    assert layer.permuted(marked, 1).flatten().tolist() == [3, 0, 1, 2, 7, 4, 5, 6]
    assert len(feature_errors(model, scene(13), draws=2)) == 1


def test_ordinary_layers_and_layers_under_a_wrapper_say_nothing() -> None:
    assert action_of(nn.Conv2d(1, 2, 3)) is None
    assert feature_errors(fresh("wrn-10-1", 28), scene(28), draws=2) == []
    # Averaged over a group, the net inside sees another batch than the images.
    assert feature_errors(fresh("p4cnn+frame-c4", 28), scene(28), draws=2) == []


def test_the_angle_curve_vanishes_where_the_network_is_exact() -> None:
    curve = angle_curve(fresh("p4cnn", 28), scene(28), degrees=(0, 45, 90, 180, 270), draws=8)
    assert curve[0] == 0 and max(curve[2:]) < 1e-5 and curve[1] > 0.05


def test_a_collapsed_model_has_no_curve() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(81, 2))
    nn.init.zeros_(model[1].weight)
    assert angle_curve(model, scene(9), degrees=(0, 30), draws=4) == [None, None]
