"""What a run does not inherit: variables that change figures, modules of the current folder, a clock that jumps."""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from .process import figures, interrupt, job, run, the_record

pytestmark = pytest.mark.slow  # about a minute of a core, all of them

#: Each of them changes what torch computes, or how, in a process that has it.
HOSTILE = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "DNNL_MAX_CPU_ISA": "SSE41",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "OMP_NUM_THREADS": "3",
    "PYTHONHASHSEED": "12345",
    "PYTHONOPTIMIZE": "2",
    "NVIDIA_TF32_OVERRIDE": "1",
}

#: The wall clock runs backwards, an hour at every look; clocks that only measure durations go on as they are.
BACKWARDS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
#include <sys/time.h>
static long back = 0;
int clock_gettime(clockid_t id, struct timespec *t) {
    static int (*real)(clockid_t, struct timespec *) = 0;
    if (!real) real = (int (*)(clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, t);
    if (id == CLOCK_REALTIME) t->tv_sec -= (back += 3600);
    return result;
}
int gettimeofday(struct timeval *t, void *zone) {
    struct timespec s;
    clock_gettime(CLOCK_REALTIME, &s);
    t->tv_sec = s.tv_sec;
    t->tv_usec = s.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *t) {
    struct timespec s;
    clock_gettime(CLOCK_REALTIME, &s);
    if (t) *t = s.tv_sec;
    return s.tv_sec;
}
"""


def test_nothing_of_the_shell_changes_a_figure(whole: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    for name in ("random", "torch", "json", "typing"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this is a stranger')\n")
    monkeypatch.chdir(tmp_path)
    one = job(tmp_path)
    assert run(one)[0] == 0 and figures(the_record(one)) == whole


def test_a_clock_that_jumps_back_changes_nothing(whole: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make a clock that runs backwards")
    (tmp_path / "clock.c").write_text(BACKWARDS)
    library = tmp_path / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(tmp_path / "clock.c"), "-ldl"], check=True)
    shown = subprocess.run(
        ["date", "+%s"], env={"LD_PRELOAD": str(library)}, capture_output=True, text=True, check=True
    )
    now = subprocess.run(["date", "+%s"], capture_output=True, text=True, check=True)
    assert int(shown.stdout) <= int(now.stdout) - 3000, "the library does not turn the clock back"
    monkeypatch.setenv("LD_PRELOAD", str(library))
    one = job(tmp_path)
    assert interrupt(one, 30, signal.SIGTERM) == -signal.SIGTERM
    assert run(one)[0] == 0
    record = the_record(one)
    assert figures(record) == whole
    assert all(0 <= seconds < 600 for seconds in record.phases.values()) and 0 < record.results.train_s < 600
    seconds = [p.device_s for p in record.curve]
    assert seconds == sorted(seconds)
