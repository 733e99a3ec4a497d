"""The registry of models, wrappers and data sets.

Registering is one decorator in one file. What the decorator is given are literals, so that a listing reads
them from the syntax tree: nothing is imported, torch least of all, before a model is built.

A name is looked up as: exact name, member of a family, template (exactly one may match), each followed by
any number of ``+wrapper`` suffixes that are applied from left to right.
"""

from __future__ import annotations

import ast
import difflib
import fnmatch
import hashlib
import importlib
import importlib.metadata
import importlib.util
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_ROOT = Path(__file__).resolve().parent
_FIELD = re.compile(r"\{(\w+)\}")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]|\{[a-z_]+\}){0,99}")
_GROUP = re.compile(r"none|[CD][1-9][0-9]{0,3}")
_SHAPE = re.compile(r"([0-9]{1,6})x([0-9]{1,6})x([0-9]{1,6})->([0-9]{1,6})")
#: The longest name of a model, wrappers included, or of a data set.
_LONGEST = 100
#: How the origin of an entry begins that an installed package registers; its entry point's name follows.
_PLUGIN = "plug-in "
#: What a template field of a given annotation may look like in a name. A number has one spelling, so that one model
#: has one name, and few digits, so that it is one.
_PATTERNS = {
    "int": r"(?:0|[1-9][0-9]{0,8})",
    "str": r"[a-z][a-z0-9]*",
    "float": r"(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,8})?",
}
_CASTS: dict[str, Callable[[str], Any]] = {"int": int, "str": str, "float": float}


class UserError(Exception):
    """Something that the user gave is wrong; the message is one clear sentence, the exit code is 2."""


class PluginWarning(UserWarning):
    """An installed plug-in is broken and was left out."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that names what is closest to `name` among `known`, for the end of an error message."""
    known, name = list(known), name[:_LONGEST]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    close = close or sorted(k for k in known if name.lower() in k.lower())[:3]
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    if len(known) > 12:
        return f"none of the {len(known)} known names is close; equibench list shows them"
    return "known: " + ", ".join(sorted(known)) if known else "nothing is registered"


def register_model(
    name: str,
    *,
    group: str,
    invariant: str,
    source: str,
    family: str = "other",
    params: dict[str, int] | None = None,
    members: dict[str, dict[str, Any]] | None = None,
    status: str = "ours",
    note: str = "",
) -> Callable[[F], F]:
    """Register a function that builds a model. All arguments are literals.

    The function is called as ``f(in_channels, num_classes, image_size, **arguments)`` and returns an
    ``nn.Module`` that maps normalised images (batch, channels, size, size) to logits (batch, classes).

    Args:
        name: unique name; ``{field}`` makes a family, its fields are keyword arguments of the function,
            annotated ``int``, ``float`` or ``str``.
        group: group of its layers: ``"none"``, ``"C<N>"`` (rotations) or ``"D<N>"`` (and reflections).
        invariant: group under which its *logits* are exactly invariant at the declared image sizes.
        source: where the architecture is published (``arXiv:…``, a DOI or a URL).
        family: architecture family; it gives the colour in plots.
        params: declared inputs and their trainable parameters, ``{"1x28x28->10": 24_680}`` (channels,
            size, size, classes); a test compares them with what is built.
        members: published members of a family, each a dictionary with ``args`` (arguments of the
            function) and any of the fields above that differ.
        status: ``"published"`` (exact by code or paper), ``"inferred"``, ``"unverified"`` or ``"ours"``.
        note: one sentence on what a reader must know.
    """
    return _mark(name)


def register_wrapper(
    name: str, *, source: str, invariant: str = "", treatment: str = "", note: str = ""
) -> Callable[[F], F]:
    """Register a function ``f(model, **arguments) -> nn.Module``, used as the suffix ``model+name``.

    Args:
        name: as for `register_model`.
        source: where the construction is published.
        invariant: group under which the wrapped logits are exactly invariant; empty if as before.
        treatment: augmentation that the training of this model alone gets on top of its board's; boards show it.
        note: one sentence on what a reader must know.
    """
    return _mark(name)


def register_dataset(
    name: str,
    *,
    shape: tuple[int, int, int],
    classes: int,
    sizes: tuple[int, int, int],
    source: str,
    digest: str = "",
    rotation: bool = False,
    note: str = "",
) -> Callable[[F], F]:
    """Register a function ``f(root: Path) -> ImageData`` that returns a data set. Arguments are literals.

    Args:
        name: unique name.
        shape: channels, height, width.
        classes: number of classes.
        sizes: images in train, validation, test.
        source: where the images come from.
        digest: SHA-256 of the arrays (`ImageData.digest`), checked whenever they are made or read.
        rotation: whether a label survives any rotation of its image.
        note: one sentence on what a reader must know.
    """
    return _mark(name)


