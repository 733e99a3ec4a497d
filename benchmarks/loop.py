"""What the training loop costs beyond the network's own work; prints ratios.

    uv run python benchmarks/loop.py [--device cuda:0] [--model z2cnn] [--rounds 9]

1. The loop of equibench against a bare one that does the same steps on the same batches without logging: at most 1.02.
2. Images a second against the same network fed by a `DataLoader` with torchvision's transforms (to tensor, normalise,
   crop after padding, flip) and one worker a core: at least 1.5 times as many.
3. The share of a step that choosing and augmenting the batch takes: at most 5 % on a GPU.
4. On a GPU: that no step waits for the device (torch raises where one does), for the smallest network of every family.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch
from equibench.bench.measures.clock import clock_for
from equibench.bench.measures.execution_profile import begin, renew_profile
from equibench.bench.spec.recipe import Recipe, find_recipe
from equibench.bench.spec.suite import RunSpec, find_suite, plan
from equibench.bench.training.prepare import Loaded, warm_up
from equibench.bench.training.train import Source, optimizer_for, set_batch_norm, train, train_step
from equibench.datasets.batches import Batches, Normalise
from equibench.datasets.images import ImageData
from equibench.registry import DATASETS, MODELS, Entry, build_model, parse_shape
from side_by_side import hardware, parser, show, side_by_side
from torch import nn
from torchvision import transforms

AUGMENT = ["crop4", "flip"]
PROFILE = "strict"
#: Steps that are watched for waits, and images in each.
WATCHED, BATCH = 20, 8


def prepared(model: str, steps: int) -> tuple[RunSpec, ImageData]:
    """The spec of a run on the embedded digits with crops and flips, and the digits."""
    suite = find_suite("quickstart")
    first = plan(suite)[0]
    recipe = find_recipe("common", model).model_copy(update={"augment": AUGMENT})
    data = DATASETS.find("digits-rot").entry.load()(Path())
    return first.model_copy(update={"model": model, "recipe": recipe, "steps": steps}), data


def network(spec: RunSpec, data: ImageData, device: torch.device) -> nn.Module:
    """The network of a spec with the weights of its seed."""
    torch.manual_seed(0)
    shape = data.train.images.shape
    model: nn.Module = build_model(spec.model, shape[1], data.classes, shape[-1])
    renew_profile()
    return model.to(device)


def bare(model: nn.Module, loaded: Loaded, spec: RunSpec) -> Callable[[], None]:
    """A function that does the same steps with nothing around them."""

    def loop() -> None:
        optimizer = optimizer_for(model, spec.recipe)
        set_batch_norm(model, spec.recipe.batch_norm_momentum)
        model.train()
        for step in range(spec.steps):
            for group in optimizer.param_groups:
                group["lr"] = spec.recipe.rate(step, spec.steps)
            train_step(model, optimizer, *loaded.batches(step), spec.profile)

    return loop


def ours(model: nn.Module, loaded: Loaded, spec: RunSpec, device: str) -> Callable[[], None]:
    """A function that trains as a run does."""
    return lambda: train(model, loaded.batches, spec.recipe, spec.steps, clock_for(device), spec.profile) and None


def fed_by_loader(model: nn.Module, data: ImageData, spec: RunSpec, device: torch.device) -> Callable[[], None]:
    """A function that trains on batches of a DataLoader as most scripts do."""
    mean, std = data.statistics()
    steps = [
        transforms.ToTensor(), transforms.Normalize(mean, std),
        transforms.RandomCrop(data.train.images.shape[-1], padding=4), transforms.RandomHorizontalFlip(),
    ]  # fmt: skip
    images = Transformed(data, transforms.Compose(steps))
    workers = max(1, len(os.sched_getaffinity(0)))
    loader = torch.utils.data.DataLoader(
        images, spec.recipe.batch, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True,
        pin_memory=device.type == "cuda",
    )  # fmt: skip

    def endless() -> Iterator[list[torch.Tensor]]:
        while True:
            yield from loader

    optimizer, batches = optimizer_for(model, spec.recipe), endless()
    model.train()

    def loop() -> None:
        for batch, labels in islice(batches, spec.steps):
            train_step(
                model,
                optimizer,
                batch.to(device, non_blocking=True),
                labels.to(device, non_blocking=True),
                spec.profile,
            )

    return loop


class Transformed(torch.utils.data.Dataset):
    """Images as `DataLoader` and torchvision's transforms want them: (n, n, channels), one at a time."""

    def __init__(self, data: ImageData, transform: Callable[..., torch.Tensor]) -> None:
        self._images = data.train.images.transpose(0, 2, 3, 1)
        self._labels, self._transform = data.train.labels, transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._transform(self._images[index]), int(self._labels[index])


