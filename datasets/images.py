"""Image data sets in memory, and the cache that every process of a run reads."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock

from ..opened_files import opened_by, watching
from ..registry import DATASETS, Entry, UserError
from ..side_files import contents, files_beside
from ..source import closure

#: The parts of a data set, in the order of its digest.
PARTS = ("train", "val", "test")
#: Largest share of the images of a part that may be in an earlier part too; some published sets have a few.
SHARED = 0.01


@dataclass(frozen=True, eq=False)
class Split:
    """Part of a data set.

    Attributes:
        images: uint8 or uint16 (n, channels, height, width), from 0 to the `maximum` of the data set.
        labels: int64 (n,), from 0 to classes - 1.
    """

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set: three parts that share no source image.

    Attributes:
        name: its registered name.
        train, val, test: the parts; the order of the images is part of the data.
        classes: number of classes.
        maximum: the integer that stands for full intensity, 255 for uint8.
        opened: files beside its code that it was made from, and hashes of them; `load` fills it in.
    """

    name: str
    train: Split
    val: Split
    test: Split
    classes: int
    maximum: int
    opened: Mapping[str, str] = field(default_factory=dict)

    def digest(self) -> str:
        """SHA-256 of the arrays, their shapes and types; hexadecimal."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return digest_of(self._arrays().values())

    def _arrays(self) -> dict[str, np.ndarray]:
        return {f"{part}_{kind}": getattr(getattr(self, part), kind) for part in PARTS for kind in ("images", "labels")}

    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of every channel over the training images alone, scaled to 0…1.

        They are computed from counts of the intensities, so that they do not depend on the order of a sum.
        """
        levels = np.arange(self.maximum + 1) / self.maximum
        means, deviations = [], []
        images = self.train.images
        for channel in range(images.shape[1]):
            # Numpy counts 64-bit copies: some images at a time.
            blocks = (images[i : i + 1000, channel].ravel() for i in range(0, len(images), 1000))
            counts = sum((np.bincount(block, minlength=self.maximum + 1) for block in blocks), np.zeros(1, np.int64))
            mean = float(counts @ levels / counts.sum())
            means.append(mean)
            deviations.append(float(np.sqrt(counts @ (levels - mean) ** 2 / counts.sum())))
        return means, deviations


