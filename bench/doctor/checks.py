"""The checks: what each asks of a device, and how it judges the answer.

A check returns what it has measured, in words, or raises `Failed`, `NotApplicable` or `LeftOut`. The judging functions
take plain numbers, so that tests can give them wrong ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from ...registry import MODELS, UserError
from ..driver import SLOWDOWNS
from ..record import LAUNCH_BOUND, RunRecord
from ..spec import find_suite
from .place import Failed, LeftOut, NotApplicable, Place
from .process import Unanswered
from .report import Finding, State

#: Suite whose families are examined.
SUITE = "digits-25k"
#: Steps of a network on a GPU, and on a CPU, where they take a hundred times as long.
STEPS, CPU_STEPS, CPU_BATCH = 20, 4, 16
#: How far the device's clock may be from the host's on a kernel of a second.
CLOCK = 0.005
#: How far logits may be from the CPU's, in parts of the largest: float32 sums differ by 1e-5, TF32 by 1e-3.
LOGITS = 1e-4
#: Half of what TF32 makes of 1 + 2^-12, which it rounds to 1.
ROUNDED = 2.0**-13
#: Device-seconds of the run that is held against its calibration, and how far it may be from them.
RUN_S, RUN_SHARE = 10, 0.01
#: Model of that run: of the fast ones, whose step time the host disturbs most.
RUN_MODEL = "p4cnn"
#: Seconds of load, whole and quick, and how far its speed may fall.
LOAD_S, QUICK_LOAD_S, SLOWER = 90.0, 10.0, 0.03
#: The power limit lowers the clock as long as it is set, on every run alike; the other reasons come and go.
POWER_CAP = "power cap"


@dataclass(frozen=True)
class Check:
    """One row of the table.

    Attributes:
        needed_for: see `Finding`.
    """

    name: str
    needed_for: Literal["E", "T"]
    run: Callable[[Place], str]


def perform(check: Check, place: Place) -> Finding:
    """Do a check; whatever it raises is its finding."""
    begun = time.monotonic()
    try:
        state, detail = _outcome(check, place)
    finally:
        seconds = time.monotonic() - begun
    return Finding(check=check.name, needed_for=check.needed_for, state=state, detail=detail, seconds=seconds)


def _outcome(check: Check, place: Place) -> tuple[State, str]:
    try:
        return "passed", check.run(place)
    except NotApplicable as reason:
        return "not applicable", str(reason)
    except LeftOut as reason:
        return "left out", str(reason)
    except (Failed, Unanswered, UserError) as reason:
        return "failed", str(reason)
    except Exception as error:  # one check that breaks must not end the others
        place.leave()
        return "failed", f"the check itself broke: {type(error).__name__}: {error}"


def families() -> dict[str, str]:
    """Family -> its first model in the suite of 25 thousand parameters."""
    found: dict[str, str] = {}
    for model in find_suite(SUITE).models:
        found.setdefault(str(MODELS.find(model).get("family")), model)
    return found


def _size(place: Place) -> dict[str, Any]:
    return {"steps": STEPS} if place.is_gpu else {"steps": CPU_STEPS, "batch": CPU_BATCH}


def _each_family(problem: Callable[[str], str]) -> str:
    """Names of the models, where none has a problem.

    Raises:
        Failed: some have; which.
    """
    found = {model: problem(model) for model in families().values()}
    wrong = [f"{model}: {what}" for model, what in found.items() if what]
    if wrong:
        raise Failed("; ".join(wrong))
    return ", ".join(found)


def driver(place: Place) -> str:
    """Driver, capability, torch's build, and one product."""
    found = place.facts
    if found["product"] != 64:
        raise Failed(f"a product of ones is {found['product']:g} where 64 is right")
    if not place.is_gpu:
        reason = f"; no GPU: {place.explanation}" if place.explanation else ""
        return f"torch {found['torch']} on the CPU{reason}"
    why = why_not_built(tuple(found["capability"]), found["built_for"])
    if why:
        raise Failed(why)
    known = found["hardware"]
    capability = ".".join(map(str, found["capability"]))
    return f"driver {known.get('driver', 'unknown')}, capability {capability}, torch {found['torch']}, cuDNN {known.get('cudnn')}"


def why_not_built(capability: tuple[int, ...], built_for: Sequence[str]) -> str:
    """Why a build of torch has no kernels for a GPU; empty if it has.

    Binary code runs on its own major capability from its minor one on; ``compute_XY`` is translated for all that is newer.
    """
    major, minor = capability
    for name in built_for:
        kind, _, number = name.partition("_")
        number = number.rstrip("af")
        if number.isdecimal():
            own = divmod(int(number), 10)
            if (kind == "sm" and own[0] == major and own[1] <= minor) or (kind == "compute" and own <= (major, minor)):
                return ""
    return f"torch is built for {', '.join(built_for)}, and this GPU has capability {major}.{minor}; install a build that has it"


