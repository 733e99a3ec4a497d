"""What repeats and cites a board: suites that ask for exactly its runs, commands, BibTeX, the schema of its runs."""

import csv
import hashlib
import json
import re
from datetime import datetime
from pathlib import Path

import pytest
from equibench.bench.boards.board import load_board
from equibench.bench.boards.families import load_family, points_of
from equibench.bench.boards.rows import csv_text, run_rows
from equibench.bench.cli.main import cli
from equibench.bench.publish.bibtex import board_entry
from equibench.bench.publish.payload import run_schema
from equibench.bench.publish.repeat_commands import cautions, commands, family_file, suite_file, suites_of
from equibench.bench.records.record import write_record
from equibench.bench.records.store import board_names
from equibench.bench.spec.suite import RunSpec, Suite, parse_suite, plan, training_images
from equibench.bench.tools.schema import parse_toml
from equibench.registry import MODELS, UserError

from .. import made
from ..boards.test_families import FAMILY, record_of
from .boards import BOARD, fill
from .test_family import filled

COMMITTED = Path(__file__).parents[3] / "leaderboards"
SUITE = {"name": "s", "dataset": "digits-rot", "budget": "e2", "models": ["p4cnn", "z2cnn-22"]}


def asked(files: dict[str, str]) -> set[str]:
    """The runs that suites ask for, each as its JSON."""
    return {spec.model_dump_json() for name, text in files.items() for spec in plan(parse_suite(name, text, name))}


def files_of(root: Path, board: str) -> dict[str, str]:
    return {name: suite_file(suite) for name, suite in suites_of(load_board(root, board)).items()}


@pytest.mark.parametrize(
    "suites",
    [
        [{}],
        [{"seeds": [0, 4, 7]}],
        [{"fit": "train+val", "profile": "fast", "seeds": 1}],
        [{"train_images": 500, "budget": "n40000"}],
        [{"dataset": "mnist-rot-gen", "recipe": "paper", "budget": "published", "models": ["p4cnn", "z2cnn"]}],
        [{"class": "matched", "reference_parameters": 25_700, "reference_model": "z2cnn-22"}],
        [{"seeds": 2}, {"seeds": [3, 5], "models": ["p4cnn"]}],
        [{"seeds": 2}, {"seeds": 1, "models": ["wrn-10-b9"], "equivariance": "full"}],
    ],
)
def test_suites_of_a_board_ask_for_its_runs_and_no_others(tmp_path: Path, suites: list[dict]) -> None:
    specs = [spec for changes in suites for spec in plan(Suite.model_validate(SUITE | changes))]
    for spec in specs:
        images = training_images(spec.dataset, spec.fit, spec.train_images)
        write_record(tmp_path, record_of(spec, 90.0, train_images=images))
    found = files_of(tmp_path, specs[0].board)
    assert asked(found) == {spec.model_dump_json() for spec in specs}
    seeds = {model: tuple(s.seed for s in specs if s.model == model) for model in (s.model for s in specs)}
    assert len(found) == len(set(seeds.values())), "one file, unless seeds differ"
    board = load_board(tmp_path, specs[0].board)
    assert all(suite.reference_model == board.reference for suite in suites_of(board).values())


@pytest.mark.parametrize("name", board_names(COMMITTED))
def test_suites_of_the_committed_boards_ask_for_their_runs(name: str) -> None:
    board = load_board(COMMITTED, name)
    said = " ".join(cautions(board))
    here = {m for m in board.runs if not re.search(rf"[ ,]{re.escape(m)}[,.]", said)}
    assert all(MODELS.find(m) for m in here)
    for model in set(board.runs) - here:
        with pytest.raises(UserError):
            MODELS.find(model)
    own = {r.spec.model_dump_json() for r, _ in board.chosen if r.spec.model in here}
    suites = [s.model_copy(update={"models": [m for m in s.models if m in here]}) for s in suites_of(board).values()]
    assert asked({f"s{i}": suite_file(s) for i, s in enumerate(suites) if s.models}) == own


@pytest.mark.parametrize(
    "several", [{"train_images": [100, 400, 3000]}, {"train_images": [100, 400], "budget": ["e2", "e5"]}]
)
def test_the_file_of_a_family_has_its_points(tmp_path: Path, several: dict) -> None:
    suites = points_of({**FAMILY, "name": "f", **several}, "here")
    for suite in suites:
        for spec in plan(suite):
            write_record(tmp_path, record_of(spec, 90.0))
    text = family_file(load_family(tmp_path, suites, load_board))
    assert points_of({**parse_toml(text, "file"), "name": "f"}, "file") == suites


