"""What is published of a family of boards: plots, a page in both themes, tables that LaTeX and Markdown take."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from equibench.bench.boards.board import load_board
from equibench.bench.boards.families import BoardFamily, load_family, points_of
from equibench.bench.boards.family_table import family_text
from equibench.bench.publish.family_page import latex_page, markdown_page, publish_family
from equibench.bench.publish.plots.family_plots import SHORTEST, curves, draw
from equibench.bench.publish.plots.style import house_style
from equibench.bench.publish.publish import publish
from equibench.bench.publish.readme import refresh
from equibench.bench.records.record import write_record
from equibench.bench.spec.suite import plan
from equibench.registry import UserError

from ..boards.test_families import FAMILY, record_of

CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
ERRORS = {"p4cnn": (40.0, 20.0, 8.0), "z2cnn-22": (60.0, 45.0, 30.0)}


def filled(root: Path, **changes: object) -> BoardFamily:
    suites = points_of({**FAMILY, "train_images": [100, 400, 3000], **changes}, "here")
    random = np.random.RandomState(0)
    for place, suite in enumerate(suites):
        for spec in plan(suite):
            error = ERRORS[spec.model][place] * (1 + 0.05 * random.randn())
            write_record(root, record_of(spec, 100 - error))
    return load_family(root, suites, load_board)


def test_curves_are_the_means_of_the_boards_with_their_bars(tmp_path: Path) -> None:
    found = filled(tmp_path)
    for (model, _), marks in curves(found, "images").items():
        assert [m.x for m in marks] == [100, 400, 3000]
        for mark, point in zip(marks, found.points, strict=True):
            assert mark.error == pytest.approx(100 - point.rows[model]["test_acc_mean_pct"])
            assert mark.half == pytest.approx(point.rows[model]["test_acc_ci95_pct"])
            assert 0 < mark.low == max(mark.error - mark.half, SHORTEST * mark.error)


def test_both_axes_are_logarithmic_and_what_is_the_same_everywhere_is_left_out(tmp_path: Path) -> None:
    found = filled(tmp_path)
    with house_style():
        figure = draw(found, "images")
        assert draw(found, "examples") is None
    assert figure is not None
    (axes,) = figure.axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(labels) == 2 and all(re.fullmatch(r"[\w-]+\nα = \d\.\d\d ± \d\.\d\d", label) for label in labels)


def test_equal_epochs_draw_every_plot(tmp_path: Path) -> None:
    found = filled(tmp_path, budget="e20")
    with house_style():
        drawn = {what: draw(found, what) for what in ("images", "examples", "flops")}
    assert all(figure is not None for figure in drawn.values())
    flops = curves(found, "flops")["p4cnn", ""]
    steps = [plan(p.suite)[0].steps * plan(p.suite)[0].recipe.batch for p in found.points]
    assert [m.x for m in flops] == pytest.approx([3e6 * s / 1e12 for s in steps])


def test_tables_are_whole_and_follow_the_ranks(tmp_path: Path) -> None:
    found = filled(tmp_path)
    tex, md = latex_page(found), markdown_page(found)
    assert tex.count(r"\\") == 3 and r"$\alpha$" in tex and "?" not in tex and tex.isascii()
    assert md.splitlines()[0] == "## f" and "| model" in md
    best = sum(m in p.board.best for p in found.points for m in found.models if p.board is not None)
    assert best > 0 and tex.count(r"\textbf") == md.count("**") // 2 == best


def test_marks_of_rows_are_in_every_table_of_a_family(tmp_path: Path) -> None:
    found = filled(tmp_path)
    row = found.points[0].rows["p4cnn"]
    row |= {"checked": "failed: gradients", "runs_diverged": 2, "claim": "C4 (broken)", "eq_claimed_worst": 0.5}
    for text in (family_text(found), markdown_page(found), latex_page(found)):
        for words in ("check failed", "2 diverged", "C4 (broken)"):
            assert f"{words} at 100 images: p4cnn" in text or f"{words} at 100 images: p4cnn".capitalize() in text


def test_families_that_are_shipped_are_published_where_two_of_their_boards_are(tmp_path: Path) -> None:
    root, out = tmp_path / "r", tmp_path / "out"
    for images in (500, 2000):
        values = {**FAMILY, "dataset": "mnist-rot-gen", "budget": "n40000", "train_images": images, "models": ["p4cnn"]}
        for spec in plan(points_of(values, "here")[0]):
            write_record(root, record_of(spec, 90.0))
        publish(root, out, formats=("html",), jobs=1)
        assert (out / "family-mnist-rot-gen-data.html").exists() == (images == 2000)
        assert ("family-mnist-rot-gen-data.html" in (out / "index.html").read_text()) == (images == 2000)


def test_excluded_models_leave_the_tables_of_a_family_too(tmp_path: Path) -> None:
    for images in (500, 2000):
        values = {**FAMILY, "dataset": "mnist-rot-gen", "budget": "n40000", "train_images": images}
        for spec in plan(points_of({**values, "models": ["p4cnn", "z2cnn-22"]}, "here")[0]):
            write_record(tmp_path / "r", record_of(spec, 90.0 + spec.seed))
    for exclude in ([], ["z2cnn*"]):
        publish(tmp_path / "r", tmp_path / "out", formats=("md",), jobs=1, exclude=exclude)
        text = (tmp_path / "out" / "tables" / "family-mnist-rot-gen-data.md").read_text("utf-8")
        assert "p4cnn" in text and ("z2cnn-22" in text) == (not exclude)
    single = {"name": "single", "dataset": "digits-rot", "budget": "e1", "models": ["pdo-econv-p8"], "seeds": 1}
    write_record(tmp_path / "r", other := record_of(plan(points_of(single, "here")[0])[0], 90.0))
    for exclude in (["p4cnn", "z2cnn-22"], [other.spec.model, "p4cnn", "z2cnn-22"]):
        if other.spec.model in exclude:
            with pytest.raises(UserError, match="leaves no model of"):
                publish(tmp_path / "r", tmp_path / "none", formats=("md",), jobs=1, exclude=exclude)
        else:  # a family without models stops no other board
            assert publish(tmp_path / "r", tmp_path / "o", formats=("md",), jobs=1, exclude=exclude) == [
                other.spec.board
            ]
    with pytest.raises(UserError, match="leaves no model of suite"):
        suites = ["mnist-rot-gen-data"]
        publish(tmp_path / "r", tmp_path / "none", formats=("md",), jobs=1, exclude=["*"], suites=suites)
    assert not (tmp_path / "none").exists()


def test_the_page_is_whole_in_both_themes(tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: the page cannot be tried in a browser")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    name = publish_family(tmp_path / "out", filled(tmp_path / "r"), ("html",))
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for theme in ("light", "dark"):
            page, problems = browser.new_page(color_scheme=theme), []
            page.on(
                "console",
                lambda m, problems=problems: problems.append(m.text) if m.type in ("error", "warning") else None,
            )
            page.on("pageerror", lambda e, problems=problems: problems.append(str(e)))
            page.goto((tmp_path / "out" / f"{name}.html").as_uri())
            for expected in (theme, {"light": "dark", "dark": "light"}[theme]):
                page.wait_for_load_state("load")
                images = page.locator("#figures img")
                assert images.count() >= 1
                for place in range(images.count()):
                    handle = images.nth(place)
                    page.wait_for_function("i => i.complete && i.naturalWidth > 100", arg=handle.element_handle())
                    assert handle.get_attribute("src").endswith(".dark.svg") == (expected == "dark")
                page.click("#theme")
            assert page.locator("#table tbody tr").count() == 2 and page.locator("#table b").count() >= 1
            assert not problems
        browser.close()


def test_a_readme_shows_a_family_between_its_markers(tmp_path: Path) -> None:
    filled(tmp_path)
    suite = tmp_path / "curve.toml"
    lines = {**FAMILY, "train_images": [100, 400, 3000]}
    lines.pop("name", None)
    suite.write_text("\n".join(f"{k} = {json.dumps(v)}" for k, v in lines.items()), "utf-8")
    readme = tmp_path / "README.md"

    def fresh(options: str) -> str:
        readme.write_text(
            f"before\n<!-- equibench: family={suite}{options} -->\nlast week\n<!-- /equibench -->\nafter\n", "utf-8"
        )
        refresh(readme, tmp_path)
        return readme.read_text("utf-8")

    text = fresh(" plot=images")
    picture = re.search(r"!\[Error against training images, .*\]\((figures/.*\.svg)\)", text)
    assert picture is not None and (tmp_path / picture[1]).read_text("utf-8").startswith("<?xml")
    assert "last week" not in text and text.startswith("before\n") and text.endswith("after\n")
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(table) == 3 and all("±" in line for line in table[1:])
    for wrong, said in (
        (" plot=examples", "equal at all points"),
        (" columns=model", "accepts only plot="),
        (" plot=differences", "accepts only plot="),
    ):
        with pytest.raises(UserError, match=said):
            fresh(wrong)
        assert "last week" in readme.read_text("utf-8")  # left as it was