def devices(place: Place) -> str:
    """Every device, chosen by its UUID, is the only one in a process of its own."""
    place.need_gpu("there is no GPU")
    names = place.facts["devices"]
    if len(set(names)) != len(names):
        raise Failed(f"two devices share a UUID: {', '.join(names)}")
    with ExitStack() as stack:
        alone = [stack.enter_context(place.fresh({"CUDA_VISIBLE_DEVICES": name}, "cuda:0")) for name in names]
        for name, process in zip(names, alone, strict=True):
            seen = process.ask("facts", place.left(90))["devices"]
            if seen != [name]:
                raise Failed(f"with CUDA_VISIBLE_DEVICES={name} torch sees {', '.join(seen) or 'nothing'}")
    return f"{len(names)}: {', '.join(names)}"


def placement(place: Place) -> str:
    """A process on this device has a context here and nowhere else."""
    place.need_gpu("there is no GPU")
    if place.facts["current"] != int(place.device.partition(":")[2]):
        raise Failed(f"the current device of a process on {place.device} is cuda:{place.facts['current']}")
    seen = place.company
    return judge_placement(seen["uuid"], seen["named_on"], seen["gpus"])


def judge_placement(uuid: str, named_on: list[str], gpus: int) -> str:
    """Judge the GPUs on which the driver names a process that holds memory of one of them."""
    elsewhere = [name for name in named_on if name != uuid]
    if elsewhere:
        raise Failed(f"a process on {uuid} has a context on {', '.join(elsewhere)} as well")
    if uuid not in named_on:
        raise NotApplicable("the driver does not name our processes by their numbers here, as in most containers")
    return f"seen there, and on no other of {gpus}"


def alone(place: Place) -> str:
    """Nobody else computes on the device: the processes that the driver names are ours, and account for all memory."""
    place.need_gpu("times of a CPU count nowhere")
    seen = place.company
    return judge_alone(seen["others"], seen["unknown"], seen["before_mib"])


def judge_alone(others: str, unknown: str, before_mib: float | None) -> str:
    """Judge who else is on a GPU, by the rule that runs are judged by.

    Args:
        others, unknown: as of `alone.Company`, while a process of ours holds memory there.
        before_mib: memory in use while nothing of ours was there; None is unknown.
    """
    if others:
        raise Failed(others)
    if unknown:
        raise LeftOut(f"whether a run is alone cannot be seen here: {unknown}")
    return "the driver names ours alone" + ("" if before_mib is None else f"; {before_mib:.0f} MiB in use without us")


def clock(place: Place) -> str:
    """The device's clock against the host's on a kernel of a second."""
    place.need_gpu("a CPU's clock is the host's")
    found = place.ask("clock", 60, seconds=1.0)
    return judge_clock(found["device_s"], found["host_s"], found["cycles"], found["submitted_s"])


def judge_clock(device_s: float, host_s: float, cycles: int, submitted_s: float) -> str:
    """Judge a kernel that waits for so many cycles: two clocks must agree, and submitting it must not wait for it."""
    if device_s <= 0:
        raise Failed(f"by its events a kernel of {cycles:,} cycles took no time: they are not on its device")
    if abs(device_s / host_s - 1) > CLOCK:
        raise Failed(f"{device_s:.4f} s by the device's events, {host_s:.4f} s by the host's clock")
    if submitted_s > 0.5 * host_s:
        raise Failed(f"submitting a kernel of {host_s:.3f} s took {submitted_s:.3f} s: the host waits for the device")
    return f"{device_s:.4f} s by events, {host_s:.4f} s by the host ({100 * (device_s / host_s - 1):+.2f} %); {cycles / device_s / 1e6:,.0f} MHz"


def tf32(place: Place) -> str:
    """Float32 is float32 under ``strict``; under ``fast`` TF32 is seen, so that this check would see it."""
    return judge_rounding(place.ask("rounding", 60), place.is_gpu and tuple(place.facts["capability"]) >= (8, 0))


def judge_rounding(found: dict[str, dict[str, float]], has_tf32: bool) -> str:
    """Judge the errors of 1 + 2^-12 after a product and a convolution, by profile."""
    wrong = [kind for kind, error in found["strict"].items() if not error < ROUNDED]
    if wrong:
        raise Failed(f"{' and '.join(wrong)} round as TF32 does under strict (error {max(found['strict'].values()):.1e})")
    largest = max(found["strict"].values())
    if not has_tf32:
        return f"errors up to {largest:.0e}; this device has no TF32"
    if not found["fast"]["matmul"] > ROUNDED:
        raise Failed("under fast a product is not rounded as TF32 does, so that this check would not see it under strict")
    return f"errors up to {largest:.0e} under strict, {max(found['fast'].values()):.0e} under fast"


