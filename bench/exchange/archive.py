"""Results folders as archives: written with the same bytes each time, read as what they are, a stranger's.

Archives are read here and not by `tarfile`, which keeps names and extended headers of any length in memory, and which
makes links and devices. `Limits` hold for what an archive unpacks to, before it is on the disk.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ...registry import UserError
from ..tools.files import WriteError, write_atomically
from ..tools.schema import LARGEST_FILE, visible
from ..tools.text import plural

_BLOCK = 512
#: How archives are called.
SUFFIXES = (".tar.gz", ".tgz")
#: Folders below a board's that travel beside its records.
PARTS = ("outcomes", "equivariance", "calibrations", "replays")
_FILE = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}"
#: What is taken out of an archive, by its path below the results folder.
_WANTED = re.compile(
    rf"runs/{_FILE}/{_FILE}\.json|runs/{_FILE}/({'|'.join(PARTS)})/{_FILE}\.json|tuned/{_FILE}\.toml|{_FILE}\.csv"
)
_TOP = ("runs", "tuned", "suites", "recipes")
#: Types of members: files, folders, and headers that give the next member a longer name.
_FILES, _FOLDER, _LONG_NAME, _EXTENDED = b"0\0", b"5", b"L", (b"x", b"g")
#: The longest header that gives a name: paths of results have 300 characters.
_LONGEST_HEADER = 1 << 16
#: Keys of an extended header that change what a member is, or how long.
_STRUCTURAL = re.compile(r"size|linkpath|hdrcharset|GNU\.sparse.*")


@dataclass(frozen=True)
class Limits:
    """What a source may hold: bytes after unpacking, and members (files and folders)."""

    size: int = 2 << 30
    members: int = 200_000


def pack(files: dict[str, bytes]) -> bytes:
    """A ``.tar.gz`` of these files by their paths; the same bytes for the same files."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for name in sorted(files):
            member = tarfile.TarInfo(name)  # no owner, no time
            member.size, member.mode = len(files[name]), 0o644
            archive.addfile(member, io.BytesIO(files[name]))
    return packed.getvalue()


def write_archive(path: Path, files: dict[str, bytes]) -> None:
    """Write an archive; an older one of this name is replaced.

    Raises:
        UserError: it is not called as an archive, or cannot be written.
    """
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"{path}: an archive is called <name>.tar.gz")
    write_atomically(path, pack(files))


@contextmanager
def opened(source: Path, limits: Limits = Limits()) -> Iterator[Path]:
    """A source as a results folder: itself, or what an archive unpacks to, for as long as the context lasts.

    Raises:
        UserError: it is neither, or an archive that is refused as a whole.
    """
    if source.is_dir():
        _look_at_folder(source, limits)
        yield source
    elif source.is_file() and source.name.endswith(SUFFIXES):
        with TemporaryDirectory(prefix="equibench-") as folder:
            unpack(source, Path(folder), limits)
            _look_at_folder(Path(folder), limits, str(source))
            yield Path(folder)
    else:
        what = "this is neither" if source.exists() else "this does not exist; give"
        raise UserError(f"{source}: {what} a results folder (with 'runs' in it) or an archive of one (<name>.tar.gz)")


def _look_at_folder(folder: Path, limits: Limits, name: str = "") -> None:
    """See that a folder has runs, and no more files than are read.

    Raises:
        UserError: it is another folder.
    """
    runs = folder / "runs"
    if not runs.is_dir():
        raise UserError(f"{name or folder} has no records: a results folder has 'runs' in it, with a folder a board")
    count = 0
    for pattern in ("*/*", *(f"*/{part}/*" for part in PARTS)):
        for _ in runs.glob(pattern):
            count += 1
            if count > limits.members:
                raise UserError(f"{name or folder} has more than {plural(limits.members, 'file')}; merge it in parts")