def _mark(name: str) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        names = getattr(function, "equibench_names", ())
        function.equibench_names = (*names, name)  # type: ignore[attr-defined]
        return function

    return decorate


@dataclass(frozen=True)
class Entry:
    """One registration, as read from the syntax tree of its file.

    `arguments` are those of a member of a family; `types` are the annotations of the function's
    parameters; `doc` is the first paragraph of its docstring.
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
        return self.origin.startswith(_PLUGIN)

    @property
    def where(self) -> str:
        return f"{self.path}:{self.line}"

    def load(self) -> Callable[..., Any]:
        """Import the file and return the registered function."""
        return getattr(_import(self), self.function)


@dataclass(frozen=True)
class Resolved:
    """What a name stands for: an entry with arguments, and the wrappers around it, innermost first."""

    name: str
    entry: Entry
    arguments: dict[str, Any]
    wrappers: tuple[Resolved, ...] = ()

    def get(self, key: str, default: Any = "") -> Any:
        """A field of the registration (``group``, ``source``, …), wrappers included."""
        value = self.entry.fields.get(key, default)
        if key == "invariant":
            for wrapper in self.wrappers:
                value = wrapper.entry.fields.get("invariant") or value
        return value

    @property
    def treatments(self) -> list[str]:
        """Augmentations that the training of this model gets on top of its board's, in their order."""
        own = (wrapper.entry.fields.get("treatment", "") for wrapper in self.wrappers)
        return [treatment for treatment in own if treatment]

    @property
    def files(self) -> list[Path]:
        return [self.entry.path, *(w.entry.path for w in self.wrappers)]


