"""Tables for papers and pages: escaped, ties in bold, compiled where LaTeX is there."""

import re
import shutil
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from click.testing import CliRunner
from equibench.bench.boards.board import load_board
from equibench.bench.boards.notes import board_notes
from equibench.bench.boards.terminal_table import board_table, narrow_rows, rank_text
from equibench.bench.cli.main import cli
from equibench.bench.publish.bibtex import bibliography, entry, key_of, own_entry, sources_of, sources_of_row
from equibench.bench.publish.plots.figures import PLOTS
from equibench.bench.publish.publish import publish
from equibench.bench.publish.readme import refresh
from equibench.bench.publish.tables import latex_page, markdown_page, markdown_table
from equibench.bench.records import staleness
from equibench.bench.records.record import write_record
from equibench.bench.spec.suite import PROTOCOL
from equibench.bench.tools.markup import latex, latex_number, markdown_line, markdown_text
from equibench.bench.tools.text import error_text
from equibench.registry import MODELS, UserError
from hypothesis import given
from hypothesis import strategies as st

from .. import made
from . import boards
from .boards import BOARD

NASTY = "a_b & 100% <b>x</b> | $y$ #1 {z} ~^ \\end{table} → ± \u4e2d"


def test_bold_is_what_rank_1_is_possible_for_and_each_page_says_so(tmp_path: Path) -> None:
    board = boards.board(tmp_path)
    assert board.best == {"p4cnn", "pdo-econv-p8"}
    assert {m: rank_text(board.ranks.get(m)) for m in board.values} == {
        "p4cnn": "1–2",
        "pdo-econv-p8": "1–2",
        "wrn-10-b9": "4",
        "z2cnn-22": "3",
    }
    brief = ". ".join(board_notes(board, board.frame, bold=True, brief=True))
    for text in (latex_page(board), markdown_page(board), brief):
        assert text.count("Holm over 6 pairs); bold: rank 1 is possible") == 1
    (rule,) = [n for n in board_notes(board, board.frame) if n.startswith("rank:")]
    assert rule.endswith("Holm over 6 pairs)"), "a terminal has no bold"
    assert re.findall(r"\\textbf\{([a-z][^}]*)\}", latex_page(board)) == ["p4cnn", "pdo-econv-p8"]
    assert re.findall(r"\*\*([a-z][^*]*)\*\*", markdown_table(board)) == ["p4cnn", "pdo-econv-p8"]


def test_latex_sets_every_sign_of_a_board(tmp_path: Path) -> None:
    page = latex_page(boards.board(tmp_path))
    assert page.count(" 1--2 &") + page.count("\n1--2 &") == 2, "a set of ranks has a dash"
    assert "?" not in page, "what LaTeX cannot set becomes a question mark"


def test_notes_as_a_paragraph_begin_with_a_capital_and_write_names_as_they_are(tmp_path: Path) -> None:
    boards.fill(tmp_path)
    for seed in range(3):
        write_record(tmp_path, boards.with_details(made.record(10.0, "diverged", model="sre-cnn", seed=seed)))
    readme = tmp_path / "README.md"
    readme.write_text(f"<!-- equibench: {BOARD} -->\n<!-- /equibench -->\n")
    refresh(readme, tmp_path)
    for text in (readme.read_text(), latex_page(load_board(tmp_path, BOARD))):
        assert " sre-cnn: 3 of 3 runs diverged" in text and "Sre-cnn" not in text and "P4cnn" not in text
        assert " Rank: all ranks" in text


def test_chosen_columns_of_a_readme_have_the_notes_that_they_need(tmp_path: Path) -> None:
    boards.fill(tmp_path)
    readme = tmp_path / "README.md"
    for columns, bold, half, rule in (
        ("rank,test acc %", True, True, True), ("rank,parameters", False, False, True), ("parameters,model", True,
        False, True),
        ("parameters,MFLOPs", False, False, False),
    ):  # fmt: skip
        readme.write_text(f"<!-- equibench: {BOARD} columns={columns} -->\n<!-- /equibench -->\n")
        refresh(readme, tmp_path)
        text = readme.read_text()
        assert ("**" in text, "bold: rank 1 is possible" in text) == (bold, bold)
        assert ("± 95 % interval" in text, "Rank: all ranks" in text) == (half, rule)


def test_two_seeds_make_nothing_bold(tmp_path: Path) -> None:
    board = boards.board(tmp_path, accuracies={"p4cnn": [99.0, 99.0], "z2cnn-22": [1.0, 1.0]})
    assert not board.best and "textbf" not in latex_page(board) and "**" not in markdown_table(board)


@given(st.text(max_size=60))
def test_a_cell_of_markdown_stays_a_cell_of_text(text: str) -> None:
    out = markdown_text(text)
    assert "\n" not in out and "<" not in out and not re.search(r"(?<!\\)(\\\\)*\|", out.replace("\\\\", ""))


