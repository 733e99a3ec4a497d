"""What the command says: three sizes and a sentence, and the full profile of a finished run."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner
from equibench.bench.cli.main import cli
from equibench.bench.measures.equivariance_full import measure_full
from equibench.bench.measures.invariance import Judgement
from equibench.bench.records.record import read_board
from equibench.bench.records.sidecar import read_sidecars
from equibench.bench.reports.equivariance import AtSize, conclusion, number_text, trained_conclusion
from equibench.bench.training.full_profile import load_weights
from equibench.registry import UserError, build_model

from ..training import test_run as runs


def at(size: int, error: float | None, outcome: str = "ok") -> AtSize:
    return AtSize(size, outcome, judgement=Judgement(error, error))


@pytest.mark.parametrize(
    ("invariant", "errors", "words"),
    [
        ("C4", (0.5, 1e-6, 0.5), "at 28, but not at 27 and 29"),
        ("C4", (1e-6, 1e-6, 1e-6), "up to rounding at 27, 28 and 29."),
        ("C4", (1e-6, 0.5, 1e-6), "At 28 pixels the logits are not invariant"),
        ("C4", (0.5, 0.5, 0.5), "although the model claims it"),
        ("none", (0.5, 0.5, 0.5), "the model does not claim it"),
    ],
)
def test_one_sentence_says_what_the_sizes_mean(invariant: str, errors: tuple, words: str) -> None:
    sentence = conclusion(invariant, [at(27 + k, e) for k, e in enumerate(errors)])
    assert words in sentence and sentence.endswith(".")


def test_an_invariance_of_the_first_weights_alone_is_none() -> None:
    def outcomes(built: float, moved: float | None) -> list[AtSize]:
        return [AtSize(n, "ok", judgement=Judgement(built, moved)) for n in (27, 28, 29)]

    for moved, words in ((0.3, "weights (error 0.3)"), (None, "weights (error -)")):
        assert words in conclusion("C4", outcomes(1e-7, moved)) and "scales and biases" in conclusion(
            "C4", outcomes(1e-7, moved)
        )
    assert "although the model claims it" in conclusion("C4", outcomes(0.2, 0.3))
    assert "up to rounding at 27, 28 and 29." in conclusion("C4", outcomes(1e-7, 1e-6))


def test_what_cannot_be_built_or_is_collapsed_is_said() -> None:
    broken, collapsed = at(28, None, "cannot be built: too small"), at(28, None, "collapsed")
    assert "cannot be built: too small" in conclusion("C4", [broken, broken, broken])
    assert "no error is defined" in conclusion("C4", [at(27, 1e-6), collapsed, at(29, 1e-6)])
    assert "29" in conclusion("C4", [broken, at(28, 1e-6), at(29, 0.5)])


def test_a_verdict_compares_with_the_floor() -> None:
    class Point:
        collapsed, eq_rot_data, eq_floor = False, 0.02, 0.015

    assert "cannot be resolved" in trained_conclusion(Point, [])
    Point.eq_rot_data = 0.3
    assert "20.0 times" in trained_conclusion(Point, ["a note."]) and "a note." in trained_conclusion(
        Point, ["a note."]
    )
    Point.collapsed = True
    assert "collapsed" in trained_conclusion(Point, [])


def test_figures_are_shown_with_three_digits() -> None:
    assert [number_text(v) for v in (None, 0.12345, 2.4e-6, 0.0, 28, 96.16)] == [
        "-",
        "0.123",
        "2.4e-06",
        "0",
        "28",
        "96.2",
    ]


def test_of_a_model_the_table_and_the_pictures(tmp_path: Path) -> None:
    arguments = ["equivariance", "tiny", "--dataset", "bars", "--size", "7", "--out", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(cli, [*arguments, *options(tmp_path)])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [row["size_px"] for row in document["rows"]] == [6, 7, 8]
    assert all(
        row["outcome"] == "ok" and row["eq_exact_c4"] > 0.01 and row["eq_moved"] > 0.01 for row in document["rows"]
    )
    assert "does not claim it" in document["sentence"] and len(document["curves"]["7"]) == 72
    (picture,) = map(Path, document["pictures"])
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give one of MODEL"),
        (["p4cnn", "--run", "abcd"], "give one of MODEL"),
        (["--run", "abcd", "--size", "3"], "are for a MODEL"),
        (["--run", "abcd"], "no runs"),
        (["p4cnnn"], "did you mean 'p4cnn'"),
        (["p4cnn", "--size", "1"], "1 is not in the range x>=2"),
    ],
)
def test_wrong_input_is_one_sentence(arguments: list[str], words: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["equivariance", *arguments, *(["--results", str(tmp_path)])])
    said = str(result.exception) if isinstance(result.exception, UserError) else result.stderr
    assert result.exit_code and words in said
    assert list(tmp_path.iterdir()) == []


SUITE = """
dataset = "bars"
budget = "e2"
seeds = 1
models = ["tiny"]
equivariance = "full"
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head-to-head of one run whose suite asks for the full profile."""
    cwd = tmp_path_factory.mktemp("whole")
    (cwd / "whole.toml").write_text(SUITE)
    done = runs.equibench("run", "whole.toml", "--device", "cpu", *options(cwd), cwd=cwd)
    assert done.returncode == 0, done.stderr
    return cwd


def options(cwd: Path) -> list[str]:
    return ["--include", str(runs.TINY), "--data-root", str(cwd / "data"), "--results", str(cwd / "results")]


def board_of(cwd: Path) -> str:
    (csv,) = (p for p in (cwd / "results").glob("*.csv") if ".runs." not in p.name)
    return csv.name.removesuffix(".csv")


def forget_sidecars(cwd: Path) -> None:
    for path in (cwd / "results" / "runs" / board_of(cwd) / "equivariance").iterdir():
        path.unlink()


def test_a_suite_that_asks_for_it_gets_sidecars_that_join_the_board(whole: Path) -> None:
    root, board = whole / "results", board_of(whole)
    (record,), _ = read_board(root, board)
    (sidecar,), refused = read_sidecars(root, board)
    assert not refused and sidecar.run == record.run_id and sidecar.weights_sha256 == record.results.weights_sha256
    assert sidecar.phases["equivariance_full_s"] > 0 and len(sidecar.trained.curve) == 72
    assert sidecar.trained.acc_orbit_pct is None  # labels do not survive
    assert sidecar.trained.consistency_pct is not None
    # The initial weights are built again from the seed: they are those of the run.
    expected = _at_15(record.results.init.eq_rot_analytic, sidecar.init.curve)
    assert sidecar.init.curve[3] == pytest.approx(expected, rel=1e-4)
    header, row = (line.split(",") for line in (root / f"{board}.csv").read_text().splitlines()[:2])
    assert float(row[header.index("eq_rot_data")]) == pytest.approx(sidecar.trained.eq_rot_data)


@pytest.mark.whole
def test_a_finished_run_is_measured_once(whole: Path) -> None:
    """With all images; `test_a_finished_run_is_measured_later` has few, and
    `test_a_run_that_was_measured_is_not_measured_again` that there is one measurement.
    """
    root, board = whole / "results", board_of(whole)
    (record,), _ = read_board(root, board)
    (before,), _ = read_sidecars(root, board)
    forget_sidecars(whole)
    arguments = ["equivariance", "--run", record.run_id[:8], "--out", str(whole), *options(whole)]
    for _ in range(2):
        said = CliRunner().invoke(cli, arguments)
        assert said.exit_code == 0 and "eq_floor" in said.output, said.output
    (after,), _ = read_sidecars(root, board)
    assert after.trained == before.trained and after.init == before.init
    assert (whole / f"tiny-{record.run_id}-equivariance-angle.png").is_file()


def test_a_finished_run_is_measured_later(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its initial weights are built again and its final ones read. The number of images does not change the curves."""
    cwd = shutil.copytree(whole, tmp_path / "copy")
    root, board = cwd / "results", board_of(cwd)
    (record,), _ = read_board(root, board)
    (before,), _ = read_sidecars(root, board)
    forget_sidecars(cwd)
    few = partial(measure_full, draws=2)
    monkeypatch.setattr("equibench.bench.training.full_profile.measure_full", few)
    said = CliRunner().invoke(cli, ["equivariance", "--run", record.run_id[:8], "--out", str(cwd), *options(cwd)])
    assert said.exit_code == 0 and "eq_floor" in said.output, said.output
    (after,), _ = read_sidecars(root, board)
    assert after.trained.curve == before.trained.curve != before.init.curve == after.init.curve


