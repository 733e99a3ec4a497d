"""A board as text: the columns that fit a terminal, and the sentences that a reader needs with them."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from .checked import checked_notes
from .claims import claim_notes, is_broken
from .escape import for_latex, latex, markdown_text
from .board import Board
from .provenance import machine_of
from .record import FINAL
from .schema import visible
from .spec import PROTOCOL
from .staleness import included_files
from .statistics import SMALLEST_SAMPLE, Sample
from .words import command, some

if TYPE_CHECKING:
    import pandas as pd

    from .estimate import ModelCost

#: Floor below which an equivariance error is float32 rounding.
ROUNDING = 1e-5
#: Formats of tabulate that Markdown reads.
_MARKDOWN = ("github", "pipe")


def board_table(board: Board, style: str = "simple", frame: pd.DataFrame | None = None) -> str:
    """The table of a board with its heading and notes.

    Args:
        style: a table format of tabulate (``simple``, ``github``, ``grid``, …).
        frame: some of the board's `model_rows`; all without.
    """
    frame = board.frame if frame is None else frame
    rows = table_rows(board, frame)
    rows = [{key: in_cell(cell, style) for key, cell in row.items()} for row in rows]
    table = tabulate(rows, headers="keys", tablefmt=style, disable_numparse=True, colalign=alignment(rows))
    here = in_text("<_>", style) == "<_>"  # else it is for a page that others read
    heading, *notes = (in_text(line, style) for line in (board_heading(board), *board_notes(board, frame, here)))
    return "\n".join([heading, "", for_latex(table, style), "", *notes])


def in_text(text: str, style: str) -> str:
    """A line beside a table in a format of tabulate, so that the format's reader shows it as it stands."""
    if style.startswith("latex"):
        return latex(text)
    if style.endswith("html"):
        return html.escape(text)
    return markdown_text(text) if style in _MARKDOWN else text


def in_cell(text: str, style: str) -> str:
    """As `in_text`, for a cell of a table; tabulate itself escapes those of HTML and LaTeX."""
    return in_text(text, style) if style in (*_MARKDOWN, "latex_raw", "unsafehtml") else text


def table_rows(board: Board, frame: pd.DataFrame) -> list[dict[str, str]]:
    """The usual columns as text; rank, treatment, evaluation and frozen parameters only where there are any."""
    rows = [_row(row, board.samples.get(row["model"]), board) for row in board.rows_of(frame)]
    empty = [key for key in ("rank", "treatment", "evaluation", "frozen") if not any(row[key] for row in rows)]
    return [{key: cell for key, cell in row.items() if key not in empty} for row in rows]


def narrow_rows(board: Board, frame: pd.DataFrame) -> list[dict[str, str]]:
    """What fits the page of a README: errors after training only; treatment, evaluation, broken claims and failures only
    where there are any."""
    rows = [
        {
            "rank": rank_text(board, row["model"]),
            "model": row["model"],
            "treatment": row["treatment"],
            "evaluation": row["evaluation"],
            "group": row["group"],
            "invariant": row["claim"] if is_broken(row) else "",
            "parameters": _number(row["parameters"], "{:,.0f}"),
            "frozen": _count(row["frozen"]),
            "MFLOPs": _mflops(row),
            "test acc %": accuracy_text(row, board.samples.get(row["model"])),
            "C4 error": _error(row["eq_exact_c4"]),
            "rotation error": _error(row["eq_rot_analytic"]),
            "status": "" if row["status"] == "ok" and not row["stale"] else _status(row),
        }
        for row in board.rows_of(frame)
    ]
    optional = ("rank", "treatment", "evaluation", "group", "invariant", "frozen", "status")
    empty = [key for key in optional if not any(row[key] for row in rows)]
    return [{key: cell for key, cell in row.items() if key not in empty} for row in rows]


def _status(row: dict[str, Any]) -> str:
    done = f" ({row['runs_ok']}/{row['runs']} runs)" if row["runs_ok"] < row["runs"] else ""
    return row["status"] + done + (" (stale)" if row["stale"] else "")


def narrow_notes(board: Board, frame: pd.DataFrame) -> list[str]:
    """The notes that a reader of `narrow_rows` needs."""
    notes = [
        *accuracy_notes(board, frame),
        *rank_notes(board),
        *detectable_note(board),
        "group: of the layers",
        "MFLOPs: of an image's forward pass",
        "C4 error, rotation error: relative change of the logits under quarter turns of real images, and under 15 to 75"
        " degrees of closed-form images, after training; 0 is invariant",
        *_uncounted(board, frame),
        *_classes(board, frame),
        *claim_notes(board.rows_of(frame)),
        *board.mixed.values(),
    ]
    if board.refused:
        notes.append(f"{some(len(board.refused), 'file')} among the records refused and not in the table")
    return notes


