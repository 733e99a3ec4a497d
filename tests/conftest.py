"""Shared by all tests: one torch thread, because two collapse as soon as another process holds a core; no leftovers."""

import compileall
import functools
import gc
import os
import platform
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# How long an example takes says something of the machine alone.
hypothesis.settings.register_profile("equibench", deadline=None)
hypothesis.settings.load_profile("equibench")
os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """One process for tests on a GPU: beside each other they would not be alone on it. Of the others one more than
    there are cores: many of them wait, for a process, for a deadline or for the stand-in for CUDA.
    """
    chosen = config.option.markexpr or ""
    if "gpu" in chosen.replace("not gpu", ""):
        return 1
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) + 1


def pytest_configure(config: pytest.Config) -> None:
    """Compile the package once: where Python may not write bytecode, each of hundreds of processes would do so."""
    if sys.dont_write_bytecode and not hasattr(config, "workerinput"):
        for folder in ("bench", "datasets", "models"):
            compileall.compile_dir(ROOT / folder, quiet=2)
        compileall.compile_dir(ROOT, maxlevels=0, quiet=2)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the tests as pytest has compiled them: this takes a third of the collection, in each process."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    try:
        return (yield)
    finally:
        sys.dont_write_bytecode = before


#: Files that take a quarter of a minute or more. They come first: a process that begins one last keeps all others
#: waiting.
LONG = (
    "fakecuda/test_devices.py", "bench/test_real_types.py", "models/test_every_model.py", "bench/training/test_run.py",
    "test_python_page.py", "bench/check/test_session.py", "bench/publish/test_explore.py", "fakecuda/test_doctor.py",
    "fakecuda/test_one_run.py", "fakecuda/test_gpus.py", "bench/runner/test_shards.py", "test_packaging.py",
    "bench/exchange/test_validate.py", "bench/check/doctor/test_doctor.py", "test_tutorial.py",
    "bench/check/test_libraries.py", "bench/boards/test_families.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, the others as they are."""

    def rank(item: pytest.Item) -> int:
        name = item.path.relative_to(ROOT / "tests").as_posix() if item.path.is_relative_to(ROOT / "tests") else ""
        return LONG.index(name) if name in LONG else len(LONG)

    items.sort(key=rank)


def _leave_out_what_stays() -> None:
    """Python's collections of garbage leave out what is there: half a million objects, of which nearly all stay."""
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    _leave_out_what_stays()


@pytest.fixture(scope="module", autouse=True)
def _only_what_is_shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Files that a module of tests includes or imports from its temporary folders are forgotten after it."""
    from equibench.registry import DATASETS, MODELS, WRAPPERS

    kept = [(registry, list(registry._included)) for registry in (MODELS, WRAPPERS, DATASETS)]
    yield
    for registry, included in kept:
        registry._included, registry._entries = included, None
    if not gc.get_freeze_count():  # a check of a model takes all in again
        _leave_out_what_stays()
    made = f"{tmp_path_factory.getbasetemp()}{os.sep}"
    for name in [n for n, m in sys.modules.items() if str(getattr(m, "__file__", None)).startswith(made)]:
        del sys.modules[name]


@pytest.fixture(scope="session", autouse=True)
def _files_of_ours_are_scanned_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A registry scans all files again after each change of what is included; those of the repository are the same."""
    from equibench import scan

    read, temporary = scan.scan_file, tmp_path_factory.getbasetemp()
    once = functools.cache(lambda *asked: tuple(read(*asked)))

    def scan_file(path: Path, *asked: str, **more: str) -> Iterable[Any]:
        ours = path.is_relative_to(ROOT) and not path.is_relative_to(temporary)
        return once(path, *asked, *more.values()) if ours else read(path, *asked, **more)

    scan.scan_file = scan_file


@pytest.fixture(scope="session", autouse=True)
def _waiting_for_other_tests_is_no_matter() -> None:
    """Runs of tests wait for processors that other tests use. No table that is read here leaves their times out."""
    from equibench.bench.records import record

    record.WAITING_SHARE = 99.0


@pytest.fixture(scope="session", autouse=True)
def _no_stacks_of_seeds() -> None:
    """Where no GPU is in use, torch writes down the stack of every call of `manual_seed`, three times."""
    torch = sys.modules.get("torch")
    for device in (torch.cuda, torch.mtia, torch.xpu) if torch else ():
        device.traceback = types.SimpleNamespace(format_stack=list)


@pytest.fixture(scope="session")
def fake_cuda() -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Runs Python with these arguments, in the repository's folder, beside a stand-in for CUDA (`tests/fakecuda`).

    Names given as keywords become variables of its environment. See `tests.fakecuda.copied`.
    """
    import torch

    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("the stand-in for CUDA is made for Linux on x86-64")
    if not (torch.version.cuda or "").startswith("13."):
        pytest.skip(f"the stand-in is made for a torch of CUDA 13; this one is for {torch.version.cuda or 'none'}")
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc to build the stand-in for CUDA")

    from equibench.tests.fakecuda.copied import Interpreter, beside_the_stand_in

    interpreter = Interpreter(beside_the_stand_in())
    yield interpreter.run
    interpreter.close()