@given(st.text(max_size=60))
def test_latex_has_no_character_left_that_means_something(text: str) -> None:
    # What is escaped is taken away first; of the rest none may be special.
    rest = re.sub(
        r"(?<=[-,'`?!])\{\}(?=[-,'`])|\\text[a-z]+\{\}|\\[&%$#_{}]|\$\\[a-zA-Z]+\$|\$\^n\$|\$\\\|\$", "", latex(text)
    )
    assert not set(rest) & set("\\&%$#_{}~^")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1. x", r"1\. x"),
        ("12) x", r"12\) x"),
        ("## x", r"\## x"),
        ("- x", r"\- x"),
        ("> x", r"\> x"),
        (">90 %", r"\>90 %"),
        ("---", r"\---"),
        ("1>0", "1>0"),
        ("--x", "--x"),
        ("1.5 x", "1.5 x"),
    ],
)
def test_a_line_of_markdown_starts_nothing(text: str, line: str) -> None:
    assert markdown_line(text) == line


@pytest.mark.parametrize(
    ("text", "set_"),
    [("a --include b", "a -{}-include b"), ("---", "-{}-{}-"), ("1–2", "1--2"), ("?`,,''", "?{}`,{},'{}'")],
)
def test_latex_joins_no_signs(text: str, set_: str) -> None:
    """Of `--` fonts make a dash, and then a command in a caption is wrong."""
    assert latex(text) == set_


def test_text_of_markdown_is_no_formula_and_notes_are_a_list(tmp_path: Path) -> None:
    """GitHub sets what stands between two dollars as a formula, and joins lines into one paragraph."""
    assert markdown_text("$x_i$") == r"\$x\_i\$"
    board = replace(boards.board(tmp_path), title="1. One line")
    title, heading, table, notes = board_table(board, "github").split("\n\n")
    assert title == r"1\. One line" and heading.startswith(BOARD) and table.startswith("|")
    assert len(notes.splitlines()) > 3 and all(line.startswith("- ") for line in notes.splitlines())


def test_an_error_of_zero_is_zero() -> None:
    assert error_text(0.0) == "0" and latex_number("0") == "0" and error_text(3e-7) == "3e-07"


def test_both_commands_give_the_same_table_for_a_paper(tmp_path: Path) -> None:
    board = boards.board(tmp_path)
    places = ["--results", str(tmp_path)]
    shown = CliRunner().invoke(cli, ["leaderboard", BOARD, "--format", "latex_booktabs", *places])
    publish(tmp_path, tmp_path / "out", formats=["latex"], jobs=1)
    written = (tmp_path / "out" / "tables" / f"{BOARD}.tex").read_text()
    assert shown.exit_code == 0 and shown.output.strip() == written.strip() == latex_page(board).strip()
    head = next(line for line in written.splitlines() if line.startswith("Rank &"))
    assert head.count("&") <= 7 and all(word in head for word in ("Model", "Group", "Parameters", "Accuracy"))
    assert head.count("error") == 2 and "e-0" not in written
    caption = written.split(r"\caption")[1]
    for defined in (r"$\pm$ 95 \% interval", "bold: rank 1 is possible", "Class:", "2 epochs of 3,000 images"):
        assert defined in caption


