"""Microscope images of MedMNIST, which have no upright, through the package `medmnist`: the extra of that name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..registry import register_dataset
from .fetch import Download, downloads
from .images import PARTS, ImageData, Split
from .vision import Published, kind_of, split_of


@dataclass(frozen=True)
class Medical(Published):
    """A data set of `medmnist`, whose table says where it is published, and its MD5.

    Attributes:
        size: of the images, in pixels; without an ending in the names of files it is 28.
    """

    size: int = 28

    def _places(self) -> tuple[list[str], list[Download]]:
        known, ending = kind_of("INFO", "medmnist.info")[self.name.lower()], "" if self.size == 28 else f"_{self.size}"
        file = f"{self.name.lower()}{ending}.npz"
        return [], [Download(file, (known[f"url{ending}"],), known[f"MD5{ending}"], folder="")]

    def _read(self, folder: Path, packed: bool) -> list[Split]:
        kind = kind_of(self.name, "medmnist.dataset")
        found = (kind(part, root=folder, size=self.size) for part in PARTS)
        return [split_of(data.imgs, data.labels) for data in found]

    def data(self, root: Path, classes: int) -> ImageData:
        """The data set, called as its files are but for a dash before the size."""
        name = self.name.lower() if self.size == 28 else f"{self.name.lower()}-{self.size}"
        return ImageData(name, *self.parts(root), classes, 255)


@register_dataset(
    "bloodmnist",
    shape=(3, 28, 28),
    classes=8,
    sizes=(11_959, 1_712, 3_421),
    source="BloodMNIST of MedMNIST v2, doi:10.1038/s41597-022-01721-8",
    rotation=True,
    task="blood cells",
    licence="CC BY 4.0",
    citation="Yang et al., MedMNIST v2, Scientific Data, 2023; Acevedo et al., A dataset of microscopic peripheral"
    " blood cell"
    " images for development of automatic recognition systems, Data in Brief, 2020",
    note="parts as published",
    package="medmnist",
    members={"bloodmnist-64": {"args": {"size": 64}, "shape": (3, 64, 64)}},
)
@downloads(lambda root, size=28: Medical("BloodMNIST", size=size).files(root))
def bloodmnist(root: Path, *, size: int = 28) -> ImageData:
    """BloodMNIST: 8 kinds of blood cells under a microscope, in colour.

    Raises:
        UserError: the file is missing and cannot be downloaded, or is not the published one.
    """
    return Medical("BloodMNIST", size=size).data(root, 8)


@register_dataset(
    "pathmnist",
    shape=(3, 28, 28),
    classes=9,
    sizes=(89_996, 10_004, 7_180),
    source="PathMNIST of MedMNIST v2, doi:10.1038/s41597-022-01721-8",
    rotation=True,
    task="tissue",
    licence="CC BY 4.0",
    citation="Yang et al., MedMNIST v2, Scientific Data, 2023; Kather et al., Predicting survival from colorectal"
    " cancer"
    " histology slides using deep learning, PLOS Medicine, 2019",
    note="parts as published; the test images are from another hospital",
    package="medmnist",
    members={"pathmnist-64": {"args": {"size": 64}, "shape": (3, 64, 64)}},
)
@downloads(lambda root, size=28: Medical("PathMNIST", size=size).files(root))
def pathmnist(root: Path, *, size: int = 28) -> ImageData:
    """PathMNIST: 9 kinds of stained tissue of the colon under a microscope, in colour.

    Raises:
        UserError: the file is missing and cannot be downloaded, or is not the published one.
    """
    return Medical("PathMNIST", size=size).data(root, 9)
