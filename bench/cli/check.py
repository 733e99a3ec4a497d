"""Commands that check models and machines: ``check``, ``doctor``."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

import click

from ..tools.files import WriteError, ensure_writable, results_root
from ..tools.text import plain_table, plural, relative_path
from .options import (
    budget,
    common_options,
    data_root_option,
    deadline_option,
    device,
    json_option,
    print_json,
    results_option,
    say_over,
)

if TYPE_CHECKING:
    from ..records.doctor_report import Finding
    from ..records.verdict import Verdict

MARKS = {"pass": "pass", "fail": "FAIL", "note": "note", "skip": "-"}


@click.command()
@click.argument("model")
@click.option("--dataset", help="Data set of the board that it is to enter [the first with its declared input].")
@click.option("--budget", type=budget, default="e20", show_default=True, help="Budget of that board.")
@deadline_option
@common_options
def check(
    model: str,
    dataset: str | None,
    budget: str,
    deadline: float,
    results: str | None,
    includes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Check whether MODEL may enter the registry. Takes under a minute on a CPU for 25 thousand parameters.

    \b
    equibench check p4cnn
    equibench check my-net --include my_net.py
    equibench check my-net --include my_net.py --dataset cifar10 --budget e50

    Prints every check, how to repair a failure, and the row that the model would add to the board. docs/check.md
    explains each check. The results folder keeps the verdict, and runs with the same source show it. Exit code 1: the
    model is not acceptable as it is.
    """
    from ..check.session import check_model
    from ..records.kept_verdicts import keep_verdict

    def listen(name: str) -> None:
        say_over(f"{name} …")
        if not sys.stderr.isatty():
            click.echo(f"{name} …", err=True)

    root = results_root(results)
    verdict = check_model(model, dataset=dataset, budget=budget, includes=includes, deadline_s=deadline, listen=listen)
    say_over("")
    click.echo(json.dumps(verdict.document()) if as_json else text_of(verdict))
    try:
        keep_verdict(root, verdict)
    except WriteError as error:  # the user has the verdict already
        click.echo(f"the verdict could not be written: {error}", err=True)
    sys.exit(0 if verdict.accepted else 1)


@click.command()
@click.option(
    "--device",
    type=device,
    default="auto",
    show_default=True,
    help="auto (all GPUs, or the CPU if there is none), cpu, cuda or cuda:<i>.",
)
@click.option(
    "--quick", is_flag=True, help="10 s of load instead of 90. The best possible verdict is then: E boards only."
)
@data_root_option
@results_option
@json_option
def doctor(device: str, quick: bool, data_root: str | None, results: str | None, as_json: bool) -> None:
    """Check whether results of this machine can be trusted.

    Prints a table of checks, and a verdict for each device.

    \b
    equibench doctor
    equibench doctor --device cuda:1 --quick

    Takes at most five minutes per GPU, and one minute on a CPU. The results folder keeps the report, and boards with
    runs of the device show the verdict. Exit code 1: the verdict for a device is "no".
    """
    from ..check.doctor.checks import devices_of, examine
    from ..check.doctor.device import ExaminedDevice
    from ..records.doctor_report import NO, report_text, write_report

    root = results_root(results)
    names, explanation = devices_of(device)
    ensure_writable(root, "results")
    reports = []

    def listen(finding: Finding) -> None:
        if not as_json:
            click.echo(f"{finding.check}: {finding.state} ({finding.seconds:.0f} s)", err=True)

    for name in names:
        reports.append(examine(ExaminedDevice(name, names, quick, data_root, explanation), listen))
        path = write_report(root, reports[-1])
        if not as_json:
            click.echo(f"{report_text(reports[-1])}\n\n{relative_path(path)}")
    if as_json:
        print_json([{**r.model_dump(mode="json"), "verdict": r.verdict} for r in reports])
    sys.exit(1 if any(r.verdict == NO for r in reports) else 0)


def text_of(verdict: Verdict) -> str:
    """The verdict for a terminal."""
    width = max(len(f.check) for f in verdict.findings) + 2
    columns = max(60, min(shutil.get_terminal_size((110, 24)).columns, 140))
    lines = [f"{verdict.model}: {verdict.input}" + (f" ({verdict.dataset})" if verdict.dataset else ""), ""]
    for f in verdict.findings:
        lines += _wrapped(f"{MARKS[f.status]:<6}{f.check:<{width}}", f.says, columns)
        if f.do:
            lines += _wrapped(" " * (6 + width), f"→ {f.do}", columns)
    return "\n".join([*lines, "", *_row(verdict), _sentence(verdict)])


def _wrapped(first: str, text: str, columns: int) -> list[str]:
    return textwrap.wrap(
        text,
        columns,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _row(verdict: Verdict) -> list[str]:
    if not verdict.cells:
        return []
    board = f"{verdict.row['dataset']}-{verdict.row['budget']}-{verdict.row['recipe']}"
    return [f"the row that the model would add to the board {board}:", "", plain_table([verdict.cells]), ""]


def _sentence(verdict: Verdict) -> str:
    counts = {s: verdict.count(s) for s in ("pass", "note", "fail", "skip")}
    verb = "passes" if counts["pass"] == 1 else "pass"
    made = f"{plural(counts['pass'], 'check')} {verb}, {plural(counts['note'], 'note')}"
    if verdict.accepted:
        return f"acceptable: {made}; {verdict.seconds:.0f} s"
    left = f", {counts['skip']} {'was' if counts['skip'] == 1 else 'were'} skipped" if counts["skip"] else ""
    fail = "fails" if counts["fail"] == 1 else "fail"
    bad = f"{counts['fail']} of {len(verdict.findings)} checks {fail}{left}"
    return f"NOT acceptable: {bad}; {made}; {verdict.seconds:.0f} s"
