"""Results folders as archives. The same files give the same bytes. Archives are read as untrusted input.

`tarfile` is not used for reading: it keeps names and extended headers of any length in memory, and creates links and
devices. `Limits` apply to the unpacked content, and are checked before it is written.
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
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from ...registry import UserError
from ..records.store import EXCHANGED, RUNS, board_names, exchanged_files
from ..spec.recipe import TUNED
from ..tools.files import WriteError, write_atomically
from ..tools.schema import LARGEST_FILE, visible
from ..tools.text import plural

#: File name extensions of archives.
SUFFIXES = (".tar.gz", ".tgz")
#: The folders of an archive: two of a results folder, and two that say how to repeat the runs.
SUITES, RECIPES = "suites", "recipes"
_TOP = (RUNS, TUNED, SUITES, RECIPES)
#: Types of headers that give the next member a longer name.
_NAMING = (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE)
#: Largest header with a name, in bytes: paths of results have up to 300 characters.
_LONGEST_HEADER = 1 << 16
#: Keys of an extended header that change the type or the size of a member.
_STRUCTURAL = re.compile(r"size|linkpath|hdrcharset|GNU\.sparse.*")


@dataclass(frozen=True)
class Limits:
    """Limits of a source: bytes after unpacking, and number of members (files and folders)."""

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
    """Write an archive in place of an older one. Raises UserError for another extension, or if it cannot be written."""
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"{path}: the name of an archive must be <name>.tar.gz")
    write_atomically(path, pack(files))


@contextmanager
def opened(source: Path, limits: Limits = Limits()) -> Iterator[Path]:
    """A source as a results folder: the folder itself, or the temporary folder of an unpacked archive.

    Raises UserError if the source is neither, or is an archive that is refused as a whole.
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
        what, other = ("this is neither", "nor") if source.exists() else ("this does not exist; give", "or")
        raise UserError(
            f"{source}: {what} a results folder (with 'runs' in it) {other} an archive of one (<name>.tar.gz)"
        )


def _look_at_folder(folder: Path, limits: Limits, name: str = "") -> None:
    """Refuse (UserError) a folder without runs, or with too many files."""
    if not (folder / RUNS).is_dir():
        what = "a results folder has 'runs' in it, with one folder per board"
        raise UserError(f"{name or folder} has no records: {what}")
    if next(islice(exchanged_files(folder, board_names(folder), ""), limits.members, None), None) is not None:
        raise UserError(f"{name or folder} has more than {plural(limits.members, 'file')}; merge it in parts")


def unpack(source: Path, folder: Path, limits: Limits) -> None:
    """Unpack the result files of an archive into a folder. Other files (logs, weights, figures) are left out.

    Raises:
        UserError: the file is not an archive, is damaged or truncated, exceeds the limits, or has paths that lead
            outside, links or devices. These are never packed by accident, so the whole archive is refused.
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
                    raise UserError(f"{source}: {visible(name)} is in the archive twice")
                data = _read_blocks(file, size, str(source))
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
                except OSError as error:  # the folder for temporary files is full
                    raise WriteError(path, error) from error
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"{source}: this is not a complete .tar.gz: {visible(str(error))[:200]}") from error


def _place(name: str, where: str) -> str | None:
    """The path of a member below the results folder; None if it is not a result file.

    An outer folder, as in ``leaderboards/runs/…``, is removed from the path. A path that leads outside is a UserError.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name or re.match("[A-Za-z]:", name):
        raise UserError(f"{where}: the path {visible(name)[:200]!r} leads outside; nothing of this archive is read")
    if len(parts) > 1 and parts[0] not in _TOP:
        parts = parts[1:]
    place = "/".join(parts)
    return place if EXCHANGED.fullmatch(place) else None


def _members(file: gzip.GzipFile, where: str, limits: Limits) -> Iterator[tuple[str, int | None]]:
    """Names and sizes of the files of an archive; the size is None for a folder. Raises UserError as `unpack`.

    The caller must read all blocks of a file, or nothing.
    """
    count, total, longer = 0, 0, ""
    while any(header := _read(file, tarfile.BLOCKSIZE, where)):
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        count, total = count + 1, total + max(member.size, 0)
        if count > limits.members or total > limits.size:
            raise UserError(
                f"{where}: it unpacks to more than {plural(limits.members, 'file')} or {limits.size >> 20:,} MiB;"
                " equibench export packs boards one by one, without weights"
            )
        if member.size < 0:
            raise UserError(f"{where}: {visible(member.name)[:200]}: a size below zero")
        if member.type in _NAMING:
            if member.size > _LONGEST_HEADER:
                raise UserError(f"{where}: a header of {member.size:,} bytes; at most {_LONGEST_HEADER:,} are allowed")
            data = _read_blocks(file, member.size, where)
            longer = _longer_name(member.type, data, where) or longer
            continue
        name, longer = longer or member.name, ""
        if member.type == tarfile.DIRTYPE:
            yield name, None
        elif member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
            before = file.tell()
            yield name, member.size
            if file.tell() == before:
                rest = member.size + -member.size % tarfile.BLOCKSIZE
                while rest:
                    rest -= len(_read(file, min(rest, 1 << 20), where))
        else:
            what = "a link" if member.islnk() or member.issym() else "a device, a pipe, or another special file"
            raise UserError(f"{where}: {visible(name)[:200]!r} is {what}; nothing of this archive is read")


def _longer_name(kind: bytes, data: bytes, where: str) -> str:
    """The name of the next member that a header contains; empty if it contains none."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return data.rstrip(b"\0").decode("utf-8", "surrogateescape")
    found, rest = "", data
    while rest:
        length = re.match(rb"([0-9]{1,7}) ", rest)
        end = int(length[1]) if length else 0
        key, equals, value = rest[length.end() if length else 0 : end - 1].partition(b"=")
        if end < 5 or end > len(rest) or not equals:
            raise UserError(f"{where}: a damaged header; pack the archive again")
        word = key.decode("utf-8", "surrogateescape")
        if _STRUCTURAL.fullmatch(word):
            raise UserError(f"{where}: a header with {visible(word)[:60]!r}, which archives of results do not have")
        if word == "path":
            if kind != tarfile.XHDTYPE:
                raise UserError(f"{where}: one name for all files")
            found = value.decode("utf-8", "surrogateescape")
        rest = rest[end:]
    return found


def _read(file: gzip.GzipFile, size: int, where: str) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise UserError(f"{where}: this is not a complete .tar.gz: it ends too early")
    return data


def _read_blocks(file: gzip.GzipFile, size: int, where: str) -> bytes:
    """So many bytes; what fills the last block is skipped."""
    return _read(file, size + -size % tarfile.BLOCKSIZE, where)[:size]
