"""The site in a real browser: no errors, no requests, sort, filter, references, boards; hostile text stays text."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from equibench.bench.boards.board import Board, load_board
from equibench.bench.boards.statistics import Sample, compare
from equibench.bench.cli.main import cli
from equibench.bench.publish.payload import payload, script
from equibench.bench.publish.publish import publish
from equibench.bench.publish.site import page_weight, write_board_data, write_page
from equibench.bench.records.record import write_record
from equibench.bench.tools.text import error_text
from equibench.registry import UserError

from .. import made
from . import boards
from .boards import ACCURACIES, BOARD

CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
HTML = "<img src=x onerror=alert(1)>"
OTHER = BOARD.replace("digits-rot", "mnist-rot")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two boards, one with reported figures, and a row whose name and reason are markup."""
    root, out = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("site")
    boards.fill(root)
    write_record(root, made.record(None, status="error", reason=f"ValueError: {HTML}", model="resnet-26"))
    boards.fill(root, {"p4cnn": [97.0], "z2cnn": [95.0]}, dataset="mnist-rot")
    publish(root, out, formats=("html",), jobs=1)
    hostile(root, out)
    return out


def hostile(root: Path, out: Path) -> None:
    """A third board whose model is called markup; no such record can be read, so it is made past the checks."""
    (record, _) = load_board(root, OTHER).chosen[0]
    named = record.model_copy(update={"spec": record.spec.model_copy(update={"model": HTML})})
    board = Board("hostile", chosen=[(named, "")])
    folder = root / "runs" / "hostile"
    folder.mkdir()
    (folder / named.file_name).write_text("{}")
    write_board_data(out, root, board, [], [])
    write_page(out, [BOARD, OTHER, "hostile", f"no{HTML}"])


@pytest.fixture(scope="module")
def browser() -> Iterator[SimpleNamespace]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: the site cannot be tried in a browser")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: uv sync installs it")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: SimpleNamespace, site: Path) -> Iterator[SimpleNamespace]:
    page = browser.new_page()
    problems: list[str] = []
    page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: problems.append(str(e)))
    page.on("dialog", lambda d: (problems.append(d.message), d.dismiss()))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else problems.append(r.url))
    page.goto((site / "index.html").as_uri())
    page.wait_for_selector("#table tbody tr")
    yield page
    page.wait_for_load_state("load")
    page.close()
    assert problems == []


def column(page: SimpleNamespace, name: str) -> list[str]:
    heads = page.locator("#table thead th").all_inner_texts()
    at = [h.strip() for h in heads].index(name)
    return [
        row.locator("td").nth(at).inner_text().strip() for row in page.locator("#table tbody tr:not(.detail)").all()
    ]


def test_the_table_shows_every_model_with_ties(page: SimpleNamespace) -> None:
    assert column(page, "model") == ["p4cnn", "pdo-econv-p8", "z2cnn-22", "wrn-10-b9", "resnet-26"]
    assert column(page, "rank") == ["1–2", "1–2", "3", "4", ""]
    assert column(page, "status")[-1].startswith("error")


def test_errors_are_those_of_the_table(page: SimpleNamespace) -> None:
    assert column(page, "rotation error")[:4] == ["0.125"] * 4 and column(page, "C4 error")[0] == "0.500"
    for value in (0.0, 0.0625, 0.1875, 0.0125, 3.4e-7, 0.00096, 0.0123456, 1.23456):
        assert page.evaluate(f"errorText({value!r})") == error_text(value)


def test_a_click_sorts_and_a_second_turns_it_round(page: SimpleNamespace) -> None:
    page.click("thead button[data-key=parameters]")
    assert column(page, "parameters") == ["30,000", "26,000", "25,904", "24,680", ""]
    page.click("thead button[data-key=parameters]")
    assert column(page, "parameters") == ["24,680", "25,904", "26,000", "30,000", ""]
    assert page.get_attribute("th:has(button[data-key=parameters])", "aria-sort") == "ascending"


def test_the_keyboard_is_enough(page: SimpleNamespace) -> None:
    page.focus("thead button[data-key=model]")
    page.keyboard.press("Enter")
    assert column(page, "model") == ["p4cnn", "pdo-econv-p8", "resnet-26", "wrn-10-b9", "z2cnn-22"]
    assert page.evaluate("document.activeElement.dataset.key") == "model"
    page.keyboard.press("Enter")
    assert column(page, "model")[0] == "z2cnn-22"
    page.focus("td.stick button")
    page.keyboard.press("Enter")
    assert page.locator("tr.detail").count() == 1 and page.evaluate("document.activeElement.textContent") == "z2cnn-22"


def test_filters_narrow_the_rows(page: SimpleNamespace) -> None:
    page.fill("#filter", "C4")
    assert set(column(page, "model")) == {"p4cnn", "pdo-econv-p8"}
    page.fill("#filter", "no such thing")
    assert column(page, "model") == [] and page.inner_text("#count") == "0 of 5 models"
    page.fill("#filter", "")
    page.select_option("#family", "cnn")
    assert column(page, "model") == ["z2cnn-22"]


