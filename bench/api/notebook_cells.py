"""Writes models and data sets of a notebook or script to files that other processes can import.

A run's process cannot access the notebook. So all statements that a registered function needs are collected from the
executed cells, directly or indirectly, and written to one file. This file is executed, hashed and stored, and the
record names it.
"""

from __future__ import annotations

import ast
import builtins
import copy
import re
import symtable
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from math import inf
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from ...registry import UserError, forget, include
from ...source import is_installed_editable, program_hash
from ..tools.files import write_exclusively

_ADVICE = "or put the model into a file of its own and give it as includes=[…]"
_FUTURE = "from __future__ import annotations\n"
#: Statements that give their names the same values in each execution. For others (loops) the value is ambiguous.
_PLAIN = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign,
    ast.If, ast.Try, ast.With,
)  # fmt: skip
#: Methods of lists, dictionaries, sets, collections and arrays that change them.
_IN_PLACE = {
    "add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "fill", "insert", "pop", "popitem",
    "popleft", "remove", "reverse", "setdefault", "sort", "subtract", "update",
}  # fmt: skip
#: Functions that change their first argument.
_CHANGE_FIRST = {"copyto", "delattr", "setattr", "shuffle"}
#: Functions of Python whose value depends on their arguments alone.
_CALCULATING = {
    "abs", "dict", "float", "frozenset", "int", "len", "list", "max", "min", "range", "round", "set", "sorted", "sum",
    "tuple",
}  # fmt: skip
#: Expressions that may have another value when they are evaluated again, or that change something.
_NOT_CALCULATING = (ast.Attribute, ast.Lambda, ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)
#: The present file of each registered function.
_files: dict[str, Path] = {}


def include_cells(folder: Path | None, wanted: Iterable[str] = ()) -> list[Path]:
    """Register the models and data sets of the notebook or script, for this process and its worker processes.

    Args:
        folder: results folder for the files; None for temporary files of this process.
        wanted: names of models and data sets that will be used.

    Returns:
        The files of all registered functions.

    Raises:
        UserError: the source of a wanted function cannot be collected. For other functions this is a warning.
    """
    main, found = sys.modules["__main__"], []
    functions = _registered(main)
    names, owners = {function.__name__ for function in functions}, dict[str, str]()
    for gone in _files.keys() - names:  # del, or defined again without decorator
        forget(_files.pop(gone))
    for function in functions:
        try:
            _refuse_second_owner(function, owners)
            found.append(_include(function.__name__, _program(main), folder))
        except UserError as error:
            if any(_is_called(name, function) for name in wanted):
                raise
            warnings.warn(str(error), stacklevel=4)
    return found


def _registered(main: ModuleType) -> list[Callable[..., Any]]:
    """Functions of the notebook or script that a decorator of equibench has marked, without repetition."""
    functions = dict.fromkeys(value for value in vars(main).values() if isinstance(value, FunctionType))
    return [f for f in functions if f.__module__ == "__main__" and hasattr(f, "equibench_names")]


def _refuse_second_owner(function: Callable[..., Any], owners: dict[str, str]) -> None:
    """Refuse a name that another function of the notebook registers too; `owners` are the functions so far, by name."""
    own = function.__name__
    for name in function.equibench_names:  # type: ignore[attr-defined]
        if (other := owners.setdefault(name, own)) != own:
            raise UserError(f"{other}() and {own}() both register {name!r}; change one name, or execute: del {other}")


def _is_called(name: str, function: Callable[..., Any]) -> bool:
    """Whether a name of a model, with its wrappers, may be one that the function registers."""
    patterns = [re.sub(r"\\\{.*?\\\}", ".+", re.escape(n)) for n in function.equibench_names]  # type: ignore[attr-defined]
    return any(re.fullmatch(pattern, part) for part in name.split("+") for pattern in patterns)


def _include(function: str, program: Program, folder: Path | None) -> Path:
    text = program.file_of(function)
    # Comments and docstrings change neither the file's name nor the source hash.
    name = f"{function.replace('_', '-')}-{program_hash(text)[:8]}.py"
    before = _files.get(function)
    if before is not None and before.name == name and folder in (None, before.parent.parent) and before.is_file():
        return before
    from ..records.store import SOURCES

    path = (folder / SOURCES if folder is not None else Path(_temporary().name)) / name
    with suppress(FileExistsError):
        write_exclusively(path, text.encode())
    if program_hash(path.read_text(encoding="utf-8")) != program_hash(text):
        raise UserError(f"{path}: this file was changed by hand; remove it, then it is written again from the cells")
    if before is not None:
        forget(before)
    include([path])
    _files[function] = path
    return path


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="equibench-cells-")


def _program(main: ModuleType) -> Program:
    """The cells that the notebook has executed so far, or the script's file."""
    shell = vars(main).get("get_ipython")
    if callable(shell) and shell() is not None:
        return Program(list(shell().user_ns.get("In", ())), vars(main), Path.cwd())
    file = getattr(main, "__file__", None)
    if file is None:
        raise UserError(f"the source of interactive input is not available: use a notebook or a script, {_ADVICE}")
    return Program([Path(file).read_text(encoding="utf-8-sig")], vars(main), Path(file).resolve().parent)


