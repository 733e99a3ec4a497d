"""Long commands say what they do while they do it, on standard error, so that standard output stays a document."""

import json
from pathlib import Path

import pytest
from equibench.bench.records.record import write_record

from .. import made
from ..commands import equibench
from ..publish import boards


def test_publish_names_each_board_as_it_comes_to_it(tmp_path: Path) -> None:
    boards.fill(tmp_path, {"p4cnn": [90.0]})
    write_record(tmp_path, other := made.record(90.0, dataset="mnist-rot"))
    done = equibench("publish", "--results", str(tmp_path), "--out", str(tmp_path / "o"), "--format", "md", "--json")
    assert {line for line in done.stderr.splitlines() if line.endswith(" …")} == {
        f"{boards.BOARD} …", f"{other.spec.board} …",
    }  # fmt: skip
    assert len(json.loads(done.stdout)["boards"]) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("check", "z2cnn-2"), ["citation …"]),
        (("equivariance", "p4cnn", "--size", "3"), [f"p4cnn at {n} pixels …" for n in (2, 3, 4)]),
    ],
)
def test_a_command_says_what_it_is_at(arguments: tuple[str, ...], said: list[str], tmp_path: Path) -> None:
    places = ["--out" if arguments[0] == "equivariance" else "--results", str(tmp_path)]
    done = equibench(*arguments, "--json", *places)
    assert done.stderr.splitlines()[: len(said)] == said
    assert json.loads(done.stdout)
