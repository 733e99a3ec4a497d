"""The hash of a model's source: the program counts, words about it do not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from equibench.bench.records.provenance import hardware, query_devices, versions
from equibench.registry import MODELS, Registry
from equibench.source import closure, libraries, source_hash

MODEL = '''"""About."""
from equibench import register_model
import layers

@register_model("hashed", group="none", invariant="none", source="made up")
def hashed(in_channels, num_classes, image_size):
    """What it is."""
    return layers.make(3)  # why
'''
LAYERS = "def make(n):\n    return n\n"


def hash_of(folder: Path, model: str = MODEL, layers: str = LAYERS) -> str:
    folder.mkdir()
    (folder / "mine.py").write_text(model)
    (folder / "layers.py").write_text(layers)
    registry = Registry("model", "models")
    registry.include(folder / "mine.py")
    return source_hash(registry.find("hashed"))


def test_comments_docstrings_and_layout_do_not_count(tmp_path: Path) -> None:
    reworded = MODEL.replace("# why", "# another reason").replace("What it is.", "Other words.").replace("About.", "X")
    reworded = reworded.replace("    return layers", "\n    return layers")
    assert hash_of(tmp_path / "a") == hash_of(tmp_path / "b", reworded)


def test_a_change_of_the_program_counts(tmp_path: Path) -> None:
    hashes = {hash_of(tmp_path / "a"), hash_of(tmp_path / "b", MODEL.replace("make(3)", "make(4)"))}
    hashes.add(hash_of(tmp_path / "c", layers=LAYERS.replace("return n", "return n + 1")))
    assert len(hashes) == 3


@pytest.mark.parametrize("name", ["p4cnn", "e2cnn-c8-25k", "pdo-econv-p8"])
def test_models_hash_the_layers_that_they_are_built_from(name: str) -> None:
    files = {p.name for p in closure(MODELS.find(name).files)}
    needed = {"p4cnn": "g_conv.py", "e2cnn-c8-25k": "escnn_adapter.py", "pdo-econv-p8": "stencils.py"}
    assert needed[name] in files and "registry.py" not in files


def test_wrappers_count(tmp_path: Path) -> None:
    assert source_hash(MODELS.find("z2cnn+frame-c4")) != source_hash(MODELS.find("z2cnn"))


def test_versions_name_what_is_installed() -> None:
    import torch

    assert versions()["torch"] == torch.__version__.split("+")[0] or versions()["torch"] == torch.__version__


USES_A_PACKAGE = MODEL.replace("import layers\n", "{imports}\n")


@pytest.mark.parametrize(
    ("imports", "regular"),
    [
        ("from mylib import layers", True), ("from mylib import layers", False),
        ("import mylib.layers as layers", True), ("import mylib.layers as layers", False),
        ("from mylib.layers import make", True), ("from mylib.layers import make", False),
        ("from mylib import *", True),
    ],
)  # fmt: skip
def test_packages_beside_an_included_file_count(tmp_path: Path, imports: str, regular: bool) -> None:
    def hashed(name: str, number: int) -> str:
        library = tmp_path / name / "mylib"
        library.mkdir(parents=True)
        if regular:
            (library / "__init__.py").write_text("from . import layers\n")
        (library / "layers.py").write_text("from mylib.deep import N\ndef make(n):\n    return n\n")
        (library / "deep.py").write_text(f"N = {number}\n")
        (tmp_path / name / "mine.py").write_text(USES_A_PACKAGE.format(imports=imports))
        registry = Registry("model", "models")
        registry.include(tmp_path / name / "mine.py")
        return source_hash(registry.find("hashed"))

    assert hashed("a", 16) == hashed("b", 16) != hashed("c", 32)


def test_a_model_that_builds_on_layers_of_ours_changes_with_them(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from equibench.models.pdo.layers import PDOConv\nfrom equibench import run\n")
    names = {p.name for p in closure([tmp_path / "mine.py"])}
    assert {"mine.py", "layers.py", "stencils.py"} <= names and not names & {"registry.py", "head_to_head.py"}


def test_files_of_one_name_are_hashed_in_the_same_order_everywhere(tmp_path: Path) -> None:
    for folder, number in (("conv", 1), ("norm", 2), ("pool", 3)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "layers.py").write_text(f"make = {number}\n")
    (tmp_path / "mine.py").write_text(USES_A_PACKAGE.format(imports="import conv.layers, norm.layers, pool.layers"))
    code = (
        "import sys; from equibench.registry import Registry; from equibench.source import source_hash\n"
        f"r = Registry('model', 'models'); r.include({str(tmp_path / 'mine.py')!r});"
        " print(source_hash(r.find('hashed')))"
    )
    found = set()
    for seed in "123456":
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )  # fmt: skip
        found.add(done.stdout)
    assert len(found) == 1


def test_the_library_that_makes_the_kernels_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    import equibench.source as source

    e2cnn, others = MODELS.find("e2cnn-c8-25k"), [MODELS.find(n) for n in ("p4cnn", "pdo-econv-p8", "wrn-10-b9")]
    assert list(libraries(e2cnn)) == ["escnn"] and not any(map(libraries, others))
    before = [source_hash(m) for m in (e2cnn, *others)]
    monkeypatch.setattr(source, "_version", lambda name: "9.9" if name in ("escnn", "torch") else "")
    after = [source_hash(m) for m in (e2cnn, *others)]
    assert after[0] != before[0] and after[1:] == before[1:]


def test_files_of_the_current_folder_stand_in_for_no_module_where_a_device_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "torch", "statistics"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('another file')\n")
    monkeypatch.chdir(tmp_path)
    assert query_devices(["cpu"]) == {"cpu": (hardware("cpu")["hardware_key"], "")}
