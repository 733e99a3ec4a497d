"""Data that give no figures are refused in a sentence; data in a bad order, or with one image too many, are not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from equibench.bench.measures.accuracy import EVAL_BATCH, accuracy_pct, logits
from equibench.bench.measures.norms import reestimate_batch_norm
from equibench.bench.runner.tune import tune
from equibench.bench.spec.suite import RunSpec, Suite, plan
from equibench.bench.tools.machine import Machine
from equibench.bench.training.prepare import BN_IMAGES, Loaded, build_from_seed, rehearse, warm_up
from equibench.bench.training.train import optimizer_for, train_step
from equibench.datasets.batches import as_tensors
from equibench.datasets.images import ImageData, Split, load
from equibench.registry import Registry, UserError, include

from ..small import made_up
from . import test_run as runs

CPU = torch.device("cpu")
SHAPE = (1, 12, 12)


@pytest.mark.parametrize(
    ("shape", "classes", "sizes", "said"),
    [
        ((1, 28, 20), 2, (6, 4, 4), r"shape=\(1, 28, 20\) must be .* height and width are equal \(images are square\)"),
        ((3, 20, 28), 2, (6, 4, 4), "height and width are equal"),
        (SHAPE, 1, (6, 4, 4), "classes=1 must be a whole number, at least 2"),
        (SHAPE, 2, (6, 4, 0), r"sizes=\(6, 4, 0\) must be .*; only validation may have none"),
        (SHAPE, 2, (0, 4, 4), "only validation may have none"),
    ],
)
def test_what_can_never_give_figures_is_refused_where_it_is_registered(
    tmp_path: Path, shape: tuple, classes: int, sizes: tuple, said: str
) -> None:
    registry = Registry("dataset", "datasets")
    registry.include(made_up(tmp_path, "useless", shape, classes, sizes))
    with pytest.raises(UserError, match=rf"useless.py:\d+: .*{said}"):
        registry.entries()


@pytest.mark.parametrize(
    ("part", "labels", "said"),
    [
        ("train", "np.arange(count) % (2 if count == 60 else 3)", "no train images of class 2"),
        ("val", "np.arange(count) % (1 if count == 6 else 3)", "no val images of classes 1, 2"),
        ("test", "np.arange(count) % 3 - np.arange(count) % 3 * (count == 9)", "no test images of classes 1, 2"),
    ],
)
def test_a_class_without_images_is_named_with_its_part(tmp_path: Path, part: str, labels: str, said: str) -> None:
    include([made_up(tmp_path, f"lacks-{part}", SHAPE, 3, (60, 6, 9), labels=labels)])
    with pytest.raises(UserError, match=rf"the data set lacks-{part} \(.*:\d+\) has {said}; every part"):
        load(f"lacks-{part}", tmp_path)
    assert not list((tmp_path / "cache").glob("*.npz"))


@pytest.mark.parametrize("maximum", [255, 65_535])
def test_a_channel_that_never_changes_is_named(tmp_path: Path, maximum: int) -> None:
    path = made_up(tmp_path, f"flat-{maximum}", (3, 12, 12), 2, (60, 6, 9), maximum)
    path.write_text(
        path.read_text().replace("        return Split(", "        images[:, 1] = 7\n        return Split(")
    )
    include([path])
    with pytest.raises(
        UserError, match=f"data set flat-{maximum} .* has train images whose channel 1 is 7 everywhere; leave"
    ):
        load(f"flat-{maximum}", tmp_path)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("float", "2, 255)", "2, 255.0)", "maximum=255.0, of type float; write an int"),
        (
            "numpy",
            "2, 255)",
            "2, np.uint8(255))",
            r"maximum=\S+, of type uint8; write an int",
        ),  # 255 + 1 = 0
        ("text", "2, 255)", "2, '255')", "maximum='255', of type str"),
        ("lists", "Split(images.astype(np.uint8), ", "Split(images.tolist(), ", "train=list and ndarray; give Split"),
        ("masks", "images.astype(np.uint8)", "np.ma.masked_array(images.astype(np.uint8))", "train=MaskedArray and"),
        ("pairs", "return Split(", "return (", "train=tuple; give Split"),
        ("dark", "2, 255)", "2, 65_535)", "no intensity above 2[0-9]+, but maximum=65535; write maximum=2"),
        ("leak", "images = random.", "images = np.random.RandomState(1).", "6 of 6 val images among its train images"),
        (
            "twice",
            "images = random.",
            "images = np.random.RandomState(count == 60).",
            "6 of 9 test images among its train or val images",
        ),
    ],
)
def test_data_of_other_types_and_parts_that_share_images_are_named(
    tmp_path: Path, name: str, old: str, new: str, said: str
) -> None:
    path = made_up(tmp_path, f"wrong-{name}", SHAPE, 2, (60, 6, 9))
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))
    include([path])
    with pytest.raises(UserError, match=f"data set wrong-{name} .* has {said}"):
        load(f"wrong-{name}", tmp_path)


def test_a_data_set_that_was_cached_before_its_images_were_compared_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made_up(tmp_path, "cached-leak", SHAPE, 2, (60, 6, 9))
    path.write_text(path.read_text().replace("images = random.", "images = np.random.RandomState(1)."))
    include([path])
    with monkeypatch.context() as before:
        before.setattr("equibench.datasets.images.SHARED", 1.0)
        load("cached-leak", tmp_path)
    with pytest.raises(UserError, match="6 of 6 val images among its train images"):
        load("cached-leak", tmp_path)


def test_a_source_that_is_gone_is_named(tmp_path: Path) -> None:
    path = made_up(tmp_path, "gone", SHAPE, 2, (60, 6, 9))
    path.write_text(path.read_text().replace("ImageData('gone'", "ImageData(open(root / 'source.bin')"))
    include([path])
    with pytest.raises(UserError, match=r"set gone .* cannot be made: FileNotFoundError: .*source\.bin"):
        load("gone", tmp_path)


def test_a_data_set_has_its_registered_name_also_before_it_is_cached(tmp_path: Path) -> None:
    path = made_up(tmp_path, "renamed", SHAPE, 2, (60, 6, 9))
    path.write_text(path.read_text().replace("ImageData('renamed'", "ImageData('digits-rot'"))
    include([path])
    assert [load("renamed", tmp_path).name for _ in range(2)] == ["renamed"] * 2


@pytest.mark.parametrize("fit", ["train+val", pytest.param("train", marks=pytest.mark.whole)])
def test_without_validation_images_there_is_no_validation_accuracy_and_no_tuning(tmp_path: Path, fit: str) -> None:
    file = made_up(tmp_path, "no-val", SHAPE, 4, (80, 0, 20))
    places = ["--data-root", str(tmp_path / "data"), "--results", str(tmp_path / "results"), "--include", str(file)]
    options = ["--dataset", "no-val", "--budget", "e2", "--models", "tiny", "--seeds", "1", "--device", "cpu"]
    done = runs.equibench("run", *options, "--fit", fit, *places, "--include", str(runs.TINY), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for record in runs.records(tmp_path)["tiny"]:
        assert record.status == "ok" and record.results.val_acc_pct is None and record.results.train_images == 80
    suite = Suite.model_validate({"name": "s", "dataset": "no-val", "budget": "e2", "models": ["tiny"], "seeds": 1})
    here = Machine(includes=(runs.TINY, file), data_root=tmp_path / "data")
    with pytest.raises(UserError, match="data set 'no-val' has no validation images"):
        tune(suite, results=tmp_path / "tuned", machine=here)
    assert not (tmp_path / "tuned").exists()


def spec_of(**changes) -> RunSpec:
    include([runs.TINY])
    values = {"name": "s", "dataset": "bars", "budget": "e2", "models": ["tiny"], "seeds": 2, **changes}
    return plan(Suite.model_validate(values))[0]


def sorted_by_class(each: int, classes: int = 4, test: int = 40) -> ImageData:
    """Images whose class is how bright and how rough they are, one class after another."""
    random = np.random.RandomState(0)

    def part(count: int) -> Split:
        labels = np.repeat(np.arange(classes), count)
        noise = random.randint(-10, 11, (len(labels), *SHAPE)) * (1 + labels[:, None, None, None])
        return Split((60 + 40 * labels[:, None, None, None] + noise).clip(0, 255).astype(np.uint8), labels)

    return ImageData("sorted", part(each), part(test // classes), part(test // classes), classes, 255)


def test_images_sorted_by_class_are_scored_as_if_they_were_not() -> None:
    """The first 1,000 images hold some of the classes: their statistics are not those of the data."""
    data, spec = sorted_by_class(400), spec_of()
    loaded = Loaded(data, spec, CPU)
    model = build_from_seed(spec, data, CPU)
    optimizer = optimizer_for(model, spec.recipe)
    model.train()
    for step in range(300):
        train_step(model, optimizer, *loaded.batches(step), "strict")
    reestimate_batch_norm(model, loaded.unaugmented())
    images, labels = as_tensors(data.test, CPU)
    assert accuracy_pct(logits(model, images, loaded.normalise), labels) >= 99.0


@pytest.mark.parametrize("count", [2, 3, 249, 250, 251, 501, 999, 1001, 1251])
def test_no_batch_of_the_sample_is_of_one_image(count: int) -> None:
    images = np.random.RandomState(0).randint(0, 256, (count, *SHAPE)).astype(np.uint8)
    split = Split(images, np.arange(count) % 2)
    loaded = Loaded(ImageData("x", split, split, split, 2, 255), spec_of(), CPU)
    sample = list(loaded.unaugmented())
    sizes = [len(batch) for batch in sample]
    assert sum(sizes) == min(count, BN_IMAGES) and max(sizes) <= EVAL_BATCH and min(sizes) >= 2
    drawn = {batch.numpy().tobytes() for part in sample for batch in part}
    assert len(drawn) == sum(sizes)  # no image twice


def test_the_sample_has_each_class_in_its_share_and_follows_the_seed() -> None:
    labels = np.repeat([0, 1, 2], [3000, 900, 600])
    images = np.zeros((len(labels), *SHAPE), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = labels * 100, np.arange(len(labels)) % 256
    split = Split(images, labels)
    data = ImageData("x", split, split, split, 3, 255)
    one, same, other = (list(Loaded(data, spec_of(seeds=[seed]), CPU).unaugmented()) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    _, counts = np.unique(torch.cat(one)[:, 0, 0, 0].numpy(), return_counts=True)
    assert sorted(counts, reverse=True) == pytest.approx([BN_IMAGES * n / 4500 for n in (3000, 900, 600)], abs=1)


LATE = '''
import torch
from torch import nn
from equibench import register_model

class Late(nn.Module):
    """Fails only once it has been trained, or only where a run ends."""

    def __init__(self, channels, classes, how):
        super().__init__()
        self.how, self.steps = how, 0
        self.body = nn.Sequential(
            nn.Conv2d(channels, 8, 5), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, classes))
        if how == "pace":
            self.body[1] = Pace(8)
        if how == "observes":  # as fake quantisation does, if its observers are not switched off
            self.register_buffer("largest", torch.zeros(()))
        if how == "counts":  # nothing reads it
            self.register_buffer("seen", torch.zeros(10))
        self.calls, self.memory = 0, torch.zeros(classes)

    def forward(self, images):
        self.steps += self.training
        if self.how == "splits" and self.body[1].training and len(images) % 2:
            raise ValueError("an odd batch cannot be split")
        if self.how == "trained" and self.steps and not self.training:
            raise ValueError("cannot be evaluated once it has been trained")
        if self.how == "large" and not self.training and len(images) > 100:
            raise ValueError("takes 100 images")
        if self.how == "odd" and not self.training and len(images) == 3:
            raise ValueError("no batch of three")
        if self.how == "counts":
            self.seen = self.seen + len(images)
        self.calls += self.how in ("sharpens", "draws") and not self.training
        scores = self.head(self.body(images)) * (1 + self.calls * (self.how == "sharpens"))
        if self.how == "draws":
            scores = nn.functional.dropout(scores, 0.2)
        if self.how == "remembers" and not self.training:
            self.memory = self.memory.lerp(scores.detach().mean(0), 0.5)
            scores = scores - self.memory
        if self.how == "drifts" and not self.training:
            self.head[2].bias.data += scores.detach().mean(0)
        if self.how == "observes":
            self.largest = self.largest.lerp(scores.detach().abs().max(), 0.1)
        return scores / (1 + self.largest) if self.how == "observes" else scores

class Pace(nn.BatchNorm2d):
    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        return nn.functional.batch_norm(x, mean, var, None, None, self.training, 0.1, self.eps)

@register_model("late-{how}", group="none", invariant="none", source="made up")
def late(in_channels, num_classes, image_size, *, how: str):
    return Late(in_channels, num_classes, how)
'''
LATE_FAULTS = {
    "trained": "cannot be"
        " evaluated once", "large": "takes 100 images", "odd": "no batch of three", "pace": "momentum is 1",
    "splits": "an odd batch", "observes": "evaluation changes largest, so a score",
    "sharpens": "evaluation changes calls, so", "drifts": "evaluation changes head.2.bias, so",
    "remembers": "evaluation changes memory, so",
}  # fmt: skip


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("late") / "late.py"
    path.write_text(LATE)
    return path


@pytest.mark.parametrize("how", [*LATE_FAULTS, "never", "counts", "draws"])
def test_what_fails_after_the_training_fails_in_the_rehearsal(how: str, late: Path) -> None:
    include([late])
    data, spec = sorted_by_class(64), spec_of()
    test = sorted_by_class(1, classes=4, test=4 * (EVAL_BATCH + 3)).test
    data = ImageData(
        "x", data.train, data.val, Split(test.images[: EVAL_BATCH + 3], test.labels[: EVAL_BATCH + 3]), 4, 255
    )
    spec = spec.model_copy(update={"model": f"late-{how}"})
    loaded = Loaded(data, spec, CPU)
    twin = build_from_seed(spec, data, CPU)
    warm_up(twin, loaded, spec)
    if how in ("never", "counts", "draws"):
        rehearse(twin, loaded, spec)
    else:
        with pytest.raises((ValueError, RuntimeError, NotImplementedError), match=LATE_FAULTS[how]):
            rehearse(twin, loaded, spec)


def test_a_run_of_one_image_too_many_ends_and_a_late_fault_costs_no_training(tmp_path: Path, late: Path) -> None:
    one = EVAL_BATCH + 1
    file = made_up(tmp_path, "one-more", SHAPE, 2, (one, 2, one))
    places = ["--data-root", str(tmp_path / "data"), "--results", str(tmp_path / "results"), "--include", str(file)]
    options = [
        "--dataset",
        "one-more",
        "--budget",
        "e1",
        "--models",
        "late-never,late-trained",
        "--seeds",
        "1",
        "--device",
        "cpu",
    ]
    done = runs.equibench("run", *options, *places, "--include", str(late), cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    found = runs.records(tmp_path)
    assert found["late-never"][0].status == "ok" and found["late-never"][0].results.test_images == one
    failed = found["late-trained"][0]
    assert failed.status == "error" and "once it has been trained" in failed.reason
    assert failed.curve == [] and "train_s" not in failed.phases
