"""``equibench list``: models, data sets, budgets, suites and other names. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import click

from ...registry import DATASETS, MODELS, Entry, UserError, include, nearest
from ..spec.option_values import PROFILES
from ..tools.files import results_root
from ..tools.text import fitted_table, is_selected, terminal_width
from .options import include_option, json_option, results_option, several, wide_option

#: The argument and options of most lists.
_table_options = several(click.argument("patterns", nargs=-1), wide_option, json_option)


@click.group(name="list")
def list_() -> None:
    """List models, data sets, suites and more. Patterns work as in a shell: equibench list models 'pdo-*'"""


@list_.command()
@click.argument("patterns", nargs=-1)
@click.option(
    "--for", "dataset", metavar="DATASET", help="Only models that can be built for the images of this data set."
)
@include_option
@wide_option
@json_option
def models(
    patterns: tuple[str, ...], dataset: str | None, includes: tuple[str, ...], wide: bool, as_json: bool
) -> None:
    """Models: name, group of the layers, group of exact invariance, parameters, source.

    \b
    equibench list models 'pdo-*'
    equibench list models --for eurosat
    """
    include(includes)
    rows = model_rows(patterns, dataset)
    for row in rows if not as_json else []:
        del row["sizes"]
        row["parameters"] = ", ".join(f"{count:,} ({shape})" for shape, count in row["parameters"].items())
    _show(rows, as_json, patterns, "model", wide)


def model_rows(patterns: Iterable[str], dataset: str | None = None) -> list[dict[str, Any]]:
    """One row per matching model; with `dataset`, only models that can be built for its images."""
    found = MODELS.match(patterns)
    if dataset is not None:
        from ..training.probe import fitting  # imports torch: a model may have to be built

        fields = DATASETS.find(dataset).entry.fields
        found = fitting(found, fields["shape"][0], fields["classes"], fields["shape"][1])
    return [_model_row(entry) for entry in found]


def _model_row(entry: Entry) -> dict[str, Any]:
    texts = {key: entry.fields.get(key, "") for key in ("family", "group", "invariant", "sizes")}
    row = {"name": entry.name, **texts, "parameters": entry.fields.get("params") or {}}
    return row | {"status": entry.fields.get("status", "ours"), "source": entry.fields.get("source", "")}


@list_.command()
@click.argument("patterns", nargs=-1)
@include_option
@wide_option
@json_option
def datasets(patterns: tuple[str, ...], includes: tuple[str, ...], wide: bool, as_json: bool) -> None:
    """Data sets: shape, classes, sizes of the splits, licence, source, and packages to be installed first."""
    include(includes)
    rows = dataset_rows(patterns)
    for row in rows if not as_json else []:
        missing = row.pop("missing")
        row["note"] = "; ".join(filter(None, (missing, row["note"])))  # what the user has to do comes first
        for key in ("rotation", "citation", "digest"):
            del row[key]
    _show(rows, as_json, patterns, "data set", wide)


#: Fields of data sets that their registration may leave out.
_DATASET: dict[str, Any] = {"task": "", "licence": "", "rotation": False, "citation": "", "digest": "", "note": ""}


def dataset_rows(patterns: Iterable[str]) -> list[dict[str, Any]]:
    """One row per matching data set."""
    rows = []
    for entry in DATASETS.match(patterns):
        fields = {**_DATASET, **entry.fields}
        row = {"name": entry.name, "shape": "x".join(map(str, fields["shape"])), "classes": fields["classes"]}
        row |= dict(zip(("train", "val", "test"), fields["sizes"], strict=True))
        row |= {key: fields[key] for key in ("task", "licence", "rotation")} | {"missing": entry.missing}
        rows.append(row | {key: fields[key] for key in ("citation", "digest", "source", "note")})
    return rows


@list_.command()
@_table_options
def budgets(patterns: tuple[str, ...], wide: bool, as_json: bool) -> None:
    """Named budgets. Any e<epochs>, n<examples> and t<seconds> is also a budget."""
    from ..spec.budget import named_budgets

    keys = ("name", "kind", "epochs", "seconds", "steps", "note")
    rows = [{key: getattr(b, key) for key in keys} for b in named_budgets().values() if is_selected(b.name, patterns)]
    _show(rows, as_json, patterns, "budget", wide)


@list_.command()
@click.argument("patterns", nargs=-1)
@click.option(
    "--cost", is_flag=True, help="Show each model's operations, and its time if records contain its step time."
)
@results_option
@wide_option
@json_option
def suites(patterns: tuple[str, ...], cost: bool, results: str | None, wide: bool, as_json: bool) -> None:
    """Shipped suites, their cost, and the models of one suite.

    \b
    equibench list suites
    equibench list suites digits-25k
    equibench list suites digits-25k --cost
    """
    from ..boards.families import find_points
    from ..spec.suite import suite_names

    found = [find_points(n) for n in suite_names() if is_selected(n, patterns)]
    if cost and found:
        _show_costs(found, results, as_json)
        return
    if len(found) == 1 and patterns == (found[0][0].name,) and not as_json:
        from ..reports.name_cards import suite_text

        click.echo(suite_text(patterns[0], terminal_width()))
        return
    rows = suite_rows(patterns)
    for row in rows if not as_json else []:
        del row["model_names"]
        row["examples"] = "" if row["examples"] is None else f"{row['examples'] / 1e6:,.2f} M"
    _show(rows, as_json, patterns, "suite", wide)


def suite_rows(patterns: Iterable[str]) -> list[dict[str, Any]]:
    """One row per matching shipped suite."""
    from ..boards.families import find_points
    from ..spec.suite import examples_of, suite_names

    rows = []
    for points in (find_points(n) for n in suite_names() if is_selected(n, tuple(patterns))):
        suite, budgets = points[0], ", ".join(dict.fromkeys(p.budget for p in points))
        row: dict[str, Any] = {"name": suite.name, "dataset": suite.dataset, "budget": budgets, "recipe": suite.recipe}
        row |= {"models": len(suite.models), "seeds": len(suite.seed_list), "boards": len(points)}
        counts = [examples_of(p) for p in points]
        examples = None if None in counts else sum(c for c in counts if c is not None)
        row |= {"runs": sum(len(p.models) * len(p.seed_list) for p in points), "examples": examples}
        rows.append(row | {"model_names": suite.models, "title": suite.title})
    return rows


@list_.command(name="suite-keys")
@click.argument("patterns", nargs=-1)
@click.option("--schema", is_flag=True, help="Print the JSON Schema, for editors that check TOML.")
@click.option("--markdown", is_flag=True, help="Print the table of docs/suites.md.")
@wide_option
@json_option
def suite_keys(patterns: tuple[str, ...], schema: bool, markdown: bool, wide: bool, as_json: bool) -> None:
    """Keys of a suite file: type, default, example, meaning.

    \b
    equibench list suite-keys 'reference*'
    equibench list suite-keys --schema > suite.schema.json
    """
    from ..spec import suite_keys as reference

    if patterns and (schema or markdown):
        raise UserError(f"--{'schema' if schema else 'markdown'} always prints all keys; leave out {patterns[0]!r}")
    if schema or markdown:
        click.echo(reference.schema_text().rstrip() if schema else reference.markdown_table())
        return
    _show([row for row in reference.suite_keys() if is_selected(row["key"], patterns)], as_json, patterns, "key", wide)


def _show_costs(suites: list[list[Any]], results: str | None, as_json: bool) -> None:
    """Print the cost of the runs of suites on this device, one table per board."""
    from ..boards.families import point_name
    from ..reports.estimate import cost_table, estimate, this_device

    key, root = this_device(), results_root(results)
    document = {}
    for suite, name in ((point, point_name(point, points)) for points in suites for point in points):
        costs = list(estimate(suite, root, key))
        keys = ("model", "parameters", "runs", "steps", "examples", "step_flops", "flops", "train_s")
        document[name] = [{k: getattr(c, k) for k in keys} for c in costs]
        if not as_json:
            click.echo(cost_table(name, costs, key) + "\n")
    if as_json:
        click.echo(json.dumps(document))


@list_.command()
@_table_options
def reported(patterns: tuple[str, ...], wide: bool, as_json: bool) -> None:
    """Figures reported in papers, by method or data set: equibench list reported mnist-rot 'PDO*'"""
    from ..boards.reported import reported_rows

    rows = [r for r in reported_rows() if is_selected(r["method"], patterns) or is_selected(r["data set"], patterns)]
    _show(rows, as_json, patterns, "reported figure", wide)


def refuse_no_match(rows: list[dict[str, Any]], kind: str, patterns: Iterable[str]) -> None:
    """Refuse (UserError) patterns that nothing of a kind matches; a name without wildcards is a wrong name."""
    patterns = list(patterns)
    if rows or not patterns:
        return
    from ..records.staleness import is_known  # pydantic, which takes long to import

    if kind == "model" and len(patterns) == 1 and is_known(patterns[0]):
        raise UserError(
            f"lists have no row for the model {patterns[0]!r}, a member of a family or one with wrappers; equibench"
            f" show {patterns[0]} shows it"
        )
    if len(patterns) == 1 and kind in _NAMES and not set(patterns[0]) & set("*?["):
        raise UserError(f"there is no {kind} {patterns[0]!r}; {nearest(patterns[0], _NAMES[kind]())}")
    raise UserError(f"no {kind} matches {' '.join(patterns)}; patterns are as in a shell, in quotes: 'p4*'")


def _suite_names() -> list[str]:
    from ..spec.suite import suite_names

    return suite_names()


#: The names of a kind.
_NAMES: dict[str, Callable[[], Iterable[str]]] = {
    "model": MODELS.entries, "data set": DATASETS.entries, "suite": _suite_names,
}  # fmt: skip
#: Columns that come first if a list is wider than the terminal.
_FIRST = {
    "model": ("name", "parameters", "invariant", "group", "status", "source", "family"),
    "data set": ("name", "shape", "classes", "train", "test", "note"),
    "suite": ("name", "title", "dataset", "budget", "runs", "models", "seeds", "recipe"),
    "budget": ("name", "kind", "note", "epochs", "seconds"),
    "recipe": ("name", "models", "note", "optimizer", "lr", "batch", "epochs"),
    "reported figure": ("method", "data set", "test error %", "source"),
}


def _show(rows: list[dict[str, Any]], as_json: bool, patterns: tuple[str, ...], kind: str, wide: bool = False) -> None:
    if as_json:
        click.echo(json.dumps(rows))
        return
    refuse_no_match(rows, kind, patterns)
    click.echo(fitted_table(rows, _FIRST.get(kind, ()), None if wide else terminal_width()))


@list_.command()
@_table_options
def recipes(patterns: tuple[str, ...], wide: bool, as_json: bool) -> None:
    """Recipes: models, optimiser, learning rate, batch size and augmentation."""
    from ..reports.name_cards import recipe_rows

    rows = [row for row in recipe_rows() if is_selected(row["name"], patterns)]
    _show(rows, as_json, patterns, "recipe", wide)


@list_.command()
@json_option
def profiles(as_json: bool) -> None:
    """Execution profiles: precision, determinism and compilation."""
    _show([{"name": name, "note": line} for name, line in PROFILES.items()], as_json, (), "profile")


@list_.command()
@json_option
def formats(as_json: bool) -> None:
    """Formats of equibench leaderboard."""
    from tabulate import tabulate_formats

    from ..boards.terminal_table import FORMATS

    others = {name: "a format of the package tabulate" for name in tabulate_formats if name not in FORMATS}
    _show([{"name": name, "note": line} for name, line in {**FORMATS, **others}.items()], as_json, (), "format")


@list_.command()
@click.argument("patterns", nargs=-1)
@json_option
def columns(patterns: tuple[str, ...], as_json: bool) -> None:
    """Columns of the CSVs, for --columns and --sort; docs/leaderboard.md explains them."""
    from ..boards.row_marks import HEADINGS_OF
    from ..boards.rows import column_names

    found = column_names()
    rows = []
    for name in dict.fromkeys([*found["models"], *found["runs"]]):
        row = {"name": name, "heading": HEADINGS_OF.get(name, "") if name in found["models"] else ""}
        row |= {table: "yes" if name in found[table] else "" for table in ("models", "runs")}
        rows.append(row)
    _show([row for row in rows if is_selected(row["name"], patterns)], as_json, patterns, "column")
