"""A summary over boards as text: its table in every format, and the notes below."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from ...registry import UserError
from ..boards.across import NOT_THERE, BoardsSummary, Entry, Side, groups, summarise
from ..boards.statistics import LEVEL, SMALLEST_SAMPLE, smallest_p
from ..boards.terminal_table import around_table, in_cell, in_text, rank_text
from ..tools.markup import for_latex
from ..tools.text import is_selected, plural
from .view import check_patterns, difference_text

if TYPE_CHECKING:
    import pandas as pd


def shown_models(summary: BoardsSummary, patterns: Sequence[str]) -> list[str]:
    """The models of a summary that match one of the patterns; without patterns, all models.

    Raises:
        UserError: a pattern matches no model of these boards.
    """
    check_patterns(patterns, [*summary.models, *summary.missing])
    return [m for m in summary.models if is_selected(m, patterns)]


def across_text(summary: BoardsSummary, style: str, patterns: Sequence[str] = ()) -> str:
    """The summary in a table format of tabulate, with its notes.

    Args:
        patterns: show only models that match one of them; this changes no value.
    """
    rows = []
    for model in shown_models(summary, patterns):
        found = _row(summary, model)
        row = {"model": model, "mean difference": found["mean"], "improvability %": found["improvability"]}
        for side, shown in zip(summary.sides, found["cells"], strict=True):
            name = summary.labels[side.name]
            row |= {name: shown["difference"], f"{name} rank": shown["rank"]}
        rows.append({key: in_cell(cell, style) for key, cell in row.items()})
    notes = [in_text(note, style) for note in across_notes(summary, patterns)]
    if not rows:
        return "\n".join(notes)
    # Names of boards need escaping too.
    heads = [in_cell(key, style) for key in rows[0]]
    table = tabulate(
        [list(row.values()) for row in rows], headers=heads, tablefmt=style, disable_numparse=True,
        colalign=["left", *["right"] * (len(heads) - 1)],
    )  # fmt: skip
    return around_table([in_text(heading(summary), style)], for_latex(table, style), notes, style)


def heading(summary: BoardsSummary) -> str:
    """One line that describes the summary."""
    boards, models = plural(len(summary.sides), "board"), plural(len(summary.models), "model")
    return f"{boards}, {models} on all of them, against {summary.reference}"


def across_notes(summary: BoardsSummary, patterns: Sequence[str] = (), bold: bool = False) -> list[str]:
    """The notes below the table; `bold` says whether the table has ranks in bold."""
    sides, label = summary.sides, summary.labels
    count, shown = plural(len(sides), "board"), [m for m in summary.models if is_selected(m, patterns)]
    notes = [f"{label[side.name]}: the board {side.heading}" for side in sides]
    notes += [
        f"difference: mean of the paired differences to {summary.reference} in test accuracy, in points, ± 95 %"
        f" interval {_over(summary)}, from {SMALLEST_SAMPLE} seeds on; mean difference: mean over {count} with equal"
        " weights",
        "improvability: 1 - error of the best model / error of the model, mean over the boards; the best model is the"
        f" best of the {len(summary.models)} models that are on all boards; 0 means the best model on every board",
    ]
    if summary.perfect:
        where = ", ".join(label[side.name] for side in summary.perfect)
        notes.append(
            f"improvability: on {where} the best model has no error, so every other model has 100 %, even with a very"
            " small error"
        )
    ranks = "rank: the possible ranks among all models of a board, with 95 % confidence for all of them together"
    notes += [ranks + ("; bold: rank 1 is possible" if bold else ""), no_test_reason(len(sides))]
    for model in shown:
        remarks = [f"on {label[s.name]} {r}" for s in sides for r in s.entries[model].remarks]
        notes += [f"{model}: {'; '.join(remarks)}"] if remarks else []
    stale, missing = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for model in shown:
        stale[", ".join(label[s.name] for s in sides if s.entries[model].stale)].append(model)
    for model in (m for m in summary.missing if is_selected(m, patterns)):
        missing["; ".join(f"{label[name]}: {why}" for name, why in summary.missing[model].items())].append(model)
    changed = "(source, data or recipe changed since)"
    notes += [f"stale on {where} {changed}: {', '.join(models)}" for where, models in stale.items() if where]
    return notes + [f"not in the table: {', '.join(models)} ({why})" for why, models in missing.items()]


def no_test_reason(boards: int) -> str:
    """The reason why there is no test over boards and no rating."""
    rule = "no test over boards and no Elo rating is made"
    if smallest_p(boards) > LEVEL:
        even = f"even if a model wins on all {boards}, a sign test has p = {smallest_p(boards):.3g}"
        return f"{rule}: they need at least six boards ({even})"
    return f"{rule}: boards share data sets and models, so they are not a random sample of tasks"


def _over(summary: BoardsSummary) -> str:
    known = [(s, e) for s in summary.sides for m in summary.models if (e := s.entries[m]).interval is not None]
    alone = dict.fromkeys(summary.labels[side.name] for side, entry in known if not entry.by_image)
    if not alone:
        return "over new seeds and new test images"
    if not any(entry.by_image for _, entry in known):
        return "over new seeds"
    why = "because outcomes by image are missing"
    return f"over new seeds and new test images (on {', '.join(alone)} over new seeds only, {why})"


def across_frame(summary: BoardsSummary, patterns: Sequence[str] = ()) -> pd.DataFrame:
    """One row per model and board, with plain numbers; models that are not on all boards have no means."""
    import pandas as pd

    rows = []
    for model in [*summary.models, *summary.missing]:
        whole = model in summary.models
        means = (summary.difference(model), summary.improvability(model)) if whole else (None, None)
        for side in summary.sides if is_selected(model, patterns) else ():
            entry = side.entries.get(model, Entry(missing=NOT_THERE))
            low, high = entry.rank or (None, None)
            over = "" if entry.interval is None else "seeds and images" if entry.by_image else "seeds"
            rows.append({
                "model": model, "boards": len(summary.sides), "reference_model": summary.reference,
                "mean_diff_pct": means[0], "mean_improvability_pct": means[1], "board": side.name,
                "test_acc_mean_pct": entry.accuracy, "diff_mean_pct": entry.difference, "diff_ci95_pct": entry.interval,
                "diff_ci95_over": over, "improvability_pct": summary.improvability(model, side) if whole else None,
                "rank_low": low, "rank_high": high, "missing": entry.missing, "remarks": "; ".join(entry.remarks),
                "stale": entry.stale,
            })  # fmt: skip
    return pd.DataFrame(rows)


def across_document(summary: BoardsSummary, patterns: Sequence[str] = ()) -> dict[str, Any]:
    """The summary as one JSON document."""
    rows = json.loads(across_frame(summary, patterns).convert_dtypes().to_json(orient="records"))
    boards = [{"board": side.name, "heading": side.heading} for side in summary.sides]
    return {"boards": boards, "reference": summary.reference, "rows": rows, "notes": across_notes(summary, patterns)}


#: Descriptions of the kinds of budget.
_BUDGETS = {"E": "equal examples", "T": "equal device-seconds", "P": "budgets as published"}


def groups_document(sides: Iterable[Side]) -> list[dict[str, Any]]:
    """The data of the page for each group of boards: its table and notes, or the reason why there is no table."""
    found = []
    for (recipe, profile, fit, budget, protocol), own in groups(sides).items():
        parts = [f"recipe {recipe}", f"profile {profile}", fit, _BUDGETS.get(budget, budget), protocol]
        document: dict[str, Any] = {"title": ", ".join(filter(None, parts)), "why_not": ""}
        try:
            document |= _table(summarise(own))
        except UserError as error:
            document["why_not"] = str(error)
        found.append(document)
    return found


def _table(summary: BoardsSummary) -> dict[str, Any]:
    return {
        "heading": heading(summary), "boards": [(side.name, summary.labels[side.name]) for side in summary.sides],
        "rows": [_row(summary, model) for model in summary.models], "notes": across_notes(summary, bold=True),
    }  # fmt: skip


def _row(summary: BoardsSummary, model: str) -> dict[str, Any]:
    """The row of a model as text: its means, and a cell for each board."""
    is_reference, cells = model == summary.reference, []
    for side in summary.sides:
        entry = side.entries[model]
        difference = ""
        if not is_reference and entry.difference is not None:
            difference = difference_text(entry.difference, entry.interval)
        cells.append({
            "difference": difference, "rank": rank_text(entry.rank),
            "improvability": f"{summary.improvability(model, side):.1f}",
            "bold": entry.rank is not None and entry.rank[0] == 1, "marked": bool(entry.remarks),
        })  # fmt: skip
    mean = "reference" if is_reference else f"{summary.difference(model):+.2f}"
    improvability = f"{summary.improvability(model):.1f}"
    return {
        "model": model, "is_reference": is_reference, "cells": cells, "mean": mean, "improvability": improvability
    }  # fmt: skip
