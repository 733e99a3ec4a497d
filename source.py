"""What a model or a data set depends on, apart from the harness: the code of its files, and the libraries that they
import.

The hash shows whether a row is current. Comments, docstrings and layout do not change it. The registry does not change
it either, because it computes nothing. torch, numpy and scipy are recorded for each run and do not change the hash.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from .registry import Entry, Resolved
from .scan import Stamp, stamp

PACKAGE = Path(__file__).resolve().parent
#: Files of equibench that every model imports. They compute nothing, so they do not change the hash.
_NOT_HASHED = {
    PACKAGE / f"{name}.py"
    for name in ("__init__", "registry", "scan", "source", "opened_files", "side_files", "interface")
}
#: Fields of the syntax tree that depend on the version of Python although the code is the same.
_SKIPPED = {"type_params", "type_comment", "kind", "ctx"}
#: Libraries that are recorded for every run and make no row stale. Changes of the harness make rows stale through the
#: number of the protocol.
COMMON_LIBRARIES = ("equibench", "torch", "numpy", "scipy")
#: Folders of installed packages. The neighbours of a file there belong to other packages.
SITE_FOLDERS = ("site-packages", "dist-packages")


def source_hash(model: Resolved, side_files: str = "") -> str:
    """Hash of the source of a model: of the syntax trees, without docstrings, of its files and local imports.

    The versions of the imported libraries count too, and those of the libraries that an installed plug-in requires. Of
    a registration, everything counts except texts for readers.

    Args:
        side_files: names and hashes of the side files of the model, see `side_files.lines_of`.
    """
    digest = hashlib.sha256()
    # Sorted by name, and by text if names are equal: the hash does not depend on the folders of the files.
    for name, text in sorted((path.name, _program(path).text) for path in closure(model.files)):
        digest.update(f"{name}\n{text}\n".encode())
    for library, version in libraries(model).items():
        digest.update(f"{library}=={version}\n".encode())
    digest.update(side_files.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def data_hash(dataset: Entry, side_files: str = "") -> str:
    """Hash of the registration of a data set, except texts for readers, and of its side files.

    Args:
        side_files: see `source_hash`.
    """
    declared = sorted((key, value) for key, value in dataset.fields.items() if key not in _READER_TEXTS)
    return hashlib.sha256(f"{declared}\n{side_files}".encode("utf-8", "surrogateescape")).hexdigest()[:16]


def closure(paths: Iterable[Path]) -> list[Path]:
    """The files, each once, and all that they import from their own packages, from equibench, and from their folder."""
    seen: dict[Path, None] = {}
    # Each file with the folder in which its process searches for plain names: that of the included file.
    waiting = [(path, path.parent) for path in paths]
    while waiting:
        path, root = waiting.pop()
        if path not in seen and path not in _NOT_HASHED:
            seen[path] = None
            waiting += [(found, root) for found in _local_imports(path, root)]
    return list(seen)


def _local_imports(path: Path, root: Path) -> list[Path]:
    found: list[Path] = []
    package = top_package(path)
    for node in _program(path).imports:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1]
            target = base.joinpath(*(node.module or "").split(".")) if node.module else base
            found += [target.with_suffix(".py"), target / "__init__.py"]
            found += [p for a in node.names for p in (target / f"{a.name}.py", target / a.name / "__init__.py")]
            continue
        for name in _absolute(node):
            first, *rest = name.split(".")
            if first == "equibench":
                # A model that uses layers of equibench changes with these layers.
                found += _modules(PACKAGE, rest) if rest[:1] == ["models"] else []
            elif first == package.name:
                found += _modules(package, rest)
            elif root.name in SITE_FOLDERS:
                found += [root / f"{first}.py", *_editable_files(first, rest)]
            else:
                # A file given with --include imports files and packages of its folder by plain names.
                near = [root / f"{first}.py", *_modules(root / first, rest)]
                found += near if any(p.is_file() for p in near) else _editable_files(first, rest)
    return [p for p in found if p.is_file()]


def is_installed_editable(module: str) -> bool:
    """Whether a top-level module belongs to an editable distribution, so that every process finds it."""
    return bool(_editable(module) and _distributions(module))


def _editable_files(module: str, names: list[str]) -> list[Path]:
    """As `_modules`, for a package that is installed with ``pip install -e``; empty for all others."""
    return [path for place in _editable(module) for path in ([place] if place.is_file() else _modules(place, names))]


@cache
def _editable(module: str) -> tuple[Path, ...]:
    """File or folders of a top-level module that is installed in editable form: its version stays when it changes.

    A namespace package has several folders. equibench itself has none.
    """
    if module in sys.stdlib_module_names or module in COMMON_LIBRARIES:
        return ()
    try:
        spec = importlib.util.find_spec(module)  # this does not import a top-level module
    except (ImportError, ValueError):
        return ()
    found = (spec.submodule_search_locations or [spec.origin or ""]) if spec else []
    places = [Path(p).resolve() for p in found if not set(SITE_FOLDERS) & set(Path(p).parts)]
    return tuple(p for p in places if not p.is_relative_to(PACKAGE) and any(map(p.is_relative_to, _editable_roots())))


@cache
def _editable_roots() -> tuple[Path, ...]:
    """Folders of the projects that are installed in editable form."""
    return tuple(_read_editable_roots())


def _read_editable_roots() -> Iterator[Path]:
    for distribution in importlib.metadata.distributions():
        with suppress(ValueError, KeyError, TypeError):  # most have no such file, and others of its fields
            facts = json.loads(distribution.read_text("direct_url.json") or "")  # of PEP 610
            if facts["dir_info"]["editable"]:
                yield Path(url2pathname(urlsplit(facts["url"]).path)).resolve()


def _absolute(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Full names of all modules that an absolute import may load; the last part of a name may not be a module."""
    if isinstance(node, ast.Import):
        return [a.name for a in node.names]
    return [node.module, *(f"{node.module}.{a.name}" for a in node.names)] if node.module and not node.level else []


