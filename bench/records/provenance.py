"""Where a figure comes from: versions, code, hardware."""

from __future__ import annotations

import hashlib
import hmac
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ...beside import files_beside, lines_of
from ...registry import DATASETS, Entry, Resolved, UserError
from ...source import data_hash, libraries, source_hash
from ..tools.schema import Hash, Strict, Text, Time
from ..tools.text import last_line

if TYPE_CHECKING:
    from ...datasets.images import ImageData

_PACKAGE = Path(__file__).resolve().parents[2]
_PACKAGES = ("equibench", "torch", "numpy", "scipy", "escnn", "mlxtend")


#: What some hashes look like, empty if there was nothing to hash.
Sha256 = Annotated[str, Field(pattern="^([0-9a-f]{64})?$")]


class Provenance(Strict):
    """Where the figures come from.

    Attributes:
        source_hash: of the model's source, see `source.source_hash`.
        data_digest: SHA-256 of the data set's arrays; empty where the run ended before they were loaded.
        started: date and time with their zone, ISO 8601.
        versions: of Python, of packages and of the state of this checkout, by name.
        hardware: device, key, host, processor, driver, system; what is not known is left out. ``runs_on_device`` is
            there where several runs shared the GPU, or the cores; ``alone`` where others were looked for, see
            `gpu_processes`.
        threads: of torch on the CPU.
        command: the command line that asked for the run.
        commit: of the checkout of equibench; empty where it is installed without one.
        harness_hash: of the files of this harness, see `harness_hash`.
        origin: package and version, or file, that registers the model; ``equibench`` where it is one of ours.
        registered: what the model was registered with, see `registration`: a board says it even where the
            package or file that registers the model is not at hand.
        opened: files beside the code that the model is made from, and hashes of them, see `beside`; part of
            `source_hash`.
        checked: whether the model's source had passed `equibench check`: ``yes``, ``no`` or ``failed: …``, see
            `kept_verdicts.checked`; empty in records from before it was asked.
        data_source: of what the data set declares, and of `data_opened`, which is to it what `opened` is to the model.
    """

    source_hash: Hash
    data_digest: Sha256
    started: Time
    versions: dict[Text, Text]
    hardware: dict[Text, Text]
    threads: int = Field(ge=1, le=10**6)
    command: Text
    # Records that were written before these fields hold have the defaults; their files stay as they are.
    commit: Annotated[str, Field(pattern="^([0-9a-f]{40,64})?$")] = ""
    harness_hash: Hash = ""
    origin: Text = ""
    registered: dict[Text, Text] = {}
    opened: dict[Text, Hash] = {}
    data_source: Hash = ""
    data_opened: dict[Text, Hash] = {}
    checked: Text = ""

    @property
    def host(self) -> str:
        """See `host_id`; empty where it is unknown, as in records that have the host's name instead."""
        text = self.hardware.get("host", "")
        return text if re.fullmatch("[0-9a-f]{16}", text) else ""

    @classmethod
    def of(
        cls, model: Resolved | None, started: str = "", also: Mapping[str, str] | None = None, **known: Any
    ) -> Provenance:
        """What is known of a figure of this process.

        Args:
            model: None where it is not found: origin and commit are then unknown.
            started: now without.
            also: versions, where they are known already.
            known: all other fields.
        """
        found = versions(libraries(model) if model else ()) if also is None else also
        facts = code_facts(model) if model else {}
        return cls(started=started or right_now(), versions=dict(found), **{"data_digest": "", **facts, **known})


def right_now() -> str:
    """Date and time with their zone, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions(also: Iterable[str] = ()) -> dict[str, str]:
    """Versions of Python and of the packages that a figure can depend on.

    Args:
        also: further packages, as those of `source.libraries`.
    """
    found = {"python": platform.python_version()}
    for name in (*_PACKAGES, *(n for n in also if n != "python")):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def code_facts(model: Resolved) -> dict[str, Any]:
    """``commit``, ``harness_hash``, ``origin`` and ``registered`` of a record's provenance."""
    parts = {_origin(entry): None for entry in (model.entry, *(w.entry for w in model.wrappers))}
    facts = {"commit": _commit(_PACKAGE), "harness_hash": harness_hash(), "origin": ", ".join(parts)}
    return {**facts, "registered": registration(model)}