def digest_of(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 of arrays, their shapes and types, in their order; hexadecimal."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype.str}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def balanced_order(labels: np.ndarray, classes: int, count: int) -> np.ndarray:
    """Indices of `count` images (all, if fewer): the first of each class, then the second of each class, …"""
    members = [np.flatnonzero(labels == c) for c in range(classes)]
    ranks = [np.arange(len(m)) for m in members]
    order = np.lexsort((np.concatenate([np.full(len(m), c) for c, m in enumerate(members)]), np.concatenate(ranks)))
    return np.concatenate(members)[order][:count]


def data_root(explicit: str | Path | None = None) -> Path:
    """Folder of the data sets: `explicit`, else ``EQUIBENCH_DATA``, else ``~/.cache/equibench``."""
    chosen = explicit or os.environ.get("EQUIBENCH_DATA")
    return Path(chosen).absolute() if chosen else Path.home() / ".cache" / "equibench"


def load(name: str, root: Path | None = None) -> ImageData:
    """The data set called `name`, from the cache; made (by one process at a time) where it is not there yet.

    Args:
        name: a registered data set.
        root: folder of the data sets; `data_root()` without.

    Raises:
        UserError: the name is unknown, its files are missing or wrong, what was made is not what the registration
            promises, or the folder cannot be written.
    """
    entry, folder = DATASETS.find(name).entry, root or data_root()
    path, found = _place(entry, folder), cached(entry, folder)
    if found is not None:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            found = _read(path, entry)
            if found is None:
                for left in path.parent.glob(
                    f".{path.stem}.*.part"
                ):  # by one who was killed: whoever writes has the lock
                    left.unlink(missing_ok=True)
                found = _made(entry, folder)
                _write(path, found)
    except OSError as error:
        raise UserError(
            f"the data set {name} cannot be kept in {folder} ({error.strerror or error}); make room there, or give"
            " another"
            " folder with --data-root DIR or EQUIBENCH_DATA"
        ) from error
    return found


def cached(entry: Entry, folder: Path) -> ImageData | None:
    """The data set as it lies below the folder of the data sets, ready for runs; None if it is not."""
    return _read(_place(entry, folder), entry)


def _place(entry: Entry, folder: Path) -> Path:
    return folder / "cache" / f"{entry.name}-{_key(entry)}.npz"


def _key(entry: Entry) -> str:
    """What tells versions of a data set apart: its digest, or the files that make it, those that they import
    included.
    """
    if entry.fields.get("digest"):  # it says what is right, whatever the files are
        return str(entry.fields["digest"])[:12]
    key = hashlib.sha256()
    for name, text in sorted((path.name, path.read_bytes()) for path in closure([entry.path])):
        key.update(name.encode() + b"\0" + text + b"\0")
    return key.hexdigest()[:12]


def _made(entry: Entry, folder: Path) -> ImageData:
    key = f"dataset {entry.name}"
    if entry.missing:
        raise UserError(f"the data set {entry.name} {entry.missing}")
    try:
        with watching(key):
            data = entry.load()(folder, **entry.arguments)
    except Exception as error:  # whoever registered it may raise anything
        # A source that is gone is no fault of the folder.
        if isinstance(error, UserError | OSError) and not isinstance(error, FileNotFoundError):
            raise
        raise UserError(
            f"the data set {entry.name} ({entry.where}) cannot be made: {type(error).__name__}: {error}"
        ) from error
    problem = _problem(data, entry)
    if problem:
        raise UserError(f"the data set {entry.name} ({entry.where}) {problem}")
    data = replace(data, name=entry.name)  # as it is called when it is read from the cache
    if entry.fields.get("digest"):
        return data
    return replace(data, opened=files_beside([entry.path], opened_by(entry.module, key), [folder]))


def _problem(data: object, entry: Entry) -> str:
    """How `data` differs from what the registration promises; empty if it does not."""
    if not isinstance(data, ImageData):
        return f"must be an ImageData, not {type(data).__name__}"
    if type(data.maximum) is not int:
        return f"has maximum={data.maximum!r}, of type {type(data.maximum).__name__}; write an int, such as 255"
    for part, size in zip(PARTS, entry.fields["sizes"], strict=True):
        split = getattr(data, part)
        arrays = (split.images, split.labels) if isinstance(split, Split) else ()
        if not arrays or any(not isinstance(a, np.ndarray) or isinstance(a, np.ma.MaskedArray) for a in arrays):
            kinds = " and ".join(type(a).__name__ for a in arrays or (split,))
            return f"has {part}={kinds}; give Split(images, labels) of numpy arrays without a mask"
        images, labels = arrays
        if images.shape != (size, *entry.fields["shape"]) or labels.shape != (size,):
            return (
                f"has {part} images {images.shape} and labels {labels.shape}; its registration says {size}"
                f" images of {'x'.join(map(str, entry.fields['shape']))}"
            )
        if images.dtype not in (np.uint8, np.uint16) or labels.dtype != np.int64:
            return f"has {part} images of {images.dtype} and labels of {labels.dtype}; use uint8 or uint16, and int64"
        if size and (images.max() > data.maximum or not 0 <= labels.min() <= labels.max() < entry.fields["classes"]):
            return f"has {part} intensities above {data.maximum} or labels outside 0…{entry.fields['classes'] - 1}"
    reached = max(int(getattr(data, part).images.max(initial=0)) for part in PARTS)
    if 2 * reached < data.maximum:  # images in closed form go up to the maximum
        return f"has no intensity above {reached}, but maximum={data.maximum}; write maximum={reached}"
    if data.classes != entry.fields["classes"]:
        return f"has {data.classes} classes; its registration says {entry.fields['classes']}"
    if useless := _useless(data) or _shared(data):
        return useless
    wanted = entry.fields.get("digest")
    if wanted and data.digest() != wanted:
        return f"has the digest {data.digest()} instead of {wanted}: its sources, or the packages that make it, differ"
    return ""


def _useless(data: ImageData) -> str:
    """What makes figures of `data` meaningless, although it is what its registration says; empty if nothing does."""
    for part in PARTS:
        labels = getattr(data, part).labels
        missing = np.flatnonzero(np.bincount(labels, minlength=data.classes) == 0) if len(labels) else []
        if len(missing):
            shown = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
            return (
                f"has no {part} images of {'class' if len(missing) == 1 else 'classes'} {shown}; every part that has"
                " images"
                " needs some of every class"
            )
    for channel in range(data.train.images.shape[1]):
        values = data.train.images[:, channel]
        if (values[0] == values[0, 0, 0]).all() and (values == values[0, 0, 0]).all():
            return f"has train images whose channel {channel} is {values[0, 0, 0]} everywhere; leave that channel out"
    return ""


def _shared(data: ImageData) -> str:
    """How many images of a part are in an earlier part too, if they are more than `SHARED`; else empty."""
    earlier = {hash(image.tobytes()) for image in data.train.images}
    for part, known in (("val", "train"), ("test", "train or val")):  # `fit` may be train+val, and val chooses rates
        hashes = [hash(image.tobytes()) for image in getattr(data, part).images]
        count = sum(one in earlier for one in hashes)
        if count > SHARED * len(hashes):
            return f"has {count:,} of {len(hashes):,} {part} images among its {known} images; use other images"
        earlier.update(hashes)
    return ""


def _write(path: Path, data: ImageData) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            opened = np.asarray(json.dumps(dict(data.opened)))
            facts = {"maximum": np.asarray(data.maximum), "digest": np.asarray(data.digest())}
            _savez(file, **facts, **data._arrays(), opened=opened)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _savez(file: BinaryIO, **arrays: np.ndarray) -> None:
    """As `np.savez`, whose archive, left half open by a full disk, complains once more when it is collected."""
    archive = zipfile.ZipFile(file, "w")
    try:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
        archive.close()
    except BaseException:
        archive.fp = None  # what is there is thrown away: nothing is left to close
        raise


def _read(path: Path, entry: Entry) -> ImageData | None:
    """The data set in a cache file; None if there is none, one that is damaged, or made from files that have
    changed.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            splits = [Split(file[f"{part}_images"], file[f"{part}_labels"]) for part in PARTS]
            opened = {} if entry.fields.get("digest") else json.loads(str(file["opened"]))
            if opened != contents([entry.path], opened):
                return None
            data = ImageData(entry.name, *splits, entry.fields["classes"], int(file["maximum"]), opened)
            whole = data.digest() == str(file["digest"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return data if whole and not _problem(data, entry) else None
