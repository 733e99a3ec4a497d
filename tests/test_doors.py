"""Three doors for models and data sets, with real things: a file in the package, an installed package, a named file."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from equibench.tests.bench import commands

ROOT = Path(__file__).resolve().parents[1]
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", "runs", ".*", "tests", "docs"
)

NETS = '''
from equibench import register_model, register_wrapper
from stranger.layers import Net

@register_model("stranger-net", group="none", invariant="none", source="made up", params={"1x12x12->2": 92})
def stranger_net(in_channels, num_classes, image_size):
    """A stranger's network."""
    return Net(in_channels, num_classes)

@register_model("stranger-other", group="none", invariant="none", source="made up")
def not_named_by_any_entry_point(in_channels, num_classes, image_size):
    return Net(in_channels, num_classes)

@register_wrapper("twice", source="made up")
def twice(model):
    """The model itself."""
    return model
'''
LAYERS = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, channels, classes):
        head = (nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(7, classes))
        super().__init__(nn.Conv2d(channels, 7, 3), nn.ReLU(), *head)
"""
LATE = """
from equibench import register_model
import a_library_that_is_not_there

@register_model("late-net", group="none", invariant="none", source="made up")
def late_net(in_channels, num_classes, image_size):
    ...
"""
MODEL = """
from equibench import register_model

@register_model({name}, group="none", invariant="none", source="made up")
def made_up(in_channels, num_classes, image_size):
    ...
"""
DATA = '''
import numpy as np
from equibench import register_dataset
from equibench.datasets.images import ImageData, Split

@register_dataset("NAME", shape=(1, 12, 12), classes=2, sizes=(64, 20, 20), source="made up")
def bars(root):
    """Noise, the brighter half of it labelled."""
    random = np.random.RandomState(0)
    def split(n):
        labels = np.arange(n) % 2
        images = random.randint(0, 120, (n, 1, 12, 12)) + 100 * labels[:, None, None, None]
        return Split(images.astype(np.uint8), labels.astype(np.int64))
    return ImageData("NAME", split(64), split(20), split(20), 2, 255)
