"""Downloads: complete and verified, or absent, under any fault of the server, the disk or other processes."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from equibench.datasets import fetch as module
from equibench.datasets.fetch import Download, fetch, obtain
from equibench.registry import UserError

CONTENT = os.urandom(3_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()
SET = """
from equibench.datasets.fetch import Download, downloads
from equibench.registry import register_dataset

@register_dataset("tiny", shape=(1, 1, 1), classes=2, sizes=(1, 1, 1), source="a test")
@downloads(Download("tiny/tiny.bin", ("{url}/tiny.bin",), md5="{md5}"))
def tiny(root):
    raise AssertionError("fetching makes nothing")
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE_S", 0.0)
    monkeypatch.delenv("EQUIBENCH_MIRROR", raising=False)


def tiny(url: str, size: int | None = len(CONTENT), md5: str = MD5, **more: object) -> Download:
    return Download("tiny/tiny.bin", (f"{url}/tiny.bin",), md5=md5, size=size, **more)


def leftovers(root: Path) -> list[str]:
    """Files below the root but locks."""
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and p.suffix != ".lock")


def put_part(root: Path, data: bytes) -> None:
    part = root / "raw" / "tiny" / "tiny.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(data)


@pytest.mark.parametrize("size", [len(CONTENT), None])
@pytest.mark.parametrize("says_length", [True, False])
def test_a_file_comes_whole_and_only_once(server, tmp_path: Path, size: int | None, says_length: bool) -> None:
    server.files["tiny.bin"], server.says_length = CONTENT, says_length
    told: list[tuple[int, int | None]] = []
    path = obtain(tmp_path, tiny(server.url, size), lambda *report: told.append(report))
    assert path == tmp_path / "raw" / "tiny" / "tiny.bin" and path.read_bytes() == CONTENT
    assert leftovers(tmp_path) == ["raw/tiny/tiny.bin"]
    counts = [done for done, _ in told]
    assert counts == sorted(counts) and counts[-1] == len(CONTENT) and len(counts) > 5
    assert {total for _, total in told} == {len(CONTENT) if size or says_length else None}
    obtain(tmp_path, tiny(server.url, size))
    assert len(server.requests) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_a_transfer_that_breaks_off_goes_on(server, tmp_path: Path, ranges: bool) -> None:
    server.files["tiny.bin"], server.ranges = CONTENT, ranges
    server.breaks = [1_000_000, 500_000] if ranges else [1_000_000, 1_500_000]
    assert obtain(tmp_path, tiny(server.url)).read_bytes() == CONTENT
    asked = [r for _, r in server.requests]
    assert asked[0] == "" and asked[1].startswith("bytes=") and len(asked) == 3


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("here", [1, 1_234_567, len(CONTENT), len(CONTENT) + 10])
@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_what_an_earlier_process_left_is_used(
    server, tmp_path: Path, here: int, ranges: bool, size: int | None
) -> None:
    server.files["tiny.bin"], server.ranges = CONTENT, ranges
    put_part(tmp_path, (CONTENT + b"too much..")[:here])
    assert obtain(tmp_path, tiny(server.url, size)).read_bytes() == CONTENT
    if here < len(CONTENT):
        assert server.requests == [("tiny.bin", f"bytes={here}-")]
    elif size is None and not ranges:
        assert len(server.requests) == 1  # what was too much is cut off


def test_a_wrong_beginning_is_thrown_away(server, tmp_path: Path) -> None:
    server.files["tiny.bin"] = CONTENT
    put_part(tmp_path, b"something else")
    assert obtain(tmp_path, tiny(server.url)).read_bytes() == CONTENT
    assert [r for _, r in server.requests] == ["bytes=14-", ""]


def test_a_server_that_never_finishes_is_given_up(server, tmp_path: Path) -> None:
    server.files["tiny.bin"] = CONTENT
    server.breaks = [1_000_000, 0, 0, 0, 0, 0]
    with pytest.raises(UserError, match=r"broke off; expected 3,000,000 bytes, MD5 \w+, got 1,000,000 bytes"):
        obtain(tmp_path, tiny(server.url))
    assert leftovers(tmp_path) == ["raw/tiny/tiny.bin.part"] and len(server.requests) == 4
    server.breaks = []
    assert obtain(tmp_path, tiny(server.url)).read_bytes() == CONTENT
    assert server.requests[-1] == ("tiny.bin", "bytes=1000000-")


@pytest.mark.parametrize("size", [len(CONTENT), None])
@pytest.mark.parametrize("wrong", [CONTENT[:-1], CONTENT[:-1] + b"?", b"<html>log in</html>"])
def test_wrong_bytes_never_get_the_name(server, tmp_path: Path, wrong: bytes, size: int | None) -> None:
    wrong = wrong if wrong != CONTENT else b"?" + CONTENT[1:]
    server.files["tiny.bin"] = wrong
    with pytest.raises(UserError) as failure:
        obtain(tmp_path, tiny(server.url, size))
    said = str(failure.value)
    assert f"{server.url}/tiny.bin" in said and f"MD5 {MD5}" in said and "by hand" in said
    assert f"{len(wrong):,} bytes" in said and str(tmp_path / "raw" / "tiny" / "tiny.bin") in said
    assert leftovers(tmp_path) == []


