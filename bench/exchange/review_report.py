"""The report on a contribution as Markdown, for its reviewer."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..boards.terminal_table import board_table
from ..tools.markup import markdown_text
from ..tools.schema import visible
from ..tools.text import plural
from .merge import STATES
from .validate import Judgement, rank_changes

#: Largest number of sentences in a list; further ones are only counted.
MOST = 50


def markdown(found: Judgement) -> str:
    """The whole report: decision, reasons, notes for the reviewer, ranks, and the tables before and after."""
    answer = "These rows may enter the published boards." if found.accepted else "These rows may not enter yet."
    parts = [f"# {answer}" if found.new or found.problems else "# There is nothing new."]
    parts += _listed("Reasons", found.problems) + _listed("Notes for the reviewer", found.warnings)
    parts += ["## Files", "", *_came(found), ""] if found.merged.files else []
    for before, after in found.boards:
        parts += _listed(f"Ranks on {after.name}", rank_changes(before, after) or ["no change"])
        for words, board in (("before", before), ("after", after)):
            table = board_table(board, "github") if board is not None and board.is_table else "There is no table."
            parts += [f"<details><summary>{after.name}, {words}</summary>", "", table, "", "</details>", ""]
    return "\n".join(parts).rstrip() + "\n"


def document(found: Judgement) -> dict[str, Any]:
    """The report as a JSON document; `models` lists each model with new rows and its data sets."""
    boards = {after.name: rank_changes(before, after) for before, after in found.boards}
    states = Counter(a.state for a in found.merged.files if a.kind == "record")
    return {
        "accepted": found.accepted,
        "problems": found.problems,
        "warnings": found.warnings,
        "records": dict(states),
        "models": [{"model": model, "dataset": dataset} for model, dataset in found.verdicts],
        "ranks": boards,
        "report": markdown(found),
    }


def _listed(heading: str, sentences: list[str]) -> list[str]:
    sentences = list(dict.fromkeys(sentences))
    if not sentences:
        return []
    more = [f"- and {len(sentences) - MOST} more"] if len(sentences) > MOST else []
    return [f"## {heading}", "", *(f"- {_shown(s)}" for s in sentences[:MOST]), *more, ""]


def _shown(text: str) -> str:
    """A sentence as Markdown: names between backquotes are code; all other markup is escaped."""
    names = visible(text).split("`")
    if len(names) % 2 == 0:
        return markdown_text(visible(text))
    return "".join(f"`{part}`" if place % 2 else markdown_text(part) for place, part in enumerate(names))


def _came(found: Judgement) -> list[str]:
    lines = [f"| board | {' | '.join(STATES)} |", "|---|---|---|---|---|"]
    for board, _, counts in found.merged.by_board():
        lines.append(f"| {' | '.join([markdown_text(board), *map(str, counts)])} |")
    for (model, dataset), verdict in found.verdicts.items():
        checks = f"{plural(verdict.count('pass'), 'check')} passed, {plural(verdict.count('fail'), 'failure')}"
        lines += ["", f"`equibench check` of {markdown_text(model)} for {dataset}: {checks}."]
    return lines
