"""A look at models before anything is trained: do they build, what do they return, what do they cost."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..registry import build_model, include
from .cost import count_parameters, frozen
from .job import Events, Probe
from .lean import spare_compiler
from .prepare import WrongShape, check_output


def probe(job: Probe, events: Events) -> None:
    """Build every model and send one event each: ``parameters`` and ``flops``, or what went wrong.

    An event with ``wrong_shape`` says that the model breaks its contract. Any other error is left to the
    model's own runs, whose rows will say it.
    """
    torch.set_num_threads(1)
    spare_compiler()
    include(job.include)
    events.send("devices", cuda=torch.cuda.device_count() if torch.cuda.is_available() else 0)
    for name in job.models:
        try:
            torch.manual_seed(0)
            model = build_model(name, job.channels, job.classes, job.size)
            with frozen(model), FlopCounterMode(display=False) as flops:
                check_output(model, job.channels, job.classes, job.size)
            events.send("model", model=name, parameters=count_parameters(model), flops=flops.get_total_flops() // 2)
        except WrongShape as error:
            events.send("model", model=name, wrong_shape=str(error))
        except Exception as error:  # whatever a model raises here, its runs will raise and record
            events.send("model", model=name, error=f"{type(error).__name__}: {error}")
    events.send("done", status="ok")
