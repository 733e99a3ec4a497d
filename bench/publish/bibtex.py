"""BibTeX for models, from their registered sources."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from functools import cache
from typing import Any

from ...registry import MODELS, UserError
from ..boards.board import Board
from ..records.provenance import versions
from ..spec.suite import PROTOCOL
from ..tools.files import shipped
from ..tools.markup import latex
from ..tools.schema import short_hash
from ..tools.text import plural

AUTHOR = "{the equibench developers}"

#: Names of the months in BibTeX.
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]

_KEY = re.compile(r"@\w+\{([^,\s]+),")
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})(v\d+)?")
_DOI = re.compile(r"(?:doi:|https?://doi\.org/)?(10\.\d{4,9}/\S+)", re.IGNORECASE)


def sources_of(models: Iterable[str]) -> list[str]:
    """Sources of models and of their wrappers, each once, in order; models that are not registered have none."""
    found: dict[str, None] = {}
    for name in models:
        try:
            model = MODELS.find(name)
        except UserError:
            continue
        for source in (model.get("source"), *(w.entry.fields.get("source") for w in model.wrappers)):
            if source:
                found[str(source)] = None
    return list(found)


def entry(source: str) -> str:
    """The BibTeX entry of a source; an unknown source becomes a @misc entry with its address."""
    known = _known().get(source)
    if known:
        return known.strip()
    if arxiv := _ARXIV.fullmatch(source):
        fields = {"eprint": arxiv[1], "archiveprefix": "arXiv", "url": f"https://arxiv.org/abs/{arxiv[1]}"}
    elif doi := _DOI.fullmatch(source):
        fields = {"doi": _plain(doi[1])}
    elif source.startswith(("http://", "https://")):
        fields = {"url": _plain(source)}
    else:
        fields = {"note": latex(source)}
    key = re.sub(r"[^A-Za-z0-9]+", "-", source).strip("-").lower()
    # Sources that differ only in other characters have different keys.
    return _misc(key if arxiv or key == source else f"{key or 'source'}-{short_hash(source)[:6]}", fields)


def _misc(key: str, fields: dict[str, str]) -> str:
    # Months are macros of BibTeX, without braces.
    lines = [f"  {name} = {value if name == 'month' else f'{{{value}}}'},\n" for name, value in fields.items()]
    return f"@misc{{{key},\n{''.join(lines)}}}"


def is_known_source(source: str) -> bool:
    """Whether a source has an entry in ``sources.toml``."""
    return source in _known()


def own_entry() -> str:
    """The BibTeX entry of equibench itself, with its version and its protocol."""
    title = "equibench: fair head-to-heads of equivariant image architectures"
    note = f"Version {versions()['equibench']}, protocol {PROTOCOL}"
    return _misc("equibench", {"title": title, "author": AUTHOR, "year": "2026", "note": note})


def board_entry(board: Board) -> str:
    """The BibTeX entry of a board: dates and commits of its runs, and a hash that identifies its records.

    The hash is the SHA-256 of the sorted file names of the records, each with a line end. A file name contains the hash
    of the content of the file.
    """
    records = sorted((r for r, _ in board.chosen), key=lambda r: r.provenance.started)
    days = list(dict.fromkeys(r.provenance.started[:10] for r in records))
    commits = list(dict.fromkeys(c[:12] for r in records if (c := r.provenance.commit)))
    files = "".join(f"{name}\n" for name in sorted(r.file_name for r in records))
    facts = [
        f"{plural(len(records), 'run')} of {plural(len(board.runs), 'model')}",
        f"measured {' to '.join(dict.fromkeys((days[0], days[-1])))}",
        f"{'commits' if len(commits) > 1 else 'commit'} {', '.join(commits) or 'not recorded'}",
        f"records {short_hash(files)}",
    ]
    year, month, _ = days[-1].split("-")
    return _misc(f"equibench-{board.name}", {
        "title": f"{{equibench board {latex(board.name)}}}", "author": AUTHOR, "year": year,
        "month": _MONTHS[int(month) - 1], "note": latex("; ".join(facts)),
    })  # fmt: skip


def key_of(source: str) -> str:
    """The citation key of a source."""
    found = _KEY.match(entry(source))
    assert found is not None
    return found[1]


def sources_of_row(row: dict[str, Any]) -> list[str]:
    """The sources of the model of a board's row; if it is not registered here, the source from its record."""
    return sources_of([row["model"]]) or [row["source"]] * bool(row["source"])


def bibliography(sources: Iterable[str]) -> str:
    """A BibTeX file: equibench's own entry, then one entry per source, ordered by key."""
    return "\n\n".join([own_entry(), *(entry(s) for s in sorted(set(sources), key=key_of))]) + "\n"


@cache
def _known() -> dict[str, str]:
    return tomllib.loads(shipped("bench", "publish", "sources.toml"))


def _plain(text: str) -> str:
    return re.sub(r"[{}\\\s]", "", text)
