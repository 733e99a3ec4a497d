"""The house: imports run one way through the rooms of `bench`, and the command line begins without torch."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Rooms from the bottom to the top. A room imports from those below it. Two on one floor do not import each other.
FLOORS = (
    ("tools",),
    ("spec",),
    ("records",),
    ("boards", "measures"),
    ("publish", "training"),
    ("runner",),
    ("check", "reports"),
    ("exchange",),
    ("cli", "worker"),
    ("api",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
#: What is decided in one file of `bench`: a pattern of the code, and the file.
ONCE = {
    r'derive\(.*"weights"': "training/prepare.py",  # a model from a seed
    r"__name__\}: ": "tools/text.py",  # an error as one line
    r"\bProvenance\(": "records/provenance.py",
    r"schema_version=\d+,[^()]*\bresults=None\b": "records/record.py",  # a record without a result
    r'\broot / f?"': "records/store.py",  # a path below the results folder
    r'(?m)^[A-Z_, =]+= \(?"(outcomes|runs)"': "records/store.py",  # the folders there
}
#: Public in spite of their underscore: methods and fields of every named tuple.
OF_NAMED_TUPLES = ("_asdict", "_field_defaults", "_fields", "_make", "_replace")
#: A folder with more modules than this is searched, not looked through.
MOST_MODULES = 14

#: Libraries that take a second or more to import.
HEAVY = ("torch", "torchvision", "escnn", "pandas", "scipy", "matplotlib")


class Arrow(NamedTuple):
    """An import of a module, or the use of a name of it; `at_start` where this is done as soon as `who` is imported."""

    who: str
    module: str
    name: str
    at_start: bool

    @property
    def rooms(self) -> tuple[str, str]:
        return room_of(self.who), room_of(self.module)


def room_of(module: str) -> str:
    """The room of a module of `bench`; empty for anything else."""
    first, *rest = module.split(".")
    return rest[0] if first == "bench" and rest else ""


def dotted(path: Path, root: Path) -> str:
    name = path.relative_to(root).with_suffix("").as_posix().replace("/", ".")
    return name.removesuffix(".__init__")


def _is_later(node: ast.AST) -> bool:
    """Whether what stands in it is not run when its module is imported."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def absolute(module: str, level: int, package: list[str]) -> str:
    """The name of a module below the root, from its name in an import with `level` dots before it."""
    base = package[: len(package) - level + 1] if level else []
    return ".".join([*base, *filter(None, [module])]).removeprefix("equibench").removeprefix(".")


