"""The training loop, which is the same for every model."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from ..measures.clock import HostClock
from ..measures.compiler import plain_step
from ..records.record import CurvePoint
from ..spec.budget import must_stop
from ..spec.recipe import Recipe
from ..tools.machine import waited_s

#: Returns images and labels of a step.
Source = Callable[[int], tuple[torch.Tensor, torch.Tensor]]
#: Number of blocks of a training run. A block is timed, logged and checked as a whole.
BLOCKS = 40


@dataclass
class Training:
    """The state of a training.

    Attributes:
        steps: number of optimiser steps done.
        device_s: device-seconds inside the blocks.
        stopped: ``""``, ``"diverged"`` (the loss is not finite) or ``"hard stop"`` (105 % of a T budget).
        curve: one point per block.
        losses: of the steps since the curve's last point, on the device.
        waited_s: seconds of `device_s` in which threads of this process waited for a processor, see `machine.waited_s`.
    """

    steps: int = 0
    device_s: float = 0.0
    stopped: str = ""
    curve: list[CurvePoint] = field(default_factory=list)
    losses: list[torch.Tensor] = field(default_factory=list)
    waited_s: float = 0.0


class Keeper(Protocol):
    """Saves the state of a training, so that another process can continue it; see `checkpoint`."""

    def due(self) -> bool:
        """Whether it is time to save; called after every step."""

    def keep(self, model: nn.Module, optimizer: torch.optim.Optimizer | None, done: Training) -> None:
        """Save everything that the rest of the training depends on. Without an optimiser, the training has ended."""

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Training:
        """Restore model, optimiser and random generators; returns the state of the training."""


def decayed_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters with and without weight decay.

    Normalisation layers and biases have no decay, also where another layer shares them. They are recognised by module
    and name (``bias``, ``bias_hh_l0``, …), not by dimension: layers that expand filters from a basis store their
    weights as vectors.
    """
    free: set[nn.Parameter] = set()
    for module in model.modules():
        norm = isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm | nn.RMSNorm)
        own = module.named_parameters(recurse=False)
        free.update(p for name, p in own if norm or name.endswith("bias") or "bias" in name.split("_"))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [p for p in trained if p not in free], [p for p in trained if p in free]


def optimizer_for(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of a recipe, with weight decay on the parameters that the recipe selects."""
    decayed, free = decayed_parameters(model)
    if recipe.decayed == "all":
        decayed, free = decayed + free, []
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay, "l1": recipe.l1},
        {"params": free, "weight_decay": 0.0, "l1": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=recipe.lr)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor, profile: str
) -> torch.Tensor:
    """One training step; returns the loss, on the device."""
    with torch.autocast(images.device.type, dtype=torch.bfloat16) if profile == "fast" else nullcontext():
        loss = F.cross_entropy(model(images).float(), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for group in optimizer.param_groups:
        if group.get("l1"):
            with torch.no_grad():
                for parameter in group["params"]:
                    if parameter.grad is not None:  # add the gradient of l1 * sum |w|
                        parameter.grad.add_(parameter.sign(), alpha=group["l1"])
    plain_step(optimizer)
    return loss.detach()


def set_batch_norm(model: nn.Module, momentum: float | None) -> None:
    """Set the momentum of all batch normalisation to that of a recipe; None keeps the model's own."""
    for module in model.modules():
        if momentum is not None and isinstance(module, nn.modules.batchnorm._NormBase):
            module.momentum = momentum


def train(
    model: nn.Module, batches: Source, recipe: Recipe, steps: int, clock: HostClock, profile: str = "strict",
    seconds: float | None = None, on_block: Callable[[Training], None] = lambda _: None, keeper: Keeper | None = None,
) -> Training:  # fmt: skip
    """Train for exactly `steps` steps; the schedule ends with the last step.

    The measured time contains batch selection, augmentation, forward pass, loss, backward pass, optimiser and schedule,
    but not reading the losses, `on_block` (between blocks) and checkpoints.

    Args:
        batches: returns images and labels of a step.
        seconds: device-seconds of a T budget; the run is stopped at 105 %.
        keeper: saves checkpoints, and may restore one; then the steps and seconds before it count too.
    """
    optimizer = optimizer_for(model, recipe)
    set_batch_norm(model, recipe.batch_norm_momentum)
    model.train()
    done = keeper.restore(model, optimizer) if keeper else Training()
    block = max(1, math.ceil(steps / BLOCKS))
    left = done.steps < steps and not done.stopped
    while done.steps < steps and not done.stopped:
        border = min((done.steps // block + 1) * block, steps)
        host_s = timed_steps(model, optimizer, batches, recipe, steps, clock, profile, done, border, keeper)
        if done.steps == border:
            _close_block(done, optimizer.param_groups[0]["lr"], steps, seconds, host_s)
            on_block(done)
        if keeper is not None and keeper.due() and done.steps < steps and not done.stopped:
            keeper.keep(model, optimizer, done)
    if keeper is not None and left and done.stopped != "hard stop":
        keeper.keep(model, None, done)
    return done


def timed_steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Source, recipe: Recipe, steps: int, clock: HostClock,
    profile: str, done: Training, border: int, keeper: Keeper | None = None,
) -> float | None:  # fmt: skip
    """Train up to step `border` of `steps`, between two marks of the clock: the timed part of runs and calibrations.

    Returns the seconds that the host took for the first of these steps, as `CurvePoint.host_s`.

    Args:
        done: state of the training; steps, losses and device-seconds are added to it.
        keeper: ends the steps early if it is time to save a checkpoint.
    """
    waited = waited_s()
    start = launched = clock.mark()
    first = done.steps
    while done.steps < border:
        rate = recipe.rate(done.steps, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        done.losses.append(train_step(model, optimizer, *batches(done.steps), profile))
        done.steps += 1
        if done.steps == first + 1:
            launched = clock.mark()
        if keeper is not None and keeper.due():
            break
    done.device_s += clock.seconds(start, clock.mark())
    done.waited_s += max(0.0, waited_s() - waited)  # less, if a thread has ended
    return clock.host_seconds(start, launched)


def take_loss(done: Training) -> float:
    """The mean loss of the steps since the last call; waits for the device."""
    loss = float(torch.stack(done.losses).mean())
    done.losses = []
    return loss


def _close_block(done: Training, rate: float, steps: int, seconds: float | None, host_s: float | None) -> None:
    """Read the losses of a block, and decide whether the training must stop."""
    loss = take_loss(done)
    number = loss if math.isfinite(loss) else None
    done.curve.append(CurvePoint(step=done.steps, loss=number, lr=rate, device_s=done.device_s, host_s=host_s))
    if number is None:
        done.stopped = "diverged"
    elif done.steps < steps and must_stop(done.device_s, seconds):
        done.stopped = "hard stop"
