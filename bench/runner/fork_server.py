"""A fork server: new processes are forks of one interpreter that has only imported torch.

Importing torch takes seconds; a fork takes milliseconds. The first process with some environment starts a fork server.
Later processes with the same environment are forked from it. The fork server runs no code of models or data sets,
starts no thread and uses no GPU. Each fork is a clean process in its own process group, without a terminal.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any, NoReturn

#: Prefixes of environment variables that nothing reads before a fork: they may differ from fork to fork.
LATE_VARIABLES = ("EQUIBENCH_", "PYTEST_")
#: Number of fork servers that are kept, each with a different environment.
KEPT = 2
#: Largest size of a message in bytes; enough for an environment.
_MESSAGE = 1 << 20


class ForkedProcess:
    """A process forked from a `ForkServer`, from the time of the request; used as a `subprocess.Popen`."""

    def __init__(self, stdin: IO[str], stdout: IO[str]) -> None:
        self.stdin: IO[str] | None = stdin
        self.stdout: IO[str] | None = stdout
        self.returncode: Any = None  # an integer after the end
        self._pid, self._forked, self._ended = 0, threading.Event(), threading.Event()

    @property
    def pid(self) -> int:
        """Its process id; waits until it is known. It is 0 if the process could not be forked."""
        self._forked.wait()
        return self._pid

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("a fork", timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def forked(self, pid: int) -> None:
        """Note that the fork server has forked it."""
        self._pid = pid
        self._forked.set()

    def end(self, code: int) -> None:
        """Note that it has ended, or could not be forked."""
        self.returncode = code
        self._forked.set()
        self._ended.set()

    def kill(self) -> None:
        """Kill it because its fork server has ended: nothing else could report its exit code."""
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        self.end(-signal.SIGKILL)


Process = subprocess.Popen[str] | ForkedProcess


class ForkServer:
    """A fork server: an interpreter that has imported torch. Its `arguments` start a program that calls `serve`."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str], log: IO[str] | None) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for side in (self._control, theirs):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MESSAGE)
        nothing = subprocess.DEVNULL
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *arguments, str(theirs.fileno())], stdin=nothing, stdout=nothing,
                stderr=nothing if log is None else log, env=dict(environment), pass_fds=[theirs.fileno()],
                start_new_session=True,
            )  # fmt: skip
        self._lock = threading.Lock()
        self._asked: list[ForkedProcess] = []  # in the order of their requests
        self._alive: dict[int, ForkedProcess] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def idle(self) -> bool:
        """Whether none of its forks is alive."""
        return not (self._asked or self._alive)

    @property
    def gone(self) -> bool:
        """Whether the fork server has ended."""
        return self._process.poll() is not None

    def fork(self, late: dict[str, str], log: IO[str] | None) -> ForkedProcess:
        """Request a fork with more environment variables (`late`); its standard error goes to `log`.

        If this fork server has ended, the returned process has ended too.
        """
        inner_in, ours_in = os.pipe()
        ours_out, inner_out = os.pipe()
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        request = json.dumps({"folder": os.getcwd(), "environment": late, "cores": cores}).encode()
        copy = ForkedProcess(os.fdopen(ours_in, "w", encoding="utf-8"), os.fdopen(ours_out, encoding="utf-8"))
        with os.fdopen(inner_in), os.fdopen(inner_out, "w"), open(os.devnull, "w") as nowhere, self._lock:
            errors = log or nowhere
            try:
                socket.send_fds(self._control, [request], [inner_in, inner_out, errors.fileno()])
                self._asked.append(copy)
            except OSError:
                copy.end(self._process.wait())
        return copy

    def close(self) -> None:
        """End the fork server. It must be idle, because the exit codes of living forks would be lost."""
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        self._process.wait()

    def _listen(self) -> None:
        while True:
            try:
                text = self._control.recv(_MESSAGE)
            except OSError:
                text = b""
            if not text:
                break
            told = json.loads(text)
            with self._lock:
                if "code" in told:
                    self._alive.pop(told["pid"]).end(told["code"])
                else:
                    copy = self._asked.pop(0)
                    copy.forked(told["pid"])
                    self._alive[told["pid"]] = copy
        code = self._process.wait()
        with self._lock:
            for copy in self._asked:
                copy.end(code)
            for copy in self._alive.values():
                copy.kill()
            self._asked, self._alive = [], {}
        self._control.close()