def arrows_of(path: Path, root: Path) -> Iterator[Arrow]:
    """All imports of a file, from its syntax tree; those of a library too, by its name. Also those by ``import_module``
    with a literal name, and the private names that it uses of modules.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    later = {child for node in ast.walk(tree) if _is_later(node) for child in ast.walk(node)}
    package, who = list(path.relative_to(root).parent.parts), dotted(path, root)
    modules: dict[str, str] = {}  # by their names in the file
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole = absolute(alias.name, 0, package)
                first = alias.name.split(".")[0]  # the name that the statement gives, unless it says another
                modules[alias.asname or first] = whole if alias.asname else absolute(first, 0, package)
                yield Arrow(who, whole, "", node not in later)
        elif isinstance(node, ast.ImportFrom):
            module = absolute(node.module or "", node.level, package)
            for alias in node.names:
                inner = root.joinpath(*module.split("."), alias.name)
                is_module = inner.with_suffix(".py").is_file() or (inner / "__init__.py").is_file()
                whole = f"{module}.{alias.name}".strip(".") if is_module else module
                if is_module:
                    modules[alias.asname or alias.name] = whole
                yield Arrow(who, whole, "" if is_module else alias.name, node not in later)
        elif isinstance(node, ast.Call) and re.search(r"\b(import_module|__import__)$", ast.unparse(node.func)):
            name = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ""
            if name:
                level = len(name) - len(name.lstrip("."))
                yield Arrow(who, absolute(name.lstrip("."), level, package), "", node not in later)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            first, _, rest = ast.unparse(node.value).partition(".")
            if first in modules:
                yield Arrow(who, f"{modules[first]}.{rest}".strip("."), node.attr, node not in later)


def arrows(root: Path = ROOT, folder: str = "bench") -> list[Arrow]:
    return [arrow for path in sorted((root / folder).rglob("*.py")) for arrow in arrows_of(path, root)]


def upward(found: list[Arrow]) -> list[Arrow]:
    """Imports from a room above, or from the other room of a floor: without them, no rooms import each other."""
    within = [a for a in found if all(r in FLOOR for r in a.rooms) and a.rooms[0] != a.rooms[1]]
    return [a for a in within if FLOOR[a.rooms[1]] >= FLOOR[a.rooms[0]]]


def private(found: list[Arrow]) -> list[Arrow]:
    """Names with an underscore that a module takes from another, or uses through it."""
    ours = ("bench", "datasets", "models", "registry", "scan", "source", "opened_files", "side_files", "interface")
    names = [a for a in found if re.match("_[^_]", a.name) and a.name not in OF_NAMED_TUPLES]
    return [a for a in names if a.module.split(".")[0] in ours]


def reached_at_start(root: Path, module: str) -> dict[str, str]:
    """Every module that an import of `module` imports, with the one that asked for it first."""
    asked, waiting = {module: ""}, [module]
    while waiting:
        name = waiting.pop()
        stem = root.joinpath(*name.split("."))
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.is_file():
                for arrow in arrows_of(path, root):
                    if arrow.at_start and arrow.module not in asked:
                        asked[arrow.module] = name
                        waiting.append(arrow.module)
    return asked


def house(folder: Path, **files: str) -> Path:
    """A house of these files, by dotted names with ``__`` for dots."""
    for name, text in files.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_every_module_is_in_a_room_that_says_what_it_is_for() -> None:
    rooms = {p.name for p in (ROOT / "bench").iterdir() if (p / "__init__.py").is_file()}
    modules = {p.stem for p in (ROOT / "bench").glob("*.py") if p.name != "__init__.py"}
    assert rooms | modules == set(FLOOR)
    for path in (ROOT / "bench").rglob("__init__.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree) and len(tree.body) == 1, f"{path} holds one sentence and nothing else"


def test_no_folder_is_crowded() -> None:
    folders = [p.parent for p in (ROOT / "bench").rglob("__init__.py")]
    modules = {f: [p for p in f.glob("*.py") if p.name != "__init__.py"] for f in folders}
    assert {f.name: len(m) for f, m in modules.items() if len(m) > MOST_MODULES} == {}


def test_no_import_runs_up_or_to_the_other_room_of_a_floor() -> None:
    found = arrows()
    assert upward(found) == [] and len([a for a in found if all(a.rooms)]) > 500


@pytest.mark.parametrize("room", ["runner", "measures"])
@pytest.mark.parametrize(
    "line",
    [
        "from ..{room} import two",
        "from ..{room}.two import f",
        "from equibench.bench.{room} import two",
        "import equibench.bench.{room}.two",
        "import equibench.bench.{room}.two as other",
        "importlib.import_module('equibench.bench.{room}.two')",
        "import_module('..{room}.two', __package__)",
        "__import__('equibench.bench.{room}.two')",
    ],
)
def test_an_import_that_runs_up_or_sideways_is_found(tmp_path: Path, line: str, room: str) -> None:
    wrong = house(
        tmp_path,
        bench__boards__one=f"def f():\n    {line.format(room=room)}\n",
        **{f"bench__{room}__two": "from ..records.three import f\n"},
    )
    (found,) = upward(arrows(wrong))
    assert (found.who, found.module, found.at_start) == ("bench.boards.one", f"bench.{room}.two", False)


def test_neither_models_nor_data_sets_import_from_the_harness() -> None:
    """What a model imports is part of its source: a change of the harness would make all rows stale."""
    found = [a for folder in ("models", "datasets") for a in arrows(ROOT, folder)]
    assert len(found) > 100 and [a for a in found if a.module.split(".")[0] == "bench"] == []


def test_no_private_name_is_used_elsewhere(tmp_path: Path) -> None:
    assert private(arrows()) == []
    wrong = house(
        tmp_path,
        bench__spec__one="from ..tools.two import _x, __doc__, y\nfrom ..tools import two\n(two._y, two.__doc__)\n",
        bench__spec__four="from ..tools import two\ntwo.named_tuple._replace(x=1)\n",
        bench__spec__three="import equibench.bench.tools.two\nequibench.bench.tools.two._z\nself._mine, np._theirs\n",
        bench__tools__two="_x = y = 1\n",
    )
    assert [a.name for a in private(arrows(wrong))] == ["_x", "_y", "_z"]


@pytest.mark.parametrize("pattern", ONCE)
def test_what_is_decided_in_one_place_stays_there(pattern: str) -> None:
    texts = {
        path.relative_to(ROOT / "bench").as_posix(): path.read_text("utf-8") for path in (ROOT / "bench").rglob("*.py")
    }
    assert {name for name, text in texts.items() if re.search(pattern, text)} == {ONCE[pattern]}


@pytest.mark.parametrize("module", ["bench.cli.main", "bench.cli.__main__", "bench.runner.head_to_head"])
def test_torch_is_not_reached_at_the_start(module: str) -> None:
    asked = reached_at_start(ROOT, module)
    heavy = {name: who for name, who in asked.items() if name.split(".")[0] in HEAVY}
    assert heavy == {} and len(asked) > 10


def test_the_python_interface_starts_without_pydantic() -> None:
    """It takes some tenths of a second, and a notebook that lists or builds models needs no schemas."""
    asked = reached_at_start(ROOT, "bench.api.models")
    assert "pydantic" not in asked and "bench.api.notebook_cells" in asked


def test_torch_that_is_reached_is_found(tmp_path: Path) -> None:
    wrong = house(
        tmp_path,
        bench__cli__main="import json\nfrom ..spec import suite\n",
        bench__spec__suite="if TYPE_CHECKING:\n    import pandas\nfrom ..tools.files import x\n",
        bench__tools__files="import torch.nn\ndef x():\n    import scipy\n",
    )
    asked = reached_at_start(wrong, "bench.cli.main")
    assert asked["torch.nn"] == "bench.tools.files" and not {"pandas", "scipy"} & set(asked)


@pytest.mark.parametrize("room", ["tools", "spec", "records", "boards", "exchange"])
def test_a_room_without_torch_is_imported_without_it(room: str) -> None:
    """All its modules, in a process of their own, as the syntax tree cannot see what libraries import."""
    modules = [f"equibench.{dotted(p, ROOT)}" for p in sorted((ROOT / "bench" / room).rglob("*.py"))]
    code = "import sys, importlib; [importlib.import_module(m) for m in sys.argv[1:]]; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_tests_lie_in_the_rooms_of_what_they_test() -> None:
    """A test of the harness lies in a room that exists, or beside the helpers where it is about the whole."""
    folders = {p.parent.relative_to(ROOT / "tests").as_posix() for p in (ROOT / "tests" / "bench").rglob("test_*.py")}
    assert {f for f in folders if not (ROOT / f).is_dir()} == {"bench/faults"}
