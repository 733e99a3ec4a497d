"""A summary over boards in every format, by the command and as a page of the site."""

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from equibench.bench.boards.board import load_board
from equibench.bench.cli.main import cli
from equibench.bench.publish.across import no_test_reason
from equibench.bench.publish.publish import publish
from equibench.bench.records.record import write_record
from equibench.registry import UserError

from .. import made
from . import boards
from .boards import ACCURACIES, BOARD
from .test_site import browser  # noqa: F401  a fixture

OTHER = BOARD.replace("digits-rot", "mnist-rot")
#: On the second board `wrn-10-b9` is missing, and `gmr-cnn` is on that one alone.
SECOND = {m: [v - 1.5 for v in own] for m, own in ACCURACIES.items() if m != "wrn-10-b9"} | {
    "gmr-cnn": [99.0, 99.1, 99.2, 99.3]
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    results = tmp_path / "results"
    boards.fill(results)
    return boards.fill(results, SECOND, dataset="mnist-rot")


def across(root: Path, *arguments: str) -> str:
    command = ["leaderboard", "--results", str(root), "--across", "*", *arguments]
    result = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def rows(root: Path, *arguments: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(across(root, "--format", "csv", *arguments).strip())))


def test_the_csv_has_what_each_board_says_and_the_means_over_both(root: Path) -> None:
    found = {(r["model"], r["board"]): r for r in rows(root)}
    for name in (BOARD, OTHER):
        for own in load_board(root, name).frame.to_dict("records"):
            row = found[own["model"], name]
            assert float(row["test_acc_mean_pct"]) == pytest.approx(own["test_acc_mean_pct"])
            assert (int(row["rank_low"]), int(row["rank_high"])) == (own["rank_low"], own["rank_high"])
            if own["model"] != "z2cnn-22":
                assert float(row["diff_mean_pct"]) == pytest.approx(own["diff_mean_pct"])
                assert float(row["diff_ci95_pct"]) == pytest.approx(own["diff_ci95_pct"])
    p4cnn = [found["p4cnn", name] for name in (BOARD, OTHER)]
    assert [float(r["mean_diff_pct"]) for r in p4cnn] == pytest.approx([95.3 - 90.275] * 2)
    # 4.7 and 6.2 of 100 are wrong for p4cnn and for the best, pdo-econv-p8, which has as many right.
    z2cnn = [float(found["z2cnn-22", name]["improvability_pct"]) for name in (BOARD, OTHER)]
    assert z2cnn == [pytest.approx(100 * (1 - 4.7 / 9.725)), pytest.approx(100 * (1 - 6.2 / 11.225))]
    assert float(found["z2cnn-22", BOARD]["mean_improvability_pct"]) == pytest.approx(sum(z2cnn) / 2)
    for model, name in (("wrn-10-b9", OTHER), ("gmr-cnn", BOARD)):
        assert found[model, name]["missing"] == "not on this board"
        assert all(found[model, b]["mean_diff_pct"] == "" for b in (BOARD, OTHER))


def test_every_format_shows_the_ranks_and_says_how_to_read_them(root: Path) -> None:
    for style, ranks in (("simple", "1–2"), ("github", "1–2"), ("latex", "1--2"), ("html", "1–2")):
        text = across(root, "--format", style)
        assert ranks in text and "they need at least six boards" in text and "wrn-10-b9" in text
        assert "?" not in text
    document = json.loads(across(root, "--json"))
    assert [b["board"] for b in document["boards"]] == [BOARD, OTHER] and document["reference"] == "z2cnn-22"
    assert {(r["rank_low"], r["rank_high"]) for r in document["rows"] if r["model"] == "p4cnn"} == {(1, 2), (2, 3)}
    assert document == json.loads(across(root, "--format", "json"))


def test_a_filter_changes_no_figure(root: Path) -> None:
    whole = [r for r in rows(root) if r["model"] == "z2cnn-22"]
    for alone, row in zip(rows(root, "--model", "z2*"), whole, strict=True):
        for column in (
            "mean_diff_pct",
            "mean_improvability_pct",
            "diff_mean_pct",
            "improvability_pct",
            "rank_low",
            "rank_high",
        ):
            assert float(alone[column]) == float(row[column])
    assert "p4cnn" not in across(root, "--model", "z2*") and "gmr-cnn" not in across(root, "--model", "z2*")


def test_another_reference_is_that_of_every_board(root: Path) -> None:
    found = {(r["model"], r["board"]): r for r in rows(root, "--against", "p4cnn")}
    assert {r["reference_model"] for r in found.values()} == {"p4cnn"}
    assert float(found["z2cnn-22", BOARD]["diff_mean_pct"]) == pytest.approx(90.275 - 95.3)


