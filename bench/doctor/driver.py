"""What the driver's own tool says of a GPU. It is asked without torch: a process that asks holds nothing on the device."""

from __future__ import annotations

import subprocess

#: Reasons for a lower clock that are no choice of ours: hardware slow-down, its heat, the software's heat, power brake.
SLOWED = {0x08: "hardware slow-down", 0x20: "heat (software)", 0x40: "heat (hardware)", 0x80: "power brake"}
#: The power limit lowers the clock; that is the limit which the hardware key names.
CAPPED = 0x04


def ask_driver(uuid: str, *fields: str) -> list[str] | None:
    """Fields of ``nvidia-smi --query-gpu`` for one GPU, without units; None where the tool does not answer.

    Args:
        uuid: of the GPU, ``GPU-…``.
    """
    command = ["nvidia-smi", f"--id={uuid}", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    values = [part.strip() for part in done.stdout.strip().split(",")]
    return values if len(values) == len(fields) else None


def sample(uuid: str) -> dict[str, float] | None:
    """Clock in MHz, power in W, temperature in degrees and the bits of the reasons for a lower clock."""
    found = ask_driver(uuid, "clocks.sm", "power.draw", "temperature.gpu", "clocks_throttle_reasons.active")
    try:
        return None if found is None else dict(
            mhz=float(found[0]), watts=float(found[1]), degrees=float(found[2]), reasons=float(int(found[3], 16))
        )  # fmt: skip
    except ValueError:
        return None


def memory_used_mib(uuid: str) -> float | None:
    """Memory of a GPU that is in use, by whomever."""
    found = ask_driver(uuid, "memory.used")
    try:
        return None if found is None else float(found[0])
    except ValueError:
        return None
