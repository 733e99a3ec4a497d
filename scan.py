"""Reads the registrations of a file from its syntax tree, without running it. Imports the file when it is needed."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

from .opened_files import watching

_FIELD = re.compile(r"\{(\w+)\}")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]|\{[a-z_]+\}){0,99}")
_GROUP = re.compile(r"none|[CD][1-9][0-9]{0,3}")
_EVALUATION = re.compile(r"(random:[1-9][0-9]{0,2})?")
_SIZES = re.compile(r"any|even|([2-9]|[1-9][0-9])k|[1-9][0-9]{0,4}\+")
_SHAPE = re.compile(r"([0-9]{1,6})x([0-9]{1,6})x([0-9]{1,6})->([0-9]{1,6})")
#: Names that programs read as a missing value in CSV files.
_MISSING = ("na", "nan", "null", "none")
#: The longest name of a model, wrappers included, or of a data set.
LONGEST_NAME = 100
#: Beginning of the origin of an entry from an installed package; the name of its entry point follows.
PLUGIN = "plug-in "
#: What a template field with a given annotation may look like in a name. A number has only one spelling, so that a
#: model has only one name. It has few digits, so that it is exact.
_PATTERNS = {
    "int": r"(?:0|[1-9][0-9]{0,8})",
    "str": r"[a-z][a-z0-9_]*",
    "float": r"(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,8})?",
}
_CASTS: dict[str, Callable[[str], Any]] = {"int": int, "str": str, "float": float}


class UserError(Exception):
    """Something that the user gave is wrong; the message is one clear sentence, the exit code is 2."""


def nearest(name: str, known: Iterable[str], listing: str = "", kinds: Mapping[str, str] | None = None) -> str:
    """A clause that names the closest known names, for the end of an error message.

    Args:
        listing: the command that shows all known names, if there is one.
        kinds: the kind of each name, if there are several.
    """
    known, name = list(known), name[:LONGEST_NAME]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    close = close or sorted(k for k in known if name.lower() in k.lower())[:3]
    if close:
        return "did you mean " + " or ".join(f"{c!r} ({kinds[c]})" if kinds else repr(c) for c in close) + "?"
    if len(known) > 12:
        return "no similar name" + (f"; see: {listing}" if listing else "")
    return "known: " + ", ".join(sorted(known)) if known else "there are none"


@dataclass(frozen=True)
class Entry:
    """One registration, as read from the syntax tree of its file.

    `arguments` are the arguments of a member of a family. `types` are the annotations of the function's parameters.
    `doc` is the first paragraph of its docstring.
    """

    kind: str
    name: str
    path: Path
    line: int
    function: str
    module: str
    fields: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    doc: str = ""
    origin: str = "equibench"

    @property
    def is_template(self) -> bool:
        return bool(_FIELD.search(self.name))

    @property
    def is_plugin(self) -> bool:
        return self.origin.startswith(PLUGIN)

    @property
    def where(self) -> str:
        return f"{self.path}:{self.line}"

    @property
    def missing(self) -> str:
        """A sentence that says which package must be installed first; empty if it is installed."""
        package = self.fields.get("package")
        if not package or importlib.util.find_spec(package):
            return ""
        extra = f"start equibench with uv run --extra {package}, or " if self.origin == "equibench" else ""
        return f"needs the package {package}, which is not installed: {extra}pip install {package}"

    def load(self) -> Callable[..., Any]:
        """Import the file and return the registered function."""
        found: Callable[..., Any] = getattr(_import(self), self.function)
        return found


#: Modification time of a file in nanoseconds, and its size in bytes.
Stamp = tuple[int, int]
#: The stamp of a missing file.
NO_FILE: Stamp = (0, 0)


def stamp(path: Path) -> Stamp:
    """The stamp of a file. If the file changes, its stamp changes; the content is not read."""
    try:
        facts = path.stat()
    except OSError:
        return NO_FILE
    return facts.st_mtime_ns, facts.st_size


def scan_file(path: Path, kind: str, module: str, origin: str = "equibench") -> Iterable[Entry]:
    """Registrations of one kind in a file, read from its syntax tree.

    Raises:
        UserError: the file does not parse, or an argument of the decorator is wrong; with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Python also accepts files with a byte-order mark
        if f"register_{kind}" not in text:
            return
        tree = ast.parse(text, filename=str(path))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as error:  # too deep for Python's parser, …
        raise UserError(
            f"{path}: this is not a Python file that can be read: {str(error) or type(error).__name__}"
        ) from error
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for call in node.decorator_list:
            if isinstance(call, ast.Call) and _decorator_name(call) == f"register_{kind}":
                yield from _entries_of(call, node, kind, path, module, origin)


