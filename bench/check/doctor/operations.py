"""The operations of the doctor's processes on a device: one function per request, with a JSON-compatible result."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TextIO

import torch
from torch import nn

from ....datasets.images import data_root, load
from ...measures.accuracy import logits
from ...measures.clock import clock_for
from ...measures.execution_profile import begin, set_profile
from ...records.provenance import hardware, versions
from ...spec.seeds import derive
from ...spec.suite import RunSpec, find_suite, plan
from ...tools.gpu_driver import load_of, memory_used_mib, processes_on, uuid_of
from ...tools.gpu_processes import judge
from ...tools.gpus import usable_gpus
from ...tools.text import error_line, first_line
from ...training.checkpoint import put_back, state_of
from ...training.job import Events, Examination
from ...training.prepare import Loaded, build_from_seed, tensors_of, weights_digest
from ...training.train import Training, optimizer_for, train, train_step

#: Side of the matrices of the load, on a GPU and on a CPU.
LOAD_SIDE = {"cuda": 8192, "cpu": 512}


class Device:
    """The device of this process, with the state that its requests share."""

    def __init__(self, job: Examination) -> None:
        self.name, self.device, self.data_root = job.device, torch.device(job.device), job.data_root

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Wait until the device has finished all work."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def prepared(self, model: str, steps: int, batch: int | None) -> tuple[RunSpec, Loaded, nn.Module]:
        """Spec, data and a new network of a run on the embedded digits."""
        suite = find_suite("smoke").model_copy(update={"models": [model], "reference_model": None})
        spec = plan(suite)[0]
        recipe = spec.recipe if batch is None else spec.recipe.model_copy(update={"batch": batch})
        spec = spec.model_copy(update={"steps": steps, "recipe": recipe})
        loaded = Loaded(load(spec.dataset, data_root(self.data_root)), spec, self.device)
        network = build_from_seed(spec, loaded.data, self.device)
        torch.manual_seed(derive(spec.seed, "training"))
        return spec, loaded, network


def serve(job: Examination, events: Events, requests: TextIO) -> None:
    """Answer the requests on standard input until it closes. An exception is an answer too."""
    begin(job.device, "strict", job.threads)
    here = Device(job)
    for line in requests:
        arguments = json.loads(line)
        try:
            answer = OPERATIONS[arguments.pop("do")](here, **arguments)
        except Exception as error:  # a broken device may raise anything; the doctor reports it
            traceback.print_exc()
            events.send("raised", reason=error_line(error))
        else:
            events.send("answer", answer=answer)


def gpus(here: Device) -> dict[str, Any]:
    """See `gpus.usable_gpus`."""
    return usable_gpus().model_dump()


def facts(here: Device) -> dict[str, Any]:
    """Hardware and versions as in records, all devices with their UUID, and the GPUs that this torch is built for."""
    found: dict[str, Any] = {"hardware": hardware(here.name), "versions": versions(), "torch": torch.__version__}
    found |= {"devices": usable_gpus().uuids, "uuid": ""}
    if here.is_gpu:
        found["uuid"] = uuid_of(here.name)
        found["capability"] = list(torch.cuda.get_device_capability(here.device))
        found["built_for"] = torch.cuda.get_arch_list()
        found["current"] = torch.cuda.current_device()
    ones = torch.ones(64, 64, device=here.device)
    found["product"] = float((ones @ ones).mean())
    return found


def other_processes(here: Device, before_mib: float | None = None) -> dict[str, Any]:
    """The result of `gpu_processes.judge` while this process holds memory, and the GPUs where the driver lists it.

    Args:
        before_mib: memory in use there before this process began; None means unknown.
    """
    uuid = uuid_of(here.name)
    held = torch.ones(1 << 20, device=here.device)
    here.wait()
    seen = {name: processes_on(name) for name in (uuid_of(f"cuda:{i}") for i in range(torch.cuda.device_count()))}
    found = judge(seen[uuid], os.getpid(), memory_used_mib(uuid), before_mib)
    del held
    named = [name for name, processes in seen.items() if any(p.pid == os.getpid() for p in processes or ())]
    unread = [name for name, processes in seen.items() if processes is None]
    return {"uuid": uuid, "named_on": named, "gpus": len(seen), "unread": unread, **asdict(found)}


def clock(here: Device, seconds: float) -> dict[str, Any]:
    """A kernel that waits for a number of cycles, about `seconds`: its time by the device's and by the host's clock."""
    device_clock = clock_for(here.name)
    cycles = 20_000_000
    for _ in range(3):  # the first one raises the clock rate
        start = device_clock.mark()
        torch.cuda._sleep(cycles)
        took = device_clock.seconds(start, device_clock.mark())
    cycles = int(cycles * min(seconds / max(took, 1e-6), 1000))
    here.wait()
    begun, start = time.perf_counter(), device_clock.mark()
    torch.cuda._sleep(cycles)
    end = device_clock.mark()
    submitted = time.perf_counter() - begun
    device_s = device_clock.seconds(start, end)
    return {"device_s": device_s, "host_s": time.perf_counter() - begun, "submitted_s": submitted, "cycles": cycles}


def rounding(here: Device) -> dict[str, Any]:
    """Errors of 1 + 2^-12 (TF32 rounds it to 1) after a product and a convolution with one, in each profile."""
    found = {}
    value = 1 + 2.0**-12
    for profile in ("strict", "fast"):
        set_profile(profile, 1)
        one = torch.eye(256, device=here.device)
        product = torch.full((256, 256), value, device=here.device) @ one
        images = torch.full((16, 64, 32, 32), value, device=here.device)
        same = torch.zeros(64, 64, 3, 3, device=here.device)
        same[range(64), range(64), 1, 1] = 1.0
        mapped = nn.functional.conv2d(images, same, padding=1)
        found[profile] = {"matmul": float((product - value).abs().max()), "conv": float((mapped - value).abs().max())}
    set_profile("strict", 1)
    return found


def waits(here: Device, model: str, steps: int, batch: int | None = None) -> dict[str, Any]:
    """Operations that wait for the device within training steps, as torch reports them; empty if there are none."""
    spec, loaded, network = here.prepared(model, steps + 1, batch)
    optimizer = optimizer_for(network.train(), spec.recipe)
    # Tables and the order of the epoch are copied to the device once, before the steps.
    train_step(network, optimizer, *loaded.batches(0), spec.profile)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(1, steps + 1):
            train_step(network, optimizer, *loaded.batches(step), spec.profile)
    except RuntimeError as error:
        return {"wait": first_line(error)}
    finally:
        torch.cuda.set_sync_debug_mode("default")
    here.wait()
    return {"wait": ""}


class _Halfway:
    """A keeper that writes the state after some steps, or starts from a written state."""

    def __init__(self, keep: str | None, at: int, begin: str | None) -> None:
        self._keep, self._at, self._begin = keep, at, begin

    def due(self) -> bool:
        return self._keep is not None

    def keep(self, model: nn.Module, optimizer: torch.optim.Optimizer | None, done: Training) -> None:
        if self._keep is not None and done.steps == self._at and optimizer is not None:
            torch.save({"tensors": state_of(model, optimizer, done), "steps": done.steps}, self._keep)

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Training:
        if self._begin is None:
            return Training()
        saved = torch.load(self._begin, map_location="cpu", weights_only=True)
        return Training(saved["steps"], losses=put_back(saved["tensors"], model, optimizer))


def train_bits(
    here: Device, model: str, steps: int, batch: int | None = None, keep: str | None = None, begin: str | None = None
) -> dict[str, Any]:
    """Train a fresh network; the digest of its weights.

    Args:
        keep: file for the state after half of the steps.
        begin: such a file; only the second half is trained.
    """
    spec, loaded, network = here.prepared(model, steps, batch)
    keeper = _Halfway(keep, steps // 2, begin)
    train(network, loaded.batches, spec.recipe, steps, clock_for(here.name), spec.profile, keeper=keeper)
    numbers = all(bool(p.isfinite().all()) for p in network.parameters())
    return {"digest": weights_digest(tensors_of(network)), "finite": numbers}


def compare_logits(here: Device, model: str, images: int) -> dict[str, Any]:
    """Logits of a new network on test images, on the device and on the CPU: largest difference and largest logit."""
    _, loaded, network = here.prepared(model, 1, None)
    batch = loaded.balanced_test_images(images)
    there = logits(network, loaded.normalise(batch), lambda x: x).cpu()
    reference = logits(network.cpu(), loaded.normalise(batch).cpu(), lambda x: x)
    return {"difference": float((there - reference).abs().max()), "largest": float(reference.abs().max())}


def pace(here: Device, model: str, steps: int, batch: int | None = None) -> dict[str, Any]:
    """Host time to submit training steps, their device time, and kernels per step (if they can be counted)."""
    spec, loaded, network = here.prepared(model, 3 * steps, batch)
    optimizer, device_clock = optimizer_for(network.train(), spec.recipe), clock_for(here.name)
    count = iter(range(10**9))

    def step() -> None:
        train_step(network, optimizer, *loaded.batches(next(count)), spec.profile)

    for _ in range(steps):
        step()
    here.wait()
    begun, start = time.perf_counter(), device_clock.mark()
    for _ in range(steps):
        step()
    end, host_s = device_clock.mark(), time.perf_counter() - begun
    device_s = device_clock.seconds(start, end)
    return {"host_s": host_s / steps, "device_s": device_s / steps, "kernels": _kernels(here, step)}


def _kernels(here: Device, step: Callable[[], None]) -> list[int]:
    """Kernels of each of three steps, by torch's profiler; empty if it sees none."""
    found = []
    for _ in range(4):  # the first profile may miss what is launched while the profiler starts
        try:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
                step()
                here.wait()
        except RuntimeError:  # many containers forbid profiling
            return []
        on_device = [e for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]  # type: ignore[attr-defined]
        found.append(sum(not e.name.startswith(("Memcpy", "Memset")) for e in on_device))
    return found[1:] if all(found[1:]) else []


