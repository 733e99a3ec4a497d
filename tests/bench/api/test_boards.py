"""Boards and runs from Python say what the CSVs and records say."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from equibench.bench.api.boards import Leaderboard, load_board, load_runs
from equibench.bench.boards.board import Board
from equibench.bench.boards.rows import write_board
from equibench.bench.publish.plots.figures import PLOTS
from equibench.bench.records.record import write_record
from equibench.registry import UserError

from ..made import record

LEADERBOARDS = Path(__file__).resolve().parents[3] / "leaderboards"
NAME = "digits-rot-e10-common"


@pytest.fixture(scope="module")
def board() -> Leaderboard:
    return load_board(NAME, LEADERBOARDS)


def test_boards_can_be_compared_and_are_keys(board: Leaderboard) -> None:
    assert board == board and board != load_board(NAME, LEADERBOARDS) and len({board, board}) == 1


def test_a_refused_file_is_a_warning(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / f"{NAME}-v2"
    folder.mkdir(parents=True)
    (folder / "x.json").write_text("{")
    for call in (lambda: load_board(NAME, tmp_path), lambda: load_runs(results=tmp_path)):
        with pytest.warns(UserWarning, match=r"refused: .*x\.json") as said:
            call()
        assert said[0].filename == __file__, "it names the line of the caller"


def test_a_table_is_the_csv(board: Leaderboard, tmp_path: Path) -> None:
    shutil.copytree(LEADERBOARDS / "runs" / board.name, tmp_path / "runs" / board.name)
    write_board(tmp_path, board.name)
    csv = pd.read_csv(tmp_path / f"{board.name}.csv")
    table = board.table()
    assert list(table.columns) == list(csv.columns) and table["model"].tolist() == csv["model"].tolist()
    assert np.allclose(table["test_acc_mean_pct"].astype(float), csv["test_acc_mean_pct"])
    table["model"] = "changed"
    assert "changed" not in board.models, "what a reader does with a table leaves the board alone"


def test_comparisons_with_the_reference_are_those_of_the_csv(board: Leaderboard) -> None:
    table = board.table().set_index("model")
    reference = board.board.reference
    compared = board.against(reference).set_index("model")
    assert set(compared.index) == set(table.index) - {reference}
    for column in ("diff_mean_pct", "diff_ci95_pct", "p_holm"):
        assert np.allclose(compared[column].astype(float), table.loc[compared.index, column].astype(float))
    assert compared["diff_mean_pct"].is_monotonic_decreasing


def test_a_comparison_the_other_way_round_has_the_other_sign(board: Leaderboard) -> None:
    one, other = board.models[0], board.models[-1]
    there = board.against(one).set_index("model").loc[other]
    back = board.against(other).set_index("model").loc[one]
    assert there["diff_mean_pct"] == pytest.approx(-back["diff_mean_pct"])
    assert there["diff_ci95_pct"] == pytest.approx(back["diff_ci95_pct"])
    assert there["agree_pct"] == pytest.approx(back["agree_pct"]) and 0 < there["agree_pct"] < 100


def test_ranks_are_those_of_the_csv(board: Leaderboard) -> None:
    table, ranks = board.table().set_index("model"), board.ranks()
    assert ranks.index.tolist() == board.models
    for column in ("rank_low", "rank_high"):
        assert ranks[column].tolist() == table[column].tolist()


def test_predictions_have_the_accuracy_of_their_runs(board: Leaderboard) -> None:
    found, runs = board.predictions(), board.runs().set_index(["model", "seed"])
    labels = found["label"].to_numpy().ravel()
    assert len(found.columns) == 1 + len(runs)
    for model, seed in found.columns[1:]:
        accuracy = 100 * float((found[model, seed].to_numpy() == labels).mean())
        assert accuracy == pytest.approx(runs.loc[(model, seed), "test_acc_pct"])
    own = board.predictions(board.models[0])
    assert {model for model, _ in own.columns[1:]} == {board.models[0]}


@pytest.mark.parametrize("name", ["accuracy-flops", "accuracy-parameters", "differences"])
def test_a_plot_is_an_axis_that_can_be_changed(board: Leaderboard, name: str) -> None:
    axes = board.plot(name)
    axes.set_title("mine")
    assert axes.get_title() == "mine" and axes.figure is not None
    if name == "accuracy-flops":
        assert axes.get_xlabel().startswith("MFLOPs") and "accuracy" in axes.get_ylabel()
        assert {t.get_text() for t in axes.texts} & set(board.models)


def test_every_plot_of_the_site_can_be_asked_for(board: Leaderboard) -> None:
    documented, drawn = Leaderboard.plot.__doc__ or "", []
    for plot in PLOTS:
        assert f"``{plot.stem}``" in documented
        try:
            drawn.append(board.plot(plot.stem).figure)
        except UserError as error:
            assert f"has nothing to draw for {plot.stem!r}" in str(error) and plot.needs in str(error)
    assert len(drawn) >= 4 and None not in drawn


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda b: b.plot("accuracy-flop"), "did you mean 'accuracy-flops'"),
        (
            lambda b: Leaderboard(Board(b.name)).against("p4cnn"),
            f"'p4cnn' has no result on {NAME}-v2; there are none",
        ),
        (lambda b: b.against("pdo-econv-p8-papr"), "did you mean"),
        (lambda b: b.predictions("nothing-like-it"), "has no run on"),
        (lambda b: load_board("digits-rot-e10-comon", LEADERBOARDS), "did you mean"),
        (lambda b: load_runs("digits-rot-e10-comon", LEADERBOARDS), "did you mean"),
    ],
)
def test_a_wrong_name_is_one_sentence(board: Leaderboard, call, says: str) -> None:
    with pytest.raises(UserError, match=says):
        call(board)


def test_a_board_prints_as_its_table(board: Leaderboard) -> None:
    text, page = repr(board), board._repr_html_()
    for model in board.models:
        assert model in text and model in page
    assert "<table>" in page and "Holm" in page


def test_a_hostile_name_is_text_in_a_notebook(tmp_path: Path) -> None:
    made = record(reason="<script>alert(1)</script>", status="error", accuracy=None)
    page = Leaderboard(Board(made.spec.board, chosen=[(made, "")], root=tmp_path))._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_all_runs_are_one_table(board: Leaderboard, tmp_path: Path) -> None:
    runs = load_runs(results=LEADERBOARDS)
    assert runs["board"].nunique() > 3 and runs["run"].is_unique
    own = runs[runs["board"] == board.name]
    assert len(own) == len(board.runs()) == len(load_runs(NAME, LEADERBOARDS))
    assert load_runs(results=tmp_path).empty
    write_record(tmp_path, record(accuracy=None, status="lost"))
    assert load_runs(results=tmp_path)["status"].tolist() == ["lost"]