_servers: dict[tuple[Any, ...], ForkServer] = {}
_choosing = threading.Lock()


def start_forked(arguments: list[str], environment: Mapping[str, str], log: IO[str] | None) -> ForkedProcess:
    """Start a process as a fork; starts a fork server if there is none with this environment. See `ForkServer`."""
    late = {name: value for name, value in environment.items() if name.startswith(LATE_VARIABLES)}
    early = {name: value for name, value in environment.items() if name not in late}
    key = (sys.executable, *arguments, *sorted(early.items()))
    with _choosing:
        server = _servers.pop(key, None)
        if server is None or server.gone:
            for other in [k for k, one in _servers.items() if one.idle][: max(0, len(_servers) - KEPT + 1)]:
                _servers.pop(other).close()
            server = ForkServer(arguments, early, log)
        _servers[key] = server  # the most recently used one is last
        return server.fork(late, log)


def serve(control: int) -> None:
    """In a fork server: fork on request. Returns in each fork, and never in the fork server.

    A fork has its own pipes, current folder, late environment variables, cores and process group. `control` is the
    descriptor of the socket to the parent.
    """
    gc.freeze()  # forks neither collect nor flush what they share with the server
    parent = socket.socket(fileno=control)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    alive: set[int] = set()
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            for pid in list(alive):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    alive.remove(pid)
                    _tell(parent, {"pid": pid, "code": os.waitstatus_to_exitcode(status)})
        if control in ready:
            text, handles, _, _ = socket.recv_fds(parent, _MESSAGE, 3)
            if not text:
                os._exit(0)  # the forks notice it by their standard input
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for handle in (woken, wake):
                    os.close(handle)
                parent.close()
                _become(json.loads(text), handles)
                return
            with suppress(OSError):  # the fork may have done this itself, and ended
                os.setpgid(pid, pid)  # before anyone can send a signal to the group
            alive.add(pid)
            for handle in handles:
                os.close(handle)
            _tell(parent, {"pid": pid})


def call_and_end(main: Callable[[], None]) -> NoReturn:
    """In a fork: call `main`, then end the process as Python does, but without the teardown of the interpreter.

    The teardown writes to nearly all objects that the fork shares with its server. This copies their memory, and takes
    0.7 s. Threads are joined, exit functions are called, and files are flushed. Objects are not deleted: their
    `__del__` is not called. After an exception, the teardown is kept, so exit code and words are Python's.
    """
    code = 0
    try:
        main()
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        code = end.code or 0
    for last in (threading._shutdown, atexit._run_exitfuncs, _flush_files):  # type: ignore[attr-defined]
        try:
            last()
        except BaseException:  # as in Python, it does not change the exit code
            sys.excepthook(*sys.exc_info())
    os._exit(code & 0xFF)


def _flush_files() -> None:
    """Write what files of Python and of C still hold, such as the open log of a model."""
    for one in gc.get_objects():
        if issubclass(type(one), io.TextIOWrapper | io.BufferedWriter | io.BufferedRandom):
            with suppress(OSError, ValueError):
                one.flush()
    ctypes.CDLL(None).fflush(None)


def _tell(parent: socket.socket, message: dict[str, int]) -> None:
    try:
        parent.send(json.dumps(message).encode())
    except OSError:
        os._exit(0)


def _become(request: dict[str, Any], handles: list[int]) -> None:
    os.setpgid(0, 0)
    for number, handle in enumerate(handles):
        os.dup2(handle, number)
    for handle in handles:
        os.close(handle)
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    if request["cores"]:  # of the parent now: it may have been limited after the server began
        with suppress(OSError):  # none of them is left
            os.sched_setaffinity(0, request["cores"])
