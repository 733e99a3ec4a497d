"""The checks of a device: each returns its measurement as text, or raises as the functions of `judges` do."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ....registry import MODELS, UserError
from ...records.doctor_report import Finding, Report, State
from ...records.provenance import timestamp
from ...runner.local import interrupt_on_signals
from ...spec.suite import find_suite
from ...tools.gpus import Gpus, refuse_modes
from ...tools.machine import Machine
from ...tools.text import error_line, last_line
from ...training.job import Examination
from ..process import NoAnswer, Process
from . import judges
from .device import ExaminedDevice, Failed, LeftOut, NotApplicable

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
    """One row of the table; `not_on_cpu` says why it is not applicable to a CPU, and is empty if it is."""

    name: str
    needed_for: Literal["E", "T"]
    run: Callable[[ExaminedDevice], str]
    not_on_cpu: str = ""


def perform(check: Check, place: ExaminedDevice) -> Finding:
    """Do a check; an exception becomes its finding."""
    begun = time.monotonic()
    state: State = "failed"
    try:
        if check.not_on_cpu and not place.is_gpu:
            raise NotApplicable(check.not_on_cpu)
        state, detail = "passed", check.run(place)
    except NotApplicable as reason:
        state, detail = "not applicable", str(reason)
    except LeftOut as reason:
        state, detail = "left out", str(reason)
    except (Failed, NoAnswer, UserError) as reason:
        detail = str(reason)
    except Exception as error:  # one check that breaks must not end the others
        place.leave()
        detail = f"the check itself broke: {error_line(error)}"
    seconds = time.monotonic() - begun
    return Finding(check=check.name, needed_for=check.needed_for, state=state, detail=detail, seconds=seconds)


def families() -> dict[str, str]:
    """Family -> its first model in the suite of 25 thousand parameters."""
    found: dict[str, str] = {}
    for model in find_suite(SUITE).models:
        found.setdefault(str(MODELS.find(model).get("family")), model)
    return found


def _size(place: ExaminedDevice) -> dict[str, Any]:
    return {"steps": STEPS} if place.is_gpu else {"steps": CPU_STEPS, "batch": CPU_BATCH}


def _each_family(problem: Callable[[str], str]) -> str:
    """Names of the models if none has a problem, else `Failed` with the models that have one."""
    found = {model: problem(model) for model in families().values()}
    if wrong := [f"{model}: {what}" for model, what in found.items() if what]:
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
    if why := judges.why_not_built(tuple(found["capability"]), found["built_for"]):
        raise Failed(why)
    known, capability = found["hardware"], ".".join(map(str, found["capability"]))
    text = f"driver {known.get('driver', 'unknown')}, capability {capability}, torch {found['torch']}"
    return f"{text}, cuDNN {known.get('cudnn')}"


def devices(place: ExaminedDevice) -> str:
    """A process that selects a device by its UUID sees only this device."""
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
    if place.facts["current"] != int(place.device.partition(":")[2]):
        raise Failed(f"the current device of a process on {place.device} is cuda:{place.facts['current']}")
    seen = place.other_processes
    return judges.judge_placement(seen["uuid"], seen["named_on"], seen["gpus"], seen["unread"])


def alone(place: ExaminedDevice) -> str:
    """No other process computes on the device: all named processes are ours, and account for all memory."""
    seen = place.other_processes
    return judges.judge_alone(seen["others"], seen["unknown"], seen["before_mib"])


def clock(place: ExaminedDevice) -> str:
    """The device's clock and the host's clock agree on a kernel of one second."""
    return judges.judge_clock(**place.ask("clock", 60, seconds=1.0))


def tf32(place: ExaminedDevice) -> str:
    """No TF32 under ``strict``; the check detects TF32 under ``fast``, so it works."""
    return judges.judge_rounding(place.ask("rounding", 60), place.is_gpu and tuple(place.facts["capability"]) >= (8, 0))


def waits(place: ExaminedDevice) -> str:
    """No training step of a family waits for the device."""
    return _each_family(lambda model: place.ask("waits", 60, model=model, **_size(place))["wait"])


def bits(place: ExaminedDevice) -> str:
    """Two processes train the same network to the same bits; a process that continues from a checkpoint does too."""
    size, found = _size(place), dict[str, list[dict[str, Any]]]()
    files = {model: str(place.folder / f"{model}.pt") for model in families().values()}
    for model, file in files.items():
        found[model] = [place.ask("train_bits", 60, model=model, keep=file, **size)]
    place.leave()
    for model, file in files.items():
        found[model].append(place.ask("train_bits", 60, model=model, **size))
        found[model].append(place.ask("train_bits", 60, model=model, begin=file, **size))
    done = _each_family(lambda model: judges.why_other_bits(*found[model]))
    return f"{size['steps']} steps: {done}"


def agreement(place: ExaminedDevice) -> str:
    """Logits on the device agree with those on the CPU."""
    largest = dict[str, float]()

    def problem(model: str) -> str:
        found = place.ask("compare_logits", 60, model=model, images=50)
        largest[model] = found["difference"] / found["largest"] if found["largest"] > 0 else float("nan")
        return "" if largest[model] <= LOGITS else f"logits differ by {largest[model]:.1e} of the largest"

    _each_family(problem)
    return ", ".join(f"{model} {value:.0e}" for model, value in largest.items()) + " of the largest logit"


def launches(place: ExaminedDevice) -> str:
    """Kernels per step, and the host's time to submit a step relative to its device time."""
    parts = []

    def problem(model: str) -> str:
        wrong, words = judges.judge_pace(**place.ask("pace", 60, model=model, **_size(place)))
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
    return judges.judge_failures(wanted, {r.spec.model: (r.status, r.reason) for r in records}, said, place.is_gpu)