'''
BROKEN = {
    "gone": ("stranger_gone.nets", "stranger_gone"),
    "raises": ("stranger_raises.nets", "cannot even be imported"),
    "ends": ("stranger_ends.nets", "SystemExit"),
    "wrong-syntax": ("stranger.wrong_syntax", "not a Python file"),
    "taken": ("stranger.taken", "'p4cnn' is already taken"),
    "spelt": ("stranger.spelt", "'z2cnn-31' is already taken"),
    "computed": ("stranger.computed", "must be a literal"),
    "empty": ("stranger.layers", "registers no model"),
    "no-function": ("stranger.nets:nothing", "registers no model"),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package that was built and installed there, some of whose entry points are broken."""
    folder = tmp_path_factory.mktemp("stranger")
    points = "\n".join(f'{name} = "{value}"' for name, (value, _) in BROKEN.items())
    modules = {
        "stranger/__init__.py": "",
        "stranger/nets.py": NETS,
        "stranger/layers.py": LAYERS,
        "stranger/late.py": LATE,
        "stranger/data.py": DATA.replace("NAME", "stranger-bars"),
        "stranger/wrong_syntax.py": "from equibench import register_model\ndef (:\n",
        "stranger/taken.py": MODEL.format(name='"p4cnn"'),
        "stranger/spelt.py": MODEL.format(name='"z2cnn-31"'),
        "stranger/computed.py": MODEL.format(name='"p" + str(4)'),
        "stranger_raises/__init__.py": "raise ValueError('cannot even be imported')",
        "stranger_raises/nets.py": NETS,
        "stranger_ends/__init__.py": "import sys; sys.exit(3)",
        "stranger_ends/nets.py": NETS,
    }
    for name, text in modules.items():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "source" / name).write_text(text)
    (folder / "source" / "pyproject.toml").write_text(
        textwrap.dedent("""
        [build-system]
        requires = ["setuptools>=77"]
        build-backend = "setuptools.build_meta"
        [project]
        name = "stranger"
        version = "3.1"
        dependencies = ["torch", "Rare_Library>=1"]
        [tool.setuptools]
        packages = ["stranger", "stranger_raises", "stranger_ends"]
        [project.entry-points."equibench.datasets"]
        bars = "stranger.data"
        lost = "stranger.no_such_data"
        [project.entry-points."equibench.models"]
        net = "stranger.nets:stranger_net"
        twice = "stranger.nets:twice"
        late = "stranger.late"
        """)
        + points
    )
    target = folder / "site"
    uv = os.environ.get("UV") or shutil.which("uv")
    command = [uv, "pip", "install", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install"]
    if not uv and subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        pytest.skip("neither uv nor pip is here to install a package")
    command += ["--quiet", "--no-deps", "--target", str(target), str(folder / "source")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def equibench(cwd: Path, path: Path | None, *arguments: str) -> subprocess.CompletedProcess:
    """A command in a process of its own, if it has a path of its own."""
    if path is None:
        return commands.equibench(*arguments, cwd=cwd, EQUIBENCH_DATA=str(cwd / "data"))
    environment = {**os.environ, "EQUIBENCH_DATA": str(cwd / "data"), "PYTHONPATH": str(path)}
    command = [sys.executable, "-m", "equibench.bench.cli", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def python(path: Path, code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env={**os.environ, "PYTHONPATH": str(path)},
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_installed_package_is_listed_and_what_is_broken_is_named(site: Path, tmp_path: Path) -> None:
    done = equibench(tmp_path, site, "list", "models", "--json")
    assert done.returncode == 0 and "Traceback" not in done.stderr
    names = {row["name"] for row in json.loads(done.stdout)}
    assert {"stranger-net", "late-net", "p4cnn", "z2cnn"} <= names and "stranger-other" not in names
    for name, (_, why) in BROKEN.items():
        (line,) = [row for row in done.stderr.splitlines() if f"plug-in '{name}'" in row]
        assert why in line and line.startswith("equibench: "), line
    assert len(done.stderr.splitlines()) == len(BROKEN)
    data = equibench(tmp_path, site, "list", "datasets", "--json")
    assert "stranger-bars" in {row["name"] for row in json.loads(data.stdout)} and "'lost'" in data.stderr


def test_what_is_installed_beside_us_changes_nothing_of_ours(site: Path) -> None:
    code = (
        "from equibench.registry import MODELS; from equibench.source import source_hash\n"
        "print([(n, MODELS.find(n).entry.path.name, source_hash(MODELS.find(n))) for n in"
        " ('p4cnn', 'z2cnn-31', 'z2cnn-22+frame-c4')], 'torch' in __import__('sys').modules)"
    )
    assert python(site, code) == python(site / "nothing", code)


def test_its_model_wrapper_and_data_set_run_and_a_late_failure_is_a_row(site: Path, tmp_path: Path) -> None:
    done = equibench(
        tmp_path, site, "run", "--dataset", "stranger-bars", "--models", "stranger-net+twice,late-net", "--budget",
        "smoke",
        "--seeds", "1", "--device", "cpu", "--jobs", "1", "--quiet",
    )  # fmt: skip
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert done.returncode == 1 and "ok" in rows["stranger-net+twice"], done.stderr
    assert "a_library_that_is_not_there" in rows["late-net"]


@pytest.mark.slow  # seconds; tests/bench/reports/test_model_card.py has the same in its own process
def test_the_card_of_a_model_that_cannot_be_imported(site: Path, tmp_path: Path) -> None:
    done = equibench(tmp_path, site, "show", "late-net", "--json")
    assert done.returncode == 0 and "a_library_that_is_not_there" in json.loads(done.stdout)["problem"]


def test_a_plugin_is_hashed_with_its_own_modules_and_its_libraries(site: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(site, tmp_path / "site")
    code = (
        "from equibench.registry import MODELS; from equibench.source import libraries, source_hash\n"
        "m = MODELS.find('stranger-net'); print(source_hash(m), libraries(m))"
    )
    first = python(copy, code)
    layers = copy / "stranger" / "layers.py"
    layers.write_text(f"# words\n{LAYERS}")
    assert python(copy, code) == first and first.endswith("{}")
    layers.write_text(LAYERS.replace("channels, 7, 3", "channels, 7, 5"))
    assert python(copy, code) != first, "it calls its own modules by their full names"
    layers.write_text(LAYERS)
    for version in ("1.0", "1.1"):
        info = copy / "rare_library-1.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: Rare_Library\nVersion: {version}\n")
        seen = python(copy, code)
        assert seen != first and f"{{'rare-library': '{version}'}}" in seen
        first = seen


def test_a_file_in_the_package(tmp_path: Path) -> None:
    copy = shutil.copytree(ROOT, tmp_path / "path" / "equibench", ignore=NOT_SOURCE)
    relative = NETS.replace("from equibench import", "from ..registry import")
    (copy / "models" / "mine.py").write_text(relative.replace("from stranger.layers import Net", LAYERS))
    (copy / "datasets" / "mine.py").write_text(DATA.replace("NAME", "my-bars"))
    code = (
        "from equibench.registry import DATASETS, build_model; from pathlib import Path; import torch, equibench\n"
        "print(equibench.__file__, build_model('stranger-net', 1, 2, 12)(torch.zeros(3, 1, 12, 12)).shape[1],"
        " DATASETS.find('my-bars').entry.load()(Path('.')).train.images.shape)"
    )
    assert python(tmp_path / "path", code) == f"{copy}/__init__.py 2 (64, 1, 12, 12)"


def test_a_named_file_and_its_neighbours_from_any_folder(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "mine", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "my_layers.py").write_text(LAYERS)
    text = NETS.replace("from stranger.layers", "from my_layers") + DATA.replace("NAME", "my-bars")
    (folder / "mine.py").write_text(text)
    done = equibench(
        elsewhere, None, "run", "--dataset", "my-bars", "--models", "stranger-net", "--budget", "smoke", "--seeds", "1",
        "--device", "cpu", "--quiet", "--include", "../mine/mine.py",
    )  # fmt: skip
    assert done.returncode == 0 and re.match(r"stranger-net +seed 0 +ok", done.stdout), done.stderr


def test_a_named_file_that_is_wrong_is_an_error(tmp_path: Path) -> None:
    for name, message in (('"p4cnn"', "already taken"), ('"z2cnn-31"', "already taken"), ('"p" + str(4)', "literal")):
        (tmp_path / "mine.py").write_text(MODEL.format(name=name))
        done = equibench(tmp_path, None, "list", "models", "--include", "mine.py")
        assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
