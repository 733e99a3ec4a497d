"""A command in the process of the tests says what one in a process of its own says, and leaves nothing behind."""

import os
import sys
import warnings
from pathlib import Path

import pytest
from equibench.bench.tools.text import PROGRESS
from equibench.registry import DATASETS, MODELS, include

from .commands import equibench, process

TINY = Path(__file__).with_name("tiny.py")
FILE = """
import sys
from helper_of_this import NAME
from equibench import register_model
print(f"{NAME}, {sys.argv[1:]}", file=sys.stderr)

@register_model("here", group="none", invariant="none", source="made up")
def here(in_channels, num_classes, image_size):
    from torch import nn
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "models", "tiny*", "--json", "--include", str(TINY)),
        ("list", "models", "tiny*"),  # what was included here is not included there
        ("run", "quickstart", "--budget", "5"),
        ("leaderboard",),
    ],
)
def test_both_say_the_same(arguments: tuple[str, ...], tmp_path: Path) -> None:
    include([TINY])
    here, there = equibench(*arguments, cwd=tmp_path), process(*arguments, cwd=tmp_path)
    assert (here.returncode, here.stdout, here.stderr) == (there.returncode, there.stdout, there.stderr)


def test_files_are_read_again_and_nothing_is_left(tmp_path: Path) -> None:
    """A file that prints when it is imported, and its neighbour, which changes from one command to the next."""

    def state() -> tuple:
        registered = [list(registry._included) for registry in (MODELS, DATASETS)]
        modules = {name for name in sys.modules if name.startswith(("equibench_include_", "helper_of_this"))}
        return os.getcwd(), dict(os.environ), sys.argv, sys.path[:], registered, modules, PROGRESS.handlers[:]

    (tmp_path / "here.py").write_text(FILE)
    before, formats = state(), warnings.formatwarning
    for name in ("'one'", "'another'"):
        (tmp_path / "helper_of_this.py").write_text(f"NAME = {name}\n")
        os.utime(tmp_path / "helper_of_this.py", (len(name), len(name)))
        done = equibench("show", "here", "--json", "--include", "here.py", cwd=tmp_path, EQUIBENCH_DATA=str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert f"{name[1:-1]}, ['show', 'here', '--json', '--include', 'here.py']" in done.stderr, "also from a copy"
        assert state() == before and warnings.formatwarning is formats
