"""How long commands and runs take before they do anything; prints seconds beside what they shall keep to.

    uv run python benchmarks/startup.py [--rounds 7] [--models p4cnn,…] [--only commands,models,runs]
    uv run python benchmarks/startup.py --against CHECKOUT [--rounds 7]

`--help` and `list`: under 0.5 s. `leaderboard` on a board of 100 records: under 2 s. Of the 25K class: `show` at most
3 s beyond importing torch, `check` under 40 s, `equivariance --run` at most 20 s. A run's fixed cost, which is all but
importing torch (and escnn), training, batch-norm statistics, evaluation and equivariance errors: at most 2 s.

Commands are timed from outside, in turns, as processes of their own; medians. Beside the seconds of a clock stand those
that processors computed for it, which are the same while others compute; these are held against the limits. `ratio` of
`equivariance --run`: to the forward passes alone that its definition asks for.

`--against`: another checkout of this project, with its own environment in `.venv`. Both run the same commands in turns,
on idle cores, by the clock, and `ratio` is ours to theirs: a command with one run of a few steps; what it takes beyond
the phases of that run and one import of torch, which the run needs in any case; and the quickstart, once each.
"""

from __future__ import annotations

import json
import os
import resource
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
SHOW_S, CHECK_S, EQUIVARIANCE_S = 3.0, 40.0, 20.0
#: Of the 25K class.
MODELS = "pdo-econv-p8,e2cnn-c8-25k,p4cnn,z2cnn-22,wrn-10-b9"
PARTS = ("commands", "models", "runs")
#: Seconds of a clock, and of processors.
Spent = tuple[float, float]
Row = tuple[str, float, float | None, float | None, float | None]


def equibench(*arguments: str) -> float:
    """Seconds of one command."""
    return spent("-m", "equibench.bench.cli", *arguments)[0]


