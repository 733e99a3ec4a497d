"""Records of runs whose own process could not write one."""

from pathlib import Path

from equibench.bench.records.calibration import TrainingFailed
from equibench.bench.records.record import attempts_of, read_record, write_record
from equibench.bench.runner.no_result import (
    provenance_of,
    record_without_result,
    write_unmeasured,
    write_without_result,
)
from equibench.bench.training.job import Job
from equibench.registry import MODELS
from equibench.source import source_hash

from .. import made


def _job(root: Path, model: str, **changes: object) -> Job:
    record = made.record(model=model)
    values = {
        "spec": record.spec, "attempt": 1, "context": record.context, "device": "cpu", "threads": 1,
        "results": str(root), "data_root": None, "include": [], "command": "equibench run", "equivariance": "core",
        "checkpoint_s": 60.0,
    }  # fmt: skip
    return Job(**{**values, **changes})


def test_it_says_what_the_check_said_and_who_shared(tmp_path: Path) -> None:
    found = provenance_of(_job(tmp_path, "z2cnn-22", sharing=3))
    assert found.source_hash == source_hash(MODELS.find("z2cnn-22")) and found.checked == "yes"
    assert found.hardware["runs_on_device"] == "3" and found.versions["torch"]


def test_a_model_that_is_gone_leaves_its_record_whole(tmp_path: Path) -> None:
    job = _job(tmp_path, "nowhere-registered")
    record = record_without_result(job, provenance_of(job), "lost", "its process was killed")
    path = write_record(tmp_path, record)
    assert read_record(path) == record and record.results is None and record.provenance.source_hash == ""


def test_an_attempt_has_one_record_with_several_writers(tmp_path: Path) -> None:
    """A process may write its record and die: nothing is written over it, or beside it."""
    job = _job(tmp_path, "nowhere-registered")
    assert write_without_result(job, "lost", "its process was killed")
    assert not write_without_result(job, "error", "and somebody else saw it too")
    assert [r.status for r in attempts_of(tmp_path, job.spec)] == ["lost"]
    assert write_without_result(job.model_copy(update={"attempt": 2}), "lost", "another attempt is another record")


def test_a_model_that_failed_in_calibration_is_a_row_of_each_seed(tmp_path: Path) -> None:
    jobs = [_job(tmp_path, "nowhere-registered"), _job(tmp_path, "z2cnn-22")]
    jobs.append(jobs[0].model_copy(update={"spec": jobs[0].spec.model_copy(update={"seed": 1})}))
    others, ended = write_unmeasured(jobs, {"nowhere-registered": TrainingFailed("oom", "oom: out of memory")})
    assert others == [jobs[1]] and set(ended) == {jobs[0].key, jobs[2].key}
    said = ("oom", "oom: out of memory (while its step was measured, before any training)")
    assert set(ended.values()) == {said} and not attempts_of(tmp_path, jobs[1].spec)
    for job in (jobs[0], jobs[2]):
        assert [(r.status, r.reason) for r in attempts_of(tmp_path, job.spec)] == [said]
