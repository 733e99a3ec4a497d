"""T boards: calibration converts equal device-seconds into a number of steps for each model."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

from ...registry import MODELS, UserError
from ...side_files import contents
from ..boards.board import load_board
from ..records.calibration import (
    Block,
    Calibration,
    Session,
    TrainingFailed,
    Turns,
    calibrate,
    latest,
    read_calibrations,
    take_turns,
    write_calibration,
)
from ..records.staleness import source_now
from ..records.store import log_path
from ..spec.budget import drifted, find_budget, steps_in
from ..spec.suite import RunSpec, Suite, plan, recipe_of
from ..tools.gpu_processes import memory_held_mib
from ..tools.machine import Machine
from ..tools.text import plural
from ..training.job import StepTiming
from .fork_server import Process
from .local import GRACE_S, ask, end, ending, events_of, start


def _is_unchanged(calibration: Calibration) -> bool:
    """Whether the model of a calibration is registered here with the same source."""
    try:
        return source_now(calibration.model, calibration.opened) == calibration.source_hash
    except UserError:
        return False


class TimedBoard:
    """The plan of a suite with a T budget on the devices of one kind.

    Args:
        devices: names of the devices in torch, with their UUIDs (see `calibration.calibrate`); empty if nothing can
            be measured.
        confirms: whether new devices also confirm the calibrations of other models of the suite.

    Attributes:
        forgotten: models that are measured again although their step time is known.
        failed: models that could not be trained during calibration, or whose step is too long for the budget, with the
            reason.
    """

    def __init__(
        self, suite: Suite, root: Path, devices: Mapping[str, str], machine: Machine, hardware_key: str,
        confirms: bool = True,
    ) -> None:  # fmt: skip
        self.suite, self.root, self.devices, self.machine, self.confirms = suite, root, devices, machine, confirms
        self.hardware_key, self.board = hardware_key, suite.board(hardware_key)
        self.forgotten: set[str] = set()
        self.failed: dict[str, TrainingFailed] = {}
        self._opened: dict[str, dict[str, str]] = {}

    def plan(self) -> list[RunSpec]:
        """The runs of the suite. Models without a calibration on these devices are measured first.

        The runs of models in `failed` are included, with the steps of an earlier calibration, or with a single step.
        """
        seconds = find_budget(self.suite.budget).seconds
        assert seconds is not None
        _, current = self._known()
        missing = self.missing()
        others = current.items() if self.confirms else ()
        kept = {m: c for m, c in others if m not in missing and m not in self.failed}
        failed = self._calibrate(missing, kept.values())
        for model in [m for m in failed if failed[m].status in ("oom", "lost") and len(missing) + len(kept) > 1]:
            # The other models were loaded too, and may have taken its memory: now beside one of them at most.
            alone = ([model], ()) if model in missing else ([], [kept[model]])
            failed = {m: why for m, why in failed.items() if m != model} | self._calibrate(*alone)
        self.failed |= failed
        self.forgotten.clear()
        times = self._times()
        steps = {m: self._steps(m, seconds, times[m]) if m in times else 1 for m in self.suite.models}
        return plan(self.suite, steps, self.hardware_key, self.root)

    def _calibrate(self, models: list[str], kept: Iterable[Calibration]) -> dict[str, TrainingFailed]:
        """Measure models, and `kept` on new devices; write the calibrations, and return the models that failed."""
        subjects, (known, _) = [self._subject(m) for m in models], self._known()
        done = calibrate(subjects, known, self._measure, self.devices, _is_unchanged, kept)
        for found in done.calibrations:
            if not found.confirms:  # with the files that the model opened during the measurement
                opened = self._opened.get(found.model, {})
                found = found.model_copy(update={"opened": opened, "source_hash": source_now(found.model, opened)})
            write_calibration(self.root, self.board, found)
        return done.failed

    def _steps(self, model: str, seconds: float, step_s: Fraction) -> int:
        """Number of steps of a budget. A model whose whole steps miss the budget by more than 3 % goes to `failed`."""
        steps = steps_in(seconds, step_s)
        if drifted(float(steps * step_s), seconds):
            reason = (
                f"a step takes {float(step_s):.3g} s, so {plural(steps, 'step')} would take"
                f" {100 * float(steps * step_s) / seconds:.1f} % of the budget of {seconds:g} s;"
            )
            self.failed.setdefault(model, TrainingFailed("invalid", f"{reason} ±3 % are allowed; use a longer budget"))
        return steps

    def missing(self) -> list[str]:
        """The models of the suite whose step time must still be measured."""
        _, current = self._known()
        return [m for m in self.suite.models if m not in self.failed and (m not in current or m in self.forgotten)]

    def _known(self) -> tuple[list[Calibration], dict[str, Calibration]]:
        """All calibrations of the board, and the valid ones of the suite's models by model."""
        known = read_calibrations(self.root, self.board)
        newest = latest(known)
        known_models = {m: newest[m] for m in self.suite.models if m in newest}
        return known, {m: c for m, c in known_models.items() if c.same_subject(self._subject(m, c.opened))}

    def _times(self) -> dict[str, Fraction]:
        """The step times that hold now, in seconds, by model."""
        return {m: c.exact_step_s for m, c in latest(read_calibrations(self.root, self.board)).items()}

    def forget_drifted(self, board: str) -> bool:
        """Mark the models of the suite whose runs drift with their step time of now: they are calibrated again.

        Returns whether there are any. The board may be that of the suite's trials.
        """
        chosen = load_board(self.root, board).chosen
        seconds, times = find_budget(self.suite.budget).seconds, self._times()
        assert seconds is not None
        found = {
            spec.model
            for spec in (r.spec for r, _ in chosen if r.status == "invalid" and r.reason.startswith("drift"))
            if spec.model in self.suite.models
            and spec.model in times
            and spec.steps == steps_in(seconds, times[spec.model])
        }
        self.forgotten |= found
        return bool(found)

    def _subject(self, model: str, opened: Iterable[str] = ()) -> Calibration:
        files = contents(MODELS.find(model).files, opened)
        batch = recipe_of(self.suite, model, self.root, self.hardware_key).batch
        return Calibration(
            model=model, source_hash=source_now(model, files), opened=files, dataset=self.suite.dataset, batch=batch,
            profile=self.suite.profile, hardware_key=self.hardware_key, sequence=1, blocks=[], beside=[],
        )  # fmt: skip

    def _measure(self, asked: Mapping[str, list[str]]) -> dict[str, Turns]:
        """Measure blocks of steps. All devices work at the same time, as in the runs. On each, models take turns."""
        with ThreadPoolExecutor(len(asked)) as pool, ExitStack() as stack:
            sessions = {device: self._open(device, models, stack) for device, models in asked.items()}
            return dict(zip(sessions, pool.map(take_turns, sessions.values()), strict=True))

    def _open(self, device: str, models: list[str], stack: ExitStack) -> Mapping[str, Session]:
        """Start one process for each model on a device."""
        before_mib = memory_held_mib(self.devices[device])
        sessions = {model: self._open_one(device, model, before_mib, stack) for model in models}
        for session in sessions.values():
            session.beside = sessions
        return sessions

    def _open_one(self, device: str, model: str, before_mib: float | None, stack: ExitStack) -> _ProcessSession:
        suite = self.suite.model_copy(update={"models": [model], "seeds": 1})
        spec = plan(suite, {model: 1}, self.hardware_key, self.root)[0]
        here = self.machine
        job = StepTiming(
            spec=spec, device=device, threads=here.threads, data_root=here.data_folder, include=here.files,
            before_mib=before_mib,
        )  # fmt: skip
        log = log_path(self.root, self.board, f"calibration.{model}.{device.replace(':', '-')}")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as file:
            process = start(job, file)
        session = _ProcessSession(process, log, self._opened.setdefault(model, {}))
        stack.push(session.close)
        return session


