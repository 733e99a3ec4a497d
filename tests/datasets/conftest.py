"""A file server on this machine with the faults of real ones, and where real image files may lie."""

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


@dataclass
class FileServer:
    """What is served, how it fails, and which requests came.

    Attributes:
        files: content by name.
        ranges: whether parts of a file can be asked for.
        breaks: bytes after which a response ends early, one number for each of the next responses.
        stall: if set, a response that would break off waits for this event instead.
        status: answered instead of a file, one for each of the next requests.
        says_length: whether responses carry a Content-Length.
        requests: (name, Range header) of every request.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    breaks: list[int] = field(default_factory=list)
    stall: threading.Event | None = None
    status: list[int] = field(default_factory=list)
    says_length: bool = True
    requests: list[tuple[str, str]] = field(default_factory=list)


def _handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, asked = self.path.rpartition("/")[2], self.headers.get("Range", "")
            server.requests.append((name, asked))
            if server.status or name not in server.files:
                self.send_error(server.status.pop(0) if server.status else 404)
                return
            data = server.files[name]
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
            if start and start >= len(data):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            if server.says_length:
                self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            stop = start + server.breaks.pop(0) if server.breaks else len(data)
            self.wfile.write(data[start:stop])
            if stop < len(data) and server.stall is not None:
                self.wfile.flush()
                server.stall.wait(60)

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def server() -> Iterator[FileServer]:
    settings = FileServer()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(settings))
    http.daemon_threads = True
    settings.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield settings
    http.shutdown()
    http.server_close()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with MNIST/raw and cifar10-lossless: $EQUIBENCH_TEST_DATA, else ../shared/data beside the repository."""
    folder = Path(os.environ.get("EQUIBENCH_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("real image files are not here; EQUIBENCH_TEST_DATA names their folder")
    return folder


def files_below(root: Path) -> dict[str, bytes]:
    """Everything that was left, but locks."""
    found = (p for p in root.rglob("*") if p.is_file() and p.suffix != ".lock")
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in found}


@pytest.fixture
def nobody_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's own downloads are never used: they cannot resume and know no mirror."""
    from equibench.datasets import fetch
    from torchvision.datasets import utils

    monkeypatch.setattr(fetch, "_PAUSE_S", 0.0)
    monkeypatch.delenv("EQUIBENCH_MIRROR", raising=False)

    def refuse(*args: object) -> None:
        raise AssertionError(f"torchvision downloads {args}")

    monkeypatch.setattr(utils, "_urlretrieve", refuse)
    monkeypatch.setattr(utils, "_get_redirect_url", refuse)
