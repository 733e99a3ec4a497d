"""MedMNIST through its package: files of the published format, the split as published, faults, and the package missing.

The tests run beside the real package where that is installed, and always beside a stand-in that has of it what is used.
"""

import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from equibench.datasets.fetch import fetch
from equibench.datasets.images import load
from equibench.datasets.medmnist import Medical
from equibench.registry import DATASETS, UserError, include
from equibench.tests.bench.commands import several

from .conftest import files_below

pytestmark = pytest.mark.usefixtures("nobody_downloads")

REAL = importlib.util.find_spec("medmnist") is not None
STAND_IN = {
    "__init__": "",
    "info": """
KEYS = [key + ending for key in ("url", "MD5") for ending in ("", "_64")]
INFO = {name: dict.fromkeys(KEYS, "none") for name in ("bloodmnist", "pathmnist")}
""",
    "dataset": """
import os
import numpy as np

class BloodMNIST:
    flag = "bloodmnist"

    def __init__(self, split, root=None, size=None):
        file = np.load(os.path.join(root, self.flag + ("" if size in (None, 28) else f"_{size}") + ".npz"))
        self.imgs, self.labels = file[f"{split}_images"], file[f"{split}_labels"]

class PathMNIST(BloodMNIST):
    flag = "pathmnist"
""",
}
SMALL = (40, 16, 24)
SET = """
from equibench.datasets.fetch import downloads
from equibench.datasets.medmnist import Medical
from equibench.registry import register_dataset

@register_dataset("small-cells", shape=(3, 28, 28), classes=8, sizes=(40, 16, 24), source="a test", package="medmnist",
    members={"small-cells-64": {"args": {"size": 64}, "shape": (3, 64, 64)}})
@downloads(lambda root, size=28: Medical("BloodMNIST", size=size).files(root))
def small(root, *, size=28):
    return Medical("BloodMNIST", size=size).data(root, 8)
"""


def stand_in(folder: Path) -> Path:
    (folder / "medmnist").mkdir(parents=True)
    for name, text in STAND_IN.items():
        (folder / "medmnist" / f"{name}.py").write_text(text)
    return folder


