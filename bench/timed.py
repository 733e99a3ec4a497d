"""T boards: equal device-seconds, turned into a number of steps by calibration."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..beside import contents, lines_of
from ..registry import MODELS, UserError
from ..source import source_hash
from .board import Board
from .budget import find_budget, steps_in
from .calibrate import (
    Block,
    Calibration,
    Session,
    calibrate,
    latest,
    read_calibrations,
    write_calibration,
)
from .engines.local import end, events_of, start
from .job import Stopwatch
from .provenance import hardware_key_elsewhere
from .spec import RunSpec, Suite, plan, recipe_of


def _is_unchanged(calibration: Calibration) -> bool:
    """Whether the model of a calibration is registered here with the source that it had."""
    try:
        return _hash_now(calibration.model, calibration.opened) == calibration.source_hash
    except UserError:
        return False


def _hash_now(model: str, opened: Iterable[str]) -> str:
    """Hash of the source of a model, and of the files of these names beside it, as they are now."""
    resolved = MODELS.find(model)
    return source_hash(resolved, lines_of(contents(resolved.files, opened)))


class TimedBoard:
    """The plan of a suite with a T budget on one device.

    Args:
        device: as torch names it.
        hardware_key: of the device; asked of a process of its own where absent.

    Attributes:
        forgotten: models that are measured again although their step time is known.
    """

    def __init__(
        self,
        suite: Suite,
        root: Path,
        device: str,
        threads: int,
        data_root: str | None,
        includes: list[str],
        hardware_key: str | None = None,
    ) -> None:
        self.suite, self.root, self.device, self.threads = suite, root, device, threads
        self.data_root, self.includes = data_root, includes
        self.hardware_key = hardware_key or hardware_key_elsewhere(device)
        self.board = suite.board(self.hardware_key)
        self.forgotten: set[str] = set()
        self._opened: dict[str, dict[str, str]] = {}

    def plan(self) -> list[RunSpec]:
        """The runs of the suite; models without a calibration on this device are measured first."""
        seconds = find_budget(self.suite.budget).seconds
        assert seconds is not None
        known, current = self._known()
        missing = self.missing()
        with ExitStack() as stack:
            subjects = [self._subject(m) for m in missing]
            measured = calibrate(subjects, known, lambda names: self._open(names, stack), _is_unchanged)
        measured = [self._with_files(c) for c in measured]
        for calibration in measured:
            write_calibration(self.root, self.board, calibration)
        self.forgotten.clear()
        current |= {c.model: c for c in measured}
        steps = {m: steps_in(seconds, current[m].exact_step_s) for m in self.suite.models}
        return plan(self.suite, steps, self.hardware_key, self.root)

    def missing(self) -> list[str]:
        """The models of the suite whose step has yet to be measured."""
        _, current = self._known()
        return [m for m in self.suite.models if m not in current or m in self.forgotten]

    def _known(self) -> tuple[list[Calibration], dict[str, Calibration]]:
        """All calibrations of the board, and those of the suite's models as they are now."""
        known = read_calibrations(self.root, self.board)
        newest = latest(known)
        there = {m: newest[m] for m in self.suite.models if m in newest}
        return known, {m: c for m, c in there.items() if c.same_subject(self._subject(m, c.opened))}

    def _with_files(self, calibration: Calibration) -> Calibration:
        """A new calibration with the files that its process has seen the model open."""
        opened = self._opened.get(calibration.model, {})
        return calibration.model_copy(update={"opened": opened, "source_hash": _hash_now(calibration.model, opened)})

    def forget_drifted(self, board: Board) -> bool:
        """Mark the models of the suite with a run that drifted, so that they are calibrated anew."""
        drifted = {
            r.spec.model
            for r, _ in board.chosen
            if r.status == "invalid" and r.reason.startswith("drift") and r.spec.model in self.suite.models
        }
        self.forgotten |= drifted
        return bool(drifted)

    def _subject(self, model: str, opened: Iterable[str] = ()) -> Calibration:
        files = contents(MODELS.find(model).files, opened)
        return Calibration(
            model=model,
            source_hash=_hash_now(model, files),
            opened=files,
            dataset=self.suite.dataset,
            batch=recipe_of(self.suite, model, self.root, self.hardware_key).batch,
            profile=self.suite.profile,
            hardware_key=self.hardware_key,
            sequence=1,
            blocks=[],
            beside=[],
        )

    def _open(self, models: list[str], stack: ExitStack) -> Mapping[str, Session]:
        return {model: self._open_one(model, stack) for model in models}

    def _open_one(self, model: str, stack: ExitStack) -> Session:
        suite = self.suite.model_copy(update={"models": [model], "seeds": 1})
        spec = plan(suite, {model: 1}, self.hardware_key, self.root)[0]
        job = Stopwatch(
            spec=spec, device=self.device, threads=self.threads, data_root=self.data_root, include=self.includes
        )
        process = start(job, subprocess.DEVNULL)
        stack.callback(end, process)
        session = _ProcessSession(model, process)
        self._opened[model] = session.opened
        return session


class _ProcessSession:
    """A process that measures a block for every line that it is sent."""

    def __init__(self, model: str, process: subprocess.Popen[str]) -> None:
        self._model, self._process = model, process
        self._events = events_of(process)
        self.opened: dict[str, str] = self._next("ready")["opened"]

    def block(self) -> Block:
        assert self._process.stdin is not None
        self._process.stdin.write("block\n")
        self._process.stdin.flush()
        event = self._next("block")
        return Block(steps=event["steps"], seconds=event["seconds"])

    def _next(self, kind: str) -> dict[str, Any]:
        event = next(self._events, None)
        if event is None or event["event"] != kind:
            raise UserError(f"model {self._model!r} failed while its step was measured; try it with --budget smoke")
        return event
