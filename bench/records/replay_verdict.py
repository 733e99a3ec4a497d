"""The verdict of a replay, as a separate record.

It is the file ``runs/<board>/replays/<spec hash>.<attempt>.<content hash>.json``, where spec and attempt are those of
the replayed run. It is as immutable as a record; the new attempt is an ordinary record of the board.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ...registry import UserError
from ..tools.files import write_exclusively
from ..tools.schema import Hash, Message, Strict, Version, parse_json, read_text, short_hash
from .record import RefusedFile, check_name
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
    judged: str
    host: Hash = ""

    @field_validator("judged")
    @classmethod
    def _is_a_time(cls, text: str) -> str:
        if datetime.fromisoformat(text).tzinfo is None:
            raise ValueError("a time needs its zone, such as 2026-01-31T12:00:00+00:00")
        return text

    @model_validator(mode="after")
    def _is_one_run(self) -> ReplayVerdict:
        if self.again and self.again.split(".")[0] != self.run.split(".")[0]:
            raise ValueError("'again' is an attempt at another run")
        return self

    @property
    def file_name(self) -> str:
        return f"{self.run}.{short_hash(self.canonical())}.json"


def write_verdict(root: Path, verdict: ReplayVerdict) -> Path:
    """Write a verdict under its name; an existing file is never changed.

    Raises:
        FileExistsError: the same verdict exists already.
    """
    path = replays_folder(root, verdict.board) / verdict.file_name
    write_exclusively(path, verdict.canonical().encode() + b"\n")
    return path


def read_verdict(path: Path) -> ReplayVerdict:
    """Read a verdict and check its schema and the hash in its name.

    Raises:
        UserError: the file is wrong; names the file and the field.
    """
    text = read_text(path, link=False)
    verdict = parse_json(ReplayVerdict, text, str(path))
    check_name(path, text, verdict.run, verdict)
    if verdict.board != path.parents[1].name:
        raise UserError(f"{path}: the verdict belongs to board {verdict.board!r}")
    return verdict


def read_verdicts(root: Path, board: str, run: str = "") -> tuple[list[ReplayVerdict], list[RefusedFile]]:
    """All verdicts on replays of a board (or of one of its runs), the oldest first, and the refused files."""
    verdicts, refused = [], []
    for path in sorted(replays_folder(root, board).glob(f"{run}*.json")):
        try:
            verdicts.append(read_verdict(path))
        except UserError as error:
            refused.append(RefusedFile(path, str(error)))
    return sorted(verdicts, key=lambda v: (v.judged, v.file_name)), refused
