"""The table of faults in the documentation names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "reliability.md"


def test_every_command_of_the_table_selects_a_test() -> None:
    commands = re.findall(r"`pytest (tests/\S+\.py)(?: -k ('[^']+'|\S+))?( -m slow)?`", PAGE.read_text())
    assert len(commands) > 20
    for path, words, _ in commands:
        names = re.findall(r"^def (test_\w+)", (ROOT / path).read_text(), re.MULTILINE)
        for word in words.strip("'").split(" or ") if words else [""]:
            assert [name for name in names if word in name], f"{path} has no test with {word!r} in its name"
