"""MNIST and its like through torchvision: copies in its layout, archives of the published format, faults, real
files.
"""

import errno
import gzip
import hashlib
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from equibench.datasets import fetch as fetching
from equibench.datasets.fetch import fetch
from equibench.datasets.images import digest_of, load
from equibench.datasets.vision import FASHION_MNIST, MNIST, Vision
from equibench.registry import DATASETS, UserError, include
from equibench.tests.bench import commands
from torchvision import datasets as theirs

from .conftest import files_below

pytestmark = pytest.mark.usefixtures("nobody_downloads")

GARMENTS = Path("/usr/share/datasets/fashion-mnist")
SET = """
from equibench.datasets.fetch import downloads
from equibench.datasets.images import ImageData
from equibench.datasets.rotation import make_rotated
from equibench.datasets.vision import Vision
from equibench.registry import register_dataset

@register_dataset({name!r}, shape=(1, 28, 28), classes=10, sizes=(60, 20, 40), source="a test")
@downloads(Vision("FashionMNIST").files)
def small(root):
    return make_rotated({name!r}, Vision("FashionMNIST").parts(root), (60, 20, 40), 10)
"""


def idx(array: np.ndarray) -> bytes:
    """The format of MNIST's unpacked files."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def garments(size: int = 28) -> dict[str, np.ndarray]:
    """Arrays of a small set of the format of Fashion-MNIST, by the name of their file."""
    random, arrays = np.random.RandomState(0), {}
    for part, count in (("train", 90), ("t10k", 30)):
        arrays[f"{part}-images-idx3-ubyte"] = random.randint(0, 256, (count, size, size), dtype=np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = np.arange(count, dtype=np.uint8) % 10
    return arrays


def put(root: Path, files: dict[str, bytes]) -> Path:
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def unpacked(arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: idx(array) for name, array in arrays.items()}


def packed(
    monkeypatch: pytest.MonkeyPatch, arrays: dict[str, np.ndarray], url: str = "http://127.0.0.1:9/"
) -> dict[str, bytes]:
    """Archives of the arrays; torchvision's table is made to name them, and `url` as their address."""
    files = {f"{name}.gz": gzip.compress(data) for name, data in unpacked(arrays).items()}
    names = [name for name, _ in theirs.FashionMNIST.resources]
    assert set(names) == set(files)
    table = [(name, hashlib.md5(files[name]).hexdigest()) for name in names]
    monkeypatch.setattr(theirs.FashionMNIST, "resources", table)
    monkeypatch.setattr(theirs.FashionMNIST, "mirrors", [url])
    return files


def digest(arrays: dict[str, np.ndarray]) -> str:
    images = [arrays[f"{part}-images-idx3-ubyte"][:, None] for part in ("train", "t10k")]
    labels = [arrays[f"{part}-labels-idx1-ubyte"].astype(np.int64) for part in ("train", "t10k")]
    return digest_of([images[0], labels[0], images[1], labels[1]])


def test_a_copy_in_the_layout_of_torchvision_is_used_and_left_as_it_is(tmp_path: Path) -> None:
    arrays = garments()
    put(tmp_path, unpacked(arrays))
    before = files_below(tmp_path)
    own = Vision("FashionMNIST", digest(arrays))
    assert own.files(tmp_path) == []
    train, test = own.parts(tmp_path)
    for part, prefix in ((train, "train"), (test, "t10k")):
        assert part.images.dtype == np.uint8 and part.labels.dtype == np.int64
        assert (part.images[:, 0] == arrays[f"{prefix}-images-idx3-ubyte"]).all()
        assert (part.labels == arrays[f"{prefix}-labels-idx1-ubyte"]).all()
    assert files_below(tmp_path) == before and len(before) == 4


