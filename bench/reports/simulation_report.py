"""Tables of the results of `simulation`: one row for all numbers of seeds, shares in percent."""

from __future__ import annotations

from typing import Any

from .simulation import HIGHEST, LOWEST, SEEDS, WRONG

Row = dict[str, Any]
_TRIALS = "in percent of {} experiments; in each cell with " + ", ".join(map(str, SEEDS)) + " seeds"
_TITLES = {
    "coverage": (
        f"Coverage of 95 % intervals (claimed if seed effects are normal or none: {100 * LOWEST:g} to"
        f" {100 * HIGHEST:g})\n"
        "seeds: over new seeds on the same images; both: over new seeds and new images"
    ),
    "family": f"Experiments with any wrong decision (claimed: at most {100 * WRONG:g}); for comparison: t-tests over"
    " the seeds only",
    "power": "Power to detect a difference (one comparison); planned: the power in the board's note and in equibench"
    " plan",
}


def summary(rows: dict[str, list[Row]]) -> list[tuple[str, list[Row]]]:
    """Titles and tables (rows of strings and numbers) of the parts in `rows`."""
    return [(_title(part, own), _table(own)) for part, own in rows.items()]


def plot(rows: dict[str, list[Row]]) -> None:
    """There is nothing to draw."""


def _title(part: str, rows: list[Row]) -> str:
    counts = dict.fromkeys(f"{row['trials']:,} ({row['images']:,} images)" for row in rows)
    return f"{_TITLES[part]}\n{_TRIALS.format(', '.join(counts))}; claims hold within two standard errors"


def _table(rows: list[Row]) -> list[Row]:
    """Rows that differ only in their number of seeds, combined into one row."""
    named = ("models", "images", "seed effects", "difficulty", "planned")
    lines: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        lines.setdefault(tuple(row.get(key) for key in named), []).append(row)
    table = []
    for key, own in lines.items():
        line: Row = {
            name: f"{value:,}" if name == "images" else value
            for name, value in zip(named, key, strict=True)
            if value is not None
        }
        if "power" in own[0]:
            line["planned"] = "" if key[-1] is None else f"{100 * key[-1]:g}"
        for name in own[0]:
            if name not in (*named, "seeds", "trials", "ok"):
                line[name] = " / ".join(_cell(name, row[name]) for row in own)
        table.append({**line, "ok": "yes" if all(row["ok"] for row in own) else "NO"})
    return table


def _cell(name: str, value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if name == "difference" else f"{100 * value:.1f}"
