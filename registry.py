"""The registry of models, wrappers and data sets.

To register something, write one decorator in one file. The arguments of the decorator are literals. So listings read
them from the syntax tree, and nothing (also not torch) is imported before a model is built.

A name is looked up in this order: exact name, member of a family, template (exactly one must match). Any number of
``+wrapper`` suffixes may follow; they are applied from left to right.
"""

from __future__ import annotations

import fnmatch
import importlib.metadata
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from . import scan
from .interface import PYTHON_CALL, as_given, option
from .opened_files import Opened, opened_by, watching
from .scan import STATUSES, Entry, UserError, allows, nearest, parse_shape

__all__ = [
    "DATASETS", "MODELS", "PYTHON_CALL", "STATUSES", "WRAPPERS", "Entry", "PluginWarning", "Registry", "Resolved",
    "UnknownName", "UserError", "allows", "as_given", "build_model", "forget", "include", "nearest", "option",
    "parse_shape", "register_dataset", "register_model", "register_wrapper",
]  # fmt: skip

F = TypeVar("F", bound=Callable[..., Any])
_ROOT = Path(__file__).resolve().parent


class UnknownName(UserError):
    """Nothing is registered under a name."""


class PluginWarning(UserWarning):
    """An installed plug-in is broken and is not used."""


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
    evaluation: str = "",
    sizes: str | list[int] = "",
) -> Callable[[F], F]:
    """Register a function that builds a model. All arguments are literals.

    The function is called as ``f(in_channels, num_classes, image_size, **arguments)`` and returns an
    ``nn.Module`` that maps normalised images (batch, channels, size, size) to logits (batch, classes).

    Args:
        name: unique name. With ``{field}`` it is a family; the fields are keyword-only arguments of the function,
            annotated ``int``, ``float`` or ``str``.
        group: group of its layers: ``"none"``, ``"C<N>"`` (rotations) or ``"D<N>"`` (rotations and reflections).
        invariant: group under which its *logits* are exactly invariant at the declared image sizes.
        source: where the architecture is published (``arXiv:…``, a DOI or a URL).
        family: architecture family; it determines the colour in plots.
        params: declared inputs and their numbers of trainable parameters, ``{"1x28x28->10": 24_680}`` (channels,
            size, size, classes); a test compares them with the built model.
        members: published members of a family, each a dictionary with ``args`` (arguments of the
            function) and any of the fields above that differ.
        status: ``"published"`` (exact by code or paper), ``"inferred"``, ``"unverified"`` or ``"ours"``.
        note: one sentence with important information for readers.
        evaluation: ``"random:16"`` for a network that also draws random numbers in evaluation. Its score is the mean
            of its logits over 16 seeded passes; see `models.random_evaluation.RandomEvaluation`.
        sizes: image sizes in pixels for which it can be built: ``"any"``, ``"even"``, multiples of a number such as
            ``"4k"``, a minimum such as ``"28+"``, or a list such as ``[28, 32]``. If empty, the model is built to find
            out.
    """
    return _mark("model", name)


def register_wrapper(
    name: str, *, source: str, invariant: str = "", treatment: str = "", note: str = ""
) -> Callable[[F], F]:
    """Register a function ``f(model, **arguments) -> nn.Module``, used as the suffix ``model+name``.

    A keyword-only argument called ``in_channels``, ``num_classes`` or ``image_size`` gets what the model was built
    with.

    Args:
        name: as for `register_model`.
        source: where the construction is published.
        invariant: group under which the wrapped logits are exactly invariant; empty if the wrapper does not change it.
        treatment: augmentation for this model only, in addition to that of its board; boards show it.
        note: one sentence with important information for readers.
    """
    return _mark("wrapper", name)