def test_archives_are_fetched_with_all_that_the_fetcher_can(
    server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = garments()
    server.files = packed(monkeypatch, arrays, f"{server.url}/")
    server.breaks = [1000]
    script = tmp_path / "fetched.py"
    script.write_text(SET.format(name="fetched-garments"))
    include([script])
    told: list[tuple[int, int | None]] = []
    fetch("fetched-garments", tmp_path, lambda *report: told.append(report))
    assert [asked for _, asked in server.requests][:2] == ["", "bytes=1000-"] and len(server.requests) == 5
    assert told[-1] == (sum(map(len, server.files.values())),) * 2
    data = load("fetched-garments", tmp_path)
    assert len(data.train.labels) == 60 and len(server.requests) == 5
    kept = {f"FashionMNIST/raw/{name}": content for name, content in server.files.items()}
    found = {name: content for name, content in files_below(tmp_path).items() if name.startswith("FashionMNIST")}
    assert found == kept  # what was unpacked is gone: the cache holds it
    assert not (tmp_path / "cache" / ".FashionMNIST").exists()


def test_a_mirror_may_hold_two_files_of_one_name(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files = packed(monkeypatch, garments())
    monkeypatch.setenv("EQUIBENCH_MIRROR", server.url)
    asked = fetching._addresses(FASHION_MNIST.files(tmp_path)[0])
    assert asked == (
        f"{server.url}/FashionMNIST/raw/train-images-idx3-ubyte.gz",
        f"{server.url}/train-images-idx3-ubyte.gz",
    )
    assert len(Vision("FashionMNIST").parts(tmp_path)[0].labels) == 90


def changed(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    ("name", "fault", "expected"),
    [
        ("train-images-idx3-ubyte", lambda data: data[:-9], "this is not FashionMNIST"),
        ("train-images-idx3-ubyte", changed, "arrays have the digest"),
        ("t10k-labels-idx1-ubyte", changed, "arrays have the digest"),
        ("t10k-labels-idx1-ubyte", lambda data: b"", "this is not FashionMNIST"),
        ("t10k-images-idx3-ubyte", lambda data: b"\0\0\x0d" + data[3:], "this is not FashionMNIST"),
        ("t10k-images-idx3-ubyte", lambda data: b"\0\0\x08\x01" + data[4:], "this is not FashionMNIST"),
    ],
)
def test_a_wrong_unpacked_file_is_refused_and_left(tmp_path: Path, name: str, fault, expected: str) -> None:
    arrays = garments()
    files = unpacked(arrays)
    files[name] = fault(files[name])
    put(tmp_path, files)
    before = files_below(tmp_path)
    expected = expected if "digest" in expected else rf"{expected} \([^)]+"  # a reason, for any exception of the parser
    with pytest.raises(
        UserError, match=rf"FashionMNIST/raw \(.*{name}.*{expected}.*delete them.*or put the right files there"
    ):
        Vision("FashionMNIST", digest(arrays)).parts(tmp_path)
    assert files_below(tmp_path) == before and not (tmp_path / "cache" / ".FashionMNIST").exists()


@pytest.mark.parametrize("fault", [changed, lambda data: data[:-1], lambda data: b""])
def test_a_wrong_archive_is_refused_and_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault) -> None:
    files = packed(monkeypatch, garments())
    name = "t10k-images-idx3-ubyte.gz"
    put(tmp_path, files | {name: fault(files[name])})
    before = files_below(tmp_path)
    with pytest.raises(UserError, match=rf"{name} is not the published file: expected MD5 \w+, got .*; delete it"):
        Vision("FashionMNIST").parts(tmp_path)
    assert files_below(tmp_path) == before


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("class", "has no .* images of class 3"),
        ("size", r"train images \(60, 1, 27, 27\)"),
        ("label", r"labels outside 0…9"),
    ],
)
def test_what_no_digest_tells_the_registration_does(tmp_path: Path, fault: str, expected: str) -> None:
    arrays = garments(27 if fault == "size" else 28)
    for name in [n for n in arrays if "labels" in n]:
        if fault == "class":
            arrays[name][arrays[name] == 3] = 4
        elif fault == "label":
            arrays[name][arrays[name] == 3] = 10
    put(tmp_path, unpacked(arrays))
    script = tmp_path / f"wrong_{fault}.py"
    script.write_text(SET.format(name=f"wrong-{fault}"))
    include([script])
    with pytest.raises(UserError, match=f"wrong-{fault}.*{expected}"):
        load(f"wrong-{fault}", tmp_path)
    assert not list(tmp_path.glob("cache/*.npz"))


def test_a_disk_that_is_full_while_archives_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, packed(monkeypatch, garments()))
    script = tmp_path / "on_a_full_disk.py"
    script.write_text(SET.format(name="on-a-full-disk"))
    include([script])
    before = files_below(tmp_path)

    def full(archive: str, folder: str, *rest: object) -> None:
        (Path(folder) / Path(archive).stem).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(theirs.utils, "extract_archive", full)
        with pytest.raises(
            UserError, match=r"on-a-full-disk cannot be kept in .*No space left on device.*--data-root DIR"
        ):
            load("on-a-full-disk", tmp_path)
        assert files_below(tmp_path) == before
    assert len(load("on-a-full-disk", tmp_path).test.labels) == 40


