"""The doctor's report on a device: its schema, its path, and its text. Needs no torch.

Reports are the files ``doctor/<host>/<device>.<content hash>.json`` in the results folder. They are written once.
Boards show the newest report of each device of their runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from ...registry import UserError
from ..tools.schema import Amount, Message, Strict, Text, Time, Version, short_hash
from ..tools.text import listed
from .provenance import machine_of
from .record import FINAL, RunRecord, read_all, read_document, write_document
from .store import doctor_folder, safe_name

#: The possible verdicts on a device.
TRUSTED, E_ONLY, NO = "T boards: trusted", "E boards only", "no"
State = Literal["passed", "failed", "not applicable", "left out"]


class Finding(Strict):
    """The result of one check.

    Attributes:
        check: its name.
        needed_for: boards that cannot be trusted if it fails: ``E`` means all boards, ``T`` means boards of
            device-seconds.
        state: ``not applicable`` if there is nothing to check (for example, a check of two devices on a machine with
            one); ``left out`` if the check was not done.
        detail: the measurement, or the reason.
        seconds: duration of the check.
    """

    check: Text
    needed_for: Literal["E", "T"]
    state: State
    detail: Message
    seconds: Amount


class Report(Strict):
    """All findings on one device.

    Attributes:
        hardware: as in `provenance.Provenance`, with the hardware key.
        uuid: UUID of the GPU; empty on a CPU.
        started: date and time with their zone, ISO 8601.
        quick: whether the long checks were shortened.
    """

    schema_version: Version = 1
    kind: Literal["doctor"] = "doctor"
    device: Text
    uuid: Text = ""
    hardware: dict[Text, Text]
    versions: dict[Text, Text]
    started: Time
    quick: bool
    findings: list[Finding] = Field(max_length=1000)

    @property
    def verdict(self) -> str:
        """`TRUSTED`, `E_ONLY` or `NO`. Never `TRUSTED` for a CPU: its device-seconds cannot be a budget."""
        failed = {f.needed_for for f in self.findings if f.state == "failed"}
        if "E" in failed:
            return NO
        missing = any(f.state == "left out" for f in self.findings)
        return E_ONLY if self.device == "cpu" or failed or missing else TRUSTED

    @property
    def why(self) -> str:
        """The reason why the verdict is not the best one."""
        wrong = [f.check for f in self.findings if f.state == "failed"]
        missing = [f.check for f in self.findings if f.state == "left out"]
        parts = [f"failed: {', '.join(wrong)}"] if wrong else []
        parts += [f"left out: {', '.join(missing)}"] if missing else []
        if not parts and self.device == "cpu":
            return "a CPU's device-seconds depend on the other work of the machine"
        return "; ".join(parts)


def write_report(root: Path, report: Report) -> Path:
    """Keep a report among the results."""
    name = f"{safe_name(report.device)}.{short_hash(report.canonical())}.json"
    return write_document(doctor_folder(root, report.hardware.get("host", "")) / name, report)


def read_report(path: Path) -> Report:
    """Read a report. Raises UserError if the file does not match the hash in its name, or its schema."""
    text, report = read_document(path, Report)
    if path.name.split(".")[-2:] != [short_hash(text.removesuffix("\n")), "json"]:
        raise UserError(f"{path}: the content does not match the hash in the name")
    return report


def newest_report(root: Path, facts: Mapping[str, str]) -> Report | None:
    """The newest report on the device of a run (by `hardware` of its provenance), if the hardware key is the same.

    A GPU is identified by its UUID if recorded, else by its number.
    """
    folder, found = doctor_folder(root, facts.get("host", "")), []
    reports, _ = read_all(sorted(folder.glob("*.json")) if not folder.is_symlink() else [], read_report)
    for report in reports:  # a damaged report does not count
        same = all(report.hardware.get(key) == facts.get(key) for key in ("host", "hardware_key"))
        if same and (report.uuid == facts["gpu"] if "gpu" in facts else report.device == facts.get("device")):
            found.append(report)
    return max(found, key=lambda r: datetime.fromisoformat(r.started), default=None)


def report_text(report: Report) -> str:
    """The table of a report and its verdict, for a terminal."""
    from tabulate import tabulate

    rows = [
        {"check": f.check, "for": f.needed_for, "state": f.state, "s": f"{f.seconds:.1f}", "what was found": f.detail}
        for f in report.findings
    ]
    table = tabulate(rows, headers="keys", disable_numparse=True, maxcolwidths=[None, None, None, None, 90])
    heading = f"{report.device}: {report.hardware.get('hardware_key', '')}"
    why = f" ({report.why})" if report.why else ""
    return f"{heading}\n\n{table}\n\nverdict: {report.verdict}{why}"


def doctor_notes(root: Path, records: Iterable[RunRecord]) -> list[str]:
    """The doctor's verdicts on the devices of a board's runs; for a T board also devices without a verdict."""
    made = [r for r in records if r.status in FINAL]
    keys = ("host", "device", "hardware_key", "gpu")
    places = {tuple(r.provenance.hardware.get(k) for k in keys): r.provenance.hardware for r in made}
    said: dict[str, list[str]] = {}
    for facts in places.values():
        report = newest_report(root, facts)
        where = f"{facts.get('device', '')} ({machine_of(facts).split(';')[0]})"
        if report is not None:
            why = f" ({report.why})" if report.device != "cpu" and report.why else ""
            said.setdefault(f"{report.verdict}{why}", []).append(f"{where}, {report.started[:10]}")
        elif made[0].spec.budget.seconds is not None:
            said.setdefault("no report", []).append(where)
    shown = {verdict: listed(dict.fromkeys(names), 4, "; ") for verdict, names in said.items()}
    return [f"equibench doctor: {verdict}: {names}" for verdict, names in shown.items()]
