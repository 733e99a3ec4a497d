"""Forks of an interpreter are as clean, and as well supervised, as new interpreters."""

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from equibench.bench.runner import fork_server
from equibench.bench.runner.fork_server import ForkedProcess, start_forked
from equibench.bench.runner.local import GRACE_S, end, environment
from equibench.bench.tools.machine import usable_cores

#: The program of a fork server: like the worker, but its forks execute the first line of their input.
SCRIPT = """
import os, signal, sys, threading, time
from equibench.bench.runner.fork_server import call_and_end, serve
{before}
serve(int(sys.argv[-1]))
call_and_end(lambda: exec(sys.stdin.readline(), globals()))
"""


@pytest.fixture(autouse=True)
def _own_servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fork_server, "_servers", {})
    yield
    for server in fork_server._servers.values():
        server.close()


def start(log: Path, line: str, before: str = "", **variables: str) -> ForkedProcess:
    with log.open("a") as file:
        copy = start_forked(["-c", SCRIPT.format(before=before)], {**environment(1), **variables}, file)
    assert copy.stdin is not None
    try:
        copy.stdin.write(line + "\n")
        copy.stdin.flush()
    except BrokenPipeError:
        pass
    return copy


def said(copy: ForkedProcess) -> str:
    assert copy.stdout is not None
    text = copy.stdout.read().strip()
    copy.wait(60)
    return text


@pytest.mark.skipif(usable_cores() < 2, reason="there is one core")
def test_a_copy_may_use_the_cores_that_its_parent_may_use_now(tmp_path: Path) -> None:
    cores, line = os.sched_getaffinity(0), "print(os.getppid(), *sorted(os.sched_getaffinity(0)))"
    server, *all_of_them = said(start(tmp_path / "log", line)).split()
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert said(start(tmp_path / "log", line)).split() == [server, str(min(cores))]
    finally:
        os.sched_setaffinity(0, cores)
    assert all_of_them == [str(core) for core in sorted(cores)]


def test_copies_come_from_one_fork_server_and_have_groups_folders_and_variables_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "print(os.getppid(), os.getpid(), os.getpgid(0), os.getcwd(), os.environ.get('EQUIBENCH_X'))"
    first = start(tmp_path / "log", line, EQUIBENCH_X="one")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    second = start(tmp_path / "log", line, EQUIBENCH_X="two")
    third = start(tmp_path / "log", line)
    facts = [said(copy).split() for copy in (first, second, third)]
    assert len({parent for parent, *_ in facts}) == 1
    assert [int(own) for _, own, *_ in facts] == [first.pid, second.pid, third.pid]
    assert all(own == group for _, own, group, *_ in facts)
    assert facts[1][3] == str(tmp_path / "elsewhere") != facts[0][3]
    assert [value for *_, value in facts] == ["one", "two", "None"]


def test_a_variable_that_libraries_read_at_their_start_takes_another_original(tmp_path: Path) -> None:
    parents = {
        said(start(tmp_path / "log", "print(os.getppid())", **variables))
        for variables in ({}, {"OMP_NUM_THREADS": "2"}, {"CUDA_VISIBLE_DEVICES": "1"}, {"ANY": "thing"}, {})
    }
    # Of four environments two originals are kept; the first came twice, and its server had gone.
    assert len(parents) == 5
    assert len(fork_server._servers) == fork_server.KEPT


def test_nothing_that_one_copy_does_is_seen_in_the_next(tmp_path: Path) -> None:
    line = "print(getattr(sys, 'mark', 0), os.environ.get('MARK')); sys.mark = 1; os.environ['MARK'] = '1'"
    assert [said(start(tmp_path / "log", line)) for _ in range(2)] == ["0 None", "0 None"]