def load_on(here: Device, seconds: float, uuid: str) -> dict[str, Any]:
    """Products of large matrices: device-seconds of each block of about a second, and the driver's reports."""
    side, device_clock = LOAD_SIDE[here.device.type], clock_for(here.name)
    a, b = (torch.randn(side, side, device=here.device) / side**0.5 for _ in range(2))
    product = a @ b
    start = device_clock.mark()
    torch.mm(a, b, out=product)
    count = max(1, int(1.0 / max(device_clock.seconds(start, device_clock.mark()), 1e-4)))

    def block() -> tuple[Any, Any]:
        begin = device_clock.mark()
        for _ in range(count):
            torch.mm(a, b, out=product)
        return begin, device_clock.mark()

    blocks, samples, until = [], [], time.monotonic() + seconds
    waiting = block()
    while time.monotonic() < until:
        following = block()  # queued while the driver is asked, so the device is always busy
        if uuid:
            samples.append(asdict(load_of(uuid)))
        blocks.append(device_clock.seconds(*waiting))
        waiting = following
    here.wait()
    return {"blocks": blocks, "samples": samples, "flops": 2 * side**3 * count}


#: The possible requests: functions of `here` and the arguments of the request.
_ALL = (gpus, facts, other_processes, clock, rounding, waits, train_bits, compare_logits, pace, load_on)
OPERATIONS: dict[str, Callable[..., dict[str, Any]]] = {function.__name__: function for function in _ALL}
