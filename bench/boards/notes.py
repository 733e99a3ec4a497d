"""The sentences that a reader of a board needs: its heading, and the notes under its table."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..records.doctor_report import doctor_notes
from ..records.kept_verdicts import checked_notes
from ..records.provenance import ALONE, POWER_LIMIT, machine_of
from ..records.record import FINAL
from ..records.staleness import included_files
from ..spec.suite import PROTOCOL
from ..tools.schema import visible
from ..tools.text import command, plural
from .board import Board
from .claims import claim_notes
from .repeats import repeat_notes
from .row_marks import models_with_mark
from .statistics import SMALLEST_SAMPLE

if TYPE_CHECKING:
    import pandas as pd


def accuracy_notes(board: Board, frame: pd.DataFrame) -> list[str]:
    """The meaning of ± in a table, its runs, and the reasons if there is no interval."""
    samples = board.samples
    if not samples:
        return ["no model has a result"]
    shown = {model: sample for model, sample in samples.items() if sample.has_interval}
    low, high = (f(len(s.values) for s in (shown or samples).values()) for f in (min, max))
    seeds = plural(low, "seed") if low == high else f"{low} to {high} seeds"
    missing = [model for model, sample in shown.items() if not sample.is_by_image]
    notes = []
    if len(missing) < len(shown):
        images = max(s.images for s in shown.values())
        notes.append(f"test acc: mean ± 95 % interval over new seeds and new test images ({seeds}, {images:,} images)")
    elif shown:
        notes.append(f"test acc: mean ± 95 % interval over new seeds ({seeds})")
    else:
        notes.append("test acc: the value of each seed")
    if shown and any(len(s.values) < SMALLEST_SAMPLE for s in samples.values()):
        notes[0] += f", from {SMALLEST_SAMPLE} seeds on, else the value of each seed"
    errors = [r["test_se_binomial_pct"] for r in board.rows_of(frame) if r["model"] in missing or not shown]
    errors = [e for e in errors if not is_missing(e)]
    if errors:
        whose, their = ("", "") if len(missing) == len(shown) else (f" of {_listed(missing)}", "their ")
        why = f"; predictions{whose} are not recorded, so {their}± is over new seeds alone:" if shown else ";"
        notes[0] += f"{why} the choice of test images adds a standard error of {_range(errors)} points"
    void = {model: sample.void for model, sample in samples.items() if sample.void}
    return notes + [
        f"{model}: {why}: there is no valid interval; the value of each seed is shown" for model, why in void.items()
    ]


def sources_of_variation(by_image: Iterable[bool]) -> str:
    """The sources of variation that some intervals cover.

    Args:
        by_image: for each interval, whether predictions are recorded.
    """
    known = set(by_image)
    return (
        "seeds"
        if True not in known
        else "seeds and images"
        if known == {True}
        else "seeds, and images if predictions are recorded"
    )


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def rank_notes(board: Board, bold: bool = True) -> list[str]:
    """The rule for ranks and bold type; empty if no model has a rank."""
    judged = [model for model, rank in board.ranks.items() if rank is not None]
    if not judged:
        return []
    pairs = len(judged) * (len(judged) - 1) // 2
    rule = (
        "rank: all ranks that are possible, with 95 % confidence for all models together; from 1 + the number of surely"
        f" better models to {len(judged)} - the number of surely worse models (p of the paired difference at most 0.05,"
        f" Holm over {plural(pairs, 'pair')})"
    )
    return [rule + ("; bold: rank 1 is possible" if bold else "")]


def detectable_note(board: Board) -> list[str]:
    """The smallest difference to the reference that this board can detect."""
    sizes = [c.detectable for c in board.against_reference if c.detectable is not None]
    if not sizes:
        return []
    chance = sources_of_variation(c.by_image for c in board.against_reference if c.detectable is not None)
    return [
        f"these {chance} detect a true difference to {board.reference} of {_range(sizes)} points with a power of 80 %"
        f" (p at most 0.05, Holm over {plural(board.against_reference[0].family, 'comparison')}); smaller"
        " differences have less power"
    ]


def board_heading(board: Board) -> str:
    """One line that describes the board."""
    spec = board.chosen[0][0].spec
    budget = spec.budget
    epochs = f"{budget.epochs or 0:.15g} {'epoch' if budget.epochs == 1 else 'epochs'}"
    spent = f"{budget.seconds:.15g} device-seconds" if budget.seconds else epochs
    spent = f"{budget.examples:,} examples" if budget.examples else spent
    if budget.kind == "P":
        spent = "as published: each author's own number of epochs, so budgets differ"
    subset = board.chosen[0][0].spec.train_images
    images = subset or next((r.results.train_images for r, _ in board.chosen if r.results), None)
    of = f" of {plural(images, 'image')}" if images and (budget.kind == "E" or subset) else ""
    of += ", drawn by the seed" if subset else ""
    trials = f" ({plural(spec.recipe.trials, 'trial')} a model)" if spec.recipe.trials else ""
    old = (
        f", protocol {spec.protocol}; runs are now made under protocol {PROTOCOL}" if spec.protocol != PROTOCOL else ""
    )
    of_suite = f", suite {board.suite}" if board.suite else ""
    return (
        f"{board.name}{of_suite}: {spec.dataset}, {spent}{of}, recipe {spec.recipe.name}{trials}, profile"
        f" {spec.profile}{old}"
    )


def is_missing(value: Any) -> bool:
    """Whether a cell of a table is empty."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def board_notes(
    board: Board,
    frame: pd.DataFrame,
    here: bool = False,
    bold: bool = False,
    columns: Collection[str] | None = None,
    brief: bool = False,
    after: bool = False,
) -> list[str]:
    """The sentences under a table: a legend of its columns, then remarks on its rows.

    Args:
        here: whether the reader uses this machine, so that commands may name its folders.
        bold: whether the table has models in bold.
        columns: headings of the table; None means those of the usual table.
        brief: for a README or a caption: nothing about how the runs were made.
        after: errors are shown only after training.
    """
    rows = board.rows_of(frame)

    def shows(*headings: str) -> bool:
        return columns is None or any(h in columns for h in headings)

    notes = accuracy_notes(board, frame) if shows("test acc %") else []
    notes += rank_notes(board, bold) if shows("rank") or bold else []
    notes += detectable_note(board) if shows("test acc %") else []
    notes += ["group: the group of the layers"] if columns is not None and shows("group") else []
    notes += ["MFLOPs: forward pass of one image"] if shows("MFLOPs") else []
    notes += _error_legend([e for e in ("C4 error", "rotation error") if shows(e)], after)
    notes += _uncounted(board, frame) if shows("MFLOPs") else []
    notes += _classes(board, frame) if shows("parameters") else []
    times = [heading for heading in ("step ms", "train s") if shows(heading)]
    notes += _shared(board, rows, times)
    timed = board.chosen[0][0].spec.budget.kind == "T"
    notes += _launch_bound(
        board, frame, "step ms (*): " if shows("step ms") else "device-seconds: " if timed or times else ""
    )
    notes += _other_processes_note(board) + claim_notes(rows) + checked_notes(rows) + repeat_notes(board)
    notes += _stale(board, models_with_mark(rows, "stale"), here)
    if brief:
        refused = plural(len(board.refused), "file")
        more = [f"{refused} among the records were refused and are not in the table"] if board.refused else []
        return [*notes, *board.mixed.values(), *more]
    notes += [f"{row['model']}: {row['reason']}" for row in rows if row["reason"]]
    return notes + _of_records(board) + _refused(board)


