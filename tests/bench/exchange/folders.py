"""Results folders as several people would have them, made of made-up records with outcomes."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from equibench.bench.records.outcomes import write_outcomes
from equibench.bench.records.record import FINAL, RunRecord, write_record

from .. import made

IMAGES, CLASSES = 1500, 10
LABELS = np.arange(IMAGES) % CLASSES


def whole(root: Path, wrong: int = 150, hardware: dict[str, str] | None = None, **changes: Any) -> RunRecord:
    """Write a run that has so many of its 1,500 images wrong, with its outcomes; returns its record."""
    record = made.record(100 * (IMAGES - wrong) / IMAGES, **changes)
    weights = hashlib.sha256(f"{wrong} {changes}".encode()).hexdigest()
    facts = {"hardware": hardware or {"device": "cpu", "cpu": "Some processor"}, "versions": {"torch": "2.12.1"}}
    provenance = record.provenance.model_copy(update=facts)
    if record.status in FINAL:
        predicted = LABELS.copy()
        start = 7 * changes.get("seed", 0)
        predicted[start : start + wrong] = (predicted[start : start + wrong] + 1) % CLASSES
        digest = write_outcomes(root, record.spec.board, record.run_id, predicted, LABELS, CLASSES)
        results = record.results.model_copy(update={"outcomes_sha256": digest, "weights_sha256": weights})
        record = record.model_copy(update={"results": results})
    record = record.model_copy(update={"provenance": provenance})
    write_record(root, record)
    return record


def tree(root: Path) -> dict[str, bytes]:
    """All files below a folder with what they hold; locks left out."""
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file() and ".locks" not in p.parts
    }
