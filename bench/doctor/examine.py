"""All checks of a device, and the report."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from ...registry import UserError
from ..engines.local import quiet_end
from ..machine import Machine
from .checks import CHECKS, perform
from .place import Place
from .process import Process, Unanswered
from .report import Finding, Report


def devices_of(device: str) -> tuple[list[str], str]:
    """The devices that ``--device`` names, each once, and torch's explanation where it sees no GPU.

    Raises:
        UserError: one is not there; with torch's own explanation.
    """
    with Process("cpu") as process:
        try:
            found = process.ask("count_devices", 90)
        except Unanswered as error:
            raise UserError(f"torch does not start here: {error}") from None
    if device.startswith("cuda") and not found["count"]:
        raise UserError(f"--device {device!r}: torch sees no CUDA device here: {found['why']}")
    names = Machine("cuda" if device == "auto" and found["count"] else device, jobs=None).slots(found["count"])
    return list(dict.fromkeys(names)), found["why"]


def examine(
    device: str,
    devices: list[str],
    quick: bool = False,
    data_root: str | None = None,
    explanation: str = "",
    told: Callable[[Finding], None] = lambda _: None,
) -> Report:
    """Do all checks on a device; arguments as of `Place`.

    Args:
        told: hears every finding as soon as it is there.

    Raises:
        UserError: not even the device's name can be asked for.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with quiet_end(), Place(device, devices, quick, data_root, explanation) as place:
        try:
            facts = place.facts
        except Unanswered as error:
            raise UserError(f"no process can use {device}: {error}") from None
        findings = []
        for check in CHECKS:
            findings.append(perform(check, place))
            told(findings[-1])
    return Report(
        device=device, uuid=facts["uuid"], hardware=facts["hardware"], versions=facts["versions"], started=started,
        quick=quick, findings=findings,
    )  # fmt: skip