def made_from(model: Resolved, dataset: str, data: ImageData | None, leave_out: Iterable[Path]) -> dict[str, Any]:
    """What a record's provenance says of the files of a model that this process built, and of its data.

    Args:
        data: None if they were not loaded.
        leave_out: folders of results and of data sets.
    """
    opened = files_beside(model.files, model.opened, leave_out)
    facts: dict[str, Any] = {"source_hash": source_hash(model, lines_of(opened)), "opened": opened}
    if data is None:
        return facts
    made = data_hash(DATASETS.find(dataset).entry, lines_of(data.opened))
    return {**facts, "data_source": made, "data_opened": dict(data.opened)}


def machine_of(hardware: Mapping[str, str]) -> str:
    """What computed a run, of a record's `hardware`: the GPU with its key, else the processor."""
    return hardware.get("hardware_key" if hardware.get("device", "").startswith("cuda") else "cpu", "")


def registration(model: Resolved) -> dict[str, str]:
    """What a board says of a model beside its figures: family, group, invariant, source, evaluation, and treatments
    of its own.
    """
    facts = {key: str(model.get(key)) for key in REGISTERED[:-1]}
    return {**facts, REGISTERED[-1]: ", ".join(model.treatments)}


#: Keys of `registration`, which are names of a board's columns.
REGISTERED = ("family", "group", "invariant", "source", "evaluation", "treatment")


