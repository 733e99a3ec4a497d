"""A made-up board for tests of what is published."""

from pathlib import Path

from equibench.bench.boards.board import Board, load_board
from equibench.bench.records.record import Context, CurvePoint, RunRecord, write_record

from .. import made

BOARD = made.spec().board
#: Accuracies by seed. The first two cannot be told apart; `wrn-10-b9` is clearly worse.
ACCURACIES = {
    "p4cnn": [95.0, 95.6, 95.2, 95.4],
    "pdo-econv-p8": [95.1, 95.5, 95.3, 95.3],
    "z2cnn-22": [90.0, 90.6, 90.1, 90.4],
    "wrn-10-b9": [80.0, 80.7, 80.1, 80.5],
}
SIZES = {"p4cnn": 24_680, "pdo-econv-p8": 26_000, "z2cnn-22": 25_904, "wrn-10-b9": 30_000}


def with_details(record: RunRecord, size: int = 25_000, reference: str | None = "z2cnn-22") -> RunRecord:
    """A made-up record with a learning curve, its own number of parameters, and a reference model."""
    curve = [CurvePoint(step=s, loss=2.0 / s, lr=0.1, device_s=0.1 * s) for s in range(1, 9)]
    context = Context(suite="s", parameter_class="as-published", reference_parameters=None, reference_model=reference)
    cost = record.cost and record.cost.model_copy(update={"parameters": size, "flops_per_image": 100 * size})
    return record.model_copy(update={"curve": curve, "context": context, "cost": cost})


def fill(root: Path, accuracies: dict[str, list[float]] = ACCURACIES, **changes) -> Path:
    """Write the board's records under `root`."""
    for model, values in accuracies.items():
        for seed, value in enumerate(values):
            record = made.record(value, model=model, seed=seed, **changes)
            write_record(root, with_details(record, SIZES.get(model, 25_000)))
    return root


def board(root: Path, **changes) -> Board:
    """The board itself, read from `root` after it was filled."""
    fill(root, **changes)
    return load_board(root, BOARD)