def register_dataset(
    name: str,
    *,
    shape: tuple[int, int, int],
    classes: int,
    sizes: tuple[int, int, int],
    source: str,
    digest: str = "",
    rotation: bool = False,
    task: str = "",
    licence: str = "",
    citation: str = "",
    note: str = "",
    package: str = "",
    members: dict[str, dict[str, Any]] | None = None,
) -> Callable[[F], F]:
    """Register a function ``f(root: Path, **arguments) -> ImageData`` that returns a data set. Arguments are literals.

    Args:
        name: unique name.
        shape: channels, height, width.
        classes: number of classes.
        sizes: images in train, validation, test.
        source: where the images come from.
        digest: SHA-256 of the arrays (`ImageData.digest`), checked whenever they are made or read.
        rotation: whether a label stays correct under any rotation of its image.
        task: what the images show, in a word or two (``digits``, ``garments``, ``cells``).
        licence: licence of the images.
        citation: publication to cite for the images.
        note: one sentence with important information for readers.
        package: import name of a package that the data set needs and that may not be installed. For data sets of
            equibench, the extra that installs the package has the same name.
        members: further data sets of the same function, each a dictionary with ``args`` (its keyword arguments) and any
            of the fields above that differ.
    """
    return _mark("dataset", name)


def _mark(kind: str, name: str) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        if isinstance(function, type) or not hasattr(function, "__name__"):  # files are only scanned for functions
            what = "a class" if isinstance(function, type) else f"a {type(function).__name__} object"
            raise UserError(f"@register_{kind}({name!r}) goes before a function (def), not before {what}")
        names = getattr(function, "equibench_names", ())
        function.equibench_names = (*names, name)  # type: ignore[attr-defined]
        return function

    return decorate


@dataclass(frozen=True)
class Resolved:
    """The meaning of a name: an entry with arguments, and the wrappers around it, innermost first."""

    name: str
    entry: Entry
    arguments: dict[str, Any]
    wrappers: tuple[Resolved, ...] = ()

    @property
    def entries(self) -> list[Entry]:
        """Its entry, and those of its wrappers."""
        return [self.entry, *(wrapper.entry for wrapper in self.wrappers)]

    def load(self) -> None:
        """Import the files of the entry and of its wrappers, with all that they import."""
        for entry in self.entries:
            entry.load()

    def get(self, key: str, default: Any = "") -> Any:
        """A field of the registration (``group``, ``source``, …), wrappers included."""
        value = self.entry.fields.get(key, default)
        for wrapper in self.wrappers if key == "invariant" else ():
            value = wrapper.entry.fields.get("invariant") or value
        return value

    @property
    def treatments(self) -> list[str]:
        """Augmentations for this model only, in addition to those of its board, in their order."""
        return [t for wrapper in self.wrappers if (t := wrapper.entry.fields.get("treatment"))]

    @property
    def samples(self) -> int:
        """Number of passes over which its logits are averaged in evaluation; 0 if its evaluation is not random."""
        return int(str(self.get("evaluation")).partition(":")[2] or 0)

    @property
    def files(self) -> list[Path]:
        return [entry.path for entry in self.entries]

    @property
    def key(self) -> str:
        """Key under which `opened_files` keeps what was opened while it was built."""
        return f"{self.entry.kind} {self.name}"

    @property
    def opened(self) -> Opened:
        """The files that this process opened while it imported the code and built the model or data set."""
        return opened_by(self.key, *(entry.module for entry in self.entries))


