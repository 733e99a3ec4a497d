"""The site in a real browser: points that say what they are and lead to their rows, links that show a view again, the
table of all runs, what repeats and cites a board; no serious fault of accessibility in both themes.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from equibench.bench.boards.board import load_board
from equibench.bench.boards.row_marks import marks_of
from equibench.bench.publish.family_page import publish_family
from equibench.bench.publish.publish import publish
from equibench.bench.publish.view import p_text
from equibench.bench.records.record import write_record

from ..boards.test_row_marks import CASES
from . import boards
from .boards import BOARD
from .test_across import SECOND
from .test_family import filled
from .test_site import OTHER, browser, column, page, site  # noqa: F401  fixtures

PLOT = "figure:has(img[alt='Accuracy against parameters'])"
TIP = ".tip"
Open = Callable[..., SimpleNamespace]


@pytest.fixture
def open_page(browser: SimpleNamespace, site: Path) -> Iterator[Open]:  # noqa: F811
    """Opens a page of the site in a context of its own; at the end, none of them had anything to complain of."""
    contexts, problems = [], []

    def opened(fragment: str = "", file: Path | None = None, width: int = 1200, **options: object) -> SimpleNamespace:
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, **options))
        new = contexts[-1].new_page()
        new.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
        new.on("pageerror", lambda e: problems.append(str(e)))
        new.goto((file or site / "index.html").as_uri() + fragment)
        new.wait_for_selector("table tbody tr")
        return new

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The page across boards and that of a family."""
    out = tmp_path_factory.mktemp("others")
    boards.fill(boards.fill(out / "two"), SECOND, dataset="mnist-rot")
    publish(out / "two", out, formats=("html",), jobs=1)
    name = publish_family(out, filled(out / "r"), ("html",))
    return [out / "across.html", out / f"{name}.html"]


def middle(page: SimpleNamespace, model: str, plot: str = PLOT) -> tuple[float, float]:  # noqa: F811
    """The middle of a point on the screen."""
    point = page.locator(f"{plot} .point[data-model='{model}']").first
    point.scroll_into_view_if_needed()
    page.wait_for_function("i => i.complete && i.naturalWidth > 0", arg=page.locator(f"{plot} img").element_handle())
    box = point.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def rows(page: SimpleNamespace) -> list[str]:  # noqa: F811
    return column(page, "model")


def test_a_pointer_near_a_point_shows_model_interval_and_cost(open_page: Open) -> None:
    page = open_page()  # noqa: F811
    x, y = middle(page, "p4cnn")
    page.mouse.move(x + 6, y + 6)
    said = page.inner_text(TIP)
    assert said.startswith("p4cnn\ntest accuracy: 95.30 ± ") and "parameters: 24,680" in said
    page.keyboard.press("Escape")
    assert page.locator(TIP).count() == 0
    page.mouse.move(x, y)
    page.mouse.move(x, y + 60)
    assert page.locator(TIP).count() == 0, "nothing is near"


def test_a_click_on_a_point_leads_to_its_row_even_if_filters_hide_it(open_page: Open) -> None:
    page = open_page("#filter=wrn")  # noqa: F811
    assert rows(page) == ["wrn-10-b9"]
    page.mouse.click(*middle(page, "z2cnn-22"))
    assert len(rows(page)) == 5 and page.input_value("#filter") == ""
    assert page.evaluate("document.activeElement.textContent") == "z2cnn-22"
    row = page.locator("tr.chosen")
    assert row.count() == 1 and row.get_attribute("data-model") == "z2cnn-22"
    box = row.bounding_box()
    assert 0 <= box["y"] <= 800
    page.wait_for_function("location.hash.includes('row=z2cnn-22')")


