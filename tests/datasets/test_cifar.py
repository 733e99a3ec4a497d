"""CIFAR archives: layout, split, faults; and the original pixels where they are here."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from equibench.datasets import cifar as module
from equibench.datasets.cifar import cifar10, cifar100, read_members
from equibench.datasets.fetch import Download
from equibench.registry import UserError

TEN = [f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)] + ["cifar-10-batches-bin/test_batch.bin"]
HUNDRED = ["cifar-100-binary/train.bin", "cifar-100-binary/test.bin"]


def record(image: np.ndarray, *labels: int) -> bytes:
    """A record, byte by byte: labels, then all red, all green, all blue, each row by row; image (32, 32, 3)."""
    values = [image[y, x, channel] for channel in range(3) for y in range(32) for x in range(32)]
    return bytes([*labels, *values])


def pack(path: Path, files: dict[str, bytes], level: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=level) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def made(count: int, label_bytes: int, classes: int, seed: int) -> bytes:
    """Records whose pixels are one value, so that archives stay small; all classes equally often."""
    random = np.random.RandomState(seed)
    values = np.repeat(random.randint(0, 256, (count, 1), dtype=np.uint8), 3072, axis=1)
    labels = np.column_stack([np.arange(count) // 5 % 20, np.arange(count) % classes])[:, 2 - label_bytes :]
    return np.column_stack([labels.astype(np.uint8), values]).tobytes()


def test_planes_rows_and_labels_are_where_they_belong(tmp_path: Path) -> None:
    images = np.random.RandomState(0).randint(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    one = b"".join(record(image, label) for image, label in zip(images, (3, 0, 9, 9), strict=True))
    two = b"".join(record(image, label, 99 - label) for image, label in zip(images, (3, 0, 9, 19), strict=True))
    archive = pack(tmp_path / "a.tar.gz", {"b/one": one, "b/two": two, "b/more": b"?"})
    (first,) = read_members(archive, ["b/one"], [4], 1, 10)
    (second,) = read_members(archive, ["b/two"], [4], 2, 100)
    for part in (first, second):
        assert part.images.shape == (4, 3, 32, 32) and part.images.dtype == np.uint8
        assert (part.images.transpose(0, 2, 3, 1) == images).all()
    assert first.labels.tolist() == [3, 0, 9, 9] and second.labels.tolist() == [96, 99, 90, 80]


@pytest.mark.parametrize("classes", [10, 100])
def test_the_split_is_stratified_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int
) -> None:
    label_bytes, names, function = (1, TEN, cifar10) if classes == 10 else (2, HUNDRED, cifar100)
    counts = [10_000] * 6 if classes == 10 else [50_000, 10_000]
    files = {name: made(n, label_bytes, classes, i) for i, (name, n) in enumerate(zip(names, counts, strict=True))}
    # Every training image gets its number into its first pixels.
    number = np.arange(50_000)
    start = 0
    for name in names[:-1]:
        records = np.frombuffer(files[name], np.uint8).reshape(-1, label_bytes + 3072).copy()
        own = number[start : start + len(records)]
        records[:, label_bytes], records[:, label_bytes + 1] = own // 256, own % 256
        files[name], start = records.tobytes(), start + len(records)
    archive = pack(tmp_path / "archive.tar.gz", files)
    monkeypatch.setattr(module, "obtain", lambda root, file: archive)
    data = function(tmp_path)
    assert [len(p.labels) for p in (data.train, data.val, data.test)] == [45_000, 5_000, 10_000]
    assert (np.bincount(data.train.labels) == 45_000 // classes).all()
    assert (np.bincount(data.val.labels) == 5_000 // classes).all()
    assert (data.test.labels == np.arange(10_000) % classes).all() and data.maximum == 255
    found = [p.images[:, 0, 0, 0].astype(int) * 256 + p.images[:, 0, 0, 1] for p in (data.train, data.val)]
    assert (np.sort(np.concatenate(found)) == number).all()
    for part, numbers in zip((data.train, data.val), found, strict=True):
        position = numbers % 10_000 if classes == 10 else numbers
        assert (part.labels == position % classes).all()
    # Classes do not come in blocks: a model that sees the images in order would otherwise see one class at a time.
    assert len(set(data.val.labels[:100])) > 5


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"b/two": b""}, "holds no b/one"),
        ({"b/one": b"\0" * 3072}, "b/one: expected 3,073 bytes, got 3,072"),
        ({"b/one": b"\x0a" + b"\0" * 3072}, "b/one: found the label 10, expected 0 to 9"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, files: dict[str, bytes], expected: str) -> None:
    archive = pack(tmp_path / "a.tar.gz", files)
    with pytest.raises(UserError, match=rf"a.tar.gz.*{expected}; delete it and fetch"):
        read_members(archive, ["b/one"], [1], 1, 10)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar.gz", {"b/one": b"\0" + np.random.RandomState(0).bytes(3072)})
    whole = archive.read_bytes()
    middle, checksum = bytearray(whole), bytearray(whole)
    middle[len(whole) // 2] ^= 255
    checksum[-6] ^= 255
    for damaged in (whole[: len(whole) // 2], b"no archive", b"", bytes(middle), bytes(checksum)):
        archive.write_bytes(damaged)
        with pytest.raises(UserError, match=r"a.tar.gz cannot be unpacked \(.+\); delete it"):
            read_members(archive, ["b/one"], [1], 1, 10)


def test_a_link_in_an_archive_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 3073)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("b/one")
        entry.type, entry.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        archive.addfile(entry)
    with pytest.raises(UserError, match="b/one: expected 3,073 bytes, got 0"):
        read_members(tmp_path / "a.tar.gz", ["b/one"], [1], 1, 10)


@pytest.mark.parametrize("archive", [module.CIFAR10_ARCHIVE, module.CIFAR100_ARCHIVE], ids=lambda a: a.name)
def test_a_file_that_is_not_the_published_archive_is_refused(tmp_path: Path, archive: Download) -> None:
    pack(tmp_path / "raw" / archive.path, {"anything": b"x"})
    with pytest.raises(UserError, match=rf"{archive.name} is not the published file: expected MD5 {archive.md5}, got"):
        (cifar10 if "10-" in archive.name else cifar100)(tmp_path)


def original(folder: Path, name: str) -> np.ndarray:
    """Images (n, 32, 32, 3) of a lossless picture of 100 images a row."""
    image = pytest.importorskip("PIL.Image")
    with image.open(folder / f"{name}.webp") as picture:
        grid = np.asarray(picture.convert("RGB"))
    rows, columns = grid.shape[0] // 32, grid.shape[1] // 32
    return grid.reshape(rows, 32, columns, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)


def test_the_original_pixels_come_through(real_data: Path, tmp_path: Path) -> None:
    """Batch 1 as published (its MD5 says so) is read as those images with those labels."""
    folder = real_data / "cifar10-lossless"
    if not folder.is_dir():
        pytest.skip("the original CIFAR-10 pixels are not here")
    images = original(folder, "data_batch_1")
    labels = np.load(folder / "labels_train.npy")[:10_000]
    raw = np.column_stack([labels, images.transpose(0, 3, 1, 2).reshape(10_000, 3072)]).tobytes()
    assert hashlib.md5(raw).hexdigest() == "5dd7e06a14cb22eb9f671a540d1b7c25"
    archive = pack(tmp_path / "cifar-10-binary.tar.gz", {TEN[0]: raw}, level=0)
    (batch,) = read_members(archive, TEN[:1], [10_000], 1, 10)
    assert (batch.images == images.transpose(0, 3, 1, 2)).all() and (batch.labels == labels).all()
