"""Archives: the same bytes each time, and those of strangers refused before anything of them is written."""

import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from equibench.bench.exchange.archive import Limits, opened, pack, unpack, write_archive
from equibench.bench.exchange.merge import merge
from equibench.registry import UserError

from .folders import tree, whole

GOOD = "runs/some-board-v2/0123456789abcdef.1.0123456789abcdef.json"
DEEP = f"runs/{'b' * 150}/outcomes/0123456789abcdef.1.0123456789abcdef.json"


def member(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"{}", **facts: object) -> tuple:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for key, value in facts.items():
        setattr(info, key, value)
    return info, data


def archive(path: Path, *members: tuple, style: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w:gz", format=style) as file:
        for info, data in members:
            file.addfile(info, io.BytesIO(data))
    return path


def raw(path: Path, *blocks: bytes) -> Path:
    path.write_bytes(gzip.compress(b"".join(blocks) + b"\0" * 1024))
    return path


def header(name: str, kind: bytes, size: int) -> bytes:
    info, _ = member(name, kind, b"")
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 512)


def extended(*lines: tuple[str, str], kind: bytes = b"x") -> bytes:
    """An extended header of these keys."""
    data = b""
    for key, value in lines:
        body = f" {key}={value}\n".encode()
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length = len(str(length)) + len(body)
        data += str(length).encode() + body
    return header("pax", kind, len(data)) + padded(data)


def test_the_same_files_are_the_same_bytes_and_come_back(tmp_path: Path) -> None:
    files = {DEEP: b"1" * 5000, GOOD: b"{}", "tuned/some-board-v2.toml": b"x = 1\n"}
    assert pack(files) == pack(dict(reversed(files.items())))
    write_archive(tmp_path / "a.tar.gz", files)
    unpack(tmp_path / "a.tar.gz", tmp_path / "out", Limits())
    assert tree(tmp_path / "out") == files
    with tarfile.open(tmp_path / "a.tar.gz") as file:  # nothing says who packed it, where and when
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in file} == {(0, 0, 0, "", "", 0o644)}
    assert (tmp_path / "a.tar.gz").read_bytes()[3:8] == b"\0" * 5, "no name and no time in the header of gzip"


