"""The agenda of a suite: which runs are missing, their attempt numbers, and their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..records.record import FINAL, Context, RunRecord, read_board
from ..records.sidecar import find_sidecar
from ..records.size_classes import refuse_unmatched
from ..records.staleness import BoardStaleness
from ..records.store import board_folder, remove_checkpoints
from ..spec.suite import RunSpec, Suite
from ..tools.machine import Machine
from ..training.job import Job


@dataclass
class Agenda:
    """The runs of a suite.

    Attributes:
        pending: runs to be executed, as jobs whose device is chosen later.
        skipped, stale: as in `head_to_head.Outcome`.
    """

    pending: list[Job] = field(default_factory=list)
    skipped: int = 0
    stale: dict[str, str] = field(default_factory=dict)


def agenda_of(suite: Suite, root: Path, machine: Machine, specs: list[RunSpec], refresh: bool = False) -> Agenda:
    """Compare the planned runs with the records, and number the attempts of the missing ones.

    Args:
        specs: planned runs, all of one board.
        refresh: also run stale runs again, as further attempts.
    """
    board_folder(root, specs[0].board)  # refuses a symbolic link
    found, records = Agenda(), read_board(root, specs[0].board)[0]
    staleness = BoardStaleness(records, root)
    attempts: dict[str, list[RunRecord]] = {}
    for record in sorted(records, key=lambda r: (r.attempt, r.file_name)):
        attempts.setdefault(record.spec.digest(), []).append(record)
    for spec in specs:
        known = attempts.get(spec.digest(), [])
        finished, latest = [r for r in known if r.status in FINAL], max((r.attempt for r in known), default=0)
        if finished:
            # Checkpoints are no longer needed. The process that wrote the record may have died before it removed them.
            remove_checkpoints(root, spec.board, spec.digest(), max(r.attempt for r in finished))
        stale = {r.file_name: staleness(r) for r in finished}
        current = [r for r in finished if not stale[r.file_name]]
        # The parameter class is checked for finished runs too.
        for record in current if refresh else current or finished:
            refuse_unmatched(suite, spec.model, record.cost)
        if not finished or (refresh and not current):
            found.pending.append(job_of(suite, root, machine, spec, latest + 1))
            continue
        found.skipped += 1
        if not current:
            found.stale[f"{spec.model} seed {spec.seed}"] = stale[finished[0].file_name]
        elif suite.equivariance == "full" and current[0].status == "ok" and find_sidecar(root, current[0]) is None:
            found.pending.append(job_of(suite, root, machine, spec, current[0].attempt))
    return found


def job_of(suite: Suite, root: Path, machine: Machine, spec: RunSpec, attempt: int) -> Job:
    """The job of one attempt at a run, on the device of `machine`."""
    same = suite.model_dump(include={"parameter_class", "reference_parameters", "reference_model"})
    context = Context(suite=suite.name, **same)
    return Job.on(machine, root, spec, attempt, context, equivariance=suite.equivariance)


def in_order(jobs: list[Job], sharing: int, work: Mapping[str, float]) -> list[Job]:
    """Jobs in the order of execution: in groups of `sharing` seeds that share a GPU.

    Within a group, the jobs of a model stay together, and the longest runs (by `work`, the FLOPs of a model) come
    first. The last runs are then short, and no core waits for long.
    """
    seeds = sorted({job.spec.seed for job in jobs})
    models = list(dict.fromkeys(job.spec.model for job in jobs))

    def place(job: Job) -> tuple[float, ...]:
        model, seed = job.spec.model, seeds.index(job.spec.seed)
        return seed // sharing, -work.get(model, 0.0), models.index(model), seed

    return sorted(jobs, key=place)