def test_keys_reach_every_point(open_page: Open) -> None:
    page = open_page()  # noqa: F811
    middle(page, "p4cnn")
    page.locator(f"{PLOT} .plot > a").focus()
    seen = []
    page.keyboard.press("Tab")
    for _ in range(4):
        seen.append(page.inner_text(f"{TIP} strong"))
        assert page.locator(f"{PLOT} .point[tabindex='0']").count() == 1
        page.keyboard.press("ArrowRight")
    assert seen == ["p4cnn", "z2cnn-22", "pdo-econv-p8", "wrn-10-b9"], "from left to right"
    assert page.get_attribute(f"{PLOT} .point:focus", "aria-label").startswith("wrn-10-b9: test accuracy: 80.33 ± ")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.textContent") == "p4cnn"
    assert page.locator("tr.chosen").get_attribute("data-model") == "p4cnn"


def test_a_finger_asks_first_and_goes_then(open_page: Open) -> None:
    page = open_page(width=390, has_touch=True, is_mobile=True)  # noqa: F811
    x, y = middle(page, "wrn-10-b9")
    page.touchscreen.tap(x + 8, y)
    assert "wrn-10-b9" in page.inner_text(TIP) and page.locator("tr.chosen").count() == 0
    box = page.locator(TIP).bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    page.touchscreen.tap(x + 8, y)
    assert page.locator("tr.chosen").get_attribute("data-model") == "wrn-10-b9"
    assert page.url.endswith(".html") or "index.html#" in page.url, "the figure below was not opened"


def test_points_lie_on_the_marks_that_the_browser_draws(open_page: Open, site: Path) -> None:  # noqa: F811
    page = open_page()  # noqa: F811
    drawn = open_page(file=site / "index.html")
    for figure in page.locator("figure").all():
        plot = figure.locator(".plot").bounding_box()
        drawn.goto((site / figure.locator("figcaption a").first.get_attribute("href")).as_uri())
        for point in figure.locator(".point").all():
            box, model = point.bounding_box(), point.get_attribute("data-model")
            share = ((box["x"] + box["width"] / 2 - plot["x"]) / plot["width"],
                     (box["y"] + box["height"] / 2 - plot["y"]) / plot["height"])  # fmt: skip
            expected = drawn.evaluate(
                """id => { const [b, s] = [document.getElementById(id), document.documentElement].map((e) =>
                e.getBoundingClientRect()); return [(b.x + b.width / 2 - s.x) / s.width,
                (b.y + b.height / 2 - s.y) / s.height]; }""",
                f"point-{model}",
            )
            # Of a name in a legend the browser's letters have other widths than matplotlib's.
            assert share == pytest.approx(expected, abs=0.02 if box["width"] > 2 * box["height"] else 0.005)


def test_a_link_shows_the_same_view_again(open_page: Open) -> None:
    page = open_page()  # noqa: F811
    page.select_option("#reference", "p4cnn")
    page.click("thead button[data-key=parameters]")
    page.fill("#filter", "c4 ok")
    page.click("td.stick button >> text=pdo-econv-p8")
    page.wait_for_function("location.hash.includes('row=')")
    shown = [column(page, c) for c in ("model", "difference", "parameters")]
    link = page.get_attribute("#link", "href")
    assert page.url.endswith(link) and shown[0] == ["pdo-econv-p8", "p4cnn"]
    again = open_page(link)
    assert [column(again, c) for c in ("model", "difference", "parameters")] == shown
    assert again.input_value("#filter") == "c4 ok" and again.input_value("#reference") == "p4cnn"
    assert again.locator("tr.chosen").get_attribute("data-model") == "pdo-econv-p8"


def test_the_history_has_a_page_for_each_board(open_page: Open) -> None:
    page = open_page(f"#{OTHER}")  # noqa: F811  as links were before
    assert page.inner_text("#heading").startswith(OTHER)
    page.select_option("#board", BOARD)
    page.wait_for_function("document.querySelectorAll('#table tbody tr').length === 5")
    assert f"board={BOARD}" in page.url
    page.go_back()
    page.wait_for_function("document.querySelectorAll('#table tbody tr').length === 2")
    assert page.input_value("#board") == OTHER