def calibrated(place: ExaminedDevice) -> str:
    """A run of 10 device-seconds agrees with its calibration in another process."""
    return _timed_run(place, [place.device], 120)


def busy(place: ExaminedDevice) -> str:
    """As `calibrated`, on all devices at the same time."""
    if len(place.devices) < 2:
        raise NotApplicable("one device is examined")
    return _timed_run(place, place.devices, 150)


def _timed_run(place: ExaminedDevice, names: list[str], limit_s: float) -> str:
    records, said = place.equibench(
        "run", "--dataset", "digits-rot", "--models", judges.RUN_MODEL, "--budget", f"t{judges.RUN_S}",
        "--seeds", str(len(names)), "--device", ",".join(names), limit_s=limit_s,
    )  # fmt: skip
    if not records:
        raise Failed(last_line(said) or "the command wrote no record")
    return judges.judge_runs(records, names)


def load(place: ExaminedDevice) -> str:
    """The device keeps its speed under load; with clocks, power and temperature."""
    seconds = QUICK_LOAD_S if place.quick else LOAD_S
    words = judges.judge_load(**place.ask("load_on", seconds + 60, seconds=seconds, uuid=place.facts["uuid"]))
    if place.quick:
        raise LeftOut(f"only {seconds:.0f} s (--quick): {words}")
    return words


#: The checks in their order: first those that others need, then those that share one process.
CHECKS = (
    Check("driver and build", "E", driver),
    Check("devices by UUID", "T", devices, "there is no GPU"),
    Check("on its device only", "T", placement, "there is no GPU"),
    Check("alone", "T", alone, "CPU times are not used"),
    Check("clock", "T", clock, "a CPU's clock is the host's"),
    Check("TF32 off", "E", tf32),
    Check("logits as on the CPU", "E", agreement, "the CPU is the reference"),
    Check("same bits, resumed", "E", bits),
    Check("no waits", "T", waits, "a CPU has no asynchronous operations"),
    Check("launches", "T", launches, "a CPU launches no kernels"),
    Check("load", "T", load, "CPU times are not used"),
    Check("failures", "E", failures),
    Check("calibration holds", "T", calibrated, "CPU seconds cannot be a budget"),
    Check("all devices busy", "T", busy, "there is no GPU"),
)


def devices_of(device: str) -> tuple[list[str], str]:
    """The devices in ``--device``, each once, and the reason if torch sees no GPU.

    Raises:
        UserError: a device does not exist, or cannot be used; with torch's explanation.
    """
    with Process(Examination(device="cpu", threads=1, data_root=None)) as process:
        try:
            here = Gpus.model_validate(process.ask("gpus", 90))
        except NoAnswer as error:
            raise UserError(f"torch does not start here: {error}") from None
    every = Machine("cuda" if device == "auto" and here.uuids else device)
    names = list(dict.fromkeys(every.slots(len(here.uuids), here.why)))
    refuse_modes(names, here)
    return names, here.why


def examine(place: ExaminedDevice, told: Callable[[Finding], None] = lambda _: None) -> Report:
    """Do all checks on a device; `told` is called immediately with every finding.

    Raises:
        UserError: no process can use the device.
    """
    started = timestamp()
    with interrupt_on_signals(), place:
        try:
            facts = place.facts
        except NoAnswer as error:
            raise UserError(f"no process can use {place.device}: {error}") from None
        findings = []
        for check in CHECKS:
            findings.append(perform(check, place))
            told(findings[-1])
    return Report(
        device=place.device, uuid=facts["uuid"], hardware=facts["hardware"], versions=facts["versions"],
        started=started, quick=place.quick, findings=findings,
    )  # fmt: skip