def entries_of_plugin(point: EntryPoint, kind: str, kinds: Iterable[str]) -> list[Entry]:
    """Registrations of one kind behind ``name = module`` (all of the module) or ``name = module:function``.

    Raises:
        ImportError: there is no such module, or nothing of these kinds in it.
    """
    spec = importlib.util.find_spec(point.module)
    if spec is None or spec.origin is None:
        raise ImportError(f"there is no module {point.module}")
    path, origin = Path(spec.origin), f"{PLUGIN}{point.name}"
    found = [e for each in kinds for e in scan_file(path, each, point.module, origin)]
    wanted = [e for e in found if point.attr in (None, "", e.function)]
    if not wanted:
        raise ImportError(f"{point.value} registers no {' and no '.join(kinds)}")
    return [e for e in wanted if e.kind == kind]


def _decorator_name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def _entries_of(
    call: ast.Call, node: ast.FunctionDef, kind: str, path: Path, module: str, origin: str
) -> Iterable[Entry]:
    where = f"{path}:{call.lineno}"
    values = _literals(call, where)
    name = values.pop("name", None)
    _check_fields(kind, name, values, where)
    types = {a.arg: ast.unparse(a.annotation) for a in node.args.kwonlyargs if a.annotation}
    doc = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
    doc = "".join(c if c.isprintable() else "?" for c in doc)
    members = values.pop("members", None) or {}
    entry = Entry(kind, name, path, call.lineno, node.name, module, values, {}, types, doc, origin)
    if len(set(_FIELD.findall(name))) != len(_FIELD.findall(name)):
        raise UserError(f"{where}: {name!r} has a field twice")
    for wanted in _FIELD.findall(name):
        if types.get(wanted) not in _PATTERNS:
            raise UserError(
                f"{where}: {name!r} needs a keyword-only parameter {wanted!r} of {node.name}(), annotated int, float"
                " or str"
            )
    yield entry
    if not isinstance(members, dict) or not all(isinstance(own, dict) for own in members.values()):
        raise UserError(f"{where}: members={members!r:.80} must be a dictionary of dictionaries")
    for member, own in members.items():
        own = dict(own)
        arguments = own.pop("args", None) or template_arguments(entry, member) or {}
        fields = {**values, **({"params": None} if kind == "model" else {}), **own}
        _check_fields(kind, member, fields, where)
        yield replace(entry, name=member, fields=fields, arguments=arguments)