def share_of_batches(loaded: Loaded, spec: RunSpec, seconds_a_step: float, device: torch.device) -> float:
    """Share of a step that the batch takes, measured alone."""
    for phase in ("warm", "timed"):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        for step in range(spec.steps):
            loaded.batches(step)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if phase == "timed":
            return (time.perf_counter() - start) / spec.steps / seconds_a_step
    raise AssertionError


def waits_for_the_device(model: nn.Module, batches: Source, recipe: Recipe) -> str:
    """What synchronises in a step: torch's own check, which raises at the call; empty if nothing does."""
    optimizer = optimizer_for(model, recipe)
    set_batch_norm(model, recipe.batch_norm_momentum)
    model.train()
    # Tables and the order of the epoch are copied to the device once, not in every step.
    train_step(model, optimizer, *batches(0), PROFILE)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(1, WATCHED):
            train_step(model, optimizer, *batches(step), PROFILE)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def members() -> dict[str, Entry]:
    """The smallest registered network of every family."""
    found: dict[str, Entry] = {}
    entries = [e for e in MODELS.match() if e.fields.get("params")]
    for entry in sorted(entries, key=lambda e: (max(e.fields["params"].values()), e.name)):
        found.setdefault(str(entry.fields["family"]), entry)
    return found


def family_waits(entry: Entry, device: torch.device) -> str:
    """As `waits_for_the_device`, for a registered network on black images of the size that it declares."""
    channels, size, classes = parse_shape(next(iter(entry.fields["params"])), entry.name)
    model = build_model(entry.name, channels, classes, size)
    renew_profile()
    recipe = find_recipe("common", entry.name)
    images = torch.zeros(WATCHED * BATCH, channels, size, size, dtype=torch.uint8, device=device)
    labels = torch.zeros(len(images), dtype=torch.int64, device=device)
    normalise = Normalise([0.5] * channels, [0.5] * channels, 255, device)
    treatments = MODELS.find(entry.name).treatments
    batches = Batches(images, labels, normalise, BATCH, lambda *_: 0, recipe.augment, treatments)
    return waits_for_the_device(model.to(device), batches, recipe)


def main() -> None:
    """Measure, and print a line a question."""
    parse = parser(__doc__)
    parse.add_argument("--device", default="cpu")
    parse.add_argument("--model", default="z2cnn")
    parse.add_argument("--steps", type=int, default=80)
    parse.add_argument("--rounds", type=int, default=9)
    options = parse.parse_args()
    warnings.simplefilter("ignore")
    device = begin(options.device, PROFILE, 1)
    spec, data = prepared(options.model, options.steps)
    loaded = Loaded(data, spec, device)
    warm_up(network(spec, data, device), loaded, spec)
    print(f"{hardware(options.device)}; {options.model}, batch {spec.recipe.batch}, {'+'.join(AUGMENT)}")
    contenders: dict[str, Callable[[], None]] = {
        "bare": bare(network(spec, data, device), loaded, spec),
        "ours": ours(network(spec, data, device), loaded, spec, options.device),
        "loader": fed_by_loader(network(spec, data, device), data, spec, device),
    }
    timing = side_by_side(contenders, rounds=options.rounds, device=options.device)
    own = timing["ours"]
    spread = f"{own.low:.3f}–{own.high:.3f}"
    rows = [("loop / bare loop", f"{own.ratio:.3f}", spread, "at most 1.02", _met(own.ratio <= 1.02))]
    its = timing["loader"]
    ratio, spread = its.ratio / own.ratio, f"{its.low / own.ratio:.2f}–{its.high / own.ratio:.2f}"
    question = f"images a second / DataLoader of {len(os.sched_getaffinity(0))} workers"
    rows.append((question, f"{ratio:.2f}", spread, "at least 1.5", _met(ratio >= 1.5)))
    step_ms = 1e3 * own.seconds / spec.steps
    share = share_of_batches(loaded, spec, own.seconds / spec.steps, device)
    on_gpu = device.type == "cuda"
    rows.append((f"batch and augmentation, share of a step of {step_ms:.2f} ms", f"{100 * share:.1f} %", "",
                 "at most 5 % on a GPU", _met(share <= 0.05) if on_gpu else ""))  # fmt: skip
    if on_gpu:
        waits = {family: family_waits(entry, device) for family, entry in members().items()}
        shown = "; ".join(f"{family}: {what}" for family, what in waits.items() if what) or "none"
        rows.append(
            (
                f"families of {len(waits)} with a step that waits for the device",
                shown,
                "",
                "none",
                _met(shown == "none"),
            )
        )
    show(rows, ["", "measured", "quartiles", "target", "met"], ("",), options.format)


def _met(reached: bool) -> str:
    return "yes" if reached else "no"


if __name__ == "__main__":
    main()
