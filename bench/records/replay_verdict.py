"""The verdict of a replay, as a separate record.

It is the file ``runs/<board>/replays/<spec hash>.<attempt>.<content hash>.json``, where spec and attempt are those of
the replayed run. It is as immutable as a record; the new attempt is an ordinary record of the board.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ...registry import UserError
from ..tools.schema import Hash, Message, Strict, Time, Version, short_hash
from .record import RefusedFile, check_name, read_document, read_folder, write_document
from .sidecar import Name
from .store import replays_folder

_Run = Annotated[str, Field(pattern=r"^[0-9a-f]{16}\.[0-9]{1,7}$")]
_Points = Annotated[float, Field(ge=-1e6, le=1e6)]


class ReplayVerdict(Strict):
    """The verdict of a replay.

    Attributes:
        run: id of the run that was replayed.
        again: id of the new attempt; empty if none was recorded.
        agrees: whether the new attempt confirms the recorded one.
        rule: ``bit-exact`` if the bits are the same, or must be; ``interval`` if they may differ and do;
            ``failed`` if the new attempt has no result.
        why: one sentence.
        differences: differences of the surroundings that may change bits.
        recorded, replayed: test accuracies in %.
        low, high: the prediction interval in %, if that was the rule.
        judged: date and time with their zone, ISO 8601.
        host: identifier of the replay's machine, see `provenance.host_id`; empty if there is none.
    """

    schema_version: Version = 1
    kind: Literal["replay"] = "replay"
    board: Name
    run: _Run
    again: Annotated[str, Field(pattern=r"^([0-9a-f]{16}\.[0-9]{1,7})?$")] = ""
    agrees: bool
    rule: Literal["bit-exact", "interval", "failed"]
    why: Message
    differences: list[Message] = Field(max_length=1000)
    recorded: float = Field(ge=0, le=100)
    replayed: float | None = Field(default=None, ge=0, le=100)
    low: _Points | None = None
    high: _Points | None = None
    judged: Time
    host: Hash = ""

    @model_validator(mode="after")
    def _is_one_run(self) -> ReplayVerdict:
        if self.again and self.again.split(".")[0] != self.run.split(".")[0]:
            raise ValueError("'again' is an attempt at another run")
        return self

    @property
    def file_name(self) -> str:
        return f"{self.run}.{short_hash(self.canonical())}.json"


def write_verdict(root: Path, verdict: ReplayVerdict) -> Path:
    """Write a verdict under its name. Raises FileExistsError: an existing file is never changed."""
    return write_document(replays_folder(root, verdict.board) / verdict.file_name, verdict)


def read_verdict(path: Path) -> ReplayVerdict:
    """Read a verdict. Raises UserError if its schema, a hash in its name, or its board is wrong."""
    text, verdict = read_document(path, ReplayVerdict)
    check_name(path, text, verdict.run, verdict)
    if verdict.board != path.parents[1].name:
        raise UserError(f"{path}: the verdict belongs to board {verdict.board!r}")
    return verdict


def read_verdicts(root: Path, board: str) -> tuple[list[ReplayVerdict], list[RefusedFile]]:
    """All verdicts on replays of a board, the oldest first, and the refused files."""
    verdicts, refused = read_folder(replays_folder, root, board, read_verdict)
    return sorted(verdicts, key=lambda v: (v.judged, v.file_name)), refused
