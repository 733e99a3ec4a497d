"""equibench: fair head-to-heads of equivariant image architectures.

The public names are loaded lazily: importing ``equibench`` imports none of its parts. A file that only registers a
model therefore starts fast. This file is also in the root of the repository, and tools that do not know the root as a
package can read it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; nothing here is imported at run time
    from .bench.api.boards import load_board, load_runs
    from .bench.api.models import build_model, check, list_datasets, list_models, list_suites, load_model
    from .bench.api.run import run
    from .registry import UserError, register_dataset, register_model, register_wrapper

    __version__: str

_PUBLIC = {
    "register_model": "registry",
    "register_wrapper": "registry",
    "register_dataset": "registry",
    "UserError": "registry",
    "run": "bench.api.run",
    "check": "bench.api.models",
    "build_model": "bench.api.models",
    "list_models": "bench.api.models",
    "list_datasets": "bench.api.models",
    "list_suites": "bench.api.models",
    "load_board": "bench.api.boards",
    "load_runs": "bench.api.boards",
    "load_model": "bench.api.models",
}

__all__ = [
    "UserError", "build_model", "check", "list_datasets", "list_models", "list_suites", "load_board",
    "load_model", "load_runs", "register_dataset", "register_model", "register_wrapper", "run",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"equibench.{_PUBLIC[name]}"), name)
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("equibench")
        except PackageNotFoundError:  # a checkout on the path
            return "unknown"
    raise AttributeError(f"module 'equibench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
