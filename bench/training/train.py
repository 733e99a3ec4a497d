"""The one training loop, the same for every model."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from ..measures.clock import Clock
from ..measures.compiler import plain_step
from ..records.record import CurvePoint
from ..spec.budget import must_stop
from ..spec.recipe import Recipe

#: Images and labels of a step.
Source = Callable[[int], tuple[torch.Tensor, torch.Tensor]]
#: A training run is cut into this many blocks; a block is timed, logged and checked as a whole.
BLOCKS = 40


@dataclass
class Training:
    """What the loop did.

    Attributes:
        steps: optimiser steps done.
        device_s: device seconds inside the blocks.
        stopped: ``""``, ``"diverged"`` (the loss is no number) or ``"hard stop"`` (105 % of a T budget).
        losses: on the device, of the steps since the curve's last point.
    """

    steps: int = 0
    device_s: float = 0.0
    stopped: str = ""
    curve: list[CurvePoint] = field(default_factory=list)
    losses: list[torch.Tensor] = field(default_factory=list)


class Keeper(Protocol):
    """Keeps a training while it goes on, so that another process can go on with it; see `checkpoint`."""

    def due(self) -> bool:
        """Whether it is time to keep; asked after every step, so it must cost nothing."""

    def keep(self, model: nn.Module, optimizer: torch.optim.Optimizer | None, done: Training) -> None:
        """Keep everything that the rest of the training depends on; without an optimiser, there is no rest."""

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Training:
        """Put model and optimiser (and random generators) where the training was left; says what was done."""


def decayed_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters with and without weight decay.

    Normalisation layers and biases are not decayed. They are told by their module and name, not by their
    dimension: layers that expand filters from a basis keep their weights as vectors.
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for module in model.modules():
        norm = isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm)
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                (free if norm or name.endswith("bias") else decayed).append(parameter)
    return list(dict.fromkeys(decayed)), list(dict.fromkeys(free))


def optimizer_for(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of a recipe, with decay on the weights that the recipe says."""
    decayed, free = decayed_parameters(model)
    if recipe.decayed == "all":
        decayed, free = decayed + free, []
    groups: list[dict[str, Any]] = [
        {"params": group, "weight_decay": decay, "l1": l1}
        for group, decay, l1 in ((decayed, recipe.weight_decay, recipe.l1), (free, 0.0, 0.0))
        if group
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=recipe.lr)


def autocast(profile: str, device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 where the profile is ``fast``, else nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if profile == "fast" else nullcontext()


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor, profile: str
) -> torch.Tensor:
    """One step of the training; returns the loss, on the device."""
    with autocast(profile, images.device):
        loss = F.cross_entropy(model(images).float(), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for group in optimizer.param_groups:
        if group.get("l1"):
            _add_signs(group["params"], group["l1"])
    plain_step(optimizer)
    return loss.detach()


@torch.no_grad()
def _add_signs(parameters: list[nn.Parameter], factor: float) -> None:
    """Add the gradient of ``factor * sum |w|``."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.add_(parameter.sign(), alpha=factor)


def set_batch_norm(model: nn.Module, momentum: float | None) -> None:
    """Give all batch normalisation the momentum of a recipe; None leaves the model's own."""
    for module in model.modules():
        if momentum is not None and isinstance(module, nn.modules.batchnorm._NormBase):
            module.momentum = momentum


def train(
    model: nn.Module,
    batches: Source,
    recipe: Recipe,
    steps: int,
    clock: Clock,
    profile: str = "strict",
    seconds: float | None = None,
    on_block: Callable[[Training], None] = lambda _: None,
    keeper: Keeper | None = None,
) -> Training:
    """Train for exactly `steps` steps, the schedule ending where they end.

    Timed are batch selection, augmentation, forward, loss, backward, optimiser and schedule. Between blocks,
    outside the time, losses are read and `on_block` is called; checkpoints are outside the time too.

    Args:
        batches: gives images and labels of a step.
        seconds: device-seconds of a T budget; the run is stopped hard at 105 %.
        keeper: keeps checkpoints, and may know one to go on from: steps and seconds done before count.
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
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Source,
    recipe: Recipe,
    steps: int,
    clock: Clock,
    profile: str,
    done: Training,
    border: int,
    keeper: Keeper | None = None,
) -> float | None:
    """Train up to step `border` of `steps`, between two marks of the clock: all that is timed, in runs and
    calibrations.

    Returns the seconds that the host took for the first of them, as `CurvePoint.host_s`.

    Args:
        done: what was done before; steps, losses and device-seconds are added to it.
        keeper: ends the steps early where it is time to keep a checkpoint.
    """
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
    return clock.host_seconds(start, launched)


def take_loss(done: Training) -> float:
    """The mean loss of the steps since it was last taken; waits for the device."""
    loss = float(torch.stack(done.losses).mean())
    done.losses = []
    return loss


def _close_block(done: Training, rate: float, steps: int, seconds: float | None, host_s: float | None) -> None:
    """Read the losses of a block, and see whether the training must stop."""
    loss = take_loss(done)
    number = loss if math.isfinite(loss) else None
    done.curve.append(CurvePoint(step=done.steps, loss=number, lr=rate, device_s=done.device_s, host_s=host_s))
    if number is None:
        done.stopped = "diverged"
    elif done.steps < steps and must_stop(done.device_s, seconds):
        done.stopped = "hard stop"
