"""The provenance of measured values: versions, code, hardware."""

from __future__ import annotations

import hashlib
import hmac
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ...registry import DATASETS, Entry, Resolved, UserError, option
from ...side_files import files_beside, lines_of
from ...source import data_hash, libraries, source_hash
from ..tools.schema import Hash, Strict, Text, Time
from ..tools.text import last_line

if TYPE_CHECKING:
    from ...datasets.images import ImageData

_PACKAGE = Path(__file__).resolve().parents[2]
_PACKAGES = ("equibench", "torch", "numpy", "scipy", "escnn", "mlxtend")


#: A SHA-256 in hexadecimal digits; empty if there was nothing to hash.
Sha256 = Annotated[str, Field(pattern="^([0-9a-f]{64})?$")]


class Provenance(Strict):
    """The origin of the values in a record.

    Attributes:
        source_hash: hash of the model's source, see `source.source_hash`.
        data_digest: SHA-256 of the data set's arrays; empty if the run ended before they were loaded.
        started: date and time with their zone, ISO 8601.
        versions: versions of Python and of packages, by name.
        hardware: device, key, host, processor, driver, system; unknown facts are left out. ``runs_on_device`` exists if
            several runs shared the GPU or the cores; ``alone`` exists if the GPU was searched for other processes, see
            `gpu_processes`; ``waited`` exists if the training waited for a processor, see `waiting_fact`.
        threads: number of torch's threads on the CPU.
        command: the command line that started the run.
        commit: commit of the checkout of equibench; empty if equibench is installed without a checkout.
        harness_hash: hash of the files of this harness, see `harness_hash`.
        origin: package and version, or file, that registers the model; ``equibench`` for models of equibench.
        registered: the registered facts of the model, see `registration`. So a board can show them even if the package
            or file that registers the model is not available.
        opened: side files of the model, with their hashes, see `side_files`; part of `source_hash`.
        checked: whether the model's source had passed `equibench check`: ``yes``, ``no`` or ``failed: …``, see
            `kept_verdicts.kept_verdict`; empty in older records.
        data_source: hash of the registration of the data set and of `data_opened`.
        data_opened: side files of the data set, with their hashes.
    """

    source_hash: Hash
    data_digest: Sha256
    started: Time
    versions: dict[Text, Text]
    hardware: dict[Text, Text]
    threads: int = Field(ge=1, le=10**6)
    command: Text
    # Older records do not have these fields. They get the defaults; their files do not change.
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
        """See `host_id`; empty if it is unknown, such as in records that have the host's name instead."""
        text = self.hardware.get("host", "")
        return text if re.fullmatch("[0-9a-f]{16}", text) else ""

    @classmethod
    def of(
        cls, model: Resolved | None, started: str = "", also: Mapping[str, str] | None = None, **known: Any
    ) -> Provenance:
        """The provenance of a value that this process measures.

        Args:
            model: None if it is not found; origin and commit are then unknown.
            started: the current time if empty.
            also: versions, if they are already known.
            known: all other fields.
        """
        found = versions(libraries(model) if model else ()) if also is None else also
        facts = code_facts(model) if model else {}
        return cls(started=started or timestamp(), versions=dict(found), **{"data_digest": "", **facts, **known})


def timestamp() -> str:
    """Date and time with their zone, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions(also: Iterable[str] = ()) -> dict[str, str]:
    """Versions of Python, of the packages on which measured values can depend, and of further packages."""
    found = {"python": platform.python_version()}
    for name in (*_PACKAGES, *(n for n in also if n != "python")):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def code_facts(model: Resolved) -> dict[str, Any]:
    """``commit``, ``harness_hash``, ``origin`` and ``registered`` of a record's provenance."""
    origins = dict.fromkeys(_origin(entry) for entry in model.entries)
    return {
        "commit": _commit(_PACKAGE),
        "harness_hash": harness_hash(),
        "origin": ", ".join(origins),
        "registered": registration(model),
    }


