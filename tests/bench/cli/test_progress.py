"""The live overview of several runs at once, as a terminal gets it."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from equibench.bench.cli.progress import Live, listener_for
from equibench.bench.records.record import Context, write_record
from equibench.bench.training.job import Job
from rich.console import Console

from .. import made


def job(model: str, seed: int, device: str) -> Job:
    return Job(
        spec=made.spec(model=model, seed=seed), attempt=1, device=device, threads=1, results="r", data_root=None,
        include=[],
        command="", context=Context(suite="s", parameter_class="as-published", reference_parameters=None,
        reference_model=None),
    )  # fmt: skip


JOBS = [job("a", 0, "cuda:0"), job("b", 0, "cuda:1"), job("c", 0, "cuda:0"), job("d", 0, "cuda:1")]


class Watched(Live):
    """Draws into a string instead of a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.out = io.StringIO()
        self._console = self._progress.live.console = Console(
            file=self.out, force_terminal=True, color_system=None, highlight=False, width=140
        )

    def screen(self) -> str:
        canvas = Console(file=io.StringIO(), width=140)
        canvas.print(self._progress.get_renderable())
        return canvas.file.getvalue()


@pytest.fixture
def live() -> Iterator[Watched]:
    live = Watched()
    live.planned(JOBS, finished=3, work={"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0})
    yield live
    live.closed()


def step(at: int, **more: Any) -> dict[str, Any]:
    return {"event": "step", "step": at, "steps": JOBS[0].spec.steps, "loss": 1.5, "lr": 0.1, "seconds": 2.0, **more}


def test_every_run_under_way_has_a_line_with_its_device(live: Watched) -> None:
    for one in JOBS[:2]:
        live.event(one, {"event": "start"})
    lines = live.screen().splitlines()
    assert "runs" in lines[0] and "0/4" in lines[0]
    assert "a seed 0 on cuda:0" in lines[1] and "starting" in lines[1]
    assert "b seed 0 on cuda:1" in lines[2] and len([line for line in lines if line.strip()]) == 3
    assert "finished already: 3 runs; to do: 4" in live.out.getvalue()


def test_a_line_follows_its_run_and_goes_with_it(live: Watched) -> None:
    for one in JOBS[:2]:
        live.event(one, {"event": "start"})
    live.event(JOBS[0], step(20))
    live.event(JOBS[1], step(JOBS[1].spec.steps))
    screen = live.screen()
    assert f"20/{JOBS[0].spec.steps}" in screen and "loss 1.500" in screen and "evaluating" in screen
    live.event(JOBS[0], {"event": "done", "status": "ok"})
    live.event(JOBS[2], {"event": "start"})
    screen = live.screen()
    assert "a seed 0" not in screen and "c seed 0 on cuda:0" in screen and "1/4" in screen


def test_a_failure_is_counted_and_said(live: Watched) -> None:
    live.event(JOBS[0], {"event": "start"})
    live.event(JOBS[0], {"event": "done", "status": "lost", "reason": "killed by SIGKILL"})
    assert "1 failed" in live.screen() and " s left" not in live.screen()
    assert "a seed 0: lost: killed by SIGKILL" in live.out.getvalue()


def test_work_that_an_earlier_process_did_makes_no_promise_of_speed(live: Watched) -> None:
    live.event(JOBS[0], {"event": "start"})
    live.event(JOBS[0], {"event": "resumed", "step": 50, "steps": JOBS[0].spec.steps})
    screen = live.screen()
    assert "resumed after step 50" in screen and "min left" not in screen and " s left" not in screen


def test_without_a_terminal_every_run_that_ends_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_record(tmp_path, made.record(91.25, model="a"))
    lines = listener_for(quiet=False)
    lines.preparing("data set digits-rot and 4 models")
    lines.planned(JOBS[:2], finished=3, work={})
    lines.event(JOBS[0], {"event": "start"})
    lines.event(JOBS[0], step(2))
    lines.event(JOBS[0], {"event": "done", "status": "ok", "record": str(path)})
    lines.event(JOBS[1], {"event": "done", "status": "oom", "reason": "no memory", "record": ""})
    lines.closed()
    out, err = capsys.readouterr()
    said = [re.sub(r"^\d\d:\d\d:\d\d  ", "", line) for line in err.splitlines()]
    assert out == "" and said == [
        "2 runs to do; finished already: 3 runs",
        "1/2  a seed 0: ok, 91.25 %",
        "2/2  b seed 0: oom; no memory",
    ]


def test_quiet_says_failures_alone(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = listener_for(quiet=True)
    quiet.preparing("data")
    quiet.planned(JOBS[:1], finished=0, work={})
    quiet.event(JOBS[0], {"event": "done", "status": "ok", "record": ""})
    quiet.event(JOBS[0], {"event": "done", "status": "nan", "reason": "no number"})
    assert capsys.readouterr().err.splitlines() == ["a seed 0: nan: no number"]