class _ProcessSession:
    """A process that measures one block of steps per request; `opened` gets the files that the model opened.

    Attributes:
        beside: all sessions on the same device, this one included.
    """

    def __init__(self, process: Process, log: Path, opened: dict[str, str]) -> None:
        self._process, self._log, self._opened = process, log, opened
        self._events = events_of(process)
        self.beside: Mapping[str, _ProcessSession] = {}

    def ready(self) -> None:
        self._opened.update(self._next("ready")["opened"])

    def block(self) -> Block:
        running = [s._process.pid for s in self.beside.values() if s._process.poll() is None]
        ask(self._process, json.dumps({"processes": running}))
        event = self._next("block")
        return Block(steps=event["steps"], seconds=event["seconds"], gpu=event["gpu"])

    def close(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the process. After an exception here it is killed, else it may finish."""
        if kind is None:
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):
                self._process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
        end(self._process)

    def _next(self, kind: str) -> dict[str, Any]:
        event = next(self._events, None)
        if event is None:
            raise TrainingFailed(*ending(self._process.wait(), self._log))
        if event["event"] == "failed":
            raise TrainingFailed(event["status"], event["reason"])
        if event["event"] == "company":
            raise UserError(
                f"{event['reason']}; steps cannot be measured while other work runs: free the GPU and start again"
            )
        assert event["event"] == kind
        return event
