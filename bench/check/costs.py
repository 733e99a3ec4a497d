"""Checks of costs: relative to the reference model, for a budget, and of the momentum of running statistics."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn

from ...registry import UserError
from ..measures.cost import measure_cost
from ..measures.norms import UnknownStatistics, check_statistics
from ..records.verdict import Finding, failed, noted, passed
from ..spec.budget import find_budget, steps_in
from ..spec.recipe import PAPER, find_recipe
from ..tools.text import duration, plural
from ..training.train import optimizer_for, train_step
from .checked_model import Subject, all_tensors, listed_names

#: After this many time constants, running statistics have forgotten their initial values (to 0.7 %).
TIME_CONSTANTS = 5
#: Rounds in which model and reference take turns, and the seconds that all rounds may take.
ROUNDS, ROUND_SECONDS = 5, 12.0
#: Faster steps are timed with the full batch; slower ones with few images.
LONG_STEP_S = 1.5
#: A run is called infeasible on this machine if it takes longer.
LONG_RUN_S = 12 * 3600.0


def batch_norm(subject: Subject) -> Finding:
    """Whether running statistics forget their initial values within the budget, if nothing re-estimates them."""
    model = subject.build()
    known = _statistics(model)
    own = {n: m for n, m in _momenta(subject, model).items() if n not in known}
    if own:
        name = min(own, key=lambda n: own[n])
        constant = 1 / own[name]
        text = f"{listed_names(sorted(own))}: own running statistics with momentum {own[name]:.2g}"
        if subject.job.steps is not None and subject.job.steps < TIME_CONSTANTS * constant:
            return failed(
                f"{text}; a budget of {subject.job.steps} steps is {subject.job.steps / constant:.1f} time constants,"
                " and no recipe can re-estimate them",
                "derive the layer from nn.BatchNorm2d or nn.BatchNorm3d, which recipes know, or use momentum 0.1",
            )
        return noted(f"{text}, which no recipe re-estimates")
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats]
    if not layers:
        return passed("no running statistics")
    try:
        check_statistics(model, subject.images(subject.batch))
    except UnknownStatistics as error:
        return failed(str(error), "or use torch's layer")
    return _published(subject, min(layer.momentum or 0.0 for layer in layers), len(layers))


def _published(subject: Subject, momentum: float, layers: int) -> Finding:
    """Batch normalisation that the harness knows: `common` re-estimates it, `paper` may not."""
    text = (
        f"{plural(layers, 'layer')}, momentum {momentum:g}; recipe {subject.recipe.name!r} re-estimates the statistics"
    )
    try:
        paper = find_recipe(PAPER, subject.name)
    except UserError:
        return (
            passed(f"{text}; no published recipe is known") if momentum else noted(f"{text}; with 0, they never change")
        )
    if paper.batch_norm != "running" or subject.job.steps is None:
        return passed(text)
    momentum = momentum if paper.batch_norm_momentum is None else paper.batch_norm_momentum
    steps = subject.job.steps * subject.recipe.batch // paper.batch
    spent = steps * momentum
    text += (
        f"; recipe 'paper' keeps running averages of momentum {momentum:g}: {steps} steps are {spent:.1f} time"
        " constants"
    )
    if spent >= TIME_CONSTANTS:
        return passed(text)
    return noted(
        f"{text}: too short, the accuracy would stay near chance",
        f"with 'paper', use a budget of at least {TIME_CONSTANTS / momentum if momentum else float('inf'):,.0f} steps",
    )


def _statistics(model: nn.Module) -> set[str]:
    """Names of the running statistics that the harness re-estimates."""
    return {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        for name, _ in module.named_buffers(recurse=False)
    }


@torch.no_grad()
def _momenta(subject: Subject, model: nn.Module) -> dict[str, float]:
    """The momentum of each moving buffer: the share by which it approaches the batch's statistics in one pass.

    For a repeated batch r ← r + m (b − r), so each change is 1 − m times the one before.
    """
    images, seen = subject.images(subject.batch), [all_tensors(model)]
    model.train()
    for _ in range(2):
        torch.manual_seed(0)
        model(images)
        seen.append(all_tensors(model))
    found = {}
    for name, _ in model.named_buffers():
        values = [s[name].double() for s in seen]
        first, second = values[1] - values[0], values[2] - values[1]
        if seen[0][name].is_floating_point() and float(first.norm()) > 0:
            momentum = 1 - float((first * second).sum() / first.square().sum())
            if momentum > 1e-6:  # otherwise each change is the same: a counter, not an average
                found[name] = momentum
    return found


@dataclass(frozen=True)
class Step:
    """The measurement of a training step.

    Attributes:
        images: number of images in the timed step.
        seconds: time of a step with the recipe's batch; scaled up if fewer images were timed.
        mib: memory of parameters, gradients, optimiser, and the activations kept for the backward pass.
    """

    images: int
    seconds: float
    mib: float


def cost(subject: Subject) -> Finding:
    """Step time, memory and operations relative to the reference model of the board."""
    own = _figures(subject, subject.name)
    subject.size = own
    rivals = {subject.name: subject.name}
    reference = subject.job.reference
    if reference and reference != subject.name:
        rivals[reference] = reference
    steps = _take_turns(subject, list(rivals))
    subject.step_s = steps[subject.name].seconds
    step = steps[subject.name]
    scaled = "" if step.images == subject.recipe.batch else f", scaled from {step.images}"
    parts = [
        f"step of {subject.recipe.batch} images {1000 * step.seconds:.0f} ms on one core of this CPU{scaled}",
        f"{step.mib:.0f} MiB",
        f"{own['flops_per_image'] / 1e6:.1f} MFLOPs per image ({own['train_flops_per_image'] / 1e6:.1f} in training)",
    ]
    if own["uncounted"]:
        parts[-1] += f" without {own['uncounted']}, which are not counted"
    if len(rivals) == 1:
        why = "is the reference" if reference else "no reference model has this input"
        return noted("; ".join([*parts, why]))
    other, theirs = steps[str(reference)], _figures(subject, str(reference))
    ratios = (
        step.seconds / other.seconds, step.mib / other.mib, own["flops_per_image"] / max(theirs["flops_per_image"], 1),
    )  # fmt: skip
    return noted(
        "; ".join(f"{part}, {ratio:.2g} ×" for part, ratio in zip(parts, ratios, strict=True))
        + f" ({reference} = 1; a step of it {1000 * other.seconds:.0f} ms)"
    )


def _figures(subject: Subject, name: str) -> dict[str, Any]:
    """Columns of the board about size, for a step with the recipe's batch."""
    model = subject.build() if name == subject.name else subject.build_other(name)
    return measure_cost(model, subject.images(3), subject.labels(3), subject.recipe.batch).model_dump()


