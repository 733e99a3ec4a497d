"""What a notebook's cells register, as a file that another process imports."""

import ast
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from equibench.bench.api.notebook_cells import Program, include_cells
from equibench.bench.records.store import SOURCES
from equibench.registry import DATASETS, MODELS, UserError, forget
from equibench.source import source_hash

REGISTERED = "@register_model('cell-net', group='none', invariant='none', source='https://example.org/cell')\n"
IMPORTS = "import torch\nfrom torch import nn\nfrom equibench import register_model"
BLOCK = """
class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3)

    def forward(self, x):
        return self.conv(x).mean((2, 3))
"""
NET = (
    REGISTERED
    + """
def cell_net(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    "A convolution and its mean."
    return Block(num_classes)
"""
)


def program(*cells: str, home: Path = Path("/nowhere")) -> Program:
    """The cells as a notebook executes them, one after the other."""
    values: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells:
        with suppress(SyntaxError):
            exec(compile(cell, "cell", "exec"), values)
    return Program(list(cells), values, home)


def imported(text: str) -> dict[str, Any]:
    """What a fresh module of this text holds."""
    values: dict[str, Any] = {"__name__": "elsewhere"}
    exec(compile(text, "file", "exec"), values)
    return values


def test_the_file_has_what_the_function_needs_and_nothing_else() -> None:
    text = program(IMPORTS, "import pandas as pd\nrows = []", BLOCK, "print('hello')", NET, "unused = 3").file_of(
        "cell_net"
    )
    built = imported(text)["cell_net"](1, 10, 28)
    assert built(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert "pandas" not in text and "unused" not in text and "hello" not in text
    ast.parse(text)


def test_a_cell_that_is_timed_is_a_cell() -> None:
    cell = f"%config Application.log_level = 30\n!echo hello\n{BLOCK}"
    timed = f"get_ipython().run_cell_magic('time', '', {cell!r})\n"
    text = Program([IMPORTS, timed, NET], {}, Path("/nowhere")).file_of("cell_net")
    assert imported(text)["cell_net"](1, 10, 28).conv.kernel_size == (3, 3)
    with pytest.raises(UserError, match="needs 'Block'"):
        Program([IMPORTS, timed.replace("time", "bash"), NET], {}, Path("/nowhere")).file_of("cell_net")


def test_what_is_executed_last_counts() -> None:
    wide = BLOCK.replace("width, 3)", "width, 5)")
    text = program(IMPORTS, BLOCK, NET, wide).file_of("cell_net")
    assert imported(text)["cell_net"](1, 10, 28).conv.kernel_size == (5, 5)
    again = program(IMPORTS, BLOCK, NET, wide, BLOCK).file_of("cell_net")
    assert imported(again)["cell_net"](1, 10, 28).conv.kernel_size == (3, 3)


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        # The class that is there still has the old base: a file would make another network of it.
        (
            ["class Base(nn.Module):\n    k = 3", "class Net(Base): pass", "class Base(nn.Module):\n    k = 5"],
            "Net was defined before a cell set 'Base' again; execute the cell with Net again",
        ),
        (["K = 3", "class Net(nn.Module):\n    k = K", "K = 5"], "Net was defined before a cell set 'K' again"),
        (["K = 3", "K += 1", "def Net(): return K"], "Net() needs 'K', which cells change after they set it"),
        (["for K in (3, 5): pass", "def Net(): return K"], "Net() needs 'K', which cells change after they set it"),
        (["K = 3", "K = K + 1", "def Net(): return K"], "Net() needs 'K', which cells change after they set it"),
        (
            ["class Net(nn.Module): pass", "Net.forward = lambda self, x: x"],
            "cell_net() needs 'Net', which cells change after they set it",
        ),
        (["SIZES = {}", "SIZES['k'] = 3", "def Net(): return SIZES"], "Net() needs 'SIZES', which cells change"),
        (["SIZES = []", "SIZES.append(3)", "def Net(): return SIZES"], "Net() needs 'SIZES', which cells change"),
        (["S = list((1,))", "for k in (1, 2): S.append(k)", "def Net(): return S"], "Net() needs 'S', which cells"),
        (["S = dict(k=3)", "for k in S: S[k] = 5", "def Net(): return S"], "Net() needs 'S', which cells change"),
        (["W = torch.zeros(2)", "W.fill_(1)", "def Net(): return W"], "Net() needs 'W', which cells change"),
        (
            ["class Net(nn.Module): pass", "setattr(Net, 'k', 5)"],
            "cell_net() needs 'Net', which cells change after they set it",
        ),
        (["S = []", "T = S", "T += [3]", "def Net(): return S"], "Net() needs 'S', which cells change"),
        (["K = 3", "def wider():\n    global K\n    K = 5", "wider()", "def Net(): return K"], "needs 'K', which"),
        (["W = torch.zeros(2)", "nn.init.ones_(W)", "def Net(): return W"], "Net() needs 'W', which cells change"),
        (["S = [*range(9)]", "import random", "random.shuffle(S)", "def Net(): return S"], "Net() needs 'S', which"),
        (["S = dict(k=[3])", "T = S", "T['k'] = 5", "def Net(): return S"], "Net() needs 'S', which cells change"),
        (["S = list((1,))", "S = [1]", "S.append(3)", "def Net(): return S"], "Net() needs 'S', which cells change"),
        (["W = torch.zeros(2)", "V = W", "U = V", "U[0] = 1", "def Net(): return W"], "Net() needs 'W', which cells"),
        (["S = [8] * 3", "def grow(s): s.append(3)", "grow(S)", "def Net(): return S"], "Net() needs 'S', which cells"),
        (["S = [2**i for i in range(3)]", "T = [S]", "T[0].pop()", "def Net(): return S"], "Net() needs 'S', which"),
        (["import collections", "S = collections.deque()", "S.appendleft(3)", "def Net(): return S"], "needs 'S'"),
        (["import numpy as np", "S = np.zeros(2)", "np.copyto(S, 1)", "def Net(): return S"], "Net() needs 'S', which"),
        (["if __name__ == '__main__':\n    K = 3", "def Net(): return K"], "Net() needs 'K', which no executed cell"),
        (
            ["K = int(3)", "if __name__ == '__main__':\n    K = int(5)", "def Net(): return K"],
            "Net() needs 'K', which cells change after they set it",
        ),
        (["def Net(): return missing"], "Net() needs 'missing', which no executed cell sets at its top level"),
        (["def Net(): return missing", "def broken(:"], "Net() needs 'missing', which no executed cell sets"),
    ],
)
def test_what_has_no_source_is_said(cells: list[str], says: str) -> None:
    net = NET.replace("Block(num_classes)", "Net()")
    with pytest.raises(UserError) as error:
        program(IMPORTS, *cells, net).file_of("cell_net")
    assert says in str(error.value) and "includes=[…]" in str(error.value)


