"""Runs that are killed and go on: the same weights and figures as runs that were left alone."""

import os
import random
import signal
from pathlib import Path

import pytest
import torch
from equibench.bench.measures.clock import HostClock, Phases
from equibench.bench.records.provenance import SHARED
from equibench.bench.records.record import CorePoint, RunRecord, Size
from equibench.bench.spec.seeds import derive
from equibench.bench.spec.suite import find_suite, plan
from equibench.bench.training.checkpoint import Checkpoints, Facts, Origin
from equibench.bench.training.prepare import Loaded, build_from_seed, set_profile, weights_digest
from equibench.bench.training.stopping import Stop, Stopped
from equibench.bench.training.train import Training, train
from equibench.datasets.images import load

from ..faults.process import checkpoints, figures, interrupt, job, kept_step, leftovers, records, run, the_record

#: With dropout, and with steerable kernels that the state dictionary leaves out.
PAPER, STEERABLE = "pdo-econv-p8-paper", "e2cnn-c8-25k"


def test_killed_then_asked_to_end_then_finished_gives_the_same_bits(tmp_path: Path) -> None:
    whole = job(tmp_path / "whole")
    assert run(whole)[0] == 0
    seed = random.randrange(10**6)
    print("seed", seed)
    first, second = sorted(random.Random(seed).sample(range(2, 60), 2))
    cut = job(tmp_path / "cut")
    # At its first start it shares its device, which it says at the end.
    assert interrupt(cut.model_copy(update={"sharing": 4}), first, signal.SIGKILL) == -signal.SIGKILL
    killed_at = kept_step(cut)
    for part in Path(cut.results).rglob("*.part"):  # the kill may have come in the middle of a write
        os.utime(part, (0, 0))  # the next start removes what is an hour old
    assert interrupt(cut, second, signal.SIGTERM) == -signal.SIGTERM  # so the parent sees why it ended
    assert not records(cut) and 1 <= len(checkpoints(cut)) <= 2 and first <= killed_at < kept_step(cut)
    stopped_at = kept_step(cut)
    code, events = run(cut)
    assert code == 0 and {"event": "resumed", "step": stopped_at, "steps": cut.spec.steps} in events
    record = the_record(cut)
    assert figures(record) == figures(the_record(whole))
    assert record.runs_on_device == 4 and SHARED not in the_record(whole).provenance.hardware
    assert not checkpoints(cut) and not leftovers(cut)
    _tells_of_two_interruptions(record, [killed_at, stopped_at])
    assert not the_record(whole).warnings
    # A finished run is not run again.
    assert run(cut)[1][-1]["status"] == "elsewhere" and len(records(cut)) == 1


def _tells_of_two_interruptions(record: RunRecord, steps: list[int]) -> None:
    assert [w for w in record.warnings if f"resumed after step {steps[0]}, {steps[1]} of {record.spec.steps}" in w]
    phases = dict(record.phases)
    total = phases.pop("total_s")
    assert sum(phases.values()) == pytest.approx(total, abs=1e-3) and phases["checkpoint_s"] > 0
    assert record.results.train_s <= phases["train_s"] and record.results.train_s == record.curve[-1].device_s


def partly_trained(name: str, root: Path, steps: int, end_at: int | None = None) -> tuple[str, list]:
    """Weights and losses of a few steps of a model of the quickstart, ended after a step or gone on with."""
    spec = next(s for s in plan(find_suite("quickstart")) if s.model == name)
    set_profile(spec.profile, 1)
    data = load(spec.dataset)
    loaded, stop, phases = Loaded(data, spec, torch.device("cpu")), Stop(), Phases()
    core = CorePoint(eq_exact_c4=None, eq_exact_d4=None, eq_rot_analytic=None, collapsed=True)
    size = Size(parameters=1, dense_weights=1, buffers=1, flops_per_image=1, train_flops_per_image=1)
    origin = Origin(spec=spec.digest(), source_hash="0" * 16, data_digest="", versions={}, hardware_key="", threads=1)

    def facts(done: Training, finished: bool) -> Facts:
        return Facts(
            schema_version=1, origin=origin, attempt=1, step=done.steps, stopped=done.stopped, finished=finished,
            device_s=done.device_s, curve=list(done.curve), phases=phases.total(), resumed=[], init=core, cost=size,
            peak_mib=1.0, started="", warnings=[],
        )  # fmt: skip

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        stop.signal = signal.SIGTERM if end_at == step + 1 else 0
        return loaded.batches(step)

    keeper = Checkpoints(root, spec.board, origin, 1, 3600.0, stop, facts, lambda: phases.instead("checkpoint"))
    model = build_from_seed(spec, data, torch.device("cpu"))
    torch.manual_seed(derive(spec.seed, "training"))
    done = train(model, batch, spec.recipe, steps, HostClock(), keeper=keeper)
    return weights_digest(model.state_dict()), [(p.step, p.loss) for p in done.curve]


@pytest.mark.parametrize("name", [PAPER, STEERABLE])
def test_the_state_of_a_network_is_all_that_a_checkpoint_holds(name: str, tmp_path: Path) -> None:
    whole = partly_trained(name, tmp_path / "whole", steps=3)
    with pytest.raises(Stopped):
        partly_trained(name, tmp_path / "cut", steps=3, end_at=2)
    assert partly_trained(name, tmp_path / "cut", steps=3) == whole


@pytest.mark.slow  # about four minutes of a core for a model: four interruptions in 93 steps of the quickstart's budget
@pytest.mark.parametrize("name", [PAPER, STEERABLE])
def test_sigkill_at_random_steps_changes_no_bit(name: str, tmp_path: Path) -> None:
    whole = job(tmp_path / "whole", name, "e2", "digits-rot")
    assert run(whole)[0] == 0
    seed = random.randrange(10**6)
    print("seed", seed)
    cut = job(tmp_path / "cut", name, "e2", "digits-rot")
    for step in sorted(random.Random(seed).sample(range(1, whole.spec.steps - 3), 4)):
        assert interrupt(cut, step, signal.SIGKILL) == -signal.SIGKILL
    assert run(cut)[0] == 0
    assert figures(the_record(cut)) == figures(the_record(whole))
    assert [w for w in the_record(cut).warnings if "resumed after step" in w]
