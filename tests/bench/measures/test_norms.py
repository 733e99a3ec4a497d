"""Re-estimated running statistics: those of the pooled sample, for every layer that derives from torch's."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from equibench.bench.measures.norms import UnknownStatistics, check_statistics, reestimate_batch_norm, running_layers
from equibench.models.g_conv import FibreBatchNorm2d
from torch import nn

#: Sizes of batches that weigh differently.
SIZES = (30, 30, 7, 2)


def batches(*shape: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Batches whose means and spreads differ much, as images sorted by class have them."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, *shape, generator=generator, dtype=dtype) * (1 + k) + 5 * k for k, n in enumerate(SIZES)]


def moments(values: torch.Tensor, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased variance of each channel (the second axis) of a whole sample, the obvious way."""
    array = np.moveaxis(values.detach().numpy(), 1, 0).reshape(channels, -1)
    return array.mean(1), array.var(1, ddof=1)


def assert_are(layer: nn.Module, expected: tuple[np.ndarray, np.ndarray], rtol: float = 1e-12) -> None:
    assert np.allclose(layer.running_mean.numpy(), expected[0], rtol=rtol, atol=rtol)
    assert np.allclose(layer.running_var.numpy(), expected[1], rtol=rtol, atol=rtol)


class Rescaled(nn.BatchNorm2d):
    """Derived: does something to its input first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(3 * x)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Callable[[torch.Tensor], torch.Tensor]]] = {
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), (3,), lambda x: x),
    "BatchNorm1d of sequences": (lambda: nn.BatchNorm1d(3), (3, 9), lambda x: x),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), (3, 4, 4), lambda x: x),
    "BatchNorm2d, cumulative": (lambda: nn.BatchNorm2d(3, momentum=None), (3, 4, 4), lambda x: x),
    "BatchNorm2d, slow": (lambda: nn.BatchNorm2d(3, momentum=1e-3), (3, 4, 4), lambda x: x),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(3), (3, 2, 4, 4), lambda x: x),
    "SyncBatchNorm": (lambda: nn.SyncBatchNorm(3), (3, 4, 4), lambda x: x),
    "LazyBatchNorm2d": (lambda: nn.LazyBatchNorm2d(), (3, 4, 4), lambda x: x),
    "without scales": (lambda: nn.BatchNorm2d(3, affine=False), (3, 4, 4), lambda x: x),
    "derived": (lambda: Rescaled(3), (3, 4, 4), lambda x: 3 * x),
    "fields": (lambda: FibreBatchNorm2d(3), (12, 4, 4), lambda x: x.reshape(len(x), 3, -1)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_statistics_are_those_of_the_pooled_sample(name: str) -> None:
    build, shape, seen = LAYERS[name]
    parts = batches(*shape)
    model = nn.Sequential(nn.Dropout(0.5), build()).double()
    model.eval()(parts[0])  # lazy layers get their numbers here, as in a run
    momentum = model[1].momentum
    reestimate_batch_norm(model, parts)
    assert_are(model[1], moments(seen(torch.cat(parts)), 3))
    assert model[1].momentum == momentum and not any(m.training for m in model.modules())


def test_the_cut_into_batches_does_not_matter_to_a_first_layer() -> None:
    whole, cut = nn.BatchNorm2d(3).double(), nn.BatchNorm2d(3).double()
    parts = batches(3, 4, 4)
    reestimate_batch_norm(whole, [torch.cat(parts)])
    reestimate_batch_norm(cut, parts)
    assert torch.allclose(whole.running_mean, cut.running_mean) and torch.allclose(whole.running_var, cut.running_var)


def test_deeper_layers_see_batches_normalised_by_their_own_statistics() -> None:
    """The slow reference: layer by layer in numpy, all inputs of the second layer kept and pooled."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 1), nn.BatchNorm2d(4)
    ).double()
    parts = batches(3, 6, 6)
    reestimate_batch_norm(model, parts)
    with torch.no_grad():
        first, second = [model[0](part) for part in parts], []
        for values in first:
            mean, variance = values.mean((0, 2, 3), keepdim=True), values.var((0, 2, 3), keepdim=True, unbiased=False)
            second.append(model[3](((values - mean) / (variance + model[1].eps).sqrt()).relu()))
    assert_are(model[1], moments(torch.cat(first), 5))
    assert_are(model[4], moments(torch.cat(second), 4), 1e-10)


