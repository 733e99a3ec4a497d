"""All checks before a run. They refuse what cannot be run here, or would not give a fair figure, by a `UserError`."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from ...registry import DATASETS, MODELS, UserError, include, option
from ..records.provenance import query_devices, query_hardware_key
from ..records.record import RunRecord
from ..records.size_classes import refuse_unmatched
from ..records.staleness import staleness
from ..spec.accepted_sizes import refuse_sizes
from ..spec.budget import find_budget
from ..spec.recipe import COMMON, TUNED, Recipe, is_tuned, named_recipes
from ..spec.suite import PROTOCOL, RunSpec, Suite, check_names
from ..tools.gpus import Gpus, refuse_for_seconds, refuse_modes, unused_gpu_warning
from ..tools.machine import Machine, device_names
from ..tools.text import follow_up_command
from ..training.job import Probe
from .local import end, events_of, start


def refuse_names(suite: Suite, machine: Machine) -> None:
    """Include the files that register models and data sets, and check all names of a suite (see `check_names`)."""
    include(machine.files)
    check_names(suite)


def counts_seconds(budget: str) -> bool:
    """Whether a budget is one of device-seconds (T budget)."""
    return find_budget(budget).kind == "T"


def refuse_cpu(budget: str, device: str, instead: str = "") -> None:
    """Refuse budgets of device-seconds on a CPU; the message recommends the option `instead`, by default a GPU."""
    if "cpu" in device_names(device) and counts_seconds(budget):
        raise UserError(
            f"budget {budget!r} counts device-seconds, which on a CPU depend on the other programs that run; use an"
            f" E budget ({option('budget', 'e5')}), or {instead or option('device', 'cuda')}"
        )


def refuse_sharing(budget: str, runs: int) -> None:
    """Refuse several `runs` at a time on one device if the budget counts its seconds."""
    if runs > 1 and counts_seconds(budget):
        raise UserError(
            f"budget {budget!r} counts device-seconds, and runs on one device slow each other down: use one run per GPU"
            f" without {option('seeds-in-parallel')}, and on a CPU no more {option('jobs')} than cores; or use an"
            f" E budget ({option('budget', 'e20')})"
        )


def common_hardware_key(devices: Iterable[str]) -> tuple[str, dict[str, str]]:
    """The common hardware key of devices, and their UUIDs. Refuses devices that are not fit for device-seconds."""
    found = query_devices(list(dict.fromkeys(devices)))
    keys = {device: key for device, (key, _) in found.items()}
    if len(set(keys.values())) > 1:
        shown = "; ".join(f"{device} is {key!r}" for device, key in keys.items())
        raise UserError(
            f"a board of device-seconds needs devices of one kind: {shown}; choose devices of one kind with"
            f" {option('device')}"
        )
    gpus = {device: gpu for device, (_, gpu) in found.items()}
    for device, gpu in gpus.items():
        refuse_for_seconds(device, gpu)
    return next(iter(keys.values())), gpus


def probe_models(
    models: list[str],
    dataset: str,
    files: list[str],
    meanwhile: Callable[[], object] = lambda: None,
    check_devices: Callable[[list[dict[str, Any]]], object] | None = None,
) -> list[dict[str, Any]]:
    """Run `training.probe` in a process of its own, and `meanwhile` here; returns the events of the process.

    Args:
        check_devices: gets the first event, which is about the devices, before `meanwhile` begins.
    """
    fields = DATASETS.find(dataset).entry.fields
    channels, size = fields["shape"][:2]
    probe = Probe(models=models, channels=channels, size=size, classes=fields["classes"], include=files)
    process = start(probe, subprocess.DEVNULL)
    try:
        events = events_of(process)
        first = list(islice(events, 1)) if check_devices else []
        if check_devices:
            check_devices(first)
        meanwhile()
        return [*first, *events]
    finally:
        end(process)


def needs_gpus(suite: Suite, machine: Machine) -> bool:
    """Whether runs of a suite must be on a GPU. Then torch is asked for GPUs first: it may lack one of the driver's."""
    names = device_names(machine.device)
    return counts_seconds(suite.budget) if names == ["auto"] else any(name != "cpu" for name in names)


