"""The checks of a device; the functions of `judges` judge the measurements.

A check returns its measurement as text, or raises `Failed`, `NotApplicable` or `LeftOut`.
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
from ...tools.text import error_line, last_line
from .device import ExaminedDevice, Failed, LeftOut, NotApplicable
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
from .process import NoAnswer

#: The check uses one model of each family of this suite.
SUITE = "digits-25k"
#: Steps of a network on a GPU, and on a CPU, which is a hundred times slower.
STEPS, CPU_STEPS, CPU_BATCH = 20, 4, 16
#: Largest difference from the CPU's logits, relative to the largest: float32 sums differ by 1e-5, TF32 by 1e-3.
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
    run: Callable[[ExaminedDevice], str]


def perform(check: Check, place: ExaminedDevice) -> Finding:
    """Do a check; an exception becomes its finding."""
    begun = time.monotonic()
    try:
        state, detail = _outcome(check, place)
    finally:
        seconds = time.monotonic() - begun
    return Finding(check=check.name, needed_for=check.needed_for, state=state, detail=detail, seconds=seconds)


def _outcome(check: Check, place: ExaminedDevice) -> tuple[State, str]:
    try:
        return "passed", check.run(place)
    except NotApplicable as reason:
        return "not applicable", str(reason)
    except LeftOut as reason:
        return "left out", str(reason)
    except (Failed, NoAnswer, UserError) as reason:
        return "failed", str(reason)
    except Exception as error:  # one check that breaks must not end the others
        place.leave()
        return "failed", f"the check itself broke: {error_line(error)}"


def families() -> dict[str, str]:
    """Family -> its first model in the suite of 25 thousand parameters."""
    found: dict[str, str] = {}
    for model in find_suite(SUITE).models:
        found.setdefault(str(MODELS.find(model).get("family")), model)
    return found


def _size(place: ExaminedDevice) -> dict[str, Any]:
    return {"steps": STEPS} if place.is_gpu else {"steps": CPU_STEPS, "batch": CPU_BATCH}


def _each_family(problem: Callable[[str], str]) -> str:
    """Names of the models if none has a problem.

    Raises:
        Failed: names the models that have a problem.
    """
    found = {model: problem(model) for model in families().values()}
    wrong = [f"{model}: {what}" for model, what in found.items() if what]
    if wrong:
        raise Failed("; ".join(wrong))
    return ", ".join(found)


def driver(place: ExaminedDevice) -> str:
    """Driver, capability, torch's build, and one product."""
    found = place.facts
    if found["product"] != 64:
        raise Failed(f"a product of ones is {found['product']:g}, but it should be 64")
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


def devices(place: ExaminedDevice) -> str:
    """A process that selects a device by its UUID sees only this device."""
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


def placement(place: ExaminedDevice) -> str:
    """A process on this device has a context on no other device."""
    place.need_gpu("there is no GPU")
    if place.facts["current"] != int(place.device.partition(":")[2]):
        raise Failed(f"the current device of a process on {place.device} is cuda:{place.facts['current']}")
    seen = place.other_processes
    return judge_placement(seen["uuid"], seen["named_on"], seen["gpus"])


def alone(place: ExaminedDevice) -> str:
    """No other process computes on the device: all named processes are ours, and account for all memory."""
    place.need_gpu("CPU times are not used")
    seen = place.other_processes
    return judge_alone(seen["others"], seen["unknown"], seen["before_mib"])


def clock(place: ExaminedDevice) -> str:
    """The device's clock and the host's clock agree on a kernel of one second."""
    place.need_gpu("a CPU's clock is the host's")
    found = place.ask("clock", 60, seconds=1.0)
    return judge_clock(found["device_s"], found["host_s"], found["cycles"], found["submitted_s"])