def file_facts(model: Resolved, dataset: str, data: ImageData | None, leave_out: Iterable[Path]) -> dict[str, Any]:
    """The part of a record's provenance about the files of a model that this process built, and about its data, if they
    were loaded. Files in the folders `leave_out` (of results and of data sets) do not count.
    """
    opened = files_beside(model.files, model.opened, leave_out)
    facts: dict[str, Any] = {"source_hash": source_hash(model, lines_of(opened)), "opened": opened}
    if data is None:
        return facts
    made = data_hash(DATASETS.find(dataset).entry, lines_of(data.opened))
    return {**facts, "data_source": made, "data_opened": dict(data.opened)}


def machine_of(hardware: Mapping[str, str]) -> str:
    """The machine of a run, from a record's `hardware`: the GPU with its key, else the processor."""
    return hardware.get("hardware_key" if hardware.get("device", "").startswith("cuda") else "cpu", "")


def registration(model: Resolved) -> dict[str, str]:
    """The registered facts of a model that a board shows, see `REGISTERED`."""
    facts = {key: str(model.get(key)) for key in REGISTERED[:-1]}
    return {**facts, REGISTERED[-1]: ", ".join(model.treatments)}


#: Keys of `registration`; they are also columns of a board.
REGISTERED = ("family", "group", "invariant", "source", "evaluation", "treatment")