def accuracy_notes(board: Board, frame: pd.DataFrame) -> list[str]:
    """What the ± of a table is, of which runs, and where there is none."""
    samples = board.samples
    if not samples:
        return ["no model has a result"]
    shown = {model: sample for model, sample in samples.items() if sample.has_interval}
    low, high = (f(len(s.values) for s in (shown or samples).values()) for f in (min, max))
    seeds = f"{low} seeds" if low == high else f"{low} to {high} seeds"
    missing = [model for model, sample in shown.items() if not sample.is_by_image]
    notes = []
    if len(missing) < len(shown):
        images = max(s.images for s in shown.values())
        notes.append(f"test acc: mean ± 95 % interval over new seeds and new test images ({seeds}, {images:,} images)")
    elif shown:
        notes.append(f"test acc: mean ± 95 % interval over new seeds ({seeds})")
    else:
        notes.append("test acc: each seed's value")
    if shown and any(len(s.values) < SMALLEST_SAMPLE for s in samples.values()):
        notes[0] += f", from {SMALLEST_SAMPLE} seeds on, else each seed's value"
    errors = [r["test_se_binomial_pct"] for r in board.rows_of(frame) if r["model"] in missing or not shown]
    errors = [e for e in errors if not _missing(e)]
    if errors:
        whose, their = ("", "") if len(missing) == len(shown) else (f" of {_listed(missing)}", "their ")
        why = f"; outcomes by image{whose} were not kept, so that {their}± is over new seeds alone:" if shown else ";"
        notes[0] += f"{why} the choice of test images adds a standard error of {_range(errors)} points"
    void = {model: sample.void for model, sample in samples.items() if sample.void}
    return notes + [f"{model}: {why}: no normal interval holds; each seed's value is shown" for model, why in void.items()]


def chances(by_image: Iterable[bool]) -> str:
    """The sources of chance that some intervals are over, by whether outcomes by image are known for each."""
    known = set(by_image)
    return "seeds" if True not in known else "seeds and images" if known == {True} else "seeds, and images where outcomes were kept"


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def rank_notes(board: Board, bold: bool = True) -> list[str]:
    """The rule by which models are ranked, and shown in bold; nothing where none is."""
    judged = [model for model, rank in board.ranks.items() if rank is not None]
    if not judged:
        return []
    pairs = len(judged) * (len(judged) - 1) // 2
    rule = "rank: the ranks that are possible with 95 % confidence for all models together: from 1 + those that are surely"
    rule += f" better to {len(judged)} - those that are surely worse (p of paired differences at most 0.05, Holm over {some(pairs, 'pair')})"
    return [rule + ("; bold: 1 is among them" if bold else "")]


def detectable_note(board: Board) -> list[str]:
    """How small a difference to the reference this board could find."""
    sizes = [c.detectable for c in board.against_reference if c.detectable is not None]
    if not sizes:
        return []
    chance = chances(c.by_image for c in board.against_reference if c.detectable is not None)
    return [
        f"these {chance} find a true difference to {board.reference} of {_range(sizes)} points with a chance of 80 % (p at most 0.05,"
        f" Holm over {some(board.against_reference[0].family, 'comparison')}); smaller ones are found less often"
    ]


def rank_text(board: Board, model: str) -> str:
    """The ranks that are possible, ``1–3`` or ``2``; empty where there are none."""
    return ranks_text(board.ranks.get(model))


def ranks_text(rank: tuple[int, int] | None) -> str:
    """A set of ranks, see `rank_text`."""
    return "" if rank is None else str(rank[0]) if rank[0] == rank[1] else f"{rank[0]}–{rank[1]}"


def alignment(rows: list[dict[str, str]]) -> list[str]:
    """How the columns of the usual table are aligned."""
    left = ("model", "treatment", "evaluation", "invariant", "group", "status")
    return ["left" if key in left else "right" for key in (rows[0] if rows else {})]


def board_heading(board: Board) -> str:
    """One line: what the board is."""
    spec = board.chosen[0][0].spec
    budget = spec.budget
    epochs = f"{budget.epochs or 0:.15g} {'epoch' if budget.epochs == 1 else 'epochs'}"
    spent = f"{budget.seconds:.15g} device-seconds" if budget.seconds else epochs
    spent = f"{budget.examples:,} examples" if budget.examples else spent
    if budget.kind == "P":
        spent = "as published: each author's own number of epochs, so budgets differ"
    subset = board.chosen[0][0].spec.train_images
    images = subset or next((r.results.train_images for r, _ in board.chosen if r.results), None)
    of = f" of {images:,} images" if images and (budget.kind == "E" or subset) else ""
    of += ", drawn by the seed" if subset else ""
    trials = f" ({spec.recipe.trials} trials a model)" if spec.recipe.trials else ""
    old = f", protocol {spec.protocol}; runs are now made under protocol {PROTOCOL}" if spec.protocol != PROTOCOL else ""
    return f"{board.name}: {spec.dataset}, {spent}{of}, recipe {spec.recipe.name}{trials}, profile {spec.profile}{old}"


