"""What a model, or a data set, depends on besides the harness: the program of its files, and libraries that they
import.

The hash of it tells whether a row is current. Comments, docstrings and layout do not count; neither does the registry,
which computes nothing. torch, numpy and scipy are recorded beside a figure and leave the hash alone.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .registry import Entry, Resolved
from .scan import Stamp, stamp

PACKAGE = Path(__file__).resolve().parent
#: Files of ours that every model imports, and that compute nothing.
_REGISTRY = {PACKAGE / f"{name}.py" for name in ("__init__", "registry", "scan", "source", "opened", "beside")}
#: Changes with every release of Python while the program stays the same.
_SKIPPED = {"type_params", "type_comment", "kind", "ctx"}
#: Libraries that are recorded for every run and make no row stale; and the harness, whose protocol's number does.
EVERYWHERE = ("equibench", "torch", "numpy", "scipy")
#: Where installed packages lie side by side: a neighbour there belongs to somebody else.
SITES = ("site-packages", "dist-packages")


def source_hash(model: Resolved, beside: str = "") -> str:
    """Hash of the source of a model: of the syntax trees, without docstrings, of its files and local imports.

    Of the libraries that these import, and of those that the package of an installed plug-in asks for, the versions
    count as well; and of a registration all but words.

    Args:
        beside: names and contents of the files beside the code that it is made from, see `beside.lines_of`.
    """
    digest = hashlib.sha256()
    # In the order of names and, of files that share one, of texts: nothing of it depends on where they lie.
    for name, text in sorted((path.name, _program(path).text) for path in closure(model.files)):
        digest.update(f"{name}\n{text}\n".encode())
    for library, version in libraries(model).items():
        digest.update(f"{library}=={version}\n".encode())
    digest.update(beside.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def data_hash(dataset: Entry, beside: str = "") -> str:
    """Hash of what a data set declares, all but words, and of the files that it is made from.

    Args:
        beside: see `source_hash`.
    """
    declared = sorted((key, value) for key, value in dataset.fields.items() if key not in _WORDS)
    return hashlib.sha256(f"{declared}\n{beside}".encode("utf-8", "surrogateescape")).hexdigest()[:16]


def closure(paths: Iterable[Path]) -> list[Path]:
    """The files, each once, and all that they import from their own packages, from ours, and from their neighbours."""
    seen: dict[Path, None] = {}
    # Beside each file the folder in which its process looks for plain names: that of the file that was included.
    waiting = [(path, path.parent) for path in paths]
    while waiting:
        path, root = waiting.pop()
        if path not in seen and path not in _REGISTRY:
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
                # Whoever builds on layers of ours: theirs change with ours.
                found += _modules(PACKAGE, rest) if rest[:1] == ["models"] else []
            elif first == package.name:
                found += _modules(package, rest)
            elif root.name in SITES:
                found.append(root / f"{first}.py")
            else:
                # A file given with --include imports its neighbours, files and packages, by plain names.
                found += [root / f"{first}.py", *_modules(root / first, rest)]
    return [p for p in found if p.is_file()]


def _absolute(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Full names of all that an absolute import may mean, whether the last of a name is a module or not."""
    if isinstance(node, ast.Import):
        return [a.name for a in node.names]
    return [node.module, *(f"{node.module}.{a.name}" for a in node.names)] if node.module and not node.level else []


def _modules(folder: Path, names: list[str]) -> list[Path]:
    """Where ``package.a.b`` may lie: the packages that its import runs on the way, and the module."""
    files = [folder / "__init__.py"]
    for name in names:
        folder = folder / name
        files += [folder.with_name(f"{name}.py"), folder / "__init__.py"]
    return files


def top_package(path: Path) -> Path:
    """Folder of the outermost package that a file belongs to; the file itself if it is in none."""
    folder = path
    while (folder.parent / "__init__.py").is_file():
        folder = folder.parent
    return folder


