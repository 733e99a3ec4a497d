"""How far an accuracy depends on which training images normalisation statistics are re-estimated on, and on how many.

    uv run python benchmarks/norm_sample.py [--models p4cnn,pdo-econv-p8] [--draws 8]

Each model of the quickstart is trained once. Then its statistics are estimated on samples of several sizes, several
samples of each size, and it is scored. The standard deviation between samples is beside that of one run's score by the
choice of its test images.
"""

from __future__ import annotations

import warnings
from statistics import fmean, stdev
from unittest.mock import patch

import torch
from equibench.bench.boards.statistics import binomial_error_pct
from equibench.bench.measures.accuracy import accuracy_pct, logits
from equibench.bench.measures.clock import clock_for
from equibench.bench.measures.execution_profile import begin
from equibench.bench.measures.norms import reestimate_batch_norm
from equibench.bench.spec.seeds import derive
from equibench.bench.spec.suite import find_suite, plan
from equibench.bench.training import prepare
from equibench.bench.training.prepare import Loaded, build_from_seed
from equibench.bench.training.train import train
from equibench.datasets.batches import as_tensors
from equibench.datasets.images import load
from side_by_side import hardware, parser, show

SIZES = (125, 250, 500, 1000, 3000)


def main() -> None:
    """Train, estimate, score, and print a line a model and size."""
    parse = parser(__doc__)
    parse.add_argument("--models", default="p4cnn,pdo-econv-p8,z2cnn-22")
    parse.add_argument("--draws", type=int, default=8)
    options = parse.parse_args()
    warnings.simplefilter("ignore")
    suite = find_suite("quickstart").model_copy(update={"models": options.models.split(","), "seeds": 1})
    device, data = begin("cpu", suite.profile, 1), load(suite.dataset)
    images, labels = as_tensors(data.test, device)
    print(f"{hardware('cpu')}; {data.name}, {suite.budget}")
    rows = []
    for spec in plan(suite):
        loaded, model = Loaded(data, spec, device), build_from_seed(spec, data, device)
        torch.manual_seed(derive(spec.seed, "training"))
        train(model, loaded.batches, spec.recipe, spec.steps, clock_for("cpu"), spec.profile)
        for size in SIZES:
            found = []
            for draw in range(options.draws):
                with patch.object(prepare, "BN_IMAGES", size):
                    sample = Loaded(data, spec.model_copy(update={"seed": draw}), device)
                    reestimate_batch_norm(model, sample.unaugmented())
                found.append(accuracy_pct(logits(model, images, loaded.normalise), labels))
            error = binomial_error_pct(fmean(found), len(labels))
            rows.append((spec.model, size, fmean(found), stdev(found), error))
    heads = ["model", "images", "accuracy %", "sd of samples", "se of test images"]
    show(rows, heads, ("", ",", ".2f", ".2f", ".2f"), options.format)


if __name__ == "__main__":
    main()