class Registry:
    """All registrations of one kind, found without importing them.

    Args:
        kind: ``"model"``, ``"wrapper"`` or ``"dataset"``; the decorator is ``register_<kind>``.
        package: sub-package of equibench that holds the built-in files.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._included: list[Path] = []
        self._entries: dict[str, Entry] | None = None

    def include(self, path: str | Path) -> None:
        """Add a file outside the package.

        Raises:
            UserError: the file does not exist or does not parse.
        """
        path = Path(path).resolve()
        if not path.is_file():
            raise UserError(f"--include {path}: there is no such file")
        if path not in self._included:
            self._included.append(path)
            self._entries = None

    def entries(self) -> dict[str, Entry]:
        """Every registration by name, published members of families included.

        Raises:
            UserError: two registrations of ours or of included files share a name, or an argument is not a literal.
        """
        if self._entries is None:
            found: dict[str, Entry] = {}
            for entry in self._scan():
                self._add(found, entry)
            self._add_plugins(found)
            self._entries = found
        return self._entries

    def _add(self, found: dict[str, Entry], entry: Entry) -> None:
        other = found.get(entry.name)
        if other is None and entry.origin != "equibench":
            # A stranger's name must not change what a family of ours spells: its records would be other runs.
            other = next((e for e in found.values() if e.origin == "equibench" and _fit(e, entry.name)), None)
        if other is not None:
            raise UserError(
                f"{entry.where}: the {self.kind} name {entry.name!r} is already taken by {other.where};"
                " names must be unique"
            )
        found[entry.name] = entry

    def match(self, patterns: Iterable[str] = ()) -> list[Entry]:
        """Entries whose names match any of the shell patterns (all without), in natural order."""
        patterns = list(patterns) or ["*"]
        names = [n for n in self.entries() if any(fnmatch.fnmatchcase(n, p) for p in patterns)]
        return [self.entries()[n] for n in sorted(names, key=_natural)]

    def find(self, name: str) -> Resolved:
        """What `name` stands for, wrappers included.

        Raises:
            UserError: the name is unknown (the nearest are named) or more than one template fits.
        """
        if len(name) > _LONGEST:
            raise UserError(f"{self.kind} {name[:40]!r}…: a name has at most {_LONGEST} characters, not {len(name):,}")
        base, *suffixes = name.split("+")
        resolved = self._find_one(base)
        if suffixes and self.kind != "model":
            raise UserError(f"{self.kind} {name!r}: wrappers (+…) apply to models only")
        return replace(resolved, name=name, wrappers=tuple(WRAPPERS._find_one(s) for s in suffixes))

    def _find_one(self, name: str) -> Resolved:
        entries = self.entries()
        exact = entries.get(name)
        if exact is not None and not exact.is_template:
            return Resolved(name, exact, dict(exact.arguments))
        fits = [(e, args) for e in entries.values() if (args := _fit(e, name)) is not None]
        # What is installed beside us never changes what a name of ours means.
        fits = [f for f in fits if not f[0].is_plugin] or fits
        if len(fits) == 1:
            entry, arguments = fits[0]
            # Declared counts belong to the published members, not to whatever else the template can build.
            return Resolved(name, entry, arguments)
        if fits:
            raise UserError(
                f"{self.kind} {name!r} fits more than one family: " + ", ".join(e.name for e, _ in fits)
            )
        kind = "data set" if self.kind == "dataset" else self.kind
        raise UserError(f"there is no {kind} {name!r}; {nearest(name, entries)}")

    def _scan(self) -> Iterable[Entry]:
        for path in sorted((_ROOT / self.package).rglob("*.py")):
            yield from scan_file(path, self.kind, self._module_name(path))
        for path in self._included:
            yield from scan_file(path, self.kind, _include_name(path), origin=str(path))

    def _module_name(self, path: Path) -> str:
        parts = path.relative_to(_ROOT).with_suffix("").parts
        return ".".join(("equibench", *parts))

    def _add_plugins(self, found: dict[str, Entry]) -> None:
        """Entry points of installed packages; a broken one is named in a warning and left out, all of it."""
        points = importlib.metadata.entry_points(group=f"equibench.{self.package}")
        for point in sorted(points, key=lambda p: (p.name, p.value)):
            try:
                with_it = dict(found)
                for entry in self._entries_of_plugin(point):
                    known = with_it.get(entry.name)
                    if known is None or known.where != entry.where:  # two entry points may lead to one file
                        self._add(with_it, entry)
            except (Exception, SystemExit) as error:  # a stranger's package may fail in any way, and must not stop ours
                what = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                warnings.warn(f"plug-in {point.name!r} ({point.value}) is left out: {what}", PluginWarning, stacklevel=2)
            else:
                found.update(with_it)

    def _entries_of_plugin(self, point: importlib.metadata.EntryPoint) -> list[Entry]:
        """Registrations behind ``name = module`` (all of the module) or ``name = module:function``."""
        spec = importlib.util.find_spec(point.module)
        if spec is None or spec.origin is None:
            raise ImportError(f"there is no module {point.module}")
        path, origin = Path(spec.origin), f"{_PLUGIN}{point.name}"
        # Models and wrappers share a group of entry points: what registers the one need not register the other.
        kinds = [kind for kind, package in _PACKAGES.items() if package == self.package]
        found = [e for kind in kinds for e in scan_file(path, kind, point.module, origin)]
        wanted = [e for e in found if point.attr in (None, "", e.function)]
        if not wanted:
            raise ImportError(f"{point.value} registers no {' and no '.join(kinds)}")
        return [e for e in wanted if e.kind == self.kind]


#: The folder, and the group of entry points, of each kind.
_PACKAGES = {"model": "models", "wrapper": "models", "dataset": "datasets"}


def scan_file(path: Path, kind: str, module: str, origin: str = "equibench") -> Iterable[Entry]:
    """Registrations of one kind in a file, read from its syntax tree.

    Raises:
        UserError: the file does not parse, or an argument of the decorator is wrong; with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if f"register_{kind}" not in text:
            return
        tree = ast.parse(text, filename=str(path))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as error:  # too deep for Python's parser, …
        raise UserError(f"{path}: this is not a Python file that can be read: {error or type(error).__name__}") from error
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for call in node.decorator_list:
            if isinstance(call, ast.Call) and _called(call) == f"register_{kind}":
                yield from _entries_of(call, node, kind, path, module, origin)


def _called(call: ast.Call) -> str:
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
                f"{where}: {name!r} needs a keyword-only parameter {wanted!r} of {node.name}(), annotated int, float or str"
            )
    yield entry
    if not isinstance(members, dict) or not all(isinstance(own, dict) for own in members.values()):
        raise UserError(f"{where}: members={members!r:.80} must be a dictionary of dictionaries")
    for member, own in members.items():
        own = dict(own)
        arguments = own.pop("args", None) or _fit(entry, member) or {}
        fields = {**values, "params": None, **own}
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
            text = "something so deep" if isinstance(error, RecursionError | MemoryError) else f"{ast.unparse(node)[:80]!r}"
            raise UserError(
                f"{where}: {key!r} must be a literal (a listing reads it without importing the file), not {text}"
            ) from error
    return values


_ALLOWED = {
    "model": {"group", "invariant", "source", "family", "params", "members", "status", "note"},
    "wrapper": {"source", "invariant", "treatment", "note"},
    "dataset": {"shape", "classes", "sizes", "source", "digest", "rotation", "note"},
}
_REQUIRED = {
    "model": ("group", "invariant", "source"),
    "wrapper": ("source",),
    "dataset": ("shape", "classes", "sizes", "source"),
}
STATUSES = ("published", "inferred", "unverified", "ours")


def _counts(value: Any, count: int, least: int) -> bool:
    return isinstance(value, tuple | list) and len(value) == count and all(type(v) is int and v >= least for v in value)


