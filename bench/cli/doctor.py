"""``equibench doctor``: what figures of this machine are worth."""

from __future__ import annotations

import json
import sys

import click

from .options import json_option, results_option


@click.command()
@click.option(
    "--device", default="auto", show_default=True, help="auto (all GPUs, else the CPU), cpu, cuda or cuda:<i>."
)
@click.option("--quick", is_flag=True, help="10 s of load instead of 90; the verdict is then at best: E boards only.")
@click.option("--data-root", metavar="DIR", help="Folder of the data sets [$EQUIBENCH_DATA, else the user's cache].")
@results_option
@json_option
def doctor(device: str, quick: bool, data_root: str | None, results: str | None, as_json: bool) -> None:
    """Whether boards of this machine can be trusted: a table of checks, and a verdict on each device.

    \b
    equibench doctor
    equibench doctor --device cuda:1 --quick

    At most five minutes a GPU, a minute on a CPU. The report is kept among the results, and boards with runs of the
    device show the verdict. Exit code 1: the verdict on a device is "no".
    """
    from ..check.doctor.examine import devices_of, examine
    from ..records.doctor_report import NO, report_text, write_report
    from ..tools.files import ensure_writable, results_root
    from ..tools.text import relative_path

    root = results_root(results)
    names, explanation = devices_of(device)
    ensure_writable(root)
    reports = []
    for name in names:
        reports.append(
            examine(
                name, names, quick, data_root, explanation,
                lambda f: None if as_json else click.echo(f"{f.check}: {f.state} ({f.seconds:.0f} s)", err=True),
            )
        )  # fmt: skip
        path = write_report(root, reports[-1])
        if not as_json:
            click.echo(f"{report_text(reports[-1])}\n\n{relative_path(path)}")
    if as_json:
        documents = [{**r.model_dump(mode="json"), "verdict": r.verdict} for r in reports]
        click.echo(json.dumps(documents if len(documents) > 1 else documents[0]))
    sys.exit(1 if any(r.verdict == NO for r in reports) else 0)