@cache
def harness_hash() -> str:
    """Hash of all that measures: the files of ``bench`` and ``datasets``, and the registry, byte for byte.

    Unlike the hash of a model's source it makes nothing stale: the protocol's number does. It tells which files
    measured where the commit alone does not, because the checkout had changes, or because there is none.
    """
    folders = (_PACKAGE / "bench", _PACKAGE / "datasets")
    files = [p for folder in folders for kind in ("*.py", "*.toml") for p in folder.rglob(kind)]
    digest = hashlib.sha256()
    files += [_PACKAGE / f"{name}.py" for name in ("registry", "scan", "source", "opened", "beside")]
    for path in sorted(files):
        digest.update(f"{path.relative_to(_PACKAGE).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _origin(entry: Entry) -> str:
    if not entry.is_plugin:
        return "equibench" if entry.origin == "equibench" else entry.path.name
    points = importlib.metadata.entry_points(group="equibench.models")
    found = (p.dist for p in points if p.module == entry.module and p.dist is not None)
    package = next(found, None)
    return f"{package.name} {package.version}" if package is not None else entry.origin


def _commit(checkout: Path) -> str:
    """Commit of a checkout, read from git's files; empty if there is none.

    Git itself is not asked: it would take a tenth of a second of every run, and may be told to run other programs.
    """
    try:
        folder = checkout / ".git"
        if folder.is_file():  # a worktree: the file says where its folder is
            folder = checkout / folder.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        head = (folder / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return _hexadecimal(head)
        name = head.removeprefix("ref: ")
        shared = folder / "commondir"
        common = folder / shared.read_text(encoding="utf-8").strip() if shared.is_file() else folder
        if (common / name).is_file():
            return _hexadecimal((common / name).read_text(encoding="utf-8").strip())
        packed = (common / "packed-refs").read_text(encoding="utf-8").splitlines()
        return next((_hexadecimal(line.split(" ")[0]) for line in packed if line.endswith(f" {name}")), "")
    except (OSError, ValueError):
        return ""


def _hexadecimal(text: str) -> str:
    return text if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text) else ""


def cpu_name() -> str:
    """Model of the processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        if names:
            return names[0]
    except OSError:
        pass
    return platform.processor() or platform.machine()


def hardware(device: str) -> dict[str, str]:
    """Device, its key, and what is recorded beside the key.

    The hardware key holds what a T board must agree on: GPU name, memory, torch and CUDA major.minor. All of it is
    known to a process that uses the GPU at all, so that the key is always the same. What the driver is asked may fail
    to come, so driver and power limit stand beside the key. On a CPU the key names the processor.
    """
    import torch

    torch_version = ".".join(torch.__version__.split("+")[0].split(".")[:2])
    known = {**host_facts(device), "instructions": torch.backends.cpu.get_cpu_capability()}
    if not device.startswith("cuda"):
        return {**known, "hardware_key": f"{cpu_name()}; torch {torch_version}"}
    properties = torch.cuda.get_device_properties(device)
    cuda = ".".join((torch.version.cuda or "?").split(".")[:2])
    key = f"{properties.name}; {round(properties.total_memory / 2**30)} GiB; torch {torch_version}; CUDA {cuda}"
    known |= {
        "cuda": torch.version.cuda or "unknown",
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        **_driver_facts(device),
    }
    return {**known, "hardware_key": key}


@cache
def _driver_facts(device: str) -> dict[str, str]:
    """What the driver says of a GPU, asked once per process."""
    from ..tools.driver import driver_version, find_gpu

    uuid = gpu_of(device)
    gpu = find_gpu(uuid)
    limit = gpu.power_limit_w if gpu is not None else None
    known = {"gpu": uuid, "driver": driver_version() or "unknown"}
    return {**known, POWER_LIMIT: "unknown" if limit is None else f"{limit:.0f} W"}


#: Under these names `Provenance.hardware` says the GPU's power limit, and whether the run was alone on its GPU.
POWER_LIMIT, ALONE = "power_limit", "alone"
#: Under this name `Provenance.hardware` says how many runs at a time shared the device, where there was more than one.
SHARED = "runs_on_device"


def shared(runs: int) -> dict[str, str]:
    """What is recorded of a device that several runs share."""
    return {SHARED: str(runs)} if runs > 1 else {}


def host_facts(device: str) -> dict[str, str]:
    """What is known of the host without torch: see `host_id`; processor, cores that we may use, memory and system."""
    known = {"device": device, "cpu": cpu_name(), "cores": str(os.cpu_count())}
    if host := host_id():
        known["host"] = host
    if hasattr(os, "sched_getaffinity"):
        known["usable_cores"] = str(len(os.sched_getaffinity(0)))
    with suppress(ValueError, OSError):  # a system without these
        known["memory_gib"] = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f}"
    if "SLURM_JOB_ID" in os.environ:  # the scheduler's logs know it by this number
        known["slurm_job"] = os.environ["SLURM_JOB_ID"]
    return {**known, "system": platform.platform()}


#: Files with the random number that an installation of Linux keeps; 32 hexadecimal digits, see machine-id(5).
_MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))


def host_id() -> str:
    """What tells this machine from others and says nothing else of it: 16 hexadecimal digits; empty if nothing does.

    It is a keyed hash of the machine's random id, which machine-id(5) asks of whoever shows it, else of
    ``EQUIBENCH_HOST``: in containers there may be no id, or one that belongs to the image. Neither name nor address of
    the machine enters, so that nobody can try likely ones.
    """
    secret = os.environ.get("EQUIBENCH_HOST", "")
    for path in () if secret else _MACHINE_IDS:
        with suppress(OSError, ValueError):
            text = path.read_text(encoding="ascii").strip()
            secret = secret or (text if re.fullmatch("[0-9a-f]{32}", text) else "")
    return hmac.new(secret.encode(), b"equibench: hosts, 1", hashlib.sha256).hexdigest()[:16] if secret else ""


def gpu_of(device: str) -> str:
    """The UUID of a GPU; empty for a processor."""
    from ..tools.driver import uuid_of

    return uuid_of(device) if device.startswith("cuda") else ""


def hardware_key_elsewhere(device: str) -> str:
    """The hardware key of a device, asked of another process, so that this one stays free of torch."""
    return devices_elsewhere([device])[device][0]


def devices_elsewhere(devices: list[str]) -> dict[str, tuple[str, str]]:
    """The hardware key and UUID of each device, asked of another process, so that this one stays free of torch.

    Raises:
        UserError: torch cannot use one of them; by its own explanation.
    """
    import json
    import subprocess
    import sys

    told = "{d: (hardware(d)['hardware_key'], gpu_of(d)) for d in " + repr(devices) + "}"
    code = f"import json; from equibench.bench.records.provenance import gpu_of, hardware; print(json.dumps({told}))"
    # -P: files of the current folder stand in for no module.
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    if done.returncode:
        said = last_line(done.stderr) or "it says nothing"
        raise UserError(f"torch cannot use {' and '.join(devices)} here: {said}; use --device cpu, or another machine")
    return {device: (key, gpu) for device, (key, gpu) in json.loads(done.stdout).items()}
