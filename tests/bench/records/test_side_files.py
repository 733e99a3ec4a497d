"""Files beside the code decide what is built and made: they are part of the hash, of the cache, and of what is
stale.
"""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from equibench.bench.boards.board import load_board
from equibench.bench.records.record import read_board
from equibench.bench.records.staleness import staleness
from equibench.datasets.images import load
from equibench.opened_files import Opened, opened_by, watching
from equibench.registry import DATASETS, MODELS, build_model, include
from equibench.side_files import MANY_FILES, contents, files_beside
from equibench.source import data_hash, source_hash

from .. import commands

SET = """
from pathlib import Path
import numpy as np
from equibench import register_dataset
from equibench.datasets.images import ImageData, Split

@register_dataset("beside-{name}", shape=(1, 4, 4), classes=2, sizes=(40, 8, 8), source="made up")
def beside(root: Path) -> ImageData:
    {read}
    random = np.random.RandomState(seed)
    def split(n): return Split(random.randint(0, 256, (n, 1, 4, 4)).astype(np.uint8), np.arange(n) % 2)
    return ImageData("beside-{name}", split(40), split(8), split(8), 2, 255)
"""
NET = """
import json
from pathlib import Path
from torch import nn
from equibench import register_model

@register_model("configured", group="none", invariant="none", source="made up", note="words")
def configured(in_channels, num_classes, image_size):
    width = json.loads((Path(__file__).parent / "config.json").read_text())["width"]
    return nn.Sequential(nn.Flatten(), nn.Linear(16 * in_channels, width), nn.ReLU(), nn.Linear(width, num_classes))
"""
NPZ = 'seed = int(np.load(Path(__file__).parent / "data.npz")["seed"])'
FOLDER = 'seed = sum(int(p.read_text()) for p in sorted((Path(__file__).parent / "parts").glob("*.txt")))'
IF_THERE = """seed = 0
    try:
        seed = int((Path(__file__).parent / "seed.txt").read_text())
    except FileNotFoundError:
        pass"""


def data_set(folder: Path, name: str, read: str) -> Path:
    path = folder / f"{name}.py"
    path.write_text(SET.format(name=name, read=read))
    include([path])
    return path


def put(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("name", "read", "first", "then"),
    [
        ("folder", FOLDER, {"parts/a.txt": "1"}, {"parts/b.txt": "5"}),
        ("edit", FOLDER, {"parts/a.txt": "1", "parts/b.txt": "1"}, {"parts/b.txt": "2"}),
        ("later", IF_THERE, {}, {"seed.txt": "3"}),
    ],
)
def test_a_data_set_is_made_again_when_its_files_change(
    tmp_path: Path, name: str, read: str, first: dict[str, str], then: dict[str, str]
) -> None:
    for file, text in first.items():
        put(tmp_path / file, text)
    data_set(tmp_path, name, read)
    root = tmp_path / "data"
    before = load(f"beside-{name}", root)
    (cache,) = (root / "cache").glob("*.npz")
    written = cache.stat().st_mtime_ns
    put(tmp_path / "README.txt", "A file that nothing opens changes nothing.")
    assert load(f"beside-{name}", root).digest() == before.digest() and cache.stat().st_mtime_ns == written
    for file, text in then.items():
        put(tmp_path / file, text)
    after = load(f"beside-{name}", root)
    assert after.digest() != before.digest() and after.opened != before.opened


def test_a_changed_archive_makes_the_data_again(tmp_path: Path) -> None:
    import numpy as np

    data_set(tmp_path, "archive", NPZ)
    digests = []
    for seed in (0, 1, 0):
        np.savez(tmp_path / "data.npz", seed=seed)
        data = load("beside-archive", tmp_path / "data")
        digests.append(data.digest())
        assert list(data.opened) == ["data.npz"]
    assert digests[0] == digests[2] != digests[1]


