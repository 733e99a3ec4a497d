"""Merging: what others measured comes in once, changes no row that is there, and can be done again at any point."""

import json
import shutil
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from equibench.bench.boards.board import load_board
from equibench.bench.boards.rows import write_board
from equibench.bench.exchange import merge as merging
from equibench.bench.exchange.export import export
from equibench.bench.exchange.merge import merge
from equibench.bench.records.calibration import Block, Calibration, write_calibration
from equibench.bench.records.outcomes import read_predictions
from equibench.bench.records.record import read_board, write_record
from equibench.bench.records.sidecar import (
    FullPoint,
    ReplayVerdict,
    Sidecar,
    read_sidecars,
    read_verdicts,
    write_sidecar,
    write_verdict,
)
from equibench.bench.records.store import OUTCOMES, board_folder
from equibench.bench.spec.budget import find_budget
from equibench.bench.spec.suite import find_suite, tuned_file
from equibench.registry import UserError

from .. import made
from ..test_hostile import BOARD, WRONG, forged
from .folders import tree, whole

MODELS = ("one", "two", "three")


def clone(root: Path, seeds: tuple[int, ...], models: tuple[str, ...] = MODELS) -> Path:
    for seed in seeds:
        for model in models:
            whole(root, 100 + 40 * MODELS.index(model) + 3 * seed, seed=seed, model=model)
    return root


def sidecar_of(record: Any) -> Sidecar:
    point = FullPoint(
        eq_rot_data=0.5, eq_floor=0.1, lee_rot_per_deg=0.1, lee_shift_per_px=0.1, consistency_pct=None,
        acc_orbit_pct=None, acc_worst_angle_pct=None, collapsed=False, curve=[], layers=[],
    )  # fmt: skip
    return Sidecar(
        schema_version=1, kind="equivariance", protocol=record.spec.protocol, board=record.spec.board,
        run=record.run_id, model=record.spec.model, dataset=record.spec.dataset,
        weights_sha256=record.results.weights_sha256, draws=8, orbit_images=0, curve_degrees=[], init=point,
        trained=point, phases={"equivariance_full_s": 1.0}, provenance=record.provenance, warnings=[],
    )  # fmt: skip


