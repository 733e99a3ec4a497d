"""Whether runs that were made again, on other hosts above all, confirm those that a board shows.

One rule for a replay and for what others bring. Where nothing that matters differs, the bits must be the same. Where
something does, they may be the same, and then nothing more is asked; else the new accuracy must lie where one further
run lies with probability 95 % by the spread of the model's seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..records.record import FINAL, RunRecord
from ..tools.text import some
from .statistics import prediction_interval

if TYPE_CHECKING:
    from .board import Board

#: The probability with which a row whose repeats are honest is said to disagree, however many repeats it has.
LEVEL = 0.05


@dataclass(frozen=True)
class Agreement:
    """What a repeat says of a recorded run.

    Attributes:
        agrees: None if nothing can be said.
        rule: see `replay_verdict.ReplayVerdict`.
        low, high: the interval in %, where that was the rule.
    """

    agrees: bool | None
    rule: Literal["bit-exact", "interval", "failed"]
    why: str
    low: float | None = None
    high: float | None = None


def differences(record: RunRecord, hardware: Mapping[str, str], threads: int, versions: Mapping[str, str]) -> list[str]:
    """Why the bits of a run may differ when it is run again in these surroundings; empty if they must not.

    Args:
        hardware: ``device`` and ``cpu``, and ``instructions`` where they are known.
    """
    then, found = record.provenance, []
    if record.spec.budget.kind != "E":
        found.append(f"a {record.spec.budget.kind} budget is not reproducible to the bit")
    before, now = then.hardware.get("device", "unknown"), hardware.get("device", "unknown")
    if now != "cpu" or before != "cpu":
        found.append(f"only of runs on a CPU are the same bits certain (then {before}, now {now})")
    elif then.hardware.get("cpu") != hardware.get("cpu"):
        cpus = (then.hardware.get("cpu", "unknown"), hardware.get("cpu", "unknown"))
        found.append(f"processor {cpus[0]} then, {cpus[1]} now")
    elif then.hardware.get("instructions") != hardware.get("instructions", then.hardware.get("instructions")):
        found.append(f"instructions {then.hardware.get('instructions')} then, {hardware.get('instructions')} now")
    if threads != then.threads:
        found.append(f"{then.threads} threads then, {threads} now")
    found += [
        f"{name} {then.versions.get(name, 'absent')} then, {versions.get(name, 'absent')} now"
        for name in sorted({*then.versions, *versions} - {"equibench"})
        if then.versions.get(name, "absent") != versions.get(name, "absent")
    ]
    return found


def agreement(
    record: RunRecord, again: RunRecord, differ: Sequence[str], values: Sequence[float], repeats: int = 1
) -> Agreement:
    """What a finished repeat of the same program on the same data says of a recorded run.

    Args:
        differ: what differs between the two, see `differences`.
        values: test accuracies in % of the model's recorded seeds.
        repeats: how many are judged together: the more there are, the wider is the interval of each (Bonferroni), so
            that all of honest ones agree with probability 95 %.
    """
    assert record.results is not None and again.results is not None
    before, after = record.results.test_acc_pct, again.results.test_acc_pct
    same = record.results.weights_sha256 == again.results.weights_sha256 and before == after
    if same or not differ:
        no = "nothing that matters differs, but the final weights do"
        return Agreement(same, "bit-exact", "the final weights are the same to the bit" if same else no)
    expected = prediction_interval(values, 1 - LEVEL / repeats)
    if expected is None:
        return Agreement(None, "failed", "too few recorded seeds to judge by")
    # An accuracy cannot be known finer than one test image.
    margin = 100 / record.results.test_images
    low, high = min(expected[0], expected[1] - margin), max(expected[1], expected[0] + margin)
    inside = low <= after <= high
    share = 100 * (1 - LEVEL / repeats)
    why = (
        f"{after:.2f} % lies {'within' if inside else 'outside'} {low:.2f} to {high:.2f} %, where {share:.4g} % of"
        f" further runs lie by the spread of {len(values)} recorded seeds"
    )
    return Agreement(inside, "interval", why, low, high)


def repeats_among(chosen: RunRecord, attempts: Iterable[RunRecord]) -> list[RunRecord]:
    """The attempts that repeat a finished run: finished too, the same spec, of the same program, on the same data."""

    def made_from(record: RunRecord) -> tuple[str, ...]:
        return record.spec.digest(), record.provenance.source_hash, record.provenance.data_digest

    if chosen.status not in FINAL:
        return []
    own = made_from(chosen)
    return [r for r in attempts if r is not chosen and r.status in FINAL and made_from(r) == own]


@dataclass(frozen=True)
class Repeated:
    """What repeats say of a model's row.

    Attributes:
        runs: finished runs of the row.
        elsewhere: how many other hosts repeated a run and agree, by seed; only of seeds that have any.
        exact: whether all of these were the same bit for bit.
        unjudged: seeds whose bits differ on another host, where too few seeds tell what may be expected.
        disagree: of each seed that a repeat contradicts, wherever that was made, why.
    """

    runs: int
    elsewhere: dict[int, int]
    exact: bool
    unjudged: list[int]
    disagree: dict[int, str]


def repeated(board: Board, model: str) -> Repeated:
    """What the repeats of a model's counted runs say of them.

    Hosts are told apart by `Provenance.host`; one that is unknown counts as no other host, but may disagree.
    """
    counted = [r for r in board.counted[model] if r.status in FINAL]
    values = list(board.values.get(model, {}).values())
    pairs = [(r, again, _differ(r, again)) for r in counted for again in board.repeats.get(r.file_name, ())]
    family = sum(bool(differ) and not _same_bits(r, again) for r, again, differ in pairs)
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
    return Repeated(len(counted), elsewhere, exact, sorted(unjudged), disagree)


def _differ(record: RunRecord, again: RunRecord) -> list[str]:
    made = again.provenance
    return differences(record, made.hardware, made.threads, made.versions)


def _same_bits(record: RunRecord, again: RunRecord) -> bool:
    return agreement(record, again, ["anything"], ()).rule == "bit-exact"


def repeated_words(found: Repeated) -> str:
    """The mark of a row, the same in every output; empty if no run of it was repeated elsewhere."""
    if found.disagree:
        seeds = ", ".join(str(seed) for seed in sorted(found.disagree))
        return f"repeats disagree (seed{'s' if len(found.disagree) > 1 else ''} {seeds})"
    if found.elsewhere:
        part = f"{len(found.elsewhere)} of {found.runs} runs " if len(found.elsewhere) < found.runs else ""
        how = "bit for bit" if found.exact else "within the interval"
        return f"{part}repeated on {some(min(found.elsewhere.values()), 'other host')}, {how}"
    return "repeated elsewhere, with too few seeds to judge" if found.unjudged else ""


def repeat_notes(board: Board) -> list[str]:
    """A sentence on each run that a repeat contradicts."""
    return [
        f"{model} seed {seed}: a repeat disagrees: {why}"
        for model in board.counted
        for seed, why in sorted(repeated(board, model).disagree.items())
    ]
