"""Training batches: selected and augmented on the device, and the same for all models of a seed.

Only this module converts arrays of a data set to tensors. Images stay on the device as integers. The stream of examples
consists of shuffled epochs; a batch may contain images of two epochs. Order and augmentation are drawn on the CPU from
generators that depend only on (seed, epoch). So all models on all devices get the same images in the same order with
the same augmentation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from ..registry import UserError, nearest
from .images import ImageData, Split

#: Draws the parameters of one epoch: (generator, images) -> float tensor (images, k).
Draw = Callable[[torch.Generator, int], torch.Tensor]
#: Applies them: (images (b, c, n, n), parameters (b, k)) -> images (b, c, n, n).
Apply = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _draw_flip(generator: torch.Generator, count: int) -> torch.Tensor:
    return torch.randint(0, 2, (count, 1), generator=generator).float()


def _flip(images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    return torch.where(parameters[:, :, None, None] > 0, images.flip(-1), images)


def _draw_shift(generator: torch.Generator, count: int) -> torch.Tensor:
    return torch.randint(-4, 5, (count, 2), generator=generator).float()


def _shift(images: torch.Tensor, parameters: torch.Tensor, fill: str = "constant") -> torch.Tensor:
    size = images.shape[-1]
    padded = F.pad(images, (4, 4, 4, 4), mode=fill)
    grid = torch.arange(size, device=images.device)
    rows = grid + 4 + parameters[:, :1].long()
    columns = grid + 4 + parameters[:, 1:].long()
    batch, channels = (torch.arange(n, device=images.device)[:, None, None] for n in images.shape[:2])
    # All four axes are indexed, so that the result lies in memory as every other batch. Channels last, it would choose
    # other kernels for the whole network, among them one of torch 2.12 on CPUs that writes beyond its memory: the
    # gradient of 1x1 filters with stride 2 and fewer than 8 input channels.
    return padded[batch[:, None], channels, rows[:, None, :, None], columns[:, None, None, :]]


def _draw_angle(generator: torch.Generator, count: int) -> torch.Tensor:
    return 2 * math.pi * torch.rand(count, 1, generator=generator)


def _draw_slight_angle(generator: torch.Generator, count: int) -> torch.Tensor:
    return math.pi / 180 * 2 * math.pi * (torch.rand(count, 1, generator=generator) - 0.5)


def _draw_subpixel(generator: torch.Generator, count: int) -> torch.Tensor:
    return 4 * torch.rand(count, 2, generator=generator) - 2


def _resample(images: torch.Tensor, motion: torch.Tensor, mode: str) -> torch.Tensor:
    """Images moved by affine maps (b, 2, 3) of the coordinates -1…1; points outside get the nearest border pixel."""
    # The border, not zeros: after normalisation zero is the mean, not the background.
    grid = F.affine_grid(motion, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)


def _rotate(images: torch.Tensor, parameters: torch.Tensor, mode: str = "bicubic") -> torch.Tensor:
    cosine, sine, zero = parameters[:, 0].cos(), parameters[:, 0].sin(), torch.zeros_like(parameters[:, 0])
    motion = torch.stack([torch.stack([cosine, -sine, zero], 1), torch.stack([sine, cosine, zero], 1)], 1)
    return _resample(images, motion, mode)


def _translate(images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    motion = torch.eye(2, device=images.device).expand(len(images), 2, 2)
    return _resample(images, torch.cat([motion, 2 / images.shape[-1] * parameters[:, :, None]], 2), "bicubic")


#: name -> (draw, apply). All act on normalised images.
#: ``flip``: horizontal, with probability 1/2. ``crop4``: shift by up to 4 whole pixels in each direction, filled with
#: the mean of the training set (zero after normalisation); ``crop4-reflect``: filled with the mirrored image.
#: ``shift2``: shift by up to 2 pixels, uniform and not whole, bicubic. ``rotate``: by an angle uniform over the circle,
#: about the middle, counter-clockwise, bicubic; ``rotate-bilinear`` and ``rotate-nearest`` too with less;
#: ``rotate-slight``: by up to pi degrees, bilinear. Where a resampled image has no source it repeats its border.
AUGMENTATIONS: dict[str, tuple[Draw, Apply]] = {
    "flip": (_draw_flip, _flip),
    "crop4": (_draw_shift, _shift),
    "crop4-reflect": (_draw_shift, partial(_shift, fill="reflect")),
    "shift2": (_draw_subpixel, _translate),
    "rotate": (_draw_angle, _rotate),
    "rotate-bilinear": (_draw_angle, partial(_rotate, mode="bilinear")),
    "rotate-nearest": (_draw_angle, partial(_rotate, mode="nearest")),
    "rotate-slight": (_draw_slight_angle, partial(_rotate, mode="bilinear")),
}


class Normalise:
    """Integer images as float32 with mean 0 and standard deviation 1 per channel.

    Args:
        mean, std: per channel, of images scaled to 0…1.
        maximum: integer that stands for 1.0.
    """

    def __init__(self, mean: list[float], std: list[float], maximum: int, device: torch.device) -> None:
        scale = [1.0 / (maximum * s) for s in std]
        shift = [-m / s for m, s in zip(mean, std, strict=True)]
        self._scale = torch.tensor(scale, dtype=torch.float32, device=device)[:, None, None]
        self._shift = torch.tensor(shift, dtype=torch.float32, device=device)[:, None, None]

    @classmethod
    def of(cls, data: ImageData, device: torch.device) -> Normalise:
        """By the statistics of a data set's training images."""
        return cls(*data.statistics(), data.maximum, device)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(b, c, n, n), any real type, in units of the integers -> float32, normalised."""
        return torch.addcmul(self._shift, images.to(torch.float32), self._scale)


def as_tensors(split: Split, device: torch.device, rows: np.ndarray | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of a part of a data set, on the device.

    Args:
        rows: indices of the wanted images, in this order; None for all.

    Returns:
        Images (n, c, size, size) in uint8, or in int32 where the array has 16 bits: torch flips, indexes and compares
        uint16 on some devices only. Labels int64 (n,).
    """
    images, labels = (split.images, split.labels) if rows is None else (split.images[rows], split.labels[rows])
    # A copy: tensors share memory with arrays, and may be written to.
    images = images.astype(np.int32 if images.dtype == np.uint16 else images.dtype, order="C")
    return torch.from_numpy(images).to(device), torch.from_numpy(labels.astype(np.int64)).to(device)


