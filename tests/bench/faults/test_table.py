"""The table of faults in the documentation names tests that exist."""

import re
from pathlib import Path

from equibench.tests.marks import marked_tests

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "reliability.md"


def test_every_command_of_the_table_selects_a_test() -> None:
    commands = re.findall(r"`pytest (tests/\S+\.py)(?: -k ('[^']+'|\S+))?(?: -m (slow|whole))?`", PAGE.read_text())
    assert len(commands) > 20
    for path, words, mark in commands:
        found = {name: marks & {"slow", "whole"} for name, (marks, _) in marked_tests(ROOT / path).items()}
        parts = words.strip("'").split(" or ") if words else [""]
        for word in parts:
            assert [name for name in found if word in name], f"{path} has no test with {word!r} in its name"
        chosen = [marks for name, marks in found.items() if any(word in name for word in parts)]
        assert [marks for marks in chosen if (mark in marks if mark else not marks)], f"{path}: {words} with {mark!r}"