def waits(place: Place) -> str:
    """No training step of a family waits for the device."""
    place.need_gpu("on a CPU every operation is waited for")
    return _each_family(lambda model: place.ask("waits", 60, model=model, **_size(place))["wait"])


def bits(place: Place) -> str:
    """Two processes train the same network to the same bits, and so does one that goes on from the other's checkpoint."""
    size, found = _size(place), dict[str, list[dict[str, Any]]]()
    for first in (True, False):
        if not first:
            place.leave()
        for model in families().values():
            file = str(place.folder / f"{model}.pt")
            found.setdefault(model, []).append(place.ask("train_bits", 60, model=model, keep=file if first else None, **size))
            if not first:
                found[model].append(place.ask("train_bits", 60, model=model, begin=file, **size))
    done = _each_family(lambda model: why_other_bits(*found[model]))
    return f"{size['steps']} steps: {done}"


def why_other_bits(once: dict[str, Any], twice: dict[str, Any], resumed: dict[str, Any]) -> str:
    """What is wrong with three trainings of one network, of which the last went on from half of the first; empty if nothing."""
    if not once["finite"]:
        return "weights that are no numbers"
    if twice["digest"] != once["digest"]:
        return "a second process ends with other bits"
    return "" if resumed["digest"] == once["digest"] else "a resumed training ends with other bits"


def agreement(place: Place) -> str:
    """Logits on the device are those of the CPU."""
    place.need_gpu("the CPU is what others are compared with")
    largest = dict[str, float]()

    def problem(model: str) -> str:
        found = place.ask("compare_logits", 60, model=model, images=50)
        largest[model] = found["difference"] / found["largest"] if found["largest"] > 0 else float("nan")
        return "" if largest[model] <= LOGITS else f"logits differ by {largest[model]:.1e} of the largest"

    _each_family(problem)
    return ", ".join(f"{model} {value:.0e}" for model, value in largest.items()) + " of the largest logit"


def launches(place: Place) -> str:
    """Kernels a step, and the share of a step's device time that the host needs to submit it."""
    place.need_gpu("a CPU launches no kernels")
    parts = []

    def problem(model: str) -> str:
        found = place.ask("pace", 60, model=model, **_size(place))
        wrong, words = judge_pace(found["host_s"], found["device_s"], found["kernels"])
        parts.append(f"{model} {words}")
        return wrong

    _each_family(problem)
    return "; ".join(parts)


def judge_pace(host_s: float, device_s: float, kernels: list[int]) -> tuple[str, str]:
    """What is wrong with a step, and its pace in words."""
    if device_s <= 0:
        return "by its events a step takes no time", ""
    if len(set(kernels)) > 1:
        return f"steps launch {', '.join(map(str, kernels))} kernels: some do more than others", ""
    counted = f"{kernels[0]} kernels, " if kernels else ""
    bound = ", limited by launches" if host_s > LAUNCH_BOUND * device_s else ""
    return "", f"{counted}{1000 * device_s:.2f} ms, host/device {host_s / device_s:.2f}{bound}"


def failures(place: Place) -> str:
    """A run out of memory and one with an index outside get the right status, and the next run is unharmed."""
    include = str(Path(__file__).with_name("faulty.py"))
    wanted = {"doctor-out-of-memory": "oom", "doctor-index-outside": "error", "doctor-healthy": "ok"}
    records, said = place.equibench(
        "run", "--include", include, "--dataset", "digits-rot", "--models", ",".join(wanted), "--budget", "smoke",
        "--seeds", "1", "--device", place.device, "--jobs", "1", limit_s=120,
    )  # fmt: skip
    return judge_failures(wanted, {r.spec.model: (r.status, r.reason) for r in records}, said, place.is_gpu)


def judge_failures(wanted: dict[str, str], found: dict[str, tuple[str, str]], said: str, is_gpu: bool) -> str:
    """Judge status and reason of the runs of `faulty`."""
    for model, status in wanted.items():
        got, reason = found.get(model, ("no record", said))
        if got != status:
            raise Failed(f"{model} is {got!r} ({reason}) where {status!r} is right")
    word = "device-side assert" if is_gpu else "out of bounds"
    if word not in found["doctor-index-outside"][1]:
        raise Failed(f"the reason of an index outside says nothing of {word!r}: {found['doctor-index-outside'][1]}")
    return f"oom, error ({word}), and the next run ok"


