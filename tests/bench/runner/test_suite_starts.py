"""Every shipped suite starts on a small slice of real images: the first step of every model, and whole runs."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from equibench.bench.boards.families import find_points
from equibench.bench.reports.estimate import step_flops
from equibench.bench.spec.suite import Suite, plan, suite_names
from equibench.bench.training.train import optimizer_for, train_step
from equibench.datasets.batches import Normalise, as_tensors
from equibench.datasets.images import ImageData, Split, balanced_order
from equibench.datasets.mnist_rot import read_archive
from equibench.registry import DATASETS, build_model

from ..small import archive, digits

SUITES = [find_points(name)[0] for name in suite_names()]
PHOTOGRAPHS = Path(__file__).resolve().parents[4] / "shared" / "data" / "cifar10-lossless"
SIZES = (256, 100, 100)
#: Operations of a step that a whole run in a test may have, if any model of the suite has as few.
LIMIT = 250e9

INCLUDED = """
from pathlib import Path
import numpy as np
from equibench import register_dataset
from equibench.datasets.images import ImageData, Split

@register_dataset("slice", shape={shape}, classes={classes}, sizes={sizes}, source="a slice")
def slice_of_images(root):
    with np.load(Path(__file__).with_suffix(".npz")) as file:
        parts = [Split(file["images" + str(i)], file["labels" + str(i)]) for i in range(3)]
    return ImageData("slice", *parts, {classes}, {maximum})
"""


@cache
def real_images(dataset: str) -> ImageData:
    """Digits where images are grey, else photographs; a hundred classes are made of ten by the place in the file.

    Those of MNIST-rot-12k are read from an archive of its format: they have 16 bits.
    """
    fields = DATASETS.find(dataset).entry.fields
    shape, classes = tuple(fields["shape"]), fields["classes"]
    if dataset == "mnist-rot":
        with TemporaryDirectory() as folder:
            archive(Path(folder) / "slice.zip", SIZES)
            return read_archive("slice", Path(folder) / "slice.zip", SIZES, digits().train)
    if shape[0] == 1:
        wanted = [
            (p, balanced_order(p.labels, 10, n))
            for p, n in zip((digits().train, digits().val, digits().test), SIZES, strict=True)
        ]
        return ImageData(
            "slice", *(Split(p.images[rows], p.labels[rows]) for p, rows in wanted), classes, digits().maximum
        )
    if not PHOTOGRAPHS.is_dir():
        pytest.skip(f"there are no photographs in {PHOTOGRAPHS}")
    from PIL import Image

    with Image.open(PHOTOGRAPHS / "test_first1000.webp") as picture:
        tiles = np.asarray(picture.convert("RGB"))
    rows, columns = tiles.shape[0] // 32, tiles.shape[1] // 32
    images = np.ascontiguousarray(tiles.reshape(rows, 32, columns, 32, 3).transpose(0, 2, 4, 1, 3)).reshape(-1, *shape)
    labels = np.load(PHOTOGRAPHS / "labels_test.npy")[: len(images)].astype(np.int64)
    if classes == 100:
        places = np.array([(labels[:i] == label).sum() for i, label in enumerate(labels)])
        labels = labels + 10 * (places % 10)
    # Classes in turn, so that every part has some of each.
    parts = np.split(balanced_order(labels, classes, sum(SIZES)), np.cumsum(SIZES)[:-1])
    return ImageData("slice", *(Split(images[rows], labels[rows]) for rows in parts), classes, 255)


def data_of(suite: Suite) -> ImageData:
    return real_images(suite.dataset)


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES, ids=lambda s: s.name)
def test_every_model_of_every_suite_takes_its_first_step(suite: Suite) -> None:
    data = data_of(suite)
    images, labels = as_tensors(data.train, torch.device("cpu"), np.arange(2))
    images = Normalise.of(data, images.device)(images)
    for spec in (s for s in plan(suite) if s.seed == suite.seed_list[0]):
        torch.manual_seed(0)
        model = build_model(spec.model, images.shape[1], data.classes, images.shape[-1]).train()
        before = [p.detach().clone() for p in model.parameters()]
        assert train_step(model, optimizer_for(model, spec.recipe), images, labels, "strict").isfinite(), spec.model
        assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)), spec.model


@pytest.mark.slow  # ten minutes on one core
@pytest.mark.parametrize("suite", [s for s in SUITES if s.name not in ("quickstart", "smoke")], ids=lambda s: s.name)
def test_every_suite_runs_on_a_slice(suite: Suite, tmp_path: Path) -> None:
    data = data_of(suite)
    file = tmp_path / "slice.py"
    shape = tuple(data.train.images.shape[1:])
    file.write_text(INCLUDED.format(shape=shape, classes=data.classes, sizes=SIZES, maximum=data.maximum))
    parts = enumerate((data.train, data.val, data.test))
    arrays = {f"{kind}{i}": getattr(part, kind) for i, part in parts for kind in ("images", "labels")}
    np.savez(file.with_suffix(".npz"), **arrays)
    batch = plan(suite)[0].recipe.batch
    cost = {m: step_flops(m, shape, data.classes, batch)[0] for m in suite.models}
    cheapest = sorted(suite.models, key=lambda m: cost[m])
    models = [m for m in cheapest[:3] if cost[m] < LIMIT] or cheapest[:1]
    command = [
        sys.executable,
        "-m",
        "equibench.bench.cli",
        "run",
        suite.name,
        "--dataset",
        "slice",
        "--budget",
        "smoke",
    ]
    command += ["--seeds", "1", "--include", str(file), "--models", ",".join(models), "--jobs", "1", "--json"]
    command += ["--results", str(tmp_path / "results"), "--data-root", str(tmp_path / "data")]
    command += ["--train-images", "100,200"] if suite.train_images else []  # there are fewer than in the data set
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)
    records = [json.loads(p.read_text()) for p in tmp_path.glob("results/runs/*/*.json")]
    assert {r["spec"]["model"] for r in records} == set(models) and all(r["status"] == "ok" for r in records)
    assert all(r["spec"]["recipe"]["name"] == suite.recipe for r in records) or suite.recipe == "paper"
