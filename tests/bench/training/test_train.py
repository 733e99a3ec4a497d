"""The training loop against an injected clock, its failures, batch-norm statistics, what is decayed."""

import math
from collections.abc import Callable

import pytest
import torch
from equibench.bench.spec.recipe import Recipe, find_recipe
from equibench.bench.training.train import BLOCKS, Training, decayed_parameters, optimizer_for, train
from torch import nn

RECIPE = find_recipe("common")


class HandClock:
    """A clock in which every step takes as long as the test says."""

    def __init__(self) -> None:
        self.time = 0.0

    def mark(self) -> float:
        return self.time

    def seconds(self, start: float, end: float) -> float:
        return end - start

    def host_seconds(self, start: float, end: float) -> None:
        return None


def source(clock: HandClock, step_s: float | Callable[[int], float], loss_is_nan_at: int = -1) -> Callable:
    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        clock.time += step_s(step) if callable(step_s) else step_s
        images = torch.full((4, 1, 2, 2), math.nan if step == loss_is_nan_at else 1.0)
        return images, torch.tensor([0, 1, 0, 1])

    return batch


class QueueClock(HandClock):
    """A host that launches a step in `host_s`, and a device that takes `device_s` for it and holds `room` steps at
    most.
    """

    def __init__(self, host_s: float, device_s: float, room: int = 5) -> None:
        super().__init__()
        self.host_s, self.device_s, self.room, self.done_at = host_s, device_s, room, 0.0

    def launch(self, _: int = 0) -> float:
        """One step; returns how long the host was busy with it, waiting for room included."""
        before, self.time = self.time, self.time + self.host_s
        self.done_at = max(self.done_at, self.time) + self.device_s
        self.time = max(self.time, self.done_at - self.room * self.device_s)
        busy, self.time = self.time - before, before
        return busy

    def mark(self) -> tuple[float, float]:
        return max(self.done_at, self.time), self.time

    def seconds(self, start: tuple[float, float], end: tuple[float, float]) -> float:
        self.time = max(self.time, end[0])
        return end[0] - start[0]

    def host_seconds(self, start: tuple[float, float], end: tuple[float, float]) -> float:
        return end[1] - start[1]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))


@pytest.mark.parametrize("steps", [1, 7, 40, 41, 1000])
def test_exactly_n_steps_are_trained_and_timed(steps: int) -> None:
    clock = HandClock()
    done = train(net(), source(clock, 0.125), RECIPE, steps, clock)
    assert done.steps == steps and done.device_s == 0.125 * steps and not done.stopped
    assert done.curve[-1].step == steps and len(done.curve) <= BLOCKS


@pytest.mark.parametrize(("host_s", "device_s"), [(0.25, 1.0), (0.75, 1.0), (1.0, 0.125), (2.0, 1.0)])
def test_the_time_of_the_host_is_told_from_its_waiting(host_s: float, device_s: float) -> None:
    """In the long run both take the same time: a host that is far ahead waits for the device."""
    clock = QueueClock(host_s, device_s)
    done = train(net(), source(clock, clock.launch), RECIPE, 4000, clock)
    assert {p.host_s for p in done.curve} == {host_s} and len(done.curve) == BLOCKS
    assert done.device_s / 4000 == pytest.approx(max(host_s, device_s), rel=0.02)


def test_a_processor_that_is_the_device_has_no_time_of_the_host() -> None:
    clock = HandClock()
    assert {p.host_s for p in train(net(), source(clock, 0.5), RECIPE, 100, clock).curve} == {None}


def test_what_happens_between_blocks_is_not_timed() -> None:
    clock = HandClock()

    def slow_logging(_: object) -> None:
        clock.time += 1000.0

    assert train(net(), source(clock, 0.5), RECIPE, 100, clock, on_block=slow_logging).device_s == 50.0


def test_a_run_that_overshoots_is_stopped_at_105_percent() -> None:
    clock = HandClock()
    # Calibrated at 1 s a step for a budget of 1000 s, but then twice as slow.
    done = train(net(), source(clock, 2.0), RECIPE, 1000, clock, seconds=1000.0)
    assert done.stopped == "hard stop"
    assert 1050 <= done.device_s <= 1050 + 2.0 * 1000 / BLOCKS and done.steps == done.device_s / 2


