"""The hash of a model's source: the program counts, words about it do not."""

from pathlib import Path

import pytest
from equibench.bench.provenance import source_hash, versions
from equibench.registry import MODELS, Registry

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
    from equibench.bench.provenance import _closure

    files = {p.name for p in _closure(MODELS.find(name).files)}
    needed = {"p4cnn": "g_conv.py", "e2cnn-c8-25k": "escnn_adapter.py", "pdo-econv-p8": "stencils.py"}
    assert needed[name] in files and "registry.py" not in files


def test_wrappers_count(tmp_path: Path) -> None:
    assert source_hash(MODELS.find("z2cnn+frame-c4")) != source_hash(MODELS.find("z2cnn"))


def test_versions_name_what_is_installed() -> None:
    import torch

    assert versions()["torch"] == torch.__version__.split("+")[0] or versions()["torch"] == torch.__version__
