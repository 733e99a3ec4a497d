"""Checkpoints: the same bits after an interruption at any step, and nothing that is not whole is gone on from."""

import math
import os
import queue
import random
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from equibench.bench.records.record import CorePoint, Size
from equibench.bench.records.store import checkpoints_of, last_step, remove_checkpoints
from equibench.bench.spec.recipe import find_recipe
from equibench.bench.tools.files import WriteError, remove_parts, write_atomically, write_exclusively
from equibench.bench.training.checkpoint import Checkpoints, Facts, Origin, read_checkpoint
from equibench.bench.training.prepare import weights_digest
from equibench.bench.training.stopping import ORPHAN_S, Stop, Stopped
from equibench.bench.training.train import Training, optimizer_for, train
from torch import nn

from .test_train import HandClock

RECIPE, BOARD, STEPS = find_recipe("common"), "made-up-e2-common-v1", 60
ORIGIN = Origin(
    spec="0" * 16, source_hash="1" * 16, data_digest="2" * 64, versions={"torch": "2"}, hardware_key="here", threads=1
)


class Net(nn.Module):
    """Everything that a state can hide in: dropout, running statistics, a buffer that no state dictionary tells."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Dropout(0.4), nn.Flatten(), nn.Linear(12, 2)
        )
        self.register_buffer("mean", torch.zeros(1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + images.mean()
        return self.layers(images) * (1 + self.mean)


class Ramped(Net):
    """Its dropout grows by a counter in a Python attribute, and half of it learns from a certain step on."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.rates = 0, []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.step += 1
            self.layers[2].p = min(0.8, 0.01 * self.step)
            self.rates = [*self.rates[-2:], (self.step, self.layers[2].p)]
            self.layers[0].weight.requires_grad_(self.step > STEPS // 3)
        return super().forward(images) * (1 + sum(p for _, p in self.rates) * random.random() + np.random.rand())


class Meter:
    def __init__(self) -> None:
        self.seen = 0


class Metered(Net):
    """Depends on an object that no checkpoint can keep."""

    def __init__(self) -> None:
        super().__init__()
        self.meter = Meter()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.meter.seen += 1
        return super().forward(images) * (1 + self.meter.seen / 100)


def facts(done: Training, finished: bool, origin: Origin = ORIGIN) -> Facts:
    core = CorePoint(eq_exact_c4=0.5, eq_exact_d4=0.25, eq_rot_analytic=None, collapsed=False)
    return Facts(
        schema_version=1, origin=origin, attempt=1, step=done.steps, stopped=done.stopped, finished=finished,
        device_s=done.device_s, curve=list(done.curve), phases={"train_s": 1.0, "other_s": 0.0, "total_s": 1.0},
        resumed=[], waited_s=done.waited_s,
        init=core, cost=Size(parameters=1, dense_weights=1, buffers=1, flops_per_image=1, train_flops_per_image=1),
        peak_mib=1.0, started="2026-01-01T00:00:00+00:00", warnings=[],
    )  # fmt: skip


def opened(root: Path, stop: Stop | None = None, every_s: float = 3600.0, origin: Origin = ORIGIN) -> Checkpoints:
    return Checkpoints(root, BOARD, origin, 1, every_s, stop or Stop(), facts, nullcontext)


def trained(
    keeper: Checkpoints | None,
    recipe: str = "common",
    at: Callable[[int], None] = lambda _: None,
    seed: int = 0,
    make: Callable[[], Net] = Net,
) -> tuple[str, list, float]:
    """Weights, curve and seconds of a training; `at` is called in every step."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    model, clock = make(), HandClock()

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        at(step)
        clock.time += 0.5 + step / 1024
        generator = torch.Generator().manual_seed(step)
        images = torch.rand(8, 1, 3, 3, generator=generator)
        return images, (images.mean((1, 2, 3)) > 0.5).long()

    optimizer = {"common": "adam", "adamw": "adamw", "sgd": "sgd"}[recipe]
    changed = RECIPE.model_copy(update={"optimizer": optimizer, "momentum": 0.9, "weight_decay": 0.01})
    done = train(model, batch, changed, STEPS, clock, keeper=keeper)
    assert done.steps == STEPS
    return weights_digest({**model.state_dict(), "mean": model.mean}), done.curve, done.device_s


def interrupt(root: Path, step: int, recipe: str = "common", make: Callable[[], Net] = Net) -> None:
    """Train until a request to end comes in the given step."""
    stop = Stop()

    def at(now: int) -> None:
        stop.signal = signal.SIGTERM if now == step else stop.signal

    with pytest.raises(Stopped):
        trained(opened(root, stop), recipe, at, make=make)


#: Blocks have two steps each: their borders, both ends, and the last step, after which nothing is left.
INTERRUPTED = {"common": (0, 1, 28, 29, STEPS - 2, STEPS - 1), "adamw": (28,), "sgd": (29,)}


@pytest.mark.parametrize("recipe", INTERRUPTED)
def test_an_interruption_at_any_step_changes_no_bit(recipe: str, tmp_path: Path) -> None:
    whole = trained(None, recipe)
    for step in INTERRUPTED[recipe]:
        root = tmp_path / str(step)
        interrupt(root, step, recipe)
        keeper = opened(root)
        assert keeper.saved is not None and keeper.saved.facts.step == step + 1
        torch.manual_seed(step)  # independent of the generators' earlier state
        assert trained(keeper, recipe, seed=99) == whole


@pytest.mark.parametrize("step", [0, 15, 40, STEPS - 1])
def test_counters_in_python_attributes_go_on(step: int, tmp_path: Path) -> None:
    whole = trained(None, make=Ramped)
    assert whole != trained(None), "the counter changes the weights"
    interrupt(tmp_path, step, make=Ramped)
    keeper = opened(tmp_path)
    assert keeper.saved is not None and trained(keeper, seed=99, make=Ramped) == whole and not keeper.notes


@pytest.mark.parametrize(("fits", "waited"), [(True, 7.0), (False, 0.0)])
def test_waiting_before_a_checkpoint_counts_where_its_seconds_do(tmp_path: Path, fits: bool, waited: float) -> None:
    interrupt(tmp_path, 20)
    keeper, model = opened(tmp_path), Net()
    keeper.saved.facts = keeper.saved.facts.model_copy(update={"waited_s": 7.0})
    if not fits:
        keeper.saved.tensors["attributes"]["modules"]["more"] = {}
    done = keeper.restore(model, optimizer_for(model, RECIPE))
    assert done.waited_s == waited and (done.device_s > 0) == fits


def test_an_attribute_that_cannot_be_kept_makes_the_run_start_again_with_a_note(tmp_path: Path) -> None:
    whole = trained(None, make=Metered)
    interrupt(tmp_path, 20, make=Metered)
    keeper = opened(tmp_path)
    assert keeper.saved is None and not keeper.safe
    assert keeper.notes == [
        "the checkpoint of step 21 was not used: training changes meter, which no checkpoint keeps; make it a"
        " buffer, a"
        " number, a text, or a list of these"
    ]
    assert trained(keeper, make=Metered) == whole
    assert not keeper.safe, "the end of the training cannot be gone on from either"


def test_a_model_with_other_modules_does_not_take_the_attributes(tmp_path: Path) -> None:
    interrupt(tmp_path, 20)
    keeper = opened(tmp_path)
    keeper.saved.tensors["attributes"]["modules"]["more"] = {"p": 0.9}
    assert trained(keeper) == trained(None) and "does not fit" in keeper.notes[0]


def test_a_run_may_be_interrupted_again_and_again(tmp_path: Path) -> None:
    generator = random.Random(7)
    steps = sorted(generator.sample(range(STEPS), 4))
    for step in steps:
        interrupt(tmp_path, step)
    assert trained(opened(tmp_path), seed=5) == trained(None)


def test_time_already_spent_counts_and_the_restart_does_not(tmp_path: Path) -> None:
    interrupt(tmp_path, 40)
    whole, resumed = trained(None), trained(opened(tmp_path))
    assert resumed[2] == whole[2] == sum(0.5 + step / 1024 for step in range(STEPS))


def test_a_finished_training_is_kept_and_only_its_model_is_needed(tmp_path: Path) -> None:
    whole = trained(opened(tmp_path))
    keeper = opened(tmp_path)
    assert keeper.finished and keeper.safe and keeper.saved.tensors["optimizer"] is None
    assert trained(keeper, at=lambda _: pytest.fail("no step is left")) == whole


def test_two_are_kept_and_those_of_a_finished_run_are_removed(tmp_path: Path) -> None:
    keeper = opened(tmp_path, every_s=1e-9)
    trained(keeper)
    paths = checkpoints_of(tmp_path, BOARD, ORIGIN.spec)
    assert paths == keeper.kept and len(paths) == 2 and last_step(tmp_path, BOARD, ORIGIN.spec) == STEPS
    assert not list(paths[0].parent.glob(".*"))
    remove_checkpoints(tmp_path, BOARD, ORIGIN.spec, attempt=0)
    assert len(checkpoints_of(tmp_path, BOARD, ORIGIN.spec)) == 2
    remove_checkpoints(tmp_path, BOARD, ORIGIN.spec, attempt=1)
    assert not checkpoints_of(tmp_path, BOARD, ORIGIN.spec)


def test_between_checkpoints_nothing_is_written(tmp_path: Path) -> None:
    trained(opened(tmp_path))
    assert len(checkpoints_of(tmp_path, BOARD, ORIGIN.spec)) == 1  # the end


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_the_older_one_is_used_where_the_newer_is_damaged(damage: str, tmp_path: Path) -> None:
    interrupt(tmp_path, 20)
    interrupt(tmp_path, 50)
    _, newer = checkpoints_of(tmp_path, BOARD, ORIGIN.spec)
    _damage(newer, damage, random.Random(3))
    keeper = opened(tmp_path)
    assert keeper.saved.facts.step == 21
    assert (
        len(keeper.notes) == 1 and "step 51 was not used" in keeper.notes[0] and "hash in its name" in keeper.notes[0]
    )
    assert trained(keeper) == trained(None)


def _damage(path: Path, how: str, generator: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    path.write_bytes(b"" if how == "empty" else data[: generator.randrange(1, len(data))] if how == "cut" else data)


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path: Path) -> None:
    interrupt(tmp_path, 5)
    (path,) = checkpoints_of(tmp_path, BOARD, ORIGIN.spec)
    whole, generator = path.read_bytes(), random.Random(1)
    for how in ("flip", "cut") * 25:
        path.write_bytes(whole)
        _damage(path, how, generator)
        assert opened(tmp_path).saved is None


def test_without_an_undamaged_checkpoint_the_run_starts_again_with_a_note(tmp_path: Path) -> None:
    interrupt(tmp_path, 20)
    for path in checkpoints_of(tmp_path, BOARD, ORIGIN.spec):
        _damage(path, "cut", random.Random(2))
    keeper = opened(tmp_path)
    assert keeper.saved is None and keeper.notes and trained(keeper) == trained(None)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"source_hash": "3" * 16}, "source"),
        ({"data_digest": "3" * 64}, "data"),
        ({"versions": {"torch": "3"}}, "version of torch"),
        ({"hardware_key": "elsewhere"}, "processor"),
        ({"threads": 2}, "threads"),
    ],
)
def test_a_checkpoint_of_another_origin_is_ignored_with_a_sentence(change: dict, word: str, tmp_path: Path) -> None:
    interrupt(tmp_path, 20)
    keeper = opened(tmp_path, origin=ORIGIN.model_copy(update=change))
    assert keeper.saved is None
    assert keeper.notes == [f"the checkpoint of step 21 was not used: its {word} changed since"]


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {tmp_path}/executed",)

    import hashlib
    import io

    stream = io.BytesIO()
    torch.save({"facts": Evil()}, stream)
    data = stream.getvalue()
    path = tmp_path / "runs" / BOARD / "checkpoints" / f"{ORIGIN.spec}.1.9.{hashlib.sha256(data).hexdigest()[:16]}.pt"
    write_atomically(path, data)
    keeper = opened(tmp_path)
    assert keeper.saved is None and "not a checkpoint" in keeper.notes[0] and not (tmp_path / "executed").exists()


def test_a_checkpoint_of_another_shape_is_not_put_into_the_model(tmp_path: Path) -> None:
    interrupt(tmp_path, 20)
    keeper = opened(tmp_path)
    keeper.saved.tensors["model"]["layers.0.weight"] = torch.zeros(3, 1, 3, 3)
    assert trained(keeper) == trained(None) and "does not fit" in keeper.notes[0]


def test_a_training_that_ended_in_no_number_stays_so(tmp_path: Path) -> None:
    model, clock = Net(), HandClock()

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((4, 1, 3, 3), math.nan), torch.tensor([0, 1, 0, 1])

    train(model, batch, RECIPE, STEPS, clock, keeper=opened(tmp_path))
    keeper = opened(tmp_path)
    done = train(Net(), lambda _: pytest.fail("no step is left"), RECIPE, STEPS, clock, keeper=keeper)
    assert done.stopped == "diverged" and done.curve[-1].loss is None and keeper.finished


def test_a_second_request_does_not_wait_for_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, now = Stop(), [100.0]
    monkeypatch.setattr("equibench.bench.training.stopping.time.monotonic", lambda: now[0])
    with stop.patient():
        stop._hear(signal.SIGTERM, None)
        assert stop.asked
        now[0] += 1.5  # the scheduler and the task both pass on one request
        stop._hear(signal.SIGTERM, None)
        now[0] += 1.0
        with pytest.raises(Stopped):
            stop._hear(signal.SIGTERM, None)
    with pytest.raises(Stopped):
        Stop()._hear(signal.SIGINT, None)


def test_an_orphan_ends_in_training_and_finishes_what_comes_after(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: queue.Queue[tuple[int, int]] = queue.Queue()
    waited: list[float] = []
    # The watch ends its own process in the end, which here is that of the tests.
    monkeypatch.setattr("equibench.bench.training.stopping.os.kill", lambda *what: killed.put(what))
    monkeypatch.setattr("equibench.bench.training.stopping.time.sleep", waited.append)
    stop, (read, write) = Stop(), os.pipe()
    stop.watch_parent(read)
    assert not stop.asked and killed.empty()
    os.close(write)
    assert killed.get(timeout=60) == (os.getpid(), signal.SIGKILL) and ORPHAN_S in waited
    os.close(read)
    stop.check(finished=True)
    with pytest.raises(Stopped):
        stop.check(finished=False)


def test_a_name_that_is_taken_is_never_replaced_and_no_part_stays(tmp_path: Path) -> None:
    write_exclusively(tmp_path / "a.json", b"one")
    with pytest.raises(FileExistsError):
        write_exclusively(tmp_path / "a.json", b"two")
    write_atomically(tmp_path / "a.json", b"three")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((WriteError, FileExistsError)):
        write_atomically(tmp_path / "file" / "a.json", b"four")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "file"]
    assert (tmp_path / "a.json").read_bytes() == b"three"


def test_parts_that_killed_processes_left_are_removed_when_they_are_old(tmp_path: Path) -> None:
    for name in (".abc.1.x.json.q.part", ".abd.1.x.json.q.part", ".abc.new.part"):
        (tmp_path / name).write_bytes(b"")
        if "new" not in name:
            os.utime(tmp_path / name, (0, 0))
    remove_parts(tmp_path, "abc")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".abc.new.part", ".abd.1.x.json.q.part"]


def test_a_checkpoint_reads_back_as_it_was_written(tmp_path: Path) -> None:
    interrupt(tmp_path, 44)
    (path,) = checkpoints_of(tmp_path, BOARD, ORIGIN.spec)
    saved = read_checkpoint(path)
    assert saved.facts.step == 45 and len(saved.facts.curve) == 22 and saved.facts.curve[-1].step == 44
    assert set(saved.tensors["loose"]) == {"mean"}