def _row(row: dict[str, Any], sample: Sample | None, board: Board) -> dict[str, str]:
    unequal = board.chosen[0][0].spec.budget.kind != "E"
    return {
        "rank": rank_text(board, row["model"]),
        "model": row["model"],
        "treatment": row["treatment"],
        "evaluation": row["evaluation"],
        "invariant": row["claim"],
        "parameters": _number(row["parameters"], "{:,.0f}"),
        "frozen": _count(row["frozen"]),
        "buffers": _number(row["buffers"], "{:,.0f}"),
        "MFLOPs": _mflops(row),
        "test acc %": accuracy_text(row, sample),
        "C4 error": _before_after(row, "eq_exact_c4"),
        "rotation error": _before_after(row, "eq_rot_analytic"),
        **({"examples": _number(row["examples"], "{:,.0f}")} if unequal else {}),
        "step ms": _number(row["step_ms_mean"], "{:.1f}"),
        "train s": _number(row["train_s_mean"], "{:.1f}"),
        "peak MiB": _number(row["peak_mib_max"], "{:.0f}"),
        "runs": f"{row['runs_ok']}/{row['runs']}",
        "status": row["status"] + (" (stale)" if row["stale"] else ""),
    }


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _number(value: Any, form: str, scale: float = 1.0) -> str:
    return "" if _missing(value) else form.format(value * scale)


def _count(value: Any) -> str:
    """A count; empty for none."""
    return _number(value or None, "{:,.0f}")


def accuracy_text(row: dict[str, Any], sample: Sample | None) -> str:
    if sample is None:
        return ""
    if not sample.has_interval:
        return ", ".join(f"{v:.2f}" for _, v in sorted(sample.values.items()))
    return f"{row['test_acc_mean_pct']:.2f} ± {row['test_acc_ci95_pct']:.2f}"


def _before_after(row: dict[str, Any], metric: str) -> str:
    return f"{_error(row[f'{metric}_init'])} → {_error(row[metric])}"


def _error(value: Any) -> str:
    if _missing(value):
        return "-"
    return f"{value:.3f}" if value >= 1e-3 else f"{value:.0e}"


def board_notes(board: Board, frame: pd.DataFrame, here: bool = False, bold: bool = False) -> list[str]:
    """The sentences that a reader of the table needs.

    Args:
        here: the reader is at this machine, so that commands may name its folders.
        bold: whether the table has models in bold.
    """
    notes = [
        *accuracy_notes(board, frame),
        *rank_notes(board, bold),
        *detectable_note(board),
        "C4 error, rotation error: relative change of the logits under quarter turns of real images, and under"
        " 15 to 75 degrees of closed-form images; at initialisation → after training; 0 is invariant",
    ]
    notes += _uncounted(board, frame) + _classes(board, frame)
    shared = [record for record, _ in board.chosen if record.runs_on_device > 1]
    if shared:
        notes.append(
            f"step ms, train s: without {some(len(shared), 'run')} that shared a device, up to {max(r.runs_on_device for r in shared)} at a"
            " time, whose times are no measure of a model"
        )
    notes += claim_notes(board.rows_of(frame)) + checked_notes(board.rows_of(frame)) + _mixture(board)
    notes += [f"{row['model']}: {row['reason']}" for row in board.rows_of(frame) if row["reason"]]
    stale = [row["model"] for row in board.rows_of(frame) if row["stale"]]
    if stale:
        named = ", ".join(stale[:12]) + (f" and {len(stale) - 12} more" if len(stale) > 12 else "")
        notes.append(
            f"stale (source, data or recipe changed since): {named}; a row's figures are of its current runs, where there"
            f" are any; to run the others again: {refresh_command(board, stale, here)}"
        )
    if board.refused:
        # Names without their folders, which are nobody's business where a table is published.
        names = ", ".join(sorted(visible(r.path.name) for r in board.refused)[:5])
        more = f" and {len(board.refused) - 5} more" if len(board.refused) > 5 else ""
        notes.append(f"refused, so not in the table: {names}{more}; equibench leaderboard says why")
    if board.later:
        notes.append(f"not shown: {some(board.later, 'further attempt')}, or runs that were replaced")
    return notes


