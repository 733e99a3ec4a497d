"""EuroSAT through torchvision: archives and folders of the published format, the split, faults."""

import functools
import hashlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from equibench.datasets import eurosat as ours
from equibench.datasets.eurosat import ARCHIVE, Folders, eurosat
from equibench.datasets.fetch import obtain
from equibench.registry import DATASETS, UserError
from PIL import Image
from torchvision.datasets import eurosat as theirs

from .conftest import files_below

pytestmark = pytest.mark.usefixtures("nobody_downloads")

CLASSES = ("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop",
"Residential",
           "River", "SeaLake")  # fmt: skip
EACH = 10
SMALL = Folders(count=EACH * len(CLASSES))


def jpeg(height: int = 64, width: int = 64, seed: int = 0) -> bytes:
    """A coloured image that is smooth, as those are that JPEG was made for."""
    y, x = np.mgrid[:height, :width] / 64
    phases = np.random.RandomState(seed).uniform(0, 6, (3, 1, 1))
    file = io.BytesIO()
    Image.fromarray((127 + 120 * np.sin(phases + 3 * x + 5 * y)).astype(np.uint8).transpose(1, 2, 0)).save(
        file, "JPEG", quality=90
    )
    return file.getvalue()


@functools.cache
def published() -> dict[str, bytes]:
    """JPEG files as in the published archive, by their place in it."""
    places = [f"2750/{name}/{name}_{number}.jpg" for name in CLASSES for number in range(1, EACH + 1)]
    return {place: jpeg(seed=seed) for seed, place in enumerate(places)}


