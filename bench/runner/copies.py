"""Processes that begin as copies of one interpreter, which has imported torch and done nothing else.

Importing torch takes seconds, and a copy takes none. The interpreter is started with the environment of the first
process that is wanted. It is copied (forked) for this one and for every later one whose environment is the same. It
runs no code of models or data sets, starts no thread and uses no GPU. Each copy is a clean process in a group of its
own, without a terminal.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any, Protocol

#: Beginnings of names of variables that nothing reads before a copy is made: they may differ from copy to copy.
READ_LATE = ("EQUIBENCH_", "PYTEST_")
#: Interpreters that are kept to be copied, each of a different environment.
KEPT = 2
#: Bytes of a message; an environment fits well.
_MESSAGE = 1 << 20


class Process(Protocol):
    """What the parent needs of a process: that part of `subprocess.Popen`."""

    stdin: IO[str] | None
    stdout: IO[str] | None

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> Any: ...  # a number once it has ended
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class Copy:
    """A copy of an `Original`, from the moment that it is asked for; as `Process`.

    Attributes:
        stdin, stdout: our ends of its pipes.
        returncode: its exit code, minus the number of the signal that ended it; None while it runs.
    """

    def __init__(self, stdin: IO[str], stdout: IO[str]) -> None:
        self.stdin: IO[str] | None = stdin
        self.stdout: IO[str] | None = stdout
        self.returncode: int | None = None
        self._pid, self._born, self._ended = 0, threading.Event(), threading.Event()

    @property
    def pid(self) -> int:
        """Its number; waits until there is one. That of a copy that could not be made is that of no process."""
        self._born.wait()
        return self._pid

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("a copy", timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None and self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def born(self, pid: int) -> None:
        """Its original has made it."""
        self._pid = pid
        self._born.set()

    def end(self, code: int) -> None:
        """It has ended, or could not be made."""
        self.returncode = code
        self._born.set()
        self._ended.set()

    def lose(self) -> None:
        """Kill it, as its original is gone: nobody else could tell how it ends."""
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        self.end(-signal.SIGKILL)


class Original:
    """An interpreter with torch, kept to be copied.

    Args:
        arguments: of Python, what it executes; that calls `serve`.
        environment: its variables.
        log: takes what it says, should it fail to begin.
    """

    def __init__(self, arguments: list[str], environment: Mapping[str, str], log: IO[str] | None) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for side in (self._control, theirs):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MESSAGE)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *arguments, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL if log is None else log,
                env=dict(environment),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._lock = threading.Lock()
        self._asked: list[Copy] = []  # in the order in which they are made
        self._alive: dict[int, Copy] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def idle(self) -> bool:
        """Whether no copy of it is alive."""
        return not (self._asked or self._alive)

    @property
    def gone(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def copy(self, late: Mapping[str, str], log: IO[str] | None) -> Copy:
        """Ask for a copy; it has ended at once where this interpreter has.

        Args:
            late: its variables beside those of this interpreter.
            log: where its standard error goes.
        """
        inner_in, ours_in = os.pipe()
        ours_out, inner_out = os.pipe()
        request = json.dumps({"folder": os.getcwd(), "environment": dict(late)}).encode()
        copy = Copy(os.fdopen(ours_in, "w", encoding="utf-8"), os.fdopen(ours_out, encoding="utf-8"))
        with os.fdopen(inner_in), os.fdopen(inner_out, "w"), open(os.devnull, "w") as nowhere, self._lock:
            errors = log or nowhere
            try:
                socket.send_fds(self._control, [request], [inner_in, inner_out, errors.fileno()])
                self._asked.append(copy)
            except OSError:
                copy.end(self._process.wait())
        return copy

    def close(self) -> None:
        """Let it end; copies that are alive then lose their exit code, so this is for one that is idle."""
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
                    copy.born(told["pid"])
                    self._alive[told["pid"]] = copy
        code = self._process.wait()
        with self._lock:
            for copy in self._asked:
                copy.end(code)
            for copy in self._alive.values():
                copy.lose()
            self._asked, self._alive = [], {}
        self._control.close()


_originals: dict[tuple[Any, ...], Original] = {}
_choosing = threading.Lock()


def begin(arguments: list[str], environment: Mapping[str, str], log: IO[str] | None) -> Copy:
    """A copy of an interpreter of this environment; the interpreter is started where there is none.

    Args:
        arguments: of Python, see `Original`.
        environment: variables of the process.
        log: where its standard error goes.
    """
    late = {name: value for name, value in environment.items() if name.startswith(READ_LATE)}
    early = {name: value for name, value in environment.items() if name not in late}
    key = (sys.executable, *arguments, *sorted(early.items()))
    with _choosing:
        original = _originals.pop(key, None)
        if original is None or original.gone:
            for other in [k for k, one in _originals.items() if one.idle][: max(0, len(_originals) - KEPT + 1)]:
                _originals.pop(other).close()
            original = Original(arguments, early, log)
        _originals[key] = original  # the one used last stands last
        return original.copy(late, log)


def serve(control: int) -> None:
    """In an original: make copies as they are asked for. Returns in each copy, never in the original.

    A copy has its own pipes, folder, late variables, and group of processes.

    Args:
        control: descriptor of the socket to the parent.
    """
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
                os._exit(0)  # copies notice by their standard input
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for handle in (woken, wake):
                    os.close(handle)
                parent.close()
                _become(json.loads(text), handles)
                return
            with suppress(OSError):  # it may have done so itself, and ended
                os.setpgid(pid, pid)  # before anybody can want to signal it and what it starts
            alive.add(pid)
            for handle in handles:
                os.close(handle)
            _tell(parent, {"pid": pid})


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
