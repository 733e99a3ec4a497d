"""The command line in this process: what it imports is there, and runs are copied from interpreters that are there.

It finds what a new process would: its own arguments, folder, environment and includes, and no terminal. The processes
of a check are copies too; those that `check_model` starts by itself are new interpreters, as everywhere. A test of
signals, of exit or of what is imported starts a process instead (`process`), or one for several commands (`several`).
"""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO
from unittest import mock

import click
from equibench import opened_files
from equibench.bench.cli.main import cli, main
from equibench.bench.runner import local
from equibench.bench.runner.fork_server import ForkedProcess
from equibench.bench.spec.suite import find_suite
from equibench.bench.tools.text import PROGRESS
from equibench.registry import DATASETS, MODELS, WRAPPERS, include
from equibench.tests.fakecuda.copied import Interpreter

COMMAND = (sys.executable, "-m", "equibench.bench.cli")
_interpreters: list[Interpreter] = []  # one, from the first use to the end of this process


def process(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    return subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, timeout=900, env={**os.environ, **environment}
    )


def begin(*arguments: str, cwd: Path, errors: IO[str], **environment: str) -> ForkedProcess:
    """A command in a process of its own, that is a copy of an interpreter that has imported torch.

    Args:
        errors: gets what it writes to its standard error; the caller reads its standard output.
    """
    if not _interpreters:
        _interpreters.append(Interpreter(os.environ))
    return _interpreters[0].begin(*COMMAND[1:], *arguments, cwd=cwd, errors=errors, **environment)


def several(*commands: tuple[str, ...], cwd: Path, **environment: str) -> list[subprocess.CompletedProcess[str]]:
    """Commands one after the other in one process of their own, which imports torch once for all."""
    code = "import json, sys; from equibench.tests.bench.commands import equibench as do; "
    code += "print(json.dumps([vars(do(*words)) for words in json.loads(sys.argv[1])]))"
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)],
        cwd=cwd, capture_output=True, text=True, timeout=900, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [subprocess.CompletedProcess(**each) for each in json.loads(done.stdout)]


def equibench(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in this process; what it does not catch is raised here."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with _as_new(cwd or Path.cwd(), arguments, environment), _printing(out, err):
            try:
                main()
            except SystemExit as end:
                code = end.code
        assert code is None or isinstance(code, int), code
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, code or 0, out.read().decode(), err.read().decode())


def read(command: str) -> None:
    """Read a line of a page as the command line does, and do nothing.

    Raises:
        Exception: there is no such command, option, suite, model or data set.
    """
    word, *arguments = shlex.split(command)
    assert word == "equibench", command
    group, context = cli, click.Context(cli)
    with _as_new(Path.cwd(), tuple(arguments), {}):
        while isinstance(group, click.Group):
            name, group, arguments = group.resolve_command(context, arguments)
            context = click.Context(group, context, name)
        given = group.make_context(name, arguments, context.parent).params
        include(given.get("includes") or ())
        for registry, key in ((MODELS, "models"), (MODELS, "model"), (DATASETS, "dataset")):
            names = given.get(key)
            for each in names.split(",") if isinstance(names, str) else ():
                registry.find(each)
        if given.get("suite"):
            find_suite(given["suite"])


@contextlib.contextmanager
def _printing(out: IO[bytes], err: IO[bytes]) -> Iterator[None]:
    """All output of this process and of its forks goes to these files, also the output of C libraries."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with contextlib.ExitStack() as stack:
        for number, file, before in zip((1, 2), (out, err), kept, strict=True):
            os.dup2(file.fileno(), number)
            stack.callback(os.close, before)
            stack.callback(os.dup2, before, number)
        texts = [
            stack.enter_context(open(number, "w", encoding="utf-8", buffering=1, closefd=False)) for number in (1, 2)
        ]
        stack.enter_context(contextlib.redirect_stdout(texts[0]))
        stack.enter_context(contextlib.redirect_stderr(texts[1]))
        yield


@contextlib.contextmanager
def _as_new(folder: Path, arguments: tuple[str, ...], environment: Mapping[str, str]) -> Iterator[None]:
    """This process as a new one would begin; at the end as it was."""
    registries = (MODELS, WRAPPERS, DATASETS)
    included = [list(registry._included) for registry in registries]
    modules = {name: sys.modules.pop(name) for name in [n for n in sys.modules if n.startswith("equibench_include_")]}
    imported, path, handlers = set(sys.modules), list(sys.path), list(PROGRESS.handlers)
    _include(registries, [[], [], []])
    try:
        with (
            contextlib.chdir(folder),
            mock.patch.dict(os.environ, environment),
            mock.patch.dict(opened_files._opened_by_key, clear=True),
            mock.patch.object(sys, "argv", ["equibench", *arguments]),
            mock.patch.object(local, "Check", local.Examination),  # so that a check is copied, as a run is
            mock.patch.object(warnings, "formatwarning", warnings.formatwarning),
            warnings.catch_warnings(),
        ):
            warnings.showwarning = _show  # pytest keeps them for itself
            warnings.simplefilter("default")
            for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
                warnings.simplefilter("ignore", kind)
            yield
    finally:
        _include(registries, included)
        neighbours = {entry for entry in sys.path if entry not in path}
        for name in set(sys.modules) - imported:
            file = getattr(sys.modules[name], "__file__", None)
            if name.startswith("equibench_include_") or (file and str(Path(file).parent) in neighbours):
                del sys.modules[name]
        sys.modules.update(modules)
        sys.path[:], PROGRESS.handlers[:] = path, handlers


def _include(registries: tuple, included: list[list[Path]]) -> None:
    for registry, files in zip(registries, included, strict=True):
        registry._included, registry._entries = files, None


def _show(message: Warning | str, category: type[Warning], filename: str, line: int, *_: object) -> None:
    print(warnings.formatwarning(message, category, filename, line), end="", file=sys.stderr)
