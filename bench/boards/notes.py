"""The sentences that a reader of a board needs: its heading, and the notes under its table."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..records.doctor_report import doctor_notes
from ..records.kept_verdicts import checked_notes
from ..records.provenance import ALONE, POWER_LIMIT, machine_of
from ..records.record import FINAL
from ..records.staleness import included_files
from ..spec.suite import PROTOCOL
from ..tools.schema import visible
from ..tools.text import command, listed, plural
from .board import Board
from .claims import claim_notes
from .repeats import repeat_notes
from .row_marks import models_with_mark
from .statistics import SMALLEST_SAMPLE, Sample

if TYPE_CHECKING:
    import pandas as pd


def _accuracy_notes(board: Board, frame: pd.DataFrame) -> list[str]:
    """The meaning of ± in a table, its runs, and the reasons if there is no interval."""
    samples = board.samples
    if not samples:
        return ["no model has a result"]
    shown = {model: sample for model, sample in samples.items() if sample.has_interval}
    seeds = seeds_text((shown or samples).values())
    missing = [model for model, sample in shown.items() if not sample.is_by_image]
    if len(missing) < len(shown):
        images = max(s.images for s in shown.values())
        note = f"test acc: mean ± 95 % interval over new seeds and new test images ({seeds}, {images:,} images)"
    else:
        note = (
            f"test acc: mean ± 95 % interval over new seeds ({seeds})" if shown else "test acc: the value of each seed"
        )
    if shown and any(len(s.values) < SMALLEST_SAMPLE for s in samples.values()):
        note += f", from {SMALLEST_SAMPLE} seeds on, else the value of each seed"
    errors = [r["test_se_binomial_pct"] for r in board.rows_of(frame) if r["model"] in missing or not shown]
    errors = [e for e in errors if not is_missing(e)]
    if errors:
        whose, their = ("", "") if len(missing) == len(shown) else (f" of {listed(missing)}", "their ")
        why = f"; predictions{whose} are not recorded, so {their}± is over new seeds alone:" if shown else ";"
        note += f"{why} the choice of test images adds a standard error of {_range(errors)} points"
    void = {model: sample.void for model, sample in samples.items() if sample.void}
    return [note] + [
        f"{model}: {why}: there is no valid interval; the value of each seed is shown" for model, why in void.items()
    ]


def seeds_text(samples: Collection[Sample]) -> str:
    """The number of seeds of some models: ``5 seeds``, ``3 to 5 seeds``."""
    low, high = (extreme(len(s.values) for s in samples) for extreme in (min, max))
    return plural(low, "seed") if low == high else f"{low} to {high} seeds"


def sources_of_variation(by_image: Iterable[bool]) -> str:
    """The sources of variation that some intervals cover; for each interval, whether predictions are recorded."""
    known = set(by_image)
    if True not in known:
        return "seeds"
    return "seeds and images" if known == {True} else "seeds, and images if predictions are recorded"


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _rank_notes(board: Board, bold: bool) -> Iterator[str]:
    """The rule for ranks and bold type."""
    judged = sum(rank is not None for rank in board.ranks.values())
    if judged:
        yield (
            "rank: all ranks that are possible, with 95 % confidence for all models together; from 1 + the number of"
            f" surely better models to {judged} - the number of surely worse models (p of the paired difference at most"
            f" 0.05, Holm over {plural(judged * (judged - 1) // 2, 'pair')})"
            + ("; bold: rank 1 is possible" if bold else "")
        )


def _detectable_note(board: Board) -> Iterator[str]:
    """The smallest difference to the reference that this board can detect."""
    sizes = {c: c.detectable for c in board.against_reference if c.detectable is not None}
    if sizes:
        chance = sources_of_variation(c.by_image for c in sizes)
        yield (
            f"these {chance} detect a true difference to {board.reference} of {_range([*sizes.values()])} points with a"
            f" power of 80 % (p at most 0.05, Holm over {plural(board.against_reference[0].family, 'comparison')});"
            " smaller differences have less power"
        )


def board_heading(board: Board) -> str:
    """One line that describes the board."""
    spec = board.chosen[0][0].spec
    budget = spec.budget
    epochs = f"{budget.epochs or 0:.15g} {'epoch' if budget.epochs == 1 else 'epochs'}"
    spent = f"{budget.seconds:.15g} device-seconds" if budget.seconds else epochs
    spent = f"{budget.examples:,} examples" if budget.examples else spent
    if budget.kind == "P":
        spent = "as published: each author's own number of epochs, so budgets differ"
    subset = spec.train_images
    images = subset or next((r.results.train_images for r, _ in board.chosen if r.results), None)
    of = f" of {plural(images, 'image')}" if images and (budget.kind == "E" or subset) else ""
    of += ", drawn by the seed" if subset else ""
    trials = f" ({plural(spec.recipe.trials, 'trial')} a model)" if spec.recipe.trials else ""
    old = f", protocol {spec.protocol}; runs are now made under protocol {PROTOCOL}"
    of_suite = f", suite {board.suite}" if board.suite else ""
    return (
        f"{board.name}{of_suite}: {spec.dataset}, {spent}{of}, recipe {spec.recipe.name}{trials}, profile"
        f" {spec.profile}{old if spec.protocol != PROTOCOL else ''}"
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

    notes: list[str] = []
    timed = [heading for heading in ("step ms", "train s") if shows(heading)]
    if shows("test acc %"):
        notes += _accuracy_notes(board, frame)
    if shows("rank") or bold:
        notes += _rank_notes(board, bold)
    if shows("test acc %"):
        notes += _detectable_note(board)
    if columns is not None and shows("group"):
        notes.append("group: the group of the layers")
    if shows("MFLOPs"):
        notes.append("MFLOPs: forward pass of one image")
    notes += _error_legend([e for e in ("C4 error", "rotation error") if shows(e)], after)
    if shows("MFLOPs"):
        notes += _uncounted(rows)
    if shows("parameters"):
        notes += _classes(board, rows)
    notes += _shared(board, rows, timed)
    notes += _unequal_times(rows, timed)
    if shows("peak MiB"):
        notes += _kinds_of_peaks(rows)
    if shows("step ms"):
        notes += _launch_bound(board, rows, "step ms (*)")
    elif timed or board.chosen[0][0].spec.budget.kind == "T":
        notes += _launch_bound(board, rows, "device-seconds")
    notes += [*_other_processes_note(board), *claim_notes(rows), *checked_notes(rows), *repeat_notes(board)]
    notes += _stale(board, models_with_mark(rows, "stale"), here)
    if brief:
        notes += board.mixed.values()
        if board.refused:
            notes.append(
                f"{plural(len(board.refused), 'file')} among the records were refused and are not in the table"
            )
        return notes
    notes += [f"{row['model']}: {row['reason']}" for row in rows if row["reason"]]
    notes += _mixture(board)
    if board.root is not None:
        notes += doctor_notes(board.root, (record for own in board.counted.values() for record in own))
    return [*notes, *_left_out(board)]


def _error_legend(errors: list[str], after: bool) -> Iterator[str]:
    """The legend of the columns of errors in a table."""
    of = {"C4 error": "quarter turns of real images", "rotation error": "15 to 75 degrees of closed-form images"}
    if errors:
        what = ", and under ".join(of[e] for e in errors)
        moment = ", after training" if after else "; at initialisation → after training"
        yield f"{', '.join(errors)}: relative change of the logits under {what}{moment}; 0 means invariant"


def _shared(board: Board, rows: list[dict[str, Any]], times: list[str]) -> Iterator[str]:
    """Why some times are not shown, if there are times in the table and runs that shared a device."""
    shared = [r for row in rows for r, _ in board.runs[row["model"]] if r.runs_on_device > 1]
    if shared and times:
        yield (
            f"{', '.join(times)}: without {plural(len(shared), 'run')} that shared a device, up to"
            f" {max(r.runs_on_device for r in shared)} at a time, because their times do not measure a model"
        )


def _unequal_times(rows: list[dict[str, Any]], times: list[str]) -> Iterator[str]:
    """The models whose runs took different times for the same steps."""
    names = models_with_mark(rows, "unequal times")
    if names and times:
        most = max(row["step_ms_ratio"] for row in rows if row["model"] in names)
        yield (
            f"{', '.join(times)} (~): for the same steps, the runs of a row took times that differ by a factor of up to"
            f" {most:.1f}, because of other work or another machine; the means do not measure a model: {listed(names)}"
        )


def _kinds_of_peaks(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Which rows have which kind of peak memory, if there are several kinds."""
    kinds: dict[str, list[str]] = {}
    for row in rows:
        if row["peak_kind"]:
            kinds.setdefault(row["peak_kind"], []).append(row["model"])
    if len(kinds) > 1 or any(" and " in kind for kind in kinds):  # of all rows, or of the runs of one
        each = "; ".join(f"{kind}: {listed(names)}" for kind, names in sorted(kinds.items()))
        yield f"peak MiB: peaks of different kinds of memory cannot be compared; {each}"