def test_back_goes_back_on_a_slow_machine(open_page: Open) -> None:
    """The address is kept 0.15 s after a change of the view; this must not overwrite what Back has reached."""
    page = open_page(f"#board={OTHER}")  # noqa: F811
    page.select_option("#board", BOARD)
    page.wait_for_function("document.querySelectorAll('#table tbody tr').length === 5")
    busy = "() => { const end = Date.now() + 300; while (Date.now() < end); }"
    page.evaluate(f"() => {{ addEventListener('popstate', {busy}); draw(); history.back(); }}")
    page.wait_for_function("document.querySelectorAll('#table tbody tr').length === 2")
    assert f"board={OTHER}" in page.url


@pytest.mark.parametrize(
    "fragment", ["#board=gone-e2-v2", "#board=%", "#sort=nothing&family=none&row=none&reference=no"]
)
def test_a_link_that_fits_nothing_shows_the_first_board(open_page: Open, fragment: str) -> None:
    page = open_page(fragment)  # noqa: F811
    assert len(rows(page)) == 5
    assert page.is_visible("#not-here") == ("board=" in fragment)


def test_the_link_to_the_table_is_no_board(open_page: Open) -> None:
    page = open_page("#filter=wrn")  # noqa: F811
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    assert rows(page) == ["wrn-10-b9"] and not page.is_visible("#not-here")


def test_rows_show_their_marks(open_page: Open, tmp_path: Path) -> None:
    root = boards.fill(tmp_path / "r", {"z2cnn-22": [90.0, 91.0]})
    for name, (records, _) in CASES.items():
        for record in records:
            spec = record.spec.model_copy(update={"model": f"m-{name.replace(' ', '-')}"})
            write_record(root, record.model_copy(update={"spec": spec}))
    publish(root, tmp_path, formats=("html",), jobs=1)
    page, board = open_page(file=tmp_path / "index.html"), load_board(root, BOARD)  # noqa: F811
    page.click("#columns summary")
    page.check("input[value=step_ms_mean]")
    heads = {"train_s_mean": "train s", "flops_per_image": "MFLOPs", "step_ms_mean": "step_ms_mean"}
    shown = {head: dict(zip(rows(page), column(page, head), strict=True)) for head in ("marks", *heads.values())}
    signs = 0
    for row in board.rows_of(board.frame):
        assert shown["marks"][row["model"]] == row["marks"]
        for mark in (m for m in marks_of(row) if m.sign):
            signs += 1
            assert all(shown[heads[c]][row["model"]].endswith(mark.sign.strip()) for c in mark.columns)
    assert signs >= 3
    called = page.locator("tr.bad").evaluate_all("rows => rows.map((row) => row.dataset.model)")
    assert {"m-status", "m-incomplete", "m-diverged", "m-collapsed", "m-broken"} <= set(called)
    assert not {"m-frozen", "m-shared", "m-launch-bound", "m-uncounted"} & set(called)


def test_all_runs_with_their_meaning_are_loaded_when_asked_for(open_page: Open, site: Path) -> None:  # noqa: F811
    page = open_page()  # noqa: F811
    assert page.locator("#runs-table tbody tr").count() == 0
    page.click("#runs > summary")
    page.wait_for_selector("#runs-table tbody tr")
    runs = (site / "tables" / f"{BOARD}.runs.csv").read_text().splitlines()
    assert page.locator("#runs-table tbody tr").count() == len(runs) - 1 == 17
    heads = page.locator("#runs-table thead th").all_inner_texts()
    assert heads == runs[0].split(",") == page.locator("#runs-schema dt").all_text_contents()
    for link in [page.locator("#runs-table a").first, page.locator("#runs-csv"), page.locator("#runs-json")]:
        assert (site / link.get_attribute("href")).is_file()
    page.select_option("#board", OTHER)
    page.wait_for_function("document.querySelectorAll('#runs-table tbody tr').length === 2")


