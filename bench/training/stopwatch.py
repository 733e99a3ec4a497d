"""The worker process of a calibration: it trains as a run does, and reports the device-seconds of its steps."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from typing import TextIO

import torch

from ...datasets.images import data_root, load
from ...registry import MODELS, include
from ...side_files import files_beside
from ..measures.clock import clock_for
from ..measures.execution_profile import begin, check_profile
from ..records.calibration import BLOCK_SECONDS, BLOCK_STEPS, Block
from ..records.provenance import gpu_of
from ..records.record import Status
from ..tools import gpu_driver
from ..tools.gpu_processes import judge
from .job import Events, StepTiming
from .prepare import Loaded, build_from_seed, warm_up
from .run import outcome_of
from .train import BLOCKS, Training, optimizer_for, set_batch_norm, take_loss, timed_steps

#: Length of the schedule in steps. It is so long that only its first, small learning rates are used.
HORIZON = 10**9


def time_block(advance: Callable[[int], float], piece: int) -> Block:
    """Train at least `BLOCK_STEPS` steps and `BLOCK_SECONDS` device-seconds, `piece` steps at a time (by `advance`)."""
    steps, seconds = 0, 0.0
    while steps < BLOCK_STEPS or seconds < BLOCK_SECONDS:
        seconds += advance(piece)
        steps += piece
    return Block(steps=steps, seconds=seconds)


def piece_of(budget_s: float | None, step_s: float) -> int:
    """Number of steps between two readings of the loss: as in a run with this budget, but at most one second.

    After each reading the device is idle until the host sends new work. Short budgets have many readings.
    """
    if budget_s is None:
        return BLOCK_STEPS
    run = math.ceil(max(1.0, budget_s // step_s) / BLOCKS)
    return max(1, min(run, int(1.0 / step_s)))


def measure_on_request(job: StepTiming, events: Events, requests: TextIO) -> None:
    """Measure one block of steps for each line of `requests`; a line names the processes that take turns.

    Sends ``ready`` when everything is loaded, ``block`` for each block, and ``failed`` with status and reason if the
    model cannot be trained.
    """

    def go() -> tuple[Status, str]:
        _measure(job, events, requests)
        return "ok", ""

    status, reason = outcome_of(go, job.spec.model)
    if status != "ok":
        events.send("failed", status=status, reason=reason)


def _measure(job: StepTiming, events: Events, requests: TextIO) -> None:
    include(job.include)
    spec, device = job.spec, begin(job.device, job.spec.profile, job.threads)
    data = load(spec.dataset, data_root(job.data_root))
    loaded = Loaded(data, spec, device)
    twin, model = (build_from_seed(spec, data, device) for _ in range(2))
    optimizer, clock, done = optimizer_for(model, spec.recipe), clock_for(job.device), Training()
    set_batch_norm(model, spec.recipe.batch_norm_momentum)
    model.train()
    gpu = gpu_of(job.device)

    def advance(steps: int) -> float:
        before, border = done.device_s, done.steps + steps
        timed_steps(model, optimizer, loaded.batches, spec.recipe, HORIZON, clock, spec.profile, done, border)
        take_loss(done)
        return done.device_s - before

    def others(partners: list[int]) -> str:
        if device.type != "cuda":
            return ""
        there, used = gpu_driver.processes_on(gpu), gpu_driver.memory_used_mib(gpu)
        return judge(there, os.getpid(), used, job.before_mib, partners=partners).others

    built = MODELS.find(spec.model)
    events.send("ready", opened=files_beside(built.files, built.opened, (data_root(job.data_root),)))
    for line in requests:
        partners = json.loads(line)["processes"]
        # As before the training of a run. Since the last block, the device was idle or trained another model.
        step_s = warm_up(twin, loaded, spec)
        found = others(partners)
        block = time_block(advance, piece_of(spec.budget.seconds, step_s))
        check_profile()
        found = found or others(partners)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the next model needs the memory
        if found:
            events.send("company", reason=found)
        else:
            events.send("block", steps=block.steps, seconds=block.seconds, gpu=gpu)
