"""What the FAQ quotes is what the program says, and the site's menu leads to every page."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FAQ = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
#: The fixed parts of messages that stand as titles; names and numbers are left out with "…".
QUOTED = [
    part.strip()
    for title in re.findall(r"^### (.*)$", FAQ, re.M)
    for code in re.findall(r"`([^`]+)`", title)
    for part in code.split("…")
]


def texts() -> str:
    """All fixed texts of the program, those that are put together from several lines as one."""
    found = []
    for path in [*ROOT.glob("*.py"), *(p for f in ("bench", "models", "datasets") for p in (ROOT / f).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


@pytest.fixture(scope="module")
def program() -> str:
    return texts()


@pytest.mark.parametrize("part", [p for p in QUOTED if len(p) > 8 and not p.isalpha()])
def test_the_faq_quotes_messages_as_they_are(part: str, program: str) -> None:
    assert part in program


def test_the_menu_leads_to_every_page() -> None:
    menu = re.findall(r": ([a-z0-9_/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    pages = {
        p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md") if "examples" not in p.parts
    }
    assert len(menu) == len(set(menu)) and pages <= set(menu)
    assert set(menu) - pages == {"index.md", "contributing.md", "changelog.md"}, "pages of the repository's root"
