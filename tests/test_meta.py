"""Nothing is registered that has no test, no source or no card; no test is left to `whole` without a faster sibling."""

import ast
import importlib
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from equibench.bench.publish.bibtex import entry as cite
from equibench.registry import DATASETS, MODELS, Entry
from equibench.tests.marks import marked_tests

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent


def imports_and_words(folder: Path) -> tuple[set[str], set[str]]:
    """Modules that the tests of a folder import, and the string literals in them."""
    modules, words = set(), set()
    for path in folder.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                modules |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
            elif isinstance(node, ast.Import):
                modules |= {a.name for a in node.names}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                words.add(node.value)
    return modules, words


def untested(entries: Iterable[Entry], modules: set[str], words: set[str]) -> list[str]:
    """Entries whose file no test imports, and of whose function no test mentions a name."""
    entries = list(entries)
    named = {(e.module, e.function) for e in entries if e.name in words}
    return [e.name for e in entries if e.module not in modules and (e.module, e.function) not in named]


def without_source(entries: Iterable[Entry]) -> list[str]:
    """Entries that do not say where they come from, or what they are."""
    return [e.name for e in entries if len(str(e.fields.get("source", "")).strip()) < 8 or not e.doc]


def without_card(entries: Iterable[Entry], shown: set[str]) -> list[str]:
    """Entries whose card no test looks at whole, or whose source a card cannot cite."""
    entries = [e for e in entries if not e.is_template]
    return [e.name for e in entries if e.name not in shown or not cite(e.fields["source"]).startswith("@")]


def module_of(path: Path) -> ModuleType:
    """A module of tests with its neighbours and the packages above it, imported to read its lists."""
    name = __name__ + "_of"
    for folder in reversed([p for p in path.parents if TESTS in p.parents]):
        name = f"{name}.{folder.name}" if name in sys.modules else f"{name}_{folder.name}"
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    return importlib.import_module(f"{name}.{path.stem}")


def listed(test: Callable[..., None]) -> set[str]:
    """The names that a test is parametrised with."""
    values = next(m for m in test.pytestmark if m.name == "parametrize").args[1]
    return {v if isinstance(v, str) else v[0] for v in values}


ENTRIES = {"models": MODELS.match(), "datasets": DATASETS.match()}


@pytest.mark.parametrize("room", ENTRIES)
def test_everything_has_a_test_of_its_own_file(room: str) -> None:
    modules, words = imports_and_words(TESTS / room)
    assert untested(ENTRIES[room], modules, words) == []
    stranger = replace(ENTRIES[room][0], name="nobody-tests-me", module=f"equibench.{room}.nobody_tests_me")
    assert untested([stranger], modules, words) == ["nobody-tests-me"]


def test_every_model_is_among_those_that_are_checked_whole() -> None:
    """By the tests' own lists, so that none is left out by a filter."""
    module = module_of(TESTS / "models" / "test_every_model.py")
    small, large = (
        listed(module.test_a_small_model_passes_the_whole_check),
        listed(module.test_another_model_passes_the_whole_check),
    )
    assert small | large == {e.name for e in MODELS.match() if not e.is_template} and not small & large
    # Of a family, published members are among these, or one that is named for it.
    families = {e.name: e.function for e in MODELS.match() if e.is_template}
    members = {MODELS.find(name).entry.name for name in listed(module.test_a_member_of_a_family_passes_the_whole_check)}
    published = {e.function for e in MODELS.match() if not e.is_template}
    assert [name for name, function in families.items() if name not in members and function not in published] == []


@pytest.mark.parametrize("room", ENTRIES)
def test_everything_names_its_source(room: str) -> None:
    assert without_source(ENTRIES[room]) == []
    nameless = replace(ENTRIES[room][0], fields={**ENTRIES[room][0].fields, "source": " "})
    assert without_source([nameless, replace(ENTRIES[room][0], doc="")]) == [nameless.name] * 2


def test_every_model_has_a_card() -> None:
    module = module_of(TESTS / "bench" / "reports" / "test_model_card.py")
    shown = listed(module.test_a_card_says_everything) | listed(module.test_every_card_says_everything)
    assert without_card(MODELS.match(), shown) == []
    assert without_card(MODELS.match()[:1], set()) == [MODELS.match()[0].name]


def test_every_data_set_is_on_the_page_about_data() -> None:
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert [e.name for e in DATASETS.match() if f"`{e.name}`" not in text] == []


#: Marks of tests that are not in the default run.
LEFT_OUT = ("slow", "whole", "gpu", "slurm")


def without_sibling(paths: Iterable[Path]) -> list[str]:
    """Tests marked ``whole`` whose decorators and docstring name no test of the default run."""
    here, whole = set[str](), dict[str, str]()
    for path in paths:
        text = path.read_text(encoding="utf-8")
        if not any(f"mark.{mark}" in text for mark in LEFT_OUT):
            here |= set(re.findall(r"^def (test_\w+)", text, re.MULTILINE))
            continue
        for name, (marks, words) in marked_tests(path).items():
            if "whole" in marks:
                whole[name] = words
            elif not marks & set(LEFT_OUT):
                here.add(name)
    return [name for name, words in whole.items() if not here & set(re.findall(r"test_\w+", words))]


def test_whole_tests_name_their_siblings_of_the_default_run(tmp_path: Path) -> None:
    assert without_sibling(TESTS.rglob("test_*.py")) == []
    (tmp_path / "test_it.py").write_text(
        "@pytest.mark.slow\ndef test_a(): pass\n\n@pytest.mark.whole\n"
        'def test_b():\n    """`test_a` is its sibling, which is slow."""\n'
    )
    assert without_sibling([tmp_path / "test_it.py"]) == ["test_b"]
