"""Check a model for the registry: the checks of `bench.check` in a separate process, and the row it would add."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...registry import DATASETS, MODELS, Entry, Resolved, as_given, include, option, parse_shape
from ...side_files import lines_of
from ...source import source_hash
from ..boards.families import find_points
from ..records.provenance import Provenance
from ..records.record import Context, RunRecord, Size
from ..records.size_classes import why_not_in
from ..records.verdict import NAMES, OTHER_PROCESS, Finding, Verdict, failed, passed, skipped
from ..runner.local import interrupt_on_signals
from ..spec.budget import find_budget
from ..spec.recipe import PAPER
from ..spec.suite import MATCHED, Suite, plan, recipe_of, subset_of, suite_names, training_images
from ..tools.text import clipped
from ..training.job import Check
from .process import NoAnswer, Process

#: The data set for models that declare no input.
DATASET = "digits-rot"
#: The default budget.
BUDGET = "e20"
#: Seconds that a single check may take.
DEADLINE_S = 120.0


def check_model(
    name: str,
    *,
    dataset: str | None = None,
    budget: str = BUDGET,
    includes: Iterable[str | Path] = (),
    deadline_s: float = DEADLINE_S,
    listen: Callable[[str], None] = lambda _: None,
) -> Verdict:
    """Do all checks of a model on one CPU thread.

    Args:
        dataset: the data set of the board; by default the first with an input that the model declares.
        budget: of that board.
        includes: files that register models or data sets.
        deadline_s: a check that takes longer fails, and the process is ended.
        listen: called with the name of each check before it starts.

    Raises:
        UserError: model, data set or budget do not exist.
    """
    begun = time.perf_counter()
    files = [str(Path(p).resolve()) for p in includes]
    include(files)
    resolved = MODELS.find(name)
    board, inputs = _board_of(resolved, dataset, budget)
    steps = None
    if board is not None and find_budget(budget).kind != "T":  # only a calibration determines the steps of a T board
        recipe = recipe_of(board, resolved.name)
        images = training_images(board.dataset, board.fit, subset_of(board))
        steps = find_budget(budget).steps_for(images, recipe.batch, recipe.epochs)
    job = Check(
        model=name, inputs=inputs, dataset=board.dataset if board else None, budget=budget, steps=steps,
        recipe=board.recipe if board else "common", reference=board.reference_model if board else None, include=files,
    )  # fmt: skip
    with interrupt_on_signals():
        found = _run(job, deadline_s, listen)
        if found.digest:
            listen(OTHER_PROCESS)
            found.findings.insert(NAMES.index("seeds") + 1, _another_process(job, found, deadline_s))
    source = source_hash(resolved, lines_of(found.opened))
    verdict = Verdict(name, inputs[0], job.dataset or "", budget, source, found.findings)
    if found.size and board:
        if suite := _nearest_suite(board.dataset, inputs[0], resolved):
            _note_class(found.findings, suite, found.size)
        verdict.row, verdict.cells = _row(board, job, resolved, found.size)
    verdict.seconds = time.perf_counter() - begun
    return verdict


def _board_of(resolved: Resolved, dataset: str | None, budget: str) -> tuple[Suite | None, list[str]]:
    """A suite of only this model for the board, and the inputs, starting with the board's."""
    declared = list(resolved.get("params") or {})
    find_budget(budget)
    if dataset is not None or not declared:
        chosen = DATASETS.find(DATASET if dataset is None else dataset).entry
    elif (fitting := next((e for e in DATASETS.match() if _input(e) == declared[0]), None)) is not None:
        chosen = fitting
    else:
        return None, declared
    first = _input(chosen)
    parse_shape(first, f"data set {chosen.name!r}")
    like = _nearest_suite(chosen.name, first, resolved)
    board = Suite(
        name="check", dataset=chosen.name, budget=budget, recipe=like.recipe if like else "common",
        reference_model=like.reference_model if like else None, models=[resolved.name], seeds=1,
    )  # fmt: skip
    return board, [first, *(text for text in declared if text != first)]


def _input(dataset: Entry) -> str:
    channels, height, width = dataset.fields["shape"]
    return f"{channels}x{height}x{width}->{dataset.fields['classes']}"


def _nearest_suite(dataset: str, text: str, resolved: Resolved) -> Suite | None:
    """The shipped suite whose reference model has the most similar size; within 5 %, with the most frequent one."""
    own = (resolved.get("params") or {}).get(text)
    alone = (points[0] for points in map(find_points, suite_names()) if len(points) == 1)
    suites = [s for s in alone if s.dataset == dataset and s.recipe != PAPER]
    named = Counter(s.reference_model for s in suites)
    found = []
    for suite in suites:
        reference = suite.reference_model
        count = (MODELS.find(reference).get("params") or {}).get(text) if reference else None
        if count is not None:
            away = abs(math.log(count / own)) if own else 0.0
            found.append((away if away > math.log(1 + MATCHED) else 0.0, -named[reference], away, suite.name, suite))
    return min(found, key=lambda f: f[:4])[-1] if found else None