class Batches:
    """The stream of training batches of one seed.

    Args:
        images: integers (n, c, size, size) on the device.
        labels: int64 (n,) on the device.
        normalise: applied to every batch, before augmentation.
        batch: images a batch.
        derive: seed of the generator of a purpose in an epoch, ``derive(purpose, epoch)``.
        augment: names from `AUGMENTATIONS`, applied in this order.
        treatments: further augmentations, applied after `augment`. They have their own generators, so a treated
            model gets the same base batches as all others.

    Raises:
        UserError: an augmentation is unknown.
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        normalise: Normalise,
        batch: int,
        derive: Callable[[str, int], int],
        augment: Sequence[str] | None = None,
        treatments: Sequence[str] = (),
    ) -> None:
        augment = augment or ()
        for name in (*augment, *treatments):
            if name not in AUGMENTATIONS:
                raise UserError(f"there is no augmentation {name!r}; {nearest(name, AUGMENTATIONS)}")
        self._images, self._labels, self._normalise = images, labels, normalise
        self._batch, self._derive = batch, derive
        # Pairs of an augmentation and what its generator is for; a treatment may repeat an augmentation of the board.
        self._augment = [(name, name) for name in augment] + [(name, f"treatment/{name}") for name in treatments]
        self._epochs: dict[int, tuple[torch.Tensor, list[torch.Tensor]]] = {}

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Batch number `step` (from 0): normalised images (b, c, size, size) and labels (b,)."""
        index, parameters = self._positions(step * self._batch)
        images = self._normalise(self._images[index])
        for (name, _), own in zip(self._augment, parameters, strict=True):
            images = AUGMENTATIONS[name][1](images, own)
        return images, self._labels[index]

    def _positions(self, start: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Indices and augmentation parameters of the stream's examples start … start + batch."""
        count = len(self._images)
        pieces = []
        end = start + self._batch
        while start < end:
            epoch, offset = divmod(start, count)
            stop = min(offset + end - start, count)
            order, parameters = self._epoch(epoch)
            pieces.append((order[offset:stop], [p[offset:stop] for p in parameters]))
            start += stop - offset
        if len(pieces) == 1:
            return pieces[0]
        return torch.cat([p[0] for p in pieces]), [torch.cat(p) for p in zip(*(q[1] for q in pieces), strict=True)]

    def _epoch(self, epoch: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        if epoch not in self._epochs:
            count, device = len(self._images), self._images.device
            order = torch.randperm(count, generator=self._generator("order", epoch)).to(device)
            parameters = [
                AUGMENTATIONS[name][0](self._generator(purpose, epoch), count).to(device)
                for name, purpose in self._augment
            ]
            # A batch needs at most the previous epoch too.
            self._epochs = {e: v for e, v in self._epochs.items() if e >= epoch - 1}
            self._epochs[epoch] = order, parameters
        return self._epochs[epoch]

    def _generator(self, purpose: str, epoch: int) -> torch.Generator:
        return torch.Generator().manual_seed(self._derive(purpose, epoch))
