"""The page on data sets says what is registered, and its example works."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from equibench.datasets import cifar, mnist_rot
from equibench.registry import DATASETS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
FILES = [*mnist_rot.MNIST_FILES, mnist_rot.AMAT_ARCHIVE, cifar.CIFAR10_ARCHIVE, cifar.CIFAR100_ARCHIVE]


def test_every_data_set_stands_there_with_its_sizes_and_digest() -> None:
    for entry in DATASETS.match():
        if entry.origin != "equibench":
            continue
        row = next((line for line in PAGE.splitlines() if line.startswith(f"| `{entry.name}` |")), "")
        assert " / ".join(f"{n:,}" for n in entry.fields["sizes"]) in row, entry.name
        assert entry.fields.get("digest", "") in PAGE, entry.name


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_every_file_stands_there_with_its_digest(file) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{file.name}` | "))
    assert f"`{file.md5}`" in row and file.sha256 in row and (file.size is None or f"{file.size:,}" in row)
    assert f"raw/{file.path.rpartition('/')[0]}/" in PAGE


def test_the_example_works_as_it_stands(tmp_path: Path) -> None:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    code = next(text for kind, text in blocks if kind == "python" and '"bars"' in text)
    commands = next(text for kind, text in blocks if not kind and "bars.py" in text)
    (tmp_path / "bars.py").write_text(code, encoding="utf-8")
    folders = {"EQUIBENCH_DATA": str(tmp_path / "data"), "EQUIBENCH_RESULTS": str(tmp_path / "results")}
    said = []
    for command in commands.strip().splitlines():
        assert command.startswith("equibench ")
        words = [sys.executable, "-m", "equibench.bench.cli", *command.split()[1:]]
        done = subprocess.run(words, cwd=tmp_path, env={**os.environ, **folders}, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert re.search(r"bars: 200 train, 50 val, 50 test; in .*data; digest [0-9a-f]{64}\n", said[0])
    assert "z2cnn  seed 0  ok" in said[1]
