"""The site shows pages and pictures of the whole repository; their links work there as in a repository browser.

README.md, CONTRIBUTING.md, CHANGELOG.md and the pictures of leaderboards/ enter the site as they are. A link to another
file of the repository (a module, a folder) becomes its text. A link to a file that does not exist stays, and fails the
strict build.
"""

from __future__ import annotations

import posixpath
import re
import tempfile
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
#: Pages outside of docs/, with their names in the site.
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
PICTURES = "leaderboards/figures"

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
_PACKAGE = tempfile.TemporaryDirectory(prefix="equibench-docs-")  # as long as the build


@event_priority(100)  # before mkdocstrings reads its settings
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let the reference find the package, which is the repository's root; its folder may have any name."""
    package = Path(_PACKAGE.name, "equibench")
    if not package.exists():
        package.mkdir()
        for path in (*ROOT.glob("*.py"), *(ROOT / name for name in ("bench", "models", "datasets"))):
            (package / path.name).symlink_to(path)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [_PACKAGE.name]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside of docs/."""
    pictures = {p.relative_to(ROOT).as_posix(): p.relative_to(ROOT).as_posix() for p in (ROOT / PICTURES).iterdir()}
    for source, target in {**PAGES, **pictures}.items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site, outside of code."""
    parts, last = [], 0
    for code in _FENCE.finditer(markdown):
        parts += [_turned(markdown[last : code.start()], page, files), code[0]]
        last = code.end()
    return "".join([*parts, _turned(markdown[last:], page, files)])


def _turned(text: str, page: Page, files: Files) -> str:
    here = page.file.src_uri
    source = next((path for path, name in PAGES.items() if name == here), f"docs/{here}")

    def turn(link: re.Match[str]) -> str:
        mark, words, address = link.groups()
        path, hash_, anchor = address.partition("#")
        if not path or re.match(r"[a-z][a-z0-9+.-]*:", address):
            return link[0]
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        target = PAGES.get(wanted, wanted.removeprefix("docs/"))
        if files.get_file_from_path(target):
            return f"{mark}[{words}]({posixpath.relpath(target, posixpath.dirname(here) or '.')}{hash_}{anchor})"
        exists = not wanted.startswith("..") and (ROOT / wanted).exists()
        return words if exists and not mark else link[0]

    return _LINK.sub(turn, text)