def _take_turns(subject: Subject, models: list[str]) -> dict[str, Step]:
    """Median step times. The models take turns, so that a slow moment of the machine affects all of them."""
    networks = {name: subject.build() if name == subject.name else subject.build_other(name) for name in models}
    optimizers = {name: optimizer_for(network, subject.recipe) for name, network in networks.items()}

    def step(name: str, count: int) -> float:
        begun = time.process_time()  # one thread; other work of the machine does not count
        train_step(networks[name], optimizers[name], subject.images(count), subject.labels(count), "strict")
        return time.process_time() - begun

    batch = subject.recipe.batch
    few = min(subject.batch, batch)
    for network in networks.values():
        network.train()
    first = max(min(step(name, few) for _ in range(2)) for name in models)
    count = batch if first * batch / few < LONG_STEP_S else few
    begun = time.perf_counter()
    times: dict[str, list[float]] = {name: [] for name in models}
    for done in range(ROUNDS):
        for name in models:
            times[name].append(step(name, count))
        if time.perf_counter() - begun > ROUND_SECONDS * (done + 1) / (done + 2):
            break
    return {
        name: Step(count, median(times[name]) * batch / count, _step_mib(subject, networks[name], few))
        for name in models
    }


def _step_mib(subject: Subject, model: nn.Module, count: int) -> float:
    """Memory of a training step with the recipe's batch: weights, gradients, two moments, and kept activations.

    A second, larger batch shows the memory per image; expanded filters and constants count once.
    """
    fewer = max(2, count // 2)  # normalisation may have no variance for a single image
    count = max(count, fewer + 1)
    less, more = _kept_for_backward(subject, model, fewer), _kept_for_backward(subject, model, count)
    kept = more + (more - less) / (count - fewer) * (subject.recipe.batch - count)
    return (kept + 4 * sum(p.numel() * p.element_size() for p in model.parameters())) / 2**20


def _kept_for_backward(subject: Subject, model: nn.Module, count: int) -> int:
    """Bytes that a training pass keeps for the backward pass, without weights."""
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(subject.images(count))
    del out  # only after this, storages and their addresses may be reused
    return sum(kept.values())


def budget(subject: Subject) -> Finding:
    """The time of a run with this budget on this machine."""
    job = subject.job
    if job.dataset is None:
        return noted(
            "no registered data set has this input, so the steps of the budget are unknown", "give one with --dataset"
        )
    if subject.step_s is None:
        return noted("the time of a run is unknown, because its step could not be timed")
    chosen = find_budget(job.budget)
    if chosen.kind == "T":
        assert chosen.seconds is not None
        steps = steps_in(chosen.seconds, subject.step_s)
        return noted(f"{job.budget}: {steps:,} steps on this CPU; T boards are for GPUs and are calibrated there")
    assert job.steps is not None
    seconds = job.steps * subject.step_s
    text = (
        f"{job.budget} of {job.dataset}: {job.steps:,} steps of {subject.recipe.batch} images,"
        f" {duration(seconds)} per run"
    )
    if seconds > LONG_RUN_S:
        return noted(f"not feasible here: {text} on one core", "use a GPU, a smaller budget or fewer channels")
    return passed(f"{text} on one core, {duration(3 * seconds)} for three seeds")