def _error_legend(errors: list[str], after: bool) -> list[str]:
    """The legend of the columns of errors in a table."""
    if not errors:
        return []
    of = {"C4 error": "quarter turns of real images", "rotation error": "15 to 75 degrees of closed-form images"}
    what = ", and under ".join(of[e] for e in errors)
    moment = ", after training" if after else "; at initialisation → after training"
    return [f"{', '.join(errors)}: relative change of the logits under {what}{moment}; 0 means invariant"]


def _shared(board: Board, rows: list[dict[str, Any]], times: list[str]) -> list[str]:
    """Why some times are not shown; empty if no times are in the table, or no run shared a device."""
    shared = [r for row in rows for r, _ in board.runs[row["model"]] if r.runs_on_device > 1]
    if not shared or not times:
        return []
    return [
        f"{', '.join(times)}: without {plural(len(shared), 'run')} that shared a device, up to"
        f" {max(r.runs_on_device for r in shared)} at a time, because their times do not measure a model"
    ]


def _stale(board: Board, stale: list[str], here: bool) -> list[str]:
    """Which rows are stale, and the command to repeat them."""
    if not stale:
        return []
    return [
        f"stale (source, data or recipe changed since): {_listed(stale)}; the figures of a row are of its current runs,"
        f" if there are any; to repeat the others: {refresh_command(board, stale, here)}"
    ]