@pytest.mark.parametrize("style", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("top", ["", "./", "leaderboards/", "./results-of-mine/"])
def test_archives_that_others_pack_are_read(tmp_path: Path, style: int, top: str) -> None:
    long = "runs/" + "ä" * 3 + "/x.json"  # no board's name: left out
    parts = [member(f"{top}runs", tarfile.DIRTYPE, b"")] if top else []
    parts += [member(top + name, mtime=1.5) for name in (DEEP, GOOD, "tuned/b.toml", "b.csv", "logs/x.log", long)]
    unpack(archive(tmp_path / "a.tar.gz", *parts, style=style), tmp_path / "out", Limits())
    assert set(tree(tmp_path / "out")) == {DEEP, GOOD, "tuned/b.toml", "b.csv"}


HOSTILE = {
    "up": [member("../../escaped.json")],
    "up inside": [member("runs/../../../escaped.json")],
    "absolute": [member("/tmp/escaped.json")],
    "a drive": [member("C:/escaped.json")],
    "backslashes": [member("runs\\..\\..\\escaped.json")],
    "a folder outside": [member("../escaped", tarfile.DIRTYPE, b"")],
    "a symbolic link": [member("runs/b-v2", tarfile.SYMTYPE, b"", linkname="/etc")],
    "a hard link": [member(GOOD, tarfile.LNKTYPE, b"", linkname="/etc/passwd")],
    "a character device": [member(GOOD, tarfile.CHRTYPE, b"")],
    "a block device": [member(GOOD, tarfile.BLKTYPE, b"")],
    "a pipe": [member(GOOD, tarfile.FIFOTYPE, b"")],
    "a long name outside": [member("../" * 60 + "escaped.json")],
    "twice": [member(GOOD), member(GOOD, data=b"[]")],
    "twice under two spellings": [member(GOOD), member(f"./{GOOD}", data=b"[]")],
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("style", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_nobody_packs_by_accident_is_refused_whole(tmp_path: Path, case: str, style: int) -> None:
    """A good record before it is not taken either."""
    whole(tmp_path / "clone")
    (path,) = (tmp_path / "clone" / "runs").glob("*/*.json")
    good = member(path.relative_to(tmp_path / "clone").as_posix(), data=path.read_bytes())
    source = archive(tmp_path / "bad.tar.gz", good, *HOSTILE[case], style=style)
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"outside|is a link|a device|twice"):
        merge([tmp_path / "clone", source], tmp_path / "results")
    assert tree(tmp_path) == before and not (tmp_path / "results").exists()


def test_bombs_are_refused_by_what_they_say_and_by_what_they_are(tmp_path: Path) -> None:
    small = Limits(size=1 << 20, members=5)
    many = archive(tmp_path / "many.tar.gz", *(member(f"logs/{i}.log") for i in range(6)))
    large = archive(tmp_path / "large.tar.gz", member("weights/x.pt", data=b"\0" * (1 << 20)), member(GOOD))
    for path in (many, large):
        with pytest.raises(UserError, match="unpacks to more than 5 files or 1 MiB"):
            unpack(path, tmp_path / "out", small)
    record = archive(tmp_path / "record.tar.gz", member(GOOD, data=b"\0" * ((4 << 20) + 1)))
    with pytest.raises(UserError, match="are allowed"):
        unpack(record, tmp_path / "out", Limits())
    tracemalloc.start()
    for name, kind in (("name", b"L"), ("pax", b"x"), ("all", b"g"), ("file", b"0")):
        # Headers that announce more than any memory has, of which almost nothing follows.
        path = raw(tmp_path / f"{name}.tar.gz", header("x", kind, 10**12), b"\0" * 4096)
        with pytest.raises(UserError, match=r"are allowed|unpacks to more"):
            unpack(path, tmp_path / "out", Limits())
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([extended(("size", "5"))], "'size'"),
        ([extended(("GNU.sparse.realsize", "5"))], "GNU.sparse"),
        ([extended(("path", "../../escaped.json"))], "leads outside"),
        ([extended(("path", GOOD), kind=b"g")], "one name for all"),
        ([header("x", b"x", 512) + b"9" * 512], "damaged header"),
        ([header("x", b"x", 512) + b"3 a=b\n".ljust(512, b"\0")], "damaged header"),
    ],
)
def test_headers_that_change_what_a_file_is_are_refused(tmp_path: Path, blocks: list[bytes], message: str) -> None:
    path = raw(tmp_path / "a.tar.gz", *blocks, header(GOOD, b"0", 2), padded(b"{}"))
    with pytest.raises(UserError, match=message):
        unpack(path, tmp_path / "out", Limits())


def test_an_archive_that_is_cut_off_or_changed_is_refused_or_read(tmp_path: Path) -> None:
    """No byte of it makes the reader fail otherwise than with a sentence."""
    data = gzip.decompress(pack({GOOD: b"{}" * 300, DEEP: b"[]"}))
    path = raw(tmp_path / "cut.tar.gz")
    for end in range(0, len(data.rstrip(b"\0")), 97):
        path.write_bytes(gzip.compress(data[:end]))
        with pytest.raises(UserError, match="not a complete"):
            unpack(path, tmp_path / f"out-{end}", Limits())
        path.write_bytes(pack({GOOD: b"{}" * 300})[:end])
        with pytest.raises(UserError, match="not a complete") if end < 100 else opened_anyhow():
            unpack(path, tmp_path / f"other-{end}", Limits())
    for place in range(0, len(data), 31):
        path.write_bytes(gzip.compress(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]))
        with opened_anyhow():
            unpack(path, tmp_path / f"flip-{place}", Limits())
    assert not list(tmp_path.rglob("escaped*"))


class opened_anyhow:
    """A sentence or nothing."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: object, trace: object) -> bool:
        return kind is None or issubclass(kind, UserError)


def test_a_source_is_a_results_folder_or_an_archive_of_one(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tar.gz").write_text("no archive")
    (tmp_path / "x.zip").write_text("PK")
    archive(tmp_path / "logs.tar.gz", member("logs/x.log"))
    for name, message in (
        ("empty", "no records"),
        ("text.tar.gz", "not a complete"),
        ("x.zip", "neither"),
        ("nowhere", "not exist"),
        ("logs.tar.gz", "no records"),
    ):
        with pytest.raises(UserError, match=message), opened(tmp_path / name):
            pass
    whole(tmp_path / "clone")
    with pytest.raises(UserError, match="more than 1 file"), opened(tmp_path / "clone", Limits(members=1)):
        pass
