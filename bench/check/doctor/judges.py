"""The doctor's judgements of measurements, which are plain numbers.

A judge returns the measurement as text, or raises `Failed`, `NotApplicable` or `LeftOut`. Functions called `why_…`
return the problem; empty if there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from ...records.record import LAUNCH_BOUND, RunRecord
from ...tools.gpu_driver import SLOWDOWNS
from .device import Failed, LeftOut, NotApplicable

#: Largest relative difference between the device's and the host's clock for a kernel of one second.
CLOCK = 0.005
#: Half of the rounding error of TF32 for 1 + 2^-12, which it rounds to 1.
ROUNDED = 2.0**-13
#: Device-seconds of the run for comparison with its calibration, and the largest relative difference.
RUN_S, RUN_SHARE = 10, 0.01
#: Model of that run: a fast one, because the host affects its step time most.
RUN_MODEL = "p4cnn"
#: Largest relative loss of speed under load.
SLOWER = 0.03
#: The power limit lowers the clock of all runs alike; the other reasons change during runs.
POWER_CAP = "power cap"


def why_not_built(capability: tuple[int, ...], built_for: Sequence[str]) -> str:
    """Why a build of torch has no kernels for a GPU.

    ``sm_XY`` runs on GPUs with the same major capability and at least this minor one, ``compute_XY`` on all newer ones.
    """
    major, minor = capability
    for name in built_for:
        kind, _, number = name.partition("_")
        number = number.rstrip("af")
        if number.isdecimal():
            own = divmod(int(number), 10)
            if (kind == "sm" and own[0] == major and own[1] <= minor) or (kind == "compute" and own <= (major, minor)):
                return ""
    here = f"this GPU has capability {major}.{minor}"
    return f"torch is built for {', '.join(built_for)}, but {here}; install a build of torch for it"


def judge_placement(uuid: str, named_on: list[str], gpus: int, unread: Sequence[str] = ()) -> str:
    """Judge the GPUs on which the driver names a process that holds memory of one of them.

    Args:
        unread: GPUs whose processes the driver does not list.
    """
    if elsewhere := [name for name in named_on if name != uuid]:
        raise Failed(f"a process on {uuid} has a context on {', '.join(elsewhere)} as well")
    if uuid not in named_on:
        raise NotApplicable("the driver does not name our processes by their numbers here, as in most containers")
    if unread:
        raise LeftOut(f"the driver does not list the processes on {', '.join(unread)}")
    return f"seen on this GPU, and on no other of {gpus}"


def judge_alone(others: str, unknown: str, before_mib: float | None) -> str:
    """Judge which other processes are on a GPU, by the rule for runs.

    Args:
        others, unknown: as in `gpu_processes.OtherProcesses`, while a process of ours holds memory there.
        before_mib: memory in use before our process started; None means unknown.
    """
    if others:
        raise Failed(others)
    if unknown:
        raise LeftOut(f"it cannot be determined whether a run is alone: {unknown}")
    used = "" if before_mib is None else f"; {before_mib:.0f} MiB in use without us"
    return f"the driver names only our process{used}"


def judge_clock(device_s: float, host_s: float, cycles: int, submitted_s: float) -> str:
    """Judge a kernel that waits for a number of cycles: both clocks must agree, and submitting it must not block."""
    if device_s <= 0:
        raise Failed(f"according to its events, a kernel of {cycles:,} cycles took no time: the events are wrong")
    if abs(device_s / host_s - 1) > CLOCK:
        raise Failed(f"the device's events give {device_s:.4f} s, but the host's clock gives {host_s:.4f} s")
    if submitted_s > 0.5 * host_s:
        raise Failed(f"submitting a kernel of {host_s:.3f} s took {submitted_s:.3f} s: the host waits for the device")
    both = f"{device_s:.4f} s by events, {host_s:.4f} s by the host"
    return f"{both} ({100 * (device_s / host_s - 1):+.2f} %); {cycles / device_s / 1e6:,.0f} MHz"


def judge_rounding(found: dict[str, dict[str, float]], has_tf32: bool) -> str:
    """Judge the errors of 1 + 2^-12 after a product and a convolution, by profile."""
    if wrong := [kind for kind, error in found["strict"].items() if not error < ROUNDED]:
        raise Failed(f"under strict, {' and '.join(wrong)} round like TF32 (error {max(found['strict'].values()):.1e})")
    largest = max(found["strict"].values())
    if not has_tf32:
        return f"errors up to {largest:.0e}; this device has no TF32"
    if not found["fast"]["matmul"] > ROUNDED:
        raise Failed("under fast, a product is not rounded like TF32, so this check could not detect TF32 under strict")
    return f"errors up to {largest:.0e} under strict, {max(found['fast'].values()):.0e} under fast"


def why_other_bits(once: dict[str, Any], twice: dict[str, Any], resumed: dict[str, Any]) -> str:
    """The problem of three trainings of one network; the last one continued from half of the first."""
    if not once["finite"]:
        return "the weights are not finite"
    if twice["digest"] != once["digest"]:
        return "a second process ends with other bits"
    return "" if resumed["digest"] == once["digest"] else "a resumed training ends with other bits"


def judge_pace(host_s: float, device_s: float, kernels: list[int]) -> tuple[str, str]:
    """The problem of a step (empty if there is none), and its speed as text."""
    if device_s <= 0:
        return "according to its events, a step takes no time", ""
    if len(set(kernels)) > 1:
        return f"steps launch different numbers of kernels: {', '.join(map(str, kernels))}", ""
    counted = f"{kernels[0]} kernels, " if kernels else ""
    bound = ", limited by launches" if host_s > LAUNCH_BOUND * device_s else ""
    return "", f"{counted}{1000 * device_s:.2f} ms, host/device {host_s / device_s:.2f}{bound}"


def judge_failures(wanted: dict[str, str], found: dict[str, tuple[str, str]], said: str, is_gpu: bool) -> str:
    """Judge status and reason of the runs of `faulty`."""
    for model, status in wanted.items():
        got, reason = found.get(model, ("no record", said))
        if got != status:
            raise Failed(f"the status of {model} is {got!r} ({reason}), but it should be {status!r}")
    word = "device-side assert" if is_gpu else "out of bounds"
    if word not in found["doctor-index-outside"][1]:
        raise Failed(f"the reason of an index error does not contain {word!r}: {found['doctor-index-outside'][1]}")
    return f"oom, error ({word}), and the next run ok"


def judge_runs(records: Sequence[RunRecord], names: list[str]) -> str:
    """Judge runs of `RUN_S` device-seconds, one on each device: all must be ok and close to their budget."""
    places, parts = [], []
    for record in sorted(records, key=lambda r: r.spec.seed):
        if record.status != "ok" or record.results is None:
            raise Failed(f"a run of {record.spec.model} has the status {record.status!r}: {record.reason}")
        off = record.results.train_s / RUN_S - 1
        where = record.provenance.hardware.get("device", "")
        if abs(off) > RUN_SHARE:
            took = f"{record.results.train_s:.3f} s instead of {RUN_S} s"
            raise Failed(f"{took} on {where} ({100 * off:+.2f} %, allowed ±1 %)")
        places.append(where)
        parts.append(f"{where} {100 * off:+.2f} %")
    if set(places) != set(names):
        raise Failed(f"the runs were on {', '.join(places)}, not one on each of {', '.join(names)}")
    return f"{RUN_MODEL}, {RUN_S} s: {', '.join(parts)}"


def judge_load(blocks: list[float], flops: float, samples: list[dict[str, Any]]) -> str:
    """Judge the times of equal blocks of work in their order, and the driver's reports during them."""
    if len(blocks) < 6 or min(blocks) <= 0:
        raise Failed(f"only {len(blocks)} blocks of work were timed; the shortest took {min(blocks, default=0):.3f} s")
    third = len(blocks) // 3
    slower = median(blocks[-third:]) / median(blocks[:third]) - 1
    reasons = {reason for s in samples for reason in s["reasons"] or () if reason in SLOWDOWNS}
    spans = []
    for key, unit in (("sm_mhz", "MHz"), ("power_w", "W"), ("temperature_c", "°C")):
        if known := [s[key] for s in samples if s[key] is not None]:
            spans.append(f"{min(known):.0f}–{max(known):.0f} {unit}")
    seen = "; " + (", ".join(spans) or "the driver does not report clock and power")
    if reasons - {POWER_CAP}:
        raise Failed(f"the clock was lowered: {', '.join(sorted(reasons - {POWER_CAP}))}{seen}")
    if slower > SLOWER:
        raise Failed(f"blocks took {100 * slower:.1f} % longer at the end than at the beginning{seen}")
    capped = "; the power cap lowered the clock" if reasons else ""
    trend = f"{100 * slower:+.1f} % time from the first third to the last"
    return f"{flops / median(blocks) / 1e12:.1f} TFLOPS, {trend}{seen}{capped}"