def test_many_at_once_and_after_one_who_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = garments()
    put(tmp_path, packed(monkeypatch, arrays))
    left = tmp_path / "cache" / ".FashionMNIST" / "FashionMNIST" / "raw"
    left.mkdir(parents=True)
    for name in arrays:
        (left / name).write_bytes(b"half")
    own = Vision("FashionMNIST", digest(arrays))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: own.parts(tmp_path), range(4)))
    assert all((train.images == found[0][0].images).all() for train, _ in found)
    assert not left.exists()


def test_torchvision_that_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UserError, match=r"torchvision cannot be imported .*; install the release that belongs to"):
        fetch("fashion-rot-gen", tmp_path)


def real_garments(root: Path) -> None:
    """Unpacks the published files into torchvision's layout."""
    if not GARMENTS.is_dir():
        pytest.skip("the package dataset-fashion-mnist is not installed")
    put(root, {path.stem: gzip.decompress(path.read_bytes()) for path in GARMENTS.glob("*.gz")})


def test_the_real_mnist_is_what_is_published(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "MNIST").symlink_to(real_data / "MNIST")  # others' archives, where nothing may be written
    before = sorted((p.name, p.stat().st_mtime_ns) for p in (real_data / "MNIST" / "raw").iterdir())
    train, test = MNIST.parts(tmp_path)
    assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test.images.shape == (10_000, 1, 28, 28) and train.images.mean() / 255 == pytest.approx(0.1307, abs=1e-4)
    assert sorted((p.name, p.stat().st_mtime_ns) for p in (real_data / "MNIST" / "raw").iterdir()) == before


def test_the_real_garments_are_what_is_published(tmp_path: Path) -> None:
    real_garments(tmp_path)
    train, test = FASHION_MNIST.parts(tmp_path)
    assert np.bincount(train.labels).tolist() == [6000] * 10 and np.bincount(test.labels).tolist() == [1000] * 10
    assert train.images.mean() / 255 == pytest.approx(0.2860, abs=1e-4)
    # Of MNIST they have only the names.
    shutil.move(tmp_path / "FashionMNIST", tmp_path / "MNIST")
    with pytest.raises(UserError, match="this is not MNIST as published: the arrays have the digest"):
        MNIST.parts(tmp_path)


@pytest.mark.slow  # turning 62,000 images takes half a minute
@pytest.mark.parametrize("name", ["mnist-rot-gen", "fashion-rot-gen"])
def test_the_generated_set_is_the_registered_one(real_data: Path, tmp_path: Path, name: str) -> None:
    if name == "fashion-rot-gen":
        real_garments(tmp_path)
    else:
        (tmp_path / "MNIST").symlink_to(real_data / "MNIST")
    assert DATASETS.find(name).entry.load()(tmp_path).digest() == DATASETS.find(name).get("digest")


def test_torchvision_is_imported_to_fetch_and_by_nothing_else(tmp_path: Path) -> None:
    """Beside a torchvision that leaves a mark when it is imported."""
    trap, mark = tmp_path / "trap" / "torchvision", tmp_path / "imported"
    trap.mkdir(parents=True)
    (trap / "__init__.py").write_text(f"open({str(mark)!r}, 'w').close()\nraise ImportError('a trap')\n")
    script = tmp_path / "garments.py"
    script.write_text(SET.format(name="garments"))
    root = tmp_path / "data"
    put(root, unpacked(garments()))
    places, included = ["--data-root", str(root)], ["--include", str(script)]

    fetch = ("data", "fetch", "garments", *places, *included)
    trapped = {"PYTHONPATH": str(trap.parent)}
    done = commands.process(*fetch, cwd=tmp_path, **trapped)
    assert done.returncode == 2 and "torchvision cannot be imported (a trap)" in done.stderr and mark.exists()
    mark.unlink()
    done = commands.equibench(*fetch, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    options = ["--dataset", "garments", "--models", "z2cnn-22", "--budget", "smoke", "--seeds", "1", "--device", "cpu"]
    others = commands.several(
        ("--help",), ("data", "fetch", "--help"), ("list", "datasets", *included), ("list", "models", "z2*"),
        ("run", *options, *places, *included, "--results", str(tmp_path / "results")), cwd=tmp_path, **trapped,
    )  # fmt: skip
    assert not mark.exists() and {done.returncode for done in others} == {0}, others
    assert "z2cnn-22  seed 0  ok" in others[-1].stdout
