"""Sixteen processes that write 400 records between them while this one rebuilds the CSV again and again.

python -m tests.bench.faults.writers RESULTS
"""

import csv
import json
import os
import sys
from pathlib import Path

from equibench.bench.boards.rows import write_board
from equibench.bench.records.record import write_record

from .. import made

WRITERS, EACH = 16, 25
BOARD = made.spec().board


def write(root: Path, number: int) -> None:
    for seed in range(number * EACH, (number + 1) * EACH):
        write_record(root, made.record(50.0 + seed / 10, seed=seed))


def rows(path: Path) -> list[int]:
    """Seeds in a CSV as a stranger's program reads it."""
    with path.open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert all(None not in row and None not in row.values() for row in found), "a row is cut off"
    return [int(row["seed"]) for row in found]


def main(root: Path) -> dict[str, object]:
    write_record(root, made.record(50.0, seed=10**6))
    children = []
    for number in range(WRITERS):
        pid = os.fork()
        if pid == 0:
            write(root, number)
            os._exit(0)
        children.append(pid)
    seen, table = [], root / f"{BOARD}.runs.csv"
    waiting = set(children)
    failed = 0
    while waiting:
        for pid in list(waiting):
            done, status = os.waitpid(pid, os.WNOHANG)
            waiting -= {done}
            failed += bool(done) and status != 0
        write_board(root, BOARD)
        seen.append(len(rows(table)))
    write_board(root, BOARD)
    return {
        "failed": failed,
        "seen": seen,
        "seeds": sorted(rows(table)),
        "parts": [p.name for p in root.rglob("*.part")],
    }


if __name__ == "__main__":
    print("RESULT " + json.dumps(main(Path(sys.argv[1]))))
