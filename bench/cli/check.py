"""``equibench check``: may a model enter the registry?"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

import click

from ..tools.text import plural
from .options import SECONDS, include_option, json_option, results_option

if TYPE_CHECKING:
    from ..records.verdict import Verdict

MARKS = {"pass": "pass", "fail": "FAIL", "note": "note", "skip": "-"}


@click.command()
@click.argument("model")
@click.option("--dataset", help="Data set whose board it is to enter [the first that has its declared input].")
@click.option("--budget", default="e20", show_default=True, help="Budget of that board.")
@click.option("--deadline", type=SECONDS, default=120.0, show_default=True, metavar="SECONDS", help="For each check.")
@results_option
@include_option
@json_option
def check(
    model: str,
    dataset: str | None,
    budget: str,
    deadline: float,
    results: str | None,
    includes: tuple[str, ...],
    as_json: bool,
) -> None:
    """May MODEL enter the registry? Under a minute on a CPU for a model of 25 thousand parameters.

    \b
    equibench check p4cnn
    equibench check my-net --include my_net.py
    equibench check my-net --include my_net.py --dataset cifar10 --budget e50

    Prints every check, what to do about a failure, and the row that the model would add to the board. What each check
    means: docs/check.md. The verdict is kept in the results folder; runs of the same source say it. Exit code 1: it is
    not acceptable as it is.
    """
    from ..check.session import check_model
    from ..records.kept_verdicts import keep_verdict
    from ..tools.files import WriteError, results_root

    alive = sys.stderr.isatty()

    def listen(name: str) -> None:
        click.echo(f"\r\033[K{name} …" if alive else f"{name} …", nl=not alive, err=True)

    verdict = check_model(
        model,
        dataset=dataset,
        budget=budget,
        includes=includes,
        deadline_s=deadline,
        listen=listen,
    )
    if alive:
        click.echo("\r\033[K", nl=False, err=True)
    click.echo(json.dumps(verdict.document()) if as_json else text_of(verdict))
    try:
        keep_verdict(results_root(results), verdict)
    except WriteError as error:  # the verdict is said, and that is what was asked for
        click.echo(f"the verdict is not kept: {error}", err=True)
    sys.exit(0 if verdict.accepted else 1)


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
    from tabulate import tabulate

    board = f"{verdict.row['dataset']}-{verdict.row['budget']}-{verdict.row['recipe']}"
    table = tabulate([verdict.cells], headers="keys", tablefmt="simple", disable_numparse=True)
    return [f"the row that it would add to the board {board}:", "", table, ""]


def _sentence(verdict: Verdict) -> str:
    counts = {s: verdict.count(s) for s in ("pass", "note", "fail", "skip")}
    verb = "passes" if counts["pass"] == 1 else "pass"
    made = f"{plural(counts['pass'], 'check')} {verb}, {plural(counts['note'], 'note')}"
    if verdict.accepted:
        return f"acceptable: {made}; {verdict.seconds:.0f} s"
    left = f", {counts['skip']} {'was' if counts['skip'] == 1 else 'were'} not looked at" if counts["skip"] else ""
    fail = "fails" if counts["fail"] == 1 else "fail"
    return (
        f"NOT acceptable: {counts['fail']} of {len(verdict.findings)} checks {fail}{left}; {made};"
        f" {verdict.seconds:.0f} s"
    )
