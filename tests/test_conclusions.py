"""Every difference with an interval in a sentence of the results is one that a board shows."""

import re
from pathlib import Path

import pytest
from equibench.bench.boards.board import load_board
from equibench.bench.boards.statistics import compare_all

ROOT = Path(__file__).parents[1]
#: Numbers with intervals in the two pages; a line may end in between.
FIGURE = re.compile(r"(\d+\.\d+)\s+±\s+(\d+\.\d+)")


def sentences(page: str) -> str:
    """The text of a page without what `equibench publish` writes into it."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"<!-- equibench: .*?<!-- /equibench -->", "", text, flags=re.DOTALL)
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def shown() -> list[tuple[float, float]]:
    """Means and half-widths: of the differences of all pairs of models of a board, and of their errors."""
    found = []
    for path in sorted((ROOT / "leaderboards" / "runs").iterdir()):
        board = load_board(ROOT / "leaderboards", path.name)
        found += [(abs(c.difference), c.interval) for c in compare_all(board.samples) if c.interval is not None]
        rows = board.rows_of(board.frame)
        found += [(100 - row["test_acc_mean_pct"], row["test_acc_ci95_pct"]) for row in rows]
    return found


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_a_board_shows_every_figure_of_a_sentence(page: str, shown: list[tuple[float, float]]) -> None:
    """A figure has two decimals, so it may differ from its board by half of the last one."""
    figures = [(float(mean), float(half)) for mean, half in FIGURE.findall(sentences(page))]
    assert len(figures) >= 5
    half_a_digit = 0.005 + 1e-9
    unknown = [
        figure
        for figure in figures
        if not any(all(abs(a - b) <= half_a_digit for a, b in zip(figure, pair, strict=True)) for pair in shown)
    ]
    assert not unknown, f"{page}: no board has {unknown}"