def _stale(board: Board, stale: list[str], here: bool) -> Iterator[str]:
    """Which rows are stale, and the command to repeat them."""
    if stale:
        yield (
            f"stale (source, data or recipe changed since): {listed(stale)}; the figures of a row are of its current"
            f" runs, if there are any; to repeat the others: {refresh_command(board, stale, here)}"
        )


def _left_out(board: Board) -> Iterator[str]:
    """Runs and files that are not in the table."""
    if board.refused:
        # Names without folders, because tables are published.
        names = listed(sorted(visible(r.path.name) for r in board.refused), 5)
        yield f"refused, and not in the table: {names}; {command('leaderboard', board.name)} says why"
    if board.others:
        yield f"not shown: {plural(len(board.others), 'run')} (further attempts, or replaced by a later calibration)"


def refresh_command(board: Board, models: Iterable[str], here: bool = True) -> str:
    """The command that repeats the stale rows of these models, with the files that register them; see `board_notes`."""
    files = dict.fromkeys(path for model in models for path in included_files(model))
    if not here:  # without folders, because tables are published
        return command("refresh", board.name, include=[Path(path.name) for path in files])
    return command("refresh", board.name, root=board.root, include=files, trains=True, data_root=board.data_root)


def _mixture(board: Board) -> Iterator[str]:
    """A sentence if the runs were made in different ways that do not make rows stale."""
    made = [r.provenance for counted in board.counted.values() for r in counted if r.status in FINAL]
    kinds = {
        "commits": {p.commit[:7] for p in made},
        "harness hashes": {p.harness_hash[:7] for p in made},
        "processors": {machine_of(p.hardware) for p in made},
        "power limits": {p.hardware.get(POWER_LIMIT, "") for p in made},
        "versions of torch": {p.versions.get("torch", "") for p in made},
    }
    known = {noun: sorted(found - {"", "unknown"}) for noun, found in kinds.items()}
    parts = [f"{len(names)} {noun} ({listed(names, 3)})" for noun, names in known.items() if len(names) > 1]
    if parts:
        times = "; do not compare times of different processors" if len(known["processors"]) > 1 else ""
        yield f"the runs have {', '.join(parts)}: last digits and times may depend on them{times}"


