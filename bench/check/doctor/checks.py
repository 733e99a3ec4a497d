"""The checks: what each asks of a device; `judges` judge the answers.

A check returns what it has measured, in words, or raises `Failed`, `NotApplicable` or `LeftOut`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ....registry import MODELS, UserError
from ...records.doctor_report import Finding, State
from ...spec.suite import find_suite
from ...tools.text import last_line, raised
from .device import Failed, LeftOut, NotApplicable, Place
from .judges import (
    RUN_MODEL,
    RUN_S,
    judge_alone,
    judge_clock,
    judge_failures,
    judge_load,
    judge_pace,
    judge_placement,
    judge_rounding,
    judge_runs,
    why_not_built,
    why_other_bits,
)  # fmt: skip
from .process import Unanswered

#: Suite whose families are examined.
SUITE = "digits-25k"
#: Steps of a network on a GPU, and on a CPU, where they take a hundred times as long.
STEPS, CPU_STEPS, CPU_BATCH = 20, 4, 16
#: How far logits may be from the CPU's, in parts of the largest: float32 sums differ by 1e-5, TF32 by 1e-3.
LOGITS = 1e-4
#: Seconds of load, whole and quick.
LOAD_S, QUICK_LOAD_S = 90.0, 10.0


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
        return "failed", f"the check itself broke: {raised(error)}"


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
    return (
        f"driver {known.get('driver', 'unknown')}, capability {capability}, torch {found['torch']}, cuDNN"
        f" {known.get('cudnn')}"
    )


def devices(place: Place) -> str:
    """Every device, chosen by its UUID, is the only one in a separate process."""
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


def alone(place: Place) -> str:
    """Nobody else computes on the device: the processes that the driver names are ours, and account for all memory."""
    place.need_gpu("times of a CPU count nowhere")
    seen = place.company
    return judge_alone(seen["others"], seen["unknown"], seen["before_mib"])


def clock(place: Place) -> str:
    """The device's clock against the host's on a kernel of a second."""
    place.need_gpu("a CPU's clock is the host's")
    found = place.ask("clock", 60, seconds=1.0)
    return judge_clock(found["device_s"], found["host_s"], found["cycles"], found["submitted_s"])


def tf32(place: Place) -> str:
    """Float32 is float32 under ``strict``; under ``fast`` TF32 is seen, so that this check would see it."""
    return judge_rounding(place.ask("rounding", 60), place.is_gpu and tuple(place.facts["capability"]) >= (8, 0))


def waits(place: Place) -> str:
    """No training step of a family waits for the device."""
    place.need_gpu("on a CPU every operation is waited for")
    return _each_family(lambda model: place.ask("waits", 60, model=model, **_size(place))["wait"])


def bits(place: Place) -> str:
    """Two processes train the same network to the same bits, and so does one that goes on from the other's
    checkpoint.
    """
    size, found = _size(place), dict[str, list[dict[str, Any]]]()
    for first in (True, False):
        if not first:
            place.leave()
        for model in families().values():
            file = str(place.folder / f"{model}.pt")
            found.setdefault(model, []).append(
                place.ask("train_bits", 60, model=model, keep=file if first else None, **size)
            )
            if not first:
                found[model].append(place.ask("train_bits", 60, model=model, begin=file, **size))
    done = _each_family(lambda model: why_other_bits(*found[model]))
    return f"{size['steps']} steps: {done}"


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


def failures(place: Place) -> str:
    """A run out of memory and one with an index outside get the right status, and the next run is unharmed."""
    include = str(Path(__file__).with_name("faulty.py"))
    wanted = {"doctor-out-of-memory": "oom", "doctor-index-outside": "error", "doctor-healthy": "ok"}
    records, said = place.equibench(
        "run", "--include", include, "--dataset", "digits-rot", "--models", ",".join(wanted), "--budget", "smoke",
        "--seeds", "1", "--device", place.device, "--jobs", "1", limit_s=120,
    )  # fmt: skip
    return judge_failures(wanted, {r.spec.model: (r.status, r.reason) for r in records}, said, place.is_gpu)


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
        raise Failed(last_line(said) or "the command wrote no record")
    return judge_runs(records, names)


def load(place: Place) -> str:
    """Under load the device keeps its speed; clocks, power and heat meanwhile."""
    place.need_gpu("times of a CPU count nowhere")
    seconds = QUICK_LOAD_S if place.quick else LOAD_S
    found = place.ask("load_on", seconds + 60, seconds=seconds, uuid=place.facts["uuid"])
    words = judge_load(found["blocks"], found["flops"], found["samples"])
    if place.quick:
        raise LeftOut(f"only {seconds:.0f} s (--quick): {words}")
    return words


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
