"""What training on a CPU gains from the malloc settings of a run's process; prints ratios.

    uv run python benchmarks/malloc.py [--models p4cnn,…] [--steps 20] [--rounds 7]

Two processes train the same network from the same seed on the same batches, in turns: one has the settings
(`runner.local.MALLOC`), the other has not. `faults`: pages that the kernel hands out in a step. `same bits`: whether
both have the same weights after every turn.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from typing import Any

import torch
from equibench.bench.measures.clock import clock_for
from equibench.bench.measures.execution_profile import begin
from equibench.bench.runner.local import environment
from equibench.bench.spec.suite import find_suite, plan
from equibench.bench.training.prepare import Loaded, build_from_seed, tensors_of, weights_digest
from equibench.bench.training.train import train
from equibench.datasets.images import load
from side_by_side import hardware, parser, show, side_by_side


def serve(name: str, steps: int) -> None:
    """In a process: train that many steps for each line of standard input, and answer with what they took."""
    warnings.simplefilter("ignore")
    suite = find_suite("quickstart").model_copy(update={"models": [name]})
    spec, device = plan(suite)[0].model_copy(update={"steps": steps}), begin("cpu", suite.profile, 1)
    data = load(spec.dataset)
    loaded, model = Loaded(data, spec, device), build_from_seed(spec, data, device)
    for _ in sys.stdin:
        torch.manual_seed(0)  # dropout
        before = resource.getrusage(resource.RUSAGE_SELF)
        train(model, loaded.batches, spec.recipe, spec.steps, clock_for("cpu"), spec.profile)
        after = resource.getrusage(resource.RUSAGE_SELF)
        faults = (after.ru_minflt - before.ru_minflt) / steps
        print(json.dumps({"faults": faults, "weights": weights_digest(tensors_of(model))}), flush=True)


class Trainer:
    """A process with or without the settings, and its answers."""

    def __init__(self, name: str, steps: int, settings: bool) -> None:
        variables = environment(1)
        if not settings:
            variables.pop("GLIBC_TUNABLES")
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", name, "--steps", str(steps)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env=variables,
        )  # fmt: skip
        self.answers: list[dict[str, Any]] = []

    def __call__(self) -> None:
        """Train the steps."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.answers.append(json.loads(self._process.stdout.readline()))

    def end(self) -> None:
        """End the process."""
        self._process.communicate()


def main() -> None:
    """Measure, and print a line a model."""
    parse = parser(__doc__)
    parse.add_argument("--models", default="pdo-econv-p8,e2cnn-c8-25k,p4cnn,z2cnn-22,wrn-10-b9")
    parse.add_argument("--steps", type=int, default=20)
    parse.add_argument("--rounds", type=int, default=7)
    parse.add_argument("--serve", metavar="MODEL", help="be one of the two processes")
    options = parse.parse_args()
    if options.serve:
        return serve(options.serve, options.steps)
    os.environ.pop("GLIBC_TUNABLES", None)
    print(f"{hardware('cpu')}; {time.strftime('%Y-%m-%d')}")
    rows = []
    for name in options.models.split(","):
        pair = {kind: Trainer(name, options.steps, settings=kind == "with") for kind in ("without", "with")}
        timing = side_by_side(pair, rounds=options.rounds)
        without, ours = (pair[kind].answers for kind in ("without", "with"))
        milliseconds = [1000 * timing[kind].seconds / options.steps for kind in pair]
        ratio = timing["with"]
        # The first contender is called once more, to find out how long a call takes.
        same = "yes" if all(a["weights"] == b["weights"] for a, b in zip(without, ours, strict=False)) else "no"
        faults = [statistics.median(answer["faults"] for answer in answers) for answers in (without, ours)]
        rows.append((name, *milliseconds, ratio.ratio, f"{ratio.low:.2f}–{ratio.high:.2f}", *faults, same))
        for one in pair.values():
            one.end()
    heads = ["model", "without ms", "with ms", "ratio", "quartiles", "faults without", "faults with", "same bits"]
    show(rows, heads, ("", ".1f", ".1f", ".2f", "", ".0f", ".0f", ""), options.format)


if __name__ == "__main__":
    main()
