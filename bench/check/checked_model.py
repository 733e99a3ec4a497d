"""The model under test: built as for a run, evaluated on fixed random images, and trained for a few steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ...models.random_evaluation import RandomEvaluation
from ...registry import MODELS, parse_shape
from ..measures.accuracy import logits
from ..measures.cost import buffers_to_learn, evaluation_operations
from ..measures.norms import reestimate_batch_norm
from ..spec.recipe import find_recipe
from ..spec.seeds import derive
from ..training.job import Check
from ..training.prepare import initial_model, weights_digest
from ..training.train import optimizer_for, train_step
from .state import changes, restore, snapshot

#: Number of training images in a check; a power of two, like usual batches.
TRAIN_IMAGES = 8
#: Number of images in evaluation; odd, so that it cannot be split into equal smaller batches.
EVAL_IMAGES = 7
#: With more operations per image than this, checks would take an hour, so fewer images are used.
HEAVY_FLOPS, FEW_TRAIN_IMAGES, FEW_EVAL_IMAGES = 10e9, 2, 3
#: Number of training steps. If a parameter has no gradient after the first number, training continues up to the second.
FEWEST_STEPS, MOST_STEPS = 3, 8

#: What a gradient can be. Of several steps, the one is kept that stands last here.
GRADIENTS = ("none", "zero", "ok", "not finite")

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Input:
    """Shape of a model's input and output: images (channels, size, size), logits (classes)."""

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
    """A model after a few training steps, with what happened during these steps.

    Attributes:
        moved: the buffers that changed, without normalisation statistics, and their counts of numbers.
        gradients: of each trainable parameter, one of `GRADIENTS`.
        state: parameters and buffers, with re-estimated batch-norm statistics.
        varies: whether single passes in evaluation differ, for a network that is declared random in evaluation.
        twice: logits of the fixed images in evaluation after training, computed twice.
    """

    moved: dict[str, int] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    gradients: dict[str, str] = field(default_factory=dict)
    state: State = field(default_factory=dict)
    varies: bool = False
    twice: tuple[torch.Tensor, torch.Tensor] | tuple[()] = ()


class Subject:
    """One model, with the results that several checks share.

    Attributes:
        inputs: declared inputs, the input of the board first.
        import_changes, build_changes: changes of the global state by importing its file, and by building it.
        import_draws: whether the import of its file used or seeded torch's generator.
        size, step_s: columns of a board about its cost, and seconds of a training step, once they are measured.
        batch, shown: numbers of images in training and in evaluation.
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
        """Import the files of the model and of its wrappers, and record changes of the global state."""
        before, generator = snapshot(), torch.get_rng_state()
        try:
            self.resolved.load()
        finally:
            self.import_changes = changes(before)
            self.import_draws = not torch.equal(generator, torch.get_rng_state())
            restore(before)

    def build(self, seed: int = 0, of: Input | None = None) -> nn.Module:
        """A newly built model; the global state is restored."""
        of = of or self.input
        before = snapshot()
        try:
            # The output, and changes of the global state, are findings.
            return initial_model(self.name, of.channels, of.classes, of.size, seed, check=False)
        finally:
            for change in changes(before):
                if change not in self.build_changes:
                    self.build_changes.append(change)
            restore(before)

    def use_fewer_images_if_heavy(self, model: nn.Module) -> None:
        """Use fewer images if the model has many operations per image."""
        if evaluation_operations(model, self.images(1)).flops_per_image > HEAVY_FLOPS:
            self.batch, self.shown = FEW_TRAIN_IMAGES, FEW_EVAL_IMAGES

    def build_named(self, name: str) -> nn.Module:
        """A new network of the model, or of another model for the same input."""
        if name == self.name:
            return self.build()
        return initial_model(name, self.input.channels, self.input.classes, self.input.size, check=False)

    def images(self, count: int, of: Input | None = None, seed: int = 0) -> torch.Tensor:
        """Normalised noise (count, channels, size, size); the checked properties must hold for any image."""
        of = of or self.input
        generator = torch.Generator().manual_seed(derive(seed, "images", of.channels, of.size))
        return torch.randn(count, of.channels, of.size, of.size, generator=generator)

    def labels(self, count: int) -> torch.Tensor:
        """Labels (count,): 0, 1, 2, …, repeated."""
        return torch.arange(count) % self.input.classes

    def training_loss(self, model: nn.Module) -> torch.Tensor:
        """Cross entropy of a training pass of the fixed images, as in the training loop."""
        return F.cross_entropy(model.train()(self.images(self.batch)).float(), self.labels(self.batch))

    def evaluate(self, model: nn.Module, images: torch.Tensor | None = None, batch: int | None = None) -> torch.Tensor:
        """Logits in evaluation mode; by default of the fixed images, in one batch."""
        return logits(model, self.images(self.shown) if images is None else images, lambda x: x, batch or self.shown)

    def loaded(self, state: State, seed: int = 1) -> nn.Module:
        """A new, unused model with these weights."""
        model = self.build(seed)
        model.load_state_dict(state)
        return model

    @cached_property
    def trained(self) -> Trained:
        """The model after a few steps of the recipe at its full learning rate, computed once for all checks."""
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
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    seen = done.gradients.get(name, "none"), _gradient_of(parameter)
                    done.gradients[name] = max(seen, key=GRADIENTS.index)
        now = buffers_to_learn(model)
        done.moved = {n: now[n].numel() for n in differing(before, now) if n in now}
        reestimate_batch_norm(model, [images])
        done.state = tensors_of(model)
        if isinstance(model, RandomEvaluation):
            done.varies = not same_bits(self.evaluate(model.model), self.evaluate(model.model))
        done.twice = self.evaluate(model), self.evaluate(model)
        return done


def _gradient_of(parameter: nn.Parameter) -> str:
    """One of `GRADIENTS`."""
    if parameter.grad is None:
        return "none"
    if not parameter.grad.isfinite().all():
        return "not finite"
    return "ok" if parameter.grad.count_nonzero() else "zero"


def tensors_of(model: nn.Module) -> State:
    """Copies of all tensors in a model's state dictionary, as a run saves them."""
    return {k: v.detach().clone() for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}


def all_tensors(model: nn.Module) -> State:
    """Copies of all parameters and buffers, including those that are not in the state dictionary."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: value.detach().clone() for name, value in named.items()}


def differing(one: State, two: State) -> list[str]:
    """Names of the tensors that differ in a bit, or that only one of the states has."""
    return [n for n in sorted({*one, *two}) if n not in one or n not in two or not same_bits(one[n], two[n])]


def same_bits(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Whether two tensors agree in type, shape and every bit."""
    if one.dtype != two.dtype or one.shape != two.shape:
        return False
    return torch.equal(one.contiguous().view(-1).view(torch.uint8), two.contiguous().view(-1).view(torch.uint8))


def digest(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers."""
    return weights_digest(all_tensors(model))
