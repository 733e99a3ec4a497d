"""Contributions: a good one with real runs and real checks, and bad ones that are each refused for their own reason."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from equibench.bench.boards.rows import write_board
from equibench.bench.exchange.export import export
from equibench.bench.exchange.review_report import markdown
from equibench.bench.exchange.validate import Judgement, foreign, validate
from equibench.bench.records.record import read_board, read_record
from equibench.bench.records.verdict import Verdict
from equibench.bench.tools.schema import short_hash
from equibench.registry import UserError, include

from .. import made
from ..training.test_run import TINY, equibench
from .folders import tree

CONTRIBUTED = Path(__file__).with_name("contributed.py")
BOARD = "bars-e1-common-v2"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three real runs each of a published model and of a contributed one, the latter with a CSV of its own."""
    folder = tmp_path_factory.mktemp("runs")
    done = equibench(
        "run", "--dataset", "bars", "--budget", "e1", "--models", "tiny,small-net", "--seeds", "3", "--device", "cpu",
        "--include", str(TINY), "--include", str(CONTRIBUTED), "--results", str(folder / "all"), "--quiet",
        "--data-root", str(folder / "data"), cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    include([TINY, CONTRIBUTED])
    for name, model in (("published", "tiny"), ("contribution", "small-net")):
        shutil.copytree(folder / "all" / "runs", folder / name / "runs")
        for record in read_board(folder / name, BOARD)[0]:
            if record.spec.model != model:
                (folder / name / "runs" / BOARD / record.file_name).unlink()
                (next((folder / name / "runs" / BOARD / "outcomes").glob(f"{record.run_id}*"))).unlink()
        write_board(folder / name, BOARD)
    write_board(folder / "all", BOARD)
    return folder


def command(runs: Path, folder: Path, *more: str) -> subprocess.CompletedProcess:
    files = ("--include", str(TINY), "--include", str(CONTRIBUTED))
    return equibench("validate", str(folder), "--against", str(runs / "published"), *files, *more, cwd=runs)


def accepted_by(model: str, **asked: Any) -> Verdict:
    """The verdict of a check that found nothing, of a model whose size is what the runs say."""
    return Verdict(model, "1x12x12->2", asked["dataset"], asked["budget"])


def judged(runs: Path, folder: Path, check: Callable[..., Verdict] = accepted_by, **options: Any) -> Judgement:
    return validate(folder, runs / "published", includes=[str(TINY), str(CONTRIBUTED)], check=check, **options)


def test_a_good_contribution_is_accepted_and_shown_before_and_after(runs: Path, tmp_path: Path) -> None:
    before = tree(runs)
    done = command(runs, runs / "contribution")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("# These rows may enter the published boards.") and "## Reasons" not in done.stdout
    assert "small-net enters with rank" in done.stdout and "24 checks passed, 0 failures" in done.stdout
    first, second = done.stdout.split("<details>")[1:]
    assert "before" in first and "small-net" not in first and "| tiny" in first
    assert "after" in second and "small-net" in second and "| tiny" in second
    assert tree(runs) == before, "nothing is written"
    # Packed it is the same contribution, and as a whole folder in the place of the published one.
    export([BOARD], runs / "contribution", tmp_path / "mine.tar.gz")
    found = judged(runs, tmp_path / "mine.tar.gz")
    assert found.accepted and len(found.new) == 3 and list(found.verdicts) == [("small-net", "bars")]
    whole = judged(runs, runs / "all", complete=True)
    assert whole.accepted and len(whole.new) == 3, whole.problems
    assert markdown(judged(runs, copied(runs, tmp_path, "published"))).startswith("# There is nothing new.")


def copied(runs: Path, tmp_path: Path, name: str = "contribution") -> Path:
    return Path(shutil.copytree(runs / name, tmp_path / name))


def forged(folder: Path, change: Callable[[dict[str, Any]], None], tables: bool = True) -> None:
    """Change a contributed record and give it the name that its content asks for; the tables are made again."""
    path = next(p for p in sorted((folder / "runs" / BOARD).glob("*.json")) if "small-net" in p.read_text())
    values = json.loads(path.read_text())
    change(values)
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    path.unlink()
    path.with_name(f"{path.name.rsplit('.', 2)[0]}.{short_hash(text)}.json").write_text(text + "\n")
    if tables:
        write_board(folder, BOARD)


def test_a_model_that_does_not_pass_check_is_refused(runs: Path, tmp_path: Path) -> None:
    """The model of the published rows is cited as "made up", which nobody can look up: its own runs do not enter."""
    (tmp_path / "empty").mkdir()
    done = equibench(
        "validate", str(runs / "published"), "--against", str(tmp_path / "empty"), "--include", str(TINY), "--json",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    (problem,) = document["problems"]
    assert "tiny does not pass `equibench check`: citation" in problem and document["models"] == [
        {"model": "tiny", "dataset": "bars"}
    ]
    assert document["records"] == {"new": 3} and list(document["ranks"]) == [BOARD]


def test_a_check_that_cannot_be_made_is_a_reason(runs: Path) -> None:
    def check(model: str, **asked: Any) -> Verdict:
        raise UserError("no such budget")

    (problem,) = judged(runs, runs / "contribution", check).problems
    assert problem == "small-net cannot be checked for bars: no such budget"


def put(value: Any, *where: str) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        for key in where[:-1]:
            values = values[key]
        values[where[-1]] = value

    return change


BAD = {
    "more accurate than its outcomes": (put(99.0, "results", "test_acc_pct"), "'distances'"),
    "another budget": (put(300, "spec", "steps"), "is not 300 steps"),
    "a record of tomorrow": (put(2, "schema_version"), "files of version 1 only"),
    "no outcomes": (put("", "results", "outcomes_sha256"), "does not have the outcomes of each image"),
    "a smaller network": (put(7, "cost", "parameters"), "parameters is 7, but small-net built here has 234"),
    "another source": (put("1" * 16, "provenance", "source_hash"), "its source differs from the one here"),
    "other data": (put("1" * 64, "provenance", "data_digest"), "its data differ from those of the rows"),
    "a name of a machine": (put("alices-laptop", "provenance", "hardware", "host"), "name of a machine"),
    "a path": (put(["cannot read /home/alice/data/x.npz"], "warnings"), "path of a machine"),
}


@pytest.mark.parametrize("case", BAD)
def test_forged_records_are_refused_for_what_they_are(runs: Path, tmp_path: Path, case: str) -> None:
    change, message = BAD[case]
    folder = copied(runs, tmp_path)
    forged(folder, change)

    def check(model: str, **asked: Any) -> Verdict:
        verdict = accepted_by(model, **asked)
        verdict.row = {"parameters": 234, "frozen": 0, "flops_per_image": None}
        return verdict

    found = judged(runs, folder, check)
    assert any(message in p for p in found.problems), found.problems
    text = markdown(found)
    assert text.startswith("# These rows may not enter yet.") and str(tmp_path) not in text
    assert judged(runs, runs / "contribution", check).accepted


def test_a_source_that_is_not_available_or_was_changed_after_the_runs_is_refused(runs: Path, tmp_path: Path) -> None:
    done = equibench(
        "validate", str(runs / "contribution"), "--against", str(runs / "published"), "--include", str(TINY),
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1 and "the source of small-net is not available" in done.stdout, done.stderr
    text = CONTRIBUTED.read_text()
    changed = text.replace("nn.Conv2d(channels, 8, 5, bias", "nn.Conv2d(channels, 8, 3, bias")
    (tmp_path / "changed.py").write_text(changed)
    code = (
        "import sys; from pathlib import Path; from equibench.bench.exchange.validate import validate\n"
        "from equibench.bench.records.verdict import Verdict\n"
        "found = validate(Path(sys.argv[1]), Path(sys.argv[2]), includes=sys.argv[3:],"
        " check=lambda m, **k: Verdict(m, '', '', ''))\n"
        "print(found.problems)"
    )
    command = [sys.executable, "-c", code, str(runs / "contribution"), str(runs / "published"), str(TINY)]
    done = subprocess.run([*command, str(tmp_path / "changed.py")], capture_output=True, text=True, check=True)
    assert done.stdout.count("its source differs from the one here") == 3


def test_tables_that_were_edited_by_hand_are_refused(runs: Path, tmp_path: Path) -> None:
    folder = copied(runs, tmp_path)
    path = folder / f"{BOARD}.csv"
    text = path.read_text()
    header, row = text.splitlines()
    cells = next(csv.reader([row]))

    def with_cell(value: str, column: str = "test_acc_mean_pct") -> str:
        place = header.split(",").index(column)
        return "\n".join([header, ",".join([*cells[:place], value, *cells[place + 1 :]])]) + "\n"

    accuracy = float(cells[header.split(",").index("test_acc_mean_pct")])
    for harmless in (
        with_cell(str(accuracy * (1 + 1e-9))),  # another processor's last digits
        with_cell("yes", "checked"),  # who wrote it has a verdict that is not here
        with_cell("", "marks"),
    ):
        path.write_text(harmless)
        assert judged(runs, folder).accepted
    for edited, message in (
        (with_cell("99.0"), "test_acc_mean_pct is 99.0, not"),
        (with_cell("stale", "marks"), "marks is stale, not empty"),
        (text + row + "\n", "2 rows, not 1"),
        (f"{header},\n{row},\n", "other columns"),
        ("", "other columns"),
    ):
        path.write_text(edited)
        (problem,) = judged(runs, folder).problems
        assert message in problem and f"equibench leaderboard {BOARD}" in problem
    path.write_text(text)
    (folder / "another-e1-common-v2.csv").write_text("model\n")
    assert "no records of this board" in judged(runs, folder).problems[0]


def test_nothing_that_is_published_may_be_removed_or_changed(runs: Path, tmp_path: Path) -> None:
    folder = copied(runs, tmp_path, "all")
    gone = next(r for r in read_board(folder, BOARD)[0] if r.spec.model == "tiny")
    (folder / "runs" / BOARD / gone.file_name).unlink()
    write_board(folder, BOARD)
    assert judged(runs, folder).accepted, "a contribution of its own has no need of what is published"
    (problem,) = judged(runs, folder, complete=True).problems
    assert gone.file_name in problem and "but missing here" in problem
    (folder / f"{BOARD}.csv").unlink()
    assert any("is missing; `equibench" in p for p in judged(runs, folder, complete=True).problems)


def test_what_is_no_contribution_is_one_sentence(runs: Path, tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "linked.tar.gz", "w:gz") as file:
        info = tarfile.TarInfo(f"runs/{BOARD}")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        file.addfile(info)
    for folder, message in (
        (tmp_path / "linked.tar.gz", "is a link"),
        (tmp_path / "nowhere", "does not exist"),
        (runs / "published", "published results themselves"),
    ):
        done = command(runs, folder)
        assert done.returncode == 2 and not done.stdout and message in done.stderr
        assert len(done.stderr.splitlines()) == 1
    with pytest.raises(UserError, match="no records"):
        validate(tmp_path, runs / "published")


@pytest.mark.parametrize(
    ("text", "is_path"),
    [
        ("/home/alice/x.py", True), ("see /data/mnist/train.pt", True), ("~/results", True), ("~bob/x", True),
        ("C:\\Users\\bob", True), ("D:/data", True), ("\\\\server\\share", True), ("file:///etc", True),
        ("'/var/lib/x'", True), ("path=/srv/x/y", True),
        ("https://github.com/a/b", False), ("arXiv:1602.07576", False), ("10.1000/xyz/1", False), ("and/or", False),
        ("3/4 of 5/6", False), ("images / s", False), ("a: b", False), ("NVIDIA H200; 140 GiB", False), ("±3 %", False),
        ("equibench run mine.toml --models a/b", False), ("Linux-6.1-x86_64", False), ("https://a.b/~bob/x", False),
    ],
)  # fmt: skip
def test_paths_of_machines_are_told_from_other_texts(text: str, is_path: bool) -> None:
    record = made.record(90.0)
    told = foreign(record.model_copy(update={"warnings": [text]}))
    assert bool(told) == is_path and not foreign(record)


def test_records_of_this_release_have_nothing_of_their_machine_in_them(runs: Path) -> None:
    paths = list((runs / "all" / "runs" / BOARD).glob("*.json"))
    assert len(paths) == 6 and all(foreign(read_record(path)) == [] for path in paths)
