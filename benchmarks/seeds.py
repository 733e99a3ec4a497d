"""How long several seeds take that share one GPU, against one seed that has it to itself; prints a ratio a model.

    uv run python benchmarks/seeds.py [--seeds 8] [--models pdo-econv-p8,p4cnn] [--budget e20] [--rounds 3]

Whole commands are timed from outside, start-up and evaluation included, in turns. Eight seeds in at most three times
the time of one. With ``--device cpu`` the seeds go on at a time on the cores (``--jobs``), which shows the command to
work and nothing about a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from side_by_side import hardware, parser, show
from startup import equibench

LIMIT = 3.0


def seconds(model: str, seeds: int, options: argparse.Namespace, folder: Path) -> float:
    """Of one command that trains so many seeds at a time."""
    at_once = ["--jobs", str(seeds)] if options.device == "cpu" else ["--seeds-in-parallel", str(seeds)]
    return equibench(
        "run", "--dataset", options.dataset, "--models", model, "--budget", options.budget, "--seeds", str(seeds),
        "--device", options.device, "--results", str(folder), "--quiet", *at_once,
    )  # fmt: skip


def main() -> None:
    """Time them and print a table."""
    parse = parser(__doc__)
    parse.add_argument("--seeds", type=int, default=8)
    parse.add_argument("--models", default="pdo-econv-p8,e2cnn-c8-25k,p4cnn,z2cnn-22")
    parse.add_argument("--dataset", default="digits-rot")
    parse.add_argument("--budget", default="e20")
    parse.add_argument("--device", default="cuda:0")
    parse.add_argument("--rounds", type=int, default=3)
    options = parse.parse_args()
    print(hardware(options.device))
    rows = []
    for model in options.models.split(","):
        times: dict[int, list[float]] = {1: [], options.seeds: []}
        with tempfile.TemporaryDirectory() as temporary:
            for turn in range(options.rounds):
                for seeds in times:
                    times[seeds].append(seconds(model, seeds, options, Path(temporary) / f"{turn}-{seeds}"))
        ratios = [many / one for one, many in zip(*times.values(), strict=True)]
        one, many = (statistics.median(t) for t in times.values())
        met = "yes" if statistics.median(ratios) <= LIMIT else "no"
        spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
        rows.append((model, one, many, statistics.median(ratios), spread, LIMIT, met))
    heads = ["model", "one seed s", f"{options.seeds} seeds s", "ratio", "range", "at most", "met"]
    show(rows, heads, ("", ".1f", ".1f", ".2f", "", ".1f", ""), options.format)


if __name__ == "__main__":
    main()