def unpacked(root: Path, files: dict[str, bytes]) -> Path:
    for place, data in files.items():
        (path := root / "eurosat" / place).parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def packed(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], url: str = "http://127.0.0.1:9") -> bytes:
    """An archive of the files; what is published, here and in torchvision, is made to be it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for place, data in files.items():
            archive.writestr(place, data)
    md5 = hashlib.md5(buffer.getvalue()).hexdigest()
    original = theirs.download_and_extract_archive

    def extract(address: str, download_root: str, **options: str) -> None:
        assert (address, options) == (ARCHIVE.urls[0], {"md5": ARCHIVE.md5})  # what torchvision itself would ask for
        original(address, download_root, md5=md5)

    monkeypatch.setattr(theirs, "download_and_extract_archive", extract)
    monkeypatch.setattr(ours, "ARCHIVE", replace(ARCHIVE, md5=md5, urls=(f"{url}/EuroSAT.zip",)))
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "unpacked"])
def test_images_stand_in_the_order_of_classes_and_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: bool
) -> None:
    if archive:
        (tmp_path / "eurosat").mkdir()
        (tmp_path / "eurosat" / "EuroSAT.zip").write_bytes(packed(monkeypatch, published()))
    else:
        unpacked(tmp_path, published())
    before = files_below(tmp_path)
    (whole,) = SMALL.parts(tmp_path)
    assert whole.images.shape == (100, 3, 64, 64) and whole.images.dtype == np.uint8
    assert whole.labels.tolist() == [c for c in range(10) for _ in range(EACH)]
    for image, place in zip(whole.images, sorted(published()), strict=True):
        assert (image == pixels(published()[place])).all()
    assert files_below(tmp_path) == before and not (tmp_path / "cache" / ".EuroSAT").exists()


def test_the_split_is_stratified_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked(tmp_path, published())
    monkeypatch.setattr(ours, "EUROSAT", SMALL)
    data = eurosat(tmp_path)
    parts = (data.train, data.val, data.test)
    for part, each in zip(parts, (6, 1, 3), strict=True):
        assert np.bincount(part.labels).tolist() == [each] * 10
    seen = [image.tobytes() for part in parts for image in part.images]
    assert sorted(seen) == sorted(pixels(data).tobytes() for data in published().values()) and len(set(seen)) == 100
    assert eurosat(tmp_path).digest() == data.digest() and data.maximum == 255
    # The registered sizes are these shares of all.
    train, val, test = DATASETS.find("eurosat").get("sizes")
    assert train + val + test == Folders().count == 27_000 and (train, val, test) == (16_200, 2_700, 8_100)


def test_the_archive_is_fetched_with_all_that_the_fetcher_can(
    server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files = {"EuroSAT.zip": packed(monkeypatch, published(), server.url)}
    server.breaks = [5000]
    (whole,) = SMALL.parts(tmp_path)
    assert len(whole.labels) == 100 and [asked for _, asked in server.requests] == ["", "bytes=5000-"]
    assert set(files_below(tmp_path)) == {"eurosat/EuroSAT.zip"}


@pytest.mark.parametrize("fault", [lambda data: data[:-9], lambda data: data[:-1] + b"x", lambda data: b""])
def test_a_wrong_archive_is_refused(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault) -> None:
    right = packed(monkeypatch, published(), server.url)
    server.files = {"EuroSAT.zip": fault(right)}
    with pytest.raises(UserError, match=r"EuroSAT.zip could not be downloaded .*expected MD5 \w+, got"):
        SMALL.parts(tmp_path)
    assert files_below(tmp_path) == {}
    (tmp_path / "eurosat" / "EuroSAT.zip").write_bytes(fault(right))
    with pytest.raises(UserError, match=r"EuroSAT.zip is not the published file: expected MD5 \w+, got .*; delete it"):
        SMALL.parts(tmp_path)
    assert files_below(tmp_path) == {"eurosat/EuroSAT.zip": fault(right)}
    (tmp_path / "eurosat" / "EuroSAT.zip").unlink()
    server.files = {"EuroSAT.zip": right}
    assert obtain(tmp_path, ours.ARCHIVE).read_bytes() == right


def without(name: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {place: data for place, data in files.items() if f"/{name}/" not in place}


FIRST = "2750/River/River_1.jpg"


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "unpacked"])
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (lambda files: without("Pasture", files), "90 images of 9 classes instead of 100 of 10"),
        (lambda files: without("Pasture", files) | {"2750/Pasture/readme.txt": b"nothing"}, "class.* Pasture"),
        (lambda files: {k: v for k, v in files.items() if k != FIRST}, "99 images of 10 classes instead of 100"),
        (lambda files: files | {"2750/Desert/Desert_1.jpg": jpeg()}, "101 images of 11 classes instead of 100 of 10"),
        (lambda files: files | {FIRST: jpeg(32, 64)}, "River_1.jpg has 32x64 pixels instead of 64x64"),
        (lambda files: files | {FIRST: files[FIRST][:-40]}, "River_1.jpg cannot be decoded: .*[Tt]runcated"),
        (lambda files: files | {FIRST: b"no image"}, "River_1.jpg cannot be decoded: cannot identify"),
        (lambda files: {"another/folder/a.jpg": jpeg()}, "Dataset not found|No such file"),
    ],
)
def test_what_no_digest_tells_is_refused_and_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault, expected: str, archive: bool
) -> None:
    files = fault(published())
    if archive:
        (tmp_path / "eurosat").mkdir()
        (tmp_path / "eurosat" / "EuroSAT.zip").write_bytes(packed(monkeypatch, files))
    elif set(files) == {"another/folder/a.jpg"}:
        files = {"2750/a.jpg": jpeg()}
        expected = "class folder"
        unpacked(tmp_path, files)
    else:
        unpacked(tmp_path, files)
    before = files_below(tmp_path)
    with pytest.raises(
        UserError, match=rf"eurosat/.*: this is not EuroSAT \(.*({expected}).*\); delete it.*put the right files there"
    ):
        SMALL.parts(tmp_path)
    assert files_below(tmp_path) == before and not (tmp_path / "cache" / ".EuroSAT").exists()