def test_a_run_that_was_measured_is_not_measured_again(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (record,), _ = read_board(whole / "results", board_of(whole))
    monkeypatch.setattr("equibench.bench.training.full_profile.measure_full", None)  # it is never called
    arguments = ["equivariance", "--run", record.run_id[:8], "--out", str(tmp_path), *options(whole)]
    said = CliRunner().invoke(cli, arguments)
    assert said.exit_code == 0 and "eq_floor" in said.output, said.output
    assert (tmp_path / f"tiny-{record.run_id}-equivariance-angle.png").is_file()


def test_other_weights_are_refused(whole: Path) -> None:
    (record,), _ = read_board(whole / "results", board_of(whole))
    model = build_model("tiny", 1, 2, 12)
    load_weights(whole / "results", record, model)
    other = record.model_copy(update={"results": record.results.model_copy(update={"weights_sha256": "0" * 64})})
    with pytest.raises(UserError, match="hash differs"):
        load_weights(whole / "results", other, model)
    with pytest.raises(UserError, match="do not exist here"):
        load_weights(whole / "results", record.model_copy(update={"attempt": 7}), model)


@pytest.mark.slow
def test_a_suite_that_asks_later_measures_without_training_again(whole: Path) -> None:
    root, board = whole / "results", board_of(whole)
    forget_sidecars(whole)
    again = runs.equibench("run", "whole.toml", "--device", "cpu", *options(whole), cwd=whole)
    assert again.returncode == 0 and len(read_board(root, board)[0]) == 1 and len(read_sidecars(root, board)[0]) == 1


def _at_15(mean_of_five: float, curve: list[float | None]) -> float:
    """The error at 15 degrees, from the core profile's mean over 15, 30, 45, 60 and 75."""
    return 5 * mean_of_five - sum(curve[k] for k in (6, 9, 12, 15))
