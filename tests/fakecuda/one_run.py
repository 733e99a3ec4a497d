"""One run of a tiny network in this process, beside the fake CUDA runtime; prints its record.

    one_run.py RESULTS BUDGET [DEVICE [MODEL]]

A budget of seconds is taken to buy 40 steps, so that its run ends as drifted, unless something else is wrong with it.
"""

import io
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch
from equibench import register_model
from equibench.bench.records.record import Context
from equibench.bench.spec.suite import Suite, plan
from equibench.bench.training.job import Events, Job
from equibench.registry import include
from torch import nn

TINY = str(Path(__file__).parents[1] / "bench" / "tiny.py")
#: MiB that `Hog` takes in evaluation, and in training.
IN_EVALUATION, IN_TRAINING = 300, 200


class Hog(nn.Module):
    """Takes much memory for a moment of each pass, and more in evaluation than in training."""

    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(pixels, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mib = IN_TRAINING if self.training else IN_EVALUATION
        moment = torch.empty(mib, 2**18, device=images.device)
        return self.linear(images.flatten(1)) + 0 * moment[0, 0]


@register_model("hog", group="none", invariant="none", source="made up")
def hog(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """See `Hog`."""
    return Hog(in_channels * image_size**2, num_classes)


class Visited(nn.Module):
    """While it trains, from its 22nd step to its 30th, another process is on the GPU: the one that started this one.

    Args:
        ends_at: the step in which this process is asked to end; None for none.
    """

    built = 0

    def __init__(self, pixels: int, classes: int, ends_at: int | None = None) -> None:
        super().__init__()
        self.linear, self.steps, self.ends_at = nn.Linear(pixels, classes), 0, ends_at
        Visited.built += 1
        self.is_twin = Visited.built == 1  # it is only warmed up

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        guest = Path(os.environ["FAKE_CUDA_CONTEXTS"]) / f"0.{os.getppid()}"
        self.steps += self.training and not self.is_twin
        if self.training and self.steps == 22:
            guest.write_text("0")
        if self.training and self.steps == 30:
            guest.unlink(missing_ok=True)
        if self.training and self.steps == self.ends_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.linear(images.flatten(1))


@register_model("visited", group="none", invariant="none", source="made up")
def visited(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """See `Visited`."""
    return Visited(in_channels * image_size**2, num_classes)


@register_model("interrupted", group="none", invariant="none", source="made up")
def interrupted(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """See `Visited`. It is asked to end within a block of steps, in which the other process came."""
    return Visited(in_channels * image_size**2, num_classes, ends_at=25)


def job(results: str, budget: str, device: str = "cuda:0", model: str = "tiny") -> Job:
    include([TINY, __file__])
    suite = Suite(name="s", dataset="digits-rot", budget=budget, seeds=1, models=[model])
    timed = budget.startswith("t")
    spec = plan(suite, {model: 400 if model == "interrupted" else 40} if timed else None, "a key" if timed else None)[0]
    context = Context(suite="s", parameter_class="as-published", reference_parameters=None, reference_model=None)
    return Job(
        spec=spec, attempt=1, context=context, device=device, threads=1, results=results, data_root=None, include=[TINY,
        __file__],
        command="a test",
    )  # fmt: skip


if __name__ == "__main__":
    start = time.perf_counter()
    from equibench.bench.records.record import CorePoint
    from equibench.bench.training import run
    from equibench.bench.training.stopping import Stop, Stopped

    # Logits are garbage here, and what is made of them may be no number that a record takes.
    run.measure_core = lambda *_: CorePoint(eq_exact_c4=None, eq_exact_d4=None, eq_rot_analytic=None, collapsed=True)
    run.accuracy_pct = lambda *_: 50.0
    stop = Stop()
    stop.listen()
    with suppress(Stopped):
        run.execute(job(*sys.argv[1:]), Events(io.StringIO()), start, time.perf_counter(), stop)
        (path,) = Path(sys.argv[1]).glob("runs/*/*.json")
        print(path.read_text())
    sys.stdout.flush()
    os._exit(0)  # at a regular end the runtime's threads may outlive what they work for