def test_what_repeats_and_cites_a_board_is_there_and_can_be_copied(open_page: Open, site: Path) -> None:  # noqa: F811
    page = open_page()  # noqa: F811
    suites = [a.get_attribute("href") for a in page.locator("#suites a").all()]
    for path in suites:
        assert (site / path).is_file() and f"equibench run {Path(path).name} " in page.inner_text("#commands")
    assert len(suites) == 2, "the model with an error has one seed, the others have four"
    page.click("button[data-copy=cite]")
    copied = page.evaluate("getSelection().toString()")
    assert copied.startswith(f"@misc{{equibench-{BOARD},") and copied.strip() == page.inner_text("#cite").strip()
    assert page.inner_text("button[data-copy=cite]") in ("Copied", "Selected: press Ctrl+C")


def test_p_is_written_as_everywhere_else(open_page: Open) -> None:
    page = open_page()  # noqa: F811
    values = [2.0**-k for k in range(16)] + [0.0994, 0.0995, 0.05, 0.049, 0.375, 0.0101, 0.7, 0.0123, 5e-5, 0.00095]
    assert page.evaluate("values => values.map(pText)", values) == [p_text(v) for v in values]


def test_points_of_a_family_lead_to_its_rows(open_page: Open, others: list[Path]) -> None:
    page = open_page(file=others[1])  # noqa: F811
    page.locator(".point").nth(5).scroll_into_view_if_needed()
    assert page.locator("figure:first-of-type .point").count() == 6
    page.mouse.move(*middle(page, "z2cnn-22", "figure:first-of-type"))
    assert "100 images" in page.inner_text(TIP) and "test accuracy: " in page.inner_text(TIP)
    page.mouse.click(*middle(page, "z2cnn-22", "figure:first-of-type"))
    assert page.locator("tr.chosen").get_attribute("data-model") == "z2cnn-22"


def faults(page: SimpleNamespace) -> list[str]:  # noqa: F811
    """The serious and critical faults that axe-core finds."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
    found = axe.Axe().run(page).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html']}" for v in found if v["impact"] in ("serious", "critical")]


@pytest.mark.parametrize(
    ("width", "theme"),
    [
        (1200, "light"),
        (390, "dark"),
        *(pytest.param(*o, marks=pytest.mark.whole) for o in ((1200, "dark"), (390, "light"))),
    ],
)
def test_no_serious_fault_of_accessibility(open_page: Open, others: list[Path], theme: str, width: int) -> None:
    how = {"width": width, "color_scheme": theme}
    page = open_page("#sort=-parameters&row=p4cnn", **how)  # noqa: F811
    page.click("td.stick button >> text=resnet-26")
    page.click("#runs > summary")
    page.click("#runs details summary")
    page.wait_for_selector("#runs-table tbody tr")
    page.locator(f"{PLOT} .point").first.focus()
    assert faults(page) == []
    page.click("#columns summary")
    assert faults(page) == []
    reported = open_page(f"#board={OTHER}", **how)
    assert reported.is_visible("#reported") and faults(reported) == []
    for other in others:
        assert faults(open_page(file=other, **how)) == []


def test_a_fault_would_be_found(open_page: Open) -> None:
    page = open_page()  # noqa: F811
    page.evaluate("document.body.append(document.createElement('button'))")
    assert any(f.startswith("button-name") for f in faults(page))


def test_a_site_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    root = boards.fill(tmp_path / "results")
    boards.fill(root, {"p4cnn": [97.0], "z2cnn": [95.0]}, dataset="mnist-rot")
    made = []
    for name in ("a", "b"):
        publish(root, tmp_path / name, formats=("html",), jobs=1)
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        made.append({p.relative_to(tmp_path / name): p.read_bytes() for p in files})
    assert made[0] == made[1] and len(made[0]) > 40