@pytest.mark.parametrize(
    "cells",
    [
        ["S = []", "S.append(3)", "S = [3]"],
        ["S = []\nS.append(3)", "S = []\nS.append(3)", "S = [3]"],
        ["K = 3", "K += 1", "K = 4", "S = [K]"],
        ["S = list((1,))", "S.append(3)", "S = list((1, 3))"],
        ["S = dict(k={8, 0, 24, 16, 32, 40, 368, 184, 96, 328, 144})"],
        ["S = {368, 8, 184, 0, 168, 96, 328, 144}"],
        ["S = [3]", "T = S", "T = [5]", "T.append(3)"],
        ["S = [3]", "T = S", "S = [3, 5]", "T.append(3)"],
        ["S = [8 * k for k in range(3)]", "S = [*S, 5]", "S = {k: [8] * k for k in range(3)}"],
        ["sum = lambda values: 5", "S = [sum((3, 3))]"],
        ["import functools\nT = '\f'\n@functools.cache\ndef made(): return 3\n", "S = made()"],
    ],
)
def test_a_value_that_is_set_once_more_after_its_changes_is_not_changed(cells: list[str]) -> None:
    """The advice says so: set it in one statement."""
    made = program(IMPORTS, *cells, NET.replace("Block(num_classes)", "S"))
    assert imported(made.file_of("cell_net"))["cell_net"](1, 10, 28) == made.values["S"]


