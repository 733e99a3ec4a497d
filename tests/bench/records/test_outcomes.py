"""Outcomes by image: kept beside the record, refused where they are wrong, and what a board makes of them."""

import json
import zlib
from base64 import b64decode, b64encode
from pathlib import Path

import numpy as np
import pytest
from equibench.bench.boards.board import load_board
from equibench.bench.boards.rows import model_rows
from equibench.bench.boards.statistics import compare
from equibench.bench.boards.terminal_table import board_table
from equibench.bench.records.outcomes import outcomes_path, read_distances, read_predictions, write_outcomes
from equibench.bench.records.record import RunRecord, write_record
from equibench.bench.reports.run_card import run_card, run_text
from equibench.bench.tools.schema import short_hash
from equibench.registry import UserError
from hypothesis import given, settings
from hypothesis import strategies as st

from .. import made

BOARD = made.spec().board
IMAGES, CLASSES = 1500, 10
LABELS = np.arange(IMAGES) % CLASSES


def drawn(rng: np.random.RandomState, share: float, hard: np.ndarray | None = None) -> np.ndarray:
    """Predictions of which about a share is right."""
    chance = rng.rand(IMAGES) if hard is None else 0.6 * rng.rand(IMAGES) + 0.4 * hard
    return np.where(chance < share, LABELS, (LABELS + rng.randint(1, CLASSES, IMAGES)) % CLASSES)


def put(root: Path, predicted: np.ndarray, **changes) -> RunRecord:
    """Write outcomes and the record that names them, as a run does."""
    record = made.record(100 * float((predicted == LABELS).mean()), **changes)
    digest = write_outcomes(root, BOARD, record.run_id, predicted, LABELS, CLASSES)
    record = record.model_copy(update={"results": record.results.model_copy(update={"outcomes_sha256": digest})})
    write_record(root, record)
    return record


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([2, 10, 255, 256, 1000]), st.integers(1, 300))
def test_predictions_come_back(tmp_path_factory: pytest.TempPathFactory, seed: int, classes: int, images: int) -> None:
    root, rng = tmp_path_factory.mktemp("r"), np.random.RandomState(seed)
    labels, predicted = rng.randint(0, classes, images), rng.randint(0, classes + 1, images)
    record = made.record(100 * float((predicted == labels).mean()))
    digest = write_outcomes(root, BOARD, record.run_id, predicted, labels, classes)
    results = record.results.model_copy(update={"outcomes_sha256": digest, "test_images": images})
    record = record.model_copy(update={"results": results})
    back, known, count = read_predictions(root, record)
    assert back.tolist() == predicted.tolist() and known.tolist() == labels.tolist() and count == classes


@pytest.mark.parametrize("share", [0.0, 0.1, 0.95])
def test_fifty_thousand_images_need_less_than_thirty_kibibytes(tmp_path: Path, share: float) -> None:
    rng = np.random.RandomState(0)
    labels = rng.randint(0, 10, 50_000)
    predicted = np.where(rng.rand(50_000) < share, labels, rng.randint(0, 10, 50_000))
    write_outcomes(tmp_path, BOARD, "0" * 16 + ".1", predicted, labels, 10)
    sizes = {p.name.partition(".")[0]: p.stat().st_size for p in (tmp_path / "runs" / BOARD / "outcomes").iterdir()}
    assert sizes["0" * 16] <= 30 * 1024 and len(sizes) == 2


def test_labels_are_kept_once_and_equal_predictions_have_equal_hashes(tmp_path: Path) -> None:
    predicted = drawn(np.random.RandomState(0), 0.9)
    records = [put(tmp_path, predicted, seed=s) for s in range(3)]
    assert len({r.results.outcomes_sha256 for r in records}) == 1
    assert len(list((tmp_path / "runs" / BOARD / "outcomes").glob("labels.*"))) == 1


def rewritten(root: Path, record: RunRecord, **fields) -> RunRecord:
    """The record with a file of outcomes in which fields differ, with new hashes."""
    path = outcomes_path(root, record)
    content = {**json.loads(path.read_text()), **fields}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    import hashlib

    digest = hashlib.sha256(text.encode()).hexdigest()
    (path.parent / f"{record.run_id}.{short_hash(text)}.json").write_text(text + "\n")
    return record.model_copy(update={"results": record.results.model_copy(update={"outcomes_sha256": digest})})


def packed(values: np.ndarray) -> str:
    return b64encode(zlib.compress(values.astype("u1").tobytes())).decode()


def test_wrong_files_are_refused_with_the_field(tmp_path: Path) -> None:
    record = put(tmp_path, drawn(np.random.RandomState(1), 0.9))
    kept = json.loads(outcomes_path(tmp_path, record).read_text())
    distances = np.frombuffer(zlib.decompress(b64decode(kept["distances"])), dtype="u1")
    far = distances.copy()
    far[7] = CLASSES + 1
    for fields, message in (
        ({"distances": packed(distances[:-1])}, "'distances' has 1,499 values for 1,500 images"),
        ({"distances": packed(np.append(distances, 0))}, "'distances' has more values for 1,500 images"),
        ({"distances": packed(far)}, "'distances': 11 at image 7; 0 to 10 are possible"),
        ({"distances": "not base64!"}, "'distances' is not compressed base64"),
        ({"distances": packed(np.zeros(IMAGES))}, "'distances': 100.0000 % are right, but the run's record says"),
        ({"images": 1499}, "'images': 1,499, but the run's record has 1,500 test images"),
        ({"classes": 1}, "'classes'"),
        ({"surprise": 1}, "unknown key 'surprise'"),
    ):
        with pytest.raises(UserError, match=message):
            read_distances(tmp_path, rewritten(tmp_path, record, **fields))
    path = outcomes_path(tmp_path, record)
    path.write_text(path.read_text().replace('"classes":10', '"classes":11'))
    with pytest.raises(UserError, match="does not match 'outcomes_sha256' of the run's record"):
        read_distances(tmp_path, record)
    board = load_board(tmp_path, BOARD)
    assert [r.path for r in board.refused] == [path] and board.outcomes == {} and board.values["made-up"]