def test_a_layer_that_is_called_twice_pools_both_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x[..., ::2, ::2]).sum() + self.norm(input=7 * x).sum()

    model, parts = Twice().double(), batches(3, 4, 4)
    reestimate_batch_norm(model, parts)
    values = [
        np.concatenate(
            [
                moments_of[:, c].ravel()
                for moments_of in (torch.cat(parts)[..., ::2, ::2].numpy(), 7 * torch.cat(parts).numpy())
            ]
        )
        for c in range(3)
    ]
    assert_are(model.norm, (np.array([v.mean() for v in values]), np.array([v.var(ddof=1) for v in values])))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_instance_normalisation_gets_the_means_over_images_and_is_not_frozen(momentum: float | None) -> None:
    layer, parts = nn.InstanceNorm2d(3, track_running_stats=True, momentum=momentum).double(), batches(3, 4, 4)
    reestimate_batch_norm(layer, parts)
    images = torch.cat(parts)
    assert_are(layer, (images.mean((0, 2, 3)).numpy(), images.var((2, 3)).mean(0).numpy()))


def test_statistics_that_are_no_numbers_any_more_are_replaced() -> None:
    layer, parts = nn.BatchNorm2d(3).double(), batches(3, 4, 4)
    layer.running_mean.fill_(torch.nan)
    layer.running_var.fill_(torch.inf)
    reestimate_batch_norm(layer, parts)
    assert_are(layer, moments(torch.cat(parts), 3))


