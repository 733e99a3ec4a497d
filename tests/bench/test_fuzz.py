"""The parsers of untrusted input: they read any input, or refuse it with one sentence.

``EQUIBENCH_FUZZ=5000 python -m pytest -n 0 tests/bench/test_fuzz.py`` tries as many examples of each instead of a few.
"""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from equibench.bench.boards.board import load_board
from equibench.bench.boards.reported import COLUMNS, read_reported, shipped
from equibench.bench.boards.rows import csv_text, model_rows, run_rows
from equibench.bench.boards.terminal_table import board_table
from equibench.bench.cli.options import seeds
from equibench.bench.exchange.merge import merge
from equibench.bench.records.calibration import Block, Calibration, read_calibrations, write_calibration
from equibench.bench.records.record import read_board, read_record, write_record
from equibench.bench.records.sidecar import FullPoint, ReplayVerdict, Sidecar, read_sidecar, read_verdict
from equibench.bench.records.store import REPLAYS, SIDECARS, board_folder
from equibench.bench.spec.budget import Budget, find_budget
from equibench.bench.spec.recipe import find_recipe
from equibench.bench.spec.suite import RunSpec, Suite, parse_suite, plan
from equibench.bench.tools.schema import parse, parse_json, short_hash, visible
from equibench.registry import DATASETS, MODELS, UserError
from equibench.scan import scan_file, template_arguments
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from . import made

