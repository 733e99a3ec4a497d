"""Reported figures: the shipped table, and what the reader refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from equibench.bench.boards.reported import COLUMNS, STATUSES, read_reported, reported_rows, reported_table
from equibench.bench.cli.main import cli
from equibench.bench.records.record import write_record
from equibench.registry import UserError

from .. import made

GOOD = dict(
    method="A net", family="g-cnn", dataset="mnist-rot", metric="error", value="2.28", spread="0.04", unit="%",
    parameters="24680", augmentation="none", epoch_selection="last", runs="5", source="arXiv:1602.07576", status="seen",
)  # fmt: skip


def write(folder: Path, *rows: dict[str, str], header: str = ",".join(COLUMNS)) -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join([header, *(",".join(row.values()) for row in rows)]) + "\n", encoding="utf-8")
    return path


def test_a_good_row_becomes_numbers(tmp_path: Path) -> None:
    sparse = GOOD | dict(method="B", spread="", parameters="", runs="")
    frame = read_reported(write(tmp_path, GOOD, sparse))
    assert list(frame.columns) == list(COLUMNS)
    assert frame["value"].tolist() == [2.28, 2.28] and frame["parameters"][0] == 24680 and frame["runs"][0] == 5
    assert frame[["spread", "parameters", "runs"]].isna().loc[1].all()


@pytest.mark.parametrize(
    ("column", "cell", "problem"),
    [
        ("source", "", "should be a text, without blanks at its ends"),
        ("source", " ", "should be a text, without blanks at its ends"),
        ("method", "", "should be a text, without blanks at its ends"),
        ("value", "", "should be a valid number"),
        ("value", "2.28%", "should be a valid number"),
        ("value", "about 2", "should be a valid number"),
        ("value", "nan", "should be a finite number"),
        ("value", "101", "should be less than or equal to 100"),
        ("spread", "-0.1", "should be greater than or equal to 0"),
        ("spread", "small", "should be a valid number"),
        ("parameters", "24 680", "should be a whole number above zero, without separators"),
        ("parameters", "26K", "should be a whole number above zero, without separators"),
        ("runs", "0", "should be greater than 0"),
        ("runs", "2.5", "should be a whole number above zero, without separators"),
        ("metric", "loss", "should be 'error' or 'accuracy'"),
        ("unit", "", "should be '%'"),
        ("epoch_selection", "best", "should be 'last', 'best test' or 'unknown'"),
        ("status", "", "should be 'seen' or 'unverified'"),
        ("status", "memory", "should be 'seen' or 'unverified'"),
    ],
)
def test_a_wrong_cell_is_refused_with_row_and_column(tmp_path: Path, column: str, cell: str, problem: str) -> None:
    path = write(tmp_path, GOOD, GOOD | {"method": "B", column: cell})
    with pytest.raises(UserError) as refused:
        read_reported(path)
    assert f"row 3, column '{column}'" in str(refused.value) and problem in str(refused.value)
    assert repr(cell) in str(refused.value)


def test_a_repeated_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="row 3, column 'method': 'A net' repeats row 2"):
        read_reported(write(tmp_path, GOOD, GOOD | {"value": "2.3"}))


def test_rows_of_other_lengths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        read_reported(write(tmp_path, GOOD, GOOD | {"method": "a,b"}))
    short = {k: v for k, v in GOOD.items() if k not in ("status", "source")}
    with pytest.raises(UserError, match="row 2, column 'source'"):
        read_reported(write(tmp_path, short))


def test_wrong_columns_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the columns must be method, .*not a, b"):
        read_reported(write(tmp_path, {"a": "1", "b": "2"}, header="a,b"))
    with pytest.raises(UserError, match=r"nowhere.csv cannot be read"):
        read_reported(tmp_path / "nowhere.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(UserError, match="is not a table"):
        read_reported(tmp_path / "empty.csv")


def test_the_shipped_table() -> None:
    """Headline figures as published; everything from memory is marked."""
    frame = read_reported()
    assert set(frame["status"]) == set(STATUSES)

    def value(method: str, dataset: str, source: str = "", augmentation: str = "") -> float:
        rows = frame[(frame["method"] == method) & (frame["dataset"] == dataset)]
        rows = rows[rows["source"].str.contains(source, regex=False)]
        rows = rows[rows["augmentation"].str.contains(augmentation, regex=False)]
        assert len(rows) == 1, f"{method} on {dataset}: {len(rows)} rows"
        return rows["value"].item()

    assert value("Z2CNN", "mnist-rot") == 5.03 and value("P4CNN", "mnist-rot") == 2.28
    assert value("PDO-eConv p8", "mnist-rot") == 1.87 and value("E2CNN D16|5C16", "mnist-rot") == 0.682
    assert value("PDO-eConv p8 44", "cifar10") == 3.68 and value("PDO-eConv p8 44", "cifar100") == 20.01
    assert value("PDO-eConv p8 26 wide", "cifar100") == 18.40
    assert value("ResNet-44 p4m", "cifar10", augmentation="flip") == 4.94
    assert value("WRN-28-10 dropout", "cifar10") == 3.89
    assert value("E2CNN WRN-28-10 D8D4D1", "cifar10", augmentation="AutoAugment") == 2.05
    memory = frame["source"].str.contains("from memory")
    assert (frame.loc[memory, "status"] == "unverified").all()
    assert (frame.loc[~memory, "status"] == "seen").all()


def _wide_resnet(depth: int, width: int, classes: int) -> int:
    """The parameters of a Wide ResNet for three colours: 3x3 and 1x1 filters, two numbers a channel for each norm."""
    before, total = 16, 27 * 16
    for channels in (16 * width, 32 * width, 64 * width):
        total += before * channels * (before != channels)  # the shortcut of the first block
        for _ in range((depth - 4) // 6):
            total += 2 * before + 9 * before * channels + 2 * channels + 9 * channels**2
            before = channels
    return total + 2 * before + (before + 1) * classes


def test_a_wide_resnet_has_the_parameters_for_the_classes_of_its_row() -> None:
    """The last layer of a network for 100 classes is larger. Numbers that end in 0000 are rounded by their source."""
    frame = read_reported()
    names = frame["method"].str.extract(r"^WRN-(?P<depth>\d+)-(?P<width>\d+)(?: dropout)?$")
    exact = frame.join(names)[names["depth"].notna() & (frame["parameters"] % 10_000 != 0)]
    assert len(exact) >= 16
    for row in exact.to_dict("records"):
        classes = {"cifar10": 10, "cifar100": 100}[row["dataset"]]
        assert row["parameters"] == _wide_resnet(int(row["depth"]), int(row["width"]), classes), row


def test_reading_needs_no_torch() -> None:
    code = (
        "import sys; from equibench.bench.boards.reported import read_reported; read_reported(); print('torch' in"
        " sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_rows_are_errors_best_first_and_apart_by_data_set() -> None:
    rows = reported_rows("cifar10")
    errors = [float(r["test error %"].split(" ")[0]) for r in rows]
    assert errors == sorted(errors) and {r["data set"] for r in rows} == {"cifar10"}
    by_method = {(r["method"], r["source"]): r for r in rows}
    rerun = next(r for (m, _), r in by_method.items() if m == "WRN-28-10 dropout, rerun")
    assert rerun["test error %"] == "3.73"  # 96.27 % accuracy
    assert len(reported_rows()) == len(read_reported())


def test_reported_figures_stand_apart_from_measured_ones(tmp_path: Path) -> None:
    write_record(tmp_path, made.record(90.0, dataset="mnist-rot"))
    plain = CliRunner().invoke(cli, ["leaderboard", "--results", str(tmp_path)]).output
    both = CliRunner().invoke(cli, ["leaderboard", "--results", str(tmp_path), "--reported"]).output
    assert both.startswith(plain.rstrip()) and "1.87" not in plain
    heading, _, table = both[len(plain.rstrip()) :].strip().partition("\n\n")
    assert "NOT measured here" in heading and "PDO-eConv p8" in table and "unverified" in table
    # Nothing of it reaches the files.
    assert "1.87" not in (tmp_path / f"{made.spec(dataset='mnist-rot').board}.csv").read_text()
    command = ["leaderboard", "--results", str(tmp_path), "--reported", "--json"]
    (document,) = json.loads(CliRunner().invoke(cli, command).output)
    assert len(document["models"]) == 1 and len(document["reported"]) == len(reported_rows("mnist-rot"))


def test_reported_figures_are_listed_by_method_or_data_set() -> None:
    found = json.loads(CliRunner().invoke(cli, ["list", "reported", "PDO*", "--json"]).output)
    assert {"0.709", "1.87", "3.68", "18.4"} <= {r["test error %"] for r in found}
    assert all(r["method"].startswith("PDO") for r in found)
    assert reported_table("digits-rot") == ""


def test_a_table_may_begin_with_a_mark_of_its_encoding(tmp_path: Path) -> None:
    path = Path(__file__).parents[3] / "leaderboards" / "reported.csv"
    (tmp_path / "mine.csv").write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_reported(tmp_path / "mine.csv").equals(read_reported(path))
