"""Downloading the files that a data set is made from: resumed, verified, never half under the final name.

A data set says what it needs with `downloads`, below its registration, and gets each file with `obtain`:

    ARCHIVE = Download("my-set/images.zip", ("https://example.org/images.zip",), md5="…")

    @register_dataset("my-set", …)
    @downloads(ARCHIVE)
    def my_set(root: Path) -> ImageData:
        path = obtain(root, ARCHIVE)

Files lie under ``<root>/raw``. ``EQUIBENCH_MIRROR`` names a folder on a server that is then asked instead of the
published addresses, for the place of a file, then for its name alone. What it gives is verified like everything else.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from filelock import FileLock

from ..registry import DATASETS, Entry, UserError

F = TypeVar("F", bound=Callable[..., object])
#: Told (bytes that are here, bytes in all or None if no one knows).
Progress = Callable[[int, int | None], None]

_TIMEOUT_S = 30.0  # without a single byte
_PAUSE_S = 1.0  # before a broken transfer goes on, times the number of fruitless attempts
_ATTEMPTS = 3  # that bring nothing new, before an address is given up
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Download:
    """A published file.

    Attributes:
        path: where it is kept, below the folder; a mirror is asked for it, then for its last part.
        urls: addresses, tried in this order.
        md5, sha256: published digests, hexadecimal; at least one.
        size: bytes, None if it is not published.
        folder: below the root.
    """

    path: str
    urls: tuple[str, ...]
    md5: str = ""
    sha256: str = ""
    size: int | None = None
    folder: str = "raw"

    def __post_init__(self) -> None:
        if not (self.md5 or self.sha256):
            raise ValueError(f"{self.path}: a download needs an MD5 or SHA-256 to be verified with")

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def expected(self) -> str:
        """What the file must be, for a sentence."""
        digest = f"SHA-256 {self.sha256}" if self.sha256 else f"MD5 {self.md5}"
        return digest if self.size is None else f"{self.size:,} bytes, {digest}"


#: Says which files are needed beside what is below a root, given also the arguments of a member.
Wanted = Callable[..., Sequence[Download]]


def downloads(*files: Download | Wanted) -> Callable[[F], F]:
    """Say which files the decorated data set is made from; a function of the root says it where that depends on it."""

    def decorate(function: F) -> F:
        function.downloads = files  # type: ignore[attr-defined]
        return function

    return decorate


def needed(entry: Entry, root: Path) -> list[Download]:
    """The files that a data set is made from, whether they are below `root` or not.

    Raises:
        UserError: a package is missing that knows them.
    """
    if entry.missing:
        raise UserError(f"the data set {entry.name} {entry.missing}")
    named: Sequence[Download | Wanted] = getattr(entry.load(), "downloads", ())
    return [
        file for some in named for file in ([some] if isinstance(some, Download) else some(root, **entry.arguments))
    ]


def fetch(name: str, root: Path, progress: Progress | None = None) -> None:
    """Download what the data set `name` is made from, into `root`; only verify what is there already.

    Many processes may do this at once: one downloads, the others wait for it. An interrupted download goes on where
    it ended. A data set that needs no files is ready at once.

    Args:
        name: a registered data set.
        root: folder of the data sets.
        progress: called while bytes come in, over all files of the data set.

    Raises:
        UserError: the name is unknown, no address gives the file, it is not the published one, or it cannot be written.
    """
    files = needed(DATASETS.find(name).entry, root)
    done, sizes = dict.fromkeys(files, 0), {file: file.size for file in files}
    for file in files:

        def tell(count: int, size: int | None, file: Download = file) -> None:
            done[file], sizes[file] = count, size
            known = [s for s in sizes.values() if s is not None]
            if progress is not None:
                progress(sum(done.values()), sum(known) if len(known) == len(files) else None)

        path = obtain(root, file, tell)
        size = path.stat().st_size
        tell(size, size)


def obtain(root: Path, file: Download, progress: Progress | None = None) -> Path:
    """Path of a verified copy of `file` below `root`, downloaded where there is none.

    Raises:
        UserError: as `fetch`.
    """
    target = root / file.folder / file.path
    # Nothing is written where the file is there: the folder may be somebody else's.
    if target.is_file():
        return _verified(target, file)
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            if not target.is_file():
                _download(file, part, target, progress or (lambda done, total: None))
                os.replace(part, target)
    except OSError as error:
        raise _unwritable(target, error) from error
    return target


def _verified(path: Path, file: Download) -> Path:
    try:
        found = _difference(path, file)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    if found:
        raise UserError(
            f"{path} is not the published file: expected {file.expected}, got {found}; delete it, and it is downloaded"
            " again, or put the right file there"
        )
    return path


def _difference(path: Path, file: Download) -> str:
    """How the file at `path` differs from what is published, empty if it does not."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"{size:,} bytes"
    for kind, expected in (("SHA-256", file.sha256), ("MD5", file.md5)):
        if expected:
            with path.open("rb") as stream:
                got = hashlib.file_digest(stream, kind.lower().replace("-", "")).hexdigest()
            if got != expected.lower():
                return f"{size:,} bytes with {kind} {got}"
    return ""


