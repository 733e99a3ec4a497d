"""Peak memory of a training step, equivariant against ordinary convolutions of the same dense shape; prints ratios.

    uv run python benchmarks/memory.py [--device cuda:0] [--only p8-25k]

Every network takes three steps in a process of its own. On a GPU the peak is what torch allocated; on a CPU it is how
far the resident memory of the process rose above what it was before the first step. PDO-eConv's at most 1.3 times.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from equibench.bench.measures.cost import peak_memory_mib
from equibench.bench.measures.execution_profile import begin, renew_profile
from layers import CASES, step
from side_by_side import hardware, parser, show

LIMIT = 1.3


def peak_mib(name: str, contender: str, device: str) -> float:
    """Measure one network in this process, in MiB."""
    case = CASES[name]
    begin(device, "strict", 1)
    torch.manual_seed(0)
    model, shape = case.make(), case.shape
    if contender != "ours":
        model = case.contenders[contender](model)
    renew_profile()
    model = model.to(device)
    train = step(model, torch.randn(shape, device=device), torch.arange(shape[0], device=device) % 10)
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated(device)
        for _ in range(3):
            train()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    for _ in range(3):
        train()
    return peak_memory_mib(torch.device(device)) - pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def elsewhere(name: str, contender: str, device: str) -> float:
    """The same in a fresh process."""
    command = [sys.executable, __file__, "--one", name, contender, "--device", device]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def main() -> None:
    """Measure, and print a table."""
    parse = parser(__doc__)
    parse.add_argument("--device", default="cpu")
    parse.add_argument("--only", choices=list(CASES), action="append")
    parse.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parse.parse_args()
    if options.one:
        print(json.dumps(peak_mib(*options.one, options.device)))
        return
    print(hardware(options.device))
    rows = []
    for name in options.only or CASES:
        own = elsewhere(name, "ours", options.device)
        for contender in CASES[name].contenders:
            other = elsewhere(name, contender, options.device)
            target = LIMIT if contender == "dense" else None
            met = "" if target is None else "yes" if own <= target * other else "no"
            rows.append((name, contender, other, own, own / other, target, met))
    heads = ["network", "against", "its MiB", "ours MiB", "ratio", "target", "met"]
    show(rows, heads, ("", "", ".0f", ".0f", ".2f", ".1f", ""), options.format)


if __name__ == "__main__":
    main()