@pytest.fixture(
    params=["stand-in", pytest.param("real", marks=pytest.mark.skipif(not REAL, reason="medmnist is absent"))]
)
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What `import medmnist` finds."""
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "medmnist"}
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "stand-in":
            patch.syspath_prepend(stand_in(tmp_path_factory.mktemp("package")))
        yield
    for name in [n for n in sys.modules if n.partition(".")[0] == "medmnist"]:
        del sys.modules[name]
    sys.modules.update(kept)


def cells(size: int = 28) -> dict[str, np.ndarray]:
    """Arrays of a small set of the format of BloodMNIST: labels stand in a column."""
    random, arrays = np.random.RandomState(0), {}
    for part, count in zip(("train", "val", "test"), SMALL, strict=True):
        arrays[f"{part}_images"] = random.randint(0, 256, (count, size, size, 3), dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count, dtype=np.uint8) % 8)[:, None]
    return arrays


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def publish(monkeypatch: pytest.MonkeyPatch, data: bytes, size: int = 28, url: str = "http://127.0.0.1:9") -> str:
    """Makes the package's table say that this is published; returns the name of the file."""
    from medmnist.info import INFO

    ending = "" if size == 28 else f"_{size}"
    monkeypatch.setitem(INFO["bloodmnist"], f"MD5{ending}", hashlib.md5(data).hexdigest())
    monkeypatch.setitem(INFO["bloodmnist"], f"url{ending}", f"{url}/bloodmnist{ending}.npz")
    return f"bloodmnist{ending}.npz"


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Registers a small data set of the format, and its version of 64 pixels."""
    (path := tmp_path_factory.mktemp("set") / "small_cells.py").write_text(SET)
    include([path])
    return path


@pytest.mark.parametrize("size", [28, 64])
def test_the_parts_are_those_of_the_file(package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    arrays = cells(size)
    (tmp_path / publish(monkeypatch, npz(arrays), size)).write_bytes(npz(arrays))  # where the package keeps it
    before = files_below(tmp_path)
    data = Medical("BloodMNIST", size=size).data(tmp_path, 8)
    for part in ("train", "val", "test"):
        found = getattr(data, part)
        assert found.images.dtype == np.uint8 and found.labels.dtype == np.int64
        assert (found.images.transpose(0, 2, 3, 1) == arrays[f"{part}_images"]).all()
        assert (found.labels == arrays[f"{part}_labels"][:, 0]).all()
    assert data.name == ("bloodmnist" if size == 28 else "bloodmnist-64") and files_below(tmp_path) == before


@pytest.mark.parametrize("size", [28, 64])
def test_the_file_is_fetched_with_all_that_the_fetcher_can(
    package, script: Path, server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    name = "small-cells" if size == 28 else "small-cells-64"
    data, root = npz(cells(size)), tmp_path / "data"
    file = publish(monkeypatch, data, size, server.url)
    server.files, server.breaks = {file: data}, [1000]
    fetch(name, root)
    assert [asked for _, asked in server.requests] == ["", "bytes=1000-"] and files_below(root) == {file: data}
    assert [len(part.labels) for part in (load(name, root).train, load(name, root).val, load(name, root).test)] == [
        *SMALL
    ]
    assert len(server.requests) == 2


@pytest.mark.parametrize("fault", [lambda data: data[:-9], lambda data: data[:-1] + b"x", lambda data: b""])
def test_a_wrong_file_is_refused(package, server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault) -> None:
    right = npz(cells())
    file = publish(monkeypatch, right, url=server.url)
    server.files = {file: fault(right)}
    with pytest.raises(UserError, match=rf"{file} could not be downloaded .*expected MD5 \w+, got"):
        Medical("BloodMNIST").parts(tmp_path)
    assert files_below(tmp_path) == {}
    (tmp_path / file).write_bytes(fault(right))
    with pytest.raises(UserError, match=rf"{file} is not the published file: expected MD5 \w+, got .*; delete it"):
        Medical("BloodMNIST").parts(tmp_path)
    assert files_below(tmp_path) == {file: fault(right)}


def changed(name: str, change) -> dict[str, np.ndarray]:
    arrays = cells()
    arrays[name] = change(arrays[name])
    return arrays


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        (lambda: changed("test_labels", lambda a: np.where(a == 3, 4, a)), "has no test images of class 3"),
        (lambda: changed("val_labels", lambda a: a + 1), "labels outside 0…7"),
        (lambda: cells(27), r"train images \(40, 3, 27, 27\)"),
        (lambda: changed("train_labels", lambda a: np.repeat(a, 2, axis=1)), r"labels \(80,\)"),
        (lambda: changed("train_images", lambda a: a[:-1]), r"train images \(39, 3, 28, 28\)"),
        (lambda: changed("train_images", lambda a: a.astype(np.float32)), "train images of float32"),
        (lambda: {k: v for k, v in cells().items() if k != "val_labels"}, "this is not BloodMNIST .*val_labels"),
        (lambda: changed("test_images", lambda a: a[:, 0, 0, 0]), "this is not BloodMNIST"),
    ],
)
def test_what_no_digest_tells_the_registration_does(
    package, script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrays, expected: str
) -> None:
    data, root = npz(arrays()), tmp_path / "data"
    root.mkdir()
    (root / publish(monkeypatch, data)).write_bytes(data)
    with pytest.raises(UserError, match=expected):
        load("small-cells", root)
    assert files_below(root) == {"bloodmnist.npz": data}


def test_no_foreign_code_runs_even_if_the_digest_is_right(
    package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "foreign code ran"

    class Foreign:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(marker),)

    data = npz(changed("train_images", lambda a: np.array([Foreign()], dtype=object)))
    np.load(io.BytesIO(data), allow_pickle=True)["train_images"]
    assert marker.is_dir()  # it would run
    marker.rmdir()
    (tmp_path / publish(monkeypatch, data)).write_bytes(data)
    with pytest.raises(UserError, match=r"bloodmnist.npz: this is not BloodMNIST \(Object arrays cannot be loaded"):
        Medical("BloodMNIST").parts(tmp_path)
    assert not marker.exists()


def test_what_is_registered_is_what_the_package_says(package) -> None:
    from medmnist.info import INFO

    if "n_samples" not in INFO["bloodmnist"]:
        pytest.skip("the stand-in knows no numbers")
    for entry in DATASETS.match(["bloodmnist*", "pathmnist*"]):
        known, size = INFO[entry.name.removesuffix("-64")], 64 if entry.name.endswith("-64") else 28
        assert entry.fields["sizes"] == tuple(known["n_samples"][part] for part in ("train", "val", "test"))
        assert entry.fields["classes"] == len(known["label"]) and entry.fields["licence"] == known["license"]
        assert entry.fields["shape"] == (known["n_channels"], size, size)


def test_without_the_package_listings_say_what_to_install_and_the_cache_serves(script: Path, tmp_path: Path) -> None:
    root, packages = tmp_path / "data", stand_in(tmp_path / "packages")
    data = npz(cells())
    (packages / "medmnist" / "info.py").write_text(
        STAND_IN["info"].replace('"none"', repr(hashlib.md5(data).hexdigest()))
    )
    (blocked := tmp_path / "blocked").mkdir()
    # A finder that knows no such package, wherever it may be installed.
    (blocked / "sitecustomize.py").write_text(
        "import importlib.machinery as m\n"
        "find = m.PathFinder.find_spec\n"
        "m.PathFinder.find_spec = classmethod(lambda c, name, *r: None if name == 'medmnist' else find(name, *r))\n"
    )
    root.mkdir()
    (root / "bloodmnist.npz").write_bytes(data)

    def equibench(*commands: tuple[str, ...], path: Path) -> list[subprocess.CompletedProcess[str]]:
        each = [(*words, "--include", str(script)) for words in commands]
        return several(*each, cwd=tmp_path, PYTHONPATH=str(path), EQUIBENCH_DATA=str(root))

    before = files_below(root)
    run = ("run", "--dataset", "small-cells", "--models", "z2cnn-22", "--budget", "smoke", "--seeds", "1", "--device",
           "cpu")  # fmt: skip
    listed, as_json, *refused = equibench(
        ("list", "datasets", "*mnist*", "small-cells"), ("list", "datasets", "bloodmnist*", "--json"),
        ("data", "fetch", "bloodmnist"), ("data", "fetch", "small-cells"), run, path=blocked,
    )  # fmt: skip
    assert listed.returncode == 0 and listed.stdout.count("needs the package medmnist, which is not installed") == 5, (
        listed.stdout
    )
    assert listed.stdout.count("CC BY 4.0") == 4
    rows = json.loads(as_json.stdout)
    assert [(row["name"], row["licence"]) for row in rows] == [
        ("bloodmnist", "CC BY 4.0"),
        ("bloodmnist-64", "CC BY 4.0"),
    ]
    assert all("uv run --extra medmnist" in row["missing"] for row in rows)
    for done in refused:
        assert done.returncode == 2 and "needs the package medmnist, which is not installed: " in done.stderr, (
            done.stderr
        )
        assert "pip install medmnist" in done.stderr and files_below(root) == before
    assert not (tmp_path / "leaderboards").exists()

    fetched, listed = equibench(("data", "fetch", "small-cells"), ("list", "datasets", "small-cells"), path=packages)
    assert fetched.returncode == 0, fetched.stderr
    assert listed.returncode == 0 and "not installed" not in listed.stdout
    (done,) = equibench(run, path=blocked)
    assert done.returncode == 0 and "z2cnn-22  seed 0  ok" in done.stdout, (done.stdout, done.stderr)
