"""How long the shipped suites will take on a GPU, estimated from their operations; prints a table.

    uv run python benchmarks/gpu_times.py [SUITE …] [--tflops 25] [--least-ms 2] [--start-s 15]

A training step takes its operations at `--tflops`, but at least `--least-ms`: networks of small kernels wait for their
launches. Every run takes `--start-s` more for its start and its evaluation. The defaults are a guess for an H100 in the
profile strict: 25 of its 67 float32 TFLOPS outside tensor cores. `equibench doctor` measures what to put there: the row
"launches" has the milliseconds of a step, the row "load" the speed of matrix products, which convolutions do not reach.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from equibench.bench.boards.families import find_points
from equibench.bench.reports.estimate import ModelCost, estimate
from equibench.bench.spec.suite import suite_names
from side_by_side import parser, show


def hours(costs: Iterable[ModelCost], tflops: float, least_ms: float, start_s: float) -> float:
    """Hours of all runs, one at a time.

    Args:
        tflops: operations a second, in 10^12.
        least_ms: milliseconds that the shortest step takes.
        start_s: seconds of a run outside its training.
    """
    step_s = ((c, max(c.step_flops / (tflops * 1e12), least_ms / 1000)) for c in costs)
    return sum(c.runs * (start_s + c.steps * seconds) for c, seconds in step_s) / 3600


def main() -> None:
    """Estimate, and print a table."""
    parse = parser(__doc__)
    parse.add_argument("suites", nargs="*", default=[n for n in suite_names() if n != "smoke"])
    parse.add_argument("--tflops", type=float, default=25.0)
    parse.add_argument("--least-ms", type=float, default=2.0)
    parse.add_argument("--start-s", type=float, default=15.0)
    options = parse.parse_args()
    rows = []
    for name in options.suites:
        costs = [c for point in find_points(name) for c in estimate(point, Path("nowhere"), "")]
        taken = hours(costs, options.tflops, options.least_ms, options.start_s)
        rows.append((name, sum(c.runs for c in costs), sum(c.flops for c in costs) / 1e15, taken))
        print(f"{name}: {taken:.2f} h", file=sys.stderr)  # counting the operations of large networks takes minutes
    show(rows, ["suite", "runs", "PFLOPs", "hours (estimate)"], ("", "", ",.1f", ",.1f"), options.format)


if __name__ == "__main__":
    main()