def equibench(cwd: Path, *arguments: str) -> subprocess.CompletedProcess:
    included = ("--include", "net.py", "--include", "set.py")
    return commands.equibench(*arguments, *included, cwd=cwd, EQUIBENCH_DATA=str(cwd / "data"))


def test_runs_of_two_configurations_are_not_averaged_and_the_old_ones_are_stale(tmp_path: Path) -> None:
    """Real runs of a network with 2 and then 20 hidden units: 19 parameters each, and 2."""
    put(tmp_path / "net.py", NET)
    put(tmp_path / "set.py", SET.format(name="set", read=IF_THERE))
    put(tmp_path / "config.json", '{"width": 2}')
    quick = ("--device", "cpu", "--jobs", "1", "--quiet", "--json")
    run = ("run", "--dataset", "beside-set", "--models", "configured", "--budget", "e2", "--recipe", "common", *quick)
    done = equibench(tmp_path, *run, "--seeds", "1")
    assert done.returncode == 0, done.stderr
    put(tmp_path / "config.json", '{"width": 20}')
    done = equibench(tmp_path, *run, "--seeds", "2")
    assert done.returncode == 0, done.stderr

    root = tmp_path / "leaderboards"
    (board,) = (p.name for p in (root / "runs").iterdir())
    records = {r.spec.seed: r for r in read_board(root, board)[0]}
    assert [records[s].cost.parameters for s in (0, 1)] == [40, 382]
    made = records[1].provenance
    assert list(made.opened) == ["config.json"] and list(made.data_opened) == ["seed.txt"]
    assert made.data_opened["seed.txt"] == "", "it was looked for and not there"

    include([tmp_path / "net.py", tmp_path / "set.py"])
    assert {s: staleness(r, root) for s, r in records.items()} == {0: "source", 1: ""}
    row = load_board(root, board).frame.iloc[0]
    assert row["parameters"] == 382 and row["runs_ok"] == 1 and row["stale"] == "source"
    # The process of a notebook judges again, without a new import.
    put(tmp_path / "config.json", '{"width": 2}')
    assert {s: staleness(r, root) for s, r in records.items()} == {0: "", 1: "source"}
    put(tmp_path / "seed.txt", "1")
    assert {s: staleness(r, root) for s, r in records.items()} == {0: "data", 1: "source, data"}
    stale = equibench(tmp_path, "refresh", board, "--dry-run", "--json")
    assert [row["changed"] for row in json.loads(stale.stdout)["stale"]] == ["data", "source, data"]


def test_an_edited_model_is_stale_in_the_process_that_ran_it(tmp_path: Path) -> None:
    path = tmp_path / "notebook.py"
    put(path, NET.replace('"configured"', '"in-notebook"').replace('group="none"', 'group="C4"'))
    include([path])
    first = source_hash(MODELS.find("in-notebook"))
    put(path, path.read_text().replace('note="words"', 'note="other words"'))
    assert source_hash(MODELS.find("in-notebook")) == first and MODELS.find("in-notebook").get("note") == "other words"
    put(path, path.read_text().replace('group="C4"', 'group="C8"'))
    assert MODELS.find("in-notebook").get("group") == "C8"
    assert source_hash(MODELS.find("in-notebook")) != first, "what is claimed counts"


def test_a_file_of_the_same_length_and_time_cannot_be_told_but_a_later_one_can(tmp_path: Path) -> None:
    put(tmp_path / "a.py", "x = 1\n")
    put(tmp_path / "t.txt", "1")
    before = contents([tmp_path / "a.py"], ["t.txt"])
    time.sleep(0.01)
    put(tmp_path / "t.txt", "2")
    assert contents([tmp_path / "a.py"], ["t.txt"]) != before


