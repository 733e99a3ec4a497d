"""The model under test: built from seeds as a run builds it, shown fixed random images, trained a few steps once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ...models.random_evaluation import RandomEvaluation
from ...registry import MODELS, build_model, parse_shape
from ..measures.accuracy import logits
from ..measures.cost import buffers_to_learn, evaluation_operations
from ..measures.norms import reestimate_batch_norm
from ..spec.recipe import find_recipe
from ..spec.seeds import derive
from ..training.job import Check
from ..training.prepare import weights_digest
from ..training.train import optimizer_for, train_step
from .state import changes, restore, snapshot

#: Images that a model is trained on here. A power of two, as batches are.
TRAIN_IMAGES = 8
#: Images that it is evaluated on: odd, so that no split into smaller batches is even.
EVAL_IMAGES = 7
#: The same for a model of more than so many operations an image, whose checks would take an hour.
HEAVY_FLOPS, FEW_TRAIN_IMAGES, FEW_EVAL_IMAGES = 10e9, 2, 3
#: Training steps: all parameters have a gradient after this many, or steps go on to the second number.
FEWEST_STEPS, MOST_STEPS = 3, 8

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Input:
    """What a model is given and returns: images (channels, size, size), logits (classes)."""

    channels: int
    size: int
    classes: int

    @classmethod
    def of(cls, text: str) -> Input:
        """Read ``"1x28x28->10"``."""
        return cls(*parse_shape(text, "input"))

    def __str__(self) -> str:
        return f"{self.channels}x{self.size}x{self.size}->{self.classes}"


@dataclass
class Trained:
    """A model after a few steps, and what its parameters' gradients were on the way.

    Attributes:
        gradients: the best that was seen of each trainable parameter: ``none``, ``zero``, ``not finite``, ``ok``.
        moved: of the buffers that may be learnt those that these steps changed, and how many numbers they hold.
        state: parameters and buffers, batch-norm statistics re-estimated.
        varies: whether single passes in evaluation differ, of a network that is declared random there.
        twice: logits of the fixed images in evaluation after that, two times.
    """

    moved: dict[str, int] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    gradients: dict[str, str] = field(default_factory=dict)
    state: State = field(default_factory=dict)
    varies: bool = False
    twice: tuple[torch.Tensor, torch.Tensor] | tuple[()] = ()


class Subject:
    """One model, and everything that the checks make of it once and share.

    Attributes:
        inputs: declared inputs, the one of the board first.
        import_changes: what importing its file changed of the state that all share.
        import_draws: whether importing its file drew from torch's generator, or seeded it.
        build_changes: what building it changed.
        size: columns of a board that tell what it costs, once they are measured.
        step_s: seconds of a training step of the recipe's batch here, once they are measured.
        batch, shown: images that it is trained on here, and that it is evaluated on.
    """

    def __init__(self, job: Check) -> None:
        self.job, self.name = job, job.model
        self.inputs = [Input.of(text) for text in job.inputs]
        self.input = self.inputs[0]
        self.resolved = MODELS.find(job.model)
        self.recipe = find_recipe(job.recipe, job.model)
        self.import_changes: list[str] = []
        self.import_draws = False
        self.build_changes: list[str] = []
        self.size: dict[str, Any] = {}
        self.step_s: float | None = None
        self.batch, self.shown = TRAIN_IMAGES, EVAL_IMAGES

    def load(self) -> None:
        """Import the files of the model and of its wrappers, watching what that changes."""
        before, generator = snapshot(), torch.get_rng_state()
        try:
            self.resolved.load()
        finally:
            self.import_changes = changes(before)
            self.import_draws = not torch.equal(generator, torch.get_rng_state())
            restore(before)

    def build(self, seed: int = 0, of: Input | None = None) -> nn.Module:
        """The model as it is built, nothing done with it yet; shared state is put back."""
        of = of or self.input
        before = snapshot()
        torch.manual_seed(derive(seed, "weights"))
        try:
            model: nn.Module = build_model(self.name, of.channels, of.classes, of.size)
            if any(isinstance(p, nn.UninitializedParameter) for p in model.parameters()):
                with torch.no_grad():  # lazy modules get their weights here, as in a run
                    model.eval()(torch.zeros(2, of.channels, of.size, of.size))
                model.train()
        finally:
            for change in changes(before):
                if change not in self.build_changes:
                    self.build_changes.append(change)
            restore(before)
        return model

    def weigh(self, model: nn.Module) -> None:
        """Show fewer images to a model that takes long for one."""
        if evaluation_operations(model, self.images(1)).flops_per_image > HEAVY_FLOPS:
            self.batch, self.shown = FEW_TRAIN_IMAGES, FEW_EVAL_IMAGES

    def build_other(self, name: str) -> nn.Module:
        """Another model, for the same input."""
        torch.manual_seed(derive(0, "weights"))
        other: nn.Module = build_model(name, self.input.channels, self.input.classes, self.input.size)
        return other

    def images(self, count: int, of: Input | None = None, seed: int = 0) -> torch.Tensor:
        """Normalised noise (count, channels, size, size): what holds for it holds for any image."""
        of = of or self.input
        generator = torch.Generator().manual_seed(derive(seed, "images", of.channels, of.size))
        return torch.randn(count, of.channels, of.size, of.size, generator=generator)

    def labels(self, count: int) -> torch.Tensor:
        """Classes (count,), in turn."""
        return torch.arange(count) % self.input.classes

    def evaluate(self, model: nn.Module, images: torch.Tensor | None = None, batch: int | None = None) -> torch.Tensor:
        """Logits in evaluation mode, of the fixed images by default, at once by default."""
        return logits(model, self.images(self.shown) if images is None else images, lambda x: x, batch or self.shown)

    def loaded(self, state: State, seed: int = 1) -> nn.Module:
        """A new model, never used, with these weights."""
        model = self.build(seed)
        model.load_state_dict(state)
        return model

    @cached_property
    def trained(self) -> Trained:
        """The model after a few steps of the recipe at its full rate, once for all checks."""
        torch.manual_seed(derive(0, "training"))
        model, done = self.build(), Trained()
        optimizer = optimizer_for(model, self.recipe)
        images, labels = self.images(self.batch), self.labels(self.batch)
        before = buffers_to_learn(model)
        model.train()
        while len(done.losses) < FEWEST_STEPS or (
            len(done.losses) < MOST_STEPS and any(seen != "ok" for seen in done.gradients.values())
        ):
            done.losses.append(float(train_step(model, optimizer, images, labels, "strict")))
            _look_at_gradients(model, done.gradients)
        now = buffers_to_learn(model)
        done.moved = {n: now[n].numel() for n in differing(before, now) if n in now}
        reestimate_batch_norm(model, lambda index: images if index == 0 else None)
        done.state = tensors_of(model)
        if isinstance(model, RandomEvaluation):
            done.varies = not same_bits(self.evaluate(model.model), self.evaluate(model.model))
        done.twice = self.evaluate(model), self.evaluate(model)
        return done


def _look_at_gradients(model: nn.Module, seen: dict[str, str]) -> None:
    """Note for each trainable parameter what its gradient is; what was bad once stays, what was good once stays."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or seen.get(name) == "not finite":
            continue
        gradient = parameter.grad
        if gradient is None:
            now = "none"
        elif not gradient.isfinite().all():
            now = "not finite"
        else:
            now = "ok" if gradient.count_nonzero() else "zero"
        if now in ("ok", "not finite") or seen.get(name) in (None, "none"):
            seen[name] = now


def tensors_of(model: nn.Module) -> State:
    """What a run saves of a model: copies of all tensors of its state dictionary."""
    return {k: v.detach().clone() for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}


def everything(model: nn.Module) -> State:
    """Copies of all parameters and buffers, those that a state dictionary leaves out included."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: value.detach().clone() for name, value in named.items()}


def differing(one: State, two: State) -> list[str]:
    """Names under which two states differ in a bit, or that only one of them has."""
    return [n for n in sorted({*one, *two}) if n not in one or n not in two or not same_bits(one[n], two[n])]


def same_bits(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Whether two tensors agree in type, shape and every bit."""
    if one.dtype != two.dtype or one.shape != two.shape:
        return False
    return torch.equal(one.contiguous().view(-1).view(torch.uint8), two.contiguous().view(-1).view(torch.uint8))


def digest(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers."""
    return weights_digest(everything(model))


def loss_of(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy, as the training loop takes it."""
    return F.cross_entropy(model(images).float(), labels)


def names(found: list[str]) -> str:
    """The first few of many names."""
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