@dataclass(frozen=True)
class Statement:
    """A top-level statement of a cell.

    Attributes:
        place: the order in which it was executed.
        binds: names that it sets.
        now: names that it reads when it is executed.
        later: names that functions in it read when they are called.
    """

    place: int
    node: ast.stmt
    text: str
    binds: frozenset[str]
    now: frozenset[str]
    later: frozenset[str]


@dataclass
class Program:
    """Executed cells, and the selection of statements that a function needs.

    Args:
        cells: their sources, in the order of their execution.
        values: current values of the names.
        home: folder of the notebook; other processes do not find modules in it.
    """

    cells: list[str]
    values: dict[str, Any]
    home: Path
    _places: Iterator[int] = field(default_factory=count)
    _chosen: dict[str, Statement] = field(default_factory=dict)
    defined: dict[str, list[Statement]] = field(default_factory=dict)
    #: The last place where the value of a name was changed. A new value that is set after that is not changed.
    changed: dict[str, int] = field(default_factory=dict)
    #: Names for the value of another name (``T = S``): a change of T is a change of S.
    aliases: dict[str, str] = field(default_factory=dict)
    is_future: bool = False

    def __post_init__(self) -> None:
        for cell in self.cells:
            with suppress(SyntaxError, ValueError):  # a cell with a syntax error was not executed
                self._read(cell)

    def _read(self, cell: str) -> None:
        for node in ast.parse(cell).body:
            if timed := _body_of_magic(node):
                self._read(timed)
                continue
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                self.is_future = True
                continue
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
            text = "\n".join(cell.split("\n")[first - 1 : node.end_lineno])
            if first == node.lineno:  # several statements may share a line
                text = ast.get_source_segment(cell, node) or text
            statement = Statement(next(self._places), node, text, *_names(node, text, self.is_future))
            changed = _changed(node)
            for name in list(changed):
                while name := self.aliases.get(name, ""):
                    changed.add(name)
            if isinstance(node, ast.If) and "__name__" in statement.now:  # no run executes it
                changed |= statement.binds
            else:
                for name in statement.binds:
                    self.defined.setdefault(name, []).append(statement)
            self.changed |= dict.fromkeys(changed, statement.place)
            self.aliases = {a: b for a, b in self.aliases.items() if not {a, b} & statement.binds}
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
                self.aliases |= dict.fromkeys(statement.binds - {node.value.id}, node.value.id)

    def file_of(self, function: str) -> str:
        """The text of a file that defines and registers `function`, with everything that it needs.

        Raises:
            UserError: the source of a needed name is not available.
        """
        self._chosen = {}
        if (own := self.defined.get(function)) and not _registering(own[-1].node):
            raise UserError(
                f"{function}() is registered, but not by a decorator directly before its def at the top level of a"
                f" cell; write one there for each name, {_ADVICE}"
            )
        self._need(function, inf, f"{function}()", set())
        used = sorted(self._chosen.values(), key=lambda s: s.place)
        texts = [s.text if function in s.binds else _bare(s) for s in used]
        return (_FUTURE if self.is_future else "") + "\n\n".join(texts) + "\n"

    def _need(self, name: str, before: float, user: str, seen: set[tuple[str, int]]) -> None:
        own = [s for s in self.defined.get(name, ()) if s.place < before]
        if not own:
            if hasattr(builtins, name) or name in ("__name__", "__file__"):
                return
            raise UserError(
                f"{user} needs {name!r}, which no executed cell sets at its top level; set it there, {_ADVICE}"
            )
        statement, last = own[-1], self.defined[name][-1]
        # Settings of a library do not belong to a model: a run's process has its own.
        is_module = isinstance(self.values.get(name), ModuleType)
        is_changed = self.changed.get(name, -1) > statement.place and not is_module
        is_changed |= name in statement.now & statement.binds
        is_changed |= statement.text == last.text and _is_another_value(statement.node, self.values, name)
        if not isinstance(statement.node, _PLAIN) or is_changed:
            raise UserError(
                f"{user} needs {name!r}, which cells change after they set it, so its value does not follow from one"
                f" statement; set it in one statement, {_ADVICE}"
            )
        # Different import statements for the same module are equivalent.
        if statement.text != last.text and not is_module:
            raise UserError(
                f"{user} was defined before a cell set {name!r} again; execute the cell with {user} again, {_ADVICE}"
            )
        self._refuse_neighbour(statement.node, user)
        known = self._chosen.get(statement.text)
        if known is None or statement.place < known.place:
            self._chosen[statement.text] = statement
        if (name, statement.place) in seen:
            return
        seen.add((name, statement.place))
        user = f"{name}()" if isinstance(statement.node, ast.FunctionDef) else name
        for other in sorted(statement.now):
            self._need(other, statement.place, user, seen)
        for other in sorted(statement.later):
            self._need(other, before, user, seen)

    def _refuse_neighbour(self, node: ast.stmt, user: str) -> None:
        """Refuse imports of modules in the notebook's folder, because a run's process does not find them."""
        if not isinstance(node, ast.Import | ast.ImportFrom):
            return
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        for top in {name.partition(".")[0] for name in names} - {"equibench"}:
            file = getattr(sys.modules.get(top), "__file__", None)
            if file is None or is_installed_editable(top):
                continue
            path = Path(file).resolve()
            if (path.parent.parent if path.stem == "__init__" else path.parent) == self.home.resolve():
                raise UserError(
                    f"{user} imports {path.name} from the folder of the notebook, where no run finds it; put the"
                    " model into a file there and give that file as includes=[…]"
                )


