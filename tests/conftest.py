"""Shared by all tests: one torch thread, because two collapse as soon as another process holds a core; no leftovers."""

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module", autouse=True)
def _only_what_is_shipped() -> Iterator[None]:
    """Files that a module of tests includes are forgotten after it."""
    from equibench.registry import DATASETS, MODELS, WRAPPERS

    kept = [(registry, list(registry._included)) for registry in (MODELS, WRAPPERS, DATASETS)]
    yield
    for registry, included in kept:
        registry._included, registry._entries = included, None
