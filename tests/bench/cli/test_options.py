"""What records keep of a command line."""

import pytest
from equibench.bench.cli.options import command_line


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["run", "quickstart"], "equibench run quickstart"),
        (["run", "quickstart", "--results", "/home/me/x", "--seeds", "3"], "equibench run quickstart --seeds 3"),
        (["run", "quickstart", "--data-root=/data", "--jobs", "2"], "equibench run quickstart --jobs 2"),
        (
            ["run", "/home/me/my suite.toml", "--include", "/home/me/net.py"],
            "equibench run 'my suite.toml' --include net.py",
        ),
        (["run", "--include=/home/me/net.py", "--models", "a,b"], "equibench run --include=net.py --models a,b"),
        (["run", "quickstart", "--results"], "equibench run quickstart"),
    ],
)
def test_a_command_is_kept_without_places_of_one_machine(given: list[str], kept: str) -> None:
    assert command_line(given) == kept
