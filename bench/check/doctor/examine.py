"""All checks of a device, and the report."""

from __future__ import annotations

from collections.abc import Callable

from ....registry import UserError
from ...records.doctor_report import Finding, Report
from ...records.provenance import timestamp
from ...runner.local import interrupt_on_signals
from ...tools.gpus import Gpus, refuse_modes
from ...tools.machine import Machine
from .checks import CHECKS, perform
from .device import ExaminedDevice
from .process import NoAnswer, Process


def devices_of(device: str) -> tuple[list[str], str]:
    """The devices in ``--device``, each once, and the reason if torch sees no GPU.

    Raises:
        UserError: a device does not exist, or cannot be used; with torch's explanation.
    """
    with Process("cpu") as process:
        try:
            here = Gpus.model_validate(process.ask("gpus", 90))
        except NoAnswer as error:
            raise UserError(f"torch does not start here: {error}") from None
    every = Machine("cuda" if device == "auto" and here.uuids else device)
    names = list(dict.fromkeys(every.slots(len(here.uuids), here.why)))
    refuse_modes(names, here)
    return names, here.why


def examine(
    device: str,
    devices: list[str],
    quick: bool = False,
    data_root: str | None = None,
    explanation: str = "",
    told: Callable[[Finding], None] = lambda _: None,
) -> Report:
    """Do all checks on a device; arguments as for `ExaminedDevice`.

    Args:
        told: called immediately with every finding.

    Raises:
        UserError: no process can use the device.
    """
    started = timestamp()
    with interrupt_on_signals(), ExaminedDevice(device, devices, quick, data_root, explanation) as place:
        try:
            facts = place.facts
        except NoAnswer as error:
            raise UserError(f"no process can use {device}: {error}") from None
        findings = []
        for check in CHECKS:
            findings.append(perform(check, place))
            told(findings[-1])
    return Report(
        device=device, uuid=facts["uuid"], hardware=facts["hardware"], versions=facts["versions"], started=started,
        quick=quick, findings=findings,
    )  # fmt: skip