def _body_of_magic(node: ast.stmt) -> str:
    """The cell below ``%%time`` or ``%%capture``, which IPython keeps as ``run_cell_magic(name, line, cell)``.

    The statement after ``%time`` is kept as ``run_line_magic(name, line)``.
    """
    match node:
        case ast.Expr(ast.Call(function, [ast.Constant("time" | "capture"), *_, ast.Constant(str(cell))])):
            if not ast.unparse(function).endswith(("get_ipython().run_cell_magic", "get_ipython().run_line_magic")):
                return ""
        case _:
            return ""
    from IPython.core.inputtransformer2 import TransformerManager

    return TransformerManager().transform_cell(cell)  # it may have further magics


def _bare(statement: Statement) -> str:
    """The statement without registering decorators: a file registers only its own function."""
    node = statement.node
    if not (registering := _registering(node)):
        return statement.text
    bare = copy.copy(node)
    bare.decorator_list = [d for d in node.decorator_list if d not in registering]  # type: ignore[attr-defined]
    return ast.unparse(bare)


def _registering(node: ast.stmt) -> list[ast.expr]:
    """The decorators of equibench before a function."""
    own = node.decorator_list if isinstance(node, ast.FunctionDef) else []
    return [d for d in own if ast.unparse(d).split("(")[0].split(".")[-1].startswith("register_")]


def _names(node: ast.stmt, text: str, is_future: bool) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Names that a statement binds, reads when it is executed, and that functions in it read later."""
    top = symtable.symtable((_FUTURE if is_future else "") + text, "cell", "exec")
    now: set[str] = set()
    later: set[str] = set()

    def look(table: symtable.SymbolTable, into: set[str]) -> None:
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (table is top or symbol.is_global()):
                into.add(symbol.get_name())
        for child in table.get_children():
            # Classes and comprehensions are executed immediately, functions when they are called.
            runs = child.get_type() != "function" or child.get_name() in ("listcomp", "setcomp", "dictcomp", "genexpr")
            look(child, into if runs else later)

    look(top, now)
    binds = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}
    return frozenset(binds - ({"annotations"} if is_future else set())), frozenset(now), frozenset(later)


def _changed(node: ast.AST) -> set[str]:
    """Names whose values a statement changes in place: ``a.b = …``, ``a[0] = …``, ``del a.b``, ``a.append(…)``.

    Functions and classes in it are left out, because their statements are executed when they are called.
    """
    targets = [*(getattr(node, "targets", None) or ()), getattr(node, "target", None)]
    if isinstance(node, ast.Call):
        *owner, method = ast.unparse(node.func).split(".")
        in_torch = method.endswith("_") and not method.endswith("__")  # fill_
        if owner and (method in _IN_PLACE or in_torch):
            targets.append(node.func)
        if method in _CHANGE_FIRST or (in_torch and owner[-1:] in ([], ["init"])):
            targets += [ast.Attribute(argument, "") for argument in node.args[:1]]
    found: set[str] = set()
    for target in targets:
        inner = target
        while isinstance(inner, ast.Attribute | ast.Subscript):
            inner = inner.value
        if inner is not target and isinstance(inner, ast.Name):
            found.add(inner.id)
    later = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    inside = () if isinstance(node, later) else ast.iter_child_nodes(node)
    return found.union(*map(_changed, inside))


def _is_another_value(node: ast.stmt, values: dict[str, Any], name: str) -> bool:
    """Whether a statement calculates the value of a name from literals, but its value is another one now."""
    value = getattr(node, "value", None)
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    if value is None or name not in values or not all(isinstance(target, ast.Name) for target in targets):
        return False
    if not all(_is_calculation(part, values) for part in ast.walk(value)):
        return False
    with suppress(Exception):  # it needs another name, or has an error
        # Made by the same code as the cell's value, so that sets have the same order.
        return repr(eval(compile(ast.Expression(value), "cell", "eval"), {})) != repr(values[name])
    return False


def _is_calculation(node: ast.AST, values: dict[str, Any]) -> bool:
    if isinstance(node, ast.Call):
        called = node.func.id if isinstance(node.func, ast.Name) else ""
        return called in _CALCULATING and called not in values  # not numpy's function of the same name
    return not isinstance(node, _NOT_CALCULATING)
