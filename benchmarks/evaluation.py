"""What scoring a run costs, against the way of protocol 1; prints ratios.

    uv run python benchmarks/evaluation.py [--model pdo-econv-p8] [--rounds 5]

The work around a run of the quickstart that is no training: re-estimation of batch-norm statistics, accuracies on
validation and test images, the core equivariance errors before and after training. The way of protocol 1 takes 250
images a pass, torch's own pooling, and statistics of 1,000 images. Both do it in turns, on the same network. Target: at
most 0.60 of the old way.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from unittest.mock import patch

from equibench.bench.measures import accuracy as evaluate
from equibench.bench.measures import norms
from equibench.bench.measures.equivariance import measure_core
from equibench.bench.measures.execution_profile import begin
from equibench.bench.spec.suite import find_suite, plan
from equibench.bench.training import prepare
from equibench.bench.training.prepare import Loaded, build_from_seed
from equibench.bench.training.run import CORE_IMAGES
from equibench.datasets.batches import as_tensors
from equibench.datasets.images import load
from side_by_side import hardware, parser, show, side_by_side
from torch import nn

#: Images a pass, and images that statistics are estimated on, in protocol 1.
OLD_BATCH, OLD_SAMPLE = 250, 1000
TARGET = 0.60

Parts = dict[str, Callable[[], object]]


def parts(model: nn.Module, loaded: Loaded, batch: int) -> Parts:
    """What is done around the training of a run, by name."""
    images, sample = loaded.balanced_test_images(CORE_IMAGES), list(loaded.unaugmented())
    splits = {name: as_tensors(getattr(loaded.data, name), loaded.device)[0] for name in ("val", "test")}

    def core() -> None:
        for _ in ("before training", "after training"):
            measure_core(model, images, loaded.scene)

    return {
        "re-estimation": lambda: norms.reestimate_batch_norm(model, sample),
        "accuracy": lambda: [evaluate.logits(model, split, loaded.normalise, batch) for split in splits.values()],
        "equivariance": core,
    }


def as_before(part: Callable[[], object]) -> Callable[[], object]:
    """The same in the way of protocol 1."""

    def old() -> None:
        with (
            patch.object(norms, "FastMaxPool", nullcontext),
            patch.object(evaluate, "FastMaxPool", nullcontext),
        ):
            part()

    return old


def main() -> None:
    """Measure, and print a line a part."""
    parse = parser(__doc__)
    parse.add_argument("--model", default="pdo-econv-p8")
    parse.add_argument("--rounds", type=int, default=5)
    options = parse.parse_args()
    warnings.simplefilter("ignore")
    suite = find_suite("quickstart").model_copy(update={"models": [options.model]})
    spec, device = plan(suite)[0], begin("cpu", suite.profile, 1)
    data = load(spec.dataset)
    model = build_from_seed(spec, data, device)
    now = parts(model, Loaded(data, spec, device), evaluate.EVAL_BATCH)
    with patch.object(prepare, "EVAL_BATCH", OLD_BATCH), patch.object(prepare, "BN_IMAGES", OLD_SAMPLE):
        loaded = Loaded(data, spec, device)
        before = parts(model, loaded, OLD_BATCH)
    print(f"{hardware('cpu')}; {options.model}, {data.name}")
    rows = []
    for name, part in now.items():
        timing = side_by_side({"old": as_before(before[name]), "new": part}, rounds=options.rounds)
        old, new = timing["old"], timing["new"]
        rows.append((name, old.seconds, new.ratio * old.seconds, new.ratio, f"{new.low:.2f}–{new.high:.2f}", ""))
    whole, rest = (sum(float(row[column]) for row in rows) for column in (1, 2))
    rows.append(("all", whole, rest, rest / whole, "", "yes" if rest <= TARGET * whole else "no"))
    heads = ["", "old s", "new s", "ratio", "quartiles", f"at most {TARGET:.2f}"]
    show(rows, heads, ("", ".2f", ".2f", ".2f", "", ""), options.format)


if __name__ == "__main__":
    main()