@cache
def harness_hash() -> str:
    """Hash of all measuring code: the files of ``bench`` and ``datasets``, and the registry, byte by byte.

    Unlike the hash of a model's source, it makes no row stale; only the protocol number does. It identifies the files
    if the commit does not: the checkout had changes, or there is no checkout.
    """
    folders = (_PACKAGE / "bench", _PACKAGE / "datasets")
    files = [p for folder in folders for kind in ("*.py", "*.toml") for p in folder.rglob(kind)]
    digest = hashlib.sha256()
    files += [
        _PACKAGE / f"{name}.py" for name in ("registry", "scan", "source", "opened_files", "side_files", "interface")
    ]
    for path in sorted(files):
        digest.update(f"{path.relative_to(_PACKAGE).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _origin(entry: Entry) -> str:
    if not entry.is_plugin:
        return "equibench" if entry.origin == "equibench" else entry.path.name
    for point in importlib.metadata.entry_points(group="equibench.models"):
        if point.module == entry.module and point.dist is not None:
            return f"{point.dist.name} {point.dist.version}"
    return entry.origin


def _commit(checkout: Path) -> str:
    """Commit of a checkout, read from git's files; empty if there is none.

    Git itself is not called: it would add a tenth of a second to every run, and its settings may run other programs.
    """
    try:
        folder = checkout / ".git"
        if folder.is_file():  # a worktree: the file names its folder
            folder = checkout / folder.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        head = (folder / "HEAD").read_text(encoding="utf-8").strip()
        if head.startswith("ref: "):
            name, shared = head.removeprefix("ref: "), folder / "commondir"
            common = folder / shared.read_text(encoding="utf-8").strip() if shared.is_file() else folder
            if (common / name).is_file():
                head = (common / name).read_text(encoding="utf-8").strip()
            else:
                packed = (common / "packed-refs").read_text(encoding="utf-8").splitlines()
                head = next((line.split(" ")[0] for line in packed if line.endswith(f" {name}")), "")
    except (OSError, ValueError):
        return ""
    return head if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", head) else ""


def cpu_name() -> str:
    """Model of the processor."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def hardware(device: str) -> dict[str, str]:
    """Device, hardware key, and further facts that are not part of the key.

    All rows of a T board must have the same hardware key: GPU name, memory, torch and CUDA major.minor; on a CPU, the
    processor. Queries of the driver may fail, so driver and power limit are not part of the key.
    """
    import torch

    torch_version = ".".join(torch.__version__.split("+")[0].split(".")[:2])
    known = {**host_facts(device), "instructions": torch.backends.cpu.get_cpu_capability()}
    if not device.startswith("cuda"):
        return {**known, "hardware_key": f"{cpu_name()}; torch {torch_version}"}
    properties = torch.cuda.get_device_properties(device)
    cuda = ".".join((torch.version.cuda or "?").split(".")[:2])
    key = f"{properties.name}; {round(properties.total_memory / 2**30)} GiB; torch {torch_version}; CUDA {cuda}"
    cudnn = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    facts = {"cuda": torch.version.cuda or "unknown", "cudnn": cudnn, **_driver_facts(device)}
    return {**known, **facts, "hardware_key": key}


@cache
def _driver_facts(device: str) -> dict[str, str]:
    """Facts about a GPU from the driver, asked once per process."""
    from ..tools.gpu_driver import driver_version, find_gpu

    uuid = gpu_of(device)
    gpu = find_gpu(uuid)
    limit = "unknown" if gpu is None or gpu.power_limit_w is None else f"{gpu.power_limit_w:.0f} W"
    return {"gpu": uuid, "driver": driver_version() or "unknown", POWER_LIMIT: limit}


#: Keys of `Provenance.hardware`: the GPU's power limit, and whether the run was alone on its GPU.
POWER_LIMIT, ALONE = "power_limit", "alone"
#: Key of `Provenance.hardware`: how many runs at a time shared the device, if there was more than one.
SHARED = "runs_on_device"


def sharing_fact(runs: int) -> dict[str, str]:
    """The entry of `Provenance.hardware` for a device that several runs share; empty for one run."""
    return {SHARED: str(runs)} if runs > 1 else {}


#: Key of `Provenance.hardware`: the time that the training waited for a processor that others used, over its own time.
WAITED = "waited"


def waiting_fact(waited_s: float, train_s: float) -> dict[str, str]:
    """The entry of `Provenance.hardware` for a training that waited for a processor; empty if it hardly waited."""
    share = waited_s / train_s if train_s > 0 else 0.0
    return {WAITED: f"{min(share, 99.0):.3f}"} if share >= 0.001 else {}


def host_facts(device: str) -> dict[str, str]:
    """Facts about the host without torch: see `host_id`; processor, usable cores, memory and system."""
    known = {"device": device, "cpu": cpu_name(), "cores": str(os.cpu_count())}
    if host := host_id():
        known["host"] = host
    if hasattr(os, "sched_getaffinity"):
        known["usable_cores"] = str(len(os.sched_getaffinity(0)))
    with suppress(ValueError, OSError):  # a system without these values
        known["memory_gib"] = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f}"
    if "SLURM_JOB_ID" in os.environ:  # its number in the scheduler's logs
        known["slurm_job"] = os.environ["SLURM_JOB_ID"]
    return {**known, "system": platform.platform()}


#: Files with the random id of a Linux installation; 32 hexadecimal digits, see machine-id(5).
_MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))


def host_id() -> str:
    """An anonymous identifier of this machine: 16 hexadecimal digits; empty if there is none.

    It is a keyed hash, as machine-id(5) requires, of ``EQUIBENCH_HOST``, else of the machine's random id. In containers
    there may be no id, or only that of the image. Nobody can find the machine's name or address by trying likely ones,
    because they are not used.
    """
    secret = os.environ.get("EQUIBENCH_HOST", "")
    for path in () if secret else _MACHINE_IDS:
        with suppress(OSError, ValueError):
            text = path.read_text(encoding="ascii").strip()
            secret = secret or (text if re.fullmatch("[0-9a-f]{32}", text) else "")
    return hmac.new(secret.encode(), b"equibench: hosts, 1", hashlib.sha256).hexdigest()[:16] if secret else ""


def gpu_of(device: str) -> str:
    """The UUID of a GPU; empty for a processor."""
    from ..tools.gpu_driver import uuid_of

    return uuid_of(device) if device.startswith("cuda") else ""


def query_hardware_key(device: str) -> str:
    """The hardware key of a device, from another process, so that this one does not import torch."""
    return query_devices([device])[device][0]


def query_devices(devices: list[str]) -> dict[str, tuple[str, str]]:
    """The hardware key and UUID of each device, from another process, so that this one does not import torch.

    Raises UserError with torch's explanation if torch cannot use one of them.
    """
    told = "{d: (hardware(d)['hardware_key'], gpu_of(d)) for d in " + repr(devices) + "}"
    code = f"import json; from equibench.bench.records.provenance import gpu_of, hardware; print(json.dumps({told}))"
    # -P: files of the current folder cannot replace modules.
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    if done.returncode:
        said = last_line(done.stderr) or "it says nothing"
        raise UserError(
            f"torch cannot use {' and '.join(devices)} here: {said}; use {option('device', 'cpu')}, or another machine"
        )
    return {device: (key, gpu) for device, (key, gpu) in json.loads(done.stdout).items()}
