"""Every refusal before a run: what was asked for cannot be made here, or would be no fair figure."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ...registry import DATASETS, MODELS, UserError, include
from ..records.provenance import query_devices, query_hardware_key
from ..records.record import RunRecord
from ..records.size_classes import counts_of, refuse_unmatched
from ..records.staleness import staleness
from ..spec.budget import find_budget
from ..spec.recipe import COMMON, TUNED, Recipe, is_tuned, named_recipes
from ..spec.suite import PROTOCOL, Suite, check_names, refuse_sizes
from ..tools.gpus import Gpus, refuse_for_seconds, refuse_modes, unused_gpu_warning
from ..tools.machine import Machine
from ..tools.text import follow_up_command
from ..training.job import Probe
from .local import end, events_of, start

#: Why there is no GPU where nobody can say it.
_DIED = "the process that looks for GPUs ended before it had an answer"


def refuse_names(suite: Suite, machine: Machine) -> None:
    """See that all names of a suite are registered, with the files that are included.

    Raises:
        UserError: one is not, or is not for the images of the data set.
    """
    include(machine.files)
    check_names(suite)


def counts_seconds(budget: str) -> bool:
    """Whether a budget counts device-seconds."""
    return find_budget(budget).kind == "T"


def refuse_cpu(budget: str, device: str, instead: str = "--device cuda") -> None:
    """See that device-seconds are those of a GPU.

    Args:
        device: as torch names it.
        instead: the option that would be right.

    Raises:
        UserError: they are not.
    """
    if device == "cpu" and counts_seconds(budget):
        raise UserError(
            f"budget {budget!r} counts device-seconds, which on a CPU depend on whatever else the machine does; use an"
            f" E budget there (--budget e5), or {instead}"
        )


def refuse_sharing(budget: str, runs: int) -> None:
    """See that no more than one of `runs` at a time is on a device whose seconds are counted.

    Raises:
        UserError: there are more.
    """
    if runs > 1 and counts_seconds(budget):
        raise UserError(
            f"budget {budget!r} counts device-seconds, which runs on one device take from each other: one run a GPU"
            " there, without --seeds-in-parallel, and on a CPU no more --jobs than cores; or use an E budget"
            " (--budget e20)"
        )


def refuse_uncalibrated(budget: str, missing: list[str]) -> None:
    """See that the machines of a shared suite train the same steps.

    Args:
        missing: models whose step is not calibrated in the results folder.

    Raises:
        UserError: there are any.
    """
    if missing:
        raise UserError(
            f"budget {budget!r} counts device-seconds, and shards must train the same steps, but the step of"
            f" {', '.join(missing[:5])} is not calibrated here; run one seed of the suite on one machine, export its"
            " board, and merge that into the results folder of each shard"
        )


def one_kind(devices: Iterable[str]) -> tuple[str, dict[str, str]]:
    """The hardware key that devices share, and their UUIDs: steps that one kind needs seconds for are others on
    another.

    Raises:
        UserError: they are of several kinds, or seconds of one of them are no equal budget.
    """
    found = query_devices(list(dict.fromkeys(devices)))
    keys = {device: key for device, (key, _) in found.items()}
    if len(set(keys.values())) > 1:
        shown = "; ".join(f"{device} is {key!r}" for device, key in keys.items())
        raise UserError(
            f"a board of device-seconds belongs to one kind of device: {shown}; name devices of one kind with --device"
        )
    for device, (_, gpu) in found.items():
        refuse_for_seconds(device, gpu)
    return next(iter(keys.values())), {device: gpu for device, (_, gpu) in found.items()}


@dataclass(frozen=True)
class Admitted:
    """What a look at models and devices came to.

    Attributes:
        slots: a device for every process at a time.
        work: FLOPs of an image in each model, as far as they are known.
        note: what a user must know of the devices; empty if nothing.
    """

    slots: list[str]
    work: dict[str, float]
    note: str


def looked_at(
    models: list[str], dataset: str, files: list[str], meanwhile: Callable[[], object] = lambda: None
) -> list[dict[str, Any]]:
    """What `training.probe` says of models and devices.

    Args:
        files: that register them.
        meanwhile: what is done here while its process is busy.
    """
    fields = DATASETS.find(dataset).entry.fields
    channels, size = fields["shape"][:2]
    probe = Probe(models=models, channels=channels, size=size, classes=fields["classes"], include=files)
    process = start(probe, subprocess.DEVNULL)
    try:
        meanwhile()
        return list(events_of(process))
    finally:
        end(process)


def admit(suite: Suite, machine: Machine, events: list[dict[str, Any]]) -> Admitted:
    """Where the runs of a suite may go, by what a probe of its models has seen.

    Raises:
        UserError: a device is not there or may not be used so, or a model is not what the suite admits.
    """
    here = next((Gpus(**e["gpus"]) for e in events if e["event"] == "devices"), Gpus(why=_DIED, expected=True))
    slots = machine.slots(len(here.uuids), here.why)
    refuse_modes(slots, here)
    note = unused_gpu_warning(here, machine.device, slots)
    if note and counts_seconds(suite.budget):
        raise UserError(
            f"budget {suite.budget!r} counts device-seconds of a GPU, and torch cannot use the one here: {here.why}"
        )
    refuse_cpu(suite.budget, slots[0])
    refuse_sharing(suite.budget, machine.sharing(slots))
    seen = [e for e in events if e["event"] == "model"]
    why = {
        e["model"]: f"cannot be built for them ({e['error']}), but for {e['builds_at']} pixels it can"
        for e in seen
        if "builds_at" in e
    }
    refuse_sizes(suite.dataset, DATASETS.find(suite.dataset).entry.fields["shape"][1], why)
    for event in seen:
        if "refused" in event:
            raise UserError(f"model {event['model']!r} cannot be built: {event['refused']}")
        if "wrong_shape" in event:
            raise UserError(f"model {event['model']!r} breaks its contract: {event['wrong_shape']}")
        refuse_unmatched(suite, event["model"], **counts_of(event))
    return Admitted(slots, {e["model"]: float(e.get("flops", 0.0)) for e in seen}, note)


def refuse_declared(suite: Suite) -> None:
    """See that no model is declared to lie outside a matched class.

    Raises:
        UserError: one is.
    """
    for model in suite.models:
        refuse_unmatched(suite, model, **counts_of({"parameters": declared_parameters(model, suite.dataset)}))


def declared_parameters(model: str, dataset: str) -> int | None:
    """Parameters of a model for the images of a data set as its registration says them, if it does."""
    fields = DATASETS.find(dataset).entry.fields
    channels, height, width = fields["shape"]
    found = MODELS.find(model)
    declared = {} if found.wrappers else found.get("params") or {}
    count = declared.get(f"{channels}x{height}x{width}->{fields['classes']}")
    return None if count is None else int(count)


def base_recipe(suite: Suite) -> Recipe:
    """The recipe whose rate is tuned, the same for every model.

    Raises:
        UserError: the suite's recipe has no rate that could be tuned.
    """
    name = COMMON + suite.recipe.removeprefix(TUNED) if is_tuned(suite.recipe) else suite.recipe
    if not name.startswith(COMMON) or name not in named_recipes():
        raise UserError(f"recipe {suite.recipe!r} is not tuned: only {COMMON!r} and its variants are, give --recipe")
    return named_recipes()[name]


def refuse_tuning(suite: Suite) -> None:
    """See that a data set has images by which a rate can be chosen.

    Raises:
        UserError: it has none, or they are trained on.
    """
    if suite.fit != "train":
        raise UserError("tuning needs validation images that are not trained on; give --fit train")
    if DATASETS.find(suite.dataset).entry.fields["sizes"][1] == 0:
        raise UserError(f"data set {suite.dataset!r} has no validation images, by which a rate could be chosen")


def refuse_joining(record: RunRecord, device: str) -> None:
    """See that new runs can join the board of a record, before anything is calibrated or trained.

    Raises:
        UserError: they cannot.
    """
    spec = record.spec
    if spec.is_trial:
        tune = follow_up_command("tune", record.context.suite)
        raise UserError(f"board {spec.board} holds trials of learning rates; {tune} makes them")
    if spec.protocol != PROTOCOL:
        raise UserError(
            f"board {spec.board} is of protocol {spec.protocol}; runs are now made under protocol {PROTOCOL}"
        )
    if spec.hardware_key is not None:
        here = query_hardware_key("cuda:0" if device in ("auto", "cuda") else device.split(",")[0])
        if here != spec.hardware_key:
            raise UserError(f"board {spec.board} belongs to {spec.hardware_key!r}; here is {here!r}")


def refuse_replay(record: RunRecord) -> None:
    """See that a run made now would measure what a record has measured.

    Raises:
        UserError: it has no result, or is stale.
    """
    if record.status != "ok":
        raise UserError(f"run {record.run_id} ended as {record.status!r}; only a finished run can be replayed")
    stale = staleness(record) or ("" if record.spec.protocol == PROTOCOL else f"protocol (now {PROTOCOL})")
    if stale:
        raise UserError(f"run {record.run_id} is stale: {stale} changed since; a replay would measure something else")
