"""EuroSAT: land seen by a satellite, which has no upright."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..registry import register_dataset
from .fetch import Download, downloads
from .images import ImageData, Split
from .subsets import split_stratified
from .vision import Published, kind_of, split_of

#: torchvision knows it, but has no table to take it from.
ARCHIVE = Download(
    "eurosat/EuroSAT.zip",
    ("https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",),
    md5="c8fa014336c82ac7804f0398fcb19387",
    folder="",
)


@dataclass(frozen=True)
class Folders(Published):
    """EuroSAT of torchvision: a zip archive of JPEG files of 64 x 64 pixels, in one folder for each of 10 classes.

    Attributes:
        count: of the images.
    """

    name: str = "EuroSAT"
    count: int = 27_000

    def _places(self) -> tuple[list[str], list[Download]]:
        return ["eurosat/2750"], [ARCHIVE]

    def _read(self, folder: Path, packed: bool) -> list[Split]:
        """The images in the order of classes and file names."""
        data = kind_of(self.name)(folder, download=packed)
        if (len(data), len(data.classes)) != (self.count, 10):
            raise ValueError(f"{len(data):,} images of {len(data.classes)} classes instead of {self.count:,} of 10")
        images = np.empty((len(data), 64, 64, 3), np.uint8)
        for out, (path, _) in zip(images, data.samples, strict=True):
            try:
                image = np.asarray(data.loader(path))
            except OSError as error:
                raise error if error.errno else ValueError(f"{Path(path).name} cannot be decoded: {error}") from error
            if image.shape != out.shape:
                raise ValueError(f"{Path(path).name} has {image.shape[0]}x{image.shape[1]} pixels instead of 64x64")
            out[:] = image
        return [split_of(images, data.targets)]


EUROSAT = Folders()


@register_dataset(
    "eurosat",
    shape=(3, 64, 64),
    classes=10,
    sizes=(16_200, 2_700, 8_100),
    source="EuroSAT, Helber et al., arXiv:1709.00029",
    rotation=True,
    task="satellite",
    licence="MIT",
    citation="Helber, Bischke, Dengel, Borth, EuroSAT: a novel dataset and deep learning benchmark for land use and"
    " land cover"
    " classification, 2019",
    note="red, green and blue only; no split is published: 60, 10 and 30 % of each class, drawn with seed 0",
)
@downloads(EUROSAT.files)
def eurosat(root: Path) -> ImageData:
    """EuroSAT: 10 kinds of land use and cover from Sentinel-2, in colour.

    Raises:
        UserError: the archive is missing and cannot be downloaded, or is not the published one.
    """
    (whole,) = EUROSAT.parts(root)
    count = len(whole.labels)
    rows = split_stratified(whole.labels, (count * 6 // 10, count // 10, count * 3 // 10), np.random.RandomState(0))
    return ImageData("eurosat", *(Split(whole.images[r], whole.labels[r]) for r in rows), 10, 255)
