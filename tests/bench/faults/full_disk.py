"""In a mount namespace of its own: a small disk that gets full or read-only under a run. Prints what happened as JSON.

unshare --mount python -m tests.bench.faults.full_disk FOLDER SCENARIO
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from .models import fill
from .process import checkpoints, equibench, figures, job, leftovers, records, run


def started(root: Path, fault: str) -> dict[str, Any]:
    """A run's process with a fault, and what it left."""
    one = job(root)
    os.environ |= {"EQUIBENCH_FAULT": fault, "EQUIBENCH_FAULT_DISK": str(root)}
    code, events = run(one)
    found = records(one)
    return {
        "code": code,
        "done": events[-1],
        "events": [e["event"] for e in events],
        "statuses": [r.status for r in found],
        "warnings": [w for r in found for w in r.warnings],
        "figures": [repr(figures(r)) for r in found if r.results],
        "checkpoints": [int(p.name.split(".")[2]) for p in checkpoints(one)],
        "leftovers": leftovers(one),
    }


def command(root: Path, fault: str) -> dict[str, Any]:
    """The command line with a fault."""
    os.environ |= {"EQUIBENCH_FAULT": fault, "EQUIBENCH_FAULT_DISK": str(root)}
    process = equibench(root)
    out, error = process.communicate(timeout=500)
    return {"code": process.returncode, "out": out, "error": error, "records": len(records(job(root)))}


def main(root: Path, scenario: str) -> list[dict[str, Any]]:
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(root)], check=True)
    filler = root / "filler"
    if scenario == "record":
        first = started(root, "evaluate fill")
        filler.unlink()
        return [first, started(root, "never nothing")]
    if scenario == "checkpoint":
        return [started(root, "train:20 fill-a-while")]
    if scenario == "command":
        first = command(root, "evaluate fill")
        filler.unlink()
        return [first, command(root, "never nothing")]
    if scenario == "start":
        fill(root)
        return [command(root, "never nothing")]
    subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
    return [command(root, "never nothing")]


if __name__ == "__main__":
    print("RESULT " + json.dumps(main(Path(sys.argv[1]), sys.argv[2])))