def unpack(source: Path, folder: Path, limits: Limits) -> None:
    """Write the files of results that an archive holds below a folder, by their paths below the results folder.

    Anything else in it, as logs, weights and figures, is left out.

    Raises:
        UserError: it is no archive, damaged or cut off, larger than the limits, or has paths that lead outside, links
            or devices: nobody packs these by accident, so that the whole is refused.
    """
    try:
        with open(source, "rb") as raw, gzip.GzipFile(fileobj=raw, mode="rb") as file:
            for name, size in _members(file, str(source), limits):
                place = _place(name, str(source))
                if size is None or place is None:
                    continue
                if size > LARGEST_FILE:
                    raise UserError(f"{source}: {visible(name)}: {size:,} bytes; at most {LARGEST_FILE:,} are allowed")
                path = folder / place
                if path.exists():
                    raise UserError(f"{source}: {visible(name)} is in it twice")
                data = _read(file, size, str(source))
                _read(file, -size % _BLOCK, str(source))
                _save(path, data)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"{source}: this is no whole .tar.gz: {visible(str(error))[:200]}") from error


def _save(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:  # where temporary files go there is no room
        raise WriteError(path, error) from error


def _place(name: str, where: str) -> str | None:
    """The path of a member below the results folder; None for what is no part of results.

    A folder around the whole, as ``leaderboards/runs/…``, is left out.

    Raises:
        UserError: it leads outside.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name or re.match("[A-Za-z]:", name):
        raise UserError(f"{where}: the path {visible(name)[:200]!r} leads outside; nothing of this archive is read")
    if len(parts) > 1 and parts[0] not in _TOP:
        parts = parts[1:]
    place = "/".join(parts)
    return place if _WANTED.fullmatch(place) else None


def _members(file: gzip.GzipFile, where: str, limits: Limits) -> Iterator[tuple[str, int | None]]:
    """Names and sizes of the files of an archive; size None for a folder. The reader of a file takes all of its blocks,
    or nothing.

    Raises:
        UserError: see `unpack`.
    """
    count, total, longer = 0, 0, ""
    while any(header := _read(file, _BLOCK, where)):
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        count, total = count + 1, total + max(member.size, 0)
        if count > limits.members or total > limits.size:
            raise UserError(
                f"{where}: it unpacks to more than {plural(limits.members, 'file')} or {limits.size >> 20:,} MiB;"
                " equibench export packs boards one by one, without weights"
            )
        if member.size < 0:
            raise UserError(f"{where}: {visible(member.name)[:200]}: a size below zero")
        if member.type in (_LONG_NAME, *_EXTENDED):
            if member.size > _LONGEST_HEADER:
                raise UserError(f"{where}: a header of {member.size:,} bytes; at most {_LONGEST_HEADER:,} are allowed")
            data = _read(file, member.size, where)
            _read(file, -member.size % _BLOCK, where)
            longer = _longer_name(member.type, data, where) or longer
            continue
        name, longer = longer or member.name, ""
        if member.type == _FOLDER:
            yield name, None
        elif member.type in (_FILES[:1], _FILES[1:]):
            before = file.tell()
            yield name, member.size
            if file.tell() == before:
                _skip(file, member.size + -member.size % _BLOCK, where)
        else:
            what = "a link" if member.type in (b"1", b"2") else "a device, a pipe, or something else that is no file"
            raise UserError(f"{where}: {visible(name)[:200]!r} is {what}; nothing of this archive is read")


def _longer_name(kind: bytes, data: bytes, where: str) -> str:
    """The name that a header gives the next member; empty where it gives none."""
    if kind == _LONG_NAME:
        return data.rstrip(b"\0").decode("utf-8", "surrogateescape")
    found, rest = "", data
    while rest:
        length = re.match(rb"([0-9]{1,7}) ", rest)
        end = int(length[1]) if length else 0
        key, equals, value = rest[length.end() if length else 0 : end - 1].partition(b"=")
        if end < 5 or end > len(rest) or not equals:
            raise UserError(f"{where}: a damaged header; pack it again")
        word = key.decode("utf-8", "surrogateescape")
        if _STRUCTURAL.fullmatch(word):
            raise UserError(f"{where}: a header with {visible(word)[:60]!r}, which no packed results need")
        if word == "path":
            if kind != b"x":
                raise UserError(f"{where}: one name for all files")
            found = value.decode("utf-8", "surrogateescape")
        rest = rest[end:]
    return found


def _read(file: gzip.GzipFile, size: int, where: str) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise UserError(f"{where}: this is no whole .tar.gz: it ends too early")
    return data


def _skip(file: gzip.GzipFile, size: int, where: str) -> None:
    while size:
        size -= len(_read(file, min(size, 1 << 20), where))