def test_labels_that_are_missing_or_changed_are_named(tmp_path: Path) -> None:
    record = put(tmp_path, drawn(np.random.RandomState(1), 0.9))
    (path,) = (tmp_path / "runs" / BOARD / "outcomes").glob("labels.*")
    text = path.read_text()
    path.write_text(text.replace('"classes":10', '"classes":12'))
    with pytest.raises(UserError, match="does not match 'labels_sha256'"):
        read_predictions(tmp_path, record)
    path.unlink()
    with pytest.raises(UserError, match=r"labels.*cannot be read"):
        read_predictions(tmp_path, record)
    assert load_board(tmp_path, BOARD).outcomes, "what is right is known without the labels"


def test_a_board_shows_intervals_over_seeds_and_images_and_says_whose_outcomes_are_missing(tmp_path: Path) -> None:
    rng = np.random.RandomState(2)
    hard = rng.rand(IMAGES)
    for model, share in (("better", 0.9), ("made-up", 0.8)):
        for seed in range(4):
            put(tmp_path, drawn(rng, share, hard), model=model, seed=seed)
    board = load_board(tmp_path, BOARD)
    rows = {r["model"]: r for r in board.rows_of(board.frame)}
    for model, row in rows.items():
        assert (
            row["test_acc_ci95_pct"] > row["test_acc_ci95_seeds_pct"]
            and row["test_acc_ci95_over"] == "seeds and images"
        )
        assert row["test_acc_mean_pct"] == pytest.approx(
            np.mean([100 * r.mean() for r in board.samples[model].right.values()])
        )
    (expected,) = compare(board.samples, "made-up")
    assert expected.by_image and expected.interval > expected.interval_seeds
    assert "over new seeds and new test images (4 seeds, 1,500 images)" in board_table(board)
    for seed in range(4):
        write_record(tmp_path, made.record(70.0 + seed, model="old", seed=seed))
    board = load_board(tmp_path, BOARD)
    frame = model_rows(board).set_index("model")
    assert (
        frame.loc["old", "test_acc_ci95_over"] == "seeds"
        and frame.loc["better", "test_acc_ci95_over"] == "seeds and images"
    )
    assert "predictions of old are not recorded, so their ± is over new seeds alone" in board_table(board)


def test_a_run_is_shown_by_class_and_two_models_by_their_agreement(tmp_path: Path) -> None:
    predicted, other = LABELS.copy(), LABELS.copy()
    predicted[0], predicted[1], other[:300] = 3, CLASSES, 9
    first = put(tmp_path, predicted)
    put(tmp_path, other, model="other")
    card = run_card(first.run_id, tmp_path)
    confusion = np.array(card["outcomes"]["confusion"])
    expected = np.zeros((CLASSES, CLASSES + 1), dtype=int)
    for label, guess in zip(LABELS, predicted, strict=True):
        expected[label, guess] += 1
    assert confusion.tolist() == expected.tolist()
    assert card["outcomes"]["by_class_pct"] == pytest.approx([100 * 149 / 150] * 2 + [100.0] * 8)
    text = run_text(card)
    assert "99.33 %" in text and "none" in text.split("Confusion")[1] and "outcomes" in text.split("Files:")[1]
    board = load_board(tmp_path, BOARD)
    assert board.agreement("made-up", "other") == pytest.approx(100 * float((predicted == other).mean()))
    write_record(tmp_path, made.record(90.0, model="old"))
    assert load_board(tmp_path, BOARD).agreement("made-up", "old") is None
    old = run_card(made.record(90.0, model="old").run_id, tmp_path)
    assert "has no recorded predictions" in run_text(old)


def test_outcomes_of_other_data_are_not_paired_by_image(tmp_path: Path) -> None:
    rng = np.random.RandomState(3)
    for seed in range(3):
        put(tmp_path, drawn(rng, 0.9), seed=seed)
        record = put(tmp_path, drawn(rng, 0.9), seed=seed, model="elsewhere")
    board = load_board(tmp_path, BOARD)
    sets = {model: sample.test_set for model, sample in board.samples.items()}
    assert sets["made-up"] == sets["elsewhere"]
    run = record.run_id
    board.outcomes[run] = ("other " + board.outcomes[run][0], board.outcomes[run][1])
    del board.__dict__["samples"]
    assert board.samples["elsewhere"].right == {}, "outcomes of two test sets make no table"


def test_a_run_that_diverged_voids_intervals_and_shows_the_values(tmp_path: Path) -> None:
    for seed, (accuracy, status) in enumerate([(10.0, "diverged"), (92.0, "ok"), (93.0, "ok")]):
        write_record(tmp_path, made.record(accuracy, status=status, seed=seed))
    for model in ("steady", "other"):
        for seed in range(3):
            write_record(tmp_path, made.record(90.0 + seed + len(model), seed=seed, model=model))
    board = load_board(tmp_path, BOARD)
    row = {r["model"]: r for r in board.rows_of(board.frame)}["made-up"]
    assert row["test_acc_ci95_pct"] is None or np.isnan(row["test_acc_ci95_pct"])
    assert board.ranks["made-up"] is None and board.ranks["steady"] is not None and "made-up" not in board.best
    text = board_table(board)
    assert (
        "10.00, 92.00, 93.00" in text
        and "made-up: 1 of 3 runs diverged, which counts as chance level: there is no valid interval" in text
    )
