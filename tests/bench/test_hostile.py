"""Files and names from strangers: refused with one sentence, or shown as they stand; through the command line."""

import csv
import io
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from equibench.bench.cli.main import main
from equibench.bench.records.provenance import REGISTERED
from equibench.bench.records.record import RunRecord, write_record
from equibench.bench.records.store import SIDECARS, board_folder
from equibench.bench.tools.schema import short_hash, visible
from equibench.registry import MODELS

from . import made

BOARD = made.spec().board
#: What a stranger may write where a text is allowed, and what must not come out of it.
TEXTS = [
    "\x1b[2J\x1b]0;owned\x07 clears the screen",
    "\x9b31m eight-bit escape",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "[red]markup[/red] [link=file:///etc/passwd]here[/link]",
    "=HYPERLINK(\"http://example.org\")",
    "@SUM(1)", "+1+1", "-1+1", "'=quoted", "\t=1", "＝1",
    "| a | b |\n|---|---|",
    "\\input{/etc/passwd} $x$ %",
    "../../../etc/passwd",
    "\u202egnp.exe\u2066", "zero\u200bwidth", "line\u2028end\r\nfake: row",
    "a\\x1bb", "naïve ünïcode 漢字",
]  # fmt: skip
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")


def equibench(capfd: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command; an uncaught exception fails the test."""
    monkeypatch.setattr(sys, "argv", ["equibench", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capfd.readouterr()
    return int(end.value.code or 0), out, err


def forged(root: Path, change: Any, name: str = "") -> Path:
    """A record that a stranger changed, under the name that its own hashes ask for."""
    record = made.record(80.0, seed=1)
    values = json.loads(record.canonical())
    changed = change(values)
    values = values if changed is None else changed
    text = values if isinstance(values, str) else json.dumps(values, sort_keys=True, separators=(",", ":"))
    path = board_folder(root, BOARD) / (name or f"{record.spec.digest()}.1.{short_hash(text)}.json")
    path.write_text(text)
    return path


def put(name: str, value: Any, *where: str) -> Any:
    def change(values: dict[str, Any]) -> None:
        for key in where:
            values = values[key]
        values[name] = value

    return change


HUGE = "9" * 1_000_000
WRONG = {
    "unknown key": (put("extra", 1), "unknown key 'extra'"),
    "unknown key inside": (put("extra", 1, "results", "init"), "unknown key 'results.init.extra'"),
    "missing key": (lambda v: v.pop("phases") and None, "the key 'phases' is missing"),
    "missing inside": (lambda v: v["results"].pop("step_ms") and None, "the key 'results.step_ms' is missing"),
    "text for a number": (put("test_acc_pct", "90", "results"), "'results.test_acc_pct'"),
    "number for a text": (put("reason", 5), "'reason'"),
    "truth for a number": (put("test_images", True, "results"), "'results.test_images'"),
    "truth for the version": (put("schema_version", True), "'schema_version'"),
    "a later version": (put("schema_version", 2), "'schema_version': this release reads files of version 1 only"),
    "NaN": (put("train_s", float("nan"), "results"), "'results.train_s'"),
    "infinity": (put("step_ms", float("inf"), "results"), "'results.step_ms'"),
    "NaN in a table of numbers": (put("train_s", float("nan"), "phases"), "'phases.train_s'"),
    "NaN in the curve": (put("curve", [{"step": 1, "loss": 1.0, "lr": float("nan"), "device_s": 1.0}]), "'curve.0.lr'"),
    "above 100 %": (put("test_acc_pct", 100.5, "results"), "'results.test_acc_pct'"),
    "negative time": (put("train_s", -1.0, "results"), "'results.train_s'"),
    "negative size": (put("parameters", -1, "cost"), "'cost.parameters'"),
    "no test images": (put("test_images", 0, "results"), "'results.test_images'"),
    "more than a table holds": (put("parameters", 10**30, "cost"), "'cost.parameters'"),
    "a million digits": (lambda v: json.dumps(v).replace('"buffers": 10', f'"buffers": {HUGE}'), "number out of range"),
    "not a hash": (put("weights_sha256", "../../x", "results"), "'results.weights_sha256'"),
    "not a time": (put("started", "yesterday", "provenance"), "'provenance.started'"),
    "a column's name": (put("=cmd|' /C calc'!A0_s", 1.0, "phases"), "phases"),
    "a path as a model": (put("model", "../../etc/passwd", "spec"), "'spec.model'"),
    "HTML as a model": (put("model", "<b>x</b>", "spec"), "'spec.model'"),
    "an escape as a model": (put("model", "a\x1b[31m", "spec"), "'spec.model'"),
    "markup as a model": (put("model", "[red]x", "spec"), "'spec.model'"),
    "a formula as a model": (put("model", "=1+1", "spec"), "'spec.model'"),
    "letters that look alike": (put("model", "p4cnn\u212a", "spec"), "'spec.model'"),
    "a long model": (put("model", "x" * 5000, "spec"), "'spec.model'"),
    "a path as a data set": (put("dataset", "..", "spec"), "'spec.dataset'"),
    "a path as a budget": (put("name", "../../../x", "spec", "budget"), "'spec.budget.name'"),
    "a path as a recipe": (put("name", "../../../x", "spec", "recipe"), "'spec'"),
    "another budget than its name": (put("epochs", 200.0, "spec", "budget"), "a budget called 'e2'"),
    "a budget without epochs": (put("epochs", None, "spec", "budget"), "'spec.budget'"),
    "more steps than the budget": (put("steps", 10_000, "spec"), "is not 10,000 steps"),
    "a class without its size": (put("reference_parameters", None, "context"), "'context'"),
    "deeply nested": (lambda v: json.dumps(v)[:-1] + ',"x":' + "[" * 100_000, "recursion limit"),
    "no JSON": (lambda v: "<html>", "Invalid JSON"),
    "empty": (lambda v: "", "Invalid JSON"),
    "a list": (lambda v: "[]", "should be an object"),
    "another seed than its name": (put("seed", 7, "spec"), "does not match the hashes in the name"),
    "many wrong keys": (lambda v: v.update({f"k{i}": i for i in range(20_000)}), "keys and values are wrong"),
}


def test_every_wrong_record_is_named_and_the_rest_of_the_board_is_built(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(tmp_path, made.record(91.25, model="good-model"))
    expected = {forged(tmp_path, change).name: message for change, message in WRONG.values()}
    folder = board_folder(tmp_path, BOARD)
    for name, message in (
        ("not-a-record.json", "the name of a record is"),
        ("0123456789abcdef.1.0123456789abcdef.json", "Is a directory"),
        (f"{'0' * 16}.1.{'1' * 16}.json", "symbolic link"),
        (f"{'0' * 16}.1.{'2' * 16}.json", "symbolic link"),
        (f"{'0' * 16}.1.{'3' * 16}.json", "is not a regular file"),
        (f"{'0' * 16}.1.{'4' * 16}.json", "are allowed"),
        (f"{'0' * 16}.1.{'5' * 16}.json", "not UTF-8"),
    ):
        expected[name] = message
    (folder / "not-a-record.json").write_text("{}")
    (folder / "0123456789abcdef.1.0123456789abcdef.json").mkdir()
    (folder / f"{'0' * 16}.1.{'1' * 16}.json").symlink_to("/etc/hostname")
    (folder / f"{'0' * 16}.1.{'2' * 16}.json").symlink_to("nowhere")
    os.mkfifo(folder / f"{'0' * 16}.1.{'3' * 16}.json")
    with open(folder / f"{'0' * 16}.1.{'4' * 16}.json", "wb") as file:
        file.truncate(1 << 30)
    (folder / f"{'0' * 16}.1.{'5' * 16}.json").write_bytes(b"\xff\xfe{}")
    start = time.perf_counter()
    code, out, err = equibench(capfd, monkeypatch, "leaderboard", "--results", str(tmp_path))
    assert code == 1 and "good-model" in out and "91.25" in out
    lines = [line for line in err.splitlines() if line.startswith("equibench: refused: ")]
    assert len(lines) == len(err.splitlines()) == len(expected)
    for name, message in expected.items():
        (line,) = [found for found in lines if name in found]
        assert message in line and len(line) < 700, line
    assert "good-model" in (tmp_path / f"{BOARD}.csv").read_text()
    assert time.perf_counter() - start < 30, "hostile files must not cost time"
    # A document for programs names them too.
    code, out, _ = equibench(capfd, monkeypatch, "leaderboard", "--json", "--results", str(tmp_path))
    assert code == 1 and len(json.loads(out)[0]["refused"]) == len(expected)


def test_a_board_of_refused_records_alone_is_one_sentence(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(tmp_path, made.record())
    (path,) = board_folder(tmp_path, BOARD).glob("*.json")
    path.write_text("{}")
    code, out, err = equibench(capfd, monkeypatch, "leaderboard", "--results", str(tmp_path))
    assert code == 2 and out == "" and err.count("\n") == 1 and path.name in err and "is missing" in err


def hostile_board(root: Path) -> list[RunRecord]:
    """Records whose every text is hostile, beside a good one."""
    base = made.record(90.0)
    records = []
    for number, text in enumerate(TEXTS):
        values = json.loads(made.record(None, status="error", model=f"m-{number}", reason="x").canonical())
        values.update(reason=text, warnings=[text])
        values["provenance"] |= {
            "command": text,
            "versions": {text: text},
            "hardware": {text: text, "hardware_key": text},
        }
        values["provenance"] |= {"origin": text, "registered": {**dict.fromkeys(REGISTERED, text), text: text}}
        values["context"] |= {"suite": text, "reference_model": text}
        canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
        spec = made.spec(model=f"m-{number}")
        (board_folder(root, BOARD) / f"{spec.digest()}.1.{short_hash(canonical)}.json").write_text(canonical)
        records.append(RunRecord.model_validate_json(canonical))
    write_record(root, base)
    return records


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    write_record(root, made.record(91.0, model="other"))
    hostile_board(root)
    return root


@pytest.mark.parametrize("style", ["simple", "github", "latex", "html", "csv", "json", "grid"])
@pytest.mark.parametrize("columns", ["", "model,status,reason,reference_model"])
def test_no_text_steers_a_terminal_or_a_format(
    hostile: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch, style: str, columns: str
) -> None:
    chosen = ["--columns", columns] if columns else []
    code, out, err = equibench(capfd, monkeypatch, "leaderboard", "--format", style, "--results", str(hostile), *chosen)
    assert code == 0 and err == ""
    assert not CONTROL.search(out), CONTROL.search(out)
    assert "m-3" in out
    if style in ("github", "html"):
        assert "<script>" not in out and "<img" not in out
    if style == "latex":
        assert r"\input{" not in out
    if style in ("simple", "json") and columns:
        assert "[red]markup[/red]" in out and "漢字" in out.encode().decode(
            "unicode_escape" if style == "json" else "utf-8"
        )


def test_text_cells_of_a_csv_are_no_formulas_and_come_back_as_they_were(
    hostile: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    equibench(capfd, monkeypatch, "leaderboard", "--results", str(hostile))
    for name in (f"{BOARD}.csv", f"{BOARD}.runs.csv"):
        rows = {r["model"]: r for r in csv.DictReader(io.StringIO((hostile / name).read_text(), newline=""))}
        for number, text in enumerate(TEXTS):
            cell = rows[f"m-{number}"]["reason"]
            assert cell.removeprefix("'").removeprefix("error: ") == visible(text)
            if name == f"{BOARD}.runs.csv":
                assert cell[0] == "'" if text[0] in "=+-@＝'" else cell == visible(text)
        cells = [c for row in rows.values() for c in row.values()]
        assert not [c for c in cells if c.lstrip().startswith(("=", "@", "+", "＝"))]
        assert all(float(c) < 0 for c in cells if c.startswith("-"))
        accuracy = next(r for m, r in rows.items() if m == "made-up")
        assert float(accuracy.get("test_acc_pct") or accuracy["test_acc_mean_pct"]) == 90.0


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    import pandas as pd
    from equibench.bench.boards.rows import csv_text

    frame = pd.DataFrame(
        {"a": [-1.5, 2.0, None], "b": [-3, None, 4], "c": ["-3", "'x", None], "d": [True, False, True]}
    )
    back = pd.read_csv(io.StringIO(csv_text(frame)))
    assert back["a"].tolist()[:2] == [-1.5, 2.0] and back["b"].tolist()[::2] == [-3, 4]
    assert [c.removeprefix("'") for c in back["c"].dropna()] == ["-3", "'x"] and back["d"].tolist() == [
        True,
        False,
        True,
    ]


def test_published_files_hold_no_markup_of_strangers(
    hostile: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (
        "publish",
        "--out",
        str(tmp_path),
        "--format",
        "html,md,latex",
        "--results",
        str(hostile),
        "--jobs",
        "1",
    )
    code, _, err = equibench(capfd, monkeypatch, *arguments)
    assert code == 0, err
    for path in [p for p in tmp_path.rglob("*") if p.suffix in (".html", ".js", ".md", ".tex", ".bib", ".csv")]:
        text = path.read_text()
        assert not CONTROL.search(text), (path, CONTROL.search(text))
        if path.suffix != ".csv":
            assert "<script>alert" not in text and "<img src=x" not in text, path
        if path.suffix == ".tex":
            assert r"\input{/etc" not in text
        if path.suffix == ".md":  # a table's row is one line with as many cells as its heading
            rows = [line for line in text.splitlines() if line.startswith("|") and "m-" in line]
            assert rows and all(
                re.sub(r"\\\|", "", r).count("|") == re.sub(r"\\\|", "", rows[0]).count("|") for r in rows
            )


def test_a_hostile_run_is_shown_harmlessly(hostile: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in board_folder(hostile, BOARD).glob("*.json"):
        for arguments in ((), ("--json",)):
            code, out, err = equibench(capfd, monkeypatch, "show", path.stem, "--results", str(hostile), *arguments)
            assert code == 0 and err == "" and not CONTROL.search(out)


@pytest.mark.parametrize("name", ["../escape", "a\x1b[31mb", "<b>", "x" * 240, "-rf", ".hidden"])
def test_folders_that_are_no_boards_are_named(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = write_record(tmp_path, made.record(90.0))
    folder = tmp_path / "runs" / name
    folder.mkdir(parents=True)
    (folder / path.name).write_bytes(path.read_bytes())
    code, out, err = equibench(capfd, monkeypatch, "leaderboard", "--results", str(tmp_path))
    assert "made-up" in out and not CONTROL.search(err)
    assert code == (0 if name.startswith("..") else 1) and ("not the name of a board" in err) == (code == 1)


def test_nothing_is_read_or_written_through_a_linked_board(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    path = write_record(elsewhere, made.record(90.0))
    root = tmp_path / "results"
    (root / "runs").mkdir(parents=True)
    (root / "runs" / BOARD).symlink_to(path.parent, target_is_directory=True)
    before = sorted(p.name for p in elsewhere.rglob("*"))
    code, _, err = equibench(capfd, monkeypatch, "leaderboard", "--results", str(root))
    assert code == 2 and "symbolic link" in err
    arguments = ("--dataset", "digits-rot", "--models", "z2cnn-22", "--budget", "e2", "--seeds", "1")
    code, _, err = equibench(capfd, monkeypatch, "run", *arguments, "--quiet", "--results", str(root))
    assert code == 2 and "symbolic link" in err and err.count("\n") == 1
    assert sorted(p.name for p in elsewhere.rglob("*")) == before


def test_a_results_folder_may_itself_be_a_link(tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(tmp_path / "disk", made.record(90.0))
    (tmp_path / "results").symlink_to(tmp_path / "disk", target_is_directory=True)
    code, out, _ = equibench(capfd, monkeypatch, "leaderboard", "--results", str(tmp_path / "results"))
    assert code == 0 and "made-up" in out


def test_a_damaged_calibration_or_sidecar_does_not_stop_the_board(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = made.record(90.0)
    folder = write_record(tmp_path, record).parent
    (folder / "calibrations").mkdir()
    (folder / "calibrations" / f"{'0' * 16}.json").write_text("[[[")
    (board_folder(tmp_path, BOARD) / SIDECARS).mkdir()
    (board_folder(tmp_path, BOARD) / SIDECARS / f"{record.run_id}.{'0' * 16}.json").write_text("{}")
    code, out, err = equibench(capfd, monkeypatch, "leaderboard", "--results", str(tmp_path))
    assert code == 1 and "made-up" in out and err.count("refused") == 2 and "calibrations" in err


SUITE = 'dataset = "digits-rot"\nbudget = "e2"\nmodels = ["p4cnn"]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('models = ["p4cnn"]\nname = "x"\n', "unknown key 'name'"),
        (SUITE.replace('["p4cnn"]', "[" + ",".join(f'"m{i}"' for i in range(100_000)) + "]"), "are allowed"),
        (SUITE.replace('["p4cnn"]', '["../x"]'), "no model '../x'"),
        (SUITE.replace('["p4cnn"]', r'["\u001b[31m"]'), "no model"),
        (SUITE.replace('["p4cnn"]', '["p4cnn' + "+frame-c4" * 10_000 + '"]'), "at most 100 characters"),
        (SUITE.replace('["p4cnn"]', '["wrn-' + "9" * 50 + '-2"]'), "no model"),
        (SUITE.replace('["p4cnn"]', '["wrn-010-2"]'), "no model"),
        (SUITE.replace('"e2"', '"e' + "9" * 400 + '"'), "is not a budget"),
        (SUITE.replace('"e2"', '"e99999999"'), "more than"),
        (SUITE.replace('"e2"', '"e٣"'), "is not a budget"),
        (SUITE.replace('"e2"', '"e2.0"'), "is not a budget"),
        (SUITE + "seeds = 1000000000\n", "seeds"),
        (SUITE + f"seeds = {HUGE[:100_000]}\n", "this is not TOML"),
        (SUITE + "seeds = [0, 99999999999999999999]\n", "seeds are at most"),
        (SUITE + "title = " + "[" * 100_000, "nested too deeply"),
        (SUITE + "title." + "a." * 2000 + "a = 1\n", "nested too deeply"),
        (SUITE + "title = '\x00'\n", "this is not TOML"),
        (SUITE + "title = 1979-13-45\n", "this is not TOML"),
        (SUITE + "#" * (5 << 20), "are allowed"),
        (SUITE.replace("digits-rot", "\\u202eabc"), "no data set"),
    ],
    ids=lambda v: v[-20:].replace("\n", " ") if isinstance(v, str) and len(v) > 60 else None,
)
def test_a_hostile_suite_is_one_sentence_at_once(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(text)
    start = time.perf_counter()
    code, out, err = equibench(capfd, monkeypatch, "run", str(path), "--results", str(tmp_path / "r"), "--quiet")
    assert code == 2 and out == "" and err.count("\n") == 1 and message in err, err[:300]
    assert len(err) < 600 and not CONTROL.search(err) and not (tmp_path / "r").exists()
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(
    "name", ["\x1b[31mred.toml", "[red]x[red].toml", "..toml", "<b>.toml", "=1+1.toml", "a\nb.toml"]
)
def test_a_suite_with_a_hostile_name_is_shown_harmlessly(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_text(SUITE + "surprise = 1\n")
    monkeypatch.chdir(tmp_path)
    code, _, err = equibench(capfd, monkeypatch, "run", name, "--results", "r")
    assert code == 2 and "unknown key 'surprise'" in err and err.count("\n") == 1 and not CONTROL.search(err)
    (tmp_path / "link.toml").symlink_to("/dev/zero")
    code, _, err = equibench(capfd, monkeypatch, "run", "link.toml", "--results", "r")
    assert code == 2 and err.count("\n") == 1


@pytest.mark.parametrize("option", ["--models", "--budget", "--seeds", "--dataset", "--recipe", "--profile", "--fit"])
@pytest.mark.parametrize("value", ["\x1b[2J", "../../x", "9" * 5000, "a" * 200_000, "٣", "<b>", "[red]", "\u202e"])
def test_a_hostile_option_is_one_sentence(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch, option: str, value: str
) -> None:
    if (option, value) == ("--seeds", "٣"):
        pytest.skip("Python reads it as 3")
    code, out, err = equibench(capfd, monkeypatch, "run", "quickstart", option, value, "--results", str(tmp_path / "r"))
    assert code == 2 and out == "" and err.count("\n") == 1 and not CONTROL.search(err) and len(err) < 600, err[:300]
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("run", ["../../../etc", "*", "????", "[0-9]*", "0" * 5000, "\x1b[31m", "....", "ab.."])
def test_a_hostile_run_name_finds_nothing(hostile: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch, run: str) -> None:
    for command in (("show", run), ("replay", run), ("equivariance", "--run", run), ("leaderboard", run)):
        code, out, err = equibench(capfd, monkeypatch, *command, "--results", str(hostile))
        assert code == 2 and out == "" and err.count("\n") == 1 and not CONTROL.search(err), (command, err)


def test_texts_of_a_file_that_is_only_listed_are_one_line(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stranger.py"
    text = (
        "from equibench import register_model\n\n"
        '@register_model("x", group="none", invariant="none", source="made up", note="{note}")\n'
        'def x(in_channels, num_classes, image_size):\n    """A \\x1b[31m doc."""\n'
    )
    path.write_text(text.format(note="\\x1b[2J"))
    code, _, err = equibench(capfd, monkeypatch, "list", "models", "--include", str(path))
    assert code == 2 and "unprintable characters" in err and not CONTROL.search(err)
    assert path.resolve() not in MODELS.included, "a refused file does not stay"


def test_nothing_in_the_package_unpickles_or_evaluates() -> None:
    """Weights are tensors alone; no other door executes what a file says.

    The one exception calculates literals of a cell again, which the same notebook has executed already.
    """
    import ast

    import equibench

    root, evaluated = Path(equibench.__file__).parent, []
    for path in [p for folder in ("bench", "datasets", "models") for p in (root / folder).rglob("*.py")] + [
        root / "registry.py",
        root / "scan.py",
    ]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] + [getattr(node, "module", "") or ""]
                assert not {n.split(".")[0] for n in names} & {"pickle", "dill", "shelve", "marshal", "joblib"}, path
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called == "eval":
                evaluated.append((path.name, ast.unparse(node)))
            assert called not in ("exec", "os.system"), f"{path}:{node.lineno}"
            options = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if called == "torch.load":
                assert options.get("weights_only") == "True", f"{path}:{node.lineno}"
            if called in ("np.load", "numpy.load"):
                assert options.get("allow_pickle") == "False", f"{path}:{node.lineno}"
            assert options.get("shell") != "True", f"{path}:{node.lineno}"
    assert evaluated == [("notebook_cells.py", "eval(compile(ast.Expression(value), 'cell', 'eval'), {})")]


class _Evil:
    """What a pickle would execute on loading."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_weights_of_a_stranger_execute_nothing_and_must_be_those_of_the_record(tmp_path: Path) -> None:
    import torch
    from equibench.bench.training.full_profile import load_weights
    from equibench.bench.training.run import save_weights
    from equibench.registry import UserError

    model, mark = torch.nn.Linear(3, 2), tmp_path / "executed"
    folder = board_folder(tmp_path, BOARD) / "weights"
    record = made.record(90.0)
    path = folder / f"{record.run_id}.pt"
    digest = save_weights(model, path)
    record = record.model_copy(update={"results": record.results.model_copy(update={"weights_sha256": digest})})
    load_weights(tmp_path, record, model)
    good = path.read_bytes()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    # One number that claims to be 10^12: to look at them all would take terabytes.
    vast = torch.as_strided(torch.zeros(1), (10**6, 10**6), (0, 0))
    for hostile in (
        {"weight": _Evil(mark)}, _Evil(mark), [1, 2], {"weight": 1}, {**state, "more": torch.zeros(1)},
        {"weight": state["weight"]},
        {**state, "weight": vast}, {**state, "weight": state["weight"].double()}, {**state, "bias": state["bias"] + 1},
    ):  # fmt: skip
        torch.save(hostile, path)
        with pytest.raises(UserError, match=r"is not a file of weights|does not hold the weights"):
            load_weights(tmp_path, record, model)
    for damaged in (b"", good[: len(good) // 2], good[:-300] + bytes(300), b"\x80\x04\x95", os.urandom(1000)):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"is not a file of weights|does not hold the weights"):
            load_weights(tmp_path, record, model)
    assert not mark.exists()
