"""Commands that exchange results between machines: ``merge``, ``export``, ``validate``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click

from ...registry import include
from ..tools.files import results_root
from ..tools.text import plain_table, plural
from .options import (
    common_options,
    deadline_option,
    include_option,
    json_option,
    print_refused,
    results_option,
    say_over,
)


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--dry-run", is_flag=True, help="Write nothing; only show what would be added.")
@common_options
def merge(
    sources: tuple[str, ...], dry_run: bool, results: str | None, includes: tuple[str, ...], as_json: bool
) -> None:
    """Add the results of other machines to the results folder.

    \b
    equibench merge laptop-2/leaderboards shard-3.tar.gz --dry-run
    equibench merge shard-*.tar.gz

    A SOURCE is a results folder or an archive. Every record is checked as untrusted input. Existing records are never
    changed. If a run exists here with different content, the new one is kept as a further attempt. After an
    interruption, repeat the same command. Exit code 1: files were refused; standard error names each of them.
    """
    from ..exchange.merge import merge as merge_sources

    include(includes)
    done = merge_sources([Path(source) for source in sources], results_root(results), dry_run)
    print_refused(one.why for one in done.of("refused"))
    if as_json:
        keys = ("board", "kind", "name", "state", "why")
        click.echo(json.dumps({"dry_run": dry_run, "files": [{k: getattr(a, k) for k in keys} for a in done.files]}))
    else:
        click.echo(_table(done))
        for one in done.of("further attempt"):
            click.echo(f"conflict: {one.why}")
        others = Counter(a.kind for a in done.of("new") if a.kind != "record")
        if others:
            named = [plural(count, noun) for noun, count in sorted(others.items())]
            click.echo(f"also: {', '.join(named)}")
        click.echo("nothing was written" if dry_run else f"rebuilt: {', '.join(done.boards) or 'no board'}")
    sys.exit(1 if done.of("refused") else 0)


def _table(done: Any) -> str:
    """The arrived files with one row per board: records, and refused files of every kind."""
    from ..exchange.merge import STATES, devices, versions

    rows = []
    for board, own, counts in done.by_board():
        row = {"board": board, **dict(zip(STATES, counts, strict=True))}
        rows.append({**row, "devices": _counted(devices(own)), "versions": _counted(versions(own))})
    return plain_table(rows) or "nothing to merge"


def _counted(found: Counter[str]) -> str:
    return "; ".join(f"{count} × {name}" for name, count in found.most_common(4)) + ("; …" if len(found) > 4 else "")


@click.command()
@click.argument("folder", metavar="FOLDER")
@click.option("--against", metavar="DIR", help="The published results [$EQUIBENCH_RESULTS, else ./leaderboards].")
@click.option("--complete", is_flag=True, help="FOLDER replaces the published folder, as in a pull request.")
@deadline_option
@include_option
@json_option
def validate(
    folder: str, against: str | None, complete: bool, deadline: float, includes: tuple[str, ...], as_json: bool
) -> None:
    """Check whether rows may enter the published boards.

    \b
    equibench validate mine.tar.gz
    equibench validate leaderboards --against ../main/leaderboards --complete

    FOLDER is a results folder or an archive. Reads every record, and checks every model with new rows on this machine.
    Prints a report as Markdown: the reasons for a refusal, notes for the reviewer, changes of ranks, and the tables
    before and after. With --complete, no published file may be missing or changed. Writes nothing. Exit code 1: the
    rows may not enter as they are.
    """
    from ..exchange.review_report import document, markdown
    from ..exchange.validate import validate as judge

    found = judge(
        Path(folder),
        Path(against) if against else None,
        complete=complete,
        includes=includes,
        deadline_s=deadline,
        listen=lambda what: say_over(f"{what} …"),
    )
    say_over("")
    click.echo(json.dumps(document(found)) if as_json else markdown(found), nl=as_json)
    sys.exit(0 if found.accepted else 1)


@click.command()
@click.argument("boards", nargs=-1, required=True, metavar="BOARD...")
@click.option("--out", required=True, metavar="FILE.tar.gz", help="The archive.")
@results_option
@include_option
def export(boards: tuple[str, ...], out: str, results: str | None, includes: tuple[str, ...]) -> None:
    """Pack BOARDS into an archive.

    \b
    equibench export digits-rot-e20-common --out mine.tar.gz

    The archive has records, outcomes, sidecars, suites and recipes. Weights, checkpoints and logs are left out. The
    same results give the same bytes. Exit code 1: some record files were refused; standard error names each of them.
    The others are packed.
    """
    from ..exchange.export import export as pack

    include(includes)
    names, count, refused = pack(boards, results_root(results), Path(out))
    print_refused(one.reason for one in refused)
    click.echo(f"{out}  ({plural(count, 'file')} of {', '.join(names)})")
    sys.exit(1 if refused else 0)
