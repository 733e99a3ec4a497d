"""The command line: parse, call, print; nothing else.

Nothing heavy is imported before a command needs it, so that help comes at once.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from ..registry import DATASETS, MODELS, Entry, UserError, include

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

_include = click.option(
    "--include", "includes", multiple=True, metavar="FILE", help="A Python file that registers models or data sets."
)
_results = click.option("--results", metavar="DIR", help="Results folder [$EQUIBENCH_RESULTS, else ./leaderboards].")
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="equibench")
def cli() -> None:
    """Fair head-to-heads of equivariant image architectures.

    \b
    equibench run quickstart                  the four architectures on real digits, a table at the end
    equibench run quickstart --seeds 1 --models p4cnn,z2cnn-22
    equibench run --dataset digits-rot --models p4cnn --budget e20 --seeds 5
    equibench list models 'pdo-*'             what there is: models, datasets, budgets, suites
    equibench tune quickstart                 choose a learning rate for each model, on validation images
    equibench leaderboard                     rebuild the CSVs from the run records, show them
    equibench publish --out site              tables, plots and a page to explore
    equibench show p4cnn                      what is known of a model, or of a run
    equibench verify pdo-econv                the proof of the claims about PDO-eConv, computed afresh
    """


@cli.command()
@click.argument("suite", required=False)
@click.option("--models", help="Models instead of the suite's, separated by commas.")
@click.option("--dataset", help="Data set instead of the suite's.")
@click.option("--budget", help="Budget instead of the suite's: e<epochs>, t<seconds> or a name.")
@click.option("--recipe", help="Recipe instead of the suite's.")
@click.option("--profile", help="Execution profile: strict or fast.")
@click.option("--fit", help="What is trained on: train, or train+val.")
@click.option("--seeds", help="How many seeds (3), or which (0,4,7).")
@click.option("--class", "parameter_class", help="matched or as-published.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:<i>, several with commas.")
@click.option("--jobs", type=int, help="Runs at a time [one a device; on a CPU one a core, at most 4].")
@click.option("--threads", type=int, default=1, show_default=True, help="CPU threads of each run.")
@click.option("--deadline", type=float, metavar="SECONDS", help="End a run after this time; it becomes a row.")
@click.option("--data-root", metavar="DIR", help="Folder of the data sets [$EQUIBENCH_DATA, else the user's cache].")
@click.option("--quiet", is_flag=True, help="No progress display.")
@_results
@_include
@_json
def run(suite: str | None, as_json: bool, **options: Any) -> None:
    """Train what is missing of a SUITE (a name or a .toml file) and show its table.

    \b
    equibench run quickstart
    equibench run my-suite.toml --device cuda:0,cuda:1
    equibench run quickstart --models my-net --include my_net.py

    Runs that are finished are not run again. Exit code 1: some runs failed, their rows say why.
    """
    from .api import Machine
    from .api import run as run_suite
    from .display import listener_for

    chosen = _suite(suite, options)
    machine = Machine(
        options["device"],
        _positive("--jobs", options["jobs"]),
        _positive("--threads", options["threads"]) or 1,
        _positive("--deadline", options["deadline"]),
    )
    outcome = run_suite(
        chosen,
        results=options["results"],
        machine=machine,
        data_root=options["data_root"],
        includes=options["includes"],
        listener=listener_for(options["quiet"] or as_json),
        command=shlex.join(["equibench", *sys.argv[1:]]),
    )
    _print_outcome(outcome, as_json)
    sys.exit(1 if outcome.failed else 0)


@cli.command()
@click.argument("suite", required=False)
@click.option("--models", help="Models instead of the suite's, separated by commas.")
@click.option("--dataset", help="Data set instead of the suite's.")
@click.option("--budget", help="Budget instead of the suite's.")
@click.option("--recipe", help="Recipe whose rate is tuned, common or a variant of it, instead of the suite's.")
@click.option("--profile", help="Execution profile: strict or fast.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:<i>, several with commas.")
@click.option("--jobs", type=int, help="Runs at a time [one a device; on a CPU one a core, at most 4].")
@click.option("--threads", type=int, default=1, show_default=True, help="CPU threads of each run.")
@click.option("--data-root", metavar="DIR", help="Folder of the data sets [$EQUIBENCH_DATA, else the user's cache].")
@click.option("--quiet", is_flag=True, help="No progress display.")
@_results
@_include
@_json
def tune(suite: str | None, as_json: bool, **options: Any) -> None:
    """Choose a learning rate for each model of a SUITE, on validation images.

    \b
    equibench tune quickstart
    equibench run quickstart --recipe tuned

    The same grid of rates for every model, one seed, the budget of the suite. Every trial is recorded.
    """
    from .api import Machine
    from .display import listener_for
    from .table import tuning_table
    from .tune import tune as tune_suite

    chosen = _suite(suite, {**options, "fit": None, "seeds": None, "parameter_class": None})
    machine = Machine(
        options["device"], _positive("--jobs", options["jobs"]), _positive("--threads", options["threads"]) or 1
    )
    done = tune_suite(
        chosen,
        results=options["results"],
        machine=machine,
        data_root=options["data_root"],
        includes=options["includes"],
        listener=listener_for(options["quiet"] or as_json),
        command=shlex.join(["equibench", *sys.argv[1:]]),
    )
    if as_json:
        click.echo(json.dumps({"chosen": done.chosen, "scores": done.scores, "file": str(done.path)}))
    else:
        click.echo(tuning_table(done.scores, done.chosen, done.at_the_edge))
        click.echo(f"\n{done.path}  (used by --recipe {done.recipe})")
    sys.exit(1 if done.outcome.failed else 0)


def _suite(name: str | None, options: dict[str, Any]) -> Any:
    """The suite with what the options replace in it."""
    from .schema import parse
    from .spec import Suite, find_suite

    include(options["includes"])
    values: dict[str, Any] = {"name": "ad-hoc"}
    if name is not None:
        values = find_suite(name).model_dump(by_alias=True)
    for key in ("dataset", "budget", "recipe", "profile", "fit"):
        if options[key] is not None:
            values[key] = options[key]
    if options["models"] is not None:
        values["models"] = [m for m in options["models"].split(",") if m]
    if options["seeds"] is not None:
        values["seeds"] = _seeds(options["seeds"])
    if options["parameter_class"] is not None:
        values["class"] = options["parameter_class"]
    if name is None and not {"dataset", "budget", "models"} <= set(values):
        raise UserError("name a suite (equibench list suites), or give --dataset, --budget and --models")
    return parse(Suite, values, f"suite {name!r}" if name else "the command line")


def _seeds(text: str) -> int | list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text!r}: give a number of seeds (3), or the seeds themselves (0,4,7)") from None
    return numbers[0] if len(numbers) == 1 else numbers


def _positive(option: str, value: Any) -> Any:
    if value is not None and value <= 0:
        raise UserError(f"{option} {value}: it must be above zero")
    return value


def _short(path: Path) -> str:
    """A path as seen from the current folder where it lies below it."""
    here = Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)


def _print_outcome(outcome: Any, as_json: bool) -> None:
    from .table import board_table

    board, root = outcome.board, outcome.results
    if as_json:
        click.echo(json.dumps(_board_document(board, root)))
    elif board.is_table:
        click.echo(board_table(board))
        click.echo(f"\n{_short(root)}/{board.name}.csv  (one row a model; {board.name}.runs.csv has one a run)")
    else:
        for record, _ in board.chosen:
            click.echo(f"{record.spec.model}  seed {record.spec.seed}  {record.status}  {record.reason}".rstrip())
    for name, what in outcome.stale.items():
        click.echo(f"{name}: not run again although its {what} changed since", err=True)
    if outcome.failed:
        click.echo(f"{len(outcome.failed)} runs failed; the same command tries them again", err=True)


def _board_document(board: Any, root: Any, view: Any = None) -> dict[str, Any]:
    from .leaderboard import model_rows, run_rows
    from .publish.select import select_columns, select_rows, shows

    runs = run_rows(board)
    if view is None:
        tables = {"models": model_rows(board), "runs": runs}
    else:
        tables = {"models": select_columns(select_rows(board, view), view), "runs": runs[[shows(view, m) for m in runs["model"]]]}
    rows = {key: json.loads(frame.to_json(orient="records")) for key, frame in tables.items()}
    csv = str(root / f"{board.name}.csv") if board.is_table else None
    return {"board": board.name, "csv": csv, **rows, "refused": [r.reason for r in board.refused]}


@cli.group(name="list")
def list_() -> None:
    """List models, datasets, budgets or suites; patterns as in a shell: equibench list models 'pdo-*'"""


@list_.command()
@click.argument("patterns", nargs=-1)
@_include
@_json
def models(patterns: tuple[str, ...], includes: tuple[str, ...], as_json: bool) -> None:
    """Models: name, group of the layers, group of exact invariance, parameters, source."""
    include(includes)
    rows = [_model_row(entry) for entry in MODELS.match(patterns)]
    for row in rows if not as_json else []:
        row["parameters"] = ", ".join(f"{count:,} ({shape})" for shape, count in row["parameters"].items())
    _show(rows, as_json, patterns, "model")


def _model_row(entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {"name": entry.name}
    row |= {key: entry.fields.get(key, "") for key in ("family", "group", "invariant")}
    row["parameters"] = entry.fields.get("params") or {}
    row |= {"status": entry.fields.get("status", "ours"), "source": entry.fields.get("source", "")}
    return row


@list_.command()
@click.argument("patterns", nargs=-1)
@_include
@_json
def datasets(patterns: tuple[str, ...], includes: tuple[str, ...], as_json: bool) -> None:
    """Data sets: shape, classes, sizes of the splits, source."""
    include(includes)
    rows = []
    for entry in DATASETS.match(patterns):
        fields = entry.fields
        train, val, test = fields["sizes"]
        row = {"name": entry.name, "shape": "x".join(map(str, fields["shape"])), "classes": fields["classes"]}
        row |= {"train": train, "val": val, "test": test}
        rows.append(row | {"source": fields["source"], "note": fields.get("note", "")})
    _show(rows, as_json, patterns, "data set")


@list_.command()
@click.argument("patterns", nargs=-1)
@_json
def budgets(patterns: tuple[str, ...], as_json: bool) -> None:
    """Budgets; any e<epochs> and t<seconds> works beside them."""
    from .budget import named_budgets

    keys = ("name", "kind", "epochs", "seconds", "steps", "note")
    rows = [{key: getattr(b, key) for key in keys} for b in named_budgets().values() if _fits(b.name, patterns)]
    _show(rows, as_json, patterns, "budget")


@list_.command()
@click.argument("patterns", nargs=-1)
@click.option("--cost", is_flag=True, help="Every model's operations, and its time where records know its step.")
@_results
@_json
def suites(patterns: tuple[str, ...], cost: bool, results: str | None, as_json: bool) -> None:
    """Suites: the named head-to-heads that are shipped, and what they cost before one starts.

    \b
    equibench list suites
    equibench list suites digits-25k --cost
    """
    from .spec import examples_of, find_suite, suite_names

    found = [find_suite(n) for n in suite_names() if _fits(n, patterns)]
    if cost and found:
        _show_costs(found, results, as_json)
        return
    rows = []
    for suite in found:
        row = {"name": suite.name, "dataset": suite.dataset, "budget": suite.budget, "recipe": suite.recipe}
        row |= {"models": len(suite.models), "seeds": len(suite.seed_list)}
        examples = examples_of(suite)
        row |= {"runs": len(suite.models) * len(suite.seed_list), "examples": examples}
        if not as_json:
            row["examples"] = "" if examples is None else f"{examples / 1e6:,.2f} M"
        rows.append(row | {"title": suite.title})
    _show(rows, as_json, patterns, "suite")


def _show_costs(suites: list[Any], results: str | None, as_json: bool) -> None:
    """What the runs of suites cost on this device, one table a suite."""
    from .estimate import estimate, this_device
    from .files import results_root
    from .table import cost_table

    key, root = this_device(), results_root(results)
    document = {}
    for suite in suites:
        costs = list(estimate(suite, root, key))
        keys = ("model", "parameters", "runs", "steps", "examples", "step_flops", "flops", "train_s")
        document[suite.name] = [{k: getattr(c, k) for k in keys} for c in costs]
        if not as_json:
            click.echo(cost_table(suite.name, costs, key) + "\n")
    if as_json:
        click.echo(json.dumps(document))


def _reported(board: Any) -> list[dict[str, str]]:
    from .reported import reported_rows

    datasets = dict.fromkeys(r.spec.dataset for r, _ in board.chosen)
    return [row for dataset in datasets for row in reported_rows(dataset)]


@list_.command()
@click.argument("patterns", nargs=-1)
@_json
def reported(patterns: tuple[str, ...], as_json: bool) -> None:
    """Figures that papers report, by method or data set: equibench list reported mnist-rot 'PDO*'"""
    from .reported import reported_rows

    rows = [r for r in reported_rows() if _fits(r["method"], patterns) or _fits(r["data set"], patterns)]
    _show(rows, as_json, patterns, "reported figure")


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    import fnmatch

    return not patterns or any(fnmatch.fnmatchcase(name, p) for p in patterns)


def _show(rows: list[dict[str, Any]], as_json: bool, patterns: tuple[str, ...], kind: str) -> None:
    if as_json:
        click.echo(json.dumps(rows))
        return
    if not rows:
        raise UserError(f"no {kind} fits {' '.join(patterns)}; patterns are as in a shell, quoted: 'p4*'")
    from tabulate import tabulate

    click.echo(tabulate(rows, headers="keys", tablefmt="simple"))


@cli.command()
@click.argument("board", required=False)
@click.option("--dataset", help="Boards of this data set only.")
@click.option("--budget", help="Boards of this budget only.")
@click.option("--model", "models", multiple=True, metavar="PATTERN", help="Models that fit, as 'pdo-*'; may be repeated.")
@click.option("--sort", default="", metavar="COLUMN", help="Sort by a column of the CSV; -COLUMN: the largest first.")
@click.option("--columns", default="", help="Columns of the CSV instead of the usual ones, separated by commas.")
@click.option("--against", default="", metavar="MODEL", help="Paired differences to this model, with corrected p.")
@click.option("--all-pairs", is_flag=True, help="Paired differences of all pairs, corrected over all of them.")
@click.option("--format", "style", default="simple", show_default=True, help="simple, md, grid, latex, csv, json, …")
@click.option("--reported", "with_reported", is_flag=True, help="Below, apart: figures that papers report.")
@_results
@_include
@_json
def leaderboard(board: str | None, style: str, with_reported: bool, as_json: bool, **options: Any) -> None:
    """Rebuild the CSVs of a BOARD (all without one) from the run records, and show it.

    \b
    equibench leaderboard --dataset digits-rot --model 'pdo-*' --sort=-test_acc_mean_pct
    equibench leaderboard digits-rot-e20-common --against z2cnn-22
    equibench leaderboard digits-rot-e20-common --columns rank,model,test_acc_mean_pct,p_holm --format csv
    """
    from tabulate import tabulate_formats

    from ..registry import nearest
    from .files import results_root
    from .publish.select import View, check_models, select_boards, select_columns, select_rows, view_text

    formats = [*tabulate_formats, "csv", "json", "md"]
    if style not in formats:
        raise UserError(f"--format {style!r}: {nearest(style, formats)}")
    include(options["includes"])
    columns = tuple(c.strip() for c in options["columns"].split(",") if c.strip())
    view = View(options["models"], options["sort"], columns, options["against"], options["all_pairs"])
    root = results_root(options["results"])
    boards = select_boards(root, board, options["dataset"], options["budget"])
    check_models(boards, view)
    if as_json or style == "json":
        documents = [_board_document(b, root, view) for b in boards]
        if with_reported:
            documents = [{**d, "reported": _reported(b)} for d, b in zip(documents, boards, strict=True)]
        click.echo(json.dumps(documents))
        return
    # Booktabs, because these tables are for papers.
    style = {"md": "github", "latex": "latex_booktabs"}.get(style, style)
    for built in (b for b in boards if b.is_table and not select_rows(b, view).empty):
        if style == "csv":
            click.echo(select_columns(select_rows(built, view), view).to_csv(index=False))
        else:
            click.echo(view_text(built, view, style) + "\n")
    if with_reported and style != "csv":
        from .reported import reported_table

        for dataset in dict.fromkeys(r.spec.dataset for b in boards for r, _ in b.chosen):
            click.echo(reported_table(dataset, style) or f"no paper reports a figure for {dataset}")
            click.echo()


@cli.command()
@click.argument("boards", nargs=-1)
@click.option("--out", default="published", show_default=True, metavar="DIR", help="Folder to publish into.")
@click.option("--format", "formats", default="html,md,latex,plots", show_default=True, help="What, separated by commas.")
@click.option("--readme", metavar="FILE", help="Refresh the tables between the markers of FILE, and do nothing else.")
@click.option("--jobs", type=int, help="Boards at a time [as many as cores, at most 4].")
@_results
@_include
@_json
def publish(boards: tuple[str, ...], out: str, formats: str, readme: str | None, as_json: bool, **options: Any) -> None:
    """Publish BOARDS (all without) as tables, plots and a site that opens from disk: DIR/index.html.

    \b
    equibench publish --out site
    equibench publish digits-rot-e20-common --format md,latex --out tables
    equibench publish --readme README.md
    """

    from .files import results_root

    include(options["includes"])
    root, target = results_root(options["results"]), Path(out)
    if readme:
        from .publish.readme import refresh

        done, where = refresh(Path(readme), root), readme
    else:
        from .publish.publish import publish as write

        kinds = [f.strip() for f in formats.split(",") if f.strip()]
        done = write(root, target, boards, kinds, _positive("--jobs", options["jobs"]))
        where = str(target / "index.html") if "html" in kinds else out
    click.echo(json.dumps({"boards": done, "written": where}) if as_json else f"{where}  ({', '.join(done)})")


@cli.command()
@click.argument("run")
@click.option("--device", help="cpu or cuda:<i> [as recorded].")
@click.option("--threads", type=int, help="CPU threads [as recorded].")
@click.option("--data-root", metavar="DIR", help="Folder of the data sets [$EQUIBENCH_DATA, else the user's cache].")
@_results
@_include
@_json
def replay(run: str, as_json: bool, **options: Any) -> None:
    """Run a recorded RUN (the beginning of its id) again, and say whether it agrees.

    To the bit on a CPU with the same versions, processor and threads; else within the interval in which one further
    run lies by the spread of the recorded seeds. Exit code 1: it does not agree. Boards keep the first attempt.
    """
    from dataclasses import asdict

    from .files import results_root
    from .replay import replay as run_again

    verdict = run_again(
        run,
        results_root(options["results"]),
        device=options["device"],
        threads=_positive("--threads", options["threads"]),
        data_root=options["data_root"],
        includes=options["includes"],
        command=shlex.join(["equibench", *sys.argv[1:]]),
    )
    if as_json:
        click.echo(json.dumps(asdict(verdict)))
    else:
        after = "no result" if verdict.replayed is None else f"{verdict.replayed:.2f} %"
        click.echo(f"recorded {verdict.recorded:.2f} %, replayed {after} (attempt {verdict.run})")
        for difference in verdict.differences:
            click.echo(f"differs: {difference}")
        click.echo(f"{'agrees' if verdict.agrees else 'DISAGREES'} ({verdict.rule}): {verdict.why}")
    sys.exit(0 if verdict.agrees else 1)


@cli.command()
@click.argument("name")
@_results
@_include
@_json
def show(name: str, results: str | None, includes: tuple[str, ...], as_json: bool) -> None:
    """What is known of a model (by name) or of a run (the beginning of its id)."""
    from .show import model_card, run_card

    include(includes)
    card = run_card(name, results) or model_card(name)
    if as_json:
        click.echo(json.dumps(card))
        return
    width = max(map(len, card))
    for key, value in card.items():
        click.echo(f"{key:<{width}}  {json.dumps(value) if isinstance(value, dict | list) else value}")


@cli.command()
@click.argument("name")
@click.option("--out", default=".", show_default=True, metavar="DIR", help="Folder of the plot.")
@click.option("--only", help="Parts of the proof, separated by commas: convergence, exactness, pitch.")
@_json
def verify(name: str, out: str, only: str | None, as_json: bool) -> None:
    """Prove the claims about the layers NAME (pdo-econv): tables, and a plot in a file.

    Takes about a minute on a CPU. Exit code 1: some property does not hold; its row says NO.
    """
    from .verify import prove

    parts = [p for p in (only or "").split(",") if p]
    proof = prove(name, out, parts, lambda part: click.echo(f"{part} …", err=True))
    if as_json:
        plot = str(proof.figure) if proof.figure else None
        click.echo(json.dumps({"plot": plot, "failed": proof.failed, **proof.rows}))
    else:
        click.echo("\n\n".join(f"{title}\n\n{table}" for title, table in proof.tables) + "\n")
        click.echo(f"{proof.count - proof.failed} of {proof.count} properties hold")
        if proof.figure:
            click.echo(f"plot: {proof.figure}")
    sys.exit(1 if proof.failed else 0)


@cli.command()
@click.argument("model", required=False)
@click.option("--run", "run_id", metavar="ID", help="A finished run (the beginning of its id) instead of a model.")
@click.option("--dataset", help="Data set that the model looks at [digits-rot].")
@click.option("--size", type=int, metavar="N", help="Pixels of its images [the data set's].")
@click.option("--out", default=".", show_default=True, metavar="DIR", help="Folder of the pictures.")
@click.option("--figures", metavar="DIR", help="Draw the two figures of the documentation into DIR instead.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:<i>.")
@click.option("--threads", type=int, default=1, show_default=True, help="CPU threads.")
@click.option("--data-root", metavar="DIR", help="Folder of the data sets [$EQUIBENCH_DATA, else the user's cache].")
@_results
@_include
@_json
def equivariance(model: str | None, as_json: bool, **options: Any) -> None:
    """Equivariance error of a MODEL at initialisation, or the full profile of a finished run.

    \b
    equibench equivariance p4cnn              at 27, 28 and 29 pixels, and against the angle
    equibench equivariance --run 2c10b4a0     measured on the kept weights, joined to the board

    What the figures mean: docs/equivariance-error.md.
    """

    given = {"MODEL": model, "--run": options["run_id"], "--figures": options["figures"]}
    if sum(value is not None for value in given.values()) != 1:
        raise UserError("give one of MODEL, --run ID and --figures DIR")
    if model is None and (options["dataset"] is not None or options["size"] is not None):
        raise UserError("--dataset and --size go with a MODEL; a run has its own")
    include(options["includes"])
    if options["figures"] is not None:
        from .equivariance_figures import documentation_figures

        for path in documentation_figures(Path(options["figures"]), options["data_root"]):
            click.echo(path)
        return
    report = _equivariance_report(model, options)
    if as_json:
        pictures = [str(p) for p in report.pictures]
        click.echo(json.dumps({**report.extra, "rows": report.rows, "sentence": report.sentence, "pictures": pictures}))
        return
    from .equivariance_report import table

    click.echo(table(report))
    for path in report.pictures:
        click.echo(f"picture: {path}")


def _equivariance_report(model: str | None, options: dict[str, Any]) -> Any:

    from .equivariance_report import initial_report, one_device, run_report

    out, root = Path(options["out"]), options["data_root"]
    threads, device = _positive("--threads", options["threads"]), one_device(options["device"])
    if model is not None:
        return initial_report(model, options["dataset"] or "digits-rot", options["size"], out, root, device, threads)
    command = shlex.join(["equibench", *sys.argv[1:]])
    return run_report(options["run_id"], options["results"], out, root, device, threads, command)


@cli.group()
def data() -> None:
    """Fetch and verify data sets."""


@data.command()
@click.argument("name")
@click.option("--data-root", metavar="DIR", help="Folder of the data sets [$EQUIBENCH_DATA, else the user's cache].")
@_include
def fetch(name: str, data_root: str | None, includes: tuple[str, ...]) -> None:
    """Download data set NAME, verify it and make it ready."""
    from .fetching import fetch_with_progress

    include(includes)
    click.echo(fetch_with_progress(name, data_root))


def main() -> NoReturn:
    """Run the command line; every wrong input ends with one sentence and exit code 2."""
    try:
        cli(standalone_mode=False)
    except UserError as error:
        _end(str(error), 2)
    except click.ClickException as error:
        _end(error.format_message(), 2)
    except (click.Abort, KeyboardInterrupt):
        _end("interrupted; finished runs are kept, and the same command goes on with the rest", 130)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone; nothing is left to say
        sys.exit(0)
    sys.exit(0)


def _end(message: str, code: int) -> NoReturn:
    print(f"equibench: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
