"""Data sets under load: many processes at once on an empty cache, killed writers, full disks."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

#: A data set that is downloaded, unpacked and kept.
FETCHED = """
import io, zipfile
from pathlib import Path
import numpy as np
from equibench import register_dataset
from equibench.datasets.fetch import Download, downloads, obtain
from equibench.datasets.images import ImageData, Split

ARCHIVE = Download("packed/packed.zip", ("{url}/packed.zip",), sha256="{sha256}")

@register_dataset("packed", shape=(1, 20, 20), classes=2, sizes=(1000, 10, 10), source="made up")
@downloads(ARCHIVE)
def packed(root: Path) -> ImageData:
    with zipfile.ZipFile(obtain(root, ARCHIVE)) as archive:
        images = np.load(io.BytesIO(archive.read("images.npy")), allow_pickle=False)
    with open(root / "unpacked.txt", "a") as log:
        log.write("unpacked\\n")
    {pause}
    parts = [Split(images[a:b], np.arange(b - a) % 2) for a, b in ((0, 1000), (1000, 1010), (1010, 1020))]
    return ImageData("packed", *parts, 2, 255)
"""
LOAD = (
    "import sys; from pathlib import Path; from equibench.registry import UserError, include; include(sys.argv[3:]);"
    "from equibench.datasets.images import load;"
    "print('ready', flush=True); sys.stdin.readline(); print(load(sys.argv[1], Path(sys.argv[2])).digest())"
)


def loading(name: str, root: Path, *includes: Path, before: str = "") -> subprocess.Popen[str]:
    """A process of its own that loads a data set, once it is told to."""
    command = [sys.executable, "-c", before + LOAD, name, str(root), *map(str, includes)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, **pipes)


def all_at_once(name: str, root: Path, *includes: Path, count: int = 8) -> list[str]:
    """What `count` processes that start together load.

    Every file that is seen meanwhile under a final name is whole, and no other takes its place.
    """
    crowd = [loading(name, root, *includes) for _ in range(count)]
    assert [p.stdout.readline() for p in crowd] == ["ready\n"] * count
    for process in crowd:
        process.stdin.write("\n")
        process.stdin.flush()
    seen: dict[Path, int] = {}
    while any(p.poll() is None for p in crowd):
        for path in [p for p in root.rglob("*") if p.suffix in (".npz", ".zip") and not p.name.startswith(".")]:
            assert zipfile.ZipFile(path).testzip() is None
            assert seen.setdefault(path, path.stat().st_ino) == path.stat().st_ino, "it was made twice"
        time.sleep(0.02)
    answers = [p.communicate() for p in crowd]
    assert [p.returncode for p in crowd] == [0] * count, answers
    return [out.strip() for out, _ in answers]


def unfinished(root: Path) -> list[Path]:
    return [p for p in root.rglob("*.part")]


def packed_set(server, folder: Path, pause: str = "") -> Path:
    """Serve the archive, and a file that registers the set made of it."""
    stream, images = io.BytesIO(), io.BytesIO()
    np.save(images, np.random.RandomState(0).randint(0, 256, (1020, 1, 20, 20)).astype(np.uint8))
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("images.npy", images.getvalue())
    server.files["packed.zip"] = stream.getvalue()
    path = folder / "packed_set.py"
    digest = hashlib.sha256(stream.getvalue()).hexdigest()
    path.write_text(FETCHED.format(url=server.url, sha256=digest, pause=pause))
    return path


def test_eight_processes_download_and_unpack_once(server, tmp_path: Path) -> None:
    root = tmp_path / "data"
    answers = all_at_once("packed", root, packed_set(server, tmp_path))
    assert len(set(answers)) == 1 and len(answers[0]) == 64
    assert server.requests == [("packed.zip", "")]
    assert (root / "unpacked.txt").read_text() == "unpacked\n" and not unfinished(root)


def test_eight_processes_make_a_generated_set_once(tmp_path: Path) -> None:
    answers = all_at_once("digits-rot", tmp_path)
    from equibench.registry import DATASETS

    assert set(answers) == {DATASETS.find("digits-rot").get("digest")}
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 1 and not unfinished(tmp_path)


@pytest.mark.slow  # half a minute: 62,000 digits are turned
def test_eight_processes_make_rotated_mnist_once(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "MNIST").symlink_to(real_data / "MNIST")
    from equibench.registry import DATASETS

    assert set(all_at_once("mnist-rot-gen", tmp_path)) == {DATASETS.find("mnist-rot-gen").get("digest")}
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 1 and not unfinished(tmp_path)


def test_a_killed_writer_leaves_a_lock_that_is_released_and_nothing_that_is_read(server, tmp_path: Path) -> None:
    root, script = tmp_path / "data", packed_set(server, tmp_path)
    # It is killed between the last byte and the name.
    die = (
        "import os, signal; import equibench.datasets.images as i; os.replace, keep = (lambda *a:"
        " os.kill(os.getpid(), 9)"
        " if str(a[1]).endswith('.npz') else keep(*a)), os.replace\n"
    )
    killed = loading("packed", root, script, before=die)
    killed.communicate("\n", timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert len(unfinished(root)) == 1 and not list(root.rglob("*.npz"))
    after = loading("packed", root, script)
    out, err = after.communicate("\n", timeout=60)
    assert after.returncode == 0, err
    assert len(out.split()[-1]) == 64 and not unfinished(root)
    assert server.requests == [("packed.zip", "")]


def fetch(root: Path, script: Path, before: str) -> subprocess.CompletedProcess[str]:
    """``equibench data fetch`` in a process that a limit is set on first."""
    code = f"import sys; {before}; from equibench.bench.cli.main import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "data",
        "fetch",
        "packed",
        "--include",
        str(script),
        "--data-root",
        str(root),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_where_no_more_can_be_written_one_sentence_says_so(server, tmp_path: Path) -> None:
    """A limit on the size of files fails writes where a full disk would, for any user."""
    root, script = tmp_path / "data", packed_set(server, tmp_path)
    whole = fetch(root, script, "pass")
    assert whole.returncode == 0, whole.stderr
    (cache,) = root.rglob("*.npz")
    cache.unlink()
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    done = fetch(root, script, limit)
    assert done.returncode == 2 and "File too large" in done.stderr and "--data-root" in done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("equibench: the data set packed cannot be kept in")
    assert not unfinished(root) and not list(root.rglob("*.npz"))


def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(server, tmp_path: Path) -> None:
    root, script = tmp_path / "small", packed_set(server, tmp_path)
    root.mkdir()
    # Room for the archive, not for the cache.
    size = len(server.files["packed.zip"]) + 100_000
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(root)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small disk")
    try:
        done = fetch(root, script, "pass")
        assert done.returncode == 2 and "No space left on device" in done.stderr and done.stderr.count("\n") == 1
        assert not unfinished(root) and not list(root.rglob("*.npz"))
    finally:
        subprocess.run(["umount", str(root)], check=True)