def test_boards_without_a_table_are_left_out_and_named(root: Path) -> None:
    smoke = made.spec().budget.model_copy(update={"kind": "smoke", "name": "smoke", "epochs": None, "steps": 4})
    write_record(root, boards.with_details(made.record(20.0, model="p4cnn", budget=smoke, steps=4)))
    result = CliRunner().invoke(cli, ["leaderboard", "--results", str(root), "--across", "*"], catch_exceptions=False)
    assert (
        "smoke runs, which are not shown" in result.stderr
        and "2 boards" in result.stdout
        and "smoke" not in result.stdout
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--across", "mnst-*"), "--across 'mnst-\\*' matches no board"),
        (("--across", "mnist-*"), "is one; equibench leaderboard"),
        (("--across", "*", "--against", "gmr-cnn"), "--against 'gmr-cnn': it has no result on digits-rot"),
        (("--across", "*", "--model", "p4cn"), "did you mean 'p4cnn'"),
        (("--across", "*", "--sort", "model"), "--across and --sort do not go together"),
        (("--across", "*", "--all-pairs"), "--across and --all-pairs do not go together"),
        (("--across", "*", "--suite", "quickstart"), "--across and --suite do not go together"),
        ((BOARD, "--across", "*"), "leave out the name"),
    ],
)
def test_what_cannot_be_summed_up_is_refused(root: Path, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CliRunner().invoke(cli, ["leaderboard", "--results", str(root), *arguments], catch_exceptions=False)


def test_boards_that_share_no_model_are_refused(tmp_path: Path) -> None:
    boards.fill(tmp_path, {"p4cnn": [90.0]})
    boards.fill(tmp_path, {"z2cnn": [90.0]}, dataset="mnist-rot")
    with pytest.raises(UserError, match="without a common model cannot be combined"):
        across(tmp_path)


def test_patterns_fit_names_with_and_without_their_version(root: Path) -> None:
    found = CliRunner().invoke(
        cli,
        ["leaderboard", "--results", str(root), "--across", BOARD, "--across", "mnist-rot-*-common"],
        catch_exceptions=False,
    )
    assert found.exit_code == 0 and "2 boards" in found.stdout


def test_six_boards_are_enough_for_a_test_that_is_not_made_all_the_same() -> None:
    # 2 / 2ⁿ: a sign test over 5 boards cannot fall below 0.0625, over 6 it can fall to 0.03125.
    assert "p = 0.0625" in no_test_reason(5) and "need at least six" in no_test_reason(2)
    assert "no test" in no_test_reason(6) and "at least six" not in no_test_reason(6)


def test_the_site_has_a_page_of_its_own_and_links_to_it(root: Path, tmp_path: Path, browser: SimpleNamespace) -> None:  # noqa: F811
    out = tmp_path / "site"
    publish(root, out, formats=("html",), jobs=1)
    page, problems = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark"), []
    page.on("console", lambda m: problems.append(m.text))
    page.on("pageerror", lambda e: problems.append(str(e)))
    page.goto((out / "index.html").as_uri())
    page.click("nav a")
    page.wait_for_selector("table.across")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    # Nothing but the table itself is wider than a telephone.
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    bold = {(row.locator("th").inner_text(), i) for row in page.locator("tbody tr").all()
            for i,
            cell in enumerate(row.locator("td").all()) if "best" in (cell.get_attribute("class") or "")}  # fmt: skip
    # On the second board gmr-cnn alone can be the first, and it is not in the table.
    assert bold == {("p4cnn", 2), ("pdo-econv-p8", 2)}
    assert "bold: rank 1 is possible" in page.inner_text(".notes") and "gmr-cnn" in page.inner_text(".notes")
    page.click(f"a[href='index.html#board={OTHER}']")
    page.wait_for_selector("#table tbody tr")
    assert page.input_value("#board") == OTHER and page.inner_text("#heading").startswith(OTHER)
    page.close()
    assert problems == []


def test_a_page_says_why_a_group_has_no_summary_and_goes_where_there_is_none(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    boards.fill(root, {"sre-cnn": [90.0]}, dataset="mnist-rot-gen")
    publish(root, out, formats=("html",), jobs=1)
    assert (
        "without a common model" in (out / "across.html").read_text()
        and "across.html" in (out / "index.html").read_text()
    )
    publish(root, out, [BOARD], formats=("html",), jobs=1)
    assert not (out / "across.html").exists() and "across.html" not in (out / "index.html").read_text()