def _addresses(file: Download) -> tuple[str, ...]:
    mirror = os.environ.get("EQUIBENCH_MIRROR", "")
    if not mirror:
        return file.urls
    if not mirror.startswith(("http://", "https://")):
        raise UserError(f"EQUIBENCH_MIRROR={mirror!r} must begin with http:// or https://")
    return tuple(dict.fromkeys(f"{mirror.rstrip('/')}/{place}" for place in (file.path, file.name)))


class _Refused(Exception):
    """An address does not give the file; the message says why."""


def _download(file: Download, part: Path, target: Path, tell: Progress) -> None:
    """Bring `part` to be the whole, verified file."""
    failures = []
    for url in _addresses(file):
        try:
            _from_address(url, file, part, tell)
            return
        except _Refused as error:
            failures.append(f"{url}: {error}")
    raise UserError(
        f"{file.name} could not be downloaded ({'; '.join(failures)}); try again later, name a mirror with"
        f" EQUIBENCH_MIRROR, or put the file ({file.expected}) at {target} by hand"
    )


def _from_address(url: str, file: Download, part: Path, tell: Progress) -> None:
    resumed = _length(part) > 0
    _transfer(url, file, part, tell)
    found = _difference(part, file)
    if found and resumed:
        # The beginning may have come from another address, or from a file that has changed since: all of it again.
        part.unlink()
        _transfer(url, file, part, tell)
        found = _difference(part, file)
    if found:
        part.unlink()
        raise _Refused(f"expected {file.expected}, got {found}")


def _transfer(url: str, file: Download, part: Path, tell: Progress) -> None:
    """Ask `url` until all of the file is in `part`; broken transfers go on where they ended."""
    best, fruitless = _length(part), 0
    while True:
        try:
            reason = _receive(url, file, part, tell)
        except (urllib.error.HTTPError, _Unreachable) as error:
            code = error.code if isinstance(error, urllib.error.HTTPError) else None
            if code is None or not (code >= 500 or code in (408, 429)):
                raise _Refused(str(error)) from error
            reason = str(error)
        if not reason:
            return
        length = _length(part)
        fruitless = 0 if length > best else fruitless + 1
        best = max(best, length)
        if fruitless == _ATTEMPTS:
            raise _Refused(f"{reason}; expected {file.expected}, got {best:,} bytes")
        time.sleep(_PAUSE_S * fruitless)


class _Unreachable(Exception):
    """There is no connection to the host."""


def _receive(url: str, file: Download, part: Path, tell: Progress) -> str:
    """One request; returns why the transfer broke off, empty if all is there.

    Raises:
        urllib.error.HTTPError, _Unreachable: there was no transfer.
        _Refused: what is offered has another length than the published file.
        UserError: `part` cannot be written.
    """
    start = _length(part)
    if file.size is not None and start >= file.size:
        return ""
    request = urllib.request.Request(url, headers={"User-Agent": "equibench"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:  # all is here already, or too much: the digest decides
            return ""
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Unreachable(str(getattr(error, "reason", "") or error) or type(error).__name__) from error
    with response:
        start = _start(response, start)
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else file.size
        if file.size is not None and total != file.size:
            raise _Refused(f"expected {file.expected}, got a file of {total:,} bytes")
        return _append(response, part, start, total, tell)


def _start(response: http.client.HTTPResponse, wanted: int) -> int:
    """Where in the file the response begins: at `wanted`, or at 0 if the server knows no ranges."""
    if response.status != 206:
        return 0
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if not found or int(found[1]) != wanted:
        raise _Refused(f"asked for the bytes from {wanted:,}, got {response.headers.get('Content-Range', 'others')!r}")
    return wanted


def _append(response: http.client.HTTPResponse, part: Path, start: int, total: int | None, tell: Progress) -> str:
    done = start
    try:
        # Unbuffered, so that what came is kept even if this process is killed.
        with part.open("r+b" if part.exists() else "wb", buffering=0) as out:
            out.truncate(start)
            out.seek(start)
            while True:
                tell(done, total)
                try:
                    block = response.read1(_BLOCK)
                except (OSError, http.client.HTTPException) as error:
                    return f"broke off ({str(error) or type(error).__name__})"
                if not block:
                    break
                _write(out, block)
                done += len(block)
            os.fsync(out.fileno())
    except OSError as error:
        raise _unwritable(part, error) from error
    return "" if total is None or done >= total else "broke off"


def _write(out: IO[bytes], block: bytes) -> None:
    """All of `block`; an unbuffered file may take only a part at a time."""
    view = memoryview(block)
    while view:
        view = view[out.write(view) :]


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _unwritable(path: Path, error: OSError) -> UserError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    repair = "free some space and go on with the same command" if full else "make the folder writable"
    return UserError(
        f"{path} cannot be written ({error.strerror or error}); {repair}, or give another folder with --data-root DIR"
        " or EQUIBENCH_DATA"
    )
