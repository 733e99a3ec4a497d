"""Preparation of a run: data on the device, the model of a seed, weights as bytes."""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ...datasets.batches import Batches, Normalise, as_tensors
from ...datasets.images import ImageData, Split, balanced_order
from ...datasets.subsets import balanced_subset, split_stratified
from ...opened_files import watching
from ...registry import MODELS, UserError, build_model
from ..measures.accuracy import EVAL_BATCH, logits
from ..measures.clock import clock_for
from ..measures.cost import same_numbers
from ..measures.equivariance import Scene
from ..measures.execution_profile import renew_profile
from ..measures.execution_profile import set_profile as set_profile
from ..measures.norms import check_statistics, one_seed, reestimate_batch_norm
from ..spec.seeds import derive
from ..spec.suite import RunSpec
from ..tools.files import write_atomically
from ..tools.text import listed
from .module_attributes import changed, changed_plain, contents, plain_attributes
from .train import optimizer_for, train_step

#: Images of the training set that batch-norm statistics are re-estimated on.
BN_IMAGES = 500
#: Smallest warm-up time of a GPU in device-seconds.
WARM_S = 1.0
#: Number of images with which the estimation of these statistics, and weights that were just written, are tried.
REHEARSED = 16
#: Largest difference of logits, relative to the largest logit, that counts as rounding.
ROUNDING = 1e-5
#: Objects of torch's C++ code that hold weights of layers, as layers of `torch.ao` for 8 bits have them.
_PACKED = re.compile(r"torch\.classes\.(quantized|rnn|sparse|mkldnn|xnnpack)\.(\w+)$")


class Loaded:
    """A data set on the device, prepared for a run.

    Attributes:
        images, labels: the training images (of the subset, if the spec has one) and their labels.
        batches: the stream of training batches.
        normalise: normalises by mean and standard deviation of the training images.
        background: median of the border pixels of the training images, per channel, in 0…1.

    Raises:
        UserError: a channel of the training images is constant.
    """

    def __init__(self, data: ImageData, spec: RunSpec, device: torch.device) -> None:
        self.data, self.spec, self.device = data, spec, device
        images, labels = data.train.images, data.train.labels
        if spec.fit == "train+val":
            images = np.concatenate([images, data.val.images])
            labels = np.concatenate([labels, data.val.labels])
        known = data
        if spec.train_images is not None:
            rows = balanced_subset(labels, spec.train_images, derive(spec.seed, "subset"))
            images, labels = images[rows], labels[rows]
            # A run on a subset must not use any other image.
            known = replace(data, train=Split(images, labels))
            for channel, deviation in enumerate(known.statistics()[1]):
                if deviation == 0:  # it cannot be normalised
                    raise UserError(
                        f"channel {channel} of the {len(labels):,} training images that this seed selects from"
                        f" {data.name!r} is constant; use more images"
                    )
        self.images, self.labels = as_tensors(Split(images, labels), device)
        self.normalise = Normalise.of(known, device)
        batch, augment, treatments = spec.recipe.batch, spec.recipe.augment, MODELS.find(spec.model).treatments
        self.batches = Batches(
            self.images, self.labels, self.normalise, batch, partial(derive, spec.seed), augment, treatments
        )
        self.background = border_median(known)

    def unaugmented(self) -> Iterator[torch.Tensor]:
        """Batches of `BN_IMAGES` training images (all, if there are fewer) for re-estimating batch-norm statistics.

        The sample is stratified by class, in a random order that depends on the run's seed. The sizes of batches differ
        by at most one image, so no batch has a single image.
        """
        count = min(BN_IMAGES, len(self.labels))
        random = np.random.RandomState(derive(self.spec.seed, "statistics") % 2**32)
        rows = split_stratified(self.labels.cpu().numpy(), (count,), random)[0]
        for part in np.array_split(rows, math.ceil(count / EVAL_BATCH)):
            yield self.normalise(self.images[torch.from_numpy(part).to(self.device)])

    @property
    def scene(self) -> Scene:
        """Closed-form images as inputs of the model, in the units of the data."""
        return Scene(self.images.shape[-1], self.normalise, self.background, self.data.maximum, self.device)

    def balanced_test_images(self, count: int) -> torch.Tensor:
        """`count` images of the test set (all, if there are fewer), balanced by class."""
        order = balanced_order(self.data.test.labels, self.data.classes, count)
        return as_tensors(self.data.test, self.device, order)[0]