def test_what_counts_of_what_was_opened(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    put(mine, "import helper\n")
    put(tmp_path / "helper.py", "x = 1\n")
    put(tmp_path / "loaded_by_name.py", "y = 1\n")
    put(tmp_path / "results" / "log.txt", "…")
    put(tmp_path / ".cache" / "fonts.json", "kept by a library for its next import")
    foreign = tmp_path / "venv" / "site-packages"
    foreign.mkdir(parents=True)
    put(foreign / "data.txt", "of an installed package")
    put(tmp_path / "table.csv", "1,2")
    with watching("test"):
        for name in ("mine.py", "helper.py", "loaded_by_name.py", "results/log.txt", "table.csv", ".cache/fonts.json"):
            (tmp_path / name).read_text()
        (foreign / "data.txt").read_text()
        with (tmp_path / "written.txt").open("w") as file:
            file.write("a log")
        (tmp_path / "written.txt").read_text()
        Path(__file__).read_text()
    (tmp_path / "never.txt").touch()
    found = files_beside([mine], opened_by("test"), [tmp_path / "results"])
    assert sorted(found) == ["loaded_by_name.py", "table.csv"] and all(found.values())
    put(tmp_path / "loaded_by_name.py", "y = 1  # a comment\n")
    assert contents([mine], found) == found
    put(tmp_path / "loaded_by_name.py", "y = 2\n")
    assert contents([mine], found) != found


def test_code_that_is_opened_through_a_link_is_no_side_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for name, text in (("net.py", "from .part import x\n"), ("part.py", "x = 1\n"), ("sizes.json", "[1]")):
        (tmp_path / "real" / name).write_text(text)
    (tmp_path / "link").symlink_to("real")
    opened = Opened(read={tmp_path / "link" / name for name in ("net.py", "part.py", "sizes.json")})
    assert list(files_beside([tmp_path / "real" / "net.py"], opened)) == ["sizes.json"]


def test_many_files_are_one_entry(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    put(mine, "")
    for index in range(MANY_FILES + 1):
        put(tmp_path / "images" / f"{index}.png", str(index))
    opened = Opened(read={tmp_path / "images" / f"{i}.png" for i in range(MANY_FILES + 1)})
    found = files_beside([mine], opened)
    assert list(found) == ["images/*.png"]
    put(tmp_path / "images" / "3.png", "another")
    assert contents([mine], found) != found


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/passwd", "+1:x", "folder", "a\0b", "pipe"])
def test_names_in_records_of_strangers_lead_nowhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    put(tmp_path / "secret.txt", "…")
    (tmp_path / "in" / "folder").mkdir()
    os.mkfifo(tmp_path / "in" / "pipe")
    assert contents([tmp_path / "in" / "mine.py"], [name]) == {name: ""}


def test_a_wrapper_in_another_folder_has_files_of_its_own(tmp_path: Path) -> None:
    wrapper = tmp_path / "w" / "wrap.py"
    put(tmp_path / "n" / "net.py", NET.replace('"configured"', '"plain-configured"'))
    put(wrapper, (
        "from pathlib import Path\nfrom equibench import register_wrapper\n"
        "@register_wrapper('twice-read', source='made up')\n"
        "def twice(model):\n    (Path(__file__).parent / 'config.json').read_text()\n    return model\n"
    ))  # fmt: skip
    put(tmp_path / "n" / "config.json", '{"width": 2}')
    put(tmp_path / "w" / "config.json", "x")
    include([tmp_path / "n" / "net.py", wrapper])
    build_model("plain-configured+twice-read", 1, 2, 4)
    resolved = MODELS.find("plain-configured+twice-read")
    found = files_beside(resolved.files, resolved.opened)
    assert sorted(found) == ["+1:config.json", "config.json"] and len(set(found.values())) == 2


def test_what_a_data_set_declares_counts_and_words_do_not(tmp_path: Path) -> None:
    path = data_set(tmp_path, "declared", "seed = 0")
    hashes = []
    words = 'source="elsewhere", task="bars", licence="MIT", citation="A paper", note="words"'
    for change in (("", ""), ('source="made up"', words), ('source="elsewhere"', 'source="", rotation=True')):
        path.write_text(path.read_text().replace(*change))
        hashes.append(data_hash(DATASETS.find("beside-declared").entry))
    assert hashes[0] == hashes[1] != hashes[2]
