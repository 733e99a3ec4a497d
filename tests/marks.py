"""The marks of tests as their files have them, for tests of what pages and docstrings say of other tests."""

import ast
import functools
from pathlib import Path
from typing import NamedTuple


class Marked(NamedTuple):
    """The marks of all cases of a test, and the words of its decorators, their comments and its docstring."""

    marks: set[str]
    words: str


@functools.cache
def marked_tests(path: Path) -> dict[str, Marked]:
    """The tests of a file by their names. Marks of single cases (`pytest.param`) are left out."""
    text = path.read_text(encoding="utf-8")
    lines, tree = text.splitlines(), ast.parse(text)
    shared = set[str]()
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "pytestmark" for t in node.targets):
            shared = {mark for part in ast.walk(node.value) if (mark := _mark(part))}
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            own = {mark for each in node.decorator_list if (mark := _mark(getattr(each, "func", each)))}
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            words = "\n".join([*lines[first - 1 : node.lineno - 1], ast.get_docstring(node) or ""])
            found[node.name] = Marked(shared | own, words)
    return found


def _mark(node: ast.AST) -> str:
    """`slow` of `pytest.mark.slow`; empty for anything else."""
    of_marks = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == "mark"
    return node.attr if of_marks else ""