def _note_class(findings: list[Finding], suite: Suite, size: dict[str, Any]) -> None:
    """Note at the parameter count that a suite of the matched class would refuse the model."""
    if why := why_not_in(suite, size):
        place = next(i for i, f in enumerate(findings) if f.check == "parameter count")
        found = findings[place]
        says = f"{found.says}; suite {suite.name!r} would refuse it: it {why}"
        do = f"change it for that suite, or enter it with {option('class', 'as-published')}"
        status = "note" if found.status == "pass" else found.status
        findings[place] = replace(found, status=status, says=says, do=f"{found.do}; {do}" if found.do else do)


@dataclass
class _Found:
    """The events that the process of the checks has sent so far."""

    findings: list[Finding] = field(default_factory=list)
    size: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    opened: dict[str, str] = field(default_factory=dict)
    logits: list[list[float]] | None = None
    current: str = ""
    done: bool = False

    def take(self, event: dict[str, Any], listen: Callable[[str], None]) -> None:
        kind = event.pop("event")
        if kind == "begin":
            self.current = event["check"]
            listen(self.current)
        elif kind == "finding":
            self.findings.append(Finding(**event | {"do": as_given(event["do"])}))
            self.current = ""
        elif kind == "weights":
            self.digest, self.logits = event["digest"], event["logits"]
        elif kind == "made":
            self.opened = event["opened"]
        elif kind == "size":
            self.size = event
        elif kind == "done":
            self.done = True

    def process_ended(self, how: str, do: str) -> None:
        """Record that the current check failed by ending the process, and that later checks were not done."""
        made = {f.check for f in self.findings}
        left = [name for name in NAMES if name not in made]
        current = self.current or (left[0] if left else NAMES[-1])
        self.findings.append(replace(failed(how, as_given(do)), check=current))
        why = f"not checked, because {current!r} ended the process"
        self.findings += [skipped(name, why) for name in left if name != current]


def _run(job: Check, deadline_s: float, listen: Callable[[str], None] = lambda _: None) -> _Found:
    """Start a process for a job and receive its events; each must arrive within the deadline."""
    found = _Found()
    with Process(job) as process:
        try:
            while (event := process.event(deadline_s)) is not None:
                found.take(event, listen)
        except NoAnswer:
            found.process_ended(f"took longer than {deadline_s:g} s and was ended", _HANG)
            return found
        if not found.done:
            code, said = process.how_it_ended()
            how = f"the process ended, exit code {code}" + (f" ({clipped(said)})" if said else "")
            found.process_ended(how, _CRASH)
    return found


_CRASH = "a model must not end its process: look for os._exit, too much memory, or a crash in compiled code"
_HANG = "look for an endless loop, or for code that waits; if the model is only slow, use --deadline SECONDS"


def _another_process(job: Check, found: _Found, deadline_s: float) -> Finding:
    """Whether a new process gets the same initial weights and logits, which a replay needs."""
    again = _run(job.model_copy(update={"only_weights": True}), deadline_s)
    if again.digest != found.digest:
        how = "other initial weights from the same seed in another process"
        if not again.done:
            how = "cannot be built a second time"
        do = "draw them from torch's global generator, in an order that does not depend on a set, hash, address, file"
        do += " or clock"
    elif found.logits and found.logits != again.logits:
        how = "the same weights give other logits in a process that has evaluated other images before"
        do = "keep no values of images in a global variable, a class or a closure; statistics of training images"
        do += " belong in a buffer"
    else:
        return replace(passed("the same initial weights in another process, and the same logits"), check=OTHER_PROCESS)
    return replace(failed(how, do), check=OTHER_PROCESS)


def _row(board: Suite, job: Check, resolved: Resolved, size: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The row of the board, by column and as the table shows it; values that need training are empty."""
    from ..boards.board import Board
    from ..boards.rows import model_rows
    from ..boards.terminal_table import table_rows

    spec = plan(board, {resolved.name: job.steps or 1})[0]
    nothing = Provenance.of(resolved, source_hash=source_hash(resolved), hardware={}, threads=job.threads, command="")
    context = Context(
        suite=board.name, parameter_class="as-published", reference_parameters=None,
        reference_model=board.reference_model,
    )  # fmt: skip
    record = RunRecord.without_result(spec=spec, context=context, provenance=nothing, cost=Size(**size))
    made = Board(spec.board, chosen=[(record, "")])
    frame = model_rows(made)
    cells = {k: "" if v in ("- → -", "lost", "0/1") else v for k, v in table_rows(made, frame)[0].items()}
    blank = {"runs": 0, "status": "", "reason": "", "runs_collapsed": None, "parameter_class": None}
    blank |= {"steps": job.steps, "examples": None if job.steps is None else job.steps * spec.recipe.batch}
    row = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in frame.to_dict("records")[0].items()}
    return {**row, **blank}, cells