def tf32(place: ExaminedDevice) -> str:
    """No TF32 under ``strict``; the check detects TF32 under ``fast``, so it works."""
    return judge_rounding(place.ask("rounding", 60), place.is_gpu and tuple(place.facts["capability"]) >= (8, 0))


def waits(place: ExaminedDevice) -> str:
    """No training step of a family waits for the device."""
    place.need_gpu("a CPU has no asynchronous operations")
    return _each_family(lambda model: place.ask("waits", 60, model=model, **_size(place))["wait"])


def bits(place: ExaminedDevice) -> str:
    """Two processes train the same network to the same bits; a process that continues from a checkpoint does too."""
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


def agreement(place: ExaminedDevice) -> str:
    """Logits on the device agree with those on the CPU."""
    place.need_gpu("the CPU is the reference")
    largest = dict[str, float]()

    def problem(model: str) -> str:
        found = place.ask("compare_logits", 60, model=model, images=50)
        largest[model] = found["difference"] / found["largest"] if found["largest"] > 0 else float("nan")
        return "" if largest[model] <= LOGITS else f"logits differ by {largest[model]:.1e} of the largest"

    _each_family(problem)
    return ", ".join(f"{model} {value:.0e}" for model, value in largest.items()) + " of the largest logit"


def launches(place: ExaminedDevice) -> str:
    """Kernels per step, and the host's time to submit a step relative to its device time."""
    place.need_gpu("a CPU launches no kernels")
    parts = []

    def problem(model: str) -> str:
        found = place.ask("pace", 60, model=model, **_size(place))
        wrong, words = judge_pace(found["host_s"], found["device_s"], found["kernels"])
        parts.append(f"{model} {words}")
        return wrong

    _each_family(problem)
    return "; ".join(parts)


def failures(place: ExaminedDevice) -> str:
    """Out of memory and an index out of range give the right status, and the next run works."""
    include = str(Path(__file__).with_name("faulty.py"))
    wanted = {"doctor-out-of-memory": "oom", "doctor-index-outside": "error", "doctor-healthy": "ok"}
    records, said = place.equibench(
        "run", "--include", include, "--dataset", "digits-rot", "--models", ",".join(wanted), "--budget", "smoke",
        "--seeds", "1", "--device", place.device, "--jobs", "1", limit_s=120,
    )  # fmt: skip
    return judge_failures(wanted, {r.spec.model: (r.status, r.reason) for r in records}, said, place.is_gpu)


def calibrated(place: ExaminedDevice) -> str:
    """A run of 10 device-seconds agrees with its calibration in another process."""
    place.need_gpu("CPU seconds cannot be a budget")
    return _timed_run(place, [place.device], 120)


def busy(place: ExaminedDevice) -> str:
    """As `calibrated`, on all devices at the same time."""
    place.need_gpu("there is no GPU")
    if len(place.devices) < 2:
        raise NotApplicable("one device is examined")
    return _timed_run(place, place.devices, 150)


def _timed_run(place: ExaminedDevice, names: list[str], limit_s: float) -> str:
    records, said = place.equibench(
        "run", "--dataset", "digits-rot", "--models", RUN_MODEL, "--budget", f"t{RUN_S}", "--seeds", str(len(names)),
        "--device", ",".join(names), limit_s=limit_s,
    )  # fmt: skip
    if not records:
        raise Failed(last_line(said) or "the command wrote no record")
    return judge_runs(records, names)


def load(place: ExaminedDevice) -> str:
    """The device keeps its speed under load; with clocks, power and temperature."""
    place.need_gpu("CPU times are not used")
    seconds = QUICK_LOAD_S if place.quick else LOAD_S
    found = place.ask("load_on", seconds + 60, seconds=seconds, uuid=place.facts["uuid"])
    words = judge_load(found["blocks"], found["flops"], found["samples"])
    if place.quick:
        raise LeftOut(f"only {seconds:.0f} s (--quick): {words}")
    return words


#: The checks in their order: first those that others need, then those that share one process.
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