def calibrated(place: Place) -> str:
    """A run of 10 device-seconds takes what its calibration in another process promised."""
    place.need_gpu("device-seconds of a CPU are no budget")
    return _timed_run(place, [place.device], 120)


def busy(place: Place) -> str:
    """The same on all devices at once."""
    place.need_gpu("there is no GPU")
    if len(place.devices) < 2:
        raise NotApplicable("one device is examined")
    return _timed_run(place, place.devices, 150)


def _timed_run(place: Place, names: list[str], limit_s: float) -> str:
    records, said = place.equibench(
        "run", "--dataset", "digits-rot", "--models", RUN_MODEL, "--budget", f"t{RUN_S}", "--seeds", str(len(names)),
        "--device", ",".join(names), limit_s=limit_s,
    )  # fmt: skip
    if not records:
        raise Failed(said.splitlines()[-1] if said else "the command wrote no record")
    return judge_runs(records, names)


def judge_runs(records: Sequence[RunRecord], names: list[str]) -> str:
    """Judge runs of `RUN_S` device-seconds, one on each device: all are ok, and near to their budget."""
    parts = []
    for record in sorted(records, key=lambda r: r.spec.seed):
        if record.status != "ok" or record.results is None:
            raise Failed(f"a run of {record.spec.model} is {record.status!r}: {record.reason}")
        off = record.results.train_s / RUN_S - 1
        where = record.provenance.hardware.get("device", "")
        if abs(off) > RUN_SHARE:
            raise Failed(f"{record.results.train_s:.3f} s for {RUN_S} s on {where} ({100 * off:+.2f} %, allowed ±1 %)")
        parts.append((where, f"{where} {100 * off:+.2f} %"))
    if {where for where, _ in parts} != set(names):
        raise Failed(f"the runs were on {', '.join(where for where, _ in parts)}, not one on each of {', '.join(names)}")
    return f"{RUN_MODEL}, {RUN_S} s: " + ", ".join(words for _, words in parts)


def load(place: Place) -> str:
    """Under load the device keeps its speed; clocks, power and heat meanwhile."""
    place.need_gpu("times of a CPU count nowhere")
    seconds = QUICK_LOAD_S if place.quick else LOAD_S
    found = place.ask("load_on", seconds + 60, seconds=seconds, uuid=place.facts["uuid"])
    words = judge_load(found["blocks"], found["flops"], found["samples"])
    if place.quick:
        raise LeftOut(f"only {seconds:.0f} s (--quick): {words}")
    return words


def judge_load(blocks: list[float], flops: float, samples: list[dict[str, Any]]) -> str:
    """Judge the times of equal blocks of work in their order, and what the driver said meanwhile."""
    if len(blocks) < 6 or min(blocks) <= 0:
        raise Failed(f"of the blocks of work {len(blocks)} were timed, the shortest {min(blocks, default=0):.3f} s")
    third = len(blocks) // 3
    slower = median(blocks[-third:]) / median(blocks[:third]) - 1
    reasons = {reason for s in samples for reason in s["reasons"] or () if reason in SLOWDOWNS}
    seen = _span(samples)
    if reasons - {POWER_CAP}:
        raise Failed(f"the clock was lowered: {', '.join(sorted(reasons - {POWER_CAP}))}{seen}")
    if slower > SLOWER:
        raise Failed(f"blocks took {100 * slower:.1f} % longer at the end than at the beginning{seen}")
    capped = "; the power cap lowered the clock" if reasons else ""
    return f"{flops / median(blocks) / 1e12:.1f} TFLOPS, {100 * slower:+.1f} % time from the first third to the last{seen}{capped}"


def _span(samples: list[dict[str, Any]]) -> str:
    parts = []
    for key, unit in (("sm_mhz", "MHz"), ("power_w", "W"), ("temperature_c", "°C")):
        known = [s[key] for s in samples if s[key] is not None]
        parts += [f"{min(known):.0f}–{max(known):.0f} {unit}"] if known else []
    return "; " + (", ".join(parts) or "the driver says nothing of clock and power")


#: In the order in which they are done: what the others need comes first, then what one process can do.
CHECKS = (
    Check("driver and build", "E", driver),
    Check("devices by UUID", "T", devices),
    Check("on its device only", "T", placement),
    Check("alone", "T", alone),
    Check("clock", "T", clock),
    Check("TF32 off", "E", tf32),
    Check("logits as on the CPU", "E", agreement),
    Check("same bits, resumed", "E", bits),
    Check("no waits", "T", waits),
    Check("launches", "T", launches),
    Check("load", "T", load),
    Check("failures", "E", failures),
    Check("calibration holds", "T", calibrated),
    Check("all devices busy", "T", busy),
)
