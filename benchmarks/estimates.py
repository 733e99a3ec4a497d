"""What `list suites --cost` predicts against what the runs then took; prints a ratio a model.

    uv run python benchmarks/estimates.py SUITE [--results DIR]

The time of every model of the suite is predicted from the records of its first seed alone, as the command would have
done after them, and set against the training seconds of the other seeds: within a factor of 1.5.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from equibench.bench.boards.board import load_board
from equibench.bench.records.record import RunRecord
from equibench.bench.records.store import board_folder
from equibench.bench.reports.estimate import estimate, this_device
from equibench.bench.spec.suite import Suite, find_suite
from side_by_side import parser, show

FACTOR = 1.5


def first_and_others(root: Path, suite: Suite) -> tuple[list[RunRecord], dict[str, list[RunRecord]]]:
    """Records of the suite's first seed, and those of the others by model, as far as they are current."""
    first, others = [], defaultdict(list)
    for record in (r for counted in load_board(root, suite.board()).counted.values() for r in counted):
        if record.status != "ok" or record.spec.model not in suite.models:
            continue
        if record.spec.seed == suite.seed_list[0]:
            first.append(record)
        else:
            others[record.spec.model].append(record)
    return first, others


def predicted(root: Path, suite: Suite, first: list[RunRecord], others: dict[str, list[RunRecord]]) -> dict[str, float]:
    """Seconds of training that the other seeds are expected to take, where the first is all that is known."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = board_folder(Path(temporary), suite.board())
        folder.mkdir(parents=True)
        for record in first:
            shutil.copy(board_folder(root, suite.board()) / record.file_name, folder)
        costs = list(estimate(suite, Path(temporary), this_device()))
    return {c.model: len(others[c.model]) * c.steps * c.step_s for c in costs if c.step_s and others[c.model]}


def main() -> None:
    """Compare, and print a table."""
    parse = parser(__doc__)
    parse.add_argument("suite")
    parse.add_argument("--results", default="leaderboards", type=Path)
    options = parse.parse_args()
    suite = find_suite(options.suite)
    first, others = first_and_others(options.results, suite)
    rows = []
    for model, seconds in predicted(options.results, suite, first, others).items():
        measured = sum(r.results.train_s for r in others[model] if r.results)
        ratio = measured / seconds
        met = "yes" if 1 / FACTOR <= ratio <= FACTOR else "no"
        rows.append((model, len(others[model]), seconds, measured, ratio, met))
    if not rows:
        sys.exit(f"{options.results} has no two seeds of a model of {suite.name} from this device")
    print(this_device())
    heads = ["model", "runs", "predicted s", "measured s", "ratio", "met"]
    show(rows, heads, ("", "", ".1f", ".1f", ".2f", ""), options.format)


if __name__ == "__main__":
    main()
