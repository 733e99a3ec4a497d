"""CIFAR through torchvision: archives of the published format, the split, the rotated version, foreign pickles."""

import hashlib
import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from equibench.datasets import rotation
from equibench.datasets.cifar import PUBLISHED
from equibench.datasets.cifar import cifar as published
from equibench.datasets.fetch import fetch
from equibench.datasets.images import ImageData, load
from equibench.datasets.rotated import cifar10_rot_gen
from equibench.datasets.vision import CIFAR10
from equibench.registry import UserError, include
from torchvision import datasets as theirs

from .conftest import files_below

pytestmark = pytest.mark.usefixtures("nobody_downloads")


class Python2(pickle._Pickler):
    """Writes texts and bytes as Python 2 did, with which CIFAR's files were made."""

    def save_text(self, text: str | bytes) -> None:
        data = text.encode("latin1") if isinstance(text, str) else text
        count = len(data)
        head = (
            pickle.SHORT_BINSTRING + bytes([count]) if count < 256 else pickle.BINSTRING + count.to_bytes(4, "little")
        )
        self.write(head + data)
        self.memoize(text)

    dispatch = pickle._Pickler.dispatch | {str: save_text, bytes: save_text}


def python2(value: object) -> bytes:
    file = io.BytesIO()
    Python2(file, protocol=2).dump(value)
    return file.getvalue()