def _literals(call: ast.Call, where: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    pairs = [("name", a) for a in call.args[:1]] + [(k.arg or "**", k.value) for k in call.keywords]
    if len(call.args) > 1:
        raise UserError(f"{where}: only the name is positional; give the rest by keyword")
    for key, node in pairs:
        try:
            values[key] = ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
            text = (
                "nested too deeply"
                if isinstance(error, RecursionError | MemoryError)
                else f"{ast.unparse(node)[:80]!r}"
            )
            raise UserError(
                f"{where}: {key!r} must be a literal, because listings read it without importing the file; it is {text}"
            ) from error
    return values


_ALLOWED = {
    "model": {"group", "invariant", "source", "family", "params", "members", "status", "note", "evaluation", "sizes"},
    "wrapper": {"source", "invariant", "treatment", "note"},
    "dataset": {
        "shape",
        "classes",
        "sizes",
        "source",
        "digest",
        "rotation",
        "task",
        "licence",
        "citation",
        "note",
        "package",
        "members",
    },
}
_REQUIRED = {
    "model": ("group", "invariant", "source"),
    "wrapper": ("source",),
    "dataset": ("shape", "classes", "sizes", "source"),
}
STATUSES = ("published", "inferred", "unverified", "ours")


def _counts(value: Any, count: int, least: int) -> bool:
    return isinstance(value, tuple | list) and len(value) == count and all(type(v) is int and v >= least for v in value)


#: The check of each field's value, and a description of valid values. A field that models and data sets define
#: differently has its kind in the key. All other fields are text (the empty key).
_VALID: dict[str, tuple[Callable[[Any], bool], str]] = {
    "": (lambda v: isinstance(v, str), "text"),
    "params": (
        lambda v: isinstance(v, dict) and all(isinstance(k, str) and type(n) is int for k, n in v.items()),
        "a dictionary from inputs to whole numbers",
    ),
    "members": (lambda v: isinstance(v, dict), "a dictionary"),
    "shape": (
        lambda v: _counts(v, 3, 1) and v[1] == v[2],
        "three whole numbers above zero: channels, height, width, where height and width are equal (images are square)",
    ),
    "model sizes": (
        lambda v: (
            bool(_SIZES.fullmatch(v))
            if isinstance(v, str)
            else isinstance(v, list) and bool(v) and _counts(v, len(v), 1)
        ),
        "'any', 'even', multiples such as '4k', a minimum such as '28+', or a list of sizes in pixels such as [28, 32]",
    ),
    "dataset sizes": (
        lambda v: _counts(v, 3, 0) and v[0] > 0 and v[2] > 0,
        "three whole numbers: images in train, validation, test; only validation may have none",
    ),
    "classes": (lambda v: type(v) is int and v > 1, "a whole number, at least 2"),
    "evaluation": (
        lambda v: isinstance(v, str) and bool(_EVALUATION.fullmatch(v)),
        "'random:' and the number of passes that are averaged, from 1 to 999, such as 'random:16'",
    ),
    "rotation": (lambda v: isinstance(v, bool), "True or False"),
    "package": (lambda v: isinstance(v, str) and v.isidentifier(), "the name under which a package is imported"),
}


def _check_fields(kind: str, name: Any, values: dict[str, Any], where: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(f"{where}: {name!r:.80} is not a valid name; use letters, digits, '.', '-', '_' and {{fields}}")
    if kind == "dataset" and _FIELD.search(name):
        raise UserError(f"{where}: the name of a data set has no fields; list its versions as members, not {name!r}")
    if name.lower() in _MISSING:
        raise UserError(f"{where}: tables use {name!r} for a missing value; choose another name")
    for key in values:
        if key not in _ALLOWED[kind]:
            raise UserError(f"{where}: register_{kind} has no argument {key!r}; {nearest(key, _ALLOWED[kind])}")
    for key in _REQUIRED[kind]:
        if key not in values:
            raise UserError(f"{where}: {name!r} has no {key!r}, which is required")
    for key, value in values.items():
        is_valid, description = _VALID.get(f"{kind} {key}") or _VALID.get(key, _VALID[""])
        if value is not None and not is_valid(value):
            raise UserError(f"{where}: {key}={value!r:.80} must be {description}")
        # These texts are printed without running the file: they must not control the terminal.
        if isinstance(value, str) and not value.isprintable():
            raise UserError(f"{where}: {key}={value[:60]!r} has unprintable characters; a field is one line of text")
    for key in ("group", "invariant"):
        if values.get(key) and not _GROUP.fullmatch(str(values[key])):
            raise UserError(
                f"{where}: {key}={values[key]!r} is not a group; use 'none', 'C<N>' or 'D<N>', such as 'C8'"
            )
    if values.get("status", "ours") not in STATUSES:
        raise UserError(f"{where}: status={values['status']!r} is not one of {', '.join(STATUSES)}")
    for shape in values.get("params") or {}:
        parse_shape(shape, where)


def allows(sizes: str | Sequence[int], size: int) -> bool:
    """Whether the registered `sizes` of a model include images of `size` pixels."""
    if not isinstance(sizes, str):
        return size in sizes
    if sizes.endswith("+"):
        return size >= int(sizes[:-1])
    return size % ({"any": 1, "even": 2}.get(sizes) or int(sizes.removesuffix("k"))) == 0


def parse_shape(text: str, where: str) -> tuple[int, int, int]:
    """``"3x32x32->10"`` as (channels, size, classes).

    Raises:
        UserError: the text has another form, or the image is not square.
    """
    found = _SHAPE.fullmatch(text)
    if not found or found[2] != found[3]:
        raise UserError(
            f"{where}: {text!r} is not a valid input; write channels x size x size -> classes, such as '1x28x28->10'"
        )
    return int(found[1]), int(found[2]), int(found[4])


def template_arguments(entry: Entry, name: str) -> dict[str, Any] | None:
    """Arguments with which the template of `entry` gives `name`; None if it cannot."""
    if name.lower() in _MISSING:
        return None
    if not entry.is_template:
        return None
    pattern, last = "", 0
    for part in _FIELD.finditer(entry.name):
        pattern += re.escape(entry.name[last : part.start()])
        pattern += f"(?P<{part[1]}>{_PATTERNS[entry.types[part[1]]]})"
        last = part.end()
    found = re.fullmatch(pattern + re.escape(entry.name[last:]), name)
    return found and {k: _CASTS[entry.types[k]](v) for k, v in found.groupdict().items()}


def include_name(path: Path) -> str:
    return f"equibench_include_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"


def _import(entry: Entry) -> ModuleType:
    if entry.module in sys.modules:
        return sys.modules[entry.module]
    with watching(entry.module):
        return _first_import(entry)


def _first_import(entry: Entry) -> ModuleType:
    if not entry.module.startswith("equibench_include_"):
        return importlib.import_module(entry.module)
    spec = importlib.util.spec_from_file_location(entry.module, entry.path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[entry.module] = module
    # The file can import its neighbours by plain names; installed packages come first.
    if str(entry.path.parent) not in sys.path:
        sys.path.append(str(entry.path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[entry.module]
        raise
    return module
