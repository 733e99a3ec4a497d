"""Checks of costs: relative to the reference model, for a budget, and of the momentum of running statistics."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from torch import nn

from ...registry import UserError
from ..measures.cost import buffers_to_learn, measure_cost
from ..measures.norms import UnknownStatistics, check_statistics, running_layers
from ..records.verdict import Finding, failed, noted, passed
from ..spec.budget import find_budget, steps_in
from ..spec.recipe import PAPER, find_recipe
from ..tools.text import duration, listed, plural
from ..training.train import optimizer_for, train_step
from .checked_model import Subject, all_tensors

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
    learn = buffers_to_learn(model)
    if own := {n: m for n, m in _momenta(subject, model).items() if n in learn}:
        name = min(own, key=lambda n: own[n])
        constant = 1 / own[name]
        text = f"{listed(sorted(own), 3)}: own running statistics with momentum {own[name]:.2g}"
        if subject.job.steps is not None and subject.job.steps < TIME_CONSTANTS * constant:
            text += f"; a budget of {subject.job.steps} steps is {subject.job.steps / constant:.1f} time constants"
            do = "derive the layer from nn.BatchNorm2d or nn.BatchNorm3d, which recipes know, or use momentum 0.1"
            return failed(f"{text}, and no recipe can re-estimate them", do)
        return noted(f"{text}, which no recipe re-estimates")
    # Others are frozen: the model keeps them in evaluation mode while it trains.
    layers = [layer for layer in running_layers(model.train()).values() if layer.training]
    if not layers:
        return passed("no running statistics that training changes")
    try:
        check_statistics(model, subject.images(subject.batch))
    except UnknownStatistics as error:
        return failed(str(error), "or use torch's layer")
    momenta = [layer.momentum for layer in layers if layer.momentum is not None]
    if not momenta:
        says = f"{plural(len(layers), 'layer')}, cumulative averages"
        return passed(f"{says}; recipe {subject.recipe.name!r} re-estimates the statistics")
    return _published(subject, min(momenta), len(layers))


def _published(subject: Subject, momentum: float, layers: int) -> Finding:
    """Batch normalisation that the harness knows: `common` re-estimates it, `paper` may not."""
    counted, recipe = plural(layers, "layer"), subject.recipe.name
    text = f"{counted}, momentum {momentum:g}; recipe {recipe!r} re-estimates the statistics"
    try:
        paper = find_recipe(PAPER, subject.name)
    except UserError:
        if momentum:
            return passed(f"{text}; no published recipe is known")
        return noted(f"{text}; with 0, they never change")
    if paper.batch_norm != "running" or subject.job.steps is None:
        return passed(text)
    momentum = momentum if paper.batch_norm_momentum is None else paper.batch_norm_momentum
    steps = subject.job.steps * subject.recipe.batch // paper.batch
    spent = steps * momentum
    text += f"; recipe 'paper' keeps running averages of momentum {momentum:g}"
    text += f": {steps} steps are {spent:.1f} time constants"
    if spent >= TIME_CONSTANTS:
        return passed(text)
    needed = TIME_CONSTANTS / momentum if momentum else float("inf")
    do = f"with 'paper', use a budget of at least {needed:,.0f} steps"
    return noted(f"{text}: too short, the accuracy would stay near chance", do)


@torch.no_grad()
def _momenta(subject: Subject, model: nn.Module) -> dict[str, float]:
    """The momentum m of each moving buffer: for a repeated batch, each change is 1 − m times the one before."""
    images, seen = subject.images(subject.batch), [all_tensors(model)]
    model.train()
    for _ in range(2):
        torch.manual_seed(0)
        model(images)
        seen.append(all_tensors(model))
    found = {}
    for name, _ in model.named_buffers():
        if any(name not in s or s[name].shape != seen[-1][name].shape for s in seen):
            continue  # training registers it, or changes its shape: it is no average
        values = [s[name].double() for s in seen]
        first, second = values[1] - values[0], values[2] - values[1]
        if seen[0][name].is_floating_point() and float(first.norm()) > 0:
            momentum = 1 - float((first * second).sum() / first.square().sum())
            if momentum > 1e-6:  # otherwise each change is the same: a counter, not an average
                found[name] = momentum
    return found


def cost(subject: Subject) -> Finding:
    """Step time, memory and operations relative to the reference model of the board."""
    subject.size = own = _figures(subject, subject.name)
    reference, batch = subject.job.reference, subject.recipe.batch
    names = [subject.name] + ([reference] if reference and reference != subject.name else [])
    networks = {name: subject.build_named(name) for name in names}
    seconds, timed = _step_times(subject, networks)
    mib = {name: _step_mib(subject, network, min(subject.batch, batch)) for name, network in networks.items()}
    subject.step_s = step_s = seconds[subject.name]
    scaled = "" if timed == batch else f", scaled from {timed}"
    parts = [
        f"step of {batch} images {1000 * step_s:.0f} ms on one core of this CPU{scaled}",
        f"{mib[subject.name]:.0f} MiB",
        f"{own['flops_per_image'] / 1e6:.1f} MFLOPs per image ({own['train_flops_per_image'] / 1e6:.1f} in training)",
    ]
    if own["uncounted"]:
        parts[-1] += f" without {own['uncounted']}, which are not counted"
    if len(names) == 1:
        why = "is the reference" if reference else "no reference model has this input"
        return noted("; ".join([*parts, why]))
    other = names[1]
    flops = own["flops_per_image"] / max(_figures(subject, other)["flops_per_image"], 1)
    ratios = (step_s / seconds[other], mib[subject.name] / mib[other], flops)
    says = "; ".join(f"{part}, {ratio:.2g} ×" for part, ratio in zip(parts, ratios, strict=True))
    return noted(f"{says} ({other} = 1; a step of it {1000 * seconds[other]:.0f} ms)")


def _figures(subject: Subject, name: str) -> dict[str, Any]:
    """Columns of the board about size, for a step with the recipe's batch."""
    images, labels = subject.images(3), subject.labels(3)
    return measure_cost(subject.build_named(name), images, labels, subject.recipe.batch).model_dump()