@pytest.mark.parametrize(
    ("text", "set_"),
    [("2e-06", r"$2\times 10^{-6}$"), ("1e+12", r"$1\times 10^{12}$"), ("0.331", "0.331"), ("re-10", "re-10"),
     ("3e-10 → 1e-7", r"$3\times 10^{-10}$ $\to$ $1\times 10^{-7}$")],
)  # fmt: skip
def test_powers_of_ten_are_set_as_papers_do(text: str, set_: str) -> None:
    assert latex_number(text) == set_


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here: the table cannot be compiled")
def test_latex_compiles_with_its_bibliography(tmp_path: Path) -> None:
    boards.fill(tmp_path)
    write_record(tmp_path, made.record(None, status="error", reason=NASTY, model="resnet-26"))
    write_record(tmp_path, made.record(50.0, model="p4cnn+frame-c4"))
    board = load_board(tmp_path, BOARD)
    (tmp_path / "board.tex").write_text(latex_page(board), encoding="utf-8")
    (tmp_path / "models.bib").write_text(
        bibliography(s for row in board.rows_of(board.frame) for s in sources_of_row(row)), encoding="utf-8"
    )
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage[utf8]{inputenc}\\usepackage[T1]{fontenc}\\usepackage{booktabs}\n"
        f"\\begin{{document}}\n\\input{{board}}\n{latex(NASTY)}\n\\bibliographystyle{{plain}}\\bibliography{{models}}\n\\end{{document}}\n",
        encoding="utf-8",
    )
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper"]
    commands = [command, ["bibtex", "paper"], command, command] if shutil.which("bibtex") else [command]
    for each in commands:
        done = subprocess.run(each, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
        assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 1000
    if len(commands) > 1:
        assert "undefined" not in done.stdout, "every citation has its entry"


def test_every_registered_source_has_an_entry_with_balanced_braces() -> None:
    sources = sources_of(e.name for e in MODELS.match(()) if not e.is_template)
    keys = [key_of(s) for s in sources]
    assert len(set(keys)) == len(keys) >= 5
    for source in sources:
        text = entry(source)
        assert text.count("{") == text.count("}") and not text.startswith("@misc"), source
        assert source.removeprefix("arXiv:") in text


@pytest.mark.parametrize("source", ["arXiv:2601.00001", "10.1000/xyz", "https://example.org/a_b", "a book {by} \\me"])
def test_an_unknown_source_becomes_an_entry_with_its_address(source: str) -> None:
    text = entry(source)
    assert text.startswith("@misc{") and text.count("{") - text.count("\\{") == text.count("}") - text.count("\\}")


def test_no_two_sources_have_one_key() -> None:
    """BibTeX would take the first entry for both."""
    sources = ["made up", "Made up", "made-up", "https://example.org/a_b", "https://example.org/a-b", "論文", "書", "?"]
    assert len({key_of(source) for source in sources}) == len(sources)
    assert (
        bibliography(sources).count("@misc{") == len(sources) + 1 and key_of("arXiv:2601.00001") == "arxiv-2601-00001"
    )


def test_every_bibliography_cites_equibench_with_its_version_and_protocol_first() -> None:
    pyproject = tomllib.loads((Path(__file__).resolve().parents[3] / "pyproject.toml").read_text())
    for sources in ([], ["arXiv:1602.07576"], ["arXiv:1602.07576", "https://example.org/net"]):
        entries = bibliography(sources).rstrip("\n").split("\n\n")
        assert entries[0] == own_entry() and len(entries) == 1 + len(sources)
    assert f"Version {pyproject['project']['version']}, protocol {PROTOCOL}" in own_entry()
    assert own_entry().startswith("@misc{equibench,\n") and own_entry().count("{") == own_entry().count("}")


def test_a_wrapped_model_cites_its_wrapper_too() -> None:
    assert len(sources_of(["p4cnn+frame-c4"])) == 2 and sources_of(["nobody"]) == []


def test_a_model_that_is_not_registered_here_is_described_and_cited_by_its_records(tmp_path: Path) -> None:
    """Its package was installed where it was trained, and is not where the board is published."""
    facts = {"family": "theirs", "group": "D4", "invariant": "C4", "source": "arXiv:2601.00001", "treatment": "rotate"}
    record = made.record(90.0, model="a-strangers-net")
    provenance = record.provenance.model_copy(update={"registered": facts})
    write_record(tmp_path, record.model_copy(update={"provenance": provenance}))
    write_record(tmp_path, made.record(80.0, model="an-older-record"))
    write_record(tmp_path, made.record(70.0, model="p4cnn"))
    board = load_board(tmp_path, record.spec.board)
    rows = {row["model"]: row for row in board.rows_of(board.frame)}
    assert {key: rows["a-strangers-net"][key] for key in facts} == facts
    assert [rows["an-older-record"][key] for key in facts] == [""] * 5 and sources_of_row(rows["an-older-record"]) == []
    ours = "p4cnn"
    assert rows[ours]["source"] == MODELS.find(ours).get("source") and sources_of_row(rows[ours]) == [
        rows[ours]["source"]
    ]
    key = key_of("arXiv:2601.00001")
    assert rf"\cite{{{key}}}" in latex_page(board) and f"{{{key}," in bibliography(
        sources_of_row(rows["a-strangers-net"])
    )


def test_reported_figures_stand_apart(tmp_path: Path) -> None:
    boards.fill(tmp_path, {"p4cnn": [97.0]}, dataset="mnist-rot")
    text = markdown_page(load_board(tmp_path, BOARD.replace("digits-rot", "mnist-rot")))
    measured, reported = text.split("### Reported by papers, not measured here")
    assert "| p4cnn" in measured and "README of" not in measured and "NOT measured here" in reported


README = "# Mine\r\ntext  \r\n<!-- equibench: {board} -->\r\nSTALE\r\n<!-- /equibench -->\r\nend without newline"


def test_a_readme_changes_between_its_markers_only(tmp_path: Path) -> None:
    boards.fill(tmp_path)
    path = tmp_path / "README.md"
    text = README.format(board=BOARD.removesuffix("-v2"))
    path.write_bytes(text.encode())
    assert refresh(path, tmp_path) == [BOARD.removesuffix("-v2")]
    fresh = path.read_bytes().decode()
    before, after = text.split("STALE\r\n")
    assert fresh.startswith(before) and fresh.endswith(after) and "| **p4cnn**" in fresh and "STALE" not in fresh
    assert "\n" not in fresh.replace("\r\n", "")
    refresh(path, tmp_path)
    assert path.read_bytes().decode() == fresh, "doing it again changes nothing"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing", "has no marker"),
        (f"<!-- equibench: {BOARD} -->\n", "line 1: this marker is not followed"),
        (f"<!-- equibench: {BOARD} -->\n<!-- equibench: {BOARD} -->\n<!-- /equibench -->\n", "line 1"),
        ("<!-- equibench: digits-rt-e5-common-v1 -->\n<!-- /equibench -->\n", "did you mean"),
        (f"<!-- equibench: {BOARD} columns=modle -->\n<!-- /equibench -->\n", "did you mean 'model'"),
        (f"<!-- equibench: {BOARD} plots=differences -->\n<!-- /equibench -->\n", "did you mean 'plot'"),
        (f"<!-- equibench: {BOARD} plot=diferences -->\n<!-- /equibench -->\n", "did you mean 'differences'"),
        (f"<!-- equibench: {BOARD} plot=accuracy-angle -->\n<!-- /equibench -->\n", "full equivariance profile"),
    ],
)
def test_a_readme_with_wrong_markers_is_left_alone(tmp_path: Path, text: str, message: str) -> None:
    boards.fill(tmp_path, {"p4cnn": [90.0]})
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        refresh(path, tmp_path)
    assert path.read_text() == text


