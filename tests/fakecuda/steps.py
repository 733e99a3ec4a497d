"""Training steps on a CUDA device that computes nothing: kernels that are launched, and who waits for the device.

Run under `tests/fakecuda/run` with the name of a profile; prints one JSON document. Values are garbage there, so
nothing here looks at any.
"""

import ctypes
import json
import os
import sys
from dataclasses import dataclass, field

import torch
from equibench.bench.spec.recipe import Recipe, find_recipe
from equibench.bench.training.prepare import set_profile
from equibench.bench.training.train import optimizer_for, train_step
from equibench.datasets.batches import AUGMENTATIONS, Batches, Normalise
from equibench.registry import MODELS, WRAPPERS, Entry, build_model, parse_shape

#: Networks with more parameters are left out: of each family there are smaller ones.
SMALL = 400_000
BATCH, STEPS = 4, 10
DEVICE = torch.device("cuda:0")
#: The network that augmentations, optimisers and wrappers are tried with, and its input.
PLAIN, SHAPE = "z2cnn-2", "1x28x28->10"


@dataclass
class Case:
    """One kind of training step."""

    model: str
    shape: str
    profile: str
    augment: list[str] = field(default_factory=list)
    recipe: str = "common"
    before: torch.nn.Module = field(default_factory=torch.nn.Identity)

    def __post_init__(self) -> None:
        channels, size, classes = parse_shape(self.shape, self.model)
        set_profile(self.profile, 1)
        model = build_model(self.model, channels, classes, size)
        self._model = torch.nn.Sequential(self.before, model).to(DEVICE)
        recipe: Recipe = find_recipe(self.recipe, self.model)
        self._optimizer, self._done = optimizer_for(self._model, recipe), 0
        images = torch.zeros(STEPS * BATCH, channels, size, size, dtype=torch.uint8, device=DEVICE)
        labels = torch.zeros(len(images), dtype=torch.int64, device=DEVICE)
        normalise = Normalise([0.5] * channels, [0.5] * channels, 255, DEVICE)
        treatments = MODELS.find(self.model).treatments
        self._batches = Batches(images, labels, normalise, BATCH, lambda *_: 0, self.augment, treatments)
        self._model.train()
        # Tables and the order of the epoch are copied to the device once, not in every step.
        self.step()

    def step(self) -> None:
        train_step(self._model, self._optimizer, *self._batches(self._done), self.profile)
        self._done += 1

    def launches(self, mode: str) -> int:
        """Kernels of a step in a deterministic mode of torch."""
        torch.set_deterministic_debug_mode(mode)
        self.step()
        before = _launches()
        self.step()
        return _launches() - before

    def waits(self) -> str:
        """What waits for the device in a step; empty if nothing does."""
        torch.cuda.set_sync_debug_mode("error")
        try:
            self.step()
        except RuntimeError as error:
            return str(error).splitlines()[0]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return ""


class Gather(torch.nn.Module):
    """Scales the columns and takes them in another order, by an operation whose gradient is sorted in `strict`."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(28))
        self.register_buffer("order", torch.arange(28).flip(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.scale).index_select(3, self.order)


class Listed(torch.nn.Module):
    """Takes the columns by a Python list, which is copied to the device in every pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., list(range(27, -1, -1))]


def _launches() -> int:
    return int(ctypes.CDLL(os.environ["FAKE_CUDA_LIBRARY"]).fake_launches(DEVICE.index))


def members() -> list[Entry]:
    """The smallest registered network of each function that builds some."""
    found: dict[tuple[str, str], Entry] = {}
    entries = [e for e in MODELS.match() if e.fields.get("params")]
    for entry in sorted(entries, key=lambda e: max(e.fields["params"].values())):
        if max(entry.fields["params"].values()) <= SMALL:
            found.setdefault((entry.module, entry.function), entry)
    return list(found.values())


def report(profile: str) -> dict[str, object]:
    """All that the tests ask about, under a profile."""
    launches, waits = {}, {}
    for entry in members():
        shape = next(iter(entry.fields["params"]))
        case = Case(entry.name, shape, profile)
        waits[entry.name] = case.waits()  # before the modes change
        launches[entry.name] = {"family": entry.fields["family"], **{m: case.launches(m) for m in ("warn", "default")}}
    for name in AUGMENTATIONS:
        waits[name] = Case(PLAIN, SHAPE, profile, [name]).waits()
    for wrapper in WRAPPERS.match():
        waits[wrapper.name] = Case(f"{PLAIN}+{wrapper.name}", SHAPE, profile).waits()
    for model in ("p4cnn", "pdo-econv-p8-paper", "e2cnn-c8-25k", "wrn-16-4"):
        shape = next(iter(MODELS.entries()[model].fields["params"]))
        waits[f"paper recipe of {model}"] = Case(model, shape, profile, recipe="paper").waits()
    gathers, listed = (Case(PLAIN, SHAPE, "strict", before=layer) for layer in (Gather(), Listed()))
    return {
        "launches": launches,
        "waits": waits,
        "a gather of torch": {mode: gathers.launches(mode) for mode in ("warn", "default")},
        "a list of indices": listed.waits(),
    }


if __name__ == "__main__":
    json.dump(report(sys.argv[1]), sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # at a regular end the runtime's threads may outlive what they work for