def _step_times(subject: Subject, networks: dict[str, nn.Module]) -> tuple[dict[str, float], int]:
    """Median seconds of a step, and the number of images that were timed. The models take turns, which is fair."""
    optimizers = {name: optimizer_for(network, subject.recipe) for name, network in networks.items()}

    def step(name: str, count: int) -> float:
        begun = time.process_time()  # one thread; other work of the machine does not count
        train_step(networks[name], optimizers[name], subject.images(count), subject.labels(count), "strict")
        return time.process_time() - begun

    batch = subject.recipe.batch
    few = min(subject.batch, batch)
    for network in networks.values():
        network.train()
    first = max(min(step(name, few) for _ in range(2)) for name in networks)
    count = batch if first * batch / few < LONG_STEP_S else few
    begun = time.perf_counter()
    times: dict[str, list[float]] = {name: [] for name in networks}
    for done in range(ROUNDS):
        for name in networks:
            times[name].append(step(name, count))
        if time.perf_counter() - begun > ROUND_SECONDS * (done + 1) / (done + 2):
            break
    return {name: median(own) * batch / count for name, own in times.items()}, count


def _step_mib(subject: Subject, model: nn.Module, count: int) -> float:
    """Memory of a training step with the recipe's batch: weights, gradients, two moments, and kept activations."""
    fewer = max(2, count // 2)  # normalisation may have no variance for a single image
    count = max(count, fewer + 1)  # the difference is the memory per image; filters and constants count once
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
        says = "no registered data set has this input, so the steps of the budget are unknown"
        return noted(says, "give one with --dataset NAME")
    assert subject.step_s is not None  # "cost" is needed
    chosen = find_budget(job.budget)
    if chosen.kind == "T":
        assert chosen.seconds is not None
        fits = subject.step_s <= chosen.seconds
        count = plural(steps_in(chosen.seconds, subject.step_s), "step") if fits else "less than one step"
        return noted(f"{job.budget}: {count} on this CPU; T boards are for GPUs and are calibrated there")
    assert job.steps is not None
    seconds = job.steps * subject.step_s
    steps = f"{job.steps:,} steps of {subject.recipe.batch} images"
    text = f"{job.budget} of {job.dataset}: {steps}, {duration(seconds)} per run"
    if seconds > LONG_RUN_S:
        return noted(f"not feasible here: {text} on one core", "use a GPU, a smaller budget or fewer channels")
    return passed(f"{text} on one core, {duration(3 * seconds)} for three seeds")