@pytest.mark.parametrize("name", ["cell-net", "n-8"])
def test_a_function_that_no_decorator_registers_is_refused(name: str) -> None:
    plain, head = NET.removeprefix(REGISTERED), REGISTERED[1:].strip().replace("'cell-net'", f"{name!r}")
    loop = f"for w in (8, 9):\n    {REGISTERED}    def cell_net(in_channels, num_classes, image_size): return w"
    for cells in ([BLOCK, plain, f"{head}(cell_net)"], [loop]):
        with pytest.raises(UserError, match=r"cell_net\(\) is registered, but not by a decorator directly before"):
            program(IMPORTS, *cells).file_of("cell_net")


def test_the_same_statement_twice_and_settings_of_libraries_are_no_change() -> None:
    cells = ["K = 3", "class Net(nn.Module):\n    k = K", "K = 3", "torch.backends.cudnn.benchmark = True"]
    cells += ["rows = []", "rows.append(K)", "def unused(S):\n    K.append(S)", "S = [K]", "S.append(3)"]
    text = program(IMPORTS, *cells, "import torch as torch", NET.replace("Block(num_classes)", "Net()")).file_of(
        "cell_net"
    )
    assert imported(text)["cell_net"](1, 10, 28).k == 3


def test_a_module_beside_the_notebook_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_cell_blocks.py").write_text(IMPORTS + "\n" + BLOCK)
    monkeypatch.syspath_prepend(tmp_path)
    cells = [IMPORTS, "from my_cell_blocks import Block", NET]
    with pytest.raises(UserError, match=r"my_cell_blocks\.py from the folder of the notebook"):
        program(*cells, home=tmp_path).file_of("cell_net")
    assert "my_cell_blocks" in program(*cells).file_of("cell_net"), "elsewhere it is found by every process"
    monkeypatch.setattr("equibench.bench.api.notebook_cells.is_installed_editable", {"my_cell_blocks"}.__contains__)
    assert "my_cell_blocks" in program(*cells, home=tmp_path).file_of("cell_net"), "and here, by pip install -e"


def test_a_magic_that_is_called_by_other_values_hides_no_statement() -> None:
    cell = f"get_ipython().run_line_magic(name, 'x')\nget_ipython().run_line_magic()\n{BLOCK}"
    assert "class Block" in Program([IMPORTS, cell, NET], {}, Path("/nowhere")).file_of("cell_net")


def test_each_file_registers_its_own_function_alone() -> None:
    other = (
        NET.replace("cell-net", "other-net").replace("def cell_net", "def other_net").replace("Block(", "cell_net(1, ")
    )
    other = other.replace("num_classes)\n", "num_classes, 28)\n")
    made = program(IMPORTS, BLOCK, NET, other)
    text = made.file_of("other_net")
    assert text.count("@register_model") == 1 and "'other-net'" in text
    assert "'cell-net'" in made.file_of("cell_net")


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A notebook's main module."""
    made = ModuleType("__main__")
    shell = ModuleType("shell")
    shell.user_ns = {"In": [""]}  # type: ignore[attr-defined]
    made.get_ipython = lambda: shell  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "__main__", made)
    yield made
    for path in MODELS.included:
        forget(path)


def execute(main: ModuleType, cell: str) -> None:
    vars(main)["get_ipython"]().user_ns["In"].append(cell)
    exec(compile(cell, "cell", "exec"), vars(main))


