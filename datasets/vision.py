"""Data sets as they were published, through the packages that know them: most through `torchvision.datasets`.

The packages say what is published where, and unpack and parse it. Archives are fetched by `fetch`, so that they are
resumed, taken from a mirror, and fetched once. They lie where the packages keep them, so that copies of theirs serve.
These packages are imported when data are fetched or unpacked, and by nothing else: runs read the cache.
"""

from __future__ import annotations

import importlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from ..registry import UserError
from .fetch import Download, obtain
from .images import Split, digest_of


@dataclass(frozen=True)
class Published:
    """A published data set.

    Attributes:
        name: of its class in the package that knows it.
        digest: `digest_of` its images and labels, part by part; empty if nobody has computed it.
    """

    name: str
    digest: str = ""

    def files(self, root: Path) -> list[Download]:
        """Archives that must be there; none where they lie unpacked below `root`."""
        unpacked, archives = self._places()
        return [] if unpacked and all((root / place).exists() for place in unpacked) else archives

    def parts(self, root: Path) -> list[Split]:
        """Its parts (training before test) as published, uint8 (n, channels, size, size), from below `root`.

        Unpacked files are used where all are there, else the archives, which are downloaded if need be. What is
        unpacked here is removed again.

        Raises:
            UserError: an archive is missing and cannot be downloaded, or a file is not the published one.
        """
        files = self.files(root)
        used = [obtain(root, file) for file in files] or [root / place for place in self._places()[0]]
        scratch = root / "cache" / f".{self.name}"
        scratch.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(scratch.with_suffix(".lock")):
            shutil.rmtree(scratch, ignore_errors=True)  # of one who was killed
            try:
                # Nothing is ever unpacked in the folder of the user, where half a file would pass for a whole one.
                for path in used:
                    link = scratch / path.relative_to(root)
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(path.absolute())
                return self._verified(scratch, bool(files), used)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def _verified(self, folder: Path, packed: bool, used: list[Path]) -> list[Split]:
        one = len(used) == 1
        where = str(used[0]) if one else f"{used[0].parent} ({', '.join(path.name for path in used)})"
        repair = f"delete {'it' if one else 'them'}, and a new copy is downloaded, or put the right files there"
        try:
            found = self._read(folder, packed)
        except PermissionError as error:
            raise UserError(f"{where} cannot be read ({error.strerror}); make it readable") from error
        except Exception as error:  # of the many kinds that a parser raises
            if isinstance(error, UserError) or getattr(error, "errno", None):  # a full disk, …
                raise
            raise UserError(
                f"{where}: this is not {self.name} ({str(error) or type(error).__name__}); {repair}"
            ) from error
        digest = digest_of(array for part in found for array in (part.images, part.labels))
        if self.digest and digest != self.digest:
            raise UserError(
                f"{where}: this is not {self.name} as published: the arrays have the digest {digest} instead of"
                f" {self.digest};"
                f" {repair}"
            )
        return found

    def _places(self) -> tuple[list[str], list[Download]]:
        """Below the root: what lies there unpacked, and the archives that it comes in."""
        raise NotImplementedError

    def _read(self, folder: Path, packed: bool) -> list[Split]:
        """The parts from a folder, where archives still have to be unpacked or not."""
        raise NotImplementedError


class Vision(Published):
    """A data set of `torchvision.datasets`, of the kind of MNIST (gzipped files) or of CIFAR (one archive of
    pickles).
    """

    def _places(self) -> tuple[list[str], list[Download]]:
        kind = kind_of(self.name)
        if hasattr(kind, "resources"):
            raw = f"{self.name}/raw/"
            archives = [
                Download(raw + name, tuple(mirror + name for mirror in kind.mirrors), md5, folder="")
                for name, md5 in kind.resources
            ]
            return [file.path.removesuffix(".gz") for file in archives], archives
        return [kind.base_folder], [Download(kind.filename, (kind.url,), kind.tgz_md5, folder="")]

    def _read(self, folder: Path, packed: bool) -> list[Split]:
        """What torchvision finds there. It loads no pickle whose MD5 is not in its table."""
        # The archives are there and verified: what is called a download only unpacks them.
        found = (kind_of(self.name)(folder, train=part, download=packed) for part in (True, False))
        return [split_of(data.data, data.targets) for data in found]


MNIST = Vision("MNIST", "eb2a04068f8ba924ccbdd7d9e02e30252e4feaad5678d237ba080d9e22c7f19e")
FASHION_MNIST = Vision("FashionMNIST", "cefe8ddfcfd2309ae9e9a00d57ebc19696ad14205c63cd989ac6c11196bf3091")
CIFAR10 = Vision("CIFAR10")
CIFAR100 = Vision("CIFAR100")


def kind_of(name: str, module: str = "torchvision.datasets") -> Any:
    """What a module of another package calls by that name.

    Raises:
        UserError: it cannot be imported.
    """
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
        return getattr(importlib.import_module(module), name)
    except (ImportError, RuntimeError) as error:  # RuntimeError: it was built for another torch
        raise UserError(
            f"{package} cannot be imported ({error}); install the release that belongs to the installed torch"
        ) from error


def split_of(images: Any, labels: Any) -> Split:
    """A part of (n, height, width) or (n, height, width, channels) images and of as many labels, as arrays or lists."""
    images, labels = np.asarray(images), np.asarray(labels, np.int64).reshape(-1)
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return Split(np.ascontiguousarray(images), labels)
