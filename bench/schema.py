"""Strict schemas: unknown keys, missing keys, wrong types and NaN are refused, the field named."""

from __future__ import annotations

import hashlib
import json
import tomllib
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ..registry import UserError, nearest

M = TypeVar("M", bound="Strict")


class Strict(BaseModel):
    """Base of everything that is read from or written to a file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def canonical(self) -> str:
        """JSON that depends on the content alone: sorted keys, no white space."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)

    def digest(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the JSON of all fields that are not at their default.

        A field that a later version adds, with a default that means what was done before, leaves digests as they are.
        """
        content = self.model_dump(mode="json", exclude_defaults=True)
        return short_hash(json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False))


def short_hash(text: str) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of `text`."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse(schema: type[M], values: Any, where: str) -> M:
    """`values` as an instance of `schema`.

    Raises:
        UserError: the first field that is wrong, with the nearest valid key where a key is unknown.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error, schema, where)) from error


def explain(error: ValidationError, schema: type[BaseModel], where: str) -> str:
    """The first problem of a validation as one sentence."""
    # A misspelt key also leaves the right one missing: the misspelling says more.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        keys = [f.alias or n for n, f in schema.model_fields.items() if n != "name"] if len(first["loc"]) == 1 else []
        return f"{where}: unknown key {name!r}" + (f"; {nearest(name, keys)}" if keys else "")
    if first["type"] == "missing":
        return f"{where}: the key {name!r} is missing"
    message = first["msg"].removeprefix("Value error, ")
    if not name:
        return f"{where}: {message}"
    return f"{where}: {name!r}: {message[0].lower() + message[1:]}, not {first['input']!r:.80}"


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """A TOML document as a dictionary.

    Raises:
        UserError: it does not parse; with the line.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{where}: this is not TOML: {error}") from error