def spent(*arguments: str) -> Spent:
    """What Python takes with these arguments, on one thread, with all processes that it starts."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed: {done.stderr}")
    return seconds, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def medians(times: list[Spent]) -> Spent:
    return statistics.median(t[0] for t in times), statistics.median(t[1] for t in times)


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


def command_rows(folder: Path, rounds: int) -> list[Row]:
    """Commands that need no torch."""
    hundred_records(folder / "board")
    commands = {
        ("--help",): COMMAND_S,
        ("list", "models"): COMMAND_S,
        ("list", "suites"): COMMAND_S,
        ("list", "suite-keys"): COMMAND_S,
        ("leaderboard", "--results", str(folder / "board")): BOARD_S,
    }
    times: dict[tuple[str, ...], list[Spent]] = {c: [] for c in commands}
    for _ in range(rounds):
        for command in commands:
            times[command].append(spent("-m", "equibench.bench.cli", *command))
    names = {c: " ".join(("equibench", *c)).partition(" --results")[0] for c in commands}
    return [(names[c], *medians(times[c]), commands[c], None) for c in commands]


def model_rows(folder: Path, models: list[str], rounds: int) -> list[Row]:
    """Commands on models of the 25K class."""
    cli = ("-m", "equibench.bench.cli")
    torch_s = medians([spent("-c", "import torch") for _ in range(rounds)])[1]
    rows: list[Row] = []
    for model in models:
        shown = medians([spent(*cli, "show", model) for _ in range(rounds)])
        rows.append((f"equibench show {model}", *shown, torch_s + SHOW_S, None))
    for model in models:
        check = spent(*cli, "check", model, "--results", str(folder / "checked"))
        rows.append((f"equibench check {model}", *check, CHECK_S, None))
    for model in models:
        root = str(folder / "runs" / model)
        equibench("run", "quickstart", "--models", model, "--budget", "e0.1", "--seeds", "1", "--jobs", "1", "--quiet",
                  "--results", root)  # fmt: skip
        (record,) = Path(root).glob("runs/*/*.json")
        run = record.name.rsplit(".", 2)[0]
        full = spent(*cli, "equivariance", "--run", run, "--results", root, "--out", str(folder / "pictures"))
        rows.append((f"equibench equivariance --run ({model})", *full, EQUIVARIANCE_S, full[1] / passes_s(model)))
    return rows


def passes(test_images: int) -> int:
    """Images that go through a network for the full profile, before and after training.

    Orbits of the test images (at initialisation of fewer), the floor, the curves over the angle, and the Lie
    derivatives, whose value and slope count as a pass each.
    """
    from equibench.bench.measures.angle_and_depth import CURVE_DEGREES
    from equibench.bench.measures.equivariance import BLOB_DRAWS
    from equibench.bench.measures.equivariance_full import FULL_DRAWS, ORBIT_IMAGES
    from equibench.bench.measures.rotation import ORBIT_DEGREES

    angles = len(ORBIT_DEGREES)
    orbits = (min(ORBIT_IMAGES, test_images) + FULL_DRAWS) * angles
    # Back and forth counts modulo 90 degrees; rotation and two shifts are three derivatives.
    each = FULL_DRAWS * angles // 4 + (1 + len(CURVE_DEGREES)) * BLOB_DRAWS + 3 * 2 * FULL_DRAWS
    return orbits + 2 * each


def passes_s(model: str) -> float:
    """Seconds of a processor for these passes alone."""
    import torch
    from equibench.bench.measures.accuracy import logits
    from equibench.registry import DATASETS, build_model

    torch.set_num_threads(1)
    images = passes(DATASETS.find("digits-rot").entry.fields["sizes"][2])
    network, some = build_model(model, 1, 10, 28).eval(), torch.randn(500, 1, 28, 28)
    logits(network, some[:125], lambda x: x)  # filters are expanded at the first pass
    start = time.process_time()
    logits(network, some, lambda x: x)
    return (time.process_time() - start) / len(some) * images


def run_rows(folder: Path) -> list[Row]:
    """What a run takes beyond its work, by its own phases."""
    rows: list[Row] = []
    for model in ("z2cnn", "e2cnn-c8-25k"):
        cost = statistics.median(fixed_cost(model, folder / str(i)) for i in range(3))
        rows.append((f"fixed cost of a run of {model}", cost, cost, FIXED_S, None))
    return rows


def against_rows(folder: Path, checkout: Path, rounds: int) -> list[Row]:
    """The same commands here and in another checkout, in turns, by the clock."""
    pythons = {"theirs": checkout.absolute() / ".venv" / "bin" / "python", "ours": Path(sys.executable)}
    if not pythons["theirs"].exists():
        sys.exit(f"{pythons['theirs']} is not there: make the environment of that checkout")
    commands = {
        "one short run": ["run", "smoke", "--models", "z2cnn", "--seeds", "1"],
        "quickstart": ["run", "quickstart"],
    }
    torch_s = statistics.median(spent("-c", "import torch")[0] for _ in range(rounds))
    rows: list[Row] = []
    for name, command in commands.items():
        times: dict[str, list[float]] = {who: [] for who in pythons}
        around: dict[str, list[float]] = {who: [] for who in pythons}
        for turn in range(1 if name == "quickstart" else rounds):
            for who, python in pythons.items():
                results = folder / f"{name}-{who}-{turn}"
                start = time.perf_counter()
                done = [python, "-m", "equibench.bench.cli", *command, "--quiet", "--results", results]
                subprocess.run(done, check=True, capture_output=True)
                times[who].append(time.perf_counter() - start)
                around[who].append(times[who][-1] - seconds_of_runs(results) - torch_s)
        rows += compared(name, times)
        if name != "quickstart":  # there, runs of two processes overlap
            rows += compared(f"{name}, beyond it and torch", around)
    return rows


def seconds_of_runs(results: Path) -> float:
    """Seconds of the processes of all runs in a results folder, without their imports: torch may be there already."""
    phases = [json.loads(path.read_text())["phases"] for path in results.glob("runs/*/*.json")]
    return sum(each["total_s"] - each["import_s"] for each in phases)


def compared(name: str, times: dict[str, list[float]]) -> list[Row]:
    theirs, ours = (statistics.median(times[who]) for who in ("theirs", "ours"))
    return [(f"{name}, theirs", theirs, None, None, None), (f"{name}, ours", ours, None, None, ours / theirs)]


def main() -> None:
    """Time all of it and print a table."""
    parse = parser(__doc__)
    parse.add_argument("--rounds", type=int, default=7)
    parse.add_argument("--models", default=MODELS, help="Models of the 25K class, separated by commas.")
    parse.add_argument("--only", default=",".join(PARTS), help="Parts, separated by commas: commands, models, runs.")
    parse.add_argument("--against", type=Path, help="Another checkout, to compare with instead.")
    options = parse.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, rows = Path(temporary), []
        if options.against:
            rows, options.only = against_rows(folder, options.against, options.rounds), ""
        for part in filter(None, options.only.split(",")):
            if part == "commands":
                rows += command_rows(folder, options.rounds)
            elif part == "models":
                rows += model_rows(folder, options.models.split(","), options.rounds)
            elif part == "runs":
                rows += run_rows(folder)
            else:
                sys.exit(f"--only {part!r}: one of {', '.join(PARTS)}")
    print(hardware("cpu"))
    shown = [(*row, None if row[2] is None or row[3] is None else "yes" if row[2] <= row[3] else "no") for row in rows]
    heads = ["", "seconds", "processor s", "at most", "ratio", "met"]
    show(shown, heads, ("", ".2f", ".2f", ".1f", ".2f", ""), options.format)


if __name__ == "__main__":
    main()
