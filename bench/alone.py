"""Whether a run is alone on its GPU, as equal device-seconds demand."""

from __future__ import annotations

import subprocess


def processes_on(device: str) -> list[tuple[int, str]] | None:
    """Number and name of every process that computes on a CUDA device; None where the driver's tool does not say.

    Inside a container the tool may show no processes at all, or those of the host under other numbers.
    """
    import torch

    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    command = ["nvidia-smi", f"--id={uuid}", "--query-compute-apps=pid,process_name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_processes(done.stdout)


def parse_processes(text: str) -> list[tuple[int, str]] | None:
    """What ``nvidia-smi --query-compute-apps=pid,process_name --format=csv,noheader`` prints, read."""
    found = []
    for line in text.strip().splitlines():
        number, _, name = line.partition(",")
        if not number.strip().isdecimal():
            return None  # "[Not Supported]", "[N/A]", or a message
        found.append((int(number), name.strip()))
    return found


def company(processes: list[tuple[int, str]] | None, own: int) -> str:
    """Who else computes on the GPU, for a reason; empty if nobody does, or nobody knows.

    Args:
        processes: as `processes_on` gives them, asked while this process holds the GPU.
        own: number of this process. In a container the tool may know it under another, so what counts is whether
            there is more than one process.
    """
    if processes is None or len(processes) < 2:
        return ""
    others = [p for p in processes if p[0] != own] or processes
    names = ", ".join(f"{name} ({number})" for number, name in others[:3]) + (", …" if len(others) > 3 else "")
    return f"not alone on its GPU: {names}"