def _of_records(board: Board) -> list[str]:
    """Remarks on all runs together: how they were made, and on which machines."""
    notes = _mixture(board)
    if board.root is not None:
        notes += doctor_notes(board.root, (record for own in board.counted.values() for record in own))
    return notes


def _refused(board: Board) -> list[str]:
    """Runs and files that are not in the table."""
    notes = []
    if board.refused:
        # Names without folders, because tables are published.
        names = ", ".join(sorted(visible(r.path.name) for r in board.refused)[:5])
        more = f" and {len(board.refused) - 5} more" if len(board.refused) > 5 else ""
        notes.append(f"refused, and not in the table: {names}{more}; {command('leaderboard', board.name)} says why")
    if board.later:
        notes.append(f"not shown: {plural(board.later, 'further attempt')}, or runs that were replaced")
    return notes


def refresh_command(board: Board, models: Iterable[str], here: bool = True) -> str:
    """The command that repeats the stale rows of these models, with the files that register them; see `board_notes`."""
    files = dict.fromkeys(path for model in models for path in included_files(model))
    if not here:  # without folders, because tables are published
        return command("refresh", board.name, include=[Path(path.name) for path in files])
    return command("refresh", board.name, root=board.root, include=files, trains=True)


def _mixture(board: Board) -> list[str]:
    """A sentence if the runs were made in different ways that do not make rows stale."""
    made = [r.provenance for counted in board.counted.values() for r in counted if r.status in FINAL]
    kinds = {
        "commits": {p.commit[:7] for p in made},
        "harness hashes": {p.harness_hash[:7] for p in made},
        "processors": {machine_of(p.hardware) for p in made},
        "power limits": {p.hardware.get(POWER_LIMIT, "") for p in made},
        "versions of torch": {p.versions.get("torch", "") for p in made},
    }
    parts = []
    for noun, found in kinds.items():
        names = sorted(found - {"", "unknown"})
        if len(names) > 1:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{len(names)} {noun} ({', '.join(names[:3])}{more})")
    return [f"the runs have {', '.join(parts)}: last digits and times may depend on them"] if parts else []


def _launch_bound(board: Board, frame: pd.DataFrame, what: str) -> list[str]:
    """The models whose steps are limited by the host, and the processors; empty if the table has no such times.

    Args:
        what: the times in the table; empty if there are none.
    """
    names = models_with_mark(board.rows_of(frame), "launch bound")
    if not names or not what:
        return []
    made = [r.provenance.hardware for name in names for r in board.averaged[name] if r.status == "ok"]
    hosts = " and ".join(sorted({hardware["cpu"] for hardware in made if "cpu" in hardware})) or "unknown"
    return [
        f"{what}limited by the launches of kernels, so they depend on the host's processor ({hosts}): {_listed(names)}"
    ]


def _other_processes_note(board: Board) -> list[str]:
    """A sentence if it is unknown whether runs that count device-seconds were alone on their GPU."""
    timed = [r for r, _ in board.chosen if r.spec.budget.seconds is not None and r.status == "ok"]
    unknown = [r for r in timed if r.provenance.hardware.get(ALONE, "unknown").startswith("unknown")]
    return (
        [f"it is unknown whether {plural(len(unknown), 'run')} of {len(timed)} shared the GPU with other processes"]
        if unknown
        else []
    )


def _classes(board: Board, frame: pd.DataFrame) -> list[str]:
    """Which models are matched to which parameter count, and the reasons for others besides their count."""
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
        for column, what in (
            ("frozen", "parameters are frozen"),
            ("learned_buffers", "numbers in buffers change in training"),
        ):
            if row[column] and not is_missing(row[column]):
                notes.append(f"{row['model']}: {row[column]:,.0f} {what}, in addition to the counted parameters")
    return notes


def _uncounted(board: Board, frame: pd.DataFrame) -> list[str]:
    """The operations that the MFLOPs of some models do not include."""
    found = [f"{row['model']} ({row['uncounted']})" for row in board.rows_of(frame) if is_text(row["uncounted"])]
    return [f"MFLOPs (+): some operations are not counted: {', '.join(found)}"] if found else []


def is_text(value: Any) -> bool:
    """Whether a cell of a table has text."""
    return isinstance(value, str) and value != ""