class Registry:
    """All registrations of one kind, found without importing them.

    Args:
        kind: ``"model"``, ``"wrapper"`` or ``"dataset"``; the decorator is ``register_<kind>``.
        package: sub-package of equibench that holds the built-in files.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._included: list[Path] = []
        self._entries: dict[str, Entry] | None = None
        self._read: dict[Path, scan.Stamp] = {}

    def include(self, path: str | Path) -> None:
        """Add a file outside the package. Raises `UserError` if it does not exist or is not a Python file."""
        found, given = Path(path).resolve(), option("include", path)
        if found.is_dir():
            raise UserError(f"{given}: this is a folder; name the file in it that registers something")
        if not found.is_file():
            raise UserError(f"{given}: there is no such file")
        if found.suffix != ".py":
            raise UserError(f"{given}: not a Python file (its name does not end in .py)")
        if found not in self._included:
            self._included.append(found)
            self._entries = None

    def forget(self, path: str | Path) -> None:
        """Undo `include`; a module that was already imported from the file stays."""
        self._included = [other for other in self._included if other != Path(path).resolve()]
        self._entries = None

    @property
    def included(self) -> list[Path]:
        """Files outside the package, in the order in which they were added."""
        return list(self._included)

    def entries(self) -> dict[str, Entry]:
        """Every registration by name, including published members of families.

        Files are read again after a change, because they are edited while a notebook's process runs.

        Raises:
            UserError: two registrations have the same name, or an argument is not a literal.
        """
        changed = any(scan.stamp(path) not in (seen, scan.NO_FILE) for path, seen in self._read.items())
        if self._entries is None or changed:
            self._entries = None
            found: dict[str, Entry] = {}
            before = {path: scan.stamp(path) for path in self._included}
            for entry in self._scan():
                self._add(found, entry)
            self._add_plugins(found)
            self._entries, self._read = found, {e.path: scan.stamp(e.path) for e in found.values()} | before
        return self._entries

    def _add(self, found: dict[str, Entry], entry: Entry) -> None:
        if (other := found.get(entry.name)) is None and entry.origin != "equibench":
            # With the name of a member of a family of equibench, records would mean other runs.
            ours = (e for e in found.values() if e.origin == "equibench")
            other = next((e for e in ours if scan.template_arguments(e, entry.name)), None)
        if other is not None:
            taken = f"the {self.kind} name {entry.name!r} is already taken by {other.where}"
            raise UserError(f"{entry.where}: {taken}; names must be unique")
        found[entry.name] = entry

    def match(self, patterns: Iterable[str] = ()) -> list[Entry]:
        """Entries whose names match any of the shell patterns, in natural order; without patterns, all entries."""
        patterns = list(patterns) or ["*"]
        found = [e for name, e in self.entries().items() if any(fnmatch.fnmatchcase(name, p) for p in patterns)]
        return sorted(found, key=lambda entry: _natural(entry.name))

    def find(self, name: str) -> Resolved:
        """The entry of `name`, with its arguments and wrappers. Raises `UserError` if none or several fit."""
        if len(name) > (most := scan.LONGEST_NAME):
            raise UserError(f"{self.kind} {name[:40]!r}…: a name has at most {most} characters, not {len(name):,}")
        base, *suffixes = name.split("+")
        resolved = self._find_one(base)
        if suffixes and self.kind != "model":
            raise UserError(f"{self.kind} {name!r}: wrappers (+…) apply to models only")
        return replace(resolved, name=name, wrappers=tuple(WRAPPERS._find_one(s) for s in suffixes))

    def _find_one(self, name: str) -> Resolved:
        entries = self.entries()
        if (exact := entries.get(name)) is not None and not exact.is_template:
            return Resolved(name, exact, dict(exact.arguments))
        fits = [(e, args) for e in entries.values() if (args := scan.template_arguments(e, name)) is not None]
        # An installed plug-in never changes the meaning of a name of equibench.
        fits = [f for f in fits if not f[0].is_plugin] or fits
        if len(fits) == 1:
            return Resolved(name, *fits[0])
        if fits:
            raise UserError(f"{self.kind} {name!r} fits more than one family: " + ", ".join(e.name for e, _ in fits))
        kind = "data set" if self.kind == "dataset" else self.kind
        has_function = PYTHON_CALL.get() is not None and self.kind != "wrapper"
        listing = f"equibench.list_{self.kind}s()" if has_function else f"equibench list {self.kind}s"
        close = nearest(name, entries, listing)
        raise UnknownName(f"there is no {kind} {name!r}{self.include_hint(kind)}; {close}")

    def include_hint(self, kind: str) -> str:
        """A clause on files that register more of a kind; empty if such a file is included already."""
        return "" if self._included else f" ({option('include', 'FILE')} adds {kind}s of your own)"

    def _scan(self) -> Iterable[Entry]:
        for path in sorted((_ROOT / self.package).rglob("*.py")):
            module = ".".join(("equibench", *path.relative_to(_ROOT).with_suffix("").parts))
            yield from scan.scan_file(path, self.kind, module)
        for path in filter(Path.is_file, self._included):  # a notebook's user may have removed one
            yield from scan.scan_file(path, self.kind, scan.include_name(path), origin=str(path))

    def _add_plugins(self, found: dict[str, Entry]) -> None:
        """Add the entry points of installed packages; a broken one is left out completely, with a warning."""
        points = importlib.metadata.entry_points(group=f"equibench.{self.package}")
        for point in sorted(points, key=lambda p: (p.name, p.value)):
            try:
                with_it = dict(found)
                # Models and wrappers share a group of entry points: a module may register only one of the two kinds.
                kinds = [kind for kind, package in _PACKAGES.items() if package == self.package]
                for entry in scan.entries_of_plugin(point, self.kind, kinds):
                    # Two entry points may lead to one file.
                    if (known := with_it.get(entry.name)) is None or known.where != entry.where:
                        self._add(with_it, entry)
            except (Exception, SystemExit) as error:  # a plug-in may fail in any way, and must not stop equibench
                what = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                warnings.warn(
                    f"plug-in {point.name!r} ({point.value}) is left out: {what}", PluginWarning, stacklevel=2
                )
            else:
                found.update(with_it)


#: The folder, and the group of entry points, of each kind.
_PACKAGES = {"model": "models", "wrapper": "models", "dataset": "datasets"}


def _natural(name: str) -> list[Any]:
    return [(1, int(p), "") if p.isdigit() else (0, 0, p) for p in re.split(r"(\d+)", name) if p]


MODELS = Registry("model", _PACKAGES["model"])
WRAPPERS = Registry("wrapper", _PACKAGES["wrapper"])
DATASETS = Registry("dataset", _PACKAGES["dataset"])


def include(paths: Iterable[str | Path]) -> None:
    """Add files that register models, wrappers or data sets. A file that is refused is not added.

    Raises:
        UserError: a file does not exist, does not parse, registers nothing, or registers a name that is used already.
    """
    for path in paths:
        found = Path(path).resolve()
        is_new = found not in MODELS.included
        try:
            for registry in (MODELS, WRAPPERS, DATASETS):
                registry.include(path)
            read = (scan.scan_file(found, kind, scan.include_name(found), found.name) for kind in _PACKAGES)
            if not any(chain.from_iterable(read)):
                advice = "put @register_model(…) before a function at its top level, as docs/your-model.md shows"
                raise UserError(f"{option('include', path)}: the file registers nothing; {advice}")
            for registry in (MODELS, WRAPPERS, DATASETS):
                registry.entries()
        except UserError:
            if is_new:
                forget(found)
            raise


def forget(path: str | Path) -> None:
    """Undo `include` of one file."""
    for registry in (MODELS, WRAPPERS, DATASETS):
        registry.forget(path)


def build_model(name: str, in_channels: int, num_classes: int, image_size: int) -> Any:
    """Build the model called `name` with its wrappers; weights come from torch's global random generator.

    Raises:
        UserError: the name is unknown.
    """
    resolved = MODELS.find(name)
    with watching(resolved.key):
        model = resolved.entry.load()(in_channels, num_classes, image_size, **resolved.arguments)
        images = {"in_channels": in_channels, "num_classes": num_classes, "image_size": image_size}
        for wrapper in resolved.wrappers:
            asked = {key: value for key, value in images.items() if key in wrapper.entry.types}
            model = wrapper.entry.load()(model, **asked, **wrapper.arguments)
    if resolved.samples:
        from .models.random_evaluation import RandomEvaluation

        model = RandomEvaluation(model, resolved.samples)
    return model
