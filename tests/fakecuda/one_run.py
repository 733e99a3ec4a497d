"""One run of a tiny network in this process, beside the fake CUDA runtime; prints its record.

    one_run.py RESULTS BUDGET [DEVICE]

A budget of seconds is taken to buy 40 steps, so that its run ends as drifted, unless something else is wrong with it.
"""

import io
import os
import sys
import time
from pathlib import Path

from equibench.bench.job import Events, Job
from equibench.bench.record import Context
from equibench.bench.spec import Suite, plan
from equibench.registry import include

TINY = str(Path(__file__).parents[1] / "bench" / "tiny.py")


def job(results: str, budget: str, device: str = "cuda:0") -> Job:
    include([TINY])
    suite = Suite(name="s", dataset="digits-rot", budget=budget, seeds=1, models=["tiny"])
    timed = budget.startswith("t")
    spec = plan(suite, {"tiny": 40} if timed else None, "a key" if timed else None)[0]
    context = Context(suite="s", parameter_class="as-published", reference_parameters=None, reference_model=None)
    return Job(
        spec=spec, attempt=1, context=context, device=device, threads=1, results=results, data_root=None, include=[TINY],
        command="a test",
    )  # fmt: skip


if __name__ == "__main__":
    start = time.perf_counter()
    from equibench.bench.run import execute

    execute(job(*sys.argv[1:]), Events(io.StringIO()), start, time.perf_counter())
    (path,) = Path(sys.argv[1]).glob("runs/*/*.json")
    print(path.read_text())
    sys.stdout.flush()
    os._exit(0)  # at a regular end the runtime's threads may outlive what they work for
