"""How long boards and the site take to make from many records; prints seconds and the weight of a page.

    uv run python benchmarks/boards.py [--boards 5] [--models 200] [--seeds 10] [--images 10000]

The records are made up, but have the size and the spread of real ones. Their models are registered ones where there
are enough, so that looking them up costs what it costs.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from equibench.bench.boards.rows import write_board
from equibench.bench.records.outcomes import write_outcomes
from equibench.bench.records.provenance import Provenance
from equibench.bench.records.record import Context, CorePoint, CurvePoint, Results, RunRecord, Size
from equibench.bench.records.store import board_folder, board_names
from equibench.bench.spec.suite import RunSpec, find_suite, plan
from equibench.registry import MODELS

TRAIN_IMAGES = 3000
CLASSES = 10
BOARDS_LIMIT_S, SITE_LIMIT_S, PAGE_LIMIT_MB = 15.0, 20.0, 3.0


def main() -> None:
    """Make records, boards and site, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boards", type=int, default=5)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--images", type=int, default=10_000, help="Test images whose outcomes are kept; 0: none.")
    parser.add_argument("--keep", metavar="DIR", help="Folder to make them in, and to leave them.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(options.keep or temporary)
        count = make_records(root / "results", options.boards, options.models, options.seeds, options.images)
        start = time.perf_counter()
        for name in board_names(root / "results"):
            write_board(root / "results", name)
        boards = time.perf_counter() - start
        print(f"boards of {count:,} records      {boards:6.2f} s   (at most {BOARDS_LIMIT_S:g})")
        make_site(root)


def make_site(root: Path) -> None:
    """Publish the site, and print seconds and megabytes."""
    from equibench.bench.publish.publish import publish
    from equibench.bench.publish.site import page_weight

    start = time.perf_counter()
    publish(root / "results", root / "site", formats=("html",))
    seconds = time.perf_counter() - start
    print(f"site of the same records     {seconds:6.2f} s   (at most {SITE_LIMIT_S:g})")
    for name, weight in page_weight(root / "site").items():
        print(f"page with {name}: {weight / 1e6:.2f} MB   (at most {PAGE_LIMIT_MB:g})")


def make_records(root: Path, boards: int, models: int, seeds: int, images: int = 0) -> int:
    """Write made-up records; returns how many."""
    rng, draws = random.Random(0), np.random.default_rng(0)
    labels, hard = draws.integers(0, CLASSES, images), draws.random(images)
    names = model_names(models)
    pattern = plan(find_suite("quickstart"))[0]
    count = 0
    for index in range(boards):
        budget = pattern.budget.model_copy(update={"name": f"e{5 + index}", "epochs": 5.0 + index})
        steps = budget.steps_for(TRAIN_IMAGES, pattern.recipe.batch)
        for model in names:
            quality, size = rng.gauss(0, 2), int(10 ** rng.uniform(4, 6.5))
            for seed in range(seeds):
                spec = pattern.model_copy(update={"model": model, "seed": seed, "budget": budget, "steps": steps})
                record = made_up(spec, quality, size, rng)
                write_quickly(root, with_outcomes(root, record, labels, hard, draws) if images else record)
                count += 1
    return count


def model_names(count: int) -> list[str]:
    """Registered names, then members of a family."""
    names = [e.name for e in MODELS.match(()) if not e.is_template]
    names += [f"wrn-{10 + 6 * (i % 8)}-b{3 + i // 8}" for i in range(count)]
    return list(dict.fromkeys(names))[:count]


def made_up(spec: RunSpec, quality: float, size: int, rng: random.Random) -> RunRecord:
    """A record as a run of some minutes writes it."""
    accuracy = min(100.0, 94 + quality + 0.4 * math.sin(spec.seed) + rng.gauss(0, 0.4) + 0.3 * math.log10(size))
    points = [
        CorePoint(eq_exact_c4=rng.random(), eq_exact_d4=0.3, eq_rot_analytic=rng.random(), collapsed=False)
        for _ in "ab"
    ]
    results = Results(
        test_acc_pct=round(accuracy, 2), val_acc_pct=93.0, test_images=1500, train_images=TRAIN_IMAGES,
        train_s=size / 1e4 * rng.uniform(0.9, 1.1), step_ms=8.0, peak_mib=100.0, peak_kind="allocated on the device",
        init=points[0], trained=points[1], weights_sha256=f"{rng.getrandbits(256):064x}",
    )  # fmt: skip
    curve = [
        CurvePoint(step=s, loss=2.3 * math.exp(-s / 30) + 0.05 * rng.random(), lr=0.01, device_s=s / 100)
        for s in range(5, 241, 5)
    ]
    flops = size * 400
    return RunRecord(
        schema_version=1, spec=spec, attempt=1, status="ok", reason="", results=results,
        cost=Size(parameters=size, dense_weights=size, buffers=0, flops_per_image=flops,
        train_flops_per_image=3 * flops),
        curve=curve, phases={f"{p}_s": 1.0 for p in ("startup", "import", "data", "build", "train", "other", "total")},
        provenance=Provenance(
            source_hash="0" * 16, data_digest="0" * 64, started="2026-01-01T00:00:00+00:00",
            versions={"python": "3.11.0", "torch": "2.12.1"}, hardware={"device": "cuda:0", "hardware_key": "made up"},
            threads=1, command="",
        ),
        context=Context(suite="made-up", parameter_class="as-published", reference_parameters=None,
        reference_model="z2cnn"),
        warnings=[],
    )  # fmt: skip


def with_outcomes(
    root: Path, record: RunRecord, labels: np.ndarray, hard: np.ndarray, draws: np.random.Generator
) -> RunRecord:
    """The record with outcomes of about its accuracy, some images being hard for all models."""
    assert record.results is not None
    chance = 0.7 * hard + 0.3 * draws.random(len(labels))
    limit = np.quantile(chance, record.results.test_acc_pct / 100)
    wrong = (labels + draws.integers(1, CLASSES, len(labels))) % CLASSES
    predicted = np.where(chance <= limit, labels, wrong)
    with without_syncing():
        digest = write_outcomes(root, record.spec.board, record.run_id, predicted, labels, CLASSES)
    changes = {
        "outcomes_sha256": digest, "test_images": len(labels), "test_acc_pct": 100 * float((predicted == labels).mean())
    }  # fmt: skip
    return record.model_copy(update={"results": record.results.model_copy(update=changes)})


@contextmanager
def without_syncing() -> Iterator[None]:
    """Without waiting for the disk."""
    sync, os.fsync = os.fsync, lambda _: None
    try:
        yield
    finally:
        os.fsync = sync


def write_quickly(root: Path, record: RunRecord) -> None:
    """As `record.write_record`, without waiting for the disk."""
    folder = board_folder(root, record.spec.board)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / record.file_name).write_text(record.canonical() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
