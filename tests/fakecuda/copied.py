"""Python as copies of one interpreter, for example beside the stand-in for CUDA. It has imported torch, and of the
harness what runs and commands need, and done nothing else.

The stand-in reads its variables when it is first asked, so that each copy can have others. Executed, this is the
interpreter: each copy does what ``python -W ignore`` does with the arguments in the first line of its standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from equibench.bench.runner.fork_server import ForkedProcess

ROOT = Path(__file__).resolve().parents[2]


def beside_the_stand_in() -> dict[str, str]:
    """The environment of a process that takes the stand-in for CUDA's runtime."""
    ask = [str(ROOT / "tests" / "fakecuda" / "run"), sys.executable, sys.executable, "-c"]
    done = subprocess.run([*ask, "import json, os; print(json.dumps(dict(os.environ)))"], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


class Interpreter:
    """The interpreter, for tests.

    Args:
        environment: its variables.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        from equibench.bench.runner.fork_server import ForkServer

        self._server = ForkServer([__file__], environment, None)

    def begin(self, *arguments: str, cwd: Path, errors: IO[str], **variables: str) -> ForkedProcess:
        """Start Python with these arguments; the variables are of its environment, and `errors` gets its errors."""
        with contextlib.chdir(cwd):
            copy = self._server.fork(variables, errors)
        assert copy.stdin is not None
        copy.stdin.write(json.dumps(arguments) + "\n")
        copy.stdin.flush()
        return copy

    def run(self, *arguments: str, timeout: float = 300, **variables: str) -> subprocess.CompletedProcess[str]:
        """Python with these arguments, in the repository's folder; the variables are of its environment."""
        contexts = tempfile.mkdtemp()
        read: list[str] = []
        with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
            late = {name: os.environ[name] for name in os.environ if name.startswith(("EQUIBENCH_", "PYTEST_"))}
            variables = {**late, **variables, "FAKE_CUDA_CONTEXTS": contexts}
            copy = self.begin(*arguments, cwd=ROOT, errors=errors, **variables)
            assert copy.stdin is not None and copy.stdout is not None
            with copy.stdin, copy.stdout:
                reader = threading.Thread(target=lambda: read.append(copy.stdout.read()))
                reader.start()
                try:
                    code = copy.wait(timeout)
                except subprocess.TimeoutExpired:
                    os.killpg(copy.pid, signal.SIGKILL)
                    raise
                finally:
                    reader.join()
                    shutil.rmtree(contexts, ignore_errors=True)
            errors.seek(0)
            return subprocess.CompletedProcess(arguments, code, "".join(read), errors.read())

    def close(self) -> None:
        """Let it end."""
        self._server.close()


def execute(first: str, *rest: str) -> None:
    """What Python does with these arguments."""
    warnings.simplefilter("ignore")
    sys.path[0] = ""
    if first == "-c":
        sys.argv[:] = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        sys.argv[:] = list(rest)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = [first, *rest]
        sys.path[0] = str(Path(first).resolve().parent)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    import equibench.bench.cli.main
    import equibench.bench.runner.head_to_head
    import equibench.bench.training.run  # noqa: F401
    from equibench.bench.runner.fork_server import call_and_end, serve

    serve(int(sys.argv[-1]))
    call_and_end(lambda: execute(*json.loads(sys.stdin.readline())))