def batches(
    classes: int, counts: list[int], pixels: np.ndarray | None = None, label: Callable[[int], int] = lambda label: label
) -> list[bytes]:
    """Files of CIFAR's archive for Python: pickled dictionaries, images as rows of a red, a green and a blue plane.

    Args:
        label: what is written in place of the right label.
    """
    random, start, files = np.random.RandomState(0), 0, []
    for count in counts:
        number = start + np.arange(count)
        data = np.repeat(random.randint(0, 256, (count, 1), dtype=np.uint8), 3072, axis=1)
        data[:, 0], data[:, 1] = number // 256, number % 256
        data = data if pixels is None else pixels[start : start + count]
        labels = [label(int(n) % classes) for n in number]
        kind = (
            {"labels": labels} if classes == 10 else {"coarse_labels": [n // 5 for n in labels], "fine_labels": labels}
        )
        files.append(python2({"batch_label": "a batch", "data": data, "filenames": ["x.png"] * count} | kind))
        start += count
    return files


def cifar(root: Path, monkeypatch: pytest.MonkeyPatch, classes: int, files: list[bytes], foreign: tuple[int,
bytes] | None = None,
          archive: bool = True) -> None:  # fmt: skip
    """Puts files where torchvision keeps them, packed or not, and makes its table say that these are published.

    Args:
        foreign: (which file, its content in place of what the table says); the archive's own digest fits it.
    """
    kind = theirs.CIFAR10 if classes == 10 else theirs.CIFAR100
    names = [name for name, _ in kind.train_list + kind.test_list]
    key = "label_names" if classes == 10 else "fine_label_names"
    contents = dict(zip(names, files, strict=True)) | {kind.meta["filename"]: python2({key: ["a"] * classes})}
    md5 = {name: hashlib.md5(data).hexdigest() for name, data in contents.items()}
    monkeypatch.setattr(kind, "train_list", [[name, md5[name]] for name, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [[name, md5[name]] for name, _ in kind.test_list])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5[kind.meta["filename"]]})
    if foreign:
        contents[[*names, kind.meta["filename"]][foreign[0]]] = foreign[1]
    if not archive:
        (root / kind.base_folder).mkdir(parents=True)
        for name, data in contents.items():
            (root / kind.base_folder / name).write_bytes(data)
        return
    with tarfile.open(root / kind.filename, "w:gz", compresslevel=1) as file:
        for name, data in contents.items():
            entry = tarfile.TarInfo(f"{kind.base_folder}/{name}")
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5((root / kind.filename).read_bytes()).hexdigest())


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "unpacked"])
@pytest.mark.parametrize("classes", [10, 100])
def test_planes_rows_and_labels_are_where_they_belong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int, archive: bool
) -> None:
    images = np.random.RandomState(1).randint(0, 256, (120, 32, 32, 3), dtype=np.uint8)
    rows = np.stack([[image[y, x, c] for c in range(3) for y in range(32) for x in range(32)] for image in images])
    counts = [20] * 6 if classes == 10 else [100, 20]
    cifar(tmp_path, monkeypatch, classes, batches(classes, counts, rows), archive=archive)
    before = files_below(tmp_path)
    train, test = PUBLISHED[classes].parts(tmp_path)
    assert train.images.shape == (100, 3, 32, 32) and test.images.shape == (20, 3, 32, 32)
    assert (np.concatenate([train.images, test.images]).transpose(0, 2, 3, 1) == images).all()
    assert (np.concatenate([train.labels, test.labels]) == np.arange(120) % classes).all()  # the fine ones
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "unpacked"])
@pytest.mark.parametrize("place", [0, 3, 5, 6], ids=["first", "fourth", "test", "meta"])
def test_no_pickle_is_loaded_whose_digest_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int, archive: bool
) -> None:
    marker = tmp_path / "foreign code ran"

    class Foreign:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(marker),)

    code = python2({"data": Foreign()})
    pickle.loads(code)
    assert marker.is_dir()  # it would run
    marker.rmdir()
    root = tmp_path / "root"
    root.mkdir()
    cifar(root, monkeypatch, 10, batches(10, [20] * 6), (place, code), archive)
    with pytest.raises(UserError, match=r"cifar-10-.*: this is not CIFAR10 \(Dataset .*corrupted.*delete it"):
        published(root)
    assert not marker.exists()
    if archive:  # as what is published is another archive, it is not even unpacked
        monkeypatch.setattr(theirs.CIFAR10, "tgz_md5", "0" * 32)
        with pytest.raises(
            UserError, match=r"cifar-10-python.tar.gz is not the published file: expected MD5 0{32}, got"
        ):
            published(root)
        assert not marker.exists()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A registered data set of 120 images in the format of CIFAR-10."""
    (path := tmp_path_factory.mktemp("set") / "small_cifar.py").write_text(
        "from equibench import register_dataset\nfrom equibench.datasets.cifar import with_validation\n"
        "from equibench.datasets.fetch import downloads\nfrom equibench.datasets.vision import CIFAR10\n"
        "@register_dataset('small-cifar', shape=(3, 32, 32), classes=10, sizes=(90, 10, 20), source='a test')\n"
        "@downloads(CIFAR10.files)\n"
        "def small(root):\n    return with_validation('small-cifar', *CIFAR10.parts(root), 10)\n"
    )
    include([path])
    return "small-cifar"


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "unpacked"])
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (lambda: batches(10, [20] * 6, label=lambda n: 4 if n == 3 else n), "has no train images of class 3"),
        (lambda: batches(10, [20] * 6, label=lambda n: 10 if n == 3 else n), "labels outside 0…9"),
        (lambda: batches(10, [20] * 6, label=lambda n: n - 1), "labels outside 0…9"),
        (lambda: batches(10, [20] * 6, np.zeros((120, 3 * 31 * 31), np.uint8)), "this is not CIFAR10 .*reshape"),
        (lambda: batches(10, [20] * 5 + [19]), r"test images \(19, 3, 32, 32\)"),
        (lambda: [*batches(10, [20] * 5), python2({"data": np.zeros((20, 3072), np.uint8)})], "this is not CIFAR10"),
    ],
)
def test_what_no_digest_tells_the_registration_does(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files, expected: str, archive: bool
) -> None:
    cifar(tmp_path, monkeypatch, 10, files(), archive=archive)
    before = files_below(tmp_path)
    with pytest.raises(UserError, match=expected):
        load(small, tmp_path)
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("fault", [lambda data: data[:-9], lambda data: data[:-1] + b"x"], ids=["cut short", "another"])
def test_a_wrong_archive_from_a_server_is_refused_and_the_right_one_goes_on(
    small: str, server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault
) -> None:
    (there := tmp_path / "there").mkdir()
    cifar(there, monkeypatch, 10, batches(10, [20] * 6))
    right, root = (there / theirs.CIFAR10.filename).read_bytes(), tmp_path / "root"
    monkeypatch.setattr(theirs.CIFAR10, "url", f"{server.url}/{theirs.CIFAR10.filename}")
    server.files = {theirs.CIFAR10.filename: fault(right)}
    with pytest.raises(UserError, match=r"cifar-10-python.tar.gz could not be downloaded .*expected MD5 \w+, got"):
        fetch(small, root)
    assert files_below(root) == {}
    server.files, server.breaks = {theirs.CIFAR10.filename: right}, [1000]
    fetch(small, root)
    assert server.requests[-1][1] == "bytes=1000-" and len(load(small, root).test.labels) == 20


def parts(data: ImageData) -> tuple:
    return data.train, data.val, data.test


def numbers(data: ImageData) -> list[np.ndarray]:
    """Which of the published images these are, by their first two pixels."""
    return [p.images[:, 0, 0, 0].astype(int) * 256 + p.images[:, 0, 0, 1] for p in parts(data)]


@pytest.mark.parametrize("classes", [10, 100])
def test_the_split_is_stratified_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int
) -> None:
    counts = [10_000] * 6 if classes == 10 else [50_000, 10_000]
    cifar(tmp_path, monkeypatch, classes, batches(classes, counts), archive=False)
    data = published(tmp_path, classes=classes)
    found = numbers(data)
    assert [len(n) for n in found] == [45_000, 5_000, 10_000] and data.maximum == 255
    assert (np.bincount(data.train.labels) == 45_000 // classes).all()
    assert (np.bincount(data.val.labels) == 5_000 // classes).all()
    assert (np.sort(np.concatenate(found[:2])) == np.arange(50_000)).all() and (
        found[2] == 50_000 + np.arange(10_000)
    ).all()
    assert all((part.labels == n % classes).all() for part, n in zip(parts(data), found, strict=True))
    # Classes do not come in blocks: a model that sees the images in order would otherwise see one class at a time.
    assert len(set(data.val.labels[:100])) > 5
    if classes == 100:
        return
    seen = []  # the rotated version, without the minutes that turning takes

    def turn(images: np.ndarray, angles: np.ndarray, disc: bool) -> np.ndarray:
        seen.append((len(images), disc, float(np.ptp(angles))))
        return images

    monkeypatch.setattr(rotation, "rotate_images", turn)
    turned = cifar10_rot_gen(tmp_path)
    assert [(n, disc) for n, disc, _ in seen] == [(10_000, True), (2_000, True), (48_000, True)]
    assert min(spread for *_, spread in seen) > 6.2
    found = numbers(turned)
    assert (np.sort(np.concatenate(found)) == np.arange(60_000)).all()
    for part, n, each in zip(parts(turned), found, (1_000, 200, 4_800), strict=True):
        assert (part.labels == n % 10).all() and (np.bincount(part.labels) == each).all()


def test_the_original_pixels_of_cifar10_come_through(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = real_data / "cifar10-lossless"
    if not folder.is_dir():
        pytest.skip("the original CIFAR-10 pixels are not here")
    picture = pytest.importorskip("PIL.Image").open(folder / "test_first1000.webp").convert("RGB")
    grid = np.asarray(picture)
    height, width = grid.shape[0] // 32, grid.shape[1] // 32
    images = grid.reshape(height, 32, width, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)[:1000]
    rows = images.transpose(0, 3, 1, 2).reshape(1000, 3072)
    cifar(tmp_path, monkeypatch, 10, batches(10, [100] * 5 + [500], rows), archive=False)
    train, test = CIFAR10.parts(tmp_path)
    assert (np.concatenate([train.images, test.images]).transpose(0, 2, 3, 1) == images).all()
