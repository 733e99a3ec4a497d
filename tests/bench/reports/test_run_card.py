"""What is shown of a run: everything that its figures can be traced by."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from equibench.bench.cli.main import main
from equibench.bench.records.provenance import Provenance, code_facts, harness_hash, host_facts
from equibench.bench.records.record import RunRecord, read_record, write_record
from equibench.bench.reports.run_card import run_card, run_text
from equibench.registry import MODELS, Registry, UserError

from .. import made

FACTS = {
    "source_hash": "ab" * 8, "data_digest": "cd" * 32, "started": "2026-01-31T12:00:00+00:00", "threads": 3,
    "versions": {"python": "3.11.7", "torch": "2.12.1", "my-layers": "0.3"},
    "hardware": {"device": "cuda:0", "hardware_key": "Some GPU; 80 GiB", "host": "a-host", "cpu": "Some CPU",
    "driver": "550.1",
                 "system": "Linux-6.1"},
    "command": "equibench run mine.toml --include 'my net.py'", "commit": "ef" * 20, "harness_hash": "12" * 8,
    "origin": "my-package 1.2",
    "registered": {"family": "theirs", "group": "D6", "invariant": "D2", "source": "arXiv:2601.00001",
    "treatment": "rotate"},
    "opened": {"config.json": "34" * 8, "parts/*.txt": ""}, "data_source": "56" * 8,
    "data_opened": {"data.npz": "78" * 8},
    "checked": "failed: gradients, seeds",
}  # fmt: skip


def traced(**changes: Any) -> RunRecord:
    return made.record(91.25, **changes).model_copy(update={"provenance": Provenance(**FACTS)})


def shown(capfd: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["equibench", "show", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0), *capfd.readouterr()


def leaves(values: Any) -> list[Any]:
    if isinstance(values, dict):
        return [leaf for v in values.values() for leaf in leaves(v)]
    return [values]


def test_a_run_is_traced_by_spec_attempt_machine_versions_hashes_and_command(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = traced(seed=4)
    path = write_record(tmp_path, record)
    for name in ("weights", "logs"):
        (path.parent / name).mkdir()
    (path.parent / "weights" / f"{record.run_id}.pt").write_bytes(b"")
    code, out, err = shown(capfd, monkeypatch, record.run_id, "--results", str(tmp_path))
    assert code == 0 and err == ""
    for value in leaves(FACTS):
        assert str(value) in out, value
    spec = record.spec
    assert record.results is not None
    for value in (
        record.run_id, "attempt 1", spec.board, spec.model, spec.dataset, spec.budget.name, f"{spec.steps:,} steps",
        spec.recipe.name,
        spec.profile, "91.25 %", record.results.weights_sha256, str(path), f"{record.run_id}.pt", f"{spec.recipe.lr:g}",
    ):  # fmt: skip
        assert value in out, value
    assert ".log" not in out, "a file that is not there is not named"
    # Every value of the spec that determines the result is somewhere in the document for programs.
    code, out, _ = shown(capfd, monkeypatch, record.run_id, "--results", str(tmp_path), "--json")
    document = json.loads(out)
    assert document["spec"] == record.model_dump(mode="json")["spec"] and document["provenance"] == FACTS
    assert document["files"]["record"] == str(path) and document["board"] == spec.board


def test_what_has_changed_since_is_said(tmp_path: Path) -> None:
    card = run_card(_write(tmp_path, traced()), tmp_path)
    assert card is not None and card["changed"] == ["data", "harness"]  # the model is not registered, so not compared
    text = run_text(card)
    assert text.count("changed since") == 2
    same = traced(seed=1).model_copy(
        update={
            "provenance": Provenance(**FACTS | {"data_digest": "", "data_source": "", "harness_hash": harness_hash()})
        }
    )
    card = run_card(_write(tmp_path, same), tmp_path)
    assert card is not None and card["changed"] == []


def _write(root: Path, record: RunRecord) -> str:
    write_record(root, record)
    return record.run_id


def test_a_record_of_before_stays_valid_and_says_what_it_does_not_know(tmp_path: Path) -> None:
    """A file is never rewritten: fields that a later release adds have defaults, and the hash is of the file's text."""
    from equibench.bench.tools.schema import short_hash

    record = made.record(90.0)
    values = json.loads(record.canonical())
    for field in ("commit", "harness_hash", "origin"):
        del values["provenance"][field]
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    path = write_record(tmp_path, record)
    old = path.rename(path.with_name(f"{record.run_id}.{short_hash(text)}.json"))
    old.write_text(text + "\n")
    read = read_record(old)
    assert read == record and read.file_name == old.name
    card = run_card(record.run_id, tmp_path)
    assert card is not None and run_text(card).count("not recorded") >= 3


