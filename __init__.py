"""equibench: fair head-to-heads of equivariant image architectures.

The public face is lazy: importing ``equibench`` imports none of its parts, so that a file which only
registers a model costs nothing, and so that this file, which is also the root of the repository, can be
read by tools that do not know it as a package.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "register_model": "registry",
    "register_wrapper": "registry",
    "register_dataset": "registry",
    "run": "bench.runner.head_to_head",
    "load_leaderboard": "bench.runner.head_to_head",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"equibench.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'equibench' has no attribute {name!r}")
