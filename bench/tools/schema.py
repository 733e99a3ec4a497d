"""Strict schemas: unknown keys, missing keys, wrong types and NaN are refused; the message names the field."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import tomllib
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ...registry import UserError, nearest

M = TypeVar("M", bound="Strict")

#: A name starts with a letter or a digit, so it cannot be an option, a hidden file or a formula.
NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}"
#: The largest accepted file in bytes: records have some kilobytes, suites less.
LARGEST_FILE = 4 << 20
#: The longest accepted suite in characters: enough for ten thousand models.
LARGEST_TOML = 1 << 18
#: A key of more than a hundred parts.
_DEEP_KEY = re.compile(r"^(?:[^=\n#.]*\.){100}", re.MULTILINE)
#: The longest text that is shown, because a model may raise a message of any length.
LONGEST_TEXT = 1000


def visible(text: str) -> str:
    """`text` with characters that control a terminal or an editor replaced by Python escapes.

    These are control characters (colours, cursor movements, line ends), characters that reverse the direction of
    reading, invisible ones and halves of surrogate pairs. Nothing else changes, so it can be applied twice.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"


#: Text from outside, made harmless for terminals when it is read. Characters that are special in HTML, Markdown, LaTeX
#: and CSV are escaped when these formats are written.
Text = Annotated[str, AfterValidator(visible)]
#: The same for messages, which may be of any length.
Message = Annotated[str, AfterValidator(visible), AfterValidator(_short)]


def _version(number: int) -> int:
    if number != 1:
        raise ValueError("this release reads files of version 1 only; a newer release may read this one")
    return number


#: The version of a file's schema.
Version = Annotated[int, AfterValidator(_version)]


def _zoned(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time needs its zone, as 2026-01-31T12:00:00+00:00")
    return text


#: Date and time, ISO 8601.
Time = Annotated[Text, AfterValidator(_zoned)]
#: Whole numbers that every reader of JSON and of a table represents exactly.
Count = Annotated[int, Field(ge=0, le=2**53)]
#: Measured quantities: finite, and small enough that sums of them are finite too.
Amount = Annotated[float, Field(ge=0, le=1e30)]
#: Pattern of short hashes; empty if there was nothing to hash.
Hash = Annotated[str, Field(pattern="^([0-9a-f]{16})?$")]


class Strict(BaseModel):
    """Base class of everything that is read from or written to a file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def canonical(self) -> str:
        """JSON that depends only on the content: sorted keys, no white space."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)

    def digest(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the JSON of all fields that are not at their default.

        If a later version adds a field whose default means the old behaviour, digests do not change.
        """
        content = self.model_dump(mode="json", exclude_defaults=True)
        return short_hash(json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False))


def short_hash(content: str | bytes | memoryview) -> str:
    """The first 16 hexadecimal digits of the SHA-256."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:16]


def parse(schema: type[M], values: Any, where: str) -> M:
    """`values` as an instance of `schema`. Raises UserError with the first wrong field, or the key nearest to an
    unknown one.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error, schema, where)) from error


def parse_json(schema: type[M], text: str, where: str) -> M:
    """A JSON document as an instance of `schema`. Raises UserError if it is not JSON, or a field is wrong."""
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        raise UserError(explain(error, schema, where)) from error


def explain(error: ValidationError, schema: type[BaseModel], where: str) -> str:
    """The first problem of a validation as one sentence."""
    if error.error_count() > 10_000:  # describing each would take gigabytes
        return f"{where}: {error.error_count():,} keys and values are wrong; this is another kind of file"
    # A misspelt key also makes the right key missing; the misspelt key is the better message.
    first = min(error.errors(include_url=False, include_context=False), key=lambda e: e["type"] != "extra_forbidden")
    # pydantic also names the type if a key may have several; it is no key of the file.
    name = ".".join(str(part) for part in first["loc"] if not re.match(r"constrained-|list\[", str(part)))
    if first["type"] == "extra_forbidden":
        keys = [f.alias or n for n, f in schema.model_fields.items() if n != "name"] if len(first["loc"]) == 1 else []
        return f"{where}: unknown key {name!r:.80}" + (f"; {nearest(name, keys)}" if keys else "")
    if first["type"] == "missing":
        return f"{where}: the key {name!r:.200} is missing"
    message = visible(first["msg"].removeprefix("Value error, "))
    if not name:
        return f"{where}: {message}"
    return f"{where}: {name!r:.200}: {message[0].lower() + message[1:]}, not {_shown(first['input'])}"


def _shown(value: Any) -> str:
    """The beginning of a value; Python refuses to print very large whole numbers."""
    if isinstance(value, int) and abs(value) >= 10**80:
        return "a number of more than 80 digits"
    try:
        return f"{value[:80]!r}" if isinstance(value, str) else f"{value!r:.80}"
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"


def read_text(path: Path, link: bool = True) -> str:
    """The text of a small file from anybody, without the byte-order mark of editors on Windows (UTF-8 BOM).

    Raises UserError if it cannot be read, is not a regular file, is too large, is not UTF-8, or is a symbolic link,
    which only `link` allows.
    """
    try:
        # Non-blocking, because opening a pipe or a device could hang.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if link else os.O_NOFOLLOW))
        with os.fdopen(handle, "rb") as file:
            facts = os.fstat(handle)
            if not stat.S_ISREG(facts.st_mode):
                raise UserError(f"{path}: this is not a regular file")
            if facts.st_size > LARGEST_FILE:
                raise UserError(f"{path}: {facts.st_size:,} bytes; at most {LARGEST_FILE:,} are allowed")
            return file.read(LARGEST_FILE + 1).decode("utf-8-sig")
    except OSError as error:
        why = f"cannot be read: {error.strerror or error}"
        if not link and path.is_symlink():
            why = "this is a symbolic link, which is not allowed; put the file itself there"
        raise UserError(f"{path}: {why}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read: this is not UTF-8, at byte {error.start:,}") from error
    except ValueError as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """A TOML document as a dictionary. Raises UserError with the line if it does not parse."""
    if len(text) > LARGEST_TOML:
        raise UserError(f"{where}: {len(text):,} characters; at most {LARGEST_TOML:,} are allowed")
    if _DEEP_KEY.search(text):  # the time of the parser grows with the square
        raise UserError(f"{where}: this is nested too deeply")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise UserError(f"{where}: this is nested too deeply") from error
    except ValueError as error:  # also whole numbers of thousands of digits, and impossible dates
        raise UserError(f"{where}: this is not TOML: {visible(str(error)):.200}") from error
