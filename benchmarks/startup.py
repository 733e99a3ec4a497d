"""How long commands and runs take before they do anything; prints seconds beside what they shall keep to.

    uv run python benchmarks/startup.py [--rounds 7]

`--help` and `list models`: under 0.5 s. `leaderboard` on a board of 100 records: under 2 s. A run's fixed cost, which
is all of its time but importing torch (and escnn), training, batch-norm statistics, evaluation and the equivariance
errors: at most 2 s. Commands are timed from outside, in turns, as processes of their own; medians.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from boards import TRAIN_IMAGES, made_up, write_quickly
from equibench.bench.spec.suite import find_suite, plan
from side_by_side import hardware, parser, show

#: Phases that are no fixed cost: they grow with the budget or the data, or are torch's own.
NOT_FIXED = ("import", "train", "bn", "evaluate", "equivariance", "total")
COMMAND_S, BOARD_S, FIXED_S = 0.5, 2.0, 2.0


def equibench(*arguments: str) -> float:
    """Seconds of one command."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "equibench.bench.cli", *arguments], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"equibench {' '.join(arguments)} failed: {done.stderr}")
    return seconds


def hundred_records(root: Path) -> None:
    """Ten models by ten seeds, made up, on one board."""
    import random

    rng, pattern = random.Random(0), plan(find_suite("quickstart"))[0]
    budget = pattern.budget.model_copy(update={"name": "e5", "epochs": 5.0})
    pattern = pattern.model_copy(
        update={"budget": budget, "steps": budget.steps_for(TRAIN_IMAGES, pattern.recipe.batch)}
    )
    for width in range(10, 20):
        for seed in range(10):
            update = {"model": f"wrn-10-b{width}", "seed": seed}
            write_quickly(root, made_up(pattern.model_copy(update=update), 0.0, 10_000 * width, rng))


def fixed_cost(model: str, folder: Path) -> float:
    """Seconds of a run beyond `NOT_FIXED`."""
    results = folder / model
    equibench("run", "smoke", "--models", model, "--results", str(results), "--quiet")
    (record,) = results.glob("runs/*/*.json")
    phases = json.loads(record.read_text())["phases"]
    return sum(seconds for name, seconds in phases.items() if name.removesuffix("_s") not in NOT_FIXED)


def main() -> None:
    """Time all of it and print a table."""
    parse = parser(__doc__)
    parse.add_argument("--rounds", type=int, default=7)
    options = parse.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        hundred_records(folder / "board")
        commands = {
            ("--help",): COMMAND_S,
            ("list", "models"): COMMAND_S,
            ("leaderboard", "--results", str(folder / "board")): BOARD_S,
        }
        times: dict[tuple[str, ...], list[float]] = {c: [] for c in commands}
        for _ in range(options.rounds):
            for command in commands:
                times[command].append(equibench(*command))
        rows = [(f"equibench {c[0]}"
            f" {'models' if 'models' in c else ''}".strip(), statistics.median(times[c]), commands[c])
                for c in commands]  # fmt: skip
        for model in ("z2cnn", "e2cnn-c8-25k"):
            costs = [fixed_cost(model, folder / str(i)) for i in range(3)]
            rows.append((f"fixed cost of a run of {model}", statistics.median(costs), FIXED_S))
    print(hardware("cpu"))
    rows = [(*row, "yes" if row[1] <= row[2] else "no") for row in rows]
    show(rows, ["", "seconds", "at most", "met"], ("", ".2f", ".1f", ""), options.format)


if __name__ == "__main__":
    main()