def test_the_commands_are_understood(tmp_path: Path) -> None:
    asked_for = [*commands(["b-1", "b-2"], "tuned", "b"), *commands(["b"], "common", "b")]
    assert [line.split()[1:3] for line in asked_for] == [
        ["tune", "b-1.toml"], ["tune", "b-2.toml"], ["run", "b-1.toml"], ["run", "b-2.toml"], ["leaderboard", "b"],
        ["run", "b.toml"],
    ]  # fmt: skip
    for line in asked_for:
        _, name, *arguments = line.split()
        context = cli.commands[name].make_context(name, arguments)
        assert str(context.params["results"]) == "repeated", "what is there already would not be run again"


def test_what_stands_in_the_way_of_a_repetition_is_said(tmp_path: Path) -> None:
    fill(tmp_path, {"p4cnn": [90.0], "nowhere-net": [80.0]})
    assert cautions(load_board(tmp_path, BOARD)) == [
        "Not included in equibench: nowhere-net. Give their files with --include FILE."
    ]
    old: RunSpec = made.spec(model="p4cnn", protocol=1)
    write_record(tmp_path, made.record(model="p4cnn", protocol=1))
    assert "protocol 1" in " ".join(cautions(load_board(tmp_path, old.board)))


def entry(root: Path) -> dict[str, str]:
    """The fields of the entry of the board."""
    text = board_entry(load_board(root, BOARD))
    assert text.startswith(f"@misc{{equibench-{BOARD},\n") and text.count("{") == text.count("}")
    return {key: value.strip("{}") for key, value in re.findall(r"^  (\w+) = (.*),$", text, re.MULTILINE)}


def test_a_citation_says_board_commit_date_and_which_records(tmp_path: Path) -> None:
    fill(tmp_path, {"p4cnn": [90.0, 91.0]})
    first = entry(tmp_path)
    assert BOARD in first["title"] and (first["year"], first["month"]) == ("2026", "jan")
    assert first["note"].startswith("2 runs of 1 model; measured 2026-01-01; commit not recorded; records ")
    names = sorted(p.name for p in (tmp_path / "runs" / BOARD).glob("*.json"))
    digest = hashlib.sha256("".join(f"{n}\n" for n in names).encode()).hexdigest()
    assert first["note"].endswith(digest[:16]) and entry(tmp_path) == first
    record = made.record(model="z2cnn-22")
    facts = {"commit": "a" * 40, "started": "2026-03-04T00:00:00+00:00"}
    later = record.model_copy(update={"provenance": record.provenance.model_copy(update=facts)})
    write_record(tmp_path, later)
    second = entry(tmp_path)
    assert second["month"] == "mar" and "2026-01-01 to 2026-03-04; commit aaaaaaaaaaaa; " in second["note"]
    assert second["note"].split()[-1] != digest[:16]


KINDS = {
    "number": float, "integer": int, "string": str, "datetime": datetime.fromisoformat,
    "boolean": {"True": True, "False": False}.__getitem__,
}  # fmt: skip


def check(text: str, board: str, frame: object) -> int:
    """See that a CSV is as its schema says; how many cells are filled."""
    fields = json.loads(json.dumps(run_schema(board, frame)))["fields"]
    rows = list(csv.DictReader(text.splitlines()))
    assert [f["name"] for f in fields] == list(rows[0]) and all(f["description"] for f in fields)
    filled_cells = [(f, row[f["name"]]) for f in fields for row in rows if row[f["name"]] != ""]
    for field, value in filled_cells:
        KINDS[field["type"]](value)
    assert len({row["run"] for row in rows}) == len(rows), "the primary key"
    return len(filled_cells)


@pytest.mark.parametrize("name", board_names(COMMITTED))
def test_the_schema_fits_the_committed_tables_of_runs(name: str) -> None:
    frame = run_rows(load_board(COMMITTED, name))
    assert check(csv_text(frame), name, frame) > 300


def test_the_schema_fits_failed_runs_and_other_phases(tmp_path: Path) -> None:
    fill(tmp_path, {"p4cnn": [90.0]})
    write_record(tmp_path, made.record(None, status="error", reason="ValueError: no", model="z2cnn-22"))
    frame = run_rows(load_board(tmp_path, BOARD))
    assert check(csv_text(frame), BOARD, frame) > 30
    units = {f["name"]: f.get("unit") for f in run_schema(BOARD, frame)["fields"]}
    assert (
        units["phase_other_s"] == "s" and units["test_acc_pct"] == "%" and units["lee_rot_per_deg_init"] == "1/degree"
    )
    with pytest.raises(KeyError):
        run_schema(BOARD, frame.assign(new_column=1))


def test_a_family_page_offers_its_suite_and_cites_its_boards(tmp_path: Path) -> None:
    from equibench.bench.publish.family_page import publish_family

    name = publish_family(tmp_path / "out", filled(tmp_path / "r"), ("html",))
    page = (tmp_path / "out" / f"{name}.html").read_text()
    assert f'href="suites/{name}.toml"' in page and f"equibench run {name}.toml --results repeated" in page
    assert (tmp_path / "out" / "suites" / f"{name}.toml").is_file() and page.count("@misc{equibench-") == 3