def test_a_missing_file_and_a_failing_server(server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/tiny.bin: HTTP Error 404.*EQUIBENCH_MIRROR.*by hand"):
        obtain(tmp_path, tiny(server.url))
    assert len(server.requests) == 1  # asking again would not help
    server.files["tiny.bin"], server.status = CONTENT, [503, 503]
    assert obtain(tmp_path, tiny(server.url)).read_bytes() == CONTENT  # here it did


def test_an_unreachable_host_is_named(tmp_path: Path, server) -> None:
    # Nothing listens on port 9 of this machine.
    with pytest.raises(UserError, match=r"http://127.0.0.1:9/tiny.bin: .*refused"):
        obtain(tmp_path, tiny("http://127.0.0.1:9"))
    server.files["tiny.bin"] = CONTENT
    both = Download("tiny/tiny.bin", ("http://127.0.0.1:9/tiny.bin", f"{server.url}/tiny.bin"), md5=MD5)
    assert obtain(tmp_path, both).read_bytes() == CONTENT


def test_a_mirror_is_asked_instead(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["tiny.bin"] = CONTENT
    monkeypatch.setenv("EQUIBENCH_MIRROR", f"{server.url}/folder/")
    assert obtain(tmp_path, tiny("http://127.0.0.1:9")).read_bytes() == CONTENT
    monkeypatch.setenv("EQUIBENCH_MIRROR", "/a/folder")
    with pytest.raises(UserError, match="must begin with http"):
        obtain(tmp_path / "other", tiny(server.url))


def test_a_wrong_file_under_the_name_is_reported_and_left(server, tmp_path: Path) -> None:
    path = tmp_path / "raw" / "tiny" / "tiny.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"tiny.bin is not the published file: expected .*, got 4 bytes; delete it"):
        obtain(tmp_path, tiny(server.url))
    assert path.read_bytes() == b"mine" and server.requests == []


def test_a_file_may_lie_where_another_program_keeps_it(server, tmp_path: Path) -> None:
    other = tmp_path / "tiny" / "tiny.bin"
    other.parent.mkdir(parents=True)
    other.write_bytes(CONTENT)
    file = tiny(server.url, folder="")
    assert obtain(tmp_path, file) == other and server.requests == []
    other.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=r"tiny/tiny.bin is not the published file"):
        obtain(tmp_path, file)


def test_nothing_is_written_where_everything_is_there(server, tmp_path: Path) -> None:
    path = tmp_path / "raw" / "tiny" / "tiny.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    obtain(tmp_path, tiny(server.url))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_a_full_disk_keeps_what_came(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["tiny.bin"], written = CONTENT, []
    write = module._write

    def full(out: object, block: bytes) -> None:
        if sum(written) > 1_000_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(len(block))
        write(out, block)

    monkeypatch.setattr(module, "_write", full)
    with pytest.raises(UserError, match=r"tiny.bin.part cannot be written \(No space left on device\); free some"):
        obtain(tmp_path, tiny(server.url))
    assert leftovers(tmp_path) == ["raw/tiny/tiny.bin.part"]
    monkeypatch.setattr(module, "_write", write)
    assert obtain(tmp_path, tiny(server.url)).read_bytes() == CONTENT
    assert server.requests[-1][1] == f"bytes={sum(written)}-"


def test_a_folder_that_is_a_file_is_named(server, tmp_path: Path) -> None:
    (tmp_path / "raw").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot be written \(.*\); make the folder writable, or .*--data-root"):
        obtain(tmp_path, tiny(server.url))


def test_a_download_without_a_digest_is_refused() -> None:
    with pytest.raises(ValueError, match="needs an MD5 or SHA-256"):
        Download("a/b", ("http://127.0.0.1/b",))


def test_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no data set 'cifar1'.*; did you mean 'cifar10'"):
        fetch("cifar1", tmp_path)
    fetch("digits-rot", tmp_path)
    assert list(tmp_path.iterdir()) == []


def fetching(script: Path, root: Path) -> subprocess.Popen[str]:
    """A process of its own that fetches the data set of `SET`."""
    code = (
        "import sys; from pathlib import Path; from equibench.registry import include;"
        "from equibench.datasets.fetch import fetch; include([sys.argv[1]]);"
        "print('ready', flush=True); fetch('tiny', Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(script), str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_eight_processes_at_once_download_once(server, tmp_path: Path) -> None:
    # The first transfer is held until all eight want the file.
    server.files["tiny.bin"], server.breaks, server.stall = CONTENT, [1_000_000], threading.Event()
    script = tmp_path / "tiny_set.py"
    script.write_text(SET.format(url=server.url, md5=MD5))
    processes = [fetching(script, tmp_path / "data") for _ in range(8)]
    assert [p.stdout.readline() for p in processes] == ["ready\n"] * 8
    time.sleep(0.5)
    assert server.requests == [("tiny.bin", "")]
    server.stall.set()
    errors = [p.communicate(timeout=60)[1] for p in processes]
    assert [p.returncode for p in processes] == [0] * 8, errors
    assert server.requests == [("tiny.bin", ""), ("tiny.bin", "bytes=1000000-")]
    assert leftovers(tmp_path / "data") == ["raw/tiny/tiny.bin"]


def test_a_killed_download_goes_on(server, tmp_path: Path) -> None:
    server.files["tiny.bin"], server.breaks, server.stall = CONTENT, [1_500_000], threading.Event()
    script, root = tmp_path / "tiny_set.py", tmp_path / "data"
    script.write_text(SET.format(url=server.url, md5=MD5))
    process = fetching(script, root)
    part = root / "raw" / "tiny" / "tiny.bin.part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size == 1_500_000):
        assert time.monotonic() < deadline, "what came is not on the disk"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    server.stall.set()
    assert leftovers(root) == ["raw/tiny/tiny.bin.part"]
    again = fetching(script, root)
    assert again.wait(timeout=30) == 0, again.communicate()
    assert server.requests == [("tiny.bin", ""), ("tiny.bin", "bytes=1500000-")]
    assert (root / "raw" / "tiny" / "tiny.bin").read_bytes() == CONTENT