def border_median(data: ImageData) -> list[float]:
    """Median of the border pixels of the training images, per channel, in 0…1."""
    images = data.train.images
    edges = np.concatenate([images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]], axis=-1)
    return [float(np.median(edges[:, c])) / data.maximum for c in range(images.shape[1])]


def build_from_seed(spec: RunSpec, data: ImageData, device: torch.device) -> nn.Module:
    """The model of a spec on a device, see `initial_model`."""
    channels, size = data.train.images.shape[1], data.train.images.shape[-1]
    return initial_model(spec.model, channels, data.classes, size, spec.seed).to(device)


def initial_model(name: str, channels: int, classes: int, size: int, seed: int = 0, check: bool = True) -> nn.Module:
    """A model with the initial weights of a run's seed, on the CPU. Sets the process's profile again, if it has one.

    torch's global generator continues after the draws of the weights. Without `check`, output and settings are left to
    the caller's judgement. Raises UserError for an unknown name, a `train()` or `eval()` that does not return the
    model, and as `check_tensors`; and `WrongShape`.
    """
    torch.manual_seed(derive(seed, "weights"))
    with watching(MODELS.find(name).key):  # some models open files in their first call
        model: nn.Module = build_model(name, channels, classes, size)
        # The first call also initialises lazy modules.
        if check or any(map(is_lazy, (*model.parameters(), *model.buffers()))):
            with suppress(*() if check else (WrongShape,)):
                check_output(model, channels, classes, size)
    check_tensors(model)
    for mode in ("eval", "train"):  # `train` last
        if getattr(type(model), mode) is not getattr(nn.Module, mode) and getattr(model, mode)() is not model:
            says = f"{mode}() of {type(model).__name__} does not return the network"
            raise UserError(f"{says}; end it with `return self`")
    if check:
        renew_profile()
    return model


def check_output(model: nn.Module, channels: int, classes: int, size: int) -> None:
    """Check that a model maps two images to logits of shape (2, classes); raises `WrongShape`."""
    model.eval()
    with torch.no_grad():
        out = model(torch.zeros(2, channels, size, size))
    model.train()
    if not isinstance(out, torch.Tensor) or out.shape != (2, classes):
        got = f"a tensor of shape {tuple(out.shape)}" if isinstance(out, torch.Tensor) else f"a {type(out).__name__}"
        raise WrongShape(
            f"for 2 images of {channels}x{size}x{size} it returns {got}; it must return logits of shape (2, {classes})"
        )


def check_tensors(model: nn.Module) -> None:
    """Check that all parameters and buffers have plain numbers; raises UserError: the name of another tensor."""
    for path, module in model.named_modules():
        for attribute, value in vars(module).items():
            packed = isinstance(value, torch.ScriptObject) and _PACKED.search(str(value._type()))
            if packed:
                name = f"{path}.{attribute}".removeprefix(".")
                raise UserError(
                    f"{name!r} holds packed weights ({packed[2]}), which are neither counted nor saved; use layers"
                    " with dense parameters, such as nn.Linear and nn.LSTM"
                )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise UserError(f"{name!r} has no shape yet: the forward pass does not use its lazy layer; leave it out")
        if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_quantized:
            kind = "quantised" if tensor.is_quantized else "nested" if tensor.is_nested else "sparse"
            kind = "oneDNN" if tensor.is_mkldnn else kind
            raise UserError(
                f"{name!r} is a {kind} tensor, which is neither counted nor saved; register dense tensors"
                " (for a sparse one: its indices and its values), and make this one from them in forward()"
            )


class WrongShape(ValueError):
    """A model does not return logits of the shape that its contract requires."""


