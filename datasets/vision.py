"""Data sets that come through torchvision: `MNIST`, `FASHION_MNIST`, `CIFAR10`, `CIFAR100`, and others of their kinds.

torchvision's tables say what is published where; its classes unpack and parse. Archives are fetched by `fetch`, so that
they are resumed, taken from a mirror, and fetched once. They lie where torchvision keeps them, so that its copies serve.
torchvision is imported when data are fetched or unpacked, and by nothing else: runs read the cache.
"""

from __future__ import annotations

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
class Vision:
    """A data set of `torchvision.datasets`, of the kind of MNIST (gzipped files) or of CIFAR (one archive of pickles).

    Attributes:
        name: of its class there.
        digest: `digest_of` its images and labels, training before test; empty where nobody has computed it.
    """

    name: str
    digest: str = ""

    def files(self, root: Path) -> list[Download]:
        """Archives that must be there; none where they lie unpacked below `root`."""
        unpacked, archives = self._places()
        return [] if all((root / place).exists() for place in unpacked) else archives

    def parts(self, root: Path) -> tuple[Split, Split]:
        """Training and test images as published, uint8 (n, channels, size, size), from below `root`.

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
                train, test = self._read(scratch, bool(files), ", ".join(map(str, used)))
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        return train, test

    def _read(self, folder: Path, packed: bool, where: str) -> tuple[Split, Split]:
        """What torchvision finds in a folder. It loads no pickle whose MD5 is not in its table."""
        kind, repair = _kind(self.name), "delete it, and it is downloaded again, or put the right files there"
        try:
            # The archives are there and verified: what is called a download only unpacks them.
            train, test = (_split(kind(folder, train=part, download=packed)) for part in (True, False))
        except OSError as error:
            if isinstance(error, PermissionError):
                raise UserError(f"{where} cannot be read ({error.strerror}); make it readable") from error
            raise
        except Exception as error:  # of the many kinds that a parser raises
            raise UserError(f"{where}: this is not {self.name} ({str(error) or type(error).__name__}); {repair}") from error
        found = digest_of([train.images, train.labels, test.images, test.labels])
        if self.digest and found != self.digest:
            raise UserError(
                f"{where}: this is not {self.name} as published: the arrays have the digest {found} instead of {self.digest};"
                f" {repair}"
            )
        return train, test

    def _places(self) -> tuple[list[str], list[Download]]:
        """Below the root: what lies there unpacked, and the archives that it comes in."""
        kind = _kind(self.name)
        if hasattr(kind, "resources"):
            raw = f"{self.name}/raw/"
            archives = [
                Download(raw + name, tuple(mirror + name for mirror in kind.mirrors), md5, folder="")
                for name, md5 in kind.resources
            ]
            return [file.path.removesuffix(".gz") for file in archives], archives
        return [kind.base_folder], [Download(kind.filename, (kind.url,), kind.tgz_md5, folder="")]


MNIST = Vision("MNIST", "eb2a04068f8ba924ccbdd7d9e02e30252e4feaad5678d237ba080d9e22c7f19e")
FASHION_MNIST = Vision("FashionMNIST", "cefe8ddfcfd2309ae9e9a00d57ebc19696ad14205c63cd989ac6c11196bf3091")
CIFAR10 = Vision("CIFAR10")
CIFAR100 = Vision("CIFAR100")


def _kind(name: str) -> Any:
    """The class of that name in torchvision."""
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:  # RuntimeError: it was built for another torch
        raise UserError(
            f"torchvision cannot be imported ({error}); install the release that belongs to the installed torch"
        ) from error
    return getattr(datasets, name)


def _split(data: Any) -> Split:
    images, labels = np.asarray(data.data), np.asarray(data.targets, np.int64)
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return Split(np.ascontiguousarray(images), labels)