def refresh_command(board: Board, models: Iterable[str], here: bool = True) -> str:
    """What runs the stale rows of these models again, with the files that register them; see `board_notes`."""
    files = dict.fromkeys(path for model in models for path in included_files(model))
    if not here:  # folders are nobody's business where a table is published
        return command("refresh", board.name, include=[Path(path.name) for path in files])
    return command("refresh", board.name, root=board.root, include=files, trains=True)


def _mixture(board: Board) -> list[str]:
    """A sentence where the runs behind the figures were made in several ways, on which no row's staleness depends."""
    made = [r.provenance for counted in board.counted.values() for r in counted if r.status in FINAL]
    kinds = {
        "commits": {p.commit[:7] for p in made},
        "harness hashes": {p.harness_hash[:7] for p in made},
        "processors": {machine_of(p.hardware) for p in made},
        "versions of torch": {p.versions.get("torch", "") for p in made},
    }
    parts = []
    for noun, found in kinds.items():
        names = sorted(found - {""})
        if len(names) > 1:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{len(names)} {noun} ({', '.join(names[:3])}{more})")
    return [f"the runs mix {', '.join(parts)}: last digits and times may depend on them"] if parts else []


def _classes(board: Board, frame: pd.DataFrame) -> list[str]:
    """Which models are matched in their parameters to what, and why others are not, where it is not their number."""
    count, notes = board.reference_parameters, []
    by_class: dict[Any, list[str]] = {}
    for row in board.rows_of(frame):
        by_class.setdefault(row["parameter_class"], []).append(row["model"])
    matched, others = by_class.get("matched", []), by_class.get("not matched", [])
    if count is not None and matched and not others:
        notes.append(f"class: matched, parameters within 5 % of {count:,}")
    elif count is not None and others:
        # The reference model is always matched to its own count.
        named = f"matched to {count:,} within 5 %: {', '.join(matched)}; " if set(matched) - {board.reference} else ""
        notes.append(f"class: {named}" + (f"not matched: {', '.join(others)}" if named else "parameters not matched"))
    for row in board.rows_of(frame):
        for column, what in (("frozen", "parameters are frozen"), ("learned_buffers", "numbers in buffers change in training")):
            if row[column] and not _missing(row[column]):
                notes.append(f"{row['model']}: {row[column]:,.0f} {what}, beside those that are counted as parameters")
    return notes


def _uncounted(board: Board, frame: pd.DataFrame) -> list[str]:
    """What the MFLOPs of some models leave out."""
    found = [f"{row['model']} ({row['uncounted']})" for row in board.rows_of(frame) if _is_text(row["uncounted"])]
    return [f"MFLOPs (+): some operations are not counted: {', '.join(found)}"] if found else []


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _mflops(row: dict[str, Any]) -> str:
    return _number(row["flops_per_image"], "{:.1f}", 1e-6) + ("+" if _is_text(row["uncounted"]) else "")


def tuning_table(scores: dict[str, dict[float, float | None]], chosen: dict[str, float], edge: list[str]) -> str:
    """Validation accuracies of the trials, one row a model, and the rate that was chosen."""
    rows = [
        {"model": model}
        | {f"{rate:g}": _number(score, "{:.2f}") or "failed" for rate, score in own.items()}
        | {"chosen": f"{chosen[model]:g}"}
        for model, own in scores.items()
    ]
    notes = [f"validation accuracy in % by learning rate; {len(next(iter(scores.values())))} trials a model, one seed"]
    if edge:
        notes.append(f"best at the edge of the grid, so that a better rate may lie outside: {', '.join(edge)}")
    table = tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True)
    return "\n".join([table, "", *notes])


def cost_table(name: str, costs: list[ModelCost], device: str) -> str:
    """What a suite costs, one row a model, and the sum."""
    rows = [
        {
            "model": c.model,
            "parameters": f"{c.parameters:,}",
            "runs": c.runs,
            "steps": f"{c.steps:,}",
            "examples": f"{c.examples:,}",
            "GFLOPs a step": f"{c.step_flops / 1e9:,.2f}",
            "TFLOPs": f"{c.flops / 1e12:,.1f}",
            "time": "unknown" if c.train_s is None else _duration(c.train_s),
        }
        for c in costs
    ]
    known = [c.train_s for c in costs if c.train_s is not None]
    total = f"{sum(c.runs for c in costs)} runs, {sum(c.examples for c in costs):,} examples"
    total += f", {sum(c.flops for c in costs) / 1e12:,.1f} TFLOPs"
    time = ""
    if known:
        time = f"; {_duration(sum(known))} of training for {len(known)} of {len(costs)} models, one run at a time"
    unknown = "" if len(known) == len(costs) else "; time is known after a first run on this device (--seeds 1)"
    table = tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True)
    return f"{name} on {device}\n\n{table}\n\n{total}{time}{unknown}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