def test_a_readme_shows_plots_by_their_way_from_its_folder(tmp_path: Path) -> None:
    root = boards.fill(tmp_path / "leader boards")
    path = tmp_path / "docs" / "README.md"
    path.parent.mkdir()
    path.write_text(
        f"<!-- equibench: {BOARD} columns=model,test acc % plot=accuracy-flops, differences reported -->\n<!--"
        " /equibench -->\n"
    )
    refresh(path, root)
    text = path.read_text()
    assert "| model " in text and "MFLOPs" not in text
    links = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    pictures = [(path.parent / unquote(link)).resolve() for link in links]
    assert [p.name for p in pictures] == [f"{BOARD}-{stem}.svg" for stem in ("accuracy-flops", "differences")]
    first = [p.read_bytes() for p in pictures]
    refresh(path, root)
    assert path.read_text() == text and [p.read_bytes() for p in pictures] == first
    assert sorted(p.name for p in (root / "figures").iterdir()) == sorted(p.name for p in pictures)


def test_the_table_of_a_readme_shows_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boards.fill(tmp_path)
    board = load_board(tmp_path, BOARD)
    assert {r["status"] for r in narrow_rows(board, board.frame)} == {"ok (stale)"}
    monkeypatch.setattr(staleness, "_source_hash", lambda model: "")
    assert "status" not in narrow_rows(board := load_board(tmp_path, BOARD), board.frame)[0]
    write_record(tmp_path, made.record(None, status="oom", reason="no memory", model="resnet-26"))
    board = load_board(tmp_path, BOARD)
    assert {r["model"]: r["status"] for r in narrow_rows(board, board.frame)}["resnet-26"] == "oom (0/1 runs)"


def test_a_board_whose_files_are_all_refused_says_why(tmp_path: Path) -> None:
    boards.fill(tmp_path, {"p4cnn": [90.0, 91.0]})
    for path in (tmp_path / "runs" / BOARD).glob("*.json"):
        path.write_text(path.read_text().replace('"status":"ok"', '"status":"fine"'))
    with pytest.raises(UserError, match=r"status.*2 files were refused"):
        publish(tmp_path, tmp_path / "out", jobs=1)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    readme = tmp_path / "README.md"
    readme.write_text(f"<!-- equibench: {BOARD} -->\n<!-- /equibench -->\n")
    with pytest.raises(UserError, match=r"line 1: .*status"):
        refresh(readme, tmp_path)


def test_refused_files_are_named_and_the_rest_published(tmp_path: Path) -> None:
    boards.fill(tmp_path)
    (tmp_path / "runs" / BOARD / "note.json").write_text("{}")
    result = CliRunner().invoke(
        cli, ["publish", "--results", str(tmp_path), "--out", str(tmp_path / "o"), "--format", "md"]
    )
    assert (
        result.exit_code == 1 and "note.json" in result.output and (tmp_path / "o" / "tables" / f"{BOARD}.md").is_file()
    )


def test_every_plot_is_named_in_the_documentation() -> None:
    text = (Path(__file__).parents[3] / "docs" / "publishing.md").read_text()
    assert not [p.stem for p in PLOTS if f"`{p.stem}`" not in text]
