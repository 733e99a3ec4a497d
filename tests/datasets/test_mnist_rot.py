"""MNIST-rot-12k: files of the exact format, their faults, orientation."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from equibench.datasets.digits import digits_rot
from equibench.datasets.images import ImageData
from equibench.datasets.mnist_rot import (
    AMAT_ARCHIVE,
    AMAT_FILES,
    is_mirrored,
    mnist_rot,
    read_amat,
    read_amat_member,
    read_archive,
    to_integers,
)
from equibench.registry import UserError

MATLAB, SHORT = "   %.7e", "%.6g "


def amat(images: np.ndarray, labels: np.ndarray, form: str = MATLAB) -> bytes:
    """Text of images (n, 28, 28) in 0…1 and labels, row by row as they stand."""
    rows = np.column_stack([images.reshape(len(images), -1), labels])
    return "".join("".join(form % value for value in row) + "\n" for row in rows).encode()


def noise(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(seed)
    values = np.where(random.rand(count, 28, 28) < 0.8, 0.0, random.rand(count, 28, 28))
    values[0, 0, :3] = 0.0, 1.0, 1e-5
    return values, random.randint(0, 10, count)


def parsed(text: bytes, rows: int) -> tuple[np.ndarray, np.ndarray]:
    return read_amat(text.splitlines(keepends=True), "some.amat", rows)


@pytest.fixture(scope="module")
def whole() -> ImageData:
    return digits_rot(Path())


@pytest.mark.parametrize("form", [MATLAB, SHORT, "%.18e\t"])
@pytest.mark.parametrize("last", [True, False], ids=["newline", "no newline at the end"])
def test_numbers_and_labels_are_read_as_they_stand(form: str, last: bool) -> None:
    images, labels = noise(20)
    text = amat(images, labels, form)
    read, read_labels = parsed(text if last else text.rstrip(), 20)
    assert read.shape == (20, 28, 28) and np.abs(read - images).max() < 1e-6
    assert read_labels.dtype == np.int64 and (read_labels == labels).all()


def line(text: bytes, number: int, new: bytes) -> bytes:
    lines = text.splitlines(keepends=True)
    lines[number - 1] = new
    return b"".join(lines)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["0"] * 784, "line 7 has 784 numbers instead of 785"),
        (["0"] * 786, "line 7 has 786 numbers instead of 785"),
        ([], "line 7 has 0 numbers"),
        (["0"] * 300 + ["1.0000001"] + ["0"] * 484, "line 7 has the intensity 1, outside 0 to 1"),
        (["0"] * 300 + ["-0.1"] + ["0"] * 484, "line 7 has the intensity -0.1, outside"),
        (["0"] * 300 + ["nan"] + ["0"] * 484, "line 7 has the intensity nan, outside"),
        (["0"] * 784 + ["10"], "line 7 has the label 10, which is no digit"),
        (["0"] * 784 + ["3.5"], "line 7 has the label 3.5, which is no digit"),
        (["0"] * 784 + ["nan"], "line 7 has the label nan, which is no digit"),
        (["0"] * 300 + ["x"] + ["0"] * 484, "line 7 holds something that is no number .*'x'"),
        (["0"] * 300 + ["0,5"] + ["0"] * 484, "line 7 holds something that is no number .*'0,5'"),
    ],
)
def test_a_wrong_line_is_named(words: list[str], expected: str) -> None:
    text = line(amat(*noise(20)), 7, (" ".join(words) + "\n").encode())
    with pytest.raises(UserError, match=f"some.amat: {expected}"):
        parsed(text, 20)


def test_a_text_that_is_cut_off_or_too_long_is_named() -> None:
    text = amat(*noise(20))
    with pytest.raises(UserError, match=r"some.amat: line 20 has \d+ numbers instead of 785, and is cut off"):
        parsed(text[:-500], 20)
    with pytest.raises(UserError, match=r"some.amat ends after line 19; expected 20 lines"):
        parsed(line(text, 20, b""), 20)
    with pytest.raises(UserError, match=r"some.amat: line 20 is one too many; expected 19 lines"):
        parsed(text, 19)
    with pytest.raises(UserError, match=r"some.amat ends after line 0; expected 20 lines"):
        parsed(b"", 20)


def test_eight_bits_only_where_nothing_is_lost() -> None:
    levels = np.tile(np.arange(256), 49).reshape(16, 28, 28)
    for form in (MATLAB, SHORT):
        read, _ = parsed(amat(levels / 255, np.zeros(16), form), 16)
        (eight,), maximum = to_integers([read])
        assert maximum == 255 and eight.dtype == np.uint8 and (eight == levels).all()
    nearly = levels / 255
    nearly[3, 5, 7] += 0.05 / 255
    assert to_integers([nearly])[1] == 65_535
    finer, _ = noise(16)
    (first, second), maximum = to_integers([levels / 255, finer])
    # One part that needs more makes both finer: a data set has one maximum.
    assert maximum == 65_535 and first.dtype == second.dtype == np.uint16
    assert np.abs(second / 65_535 - finer).max() <= 0.5 / 65_535 and (first == levels * 257).all()


def test_the_digits_say_whether_they_are_mirrored(whole: ImageData) -> None:
    digits = whole.train
    images, labels = whole.test.images[:500, 0] / 255, whole.test.labels[:500]
    assert not is_mirrored(images, labels, digits)
    assert is_mirrored(images.transpose(0, 2, 1), labels, digits)
    assert is_mirrored(images[:, :, ::-1], labels, digits)  # a mirror image too, only turned
    assert not is_mirrored(images[:, ::-1].transpose(0, 2, 1), labels, digits)  # a quarter turn
    random = np.random.RandomState(0)
    half = random.rand(500, 1, 1) < 0.5
    with pytest.raises(UserError, match=r"of the rotated digits \d+% look mirrored"):
        is_mirrored(np.where(half, images, images.transpose(0, 2, 1)), labels, digits)


@pytest.mark.parametrize("columns_first", [True, False])
def test_the_archive_as_published_comes_out_upright(tmp_path: Path, whole: ImageData, columns_first: bool) -> None:
    texts = {}
    for name, part, count in zip(AMAT_FILES, (whole.val, whole.test), (100, 40), strict=True):
        images = part.images[:count, 0]
        stored = images.transpose(0, 2, 1) if columns_first else images
        texts[name] = amat(stored / 256, part.labels[:count])
    path = tmp_path / "raw" / AMAT_ARCHIVE.path
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
    with pytest.raises(UserError, match=rf"expected MD5 {AMAT_ARCHIVE.md5}, got .* bytes with MD5 \w+; delete it"):
        mnist_rot(tmp_path)
    data = read_archive("as-published", path, (80, 20, 40), whole.train)
    # Sizes in the order of the file: the first rows are for training, the next for validation.
    upright, labels = whole.val.images[:100], whole.val.labels[:100]
    assert [len(p.labels) for p in (data.train, data.val, data.test)] == [80, 20, 40] and data.maximum == 65_535
    assert np.abs(data.train.images / 65_535 - upright[:80] / 256).max() < 1e-5
    assert np.abs(data.val.images / 65_535 - upright[80:] / 256).max() < 1e-5
    assert np.abs(data.test.images / 65_535 - whole.test.images[:40] / 256).max() < 1e-5
    assert (np.concatenate([data.train.labels, data.val.labels]) == labels).all()
    assert (data.test.labels == whole.test.labels[:40]).all()


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"a.zip cannot be unpacked .*; delete it and fetch"):
        read_amat_member(path, "x.amat", 1)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.amat", amat(*noise(3)))
    with pytest.raises(UserError, match=r"a.zip holds no y.amat; delete it"):
        read_amat_member(path, "y.amat", 1)
    assert read_amat_member(path, "x.amat", 3)[0].shape == (3, 28, 28)
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(b"0e", 5000)] ^= 1  # another digit: a number still, but not the one that was packed
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"a.zip cannot be unpacked \(Bad CRC"):
        read_amat_member(path, "x.amat", 3)