@pytest.mark.parametrize(
    ("line", "code", "log"),
    [
        ("pass", 0, ""),
        ("sys.exit(7)", 7, ""),
        ("sys.exit('no more')", 1, "no more"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("os.abort()", -signal.SIGABRT, ""),
        ("os._exit(9)", 9, ""),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
    ],
)
def test_how_a_copy_ended_is_told_as_of_any_process(tmp_path: Path, line: str, code: int, log: str) -> None:
    copy = start(tmp_path / "log", line)
    assert copy.wait(60) == code == copy.poll()
    assert (tmp_path / "log").read_text().strip().splitlines()[-1:] == ([log] if log else [])


def test_a_copy_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    line = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    copy = start(tmp_path / "log", line)
    assert copy.stdout is not None
    child = int(copy.stdout.readline())
    end(copy)
    assert copy.returncode == -signal.SIGTERM
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text():
            break
        time.sleep(0.1)
    else:
        pytest.fail("what the copy had started is still running")


def test_waiting_for_a_copy_has_a_limit(tmp_path: Path) -> None:
    copy = start(tmp_path / "log", "time.sleep(600)")
    with pytest.raises(subprocess.TimeoutExpired):
        copy.wait(0.01)
    assert copy.poll() is None
    begun = time.monotonic()
    end(copy)
    # Asked to end as soon as it was born, it was not waited for in vain.
    assert copy.returncode == -signal.SIGTERM
    assert time.monotonic() - begun < GRACE_S


def test_a_copy_notices_that_its_parent_is_gone_while_others_live(tmp_path: Path) -> None:
    """No later copy holds the other end of its pipes."""
    line = "print('heard' if sys.stdin.read() == '' else '', flush=True)"
    first = start(tmp_path / "log", line)
    other = start(tmp_path / "log", "time.sleep(600)")
    assert other.pid
    assert first.stdin is not None
    first.stdin.close()
    assert said(first) == "heard"
    end(other)


def test_copies_of_a_fork_server_that_is_killed_are_lost(tmp_path: Path) -> None:
    copy = start(tmp_path / "log", "print(os.getppid(), flush=True); time.sleep(600)")
    assert copy.stdout is not None
    os.kill(int(copy.stdout.readline()), signal.SIGKILL)
    assert copy.wait(60) == -signal.SIGKILL
    assert said(start(tmp_path / "log", "print('again')")) == "again"


def test_why_a_fork_server_cannot_begin_is_in_the_log_of_every_process(tmp_path: Path) -> None:
    for number in range(2):
        log = tmp_path / f"{number}.log"
        copy = start(log, "pass", before="raise ImportError('libtorch is missing')")
        assert copy.wait(60) == 1
        assert log.read_text().strip().endswith("ImportError: libtorch is missing")
        end(copy)


def test_fork_servers_end_with_their_parent(tmp_path: Path) -> None:
    code = f"""
from equibench.bench.runner.fork_server import start_forked
from equibench.bench.runner.local import environment
copy = start_forked(["-c", {SCRIPT.format(before="")!r}], environment(1), None)
copy.stdin.write("print(os.getppid(), flush=True); time.sleep(600)\\n")
copy.stdin.flush()
print(copy.stdout.readline(), copy.pid)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    server, copy = map(int, done.stdout.split())
    for _ in range(100):
        if not Path(f"/proc/{server}").exists():
            break
        time.sleep(0.1)
    else:
        pytest.fail("the server is still there")
    os.kill(copy, signal.SIGKILL)  # a run would end with a checkpoint; this one listens to nothing


def test_copies_of_the_fork_server_of_runs_begin_as_fresh_interpreters_do(tmp_path: Path) -> None:
    script = "import os, sys; from equibench.bench.worker import be_fork_server; be_fork_server(int(sys.argv[-1]))"
    line = (
        "import numpy, random, torch; print(torch.cuda.is_initialized(), len(os.listdir('/proc/self/task')),"
        " torch.initial_seed(), numpy.random.rand(), random.random(),"
        " [m for m in sys.modules if m.startswith(('equibench.models', 'equibench.datasets', 'escnn'))])"
    )
    told = [said(start(tmp_path / "log", line, script + "; exec(sys.stdin.readline()); sys.exit()")) for _ in range(2)]
    first, second = (text.split(maxsplit=5) for text in told)
    for words in (first, second):
        assert (words[0], words[1], words[5]) == ("False", "1", "[]")
    # Nobody has seeded these; that two processes agree would hide it.
    assert all(a != b for a, b in zip(first[2:5], second[2:5], strict=True))


@pytest.mark.parametrize(
    ("line", "code", "output", "log"),
    [
        ("print('done')", 0, "done", ""),
        ("sys.exit(3)", 3, "", ""),
        ("sys.exit()", 0, "", ""),
        ("sys.exit('no such file')", 1, "", "no such file"),
        ("raise ValueError('a fault')", 1, "", "ValueError: a fault"),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", -signal.SIGTERM, "", ""),
        ("import atexit; atexit.register(print, 'function'); print('main')", 0, "main\nfunction", ""),
        ("import weakref; kept = type('K', (), {})(); weakref.finalize(kept, print, 'finalizer')", 0, "finalizer", ""),
        ("threading.Thread(target=lambda: (time.sleep(0.3), print('thread'))).start()", 0, "thread", ""),
        ("raise KeyboardInterrupt", -signal.SIGINT, "", "KeyboardInterrupt"),
        ("sys.exit(-1)", 255, "", ""),
        ("sys.stdout = None", 0, "", ""),
        ("kept = open('/dev/fd/1', 'w'); kept.write('file')", 0, "file", ""),
        (
            "import ctypes; c, p = ctypes.CDLL(None), ctypes.c_void_p; c.fopen.restype = p;"
            " c.fputs(b'from C', p(c.fopen(b'/dev/fd/1', b'w')))",
            0,
            "from C",
            "",
        ),
        ("threading.Thread(target=time.sleep, args=(600,), daemon=True).start()", 0, "", ""),
    ],
)
def test_copies_end_as_processes_of_python_do(tmp_path: Path, line: str, code: int, output: str, log: str) -> None:
    copy = start(tmp_path / "log", line)
    assert said(copy) == output and copy.returncode == code
    told = (tmp_path / "log").read_text()
    assert told.strip().endswith(log) and ("Traceback" in told) == (": " in log or "Interrupt" in log)


@pytest.mark.parametrize("name", ["NVIDIA_TF32_OVERRIDE", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_a_variable_that_changes_figures_is_not_passed_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert name not in environment(1)


#: Two times: allocate and free 64 MiB. Then the page faults of the second time.
TWICE = (
    "import resource; n = lambda: resource.getrusage(0).ru_minflt; b = bytearray(1 << 26); del b; a = n(); "
    "b = bytearray(1 << 26); del b; print(n() - a)"
)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are those of glibc")
def test_memory_that_a_run_frees_stays_in_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    kept = int(said(start(tmp_path / "log", TWICE)))
    # The user's settings win: with these, the memory goes back to the kernel at once, and comes in new pages.
    theirs = "glibc.malloc.mmap_max=9:glibc.malloc.mmap_threshold=65536:glibc.malloc.hugetlb=0"
    monkeypatch.setenv("GLIBC_TUNABLES", theirs)
    returned = int(said(start(tmp_path / "log", TWICE)))
    assert kept < 100 < (1 << 26) / os.sysconf("SC_PAGESIZE") / 2 < returned