def test_two_attempts_and_refused_records(tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = traced(), traced(attempt=2)
    path = write_record(tmp_path, first)
    write_record(tmp_path, second)
    assert run_card(first.spec.digest()[:2], tmp_path)["attempt"] == 1, "the one that counts"
    assert run_card(f"{first.spec.digest()}.2", tmp_path)["attempt"] == 2
    path.write_text(path.read_text().replace("91.25", "99.99"))
    code, out, err = shown(capfd, monkeypatch, first.run_id, "--results", str(tmp_path))
    assert code == 2 and out == "" and "does not match the hashes" in err
    with pytest.raises(UserError, match="'abcd' matches no runs"):
        run_card("abcd", tmp_path)


def test_a_failed_run_is_shown(tmp_path: Path) -> None:
    card = run_card(_write(tmp_path, made.record(None, status="oom", reason="no memory")), tmp_path)
    assert card is not None and "oom: no memory" in run_text(card)


def test_facts_of_this_machine_and_this_code(tmp_path: Path) -> None:
    facts = host_facts("cpu")
    assert {"device", "cpu", "cores", "usable_cores", "memory_gib", "system"} <= set(facts)
    assert float(facts["memory_gib"]) > 0 and int(facts["usable_cores"]) >= 1
    ours = code_facts(MODELS.find("p4cnn+frame-c4"))
    assert ours["origin"] == "equibench" and ours["harness_hash"] == harness_hash()
    assert ours["commit"] == "" or len(ours["commit"]) == 40
    (tmp_path / "mine.py").write_text(
        "from equibench import register_model\n\n"
        '@register_model("strange", group="none", invariant="none", source="made up")\n'
        "def strange(in_channels, num_classes, image_size):\n    ...\n"
    )
    registry = Registry("model", "models")
    registry.include(tmp_path / "mine.py")
    assert code_facts(registry.find("strange"))["origin"] == "mine.py"


def test_the_commit_is_the_checkouts_own(tmp_path: Path) -> None:
    """Read from git's files as git itself would say it, on a branch, packed, detached, in a worktree."""
    import subprocess

    from equibench.bench.records.provenance import _commit

    def git(*arguments: str, at: Path = tmp_path / "a") -> str:
        command = ["git", "-C", str(at), "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    (tmp_path / "a").mkdir()
    assert _commit(tmp_path / "a") == ""
    git("init", "-q")
    assert _commit(tmp_path / "a") == ""
    git("commit", "-q", "--allow-empty", "-m", "one")
    assert _commit(tmp_path / "a") == git("rev-parse", "HEAD") != ""
    git("pack-refs", "--all")
    assert _commit(tmp_path / "a") == git("rev-parse", "HEAD")
    git("worktree", "add", "-q", "-b", "other", str(tmp_path / "b"))
    git("commit", "-q", "--allow-empty", "-m", "two", at=tmp_path / "b")
    assert _commit(tmp_path / "b") == git("rev-parse", "HEAD", at=tmp_path / "b") != _commit(tmp_path / "a")
    git("checkout", "-q", "--detach")
    assert _commit(tmp_path / "a") == git("rev-parse", "HEAD")
    # A folder inside somebody's repository is no checkout of ours.
    (tmp_path / "a" / "inner").mkdir()
    assert _commit(tmp_path / "a" / "inner") == ""