@dataclass(frozen=True)
class _Program:
    """A file as the hash sees it, and what it imports."""

    text: str
    imports: tuple[ast.Import | ast.ImportFrom, ...]


def program(path: Path) -> str:
    """A file of Python as the hash sees it: its syntax tree without docstrings.

    Raises:
        SyntaxError: it is none.
    """
    return _program(path).text


def _program(path: Path) -> _Program:
    return _parsed(path, stamp(path))


@cache
def _parsed(path: Path, _changed: Stamp) -> _Program:
    return _read(path.read_text(encoding="utf-8-sig"))


def program_hash(text: str) -> str:
    """Hash of the text of a file of Python, the same for all that differ in words alone.

    Raises:
        SyntaxError: it is none.
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
                _leave_out_words(call)
    return _Program(_dump(tree), tuple(n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)))


#: What a registration says to readers alone: it changes neither how something is built nor how it is scored or claimed.
_WORDS = {"note", "source", "family", "status", "task", "licence", "citation", "package"}
#: As is the images that a model can be built for: one that cannot is not built at all.
_WORDS_OF_MODELS = _WORDS | {"sizes"}


def _leave_out_words(call: ast.expr) -> None:
    """Take the words from a decorator that registers, also from the members of a family."""
    name = ast.unparse(call.func).rpartition(".")[2] if isinstance(call, ast.Call) else ""
    if isinstance(call, ast.Call) and name.startswith("register_"):
        words = _WORDS_OF_MODELS if name == "register_model" else _WORDS
        call.keywords = [k for k in call.keywords if k.arg not in words]
        for members in (k.value for k in call.keywords if k.arg == "members" and isinstance(k.value, ast.Dict)):
            for own in (value for value in members.values if isinstance(value, ast.Dict)):
                pairs = zip(own.keys, own.values, strict=True)
                kept = [(k, v) for k, v in pairs if not (isinstance(k, ast.Constant) and k.value in words)]
                own.keys, own.values = [k for k, _ in kept], [v for _, v in kept]


def _dump(node: object) -> str:
    """Like `ast.dump`, but the same for every Python version that parses the program alike."""
    if isinstance(node, ast.AST):
        fields = ((n, getattr(node, n, None)) for n in node._fields if n not in _SKIPPED)
        return f"{type(node).__name__}({','.join(f'{n}={_dump(v)}' for n, v in fields if v not in (None, []))})"
    if isinstance(node, list):
        return f"[{','.join(map(_dump, node))}]"
    return repr(node)


def libraries(model: Resolved) -> dict[str, str]:
    """Versions of the libraries that a model's files import, and of what the package of a plug-in asks for, by name."""
    names = {name for path in closure(model.files) for name in _imported(path)}
    for entry in (model.entry, *(wrapper.entry for wrapper in model.wrappers)):
        names |= set(_requirements(entry)) if entry.is_plugin else set()
    found = {name: _version(name) for name in sorted(names - set(EVERYWHERE))}
    # Without an extra that is not installed, and modules that no distribution brought.
    return {name: version for name, version in found.items() if version}


def _imported(path: Path) -> set[str]:
    """Distributions from which a file imports something by its absolute name."""
    names = {name.partition(".")[0] for node in _program(path).imports for name in _absolute(node)}
    own = {top_package(path).name}
    return {found for name in names - sys.stdlib_module_names - own for found in _distributions(name)}


@cache
def _distributions(module: str) -> tuple[str, ...]:
    """Normalised names of the distributions that have a top-level module; most are called like it."""
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
    """Normalised names of what the distribution of a plug-in requires, extras included."""
    points = importlib.metadata.entry_points(group="equibench.models")
    ours = [p.dist for p in points if p.module == entry.module and p.dist is not None]
    words = [re.match(r"[A-Za-z0-9._-]+", requirement) for dist in ours for requirement in dist.requires or []]
    return [_normalised(word[0]) for word in words if word]


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