def admit_devices(suite: Suite, machine: Machine, events: list[dict[str, Any]]) -> tuple[list[str], str]:
    """Decide from the events of a probe on which devices the runs of a suite may go.

    Returns the device of each process that may run at the same time, and a note for the user, which may be empty.
    """
    unknown = Gpus(why="the process that looks for GPUs ended without an answer", expected=True)
    here = next((Gpus(**e["gpus"]) for e in events if e["event"] == "devices"), unknown)
    slots = machine.slots(len(here.uuids), here.why)
    refuse_modes(slots, here)
    note = unused_gpu_warning(here, machine.device, slots)
    if note and counts_seconds(suite.budget):
        raise UserError(
            f"budget {suite.budget!r} counts device-seconds of a GPU, and torch cannot use the one here: {here.why}"
        )
    refuse_cpu(suite.budget, slots[0])
    refuse_sharing(suite.budget, machine.sharing(slots))
    return slots, note


def admit_models(suite: Suite, events: list[dict[str, Any]]) -> dict[str, float]:
    """Refuse unsuitable models by the events of a probe; returns the FLOPs per image of each model, if known."""
    seen = [e for e in events if e["event"] == "model"]
    why = {
        e["model"]: f"cannot be built for this size ({e['error']}), but can be built for {e['builds_at']} pixels"
        for e in seen
        if "builds_at" in e
    }
    refuse_sizes(suite.dataset, DATASETS.find(suite.dataset).entry.fields["shape"][1], why)
    for event in seen:
        if "refused" in event:
            raise UserError(f"model {event['model']!r} cannot be built: {event['refused']}")
        if "wrong_shape" in event:
            raise UserError(f"model {event['model']!r} breaks its contract: {event['wrong_shape']}")
        refuse_unmatched(suite, event["model"], event)
    return {e["model"]: float(e.get("flops", 0.0)) for e in seen}


def refuse_declared(suite: Suite) -> None:
    """Refuse models whose declared number of parameters is outside the matched class of a suite."""
    fields = DATASETS.find(suite.dataset).entry.fields
    inputs = f"{'x'.join(map(str, fields['shape']))}->{fields['classes']}"
    for model in suite.models:
        found = MODELS.find(model)
        declared = {} if found.wrappers else found.get("params") or {}
        refuse_unmatched(suite, model, {"parameters": declared.get(inputs)})


def base_recipe(suite: Suite) -> Recipe:
    """The recipe whose rate is tuned, the same for every model. Refuses a suite whose recipe cannot be tuned."""
    name = COMMON + suite.recipe.removeprefix(TUNED) if is_tuned(suite.recipe) else suite.recipe
    if not name.startswith(COMMON) or name not in named_recipes():
        raise UserError(f"recipe {suite.recipe!r} cannot be tuned, only {COMMON!r} and its variants can; use --recipe")
    return named_recipes()[name]


def refuse_tuning(suite: Suite) -> None:
    """Refuse to tune without separate validation images."""
    if suite.fit != "train":
        why = "tuning needs validation images that are not used for training"
        raise UserError(f'{why}; write fit = "train" into the suite file')
    if DATASETS.find(suite.dataset).entry.fields["sizes"][1] == 0:
        raise UserError(f"data set {suite.dataset!r} has no validation images, so no learning rate can be chosen")


def refuse_joining(record: RunRecord, device: str) -> None:
    """Refuse new runs that cannot join the board of a record: that of trials, another protocol or kind of device."""
    spec = record.spec
    if spec.is_trial:
        tune = follow_up_command("tune", record.context.suite)
        raise UserError(f"board {spec.board} holds trials of learning rates; run them with {tune}")
    if spec.protocol != PROTOCOL:
        raise UserError(f"board {spec.board} is of protocol {spec.protocol}, but new runs have protocol {PROTOCOL}")
    first = device_names(device)[0]
    refuse_other_kind(spec, "cuda:0" if first in ("auto", "cuda") else first)


def refuse_other_kind(spec: RunSpec, device: str) -> None:
    """Refuse a device of another kind than that of a T board: there, its steps take another time than its budget."""
    if spec.hardware_key is not None and (here := query_hardware_key(device)) != spec.hardware_key:
        raise UserError(f"board {spec.board} belongs to {spec.hardware_key!r}, but this device is {here!r}")


def refuse_replay(record: RunRecord) -> None:
    """Refuse to replay a record without a result, or one whose source, data, recipe or protocol has changed."""
    if record.status != "ok":
        raise UserError(f"run {record.run_id} ended as {record.status!r}; only a finished run can be replayed")
    stale = staleness(record) or ("" if record.spec.protocol == PROTOCOL else f"protocol (now {PROTOCOL})")
    if stale:
        raise UserError(f"run {record.run_id} is stale: {stale} changed since; a replay would be a different run")