@pytest.mark.parametrize("reference", ["z2cnn-22", "p4cnn", "wrn-10-b9"])
def test_differences_to_any_reference_are_those_of_python(page: SimpleNamespace, reference: str) -> None:
    page.select_option("#reference", reference)
    expected = {
        c.model: c for c in compare({m: Sample(dict(enumerate(v)), 1500) for m, v in ACCURACIES.items()}, reference)
    }
    columns = [column(page, c) for c in ("difference", "p (Holm)", "p (signs)")]
    shown = dict(zip(column(page, "model"), zip(*columns, strict=True), strict=True))
    assert shown.pop(reference) == shown.pop("resnet-26") == ("", "", "")
    for model, (difference, p, signs) in shown.items():
        value, half = (float(part) for part in difference.split("±"))
        assert value == pytest.approx(expected[model].difference, abs=0.006)
        assert half == pytest.approx(expected[model].interval, abs=0.006)
        assert float(p.replace("<0.0001", "0")) == pytest.approx(expected[model].p_holm, rel=0.05, abs=1e-4)
        assert float(signs) == pytest.approx(expected[model].p_sign_flip, rel=0.05)


def test_columns_can_be_chosen(page: SimpleNamespace) -> None:
    page.click("#columns summary")
    page.check("input[value=examples]")
    page.uncheck("input[value=status]")
    heads = [h.strip() for h in page.locator("#table thead th").all_inner_texts()]
    assert "examples" in heads and "status" not in heads


def test_another_board_and_its_reported_figures_apart(page: SimpleNamespace) -> None:
    assert not page.is_visible("#reported")
    page.select_option("#board", OTHER)
    page.wait_for_function("document.querySelectorAll('#table tbody tr').length === 2")
    assert page.is_visible("#reported") and "not measured here" in page.inner_text("#reported h2")
    assert "README of" in page.inner_text("#reported") and "README of" not in page.inner_text("#table")


def test_details_link_to_records_and_figures_to_files(page: SimpleNamespace, site: Path) -> None:
    page.click("td.stick button >> text=p4cnn")
    links = [a.get_attribute("href") for a in page.locator(".runs a").all()]
    assert len(links) == 4
    ids = [".".join(Path(link).name.split(".")[:2]) for link in links]
    assert page.locator(".runs a").all_inner_texts() == [f"run {run}" for run in ids], "what commands take"
    for link in links:
        assert json.loads((site / link).read_text())["spec"]["model"] == "p4cnn"
    for link in page.locator("figcaption a, #downloads a").all():
        assert (site / link.get_attribute("href")).stat().st_size > 0
    images = page.locator("#figures img")
    assert images.count() == 6
    images.first.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('#figures img').naturalWidth > 0")


def test_markup_in_names_stays_text(page: SimpleNamespace) -> None:
    page.click("td.stick button >> text=resnet-26")
    assert HTML in page.inner_text("tr.detail")
    page.select_option("#board", "hostile")
    page.wait_for_function("document.querySelectorAll('#table tbody tr').length === 1")
    assert column(page, "model") == [HTML]
    page.click("td.stick button")
    assert page.locator("#table img").count() == 0 and f"no{HTML}" in page.locator("#board option").all_inner_texts()


def test_the_theme_follows_the_system_and_the_button(browser: SimpleNamespace, site: Path) -> None:
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto((site / "index.html").as_uri())
    page.wait_for_selector("#figures img")
    colour = "getComputedStyle(document.body).backgroundColor"
    before, picture = page.evaluate(colour), page.get_attribute("#figures img", "src")
    page.click("#theme")
    after = page.evaluate(colour)
    assert sum(map(int, before[4:-1].split(","))) < 150 < 600 < sum(map(int, after[4:-1].split(",")))
    assert picture.endswith(".dark.svg") and not page.get_attribute("#figures img", "src").endswith(".dark.svg")
    context.close()


def test_on_a_telephone_only_the_table_scrolls_sideways(browser: SimpleNamespace, site: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto((site / "index.html").as_uri())
    page.wait_for_selector("#table tbody tr")
    page.click("td.stick button")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.click("#columns summary")
    box = page.locator("#columns fieldset").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    page.close()


def test_all_data_of_the_page_carry_no_markup(tmp_path: Path) -> None:
    boards.fill(tmp_path)
    write_record(
        tmp_path, made.record(None, status="error", reason="</script><script>alert(1)</script>", model="resnet-26")
    )
    text = script(payload(load_board(tmp_path, BOARD), [], []))
    assert "<" not in text and "alert(1)" in text


def test_pairs_hold_every_pair_once(tmp_path: Path) -> None:
    document = payload(boards.board(tmp_path), [], [])
    count = len(document["rows"])
    assert len(document["pairs"]["difference"]) == len(document["pairs"]["p"]) == count * (count - 1) // 2


def test_publish_writes_all_formats_and_refuses_wrong_ones(tmp_path: Path) -> None:
    root, out = boards.fill(tmp_path / "results", {"p4cnn": [90.0], "z2cnn-22": [80.0]}), tmp_path / "out"
    arguments = ["publish", "--results", str(root), "--out", str(out), "--format", "md,latex"]
    assert CliRunner().invoke(cli, arguments, catch_exceptions=False).exit_code == 0
    assert {p.name for p in out.rglob("*") if p.is_file()} == {f"{BOARD}.md", f"{BOARD}.tex", "models.bib"}
    for wrong, message in ((["--format", "htm"], "did you mean 'html'"), (["digits-rt-e5-common"], "did you mean")):
        with pytest.raises(UserError, match=message):
            CliRunner().invoke(cli, [*arguments[:-2], *wrong], catch_exceptions=False)


def test_a_board_is_published_again_over_itself(site: Path, tmp_path: Path) -> None:
    root = boards.fill(tmp_path / "results", {"p4cnn": [90.0, 91.0]})
    weights = []
    for _ in range(2):
        publish(root, tmp_path / "out", formats=("html",), jobs=1)
        weights.append(page_weight(tmp_path / "out"))
    assert weights[0] == weights[1] and set(weights[0]) == {BOARD}
    assert len(list((tmp_path / "out" / "runs").rglob("*.json"))) == 2
