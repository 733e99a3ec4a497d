"""What the project says of itself is the same at every place that says it."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from equibench.bench.publish.bibtex import own_entry
from equibench.bench.spec.suite import PROTOCOL

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def citation() -> dict[str, str]:
    """The fields of CITATION.cff that are one line each."""
    lines = [x.partition(": ") for x in (ROOT / "CITATION.cff").read_text().splitlines() if not x.startswith(" ")]
    return {key: value.strip('"') for key, _, value in lines}


def test_the_citation_file_says_what_the_metadata_say() -> None:
    assert (citation()["version"], citation()["license"]) == (PROJECT["version"], PROJECT["license"])
    assert citation()["type"] == "software" and citation()["cff-version"] == "1.2.0"
    for author in PROJECT["authors"]:
        assert f"  - name: {author['name']}\n" in (ROOT / "CITATION.cff").read_text()
        assert f"Copyright (c) 2026 {author['name']}\n" in (ROOT / "LICENSE").read_text()


def test_the_entry_that_publish_writes_agrees_with_the_citation_file_and_the_readme() -> None:
    assert f"title = {{{citation()['title']}}}" in own_entry()
    assert all(f"author = {{{{{a['name']}}}}}" in own_entry() for a in PROJECT["authors"])
    assert f"```bibtex\n{own_entry()}\n```" in (ROOT / "README.md").read_text()


def test_the_changelog_names_the_version_and_the_protocol() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    newest = text.split("\n## ")[1]
    assert PROJECT["version"] in newest and f"`PROTOCOL` {PROTOCOL} " in newest


@pytest.mark.parametrize("path", ["README.md", "docs/data.md", "CONTRIBUTING.md"])
def test_no_page_names_a_file_of_the_root_that_git_ignores(path: str) -> None:
    lines = (ROOT / ".gitignore").read_text().splitlines()
    ignored = [x for x in lines if not x.startswith("#") and not set(x) & set("*/")]
    assert "uv.lock" in ignored
    assert [x for x in ignored if x in (ROOT / path).read_text()] == []
