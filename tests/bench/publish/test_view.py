"""The command leaderboard: filters, order, columns, formats, comparisons."""

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from equibench.bench.boards.rows import COMPARED
from equibench.bench.boards.statistics import Sample, compare
from equibench.bench.cli.main import cli
from equibench.registry import UserError

from .. import made
from . import boards
from .boards import ACCURACIES, BOARD


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return boards.fill(tmp_path)


def shown(root: Path, *arguments: str) -> str:
    result = CliRunner().invoke(cli, ["leaderboard", "--results", str(root), *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def rows(root: Path, *arguments: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(shown(root, "--format", "csv", *arguments).strip())))


def test_rows_are_filtered_and_sorted(root: Path) -> None:
    assert [r["model"] for r in rows(root, "--sort=-parameters")] == ["wrn-10-b9", "pdo-econv-p8", "z2cnn-22", "p4cnn"]
    assert [r["model"] for r in rows(root, "--sort", "model", "--model", "p*")] == ["p4cnn", "pdo-econv-p8"]
    assert rows(root, "--columns", "parameters,model", "--model", "p4cnn") == [
        {"parameters": "24680", "model": "p4cnn"}
    ]


def test_boards_are_filtered(root: Path) -> None:
    boards.fill(root, {"p4cnn": [90.0]}, dataset="mnist-rot")
    assert BOARD in shown(root, "--dataset", "digits-rot") and "mnist-rot" not in shown(root, "--dataset", "digits-rot")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dataset", "digits-rt"), "did you mean 'digits-rot'"),
        (("--budget", "e999"), made.spec().budget.name),
        (("--model", "p4cn"), "did you mean 'p4cnn'"),
        (("--against", "z2cnn-2"), "did you mean 'z2cnn-22'"),
        (("--sort", "rank_lo"), "did you mean 'rank_low'"),
        (("--columns", "model,parametrs"), "did you mean 'parameters'"),
        (("--format", "jsn"), "did you mean 'json'"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(root: Path, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CliRunner().invoke(cli, ["leaderboard", "--results", str(root), *arguments], catch_exceptions=False)


def test_another_reference_changes_the_comparison_alone(root: Path) -> None:
    values = {m: Sample(dict(enumerate(v)), 1500) for m, v in ACCURACIES.items()}
    expected = {c.model: c for c in compare(values, "p4cnn")}
    before, after = rows(root), rows(root, "--against", "p4cnn")
    for old, new in zip(before, after, strict=True):
        changed = {k for k in old if old[k] != new[k]}
        assert changed <= {"reference_model", *COMPARED}
        if new["model"] == "p4cnn":
            assert new["diff_mean_pct"] == "" and old["diff_mean_pct"] != ""
        else:
            assert float(new["diff_mean_pct"]) == pytest.approx(expected[new["model"]].difference)
            assert float(new["p_holm"]) == pytest.approx(expected[new["model"]].p_holm)


def test_the_table_of_comparisons_says_what_it_could_show(root: Path) -> None:
    text = shown(root, "--against", "z2cnn-22")
    assert "+5.0" in text and "corrected over 3 comparisons" in text and "at least 0.12" in text
    assert "over 6 comparisons" in shown(root, "--all-pairs")
    # A filter hides rows; it does not make the family smaller.
    assert "over 3 comparisons" in shown(root, "--against", "z2cnn-22", "--model", "p4cnn")


def test_ties_share_a_rank(root: Path) -> None:
    found = {r["model"]: (r["rank_low"], r["rank_high"]) for r in rows(root)}
    assert found == {"p4cnn": ("1", "2"), "pdo-econv-p8": ("1", "2"), "z2cnn-22": ("3", "3"), "wrn-10-b9": ("4", "4")}
    assert shown(root).count("1–2 ") == 2 and "rank: all ranks that are possible" in shown(root)


def test_json_carries_numbers_and_follows_the_filters(root: Path) -> None:
    (document,) = json.loads(shown(root, "--format", "json", "--model", "p4cnn"))
    assert [m["model"] for m in document["models"]] == ["p4cnn"] and len(document["runs"]) == 4
    assert document["models"][0]["test_acc_mean_pct"] == pytest.approx(95.3)


@pytest.mark.parametrize(("style", "mark"), [("md", "|---"), ("grid", "+---"), ("latex", r"\toprule")])
def test_formats(root: Path, style: str, mark: str) -> None:
    assert mark in shown(root, "--format", style)


def test_a_failed_model_has_a_row_and_no_rank(root: Path) -> None:
    from equibench.bench.records.record import write_record

    write_record(root, made.record(None, status="oom", reason="no memory", model="resnet-26"))
    (row,) = rows(root, "--model", "resnet-26")
    assert row["status"] == "oom" and row["rank_low"] == "" and row["p_holm"] == ""


def test_the_columns_that_the_help_names_are_there(root: Path) -> None:
    text = CliRunner().invoke(cli, ["leaderboard", "--help"]).output
    named = [
        line.split("--columns ")[1].split()[0]
        for line in text.splitlines()
        if "--columns " in line and line.lstrip().startswith("equibench ")
    ]
    assert named
    for columns in named:
        assert list(rows(root, "--columns", columns)[0]) == columns.split(",")
