"""Sidecar records: immutable, strict, joined to the run whose weights they were measured on."""

import json
from pathlib import Path
from typing import Any

import pytest
from equibench.bench.boards.board import load_board
from equibench.bench.boards.rows import model_rows, run_rows, write_board
from equibench.bench.records.record import write_record
from equibench.bench.records.sidecar import (
    FullPoint,
    LayerPoint,
    Sidecar,
    find_sidecar,
    read_sidecar,
    read_sidecars,
    write_sidecar,
)
from equibench.bench.records.store import SIDECARS, board_folder
from equibench.bench.tools.schema import short_hash
from equibench.registry import UserError
from pydantic import ValidationError

from .. import made


def sidecar(of, error: float = 0.25, started: str = "2026-01-02T00:00:00+00:00", **changes: Any) -> Sidecar:
    point = FullPoint(
        eq_rot_data=error, eq_floor=0.01, lee_rot_per_deg=0.02, lee_shift_per_px=0.3, consistency_pct=90.0,
        acc_orbit_pct=80.0, acc_worst_angle_pct=70.0, collapsed=False, curve=[0.0, None],
        layers=[LayerPoint(layer="a.0", eq_feat_exact=1e-7, eq_feat_fibre=None)],
    )  # fmt: skip
    values: dict[str, Any] = {
        "schema_version": 1, "kind": "equivariance", "protocol": of.spec.protocol, "board": of.spec.board,
        "run": of.run_id, "model": of.spec.model, "dataset": of.spec.dataset, "draws": 256, "orbit_images": 1500,
        "weights_sha256": of.results.weights_sha256, "curve_degrees": [0.0, 5.0], "init": point, "trained": point,
        "phases": {"equivariance_full_s": 12.0},
        "provenance": of.provenance.model_copy(update={"started": started}), "warnings": [],
    }  # fmt: skip
    return Sidecar(**values | changes)


def test_what_is_written_is_read_and_never_replaced(tmp_path: Path) -> None:
    run = made.record()
    path = write_sidecar(tmp_path, sidecar(run))
    assert read_sidecar(path) == sidecar(run)
    with pytest.raises(FileExistsError):
        write_sidecar(tmp_path, sidecar(run))


def test_a_file_that_was_changed_is_refused_and_named(tmp_path: Path) -> None:
    path = write_sidecar(tmp_path, sidecar(made.record()))
    path.write_text(path.read_text().replace("0.25", "0.05"))
    with pytest.raises(UserError, match="hashes in the name"):
        read_sidecar(path)
    found, refused = read_sidecars(tmp_path, made.spec().board)
    assert found == [] and refused[0].path == path
    write_record(tmp_path, made.record())
    assert load_board(tmp_path, made.spec().board).refused == refused


def test_one_of_an_earlier_release_is_read_too(tmp_path: Path) -> None:
    # Its content, and with it its name, has not the fields that were added later.
    path = write_sidecar(tmp_path, sidecar(made.record()))
    content = json.loads(path.read_text())
    added = ("acc_by_angle_pct", "eq_rot_data_abs", "nv_rot_data", "kl_rot_data_nats")
    del content["orbit_degrees"]
    content |= {when: {k: v for k, v in content[when].items() if k not in added} for when in ("init", "trained")}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    older = path.with_name(f"{content['run']}.{short_hash(text)}.json")
    older.write_text(text + "\n")
    assert older != path and read_sidecar(older) == sidecar(made.record())


@pytest.mark.parametrize("changes", [{"curve_degrees": [0.0]}, {"orbit_degrees": [0.0, 15.0]}])
def test_every_angle_has_a_value(changes: dict[str, Any]) -> None:
    run = made.record()
    point = sidecar(run).trained.model_copy(update={"acc_by_angle_pct": [90.0]})
    with pytest.raises(ValidationError, match="values for"):
        Sidecar.model_validate(sidecar(run).model_dump() | {"trained": point.model_dump()} | changes)


def test_unknown_and_missing_fields_are_named(tmp_path: Path) -> None:
    path = write_sidecar(tmp_path, sidecar(made.record()))
    path.write_text(path.read_text().replace('"draws"', '"drawn"'))
    with pytest.raises(UserError, match="drawn"):
        read_sidecar(path)
    path.rename(board_folder(tmp_path, made.spec().board) / SIDECARS / "note.json")
    with pytest.raises(UserError, match="the name of a sidecar is"):
        read_sidecar(board_folder(tmp_path, made.spec().board) / SIDECARS / "note.json")


def test_it_joins_the_row_of_its_run(tmp_path: Path) -> None:
    runs = [made.record(90.0, seed=0), made.record(91.0, seed=1), made.record(92.0, seed=2)]
    for run in runs:
        write_record(tmp_path, run)
    write_sidecar(tmp_path, sidecar(runs[0], 0.2))
    write_sidecar(tmp_path, sidecar(runs[1], 0.4))
    board = load_board(tmp_path, made.spec().board)
    rows = run_rows(board).set_index("seed")
    assert rows.loc[0, "eq_rot_data"] == 0.2 and rows.loc[1, "eq_rot_data_init"] == 0.4
    assert rows.loc[0, "equivariance_full_s"] == 12.0 and rows["eq_rot_data"].isna().tolist() == [False, False, True]
    row = model_rows(board).iloc[0]
    assert row["eq_rot_data"] == pytest.approx(0.3) and row["acc_worst_angle_pct"] == 70.0
    assert row["runs_equivariance_full"] == 2
    write_board(tmp_path, board.name)
    assert "lee_rot_per_deg" in (tmp_path / f"{board.name}.csv").read_text().splitlines()[0]


@pytest.mark.parametrize("changes", [{"weights_sha256": "1" * 64}, {"protocol": 0}, {"run": "0" * 16 + ".1"}])
def test_one_of_other_weights_or_of_another_protocol_does_not_join(tmp_path: Path, changes: dict) -> None:
    run = made.record()
    write_record(tmp_path, run)
    write_sidecar(tmp_path, sidecar(run, **changes))
    assert find_sidecar(tmp_path, run) is None
    row = model_rows(load_board(tmp_path, run.spec.board)).iloc[0]
    assert row["eq_rot_data"] is None and row["runs_equivariance_full"] == 0


def test_the_first_one_counts(tmp_path: Path) -> None:
    run = made.record()
    write_record(tmp_path, run)
    write_sidecar(tmp_path, sidecar(run, 0.2, started="2026-01-03T00:00:00+00:00"))
    write_sidecar(tmp_path, sidecar(run, 0.6, started="2026-01-02T00:00:00+00:00"))
    assert model_rows(load_board(tmp_path, run.spec.board)).iloc[0]["eq_rot_data"] == 0.6
