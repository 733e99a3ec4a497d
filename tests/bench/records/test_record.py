"""Records: written once, read strictly."""

import json
import multiprocessing
from pathlib import Path

import pytest
from equibench.bench.records.record import RunRecord, attempts_of, read_board, read_record, write_record
from equibench.bench.records.store import board_folder, board_names
from equibench.bench.spec.budget import find_budget
from equibench.bench.tools.schema import short_hash
from equibench.registry import UserError

from .. import made


def rewrite(path: Path, change) -> Path:
    """The record with a change, under the name that its new content asks for."""
    values = json.loads(path.read_text())
    change(values)
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    new = path.with_name(f"{path.name.split('.')[0]}.1.{short_hash(text)}.json")
    new.write_text(text)
    return new


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    record = made.record(91.5)
    path = write_record(tmp_path, record)
    assert read_record(path) == record
    assert path.name.split(".")[0] == record.spec.digest() and path.parent.name == record.spec.board
    assert [r for r in read_board(tmp_path, record.spec.board)[0]] == [record]
    assert board_names(tmp_path) == [record.spec.board]


def fractional(steps: int, protocol: int) -> dict:
    """The values of a record of e9.12 of 10,000 images."""
    values = made.record().model_dump(mode="json")
    values["results"]["train_images"] = 10_000
    values["spec"] |= {"steps": steps, "protocol": protocol, "budget": find_budget("e9.12").model_dump(mode="json")}
    return values


def test_a_fractional_budget_is_checked_exactly() -> None:
    assert RunRecord.model_validate(fractional(1425, 2)).spec.steps == 1425
    for steps, protocol in ((1424, 2), (1426, 2), (1426, 1), (1423, 1)):
        with pytest.raises(ValueError, match=f"'e9.12' of 10,000 images in batches of 64 is not {steps:,} steps"):
            RunRecord.model_validate(fractional(steps, protocol))


def test_a_record_of_protocol_1_may_have_lost_a_step_to_rounding() -> None:
    assert [RunRecord.model_validate(fractional(steps, 1)).spec.steps for steps in (1424, 1425)] == [1424, 1425]


def test_a_record_may_begin_with_a_mark_of_its_encoding(tmp_path: Path) -> None:
    path = write_record(tmp_path, made.record(91.5))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_record(path) == made.record(91.5)


def test_a_record_is_never_written_twice(tmp_path: Path) -> None:
    path = write_record(tmp_path, made.record())
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        write_record(tmp_path, made.record())
    assert path.read_bytes() == before and not list(path.parent.glob(".*part"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(surprise=1), "unknown key 'surprise'"),
        (lambda v: v.pop("phases"), "'phases' is missing"),
        (lambda v: v["results"].update(test_acc_pct="90"), "results.test_acc_pct"),
        (lambda v: v["results"].update(test_acc_pct=float("nan")), "results.test_acc_pct"),
        (lambda v: v["results"].update(test_acc_pct=101.0), "results.test_acc_pct"),
        (lambda v: v.update(schema_version=2), "schema_version"),
        (lambda v: v["spec"].update(model="../../etc"), "spec.model"),
        (lambda v: v.update(results=None), "must have results"),
        (lambda v: v.update(status="oom"), "must have a reason"),
        (lambda v: v["spec"].update(seed=7), "does not match the hashes"),
    ],
)
def test_a_wrong_record_is_refused_with_file_and_field(tmp_path: Path, change, message: str) -> None:
    path = rewrite(write_record(tmp_path, made.record()), change)
    with pytest.raises(UserError, match=message) as caught:
        read_record(path)
    assert path.name in str(caught.value)


def test_a_flipped_bit_is_refused_and_the_rest_is_read(tmp_path: Path) -> None:
    good = made.record(90.0, seed=0)
    write_record(tmp_path, good)
    path = write_record(tmp_path, made.record(80.0, seed=1))
    path.write_bytes(path.read_bytes().replace(b'"test_acc_pct":80.0', b'"test_acc_pct":80.5'))
    records, refused = read_board(tmp_path, good.spec.board)
    assert records == [good] and [r.path for r in refused] == [path]


def test_a_truncated_record_is_refused(tmp_path: Path) -> None:
    path = write_record(tmp_path, made.record())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=path.name):
        read_record(path)


def test_a_record_on_another_board_is_refused(tmp_path: Path) -> None:
    path = write_record(tmp_path, made.record())
    elsewhere = path.parent.parent / "another-board"
    elsewhere.mkdir()
    with pytest.raises(UserError, match="belongs to board"):
        read_record(path.rename(elsewhere / path.name))


def test_attempts_come_in_order(tmp_path: Path) -> None:
    for attempt in (2, 1):
        write_record(tmp_path, made.record(None, status="error", attempt=attempt))
    assert [r.attempt for r in attempts_of(tmp_path, made.spec())] == [1, 2]


def _write_many(root: Path, worker: int) -> None:
    for seed in range(10):
        write_record(root, made.record(50.0, seed=100 * worker + seed))


def test_many_processes_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_many, args=(tmp_path, n)) for n in range(8)]
    for worker in workers:
        worker.start()
    # A reader meets whole records only, at any time.
    board = made.spec().board
    while any(w.is_alive() for w in workers):
        assert read_board(tmp_path, board)[1] == []
    for worker in workers:
        worker.join()
    assert len(read_board(tmp_path, board)[0]) == 80


def test_the_canonical_form_has_no_numbers_in_strings() -> None:
    values = json.loads(made.record(90.0).canonical())
    assert isinstance(values["results"]["test_acc_pct"], float)
    assert RunRecord.model_validate_json(made.record(90.0).canonical()).file_name == made.record(90.0).file_name


def test_a_diverged_run_of_protocol_1_is_read(tmp_path: Path) -> None:
    """Its file says ``nan``, and keeps the name that the hash of its text gave it."""
    text = made.record(10.0, status="diverged", protocol=1).canonical().replace('"diverged"', '"nan"')
    path = (
        board_folder(tmp_path, made.spec(protocol=1).board)
        / f"{made.spec(protocol=1).digest()}.1.{short_hash(text)}.json"
    )
    path.parent.mkdir(parents=True)
    path.write_text(text)
    read = read_record(path)
    assert read.status == "diverged" and read.file_name == path.name