class Frozen(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


class OwnPace(nn.BatchNorm2d):
    """Updates its statistics with its own rate and ignores `momentum`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, None, None, self.training, 0.1, self.eps
        )


class Uncalled(nn.Module):
    """Uses the numbers of a layer without calling it."""

    def __init__(self, switch: str) -> None:
        super().__init__()
        self.norm, self.switch = nn.BatchNorm2d(3), switch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own, training = self.norm, (self.norm if self.switch == "layer" else self).training
        return nn.functional.batch_norm(
            x, own.running_mean, own.running_var, None, None, training, own.momentum, own.eps
        )


class MovingAverage(nn.Module):
    """Is evaluated with a moving average of its network, as many recipes do; buffers are averaged too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        self.mean = torch.optim.swa_utils.AveragedModel(self.net, use_buffers=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean.update_parameters(self.net)
        return self.net(x) if self.training else self.mean(x)


def test_layers_that_only_evaluation_calls_are_estimated() -> None:
    model, parts = MovingAverage().double(), batches(3, 4, 4)
    model(parts[1])  # from now on, training changes the averages
    check_statistics(model, parts[0])
    reestimate_batch_norm(model, parts)
    with torch.no_grad():
        assert_are(model.mean.module[1], moments(torch.cat([model.mean.module[0](part) for part in parts]), 3))


def test_frozen_and_unused_layers_keep_what_they_have() -> None:
    model = nn.Sequential(Frozen(3), nn.BatchNorm2d(3)).double()
    check_statistics(model, batches(3, 4, 4)[0])
    model.unused = nn.BatchNorm2d(3).double()
    model.forward = lambda x: model[1](model[0](x))
    for layer in (model[0], model.unused):
        layer.running_mean.fill_(2.0)
        layer.running_var.fill_(4.0)
    parts = batches(3, 4, 4)
    reestimate_batch_norm(model, parts)
    for layer in (model[0], model.unused):
        assert (layer.running_mean == 2).all() and (layer.running_var == 4).all()
    assert_are(model[1], moments((torch.cat(parts) - 2) / (4 + model[0].eps) ** 0.5, 3))


class FrozenInTraining(nn.Sequential):
    """Keeps its first layer in evaluation mode while it trains, as detectors keep the layers of their backbone."""

    def train(self, mode: bool = True) -> "FrozenInTraining":
        super().train(mode)
        self[0].eval()
        return self


def test_layers_that_the_model_keeps_in_evaluation_mode_are_frozen() -> None:
    model, parts = FrozenInTraining(nn.BatchNorm2d(3), nn.BatchNorm2d(3)).double(), batches(3, 4, 4)
    check_statistics(model, parts[0])
    model[0].running_mean.fill_(2.0)
    model[0].running_var.fill_(4.0)
    reestimate_batch_norm(model, parts)
    assert (model[0].running_mean == 2).all() and (model[0].running_var == 4).all()
    assert_are(model[1], moments((torch.cat(parts) - 2) / (4 + model[0].eps) ** 0.5, 3))


class Ghost(nn.BatchNorm2d):
    """Ghost batch normalisation as published (D. Page): statistics of two splits, which evaluation averages."""

    def __init__(self, features: int) -> None:
        super().__init__(features, affine=False)
        self.running_mean, self.running_var = torch.zeros(2 * features), torch.ones(2 * features)

    def train(self, mode: bool = True) -> "Ghost":
        if self.training and not mode:
            for name in ("running_mean", "running_var"):
                setattr(self, name, getattr(self, name).view(2, -1).mean(0).repeat(2))
        return super().train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, splits = self.num_features, 2 if self.training else 1
        mean, var = (
            (self.running_mean, self.running_var) if self.training else (self.running_mean[:n], self.running_var[:n])
        )
        parts = x.reshape(-1, n * splits, *x.shape[2:])
        return nn.functional.batch_norm(parts, mean, var, None, None, self.training, self.momentum).reshape(x.shape)


def test_a_layer_that_averages_splits_when_evaluation_begins_does_so() -> None:
    layer, (part, *_) = Ghost(3).double(), batches(3, 4, 4)
    reestimate_batch_norm(layer, [part])
    ghosts = [moments(part[k::2], 3) for k in range(2)]
    means, variances = ([g[i] for g in ghosts] for i in range(2))
    assert_are(layer, (np.tile(np.mean(means, 0), 2), np.tile(np.mean(variances, 0), 2)), 1e-2)
    assert torch.equal(layer.running_mean[:3], layer.running_mean[3:]) and not layer.training


@pytest.mark.parametrize("name", [*LAYERS, "frozen", "instance"])
def test_layers_that_can_be_estimated_pass(name: str) -> None:
    extra = {
        "frozen": lambda: Frozen(3),
        "instance": lambda: nn.InstanceNorm2d(3, track_running_stats=True, momentum=None),
    }
    build, shape = (extra[name], (3, 4, 4)) if name in extra else LAYERS[name][:2]
    torch.manual_seed(0)
    model = nn.Sequential(build())
    images = torch.randn(6, *shape)
    model.eval()(images)
    check_statistics(model, images)


def test_a_network_that_is_random_in_evaluation_is_no_other_layer() -> None:
    class Noisy(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(images, 0.5, training=True)

    before = torch.get_rng_state()
    check_statistics(
        nn.Sequential(Noisy(), nn.BatchNorm2d(3)), torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    )
    assert torch.equal(torch.get_rng_state(), before)


def test_layers_that_cannot_be_estimated_are_named() -> None:
    images = torch.randn(6, 3, 4, 4)
    with pytest.raises(UnknownStatistics, match=r"'1' \(OwnPace\) do not become those of the batch"):
        check_statistics(nn.Sequential(nn.BatchNorm2d(3), OwnPace(3)), images)
    for switch in ("layer", "network"):
        with pytest.raises(
            UnknownStatistics, match=r"'0.norm' \(BatchNorm2d\) change although the layer is not called"
        ):
            check_statistics(nn.Sequential(Uncalled(switch)), images)


def test_a_network_that_diverged_is_no_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    with torch.no_grad():
        model[0].weight.fill_(torch.nan)
    check_statistics(model, torch.randn(6, 3, 4, 4))
    reestimate_batch_norm(model, [torch.randn(6, 3, 4, 4)])


def test_without_running_statistics_nothing_is_asked_for() -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, track_running_stats=False), nn.GroupNorm(1, 2))
    assert not running_layers(model)
    reestimate_batch_norm(model, map(pytest.fail, ["no batch is needed"]))
