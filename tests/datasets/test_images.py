"""The cache of data sets: made once, never half read, checked against what is promised."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from equibench.datasets.images import ImageData, Split, data_root, load
from equibench.registry import UserError, include

SET = """
import time
from pathlib import Path
import numpy as np
from equibench import register_dataset
from equibench.datasets.images import ImageData, Split

@register_dataset("{name}", shape=(1, 4, 4), classes=2, sizes=(6, 2, 4), source="made up")
def noise(root: Path) -> ImageData:
    with open(root / "made.txt", "a") as log:
        log.write("made\\n")
    time.sleep({sleep})
    random = np.random.RandomState({seed})
    def split(n): return Split(random.randint(0, 256, (n, 1, 4, 4)).astype(np.{dtype}), np.arange(n) % {classes})
    return ImageData("{name}", split({train}), split(2), split(4), 2, 255)
"""


def given(folder: Path, name: str, **values: object) -> Path:
    path = folder / f"{name}.py"
    settings = dict(name=name, sleep=0, seed=0, dtype="uint8", classes=2, train=6) | values
    path.write_text(SET.format(**settings))
    include([path])
    return path


def made(root: Path) -> int:
    return len((root / "made.txt").read_text().splitlines())


def test_it_is_made_once_and_read_back_the_same(tmp_path: Path) -> None:
    given(tmp_path, "once")
    first, second = load("once", tmp_path), load("once", tmp_path)
    assert made(tmp_path) == 1 and first.digest() == second.digest()
    assert first.train.images.dtype == np.uint8 and first.statistics() == second.statistics()


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    given(tmp_path, "damaged")
    digest = load("damaged", tmp_path).digest()
    (cache,) = (tmp_path / "cache").glob("*.npz")
    whole = cache.read_bytes()
    middle = whole.index(b"\x93NUMPY", 500) + 200
    for broken in (whole[: len(whole) // 2], b"", whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]):
        cache.write_bytes(broken)
        assert load("damaged", tmp_path).digest() == digest
        assert cache.read_bytes() != broken


def test_an_edited_file_makes_its_data_again(tmp_path: Path) -> None:
    path = given(tmp_path, "edited")
    script = (
        "import sys; from pathlib import Path; from equibench.registry import include; include([sys.argv[1]]);"
        "from equibench.datasets.images import load; print(load('edited', Path(sys.argv[2])).digest())"
    )
    command = [sys.executable, "-c", script, str(path), str(tmp_path)]
    before = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    path.write_text(path.read_text().replace("RandomState(0)", "RandomState(1)"))
    after = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert before != after and made(tmp_path) == 2


def test_an_edited_helper_makes_the_data_again(tmp_path: Path) -> None:
    path = tmp_path / "helped.py"
    path.write_text(
        SET.format(name="helped", sleep=0, seed="SEED", dtype="uint8", classes=2, train=6).replace(
            "import time\n", "import time\nfrom helpers import SEED\n"
        )
    )
    script = (
        "import sys; from pathlib import Path; from equibench.registry import include; include([sys.argv[1]]);"
        "from equibench.datasets.images import load; print(load('helped', Path(sys.argv[2])).digest())"
    )
    found = []
    for seed in (0, 1, 0):
        (tmp_path / "helpers.py").write_text(f"SEED = {seed}\n")
        command = [sys.executable, "-B", "-c", script, str(path), str(tmp_path)]
        found.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert found[0] == found[2] != found[1] and made(tmp_path) == 2


def test_many_processes_make_it_once(tmp_path: Path) -> None:
    path = given(tmp_path, "crowd", sleep=1)
    script = (
        "import sys; from pathlib import Path; from equibench.registry import include; include([sys.argv[1]]);"
        "from equibench.datasets.images import load; print(load('crowd', Path(sys.argv[2])).digest())"
    )
    crowd = [
        subprocess.Popen([sys.executable, "-c", script, str(path), str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    answers = {p.communicate()[0] for p in crowd}
    assert len(answers) == 1 and all(p.returncode == 0 for p in crowd) and made(tmp_path) == 1


@pytest.mark.parametrize(
    ("name", "values", "problem"),
    [
        ("short", {"train": 5}, r"has train images \(5, 1, 4, 4\)"),
        ("floats", {"dtype": "float32"}, "images of float32"),
        ("labels", {"classes": 5}, "labels outside 0…1"),
    ],
)
def test_data_that_break_their_promise_are_refused(tmp_path: Path, name: str, values: dict, problem: str) -> None:
    given(tmp_path, name, **values)
    with pytest.raises(UserError, match=problem):
        load(name, tmp_path)
    assert not list((tmp_path / "cache").glob("*.npz"))


@pytest.mark.parametrize(
    ("name", "line", "said"), [("unimported", "import there_is_none", "there_is_none"), ("raising", "1 / 0", "ZeroDiv")]
)
def test_data_that_cannot_be_made_are_one_sentence(tmp_path: Path, name: str, line: str, said: str) -> None:
    path = given(tmp_path, name)
    path.write_text(f"{path.read_text()}\n{line}\n")
    with pytest.raises(UserError, match=f"the data set {name} .*cannot be made: .*{said}"):
        load(name, tmp_path / "data")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    given(tmp_path, "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--data-root"):
        load("nowhere", tmp_path / "file")


def test_a_cache_without_write_permission_is_read(tmp_path: Path) -> None:
    given(tmp_path, "kept")
    digest = load("kept", tmp_path).digest()
    (tmp_path / "cache" / "kept.lock").unlink(missing_ok=True)
    os.chmod(tmp_path / "cache", 0o555)
    try:
        assert load("kept", tmp_path).digest() == digest
    finally:
        os.chmod(tmp_path / "cache", 0o755)


def test_the_root_is_the_argument_else_the_environment_else_the_cache(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("EQUIBENCH_DATA", str(tmp_path / "a"))
    assert data_root() == tmp_path / "a" and data_root(tmp_path) == tmp_path
    monkeypatch.delenv("EQUIBENCH_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_root() == tmp_path / ".cache" / "equibench"


def test_statistics_are_those_of_the_training_images() -> None:
    random = np.random.RandomState(0)
    train, other = (Split(random.randint(0, 1000, (n, 3, 5, 5)).astype(np.uint16), np.zeros(n, int)) for n in (40, 4))
    mean, std = ImageData("x", train, other, other, 1, 999).statistics()
    scaled = train.images / 999
    assert np.allclose(mean, scaled.mean((0, 2, 3)), atol=1e-12) and np.allclose(std, scaled.std((0, 2, 3)), atol=1e-12)


def test_statistics_of_many_images_are_exact_and_need_little_memory() -> None:
    """The 64-bit copies that numpy counts would take eight times as much as the images of a channel."""
    random = np.random.RandomState(1)
    train = Split(random.randint(0, 256, (6_007, 2, 16, 16)).astype(np.uint8), np.zeros(6_007, int))
    train.images[6_000:, 1] = 255  # the last images count too
    other = Split(train.images[:1], train.labels[:1])
    data = ImageData("x", train, other, other, 1, 255)
    tracemalloc.start()
    try:
        mean, std = data.statistics()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * train.images[:, 0].nbytes
    for channel in range(2):
        values = train.images[:, channel].ravel().astype(np.int64)
        first, second = int(values.sum()), int((values * values).sum())
        assert mean[channel] == pytest.approx(first / len(values) / 255, rel=1e-12)
        variance = second / len(values) - (first / len(values)) ** 2
        assert std[channel] == pytest.approx(variance**0.5 / 255, rel=1e-9)


def test_the_digest_sees_every_number_and_the_order() -> None:
    images = np.arange(32, dtype=np.uint8).reshape(2, 1, 4, 4)
    split = Split(images, np.array([0, 1]))
    digest = ImageData("x", split, split, split, 2, 255).digest()
    changed = images.copy()
    changed[1, 0, 3, 3] += 1
    for other in (Split(changed, split.labels), Split(images[::-1], split.labels), Split(images, np.array([1, 0]))):
        assert ImageData("x", other, split, split, 2, 255).digest() != digest