def verdict_of(record: Any, again: Any) -> ReplayVerdict:
    return ReplayVerdict(
        board=record.spec.board, run=record.run_id, again=again.run_id, agrees=True, rule="bit-exact", why="made up",
        differences=[], recorded=90.0, replayed=90.0, judged="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def test_two_clones_with_disjoint_seeds_are_byte_for_byte_one_that_ran_all(tmp_path: Path) -> None:
    write_board(clone(tmp_path / "all", (0, 1, 2, 3)), BOARD)
    clone(tmp_path / "a", (0, 2)), clone(tmp_path / "b", (1, 3))
    export([BOARD], tmp_path / "b", tmp_path / "b.tar.gz")
    expected = tree(tmp_path / "all")
    assert len(expected) == 2 * 12 + 1 + 2
    for number, sources in enumerate([("a", "b"), ("b", "a"), ("b.tar.gz", "a", "b")]):
        merge([tmp_path / s for s in sources], tmp_path / f"merged-{number}")
        assert tree(tmp_path / f"merged-{number}") == expected
    merge([tmp_path / "b"], tmp_path / "a")  # into one of them
    assert tree(tmp_path / "a") == expected


def test_what_is_known_comes_once_and_a_conflict_is_a_further_attempt(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for wrong in range(100, 120, 4):  # of whichever content has the smaller hash
        shutil.rmtree(ours, ignore_errors=True), shutil.rmtree(theirs, ignore_errors=True)
        mine = whole(ours, 120 + wrong, seed=1)
        other = whole(theirs, wrong, seed=1)
        write_sidecar(theirs, sidecar_of(other))
        again = whole(theirs, wrong + 1, seed=1, attempt=2)
        write_verdict(theirs, verdict_of(other, again))
        before = load_board(ours, BOARD).values
        done = merge([theirs], ours)
        assert [a.state for a in done.files] == ["further attempt"] * 2 + ["new"] * 2
        assert all(other.spec.digest() in a.why for a in done.of("further attempt"))
        assert load_board(ours, BOARD).values == before, "better figures of others do not replace a row"
        records, refused = read_board(ours, BOARD)
        assert not refused and [(r.attempt, r.first_attempt) for r in records] == [(1, None), (2, 1), (3, 2)]
        assert records[0].file_name == mine.file_name
        for came, first in zip(records[1:], (other, again), strict=True):
            assert came.identity == first.identity and came.results == first.results
            assert (read_predictions(ours, came)[0] == read_predictions(theirs, first)[0]).all()
        (sidecar,), (verdict,) = read_sidecars(ours, BOARD)[0], read_verdicts(ours, BOARD)[0]
        assert sidecar.run == records[1].run_id
        assert (verdict.run, verdict.again) == (records[1].run_id, records[2].run_id)
        # Again, and back to where they came from: nothing is new but what is.
        kept = tree(ours)
        assert {a.state for a in merge([theirs], ours).files} == {"known"} and tree(ours) == kept
        back = merge([ours], theirs)
        assert [a.name for a in back.of("new", "further attempt")] == [mine.file_name]
        assert len(read_board(theirs, BOARD)[0]) == 3


def test_an_interrupted_merge_is_repeated_from_every_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, ours = clone(tmp_path / "source", (0, 1), ("one",)), tmp_path / "ours"
    first = whole(source, 50, seed=2, model="one")
    write_sidecar(source, sidecar_of(first))
    whole(ours, 70, seed=1, model="one")
    shutil.copytree(ours, tmp_path / "before")
    merge([source], ours)
    expected, writes = tree(ours), 0
    original = merging.write_exclusively
    for stop in range(20):
        part = tmp_path / f"part-{stop}"
        shutil.copytree(tmp_path / "before", part)
        writes = 0

        def write(path: Path, data: bytes, stop: int = stop) -> None:
            nonlocal writes
            if writes == stop:
                raise KeyboardInterrupt
            writes += 1
            original(path, data)

        monkeypatch.setattr(merging, "write_exclusively", write)
        try:
            merge([source], part)
            break
        except KeyboardInterrupt:
            assert not read_board(part, BOARD)[1], "what is there is whole"
        monkeypatch.setattr(merging, "write_exclusively", original)
        merge([source], part)
        assert tree(part) == expected
    assert 7 <= stop < 19 and tree(part) == expected


def test_records_of_strangers_are_refused_file_by_file(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    good = whole(theirs, seed=1, model="good")
    expected = {forged(theirs, change).name: message for change, message in WRONG.values()}
    many = whole(theirs, seed=3, attempt=10**6)  # after it no run could have a further attempt
    expected[many.file_name] = "are allowed"
    linked = f"{'0' * 16}.1.{'1' * 16}.json"
    (theirs / "runs" / BOARD / linked).symlink_to("/etc/passwd")
    expected[linked] = "symbolic link"
    (theirs / "runs" / "linked-e2-common-v2").symlink_to(theirs / "runs" / BOARD)
    (theirs / "runs" / "not a board").mkdir()
    done = merge([theirs], ours)
    assert [a.name for a in done.of("new")] == [good.file_name]
    refused = {a.name: a.why for a in done.of("refused")}
    assert set(refused) == {*expected, "linked-e2-common-v2", "not a board"}
    for name, message in expected.items():
        assert message in refused[name] and str(tmp_path) not in refused[name]
    assert [p.name for p in (ours / "runs").glob("*/*.json")] == [good.file_name]


def test_a_record_comes_with_the_outcomes_that_it_names_or_not_at_all(tmp_path: Path) -> None:
    for number, damage in enumerate(
        [
            lambda path, labels: path.unlink(),
            lambda path, labels: labels.unlink(),
            lambda path, labels: path.write_text(path.read_text().replace("outcomes", "outcome5", 1)),
            lambda path, labels: labels.write_text("{}"),
            lambda path, labels: (path.rename(path.with_suffix(".kept")), path.symlink_to(path.with_suffix(".kept"))),
        ]
    ):
        theirs, ours = tmp_path / f"theirs-{number}", tmp_path / f"ours-{number}"
        record = whole(theirs, seed=1)
        old = made.record(91.0, seed=2, model="without-outcomes")  # records of before there were any
        write_record(theirs, old)
        folder = board_folder(theirs, BOARD) / OUTCOMES
        damage(next(folder.glob(f"{record.run_id}*")), next(folder.glob("labels*")))
        done = merge([theirs], ours)
        assert [a.name for a in done.of("refused")] == [record.file_name]
        assert [a.name for a in done.of("new")] == [old.file_name]
        assert not list(ours.rglob("outcomes/*"))


def test_sidecars_and_verdicts_without_their_record_are_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    record, other = whole(theirs, seed=1), whole(tmp_path / "elsewhere", 70, seed=2)
    write_sidecar(theirs, sidecar_of(other))
    write_sidecar(theirs, sidecar_of(record).model_copy(update={"weights_sha256": "1" * 64}))
    write_verdict(theirs, verdict_of(record, other.model_copy(update={"attempt": 7, "spec": record.spec})))
    done = merge([theirs], tmp_path / "ours")
    assert [(a.kind, a.state) for a in done.files] == [
        ("record", "new"), ("sidecar", "refused"), ("sidecar", "refused"), ("verdict", "refused"),
    ]  # fmt: skip


def test_a_damaged_record_of_ours_is_named_and_stays(tmp_path: Path) -> None:
    record = whole(tmp_path / "theirs", seed=1)
    whole(tmp_path / "ours", seed=1)
    path = tmp_path / "ours" / "runs" / BOARD / record.file_name
    path.write_text("{")
    done = merge([tmp_path / "theirs"], tmp_path / "ours")
    assert [a.state for a in done.files] == ["refused"] and path.read_text() == "{"


def test_a_dry_run_says_the_same_and_writes_nothing(tmp_path: Path) -> None:
    ours = clone(tmp_path / "ours", (0, 1))
    a, b = clone(tmp_path / "a", (1, 2)), clone(tmp_path / "b", (2, 3))
    whole(a, 17, seed=0, model="one")
    before = tree(tmp_path)
    said = merge([a, b], ours, dry_run=True)
    assert tree(tmp_path) == before
    assert merge([a, b], ours).files == said.files
    new = tmp_path / "new"
    assert len(merge([a], new, dry_run=True).of("new")) == 7 and not new.exists()


def calibration(model: str, step_s: float, sequence: int = 1, **changes: Any) -> Calibration:
    return Calibration(
        model=model, source_hash="", dataset="digits-rot", batch=64, profile="strict", hardware_key="Some GPU",
        sequence=sequence, blocks=[Block(steps=100, seconds=100 * step_s)], beside=[], **changes,
    )  # fmt: skip


def test_machines_that_share_a_board_of_device_seconds_share_its_calibration(tmp_path: Path) -> None:
    budget = find_budget("t10").model_copy(update={"note": ""})

    def timed(root: Path, seed: int, steps: int) -> Any:
        return whole(root, seed=seed, budget=budget, steps=steps, hardware_key="Some GPU", train_s=10.0)

    a, b, c, ours = (tmp_path / name for name in ("a", "b", "c", "ours"))
    board = timed(a, 0, 1000).spec.board
    timed(b, 1, 1000), timed(c, 2, 1250)
    for root, step in ((a, 0.01), (b, 0.01), (c, 0.008)):
        write_calibration(root, board, calibration("made-up", step))
    merge([a], ours)
    assert [a.state for a in merge([b], ours).files] == ["known", "new"]
    values = load_board(ours, board).values
    assert set(values["made-up"]) == {0, 1}
    done = merge([c], ours)
    assert [(a.kind, a.state) for a in done.files] == [("calibration", "refused"), ("record", "refused")]
    assert "share a calibration" in done.files[1].why and load_board(ours, board).values == values
    # One that goes on from what is here, after runs that drifted, is taken; what it replaces is history.
    write_calibration(b, board, calibration("made-up", 0.02, sequence=2))
    timed(b, 1, 500)
    done = merge([b], ours)
    assert [(a.kind, a.state) for a in done.files if a.state != "known"] == [
        ("calibration", "new"),
        ("record", "new"),
    ]
    assert set(load_board(ours, board).values["made-up"]) == {1}


def test_tuned_rates_are_added_and_those_that_are_here_stay(tmp_path: Path) -> None:
    from equibench.bench.runner.tune import write_tuned
    from equibench.bench.spec.recipe import named_recipes, read_tuned

    a, b = clone(tmp_path / "a", (0,), ("one",)), clone(tmp_path / "b", (0,), ("two",))
    board = find_suite("quickstart").model_copy(update={"recipe": "tuned"}).board()
    for root, rates in ((a, {"one": 0.01, "two": 0.03}), (b, {"two": 0.001, "three": 0.003})):
        write_tuned(tuned_file(root, board), named_recipes()["common"], rates, {m: {r: 90.0} for m, r in rates.items()})
    done = merge([b], a)
    (arrival,) = [x for x in done.files if x.kind == "recipe"]
    assert arrival.state == "refused" and "two has another tuned recipe here" in arrival.why
    assert {m: t["lr"] for m, t in read_tuned(tuned_file(a, board)).items()} == {
        "one": 0.01,
        "two": 0.03,
        "three": 0.003,
    }
    (b / "tuned" / "evil-v2.toml").write_text('["x"]\nlr = "fast"\n')
    assert "[x]: the key 'optimizer' is missing" in merge([b], a).of("refused")[-1].why


def test_what_was_exported_has_what_repeats_it_and_refuses_what_is_damaged(tmp_path: Path) -> None:
    import tarfile

    root = clone(tmp_path / "root", (0, 1))
    broken = root / "runs" / BOARD / f"{'0' * 16}.1.{'1' * 16}.json"
    broken.write_text("{}")
    (root / "runs" / BOARD / "weights").mkdir()
    (root / "runs" / BOARD / "weights" / "large.pt").write_bytes(b"0" * 1000)
    names, count, refused = export(["digits-rot-e2-common"], root, tmp_path / "a.tar.gz")
    assert names == [BOARD] and [r.path for r in refused] == [broken]
    first = (tmp_path / "a.tar.gz").read_bytes()
    export([BOARD, BOARD], root, tmp_path / "a.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == first
    with tarfile.open(tmp_path / "a.tar.gz") as file:
        assert len(file.getnames()) == count == 2 * 6 + 1 + 2 and file.getnames() == sorted(file.getnames())
        file.extractall(tmp_path / "out", filter="data")
    suite = find_suite(str(tmp_path / "out" / "suites" / f"{BOARD}.toml"))
    assert (suite.models, suite.seed_list, suite.board()) == (sorted(MODELS), [0, 1], BOARD)
    packed = []
    for number, models in enumerate(permutations(MODELS)):  # the order of merges does not change the archive
        for model in models:
            only = tmp_path / f"only-{model}"
            merge([only if only.exists() else clone(only, (0, 1), (model,))], tmp_path / f"merged-{number}")
        export([BOARD], tmp_path / f"merged-{number}", tmp_path / "b.tar.gz")
        packed.append((tmp_path / "b.tar.gz").read_bytes())
    assert set(packed) == {first}
    for out in ("x.zip", "missing/x"):
        with pytest.raises(UserError, match=r"tar\.gz"):
            export([BOARD], root, tmp_path / out)


def test_the_command_prints_a_table_and_names_what_it_refused(tmp_path: Path, capfd: Any, monkeypatch: Any) -> None:
    from ..test_hostile import equibench

    theirs, ours = clone(tmp_path / "theirs", (0, 1)), clone(tmp_path / "ours", (1, 2))
    whole(theirs, 11, seed=2, model="one", hardware={"device": "cuda:0", "hardware_key": "Some GPU; 80 GiB"})
    code, out, err = equibench(capfd, monkeypatch, "merge", str(theirs), "--results", str(ours), "--dry-run")
    assert code == 0 and "nothing was written" in out and not err
    assert "6 × Some processor; 1 × Some GPU" in out and "torch 2.12.1" in out and "conflict: run" in out
    code, out, err = equibench(capfd, monkeypatch, "merge", str(theirs), "--results", str(ours), "--json")
    states = [f["state"] for f in json.loads(out)["files"]]
    assert code == 0 and sorted(states) == ["further attempt", *["known"] * 3, *["new"] * 3]
    forged(theirs, WRONG["NaN"][0])
    code, out, err = equibench(capfd, monkeypatch, "merge", str(theirs), "--results", str(ours))
    assert code == 1 and len(err.splitlines()) == 1 and err.startswith("equibench: refused: ")
    for arguments in ([str(tmp_path / "nowhere")], [str(ours)]):
        code, out, err = equibench(capfd, monkeypatch, "merge", *arguments, "--results", str(ours))
        assert code == 2 and len(err.splitlines()) == 1
    code, out, err = equibench(
        capfd, monkeypatch, "export", BOARD, "--out", str(tmp_path / "x.tar.gz"), "--results", str(ours)
    )
    assert code == 0 and "x.tar.gz" in out
