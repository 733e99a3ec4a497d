"""Every registered data set's type through everything: 16 bits as 8, colours, a hundred classes, every profile and
budget.
"""

import io
import json
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from equibench.bench.boards.families import find_points
from equibench.bench.cli.main import cli
from equibench.bench.measures.angle_and_depth import angle_curve
from equibench.bench.measures.equivariance import measure_core
from equibench.bench.measures.equivariance_full import measure_full
from equibench.bench.reports.equivariance import Sample, at_size
from equibench.bench.spec.recipe import named_recipes
from equibench.bench.spec.suite import RunSpec, Suite, plan, suite_names
from equibench.bench.training import stopwatch
from equibench.bench.training.full_profile import inputs_of
from equibench.bench.training.job import Events, StepTiming
from equibench.bench.training.prepare import Loaded, build_from_seed, rehearse, warm_up
from equibench.bench.training.train import optimizer_for, train_step
from equibench.datasets.batches import AUGMENTATIONS, as_tensors
from equibench.datasets.images import ImageData, Split, load
from equibench.registry import DATASETS, include

from .small import MAXIMUM, small
from .training import test_run as runs

CPU = torch.device("cpu")
PROFILES = ("strict", "fast")
#: One of 16 bits, and one of colours and a hundred classes: the default run tries with them what looks at images.
TYPICAL = ("mnist-rot", "cifar100")
SUITES = [find_points(name)[0] for name in suite_names()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small data set of each type, all included."""
    path = tmp_path_factory.mktemp("types")
    include([runs.TINY, *(small(path, dataset, f"small-{dataset}") for dataset in MAXIMUM)])
    return path


@pytest.fixture
def data(folder: Path):
    return cache(lambda dataset: load(f"small-{dataset}", folder / "data"))


def spec_of(dataset: str, **changes) -> RunSpec:
    values = {"name": "s", "dataset": f"small-{dataset}", "budget": "smoke", "models": ["tiny"], "seeds": 1, **changes}
    return plan(Suite.model_validate(values))[0]


def test_every_registered_data_set_has_a_small_twin(data) -> None:
    assert len(MAXIMUM) > 10 and sorted(set(MAXIMUM.values())) == [255, 65_535]
    for dataset, maximum in MAXIMUM.items():
        fields, twin = DATASETS.find(dataset).entry.fields, data(dataset)
        assert twin.train.images.shape[1:] == tuple(fields["shape"]) and twin.classes == fields["classes"]
        assert twin.maximum == maximum and twin.train.images.dtype == (np.uint8 if maximum == 255 else np.uint16)
    scaled = data("mnist-rot").train.images / 65_535 * 255
    assert np.abs(scaled - scaled.round()).max() > 0.3  # no multiples of 1/255


def twin_of(data: ImageData) -> ImageData:
    """The same images in 16 bits."""
    parts = [Split(p.images.astype(np.uint16) * 257, p.labels) for p in (data.train, data.val, data.test)]
    return ImageData(data.name, *parts, data.classes, 65_535)


def test_sixteen_bits_give_what_eight_give(data) -> None:
    """Images times 257 of 65,535 are the same intensities, so that every figure is the same up to rounding."""
    spec = spec_of("digits-rot")
    eight, sixteen = (Loaded(d, spec, CPU) for d in (data("digits-rot"), twin_of(data("digits-rot"))))
    for one, two in (
        (eight.batches(0)[0], sixteen.batches(0)[0]),
        (next(eight.unaugmented()), next(sixteen.unaugmented())),
        (eight.normalise(eight.balanced_test_images(7)), sixteen.normalise(sixteen.balanced_test_images(7))),
    ):
        assert torch.allclose(one, two, atol=1e-5)
    assert np.allclose(eight.background, sixteen.background)
    model = build_from_seed(spec, data("digits-rot"), CPU)
    cores = [measure_core(model, x.balanced_test_images(20), x.scene) for x in (eight, sixteen)]
    assert cores[0].eq_exact_d4 == pytest.approx(cores[1].eq_exact_d4, rel=1e-3)
    assert cores[0].eq_rot_analytic == pytest.approx(cores[1].eq_rot_analytic, rel=1e-3)
    fulls = [measure_full(model, inputs_of(x), draws=20)[0] for x in (eight, sixteen)]
    assert fulls[0].eq_rot_data == pytest.approx(fulls[1].eq_rot_data, rel=1e-3)
    assert fulls[0].acc_by_angle_pct == fulls[1].acc_by_angle_pct


def test_tensors_are_copies_in_the_order_asked_for() -> None:
    images = np.arange(4 * 2 * 3 * 3, dtype=np.uint16).reshape(4, 2, 3, 3) + 65_000
    split = Split(images, np.array([3, 2, 1, 0]))
    found, labels = as_tensors(split, CPU, np.array([2, 0]))
    assert found.dtype == torch.int32 and (found.numpy() == images[[2, 0]]).all() and labels.tolist() == [1, 3]
    found += 1
    assert images[0, 0, 0, 0] == 65_000
    whole, _ = as_tensors(Split(images.transpose(0, 1, 3, 2), split.labels), CPU)
    assert whole.is_contiguous() and (whole.numpy() == images.transpose(0, 1, 3, 2)).all()
    assert as_tensors(Split(images.astype(np.uint8), split.labels), CPU)[0].dtype == torch.uint8


@pytest.mark.parametrize(
    "dataset", [pytest.param(name, marks=[] if name in TYPICAL else pytest.mark.whole) for name in MAXIMUM]
)
def test_every_instrument_takes_every_type(dataset: str, data, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # How many images are turned has nothing to do with their type; at 64 pixels all of them take 20 s.
    monkeypatch.setattr("equibench.bench.reports.equivariance.angle_curve", partial(angle_curve, draws=2))
    monkeypatch.setattr("equibench.bench.measures.equivariance.BLOB_DRAWS", 4)
    monkeypatch.setattr("equibench.bench.training.full_profile.ORBIT_IMAGES", 20)
    spec = spec_of(dataset)
    loaded = Loaded(data(dataset), spec, CPU)
    model = build_from_seed(spec, loaded.data, CPU)
    core = measure_core(model, loaded.balanced_test_images(50), loaded.scene)
    assert core.eq_exact_c4 is not None and core.eq_rot_analytic is not None
    assert measure_full(model, inputs_of(loaded), draws=8)[0].eq_rot_data is not None
    sample = Sample.of(spec.dataset, str(folder / "data"), CPU)
    size = loaded.data.train.images.shape[-1]
    for pixels in (size - 1, size, size + 1):
        assert at_size("tiny", sample, pixels, "none").outcome == "ok"
    warm_up(model, loaded, spec)
    rehearse(model, loaded, spec)


@pytest.mark.parametrize("dataset", MAXIMUM)
@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_every_augmentation_takes_every_type(dataset: str, augment: str, data) -> None:
    recipe = named_recipes()["common"].bare.model_copy(update={"augment": [augment]})
    loaded = Loaded(data(dataset), spec_of(dataset).model_copy(update={"recipe": recipe}), CPU)
    images, labels = loaded.batches(0)
    shape = DATASETS.find(dataset).entry.fields["shape"]
    assert images.shape == (recipe.batch, *shape) and images.isfinite().all() and images.std() > 0.1
    assert labels.dtype == torch.int64 and 0 <= labels.min() <= labels.max() < loaded.data.classes


@pytest.mark.parametrize("suite", SUITES, ids=lambda s: s.name)
def test_every_recipe_of_every_suite_takes_a_step_in_every_profile(suite: Suite, data) -> None:
    """The models are another matter (`test_suite_starts`, slow): here is one that costs nothing."""
    seen = set()
    for spec in plan(suite):
        if str(spec.recipe) in seen:
            continue
        seen.add(str(spec.recipe))
        for profile in PROFILES:
            # The small data have fewer images than a suite over an axis takes.
            small_spec = spec.model_copy(update={"model": "tiny", "train_images": None})
            loaded = Loaded(data(suite.dataset), small_spec, CPU)
            torch.manual_seed(0)
            model = build_from_seed(loaded.spec, loaded.data, CPU)
            assert train_step(model, optimizer_for(model, spec.recipe), *loaded.batches(0), profile).isfinite()
    assert seen


def test_a_device_second_budget_is_calibrated_on_sixteen_bits(
    data, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopwatch, "BLOCK_SECONDS", 0.0)
    said = io.StringIO()
    data("mnist-rot")
    job = StepTiming(spec=spec_of("mnist-rot"), device="cpu", threads=1, data_root=str(folder / "data"), include=[])
    stopwatch.measure_on_request(job, Events(said), io.StringIO('{"processes": []}\n'))
    events = [json.loads(line) for line in said.getvalue().splitlines()]
    assert [e["event"] for e in events] == ["ready", "block"] and events[1]["steps"] == stopwatch.BLOCK_STEPS


def command(folder: Path, *arguments: str, file: Path, code: int = 0) -> str:
    own = ["--include", str(runs.TINY), "--include", str(file)]
    done = runs.equibench(*arguments, *own, cwd=folder)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


WHOLE = """
dataset = "small"
budget = "e2"
seeds = 1
models = ["tiny", "tiny-dropout"]
equivariance = "full"
reference_model = "tiny"
"""


@pytest.mark.whole
def test_every_command_on_sixteen_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MNIST-rot-12k in its published format from the archive to a replay, each step by the command line.

    On these images `test_a_whole_run_on_every_type_in_every_profile` has a run, and
    `test_every_instrument_takes_every_type` what is measured later. The replay is in
    `test_a_run_on_the_same_machine_is_the_same_to_the_bit`.
    """
    file = small(tmp_path, "mnist-rot")
    (tmp_path / "whole.toml").write_text(WHOLE)
    places = ["--data-root", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    command(tmp_path, "run", "whole.toml", "--device", "cpu", *places, file=file)
    found = runs.records(tmp_path)
    assert {m: [r.status for r in rs] for m, rs in found.items()} == {"tiny": ["ok"], "tiny-dropout": ["ok"]}
    assert len(list(tmp_path.glob("results/runs/*/equivariance/*.json"))) == 2
    run = found["tiny"][0].run_id
    document = json.loads(
        command(tmp_path, "equivariance", "--run", run, "--json", *places, "--out", str(tmp_path), file=file)
    )
    assert document["record"]["trained"]["eq_rot_data"] > 0
    document = json.loads(
        command(
            tmp_path, "equivariance", "tiny", "--dataset", "small", "--json", "--out", str(tmp_path), *places, file=file
        )
    )
    assert all(row["outcome"] == "ok" for row in document["rows"])
    assert json.loads(command(tmp_path, "show", run, "--json", "--results", places[3], file=file))["status"] == "ok"
    verdict = json.loads(command(tmp_path, "replay", run[:10], "--json", *places, file=file))
    assert verdict["agrees"] and verdict["rule"] == "bit-exact"

    # What reads records, fetches or refreshes, in this process.
    includes = [runs.TINY, file]
    (board,) = {p.parent.name for p in tmp_path.glob("results/runs/*/*.json")}
    for arguments in (
        ["data", "fetch", "small", *places[:2]],
        ["list", "datasets", "small"],
        ["leaderboard", board, *places[2:]],
        ["refresh", board, "--dry-run", *places],
        ["show", "tiny", *places[2:]],
        ["publish", board, "--format", "md", "--out", str(tmp_path / "published"), *places[2:]],
    ):
        monkeypatch.chdir(tmp_path)
        result = CliRunner().invoke(cli, [*arguments, *(w for path in includes for w in ("--include", str(path)))])
        assert result.exit_code == 0, (arguments, result.output, result.exception)


def test_check_takes_the_type_of_every_data_set(tmp_path: Path) -> None:
    file = small(tmp_path, "mnist-rot")
    own = ["--include", str(runs.TINY), "--include", str(file)]
    done = runs.equibench("check", "tiny-dropout", "--dataset", "small", "--json", *own, cwd=tmp_path)
    findings = {f["check"]: f for f in json.loads(done.stdout)["checks"]}
    assert {name for name, f in findings.items() if f["status"] == "fail"} == {"citation"}  # its source is made up


@pytest.mark.slow
def test_tuning_and_the_published_budget_on_sixteen_bits(tmp_path: Path) -> None:
    file = small(tmp_path, "mnist-rot")
    places = ["--data-root", str(tmp_path / "data"), "--results", str(tmp_path / "results"), "--device", "cpu"]
    (tmp_path / "whole.toml").write_text(WHOLE.replace('equivariance = "full"\n', ""))
    command(tmp_path, "tune", "whole.toml", *places, file=file)
    command(tmp_path, "run", "whole.toml", "--recipe", "tuned", *places, file=file)
    options = ["--dataset", "small", "--models", "z2cnn", "--seeds", "1"]
    command(tmp_path, "run", "mnist-rot-published", *options, *places, file=file)
    found = runs.records(tmp_path)
    assert all(r.status == "ok" for rs in found.values() for r in rs)
    (published,) = found["z2cnn"]
    assert (
        published.spec.budget.kind == "P"
        and published.spec.recipe.name == "paper"
        and published.spec.fit == "train+val"
    )


@pytest.mark.parametrize(
    ("dataset", "profile"),
    [
        pytest.param(d, p, marks={("mnist-rot", "fast"): [], ("cifar100", "strict"): [pytest.mark.whole]}.get((d, p),
        [pytest.mark.slow]))
        for d in MAXIMUM for p in PROFILES
    ],
)  # fmt: skip
def test_a_whole_run_on_every_type_in_every_profile(dataset: str, profile: str, tmp_path: Path) -> None:
    file = small(tmp_path, dataset)
    places = ["--data-root", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    options = [
        "--dataset",
        "small",
        "--models",
        "tiny",
        "--seeds",
        "1",
        "--budget",
        "e1",
        "--profile",
        profile,
        "--device",
        "cpu",
    ]
    command(tmp_path, "run", *options, *places, file=file)
    (record,) = runs.records(tmp_path)["tiny"]
    assert record.status == "ok" and record.spec.profile == profile and not record.reason
    assert record.results.val_acc_pct is not None and record.results.trained.eq_exact_c4 is not None


@pytest.mark.parametrize(
    "suite",
    [
        pytest.param(
            s,
            id=s.name,
            marks={"mnist-rot": [pytest.mark.whole], "mnist-rot-da": [pytest.mark.slow]}.get(s.name, []),
        )
        for s in SUITES
        if s.dataset == "mnist-rot"
    ],
)
def test_the_suites_on_mnist_rot_run_on_a_file_of_the_published_format(suite: Suite, tmp_path: Path) -> None:
    file = small(tmp_path, "mnist-rot")
    model = min((m for m in suite.models if "+" not in m and m.startswith("z2cnn")), default=suite.models[0])
    places = ["--data-root", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    options = ["--dataset", "small", "--models", model, "--seeds", "1", "--budget", "smoke", "--device", "cpu"]
    command(tmp_path, "run", suite.name, *options, *places, file=file)
    (record,) = runs.records(tmp_path)[model]
    assert (
        record.status == "ok" and record.spec.fit == suite.fit and record.spec.recipe.name == plan(suite)[0].recipe.name
    )
