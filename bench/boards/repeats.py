"""Whether repeats of runs, especially on other hosts, confirm the runs that a board shows.

The same rule holds for replays and for results of others. If no relevant fact differs, the bits must be equal. If a
relevant fact differs and the bits are equal, the repeat agrees. If the bits are not equal, the new accuracy must lie in
the 95 % prediction interval from the spread of the model's seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..records.record import FINAL, RunRecord
from ..tools.text import plural
from .statistics import prediction_interval

if TYPE_CHECKING:
    from .board import Board

#: Probability that a row with honest repeats is reported to disagree, for any number of repeats.
LEVEL = 0.05


@dataclass(frozen=True)
class Agreement:
    """Whether a repeat confirms a recorded run.

    Attributes:
        agrees: None if this cannot be judged.
        rule: see `sidecar.ReplayVerdict`.
        low, high: the prediction interval in %, if that was the rule.
    """

    agrees: bool | None
    rule: Literal["bit-exact", "interval", "failed"]
    why: str
    low: float | None = None
    high: float | None = None


def differences(record: RunRecord, hardware: Mapping[str, str], threads: int, versions: Mapping[str, str]) -> list[str]:
    """Why the bits of a run may differ in a repeat with this hardware and these versions; empty if they must not.

    Args:
        hardware: ``device`` and ``cpu``, and ``instructions`` if known.
    """
    then, found = record.provenance, []
    if record.spec.budget.kind != "E":
        found.append(f"a {record.spec.budget.kind} budget is not reproducible to the bit")
    before, now = then.hardware.get("device", "unknown"), hardware.get("device", "unknown")
    if now != "cpu" or before != "cpu":
        found.append(f"equal bits are guaranteed only on a CPU (then {before}, now {now})")
    elif then.hardware.get("cpu") != hardware.get("cpu"):
        cpu, cpu_now = then.hardware.get("cpu", "unknown"), hardware.get("cpu", "unknown")
        found.append(f"processor {cpu} then, {cpu_now} now")
    elif then.hardware.get("instructions") != hardware.get("instructions", then.hardware.get("instructions")):
        found.append(f"instructions {then.hardware.get('instructions')} then, {hardware.get('instructions')} now")
    if threads != then.threads:
        found.append(f"{then.threads} threads then, {threads} now")
    for name in sorted({*then.versions, *versions} - {"equibench"}):
        was, is_now = then.versions.get(name, "absent"), versions.get(name, "absent")
        if was != is_now:
            found.append(f"{name} {was} then, {is_now} now")
    return found


def agreement(
    record: RunRecord, again: RunRecord, differ: Sequence[str], values: Sequence[float], repeats: int = 1
) -> Agreement:
    """Judge whether a finished repeat, with the same code and data, confirms a recorded run.

    Args:
        differ: differences between the two, see `differences`.
        values: test accuracies in % of the model's recorded seeds.
        repeats: number of repeats that are judged together. With more repeats, each interval is wider (Bonferroni), so
            that all honest repeats agree with probability 95 %.
    """
    assert record.results is not None and again.results is not None
    before, after = record.results.test_acc_pct, again.results.test_acc_pct
    same = record.results.weights_sha256 == again.results.weights_sha256 and before == after
    if same:
        return Agreement(True, "bit-exact", "the final weights are the same to the bit")
    if not differ:
        return Agreement(False, "bit-exact", "no relevant fact differs, but the final weights do")
    expected = prediction_interval(values, 1 - LEVEL / repeats)
    if expected is None:
        return Agreement(None, "failed", "there are too few recorded seeds for a judgement")
    # The resolution of an accuracy is one test image.
    margin = 100 / record.results.test_images
    low, high = min(expected[0], expected[1] - margin), max(expected[1], expected[0] + margin)
    inside, share = low <= after <= high, 100 * (1 - LEVEL / repeats)
    why = (
        f"{after:.2f} % lies {'within' if inside else 'outside'} {low:.2f} to {high:.2f} %, the {share:.4g} %"
        f" prediction interval from {len(values)} recorded seeds"
    )
    return Agreement(inside, "interval", why, low, high)


def find_repeats(chosen: RunRecord, attempts: Iterable[RunRecord]) -> list[RunRecord]:
    """The attempts that repeat a finished run: finished attempts with the same spec, code and data."""

    def origin(record: RunRecord) -> tuple[str, ...]:
        return record.spec.digest(), record.provenance.source_hash, record.provenance.data_digest

    if chosen.status not in FINAL:
        return []
    own = origin(chosen)
    return [r for r in attempts if r is not chosen and r.status in FINAL and origin(r) == own]


@dataclass(frozen=True)
class RepeatsSummary:
    """Summary of the repeats of a model's row.

    Attributes:
        runs: number of finished runs of the row.
        elsewhere: number of other hosts with an agreeing repeat, by seed; only seeds with at least one.
        exact: whether all these repeats were equal to the bit.
        unjudged: seeds whose bits differ on another host, but with too few seeds for a prediction interval.
        disagree: the reason for each seed that a repeat contradicts, on this or another host.
    """

    runs: int
    elsewhere: dict[int, int]
    exact: bool
    unjudged: list[int]
    disagree: dict[int, str]


def judge_repeats(board: Board, model: str) -> RepeatsSummary:
    """Judge the repeats of a model's counted runs.

    Hosts are distinguished by `Provenance.host`. A repeat on an unknown host does not count as another host, but it may
    disagree.
    """
    counted = [r for r in board.counted[model] if r.status in FINAL]
    values = list(board.values.get(model, {}).values())
    pairs = [
        (r, again, differences(r, again.provenance.hardware, again.provenance.threads, again.provenance.versions))
        for r in counted
        for again in board.repeats.get(r.file_name, ())
    ]
    # Only pairs with different bits are judged by an interval.
    family = sum(bool(differ) and agreement(r, again, differ, ()).rule != "bit-exact" for r, again, differ in pairs)
    hosts: dict[int, set[str]] = {}
    unjudged, disagree, exact = set(), {}, True
    for record, again, differ in pairs:
        found, seed = agreement(record, again, differ, values, max(family, 1)), record.spec.seed
        own, other = record.provenance.host, again.provenance.host
        if found.agrees is False:
            disagree[seed] = found.why
        if not other or not own or own == other:
            continue
        if found.agrees:
            hosts.setdefault(seed, set()).add(other)
            exact = exact and found.rule == "bit-exact"
        elif found.agrees is None:
            unjudged.add(seed)
    elsewhere = {seed: len(found) for seed, found in hosts.items()}
    return RepeatsSummary(len(counted), elsewhere, exact, sorted(unjudged), disagree)


def repeats_text(found: RepeatsSummary) -> str:
    """The mark of a row for all outputs; empty if none of its runs was repeated on another host."""
    if found.disagree:
        seeds = ", ".join(str(seed) for seed in sorted(found.disagree))
        return f"repeats disagree (seed{'s' if len(found.disagree) > 1 else ''} {seeds})"
    if found.elsewhere:
        part = f"{len(found.elsewhere)} of {found.runs} runs " if len(found.elsewhere) < found.runs else ""
        how = "bit for bit" if found.exact else "within the interval"
        return f"{part}repeated on {plural(min(found.elsewhere.values()), 'other host')}, {how}"
    return "repeated elsewhere, with too few seeds to judge" if found.unjudged else ""


def repeat_notes(board: Board) -> list[str]:
    """A sentence on each run that a repeat contradicts."""
    return [
        f"{model} seed {seed}: a repeat disagrees: {why}"
        for model in board.counted
        for seed, why in sorted(judge_repeats(board, model).disagree.items())
    ]