def _launch_bound(board: Board, rows: list[dict[str, Any]], times: str) -> Iterator[str]:
    """The models whose steps are limited by the host, and the processors."""
    names = models_with_mark(rows, "launch bound")
    if names:
        made = [r.provenance.hardware for name in names for r in board.averaged[name] if r.status == "ok"]
        hosts = " and ".join(sorted({hardware["cpu"] for hardware in made if "cpu" in hardware})) or "unknown"
        yield (
            f"{times}: limited by the launches of kernels, so they depend on the host's processor ({hosts}):"
            f" {listed(names)}"
        )


def _other_processes_note(board: Board) -> Iterator[str]:
    """A sentence if it is unknown whether runs that count device-seconds were alone on their GPU."""
    timed = [r for r, _ in board.chosen if r.spec.budget.seconds is not None and r.status == "ok"]
    unknown = [r for r in timed if r.provenance.hardware.get(ALONE, "unknown").startswith("unknown")]
    if unknown:
        yield f"it is unknown whether {plural(len(unknown), 'run')} of {len(timed)} shared the GPU with other processes"


def _classes(board: Board, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Which models are matched to which parameter count, and the reasons for others besides their count."""
    count = board.reference_parameters
    matched, others = (
        [r["model"] for r in rows if r["parameter_class"] == wanted] for wanted in ("matched", "not matched")
    )
    if count is not None and matched and not others:
        yield f"class: matched, parameters within 5 % of {count:,}"
    elif count is not None and others:
        # The reference model is always matched to its own count.
        named = f"matched to {count:,} within 5 %: {', '.join(matched)}; " if set(matched) - {board.reference} else ""
        yield f"class: {named}" + (f"not matched: {', '.join(others)}" if named else "parameters not matched")
    what = {"frozen": "parameters are frozen", "learned_buffers": "numbers in buffers change in training"}
    for row in rows:
        for column, change in what.items():
            if row[column] and not is_missing(row[column]):
                yield f"{row['model']}: {row[column]:,.0f} {change}, in addition to the counted parameters"


def _uncounted(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The operations that the MFLOPs of some models do not include."""
    found = [f"{r['model']} ({r['uncounted']})" for r in rows if r["uncounted"] and isinstance(r["uncounted"], str)]
    if found:
        yield f"MFLOPs (+): some operations are not counted: {', '.join(found)}"
