"""Reference of the keys of a suite file, made from its schema: as a table, and as a JSON Schema for editors."""

from __future__ import annotations

import json
from typing import Any

from .suite import AXES, Suite

#: The name of a suite is the name of its file.
_NOT_IN_FILES = "name"


def suite_schema() -> dict[str, Any]:
    """The JSON Schema of a suite file (also for a family of boards), for editors that complete and check TOML."""
    schema = Suite.model_json_schema(by_alias=True)
    properties = {key: _short(value) for key, value in schema["properties"].items() if key != _NOT_IN_FILES}
    for key in AXES:
        single = {k: v for k, v in properties[key].items() if k not in ("description", "examples")}
        kinds = [kind for kind in single.pop("anyOf", [single]) if kind.get("type") != "null"]
        words = {k: v for k, v in properties[key].items() if k in ("description", "examples")}
        properties[key] = {"anyOf": [*kinds, {"type": "array", "items": {"anyOf": kinds}, "minItems": 1}], **words}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "equibench suite",
        "description": "A comparison: models x data set x budget x seeds.",
        "type": "object",
        "additionalProperties": False,
        "required": [key for key in schema["required"] if key != _NOT_IN_FILES],
        "properties": properties,
    }


def _short(value: dict[str, Any]) -> dict[str, Any]:
    """A property without fields that do not help an editor."""
    return {k: v for k, v in value.items() if k != "title" and (k, v) != ("default", None)}


def schema_text() -> str:
    """The text of the JSON Schema file."""
    return json.dumps(suite_schema(), indent=1, ensure_ascii=False) + "\n"


def suite_keys() -> list[dict[str, str]]:
    """One row per key, with the texts `key`, `type`, `default`, `example` and `meaning`.

    Examples and defaults are written as TOML.
    """
    schema = suite_schema()
    defaults = dict.fromkeys(schema["required"], "required")
    return [
        {
            "key": key,
            "type": type_text(value),
            "default": defaults.get(key) or (_toml(value["default"]) if "default" in value else "none"),
            "example": _toml(value["examples"][0]),
            "meaning": value["description"],
        }
        for key, value in schema["properties"].items()
    ]


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


_WORDS = {"string": "text", "integer": "whole number", "boolean": "true or false", "null": ""}


def type_text(value: dict[str, Any]) -> str:
    """The type of a property in words, such as ``whole number, or list of whole numbers``."""
    if "anyOf" in value:
        return ", or ".join(filter(None, map(type_text, value["anyOf"])))
    if "enum" in value:
        return " or ".join(map(_toml, value["enum"]))
    if value["type"] == "array":
        return f"list of {type_text(value['items'])}s"
    return _WORDS[value["type"]]


def markdown_table() -> str:
    """The reference as a Markdown table."""
    from tabulate import tabulate

    rows = [row | {key: _code(row[key]) for key in ("key", "default", "example")} for row in suite_keys()]
    return str(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))


def _code(text: str) -> str:
    return text if text in ("required", "none") else "empty" if text == '""' else f"`{text}`"
