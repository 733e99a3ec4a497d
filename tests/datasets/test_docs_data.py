"""The page on data sets says what is registered, and its example works."""

import re
from pathlib import Path

from equibench.datasets.eurosat import ARCHIVE, EUROSAT
from equibench.datasets.mnist_rot import AMAT_ARCHIVE
from equibench.datasets.vision import CIFAR10, CIFAR100, FASHION_MNIST, MNIST
from equibench.registry import DATASETS
from equibench.tests.bench.commands import equibench

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_every_data_set_stands_there_with_its_sizes_and_digest() -> None:
    for entry in DATASETS.match():
        if entry.origin != "equibench":
            continue
        row = next((line for line in PAGE.splitlines() if line.startswith(f"| `{entry.name}` |")), "")
        assert " / ".join(f"{n:,}" for n in entry.fields["sizes"]) in row, entry.name
        assert entry.fields.get("digest", "") in PAGE, entry.name
        assert f"| `{entry.name}` | {entry.fields['task']} |" in row and row.count("|") == 8, entry.name
        # Who may use it, and what to cite, is said by the registration and by the page alike.
        assert entry.fields["licence"] in PAGE and entry.fields["citation"] in PAGE.replace("*", ""), entry.name


def test_what_is_read_stands_there_with_its_place_and_digest(tmp_path: Path) -> None:
    assert f"| `{AMAT_ARCHIVE.name}` | MD5 `{AMAT_ARCHIVE.md5}` |" in PAGE and f"| `raw/{AMAT_ARCHIVE.path}` |" in PAGE
    assert f"| `EuroSAT.zip` | MD5 `{ARCHIVE.md5}`" in PAGE
    for source in (MNIST, FASHION_MNIST, CIFAR10, CIFAR100, EUROSAT):
        assert source.digest in PAGE
        unpacked, archives = source._places()
        for file in archives:
            assert file in source.files(tmp_path) and not file.folder
            assert f"`{file.path}`" in PAGE or f"`{file.path.rpartition('/')[0]}/`" in PAGE
        assert all(place in PAGE or f"`{place.rpartition('/')[0]}/`" in PAGE for place in unpacked)


def test_the_example_works_as_it_stands(tmp_path: Path) -> None:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    code = next(text for kind, text in blocks if kind == "python" and '"bars"' in text)
    commands = next(text for kind, text in blocks if not kind and "bars.py" in text)
    (tmp_path / "bars.py").write_text(code, encoding="utf-8")
    folders = {"EQUIBENCH_DATA": str(tmp_path / "data"), "EQUIBENCH_RESULTS": str(tmp_path / "results")}
    said = []
    for command in commands.strip().splitlines():
        assert command.startswith("equibench ")
        done = equibench(*command.split()[1:], cwd=tmp_path, **folders)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert re.search(r"bars: 200 train, 50 val, 50 test; in .*data; digest [0-9a-f]{64}\n", said[0])
    assert "z2cnn  seed 0  ok" in said[1]