def test_a_cell_is_registered_kept_and_replaced(main: ModuleType, tmp_path: Path) -> None:
    for cell in (IMPORTS, BLOCK, NET):
        execute(main, cell)
    (first,) = include_cells(tmp_path)
    assert first.parent == tmp_path / SOURCES and first.is_file()
    before = source_hash(MODELS.find("cell-net"))
    execute(main, NET.replace('"A convolution and its mean."', '"Other words."  # and a remark'))
    include_cells(tmp_path)
    assert source_hash(MODELS.find("cell-net")) == before, "words and remarks make no other network"
    execute(main, BLOCK.replace("width, 3)", "width, 5)"))
    (second,) = include_cells(tmp_path)
    assert second != first and first.is_file(), "records of the first say its name"
    assert source_hash(MODELS.find("cell-net")) != before
    assert MODELS.find("cell-net").entry.load()(1, 10, 28).conv.kernel_size == (5, 5)
    second.write_text(second.read_text().replace("5)", "7)"))
    execute(main, BLOCK)
    include_cells(tmp_path)
    execute(main, BLOCK.replace("width, 3)", "width, 5)"))
    with pytest.raises(UserError, match="changed by hand"):
        include_cells(tmp_path, ["cell-net+frame-c4"])


def test_a_function_that_is_gone_registers_nothing(main: ModuleType, tmp_path: Path) -> None:
    """Also two functions with one name: after a cell was copied, or its function got another name."""
    for cell in (IMPORTS, BLOCK, NET):
        execute(main, cell)
    include_cells(tmp_path)
    execute(main, NET.replace("def cell_net", "def other_net"))
    with pytest.raises(UserError, match=r"cell_net\(\) and other_net\(\) both register 'cell-net'; .*: del cell_net"):
        include_cells(tmp_path, ["cell-net"])
    execute(main, "del cell_net")
    (file,) = include_cells(tmp_path, ["cell-net"])
    assert file.name.startswith("other-net-")
    execute(main, NET.replace("def cell_net", "def other_net").replace(REGISTERED, ""))
    assert include_cells(tmp_path, ["cell-net"]) == [] and "cell-net" not in MODELS.entries()


def test_a_data_set_of_a_cell_is_registered_too(main: ModuleType, tmp_path: Path) -> None:
    execute(main, "import numpy as np\nfrom equibench import register_dataset\nCLASSES = 2")
    execute(main, "from equibench.datasets.images import ImageData, Split")
    part = "Split(np.full((4, 1, 8, 8), 7, np.uint8), np.arange(4) % CLASSES)"
    execute(
        main,
        "@register_dataset('cell-data', shape=(1, 8, 8), classes=2, sizes=(4, 4, 4), source='https://example.org')\n"
        f"def cell_data(root):\n    return ImageData('cell-data', {part}, {part}, {part}, CLASSES, 255)",
    )
    (file,) = include_cells(tmp_path, ["cell-data"])
    assert file.name.startswith("cell-data-") and "CLASSES = 2" in file.read_text()
    made = DATASETS.find("cell-data").entry.load()(tmp_path)
    assert made.train.images.shape == (4, 1, 8, 8) and made.train.labels.tolist() == [0, 1, 0, 1]


def test_a_function_without_source_stops_nobody_but_its_own_model(main: ModuleType, tmp_path: Path) -> None:
    for cell in (IMPORTS, "for Block in [nn.Identity]: pass", NET):
        execute(main, cell)
    with pytest.warns(UserWarning, match="'Block'"):
        assert include_cells(tmp_path, ["p4cnn"]) == []
    with pytest.raises(UserError, match="'Block'"):
        include_cells(tmp_path, ["cell-net"])


def test_what_is_typed_has_no_source(main: ModuleType, tmp_path: Path) -> None:
    for cell in (IMPORTS, BLOCK, NET):
        execute(main, cell)
    del main.get_ipython
    with pytest.raises(UserError, match="the source of interactive input is not available"):
        include_cells(tmp_path, ["cell-net"])
