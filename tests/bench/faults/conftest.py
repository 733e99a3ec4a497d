"""One run that was left alone, for all tests that compare with it."""

import time
from pathlib import Path

import pytest

from .process import figures, job, run, the_record


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    one = job(tmp_path_factory.mktemp("whole"))
    assert run(one)[0] == 0
    return figures(the_record(one))


@pytest.fixture
def patience(tmp_path: Path) -> float:
    """Seconds in which a run surely comes to its training, on a machine as busy as this one is."""
    begun = time.monotonic()
    assert run(job(tmp_path / "patience", budget="smoke"))[0] == 0
    return round(5 + 3 * (time.monotonic() - begun), 1)


@pytest.fixture(autouse=True)
def _no_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EQUIBENCH_FAULT", raising=False)
    monkeypatch.setenv("EQUIBENCH_FAULT_DISK", str(tmp_path))