def test_a_run_on_time_is_not_stopped() -> None:
    clock = HandClock()
    done = train(net(), source(clock, 1.04), RECIPE, 1000, clock, seconds=1000.0)
    assert done.steps == 1000 and not done.stopped


def test_slow_last_steps_do_not_stop_a_run_that_has_finished() -> None:
    clock = HandClock()
    done = train(net(), source(clock, lambda s: 500.0 if s == 999 else 1.0), RECIPE, 1000, clock, seconds=1000.0)
    assert done.steps == 1000 and not done.stopped  # the drift rule judges it, not the hard stop


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    clock = HandClock()
    done = train(net(), source(clock, 1.0, loss_is_nan_at=100), RECIPE, 1000, clock)
    assert done.stopped == "diverged" and 100 < done.steps <= 100 + 1000 // BLOCKS


def test_the_rate_of_every_step_is_the_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    original = torch.optim.Adam.step

    def step(self: torch.optim.Adam) -> None:
        seen.append(self.param_groups[0]["lr"])
        original(self)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    clock = HandClock()
    train(net(), source(clock, 1.0), RECIPE, 90, clock)
    assert seen == [RECIPE.rate(i, 90) for i in range(90)]


def test_training_learns() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(256, 1, 2, 2)
    labels = (inputs.sum((1, 2, 3)) > 0).long()
    done = train(net(), lambda step: (inputs, labels), RECIPE.model_copy(update={"lr": 0.1}), 200, HandClock())
    assert done.curve[-1].loss < 0.3 * done.curve[0].loss


class VectorWeights(nn.Module):
    """Keeps the weights of its filters as a vector, as layers with a basis do."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(3))
        self.bias = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm2d(2)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)


def test_decay_is_told_by_module_and_name_not_by_dimension() -> None:
    module = VectorWeights()
    decayed, free = decayed_parameters(module)
    assert [p is module.weights for p in decayed] == [True]
    assert {id(p) for p in free} == {id(module.bias), id(module.norm.weight), id(module.norm.bias)}


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (lambda: nn.RMSNorm(4), 4),
        (lambda: nn.GRU(2, 3), 18),  # bias_ih_l0, bias_hh_l0
        (lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True), 12 + 4 + 4 + 4),
    ],
)
def test_biases_and_scales_of_other_layers_have_no_decay(build, count: int) -> None:
    module = build()
    decayed, free = decayed_parameters(module)
    assert sum(p.numel() for p in free) == count
    assert {id(p) for p in decayed + free} == {id(p) for p in module.parameters()}


@pytest.mark.parametrize(("name", "is_free"), [("relbias", True), ("bias_table", True), ("debiased", False)])
def test_biases_are_told_by_the_end_of_a_name_or_by_a_word_of_it(name: str, is_free: bool) -> None:
    module = VectorWeights()
    setattr(module, name, nn.Parameter(torch.ones(2)))
    assert any(p is getattr(module, name) for p in decayed_parameters(module)[1]) is is_free


def test_a_scale_that_another_layer_shares_is_in_one_group() -> None:
    module = VectorWeights()
    module.scale = module.norm.weight  # found before the layer that it belongs to
    decayed, free = decayed_parameters(module)
    assert [p is module.weights for p in decayed] == [True]
    assert sum(p is module.scale for p in free) == 1


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_every_trainable_parameter_is_optimised_once(name: str) -> None:
    module = VectorWeights()
    recipe = Recipe.model_validate({**RECIPE.model_dump(), "optimizer": name, "weight_decay": 0.1})
    groups = optimizer_for(module, recipe).param_groups
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(
        id(p) for p in module.parameters() if p.requires_grad
    )
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]


def test_waiting_counts_in_timed_steps_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, pace = [0.0], [1.0]

    def delay() -> float:
        seen[0] += pace[0]
        return seen[0]

    def between_blocks(_: Training) -> None:
        seen[0] += 100.0

    def batch(_: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.long)

    def waited() -> float:
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        return train(model, batch, RECIPE, 40, HandClock(), on_block=between_blocks).waited_s

    monkeypatch.setattr("equibench.bench.training.train.waited_s", delay)
    assert waited() == 40.0, "one second in each of 40 blocks"
    pace[0] = -1.0
    assert waited() == 0.0, "a thread that ends takes its seconds along"
