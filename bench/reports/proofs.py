"""Verification of claims: the numbers are computed again, and shown as tables and as a plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ...registry import UserError, nearest
from ..tools.files import ensure_writable, write_atomically
from ..tools.text import plain_table

#: The proofs: a module with ``PARTS`` and ``verify``, and one with ``summary`` and ``plot``; both imported on demand.
PROOFS = {
    "pdo-econv": ("equibench.models.pdo.proof.verify", "equibench.models.pdo.proof.report"),
    "statistics": ("equibench.bench.reports.simulation",) * 2,
}
#: Proofs with a quick version.
QUICK = ("statistics",)


@dataclass(frozen=True)
class Proof:
    """The result of a proof: rows by part (``ok`` says whether a claim holds), titles and tables, the plot's file."""

    rows: dict[str, list[dict[str, Any]]]
    tables: list[tuple[str, str]]
    figure: Path | None

    @property
    def failed(self) -> int:
        """Number of rows whose claim does not hold."""
        return sum(not row["ok"] for rows in self.rows.values() for row in rows)

    @property
    def count(self) -> int:
        """Number of all rows."""
        return sum(map(len, self.rows.values()))


def prove(
    name: str, out: str | Path, parts: Sequence[str] = (), on_part: Callable[[str], None] = lambda _: None,
    quick: bool = False,
) -> Proof:  # fmt: skip
    """Compute a proof on one thread and write its plot to ``<out>/verify-<name>.png``.

    Args:
        name: one of `PROOFS`.
        parts: the requested parts; empty means all.
        on_part: called with the name of each part before it is computed.
        quick: take only seconds and prove less; only for `QUICK`.

    Raises:
        UserError: there is no such proof or part, it has no quick version, or the plot cannot be written.
    """
    if name not in PROOFS:
        raise UserError(f"there is no proof {name!r}; {nearest(name, PROOFS)}")
    if quick and name not in QUICK:
        raise UserError(f"--quick is only for {', '.join(QUICK)}; {name} has no quick version")
    import torch

    module, report = (import_module(m) for m in PROOFS[name])
    for part in parts:
        if part not in module.PARTS:
            raise UserError(f"{name} has no part {part!r}; {nearest(part, module.PARTS)}")
    path = Path(out) / f"verify-{name}.png"
    ensure_writable(path.parent, "out")  # before minutes of work
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        wanted = [p for p in module.PARTS if p in parts or not parts]
        rows = module.verify(wanted, on_part, quick=True) if quick else module.verify(wanted, on_part)
    finally:
        torch.set_num_threads(threads)
    image = report.plot(rows)
    if image is not None:
        write_atomically(path, image)
    return Proof(rows, [(title, plain_table(lines)) for title, lines in report.summary(rows)], path if image else None)