settings.register_profile(
    "fuzz",
    max_examples=int(os.environ.get("EQUIBENCH_FUZZ", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
fuzzed = settings.get_profile("fuzz")

PIECES = [
    "../", "..", "/", "\x00", "\x1b[31m", "\u202e", "\u200b", "\n", "\r", "\t", "=", "+", "-", "@", "'", '"', "[red]",
    "<b>", "|",
    "\\", "{", "}", "%s", "{depth}", "٣", "９", "²", "𝟗", "K", "ſ", "é", "e", "t", "nan", "inf", "1e999", "0", "00",
    "9" * 20,
    "9" * 5000, "_", ",", ".", "p4cnn", "wrn-", "16", "-4", "+frame-c4", "+rot", "pdo-econv-p8", "e2cnn-", "digits-rot",
    "e20",
]  # fmt: skip
TEXT = st.one_of(st.text(max_size=30), st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.floats(), TEXT, st.integers(),
        st.sampled_from([0, -1, 1, 10**18, 2**53 + 1, -(10**30), 1e308, -0.0, 5e-324, 10**4000]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)  # fmt: skip


def one_sentence(read: Callable[[], Any]) -> Any:
    """What was read, or None where it was refused with one line that says something."""
    try:
        return read()
    except UserError as error:
        assert str(error).strip() and len(str(error)) < 3000
        visible(str(error)).encode()  # can be printed
        return None


def places(values: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a document something can be changed."""
    keys = values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
    return [before, *(p for k in keys for p in places(values[k], (*before, k)))]


@st.composite
def changed(draw: st.DrawFn, document: str) -> str:
    """The document with a few values replaced, removed or added, or with bytes of its text changed."""
    if draw(st.integers(0, 4)) == 0:
        text = list(document)
        for _ in range(draw(st.integers(1, 3))):
            at = draw(st.integers(0, len(text) - 1))
            text[at : at + draw(st.integers(0, 3))] = draw(TEXT)
        return "".join(text)
    values = json.loads(document)
    for _ in range(draw(st.integers(1, 3))):
        *path, key = draw(st.sampled_from([p for p in places(values) if p]))
        inner = values
        for part in path:
            inner = inner[part]
        how = draw(st.sampled_from(["replace", "replace", "remove", "add", "nudge"]))
        if how == "remove":
            del inner[key]
        elif how == "add" and isinstance(inner, dict):
            inner[draw(TEXT)] = draw(JSON)
        elif how == "nudge" and type(inner[key]) in (int, float):
            inner[key] = inner[key] * draw(st.sampled_from([0, -1, 2, 1000, 1e300])) + draw(st.integers(-2, 2))
        else:
            inner[key] = draw(JSON)
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def under(folder: Path, text: str, spec: Any, attempt: int = 1) -> Path:
    """The text as the only record of a folder, under the name that it asks for."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.json"):
        path.unlink()
    data = text.encode("utf-8", "surrogatepass")
    path = folder / f"{spec}.{attempt}.{short_hash(text.encode('utf-8', 'replace').decode())}.json"
    path.write_bytes(data)
    return path


RECORD = made.record(90.0)


@given(text=changed(RECORD.canonical()))
@settings(fuzzed)
def test_records(tmp_path: Path, text: str) -> None:
    try:
        values = json.loads(text)
        spec = parse(RunSpec, values["spec"], "spec")
        digest, attempt, board = spec.digest(), values["attempt"], spec.board
    except (ValueError, KeyError, TypeError, UserError, RecursionError):
        digest, attempt, board = RECORD.spec.digest(), 1, RECORD.spec.board
    path = under(
        board_folder(tmp_path, board), text, digest, attempt if type(attempt) is int and 0 < attempt < 100 else 1
    )
    record = one_sentence(lambda: read_record(path))
    if record is not None:
        # What is taken for a record can be shown: beside a good one, in every form.
        with contextlib.suppress(FileExistsError):
            write_record(tmp_path, made.record(91.0, model="other"))
        built = load_board(tmp_path, board)
        assert record.run_id in {r.run_id for r, _ in built.chosen}
        if built.is_table:
            for frame in (model_rows(built), run_rows(built)):
                csv_text(frame).encode()
            board_table(built, "github").encode()


POINT = FullPoint(
    eq_rot_data=0.5, eq_floor=0.1, lee_rot_per_deg=0.01, lee_shift_per_px=0.1, consistency_pct=90.0, acc_orbit_pct=90.0,
    acc_worst_angle_pct=80.0, collapsed=False, curve=[0.0, 0.5], layers=[],
)  # fmt: skip
SIDECAR = Sidecar(
    schema_version=1, kind="equivariance", protocol=RECORD.spec.protocol, board=RECORD.spec.board, run=RECORD.run_id,
    model="made-up",
    dataset="digits-rot", weights_sha256="0" * 64, draws=1, orbit_images=1, curve_degrees=[0.0, 45.0], init=POINT,
    trained=POINT,
    phases={"equivariance_full_s": 1.0}, provenance=RECORD.provenance, warnings=[],
)  # fmt: skip


@given(text=changed(SIDECAR.canonical()))
@settings(fuzzed)
def test_sidecars(tmp_path: Path, text: str) -> None:
    write = under(board_folder(tmp_path, RECORD.spec.board) / SIDECARS, text, RECORD.spec.digest())
    if one_sentence(lambda: read_sidecar(write)) is not None:
        if not list(board_folder(tmp_path, RECORD.spec.board).glob("*.json")):
            write_record(tmp_path, RECORD)
        built = load_board(tmp_path, RECORD.spec.board)
        csv_text(model_rows(built)), csv_text(run_rows(built))


VERDICT = ReplayVerdict(
    board=RECORD.spec.board, run=RECORD.run_id, agrees=True, rule="interval", why="made up", differences=["a", "b"],
    recorded=90.0, replayed=91.0, low=80.0, high=95.0, judged="2026-01-01T00:00:00+00:00", host="a" * 16,
)  # fmt: skip


@given(text=changed(RECORD.canonical()), verdict=changed(VERDICT.canonical()))
@settings(fuzzed)
def test_what_strangers_bring_is_merged_or_refused(tmp_path: Path, text: str, verdict: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    path = under(board_folder(source, RECORD.spec.board), text, RECORD.spec.digest())
    kept = under(board_folder(source, RECORD.spec.board) / REPLAYS, verdict, RECORD.spec.digest())
    one_sentence(lambda: read_verdict(kept))
    done = one_sentence(lambda: merge([source], target))
    assert {a.name for a in done.files} == {path.name, kept.name}
    assert not read_board(target, RECORD.spec.board)[1] and all(a.why for a in done.of("refused"))


CALIBRATION = Calibration(
    model="p4cnn", source_hash="", dataset="digits-rot", batch=64, profile="strict", hardware_key="k", sequence=1,
    blocks=[Block(steps=30, seconds=0.5)], beside=[],
)  # fmt: skip


@given(text=changed(CALIBRATION.canonical()))
@settings(fuzzed)
def test_calibrations(tmp_path: Path, text: str) -> None:
    folder = (
        write_calibration(tmp_path, "b", CALIBRATION).parent
        if not (tmp_path / "runs").exists()
        else tmp_path / "runs/b/calibrations"
    )
    for path in folder.iterdir():
        path.unlink()
    data = text.encode("utf-8", "replace")
    (folder / f"{short_hash(data.decode())}.json").write_bytes(data)
    for calibration in one_sentence(lambda: read_calibrations(tmp_path, "b")) or []:
        assert calibration.step_s > 0


def toml(value: Any) -> str:
    """A value as TOML writes it; what TOML has no form for becomes text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value) if not isinstance(value, int) or abs(value) < 10**4000 else "9" * 4400
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    return json.dumps("" if value is None else value)


KEYS = ["name", *(f.alias or n for n, f in Suite.model_fields.items() if n != "name"), "budgte"]
WHOLE = {"dataset": "digits-rot", "budget": "e2", "models": ["p4cnn"]}


@given(values=st.dictionaries(st.one_of(st.sampled_from(KEYS), TEXT), JSON, max_size=4), whole=st.booleans())
@example(values={"seeds": [1, 2.5]}, whole=True)
@example(values={"models": ["wrn-4294967296-1"]}, whole=True)
@settings(fuzzed)
def test_suites_of_all_kinds_of_values(values: dict[str, Any], whole: bool) -> None:
    lines = {**WHOLE, **values} if whole else values
    text = "\n".join(f"{json.dumps(k)} = {toml(v)}" for k, v in lines.items())
    suite = one_sentence(lambda: parse_suite("mine", text, "mine.toml"))
    if suite is not None:
        one_sentence(lambda: plan(suite))


@given(text=TEXT)
@settings(fuzzed)
def test_suites_of_any_text(text: str) -> None:
    one_sentence(lambda: parse_suite("mine", text, "mine.toml"))
    one_sentence(
        lambda: parse_suite("mine", 'dataset = "digits-rot"\nbudget = "e2"\nmodels = ["p4cnn"]\n' + text, "mine.toml")
    )


@given(name=TEXT, images=st.integers(1, 10**6), batch=st.integers(1, 4096))
@example(name="e9.12", images=10_000, batch=64)
@example(name="t30", images=10_000, batch=64)
@settings(fuzzed)
def test_budgets(name: str, images: int, batch: int) -> None:
    budget = one_sentence(lambda: find_budget(name))
    if budget is not None:
        assert budget.name == name
        one_sentence(lambda: budget.steps_for(images, batch, 1.0) if budget.kind != "T" else None)


@given(values=st.dictionaries(st.sampled_from(list(Budget.model_fields)), JSON, max_size=6))
@settings(fuzzed)
def test_budgets_of_all_kinds_of_values(values: dict[str, Any]) -> None:
    one_sentence(lambda: parse(Budget, values, "budget"))
    one_sentence(lambda: parse_json(Budget, json.dumps(values), "budget"))


@given(text=TEXT)
@example(text="9" * 5000)
@example(text="-1")
@settings(fuzzed)
def test_the_option_seeds(text: str) -> None:
    found = one_sentence(lambda: seeds(text))
    if found is not None:
        suite = one_sentence(lambda: parse(Suite, {"name": "x", **WHOLE, "seeds": found}, "the command line"))
        assert suite is None or (0 < len(suite.seed_list) <= 100_000 and min(suite.seed_list) >= 0)


@given(name=TEXT)
@example(name="wrn-16-" + "9" * 5000)
@example(name="+")
@example(name="z2cnn-22+rot-aug")
@example(name="digits-rot")
@settings(fuzzed)
def test_names_of_models_and_data_sets(name: str) -> None:
    for registry in (MODELS, DATASETS):
        found = one_sentence(lambda r=registry: r.find(name))
        if found is not None:
            assert found.name == name and name.isascii() and name.isprintable() and len(name) <= 100
    if one_sentence(lambda: MODELS.find(name)) is not None:
        one_sentence(lambda: plan(parse(Suite, {"name": "x", **WHOLE, "models": [name]}, "the command line")))


ARGUMENTS = [
    "name",
    "group",
    "invariant",
    "source",
    "params",
    "members",
    "note",
    "status",
    "shape",
    "classes",
    "sizes",
    "x",
]
VALID = {
    "model": {"name": "mine-{depth}", "group": "C4", "invariant": "none", "source": "here"},
    "dataset": {"name": "mine", "shape": (1, 2, 2), "classes": 2, "sizes": (1, 1, 1), "source": "here"},
}


@given(
    kind=st.sampled_from(sorted(VALID)),
    changes=st.dictionaries(st.sampled_from(ARGUMENTS), JSON, max_size=3),
    code=TEXT,
)
@example(kind="model", changes={"name": "{depth}{depth}"}, code="")
@example(kind="model", changes={"members": {"m": 3}}, code="")
@example(kind="model", changes={}, code="x = " + "-" * 100_000 + "1")
@settings(fuzzed)
def test_registrations_that_are_only_listed(tmp_path: Path, kind: str, changes: dict[str, Any], code: str) -> None:
    values = {**VALID[kind], **changes}
    arguments = ", ".join(f"{k}={v!r}" for k, v in values.items() if v not in (10**4000,))
    path = tmp_path / "file.py"
    source = f"{code}\n@register_{kind}({arguments})\ndef f(a, *, depth: int = 1):\n    ...\n"
    path.write_bytes(source.encode("utf-8", "surrogatepass"))
    for entry in one_sentence(lambda: list(scan_file(path, kind, "m"))) or []:
        one_sentence(lambda e=entry: template_arguments(e, "mine-3"))
        assert entry.name.isascii() and all(v.isprintable() for v in entry.fields.values() if isinstance(v, str))


REPORTED = shipped("leaderboards", "reported.csv")


@st.composite
def tables(draw: st.DrawFn) -> str:
    lines = draw(st.sampled_from([REPORTED.splitlines()[:4], [",".join(COLUMNS)], []]))
    for _ in range(draw(st.integers(0, 3))):
        row = [
            draw(st.one_of(TEXT, st.just("1"), st.just("error"), st.just("%"))) for _ in range(draw(st.integers(0, 15)))
        ]
        lines = [*lines, ",".join(row)]
    text = "\n".join(lines)
    if draw(st.booleans()) and text:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(TEXT) + text[at:]
    return text


@given(text=tables())
@settings(fuzzed)
def test_reported_figures(tmp_path: Path, text: str) -> None:
    path = tmp_path / "reported.csv"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    frame = one_sentence(lambda: read_reported(path))
    if frame is not None:
        csv_text(frame).encode()


@given(text=TEXT, values=JSON)
@settings(fuzzed)
def test_tuned_rates(tmp_path: Path, text: str, values: Any) -> None:
    path = tmp_path / "tuned.toml"
    for content in (text, f"p4cnn = {toml(values)}"):
        path.write_bytes(content.encode("utf-8", "surrogatepass"))
        one_sentence(lambda: find_recipe("tuned", "p4cnn", path))


@given(text=TEXT)
@settings(fuzzed)
def test_what_is_made_visible_stays_so(text: str) -> None:
    shown = visible(text)
    assert shown.isprintable() and visible(shown) == shown and (shown == text) == text.isprintable()


@pytest.mark.slow  # ten minutes
def test_longer() -> None:
    """All of the above once more, with many examples, in a process of their own."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", __file__]
    subprocess.run(command, check=True, env={**os.environ, "EQUIBENCH_FUZZ": "2000"})
