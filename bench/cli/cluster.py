"""Commands for sweeps on a cluster: ``run --engine slurm``, ``status``, ``collect``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ...registry import UserError
from ..tools.files import results_root
from ..tools.text import command, plural, terminal_width
from .options import common_options, json_option, machine_of, print_json, print_runs, results_option, several

if TYPE_CHECKING:
    from ..runner.head_to_head import Outcome
    from ..runner.slurm.status import View
    from ..runner.slurm.submit import Submission
    from ..runner.slurm.sweep import Submitted

#: Options for clusters only.
_ONLY_CLUSTER = ("partition", "gpus_per_run", "time_limit", "account", "sbatch_options", "hardware", "calibrate")
#: Largest number of tasks that `status` shows; further ones are only counted.
_SHOWN = 40


#: The options of ``run`` for clusters.
engine_options = several(
    click.option(
        "--engine",
        type=click.Choice(("local", "slurm")),
        default="local",
        show_default=True,
        help="local: run here; slurm: submit jobs to a cluster.",
    ),
    click.option("--partition", help="Slurm: partition."),
    click.option("--gpus-per-run", type=int, help="Slurm: 1, or 0 for runs on CPUs [1; 0 with --device cpu]."),
    click.option("--time-limit", metavar="TIME", help="Slurm: time limit of each run, in the format of sbatch --time."),
    click.option("--account", help="Slurm: account."),
    click.option(
        "--sbatch-option",
        "sbatch_options",
        multiple=True,
        metavar="OPTION",
        help="Slurm: another option of sbatch, as --sbatch-option=--mem=8G; may be repeated.",
    ),
    click.option("--hardware", metavar="TEXT", help="Slurm, T budgets: part of the name of the calibrated device."),
    click.option("--calibrate", is_flag=True, help="Slurm, T budgets: calibrate on the partition's nodes first."),
)


def wants_cluster(options: dict[str, Any]) -> bool:
    """Whether the runs are to be submitted to a cluster. Raises UserError for an option of another engine."""
    engine, context = options["engine"], click.get_current_context()
    for option in (p for p in context.command.params if p.name in _ONLY_CLUSTER):
        if engine == "local" and context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE:
            raise UserError(f"{option.opts[0]} goes with --engine slurm")
    if engine == "slurm" and options["seeds_in_parallel"] != 1:
        raise UserError("--seeds-in-parallel goes with --engine local: the scheduler gives each run its own GPU")
    return bool(engine == "slurm")


def submit_command(suites: list[Any], options: dict[str, Any], as_json: bool) -> None:
    """Submit the missing runs of a suite, or of all boards of a family, and print the next commands."""
    from ..runner.slurm.scheduler import Request
    from ..runner.slurm.submit import SubmissionInput, submit_suite

    machine = machine_of(options)
    request = Request(
        partition=options["partition"],
        account=options["account"],
        gpus=_gpus(options),
        time_limit=options["time_limit"],
        extra=options["sbatch_options"],
    )
    root, facts = results_root(options["results"]), []
    for suite in suites:
        done = submit_suite(
            SubmissionInput(suite, request, machine, options["hardware"] or "", options["calibrate"]), root
        )
        facts.append(_facts(done))
        if not as_json:
            _print_submission(done, root, options["includes"])
    if as_json:
        print_json(facts)


def _gpus(options: dict[str, Any]) -> int:
    device, gpus = options["device"], options["gpus_per_run"]
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device!r}: on a cluster the scheduler chooses the device; use auto, cpu or cuda")
    if gpus is None:
        return 0 if device == "cpu" else 1
    if (device == "cpu" and gpus) or (device == "cuda" and not gpus):
        raise UserError(f"--gpus-per-run {gpus} does not go with --device {device}")
    return int(gpus)


def _numbers(submitted: Submitted | None) -> dict[str, Any]:
    """The numbers of the jobs."""
    return submitted.model_dump() if submitted else {"array": None, "calibration": None}


def _facts(done: Submission) -> dict[str, Any]:
    folder = done.folder
    sent = {"sweep": folder.name if folder else None, "submitted": len(folder.sweep.tasks) if folder else 0}
    facts = {"finished": done.finished, "active": done.active, "lost": done.settled, "note": done.note}
    return {**sent, **_numbers(done.submitted), **facts}


def _print_submission(done: Submission, root: Path, includes: tuple[str, ...]) -> None:
    others = [f"{done.finished} finished before"] if done.finished else []
    others += [f"{count} queued or running in {sweep}" for sweep, count in done.active.items()]
    others += [f"{done.settled} of earlier sweeps found lost"] if done.settled else []
    rest = f"; {', '.join(others)}" if others else ""
    if done.folder is None:
        click.echo(f"nothing to submit{rest}")
    else:
        assert done.submitted is not None
        name, tasks = done.folder.name, plural(len(done.folder.sweep.tasks), "run")
        first = f" after its calibration, job {done.submitted.calibration}" if done.submitted.calibration else ""
        click.echo(f"{name}: {tasks} submitted as job {done.submitted.array}{first}{rest}")
        click.echo(f"{command('status', name, root=root)}   shows their progress")
        click.echo(f"{command('collect', name, root=root, include=includes)}  shows the table of finished runs")
    if done.note:
        click.echo(done.note, err=True)
    for model, what in done.stale.items():
        click.echo(f"{model}: not run again, although its {what} changed since", err=True)


@click.command()
@click.argument("sweep", required=False)
@click.option("--all", "every", is_flag=True, help="Also show finished runs.")
@results_option
@json_option
def status(sweep: str | None, every: bool, results: str | None, as_json: bool) -> None:
    """Show the progress of sweeps on a cluster.

    SWEEP is the name of a sweep or of a suite; without it, all sweeps are shown. The states come from the files of the
    results folder; squeue is asked about runs without a record. Changes nothing.
    """
    from ..runner.slurm.status import sweep_states
    from ..runner.slurm.sweep import find_sweeps

    root = results_root(results)
    views, silence = sweep_states(root, find_sweeps(root, sweep))
    if as_json:
        click.echo(json.dumps({"sweeps": [_document(v) for v in views], "squeue": silence or "answers"}))
        return
    for view in views:
        click.echo(_heading(view))
        _print_tasks(view, every)
    _print_silence(views, silence)


def _document(view: View) -> dict[str, Any]:
    tasks = [
        {"model": t.model, "seed": t.seed, "state": s.kind, "detail": s.detail}
        for t, s in zip(view.folder.sweep.tasks, view.states, strict=True)
    ]
    facts = {"sweep": view.name, "suite": view.folder.sweep.suite.name, **_numbers(view.folder.submitted)}
    return {**facts, "counts": view.counts(), "tasks": tasks}


def _heading(view: View) -> str:
    submitted = view.folder.submitted
    job = f", job {submitted.array}" if submitted else ", the submission was interrupted"
    counts = ", ".join(f"{count} {kind}" for kind, count in view.counts().items())
    return f"{view.name}: {plural(len(view.states), 'run')}{job}: {counts}"


def _print_tasks(view: View, every: bool) -> None:
    rows = [
        (f"{task.model} seed {task.seed}", state)
        for task, state in zip(view.folder.sweep.tasks, view.states, strict=True)
        if every or (state.kind not in ("ok", "finished") and (state.kind != "queued" or state.detail))
    ]
    width = max((len(name) for name, _ in rows), default=0)
    for name, state in rows if every else rows[:_SHOWN]:
        click.echo(f"  {name:<{width}}  {state.kind:<9}  {state.detail}".rstrip())
    if len(rows) > _SHOWN and not every:
        click.echo(f"  and {len(rows) - _SHOWN} more (--all)")


def _print_silence(views: list[View], silence: str | None) -> None:
    if silence and any(s.kind == "unknown" for v in views for s in v.states):
        click.echo(f"the state of some runs is unknown because squeue does not answer: {silence}", err=True)


@click.command()
@click.argument("sweep", required=False)
@common_options
def collect(sweep: str | None, results: str | None, includes: tuple[str, ...], as_json: bool) -> None:
    """Rebuild and show the boards of sweeps on a cluster.

    SWEEP is the name of a sweep or of a suite; without it, all sweeps are collected. A killed task becomes a row.
    The same `equibench run` command submits it again. Exit code 1: runs failed.
    """
    from ...registry import include
    from ..runner.slurm.status import collect as collect_sweeps
    from .boards import board_document

    include(includes)
    root = results_root(results)
    views, outcomes, silence = collect_sweeps(root, sweep)
    if as_json:
        boards = [board_document(o.board, root) for o in outcomes]
        click.echo(json.dumps({"sweeps": [_document(v) for v in views], "boards": boards}))
    else:
        _print_boards(views, outcomes)
    _print_silence(views, silence)
    sys.exit(1 if any(o.failed for o in outcomes) else 0)


def _print_boards(views: list[View], outcomes: list[Outcome]) -> None:
    from ..boards.terminal_table import board_table

    for outcome in outcomes:
        if outcome.board.is_table:
            click.echo(board_table(outcome.board, width=terminal_width()) + "\n")
        else:
            print_runs(outcome.board)
    for view in views:
        click.echo(_heading(view))
    for outcome in outcomes:
        for sentence in outcome.failures("the same `equibench run` command submits these again"):
            click.echo(sentence, err=True)