def warm_up(twin: nn.Module, loaded: Loaded, spec: RunSpec) -> float:
    """Train a second model of the spec on random images and labels; returns the seconds per step of the last steps.

    On a GPU this takes at least `WARM_S`, so that the following steps run at the normal clock rate. After ten steps the
    learning rate is zero, because the step time of a diverged network can differ.
    """
    steps, least = (10, WARM_S) if loaded.device.type == "cuda" else (1, 0.0)
    optimizer, clock, total = optimizer_for(twin, spec.recipe), clock_for(str(loaded.device)), 0.0
    images, labels = loaded.batches(0)
    twin.train()
    while True:
        start = clock.mark()
        for _ in range(steps):
            noise, shuffled = torch.randn_like(images), labels[torch.randperm(len(labels), device=labels.device)]
            train_step(twin, optimizer, noise, shuffled, spec.profile)
        seconds = clock.seconds(start, clock.mark())
        total += seconds
        if total >= least:
            return seconds / steps
        for group in optimizer.param_groups:
            group["lr"] = 0.0


def rehearse(twin: nn.Module, loaded: Loaded, spec: RunSpec) -> None:
    """Try all operations that follow the training with a second model, so that errors occur before the training.

    Normalisation comes last: if evaluation changes a network, its statistics cannot be compared.
    """
    few = loaded.images[:REHEARSED]
    first = seeded_logits(twin, few, loaded.normalise)  # some models expand filters here, and keep them
    tensors, plain, others = _tensors(twin), plain_attributes(twin), contents(twin)
    seen = {0}
    for split in (loaded.data.test, loaded.data.val):
        # Each batch size of the evaluation once.
        for size in {min(len(split.labels), EVAL_BATCH), len(split.labels) % EVAL_BATCH} - seen:
            logits(twin, as_tensors(split, loaded.device, np.arange(size))[0], loaded.normalise)
            seen.add(size)
    # What is changed may be a counter or a cache, on which no logits depend.
    if not same_logits(first, seeded_logits(twin, few, loaded.normalise)):
        names = [n for n, t in _tensors(twin).items() if n not in tensors or not same_numbers(t, tensors[n])]
        if names := names + changed_plain(plain, twin) + changed(others, twin):
            raise ValueError(f"evaluation changes {listed(names, 5)}, so a score would depend on earlier images")
    weights_bytes(twin)
    if spec.recipe.batch_norm == "reestimate":
        check_statistics(twin, loaded.normalise(few))
        # Each batch size of the estimation once.
        reestimate_batch_norm(twin, {len(part): part for part in loaded.unaugmented()}.values())


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers, on the CPU: they do not count as memory of the device."""
    return {n: t.detach().to("cpu", copy=True) for n, t in (*model.named_parameters(), *model.named_buffers())}


def seeded_logits(model: nn.Module, images: torch.Tensor, prepare: Normalise) -> torch.Tensor:
    """As `logits`, with a fixed seed of torch's generators, because a network may be random in evaluation."""
    with one_seed(images):
        return logits(model, images, prepare)


def same_logits(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Whether logits differ by no more than `ROUNDING`; NaN equals NaN."""
    one, two = one.cpu(), two.cpu()
    scale = float(one.nan_to_num(0.0, 0.0, 0.0).abs().max())
    return torch.allclose(one, two, rtol=0, atol=ROUNDING * scale, equal_nan=True)


def save_weights(model: nn.Module, path: Path) -> str:
    """Save parameters and buffers in a file; returns the SHA-256 of all their bytes, or raises `WriteError`."""
    content, digest = weights_bytes(model)
    write_atomically(path, content)
    return digest


def weights_bytes(model: nn.Module) -> tuple[memoryview, str]:
    """Parameters and buffers as the bytes of a file, and the SHA-256 of the tensors' own bytes."""
    state, stream = tensors_of(model), io.BytesIO()
    torch.save(state, stream)
    return stream.getbuffer(), weights_digest(state)


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and buffers of the state dictionary, on the CPU."""
    return {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}


def outline(state: dict[str, Any]) -> dict[str, Any]:
    """Shape, type and layout of each tensor of a state dictionary, and the types of other values."""
    return {k: (v.shape, v.dtype, v.layout) if isinstance(v, torch.Tensor) else type(v) for k, v in state.items()}


def weights_digest(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 of the names and bytes of all tensors of a state dictionary on the CPU."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + b"\0" + state[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