#: What the value of a field must be; of those that are not here, text.
_FITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "": (lambda v: isinstance(v, str), "text"),
    "params": (
        lambda v: isinstance(v, dict) and all(isinstance(k, str) and type(n) is int for k, n in v.items()),
        "a dictionary from inputs to whole numbers",
    ),
    "members": (lambda v: isinstance(v, dict), "a dictionary"),
    "shape": (lambda v: _counts(v, 3, 1), "three whole numbers above zero: channels, height, width"),
    "sizes": (lambda v: _counts(v, 3, 0), "three whole numbers: images in train, validation, test"),
    "classes": (lambda v: type(v) is int and v > 0, "a whole number above zero"),
    "rotation": (lambda v: isinstance(v, bool), "True or False"),
}


def _check_fields(kind: str, name: Any, values: dict[str, Any], where: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(f"{where}: {name!r:.80} is no name; use letters, digits, '.', '-', '_' and {{fields}}")
    for key in values:
        if key not in _ALLOWED[kind]:
            raise UserError(f"{where}: register_{kind} has no argument {key!r}; {nearest(key, _ALLOWED[kind])}")
    for key in _REQUIRED[kind]:
        if key not in values:
            raise UserError(f"{where}: {name!r} must say its {key!r}")
    for key, value in values.items():
        fits, what = _FITS.get(key, _FITS[""])
        if value is not None and not fits(value):
            raise UserError(f"{where}: {key}={value!r:.80} must be {what}")
        # These texts are listed without running the file: they must not move a terminal's cursor.
        if isinstance(value, str) and not value.isprintable():
            raise UserError(f"{where}: {key}={value[:60]!r} has characters that are no text; a field is one line")
    for key in ("group", "invariant"):
        if values.get(key) and not _GROUP.fullmatch(str(values[key])):
            raise UserError(f"{where}: {key}={values[key]!r} is no group; use 'none', 'C<N>' or 'D<N>', as 'C8'")
    if values.get("status", "ours") not in STATUSES:
        raise UserError(f"{where}: status={values['status']!r}; it is one of {', '.join(STATUSES)}")
    for shape in values.get("params") or {}:
        parse_shape(shape, where)


def parse_shape(text: str, where: str) -> tuple[int, int, int]:
    """``"3x32x32->10"`` as (channels, size, classes).

    Raises:
        UserError: anything else, or an image that is not square.
    """
    found = _SHAPE.fullmatch(text)
    if not found or found[2] != found[3]:
        raise UserError(f"{where}: {text!r} is no input; write channels x size x size -> classes, as '1x28x28->10'")
    return int(found[1]), int(found[2]), int(found[4])


def _fit(entry: Entry, name: str) -> dict[str, Any] | None:
    """Arguments that make the template of `entry` spell `name`, or None."""
    if not entry.is_template:
        return None
    pattern, last = "", 0
    for part in _FIELD.finditer(entry.name):
        pattern += re.escape(entry.name[last : part.start()])
        pattern += f"(?P<{part[1]}>{_PATTERNS[entry.types[part[1]]]})"
        last = part.end()
    found = re.fullmatch(pattern + re.escape(entry.name[last:]), name)
    return found and {k: _CASTS[entry.types[k]](v) for k, v in found.groupdict().items()}


def _natural(name: str) -> list[Any]:
    return [(1, int(p), "") if p.isdigit() else (0, 0, p) for p in re.split(r"(\d+)", name) if p]


def _include_name(path: Path) -> str:
    return f"equibench_include_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"


def _import(entry: Entry) -> ModuleType:
    if not entry.module.startswith("equibench_include_"):
        return importlib.import_module(entry.module)
    if entry.module not in sys.modules:
        spec = importlib.util.spec_from_file_location(entry.module, entry.path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[entry.module] = module
        # Its neighbours are found by plain names, after everything that is installed.
        if str(entry.path.parent) not in sys.path:
            sys.path.append(str(entry.path.parent))
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[entry.module]
            raise
    return sys.modules[entry.module]


MODELS = Registry("model", _PACKAGES["model"])
WRAPPERS = Registry("wrapper", _PACKAGES["wrapper"])
DATASETS = Registry("dataset", _PACKAGES["dataset"])


def include(paths: Iterable[str | Path]) -> None:
    """Add files that register models, wrappers or data sets."""
    for path in paths:
        for registry in (MODELS, WRAPPERS, DATASETS):
            registry.include(path)


def build_model(name: str, in_channels: int, num_classes: int, image_size: int) -> Any:
    """Build the model called `name`, wrappers around it; weights come from torch's global generator.

    Raises:
        UserError: the name is unknown.
    """
    resolved = MODELS.find(name)
    model = resolved.entry.load()(in_channels, num_classes, image_size, **resolved.arguments)
    for wrapper in resolved.wrappers:
        model = wrapper.entry.load()(model, **wrapper.arguments)
    return model
