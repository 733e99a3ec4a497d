"""The reference of a suite's file is what the program accepts."""

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from equibench.bench.boards.families import points_of
from equibench.bench.spec.suite import Suite, find_suite, suite_names, suite_text
from equibench.bench.spec.suite_keys import markdown_table, schema_text, suite_keys, suite_schema
from equibench.registry import UserError

from ..commands import equibench

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "suites.md").read_text(encoding="utf-8")
GOOD: dict[str, Any] = {"dataset": "digits-rot", "budget": "e20", "models": ["p4cnn"], "reference_parameters": 25_700}
ROWS = {row["key"]: row for row in suite_keys()}


def is_valid(values: dict[str, Any]) -> bool:
    return not list(jsonschema.Draft7Validator(suite_schema()).iter_errors(values))


def is_accepted(values: dict[str, Any]) -> bool:
    try:
        return bool(points_of({**values, "name": "mine"}, "mine.toml"))
    except UserError:
        return False


def test_the_page_and_the_schemas_file_are_current() -> None:
    shown = re.search(r"<!-- equibench list suite-keys --markdown -->\n(.*?)\n<!-- end -->", PAGE, re.DOTALL)
    assert shown and shown[1] == markdown_table(), "equibench list suite-keys --markdown"
    file = ROOT / "bench" / "spec" / "suite.schema.json"
    assert file.read_text(encoding="utf-8") == schema_text(), "equibench list suite-keys --schema"
    jsonschema.Draft7Validator.check_schema(json.loads(file.read_text(encoding="utf-8")))


def test_every_key_has_a_row_that_says_what_it_is() -> None:
    assert set(ROWS) == {f.alias or name for name, f in Suite.model_fields.items()} - {"name"}
    assert all(cell for row in ROWS.values() for cell in row.values())
    assert ROWS["train_images"]["type"] == "whole number, or list of whole numbers"
    assert ROWS["class"]["type"] == '"matched" or "as-published"'
    required = [key for key, row in ROWS.items() if row["default"] == "required"]
    for key in required:
        assert not is_accepted({k: v for k, v in GOOD.items() if k != key})


@pytest.mark.parametrize("key", ROWS)
def test_examples_and_defaults_are_accepted_as_toml(key: str) -> None:
    for text in (ROWS[key]["example"], ROWS[key]["default"]):
        if text not in ("required", "none"):
            values = GOOD | tomllib.loads(f"{key} = {text}")
            assert is_accepted(values) and is_valid(values)
    made = points_of({**GOOD, "name": "mine"}, "here")[0].model_dump(by_alias=True)
    if ROWS[key]["default"] not in ("required", "none"):
        assert made[key] == json.loads(ROWS[key]["default"])


@pytest.mark.parametrize(
    "change",
    [
        {"sedes": 3},
        {"profile": "quick"},
        {"seeds": "three"},
        {"seeds": 1.5},
        {"train_images": 0},
        {"train_images": [500, 0]},
        {"budget": []},
        {"budget": ["e5", 3]},
        {"models": "p4cnn"},
        {"class": "same"},
        {"reference_parameters": -1},
        {"name": "mine"},
    ],
)
def test_editors_refuse_what_the_program_refuses(change: dict[str, Any], tmp_path: Path) -> None:
    assert not is_valid(GOOD | change)
    lines = [f"{key} = {json.dumps(value)}" for key, value in (GOOD | change).items()]
    (tmp_path / "mine.toml").write_text("\n".join(lines))
    from equibench.bench.boards.families import find_points

    with pytest.raises(UserError):
        find_points(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize("name", suite_names())
def test_shipped_suites_name_the_schema_and_fit_it(name: str) -> None:
    first, text = suite_text(name)[1].split("\n", 1)
    found = re.fullmatch(r"#:schema (\S+)", first)
    assert found and (ROOT / "bench" / "spec" / "suites" / found[1]).is_file()
    assert is_valid(tomllib.loads(text))


def test_the_example_of_the_page_is_a_suite(tmp_path: Path) -> None:
    found = re.search(r"<!-- stencils.toml -->\n```toml\n(.*?)```", PAGE, re.DOTALL)
    assert found
    (tmp_path / "stencils.toml").write_text(found[1])
    assert find_suite(str(tmp_path / "stencils.toml")).budget == "e20" and is_valid(tomllib.loads(found[1]))


def test_the_command_prints_rows_or_the_schema() -> None:
    def said(*arguments: str) -> subprocess.CompletedProcess[str]:
        return equibench("list", "suite-keys", *arguments)

    assert json.loads(said("--schema").stdout) == suite_schema()
    assert [row["key"] for row in json.loads(said("reference*", "--json").stdout)] == [
        "reference_parameters",
        "reference_model",
    ]
    wrong = said("reference*", "--schema")
    assert wrong.returncode == 2 and "'reference*'" in wrong.stderr