def _modules(folder: Path, names: list[str]) -> list[Path]:
    """Possible files of ``package.a.b``: those of the module, and of the packages that its import runs first."""
    files = [folder / "__init__.py"]
    for name in names:
        folder = folder / name
        files += [folder.with_name(f"{name}.py"), folder / "__init__.py"]
    return files


def top_package(path: Path) -> Path:
    """Folder of the outermost package that contains a file; the file itself if it is in no package."""
    folder = path
    while (folder.parent / "__init__.py").is_file():
        folder = folder.parent
    return folder


@dataclass(frozen=True)
class _Program:
    """The part of a file that counts for the hash, and its imports."""

    text: str
    imports: tuple[ast.Import | ast.ImportFrom, ...]


def program(path: Path) -> str:
    """The part of a Python file that counts for the hash: its syntax tree without docstrings.

    Raises:
        SyntaxError: this is not Python code.
    """
    return _program(path).text


def _program(path: Path) -> _Program:
    return _parsed(path, stamp(path))


@cache
def _parsed(path: Path, _changed: Stamp) -> _Program:
    return _read(path.read_text(encoding="utf-8-sig"))


def program_hash(text: str) -> str:
    """Hash of the text of a Python file; docstrings, comments and texts for readers do not change it.

    Raises:
        SyntaxError: this is not Python code.
    """
    return hashlib.sha256(_read(text).text.encode()).hexdigest()[:16]


def _read(text: str) -> _Program:
    tree = ast.parse(text)
    nodes = list(ast.walk(tree))
    for node in nodes:
        match node:
            case ast.Module() | ast.FunctionDef() | ast.ClassDef() | ast.AsyncFunctionDef():
                if ast.get_docstring(node, clean=False) is not None:
                    node.body = node.body[1:]
        if isinstance(node, ast.FunctionDef):
            for call in node.decorator_list:
                _remove_reader_texts(call)
    return _Program(_dump(tree), tuple(n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)))


#: Fields of a registration that are texts for readers: they do not change how something is built, scored or claimed.
_READER_TEXTS = {"note", "source", "family", "status", "task", "licence", "citation", "package"}
#: The `sizes` of a model do not count either: with a size that is not in it, the model is not built.
_READER_TEXTS_OF_MODELS = _READER_TEXTS | {"sizes"}


def _remove_reader_texts(call: ast.expr) -> None:
    """Remove the texts for readers from a registering decorator, also from the members of a family."""
    name = ast.unparse(call.func).rpartition(".")[2] if isinstance(call, ast.Call) else ""
    if isinstance(call, ast.Call) and name.startswith("register_"):
        words = _READER_TEXTS_OF_MODELS if name == "register_model" else _READER_TEXTS
        call.keywords = [k for k in call.keywords if k.arg not in words]
        for members in (k.value for k in call.keywords if k.arg == "members" and isinstance(k.value, ast.Dict)):
            for own in (value for value in members.values if isinstance(value, ast.Dict)):
                pairs = zip(own.keys, own.values, strict=True)
                kept = [(k, v) for k, v in pairs if not (isinstance(k, ast.Constant) and k.value in words)]
                own.keys, own.values = [k for k, _ in kept], [v for _, v in kept]


def _dump(node: object) -> str:
    """Like `ast.dump`, but the same for all Python versions that parse the code to the same tree."""
    if isinstance(node, ast.AST):
        fields = ((n, getattr(node, n, None)) for n in node._fields if n not in _SKIPPED)
        return f"{type(node).__name__}({','.join(f'{n}={_dump(v)}' for n, v in fields if v not in (None, []))})"
    if isinstance(node, list):
        return f"[{','.join(map(_dump, node))}]"
    return repr(node)


def libraries(model: Resolved) -> dict[str, str]:
    """Versions of the libraries that a model's files import or that its plug-in package requires, by name."""
    names = {name for path in closure(model.files) for name in _imported(path)}
    for entry in model.entries:
        names |= set(_requirements(entry)) if entry.is_plugin else set()
    found = {name: _version(name) for name in sorted(names - set(COMMON_LIBRARIES))}
    # Without extras that are not installed, and without modules of no distribution.
    return {name: version for name, version in found.items() if version}


def _imported(path: Path) -> set[str]:
    """Distributions from which a file imports something by an absolute name."""
    names = {name.partition(".")[0] for node in _program(path).imports for name in _absolute(node)}
    own = {top_package(path).name}
    return {found for name in names - sys.stdlib_module_names - own for found in _distributions(name)}


@cache
def _distributions(module: str) -> tuple[str, ...]:
    """Normalised names of the distributions that contain a top-level module; most have the same name."""
    if _version(_normalised(module)):
        return (_normalised(module),)
    return tuple(map(_normalised, _modules_installed().get(module, ())))


@cache
def _modules_installed() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


@cache
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _requirements(entry: Entry) -> list[str]:
    """Normalised names of the requirements of a plug-in's distribution, including extras."""
    points = importlib.metadata.entry_points(group="equibench.models")
    ours = [p.dist for p in points if p.module == entry.module and p.dist is not None]
    words = [re.match(r"[A-Za-z0-9._-]+", requirement) for dist in ours for requirement in dist.requires or []]
    return [_normalised(word[0]) for word in words if word]


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
