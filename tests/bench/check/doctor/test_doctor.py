"""The doctor: what its checks take for a fault, its verdict, its reports among the results, and a whole examination of
a CPU.
"""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from equibench.bench.boards.board import load_board
from equibench.bench.check.doctor import checks, judges
from equibench.bench.check.doctor.checks import CHECKS, Check, perform
from equibench.bench.check.doctor.device import ExaminedDevice, Failed, LeftOut, NotApplicable
from equibench.bench.check.process import NoAnswer, Process
from equibench.bench.records.doctor_report import (
    E_ONLY,
    NO,
    TRUSTED,
    Finding,
    Report,
    doctor_notes,
    read_report,
    write_report,
)
from equibench.bench.records.record import write_record
from equibench.bench.tools import gpu_driver
from equibench.bench.tools.gpu_processes import judge
from equibench.bench.training.job import Examination
from equibench.registry import UserError

from ... import made
from ...commands import equibench

OWN = 4242
HARDWARE = {"host": "node 7", "hardware_key": "Some GPU; 80 GiB", "device": "cuda:1"}
TRAINED = {"digest": "a", "finite": True}
OTHER = {"digest": "b", "finite": True}
NO_NUMBERS = {"digest": "a", "finite": False}


def finding(state: str, needed_for: str = "T", check: str = "clock") -> Finding:
    return Finding(check=check, needed_for=needed_for, state=state, detail="made up", seconds=1.0)


def report(*findings: Finding, **changes: Any) -> Report:
    values: dict[str, Any] = dict(
        device="cuda:1", uuid="GPU-1", hardware=HARDWARE, versions={}, started="2026-11-26T05:00:00+00:00", quick=False
    )
    return Report(**{**values, **changes}, findings=list(findings))


@pytest.mark.parametrize(
    ("findings", "device", "verdict"),
    [
        ([finding("passed"), finding("not applicable")], "cuda:1", TRUSTED),
        ([finding("passed"), finding("failed", "T")], "cuda:1", E_ONLY),
        ([finding("passed"), finding("left out", "T")], "cuda:1", E_ONLY),
        ([finding("failed", "E"), finding("failed", "T")], "cuda:1", NO),
        ([finding("passed")], "cpu", E_ONLY),
        ([finding("failed", "E")], "cpu", NO),
    ],
)
def test_the_verdict_is_as_good_as_the_worst_finding_allows(findings: list[Finding], device: str, verdict: str) -> None:
    found = report(*findings, device=device)
    assert found.verdict == verdict
    assert (found.why == "") == (verdict == TRUSTED)


def test_an_exception_in_a_check_is_its_finding_and_the_next_check_runs() -> None:
    def raising(error: BaseException) -> Check:
        def run(place: ExaminedDevice) -> str:
            raise error

        return Check("made up", "T", run)

    errors = [Failed("f"), NotApplicable("n"), LeftOut("l"), NoAnswer("u"), UserError("s"), ZeroDivisionError("z")]
    with ExaminedDevice("cpu", ["cpu"]) as place:
        found = [perform(raising(e), place) for e in errors]
        found.append(perform(Check("good", "T", lambda _: "well"), place))
    assert [f.state for f in found] == ["failed", "not applicable", "left out", "failed", "failed", "failed", "passed"]
    assert [f.detail for f in found][:5] == ["f", "n", "l", "u", "s"]
    assert found[5].detail == "the check itself broke: ZeroDivisionError: z" and found[6].detail == "well"


def test_the_time_of_an_examination_is_bounded() -> None:
    with ExaminedDevice("cpu", ["cpu"], bound_s=0.5) as place:
        found = perform(Check("asks", "E", lambda p: str(p.facts)), place)
    assert found.state == "left out" and found.seconds < 5


def test_a_process_that_raises_dies_or_is_silent_is_an_answer_too() -> None:
    with Process(Examination(device="cpu", threads=1, data_root=None)) as process:
        with pytest.raises(NoAnswer, match="KeyError: 'nothing'"):
            process.ask("nothing", 60)
        assert process.ask("facts", 60)["product"] == 64, "it goes on"
        with pytest.raises(NoAnswer, match=r"no answer after 0 s"):
            process.ask("load_on", 0.2, seconds=30.0, uuid="")
        with pytest.raises(NoAnswer, match="SIGTERM"):
            process.ask("facts", 60)


@pytest.mark.parametrize(
    ("judge", "good", "bad", "reason"),
    [
        (judges.judge_clock, (1.001, 1.0, 10**9, 1e-4), (0.98, 1.0, 10**9, 1e-4), "the host's clock gives"),
        (judges.judge_clock, (1.001, 1.0, 10**9, 1e-4), (0.0, 1.0, 10**9, 1e-4), "the events are wrong"),
        (judges.judge_clock, (1.001, 1.0, 10**9, 1e-4), (1.0, 1.0, 10**9, 0.99), "the host waits"),
        (judges.judge_placement, ("A", ["A"], 2), ("A", ["A", "B"], 2), "context on B"),
        (judges.judge_placement, ("A", ["A"], 2), ("A", ["B"], 2), "context on B"),
        (judges.judge_alone, ("", "", 10.0), ("not alone: python (8)", "", 10.0), r"python \(8\)"),
        # A screen's memory belongs to a process that is named and computes nothing: runs beside it are alone.
        (judges.judge_alone, ("", "", 600.0), ("not alone: 600 MiB were held before", "", 600.0), "600 MiB"),
        (judges.judge_load, ([1.0] * 9, 1e12, []), ([1.0] * 6 + [1.05] * 3, 1e12, []), "5.0 % longer"),
        (judges.judge_load, ([1.05] * 3 + [1.0] * 6, 1e12, []), ([], 1e12, []), "only 0 blocks of work were timed"),
    ],
)
def test_a_judge_lets_good_figures_pass_and_names_what_is_wrong_with_bad_ones(
    judge: Any, good: tuple, bad: tuple, reason: str
) -> None:
    assert judge(*good)
    with pytest.raises(Failed, match=reason):
        judge(*bad)


def test_heat_fails_the_load_and_the_power_limit_is_only_named() -> None:
    sample = {"sm_mhz": 1980, "power_w": 650.0, "temperature_c": 60}
    capped = judges.judge_load([1.0] * 9, 1e12, [{**sample, "reasons": ("power cap",)}])
    assert "power cap" in capped and "1980" in capped and "650" in capped
    with pytest.raises(Failed, match="hardware thermal slowdown"):
        judges.judge_load([1.0] * 9, 1e12, [{**sample, "reasons": ("power cap", "hardware thermal slowdown")}])
    unknown = {key: None for key in (*sample, "reasons")}
    assert "does not report" in judges.judge_load([1.0] * 9, 1e12, [unknown])


def test_what_cannot_be_seen_is_never_taken_for_good() -> None:
    for before in (None, 0.0, 10.0, 100.0):
        with pytest.raises(LeftOut, match="cannot be determined whether a run is alone: nobody says"):
            judges.judge_alone("", "nobody says", before)
    with pytest.raises(NotApplicable, match="containers"):
        judges.judge_placement("A", [], 2)
    with pytest.raises(LeftOut, match="the driver does not list the processes on B"):
        judges.judge_placement("A", ["A"], 2, ["B"])


@pytest.mark.parametrize(
    ("listed", "used", "before"),
    [
        ([(OWN, 600.0, True)], 604.0, 4.0),
        ([(OWN, 600.0, True), (7, 400.0, False)], 1004.0, 404.0),
        ([(OWN, 600.0, True), (8, 500.0, True)], 1104.0, 504.0),
        ([(OWN, 600.0, True)], 1104.0, 504.0),
        ([(OWN, 600.0, True)], 700.0, 100.0),
        ([], 604.0, 4.0),
        ([], 704.0, 104.0),
        ([], 1104.0, 504.0),
        (None, None, None),
    ],
)
def test_the_doctor_and_a_run_say_the_same_of_company(
    listed: list[tuple] | None, used: float | None, before: float | None
) -> None:
    found = judge(None if listed is None else [gpu_driver.Process(*one) for one in listed], OWN, used, before)
    try:
        judges.judge_alone(found.others, found.unknown, before)
        said = "yes"
    except Failed:
        said = "no"
    except LeftOut:
        said = "unknown"
    assert said == found.alone.partition(":")[0]


def test_tf32_is_found_in_a_product_and_in_a_convolution() -> None:
    exact, rounded = {"matmul": 0.0, "conv": 1e-7}, {"matmul": 2.0**-12, "conv": 2.0**-12}
    assert judges.judge_rounding({"strict": exact, "fast": rounded}, True)
    for kind in exact:
        with pytest.raises(Failed, match=kind):
            judges.judge_rounding({"strict": {**exact, kind: 2.0**-12}, "fast": rounded}, True)
    with pytest.raises(Failed, match="could not detect TF32"):
        judges.judge_rounding({"strict": exact, "fast": exact}, True)
    assert "no TF32" in judges.judge_rounding({"strict": exact, "fast": exact}, False)
    with pytest.raises(Failed, match="conv"):
        judges.judge_rounding({"strict": {**exact, "conv": float("nan")}, "fast": rounded}, True)


@pytest.mark.parametrize(
    ("trained", "wrong"),
    [
        ((TRAINED, TRAINED, TRAINED), ""),
        ((TRAINED, OTHER, TRAINED), "a second process"),
        ((TRAINED, TRAINED, OTHER), "a resumed training"),
        ((NO_NUMBERS,) * 3, "not finite"),
    ],
)
def test_three_trainings_of_one_network_must_end_alike(trained: tuple, wrong: str) -> None:
    found = judges.why_other_bits(*trained)
    assert wrong in found and bool(found) == bool(wrong)


def test_steps_that_launch_unequal_numbers_of_kernels_are_found_and_launch_bound_ones_named() -> None:
    assert judges.judge_pace(1e-3, 2e-3, [90, 91, 90])[0]
    assert judges.judge_pace(1e-3, 0.0, [])[0]
    wrong, words = judges.judge_pace(1e-3, 2e-3, [90, 90, 90])
    assert not wrong and "90 kernels" in words and "limited" not in words
    assert "limited by launches" in judges.judge_pace(2e-3, 2e-3, [])[1]


@pytest.mark.parametrize(
    ("capability", "built_for", "fits"),
    [
        ((9, 0), ["sm_80", "sm_90", "sm_100"], True),
        ((8, 6), ["sm_80", "sm_90"], True),  # the same major number, a higher minor one
        ((8, 0), ["sm_86", "sm_90"], False),
        ((7, 0), ["sm_75", "sm_80"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((7, 0), ["compute_75"], False),
        ((9, 0), ["sm_90a"], True),
    ],
)
def test_a_build_without_kernels_for_the_gpu_is_found(capability: tuple, built_for: list[str], fits: bool) -> None:
    assert (judges.why_not_built(capability, built_for) == "") == fits


def test_runs_off_their_budget_on_the_wrong_device_or_failed_are_found() -> None:
    from equibench.bench.spec.budget import find_budget

    def run(train_s: float = 10.0, device: str = "cuda:0", seed: int = 0, **changes: Any):
        record = made.record(train_s=train_s, budget=find_budget("t10"), steps=5, seed=seed, **changes)
        provenance = record.provenance.model_copy(update={"hardware": {"device": device}})
        return record.model_copy(update={"provenance": provenance})

    assert "+0.50 %" in judges.judge_runs([run(10.05)], ["cuda:0"])
    assert judges.judge_runs([run(), run(device="cuda:1", seed=1)], ["cuda:0", "cuda:1"])
    for records, names, reason in (
        ([run(10.2)], ["cuda:0"], r"\+2.00 %"),
        ([run(9.8)], ["cuda:0"], r"-2.00 %"),
        ([run(), run(seed=1)], ["cuda:0", "cuda:1"], "not one on each"),
        ([run(status="error", reason="it fell")], ["cuda:0"], "it fell"),
    ):
        with pytest.raises(Failed, match=reason):
            judges.judge_runs(records, names)


def test_a_failing_neighbour_needs_the_right_status_and_reason() -> None:
    wanted = {"doctor-out-of-memory": "oom", "doctor-index-outside": "error", "doctor-healthy": "ok"}
    good = {m: (status, "CUDA error: device-side assert triggered") for m, status in wanted.items()}
    assert judges.judge_failures(wanted, good, "", True)
    for model in wanted:
        with pytest.raises(Failed, match=f"{model} is 'lost'"):
            judges.judge_failures(wanted, {**good, model: ("lost", "killed")}, "", True)
    with pytest.raises(Failed, match=r"no record.*it is broken"):
        judges.judge_failures(wanted, {}, "it is broken", True)
    with pytest.raises(Failed, match="device-side assert"):
        judges.judge_failures(wanted, {**good, "doctor-index-outside": ("error", "something else")}, "", True)


def test_reports_are_kept_by_host_and_device_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    first = write_report(tmp_path, report(finding("passed")))
    later = write_report(tmp_path, report(finding("failed"), started="2026-11-27T05:00:00+00:00"))
    assert first.parent == later.parent == tmp_path / "doctor" / "node-7" and first != later
    assert read_report(first).verdict == TRUSTED
    first.write_text(first.read_text().replace("passed", "failed"))
    with pytest.raises(UserError, match="does not match the hash"):
        read_report(first)


def test_boards_of_a_machine_show_the_newest_verdict_on_its_device(tmp_path: Path) -> None:
    def board(hardware: dict[str, str], folder: str, **changes: Any) -> list[str]:
        record = made.record(**changes)
        provenance = record.provenance.model_copy(update={"hardware": hardware})
        root = tmp_path / folder
        write_record(root, record.model_copy(update={"provenance": provenance}))
        write_report(root, report(finding("failed", check="load")))
        write_report(root, report(finding("passed"), started="2026-11-27T05:00:00+00:00"))
        return doctor_notes(root, chain.from_iterable(load_board(root, record.spec.board).counted.values()))

    assert board(HARDWARE, "same") == ["equibench doctor: T boards: trusted: cuda:1 (Some GPU), 2026-11-27"]
    assert board({**HARDWARE, "gpu": "GPU-1", "device": "cuda:0"}, "renumbered")[0].startswith(
        "equibench doctor: T boards"
    )
    assert board({**HARDWARE, "gpu": "GPU-2"}, "neighbour") == []
    assert board({**HARDWARE, "host": "node 8"}, "elsewhere") == []
    assert board({**HARDWARE, "hardware_key": "Some GPU; 40 GiB"}, "changed") == []
    from equibench.bench.spec.budget import find_budget

    timed = {"train_s": 10.0, "budget": find_budget("t10"), "steps": 5, "hardware_key": "k"}
    assert board({**HARDWARE, "host": "node 8"}, "timed", **timed) == ["equibench doctor: no report: cuda:1 (Some GPU)"]


def test_every_family_of_the_class_is_examined() -> None:
    from equibench.bench.spec.suite import find_suite
    from equibench.registry import MODELS

    there = {MODELS.find(m).get("family") for m in find_suite(checks.SUITE).models}
    assert set(checks.families()) == there >= {"pdo-econv", "g-cnn", "e2cnn", "wide-resnet"}


#: The families whose networks are trained, and whether runs that fail are made: one family and none, or all.
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.whole)])
def test_a_cpu_is_examined_by_one_command_and_the_report_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    if not whole:
        wanted = {name: checks.families()[name] for name in ("g-cnn",)}
        monkeypatch.setattr(checks, "families", lambda: wanted)
        monkeypatch.setattr(ExaminedDevice, "equibench", lambda *_, **__: ([], "nothing runs"))
        monkeypatch.setattr(judges, "judge_failures", lambda *found: f"{found[2]}")
    done = equibench("doctor", "--device", "cpu", "--results", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    states = {f["check"]: f["state"] for f in found["findings"]}
    assert list(states) == [c.name for c in CHECKS] and found["verdict"] == E_ONLY
    assert [c for c, s in states.items() if s == "passed"] == [
        "driver and build",
        "TF32 off",
        "same bits, resumed",
        "failures",
    ]
    assert all(s == "not applicable" for s in states.values() if s != "passed")
    (path,) = (tmp_path / "doctor").rglob("*.json")
    assert read_report(path).findings == Report.model_validate({k: found[k] for k in Report.model_fields}).findings


def test_a_gpu_that_is_not_there_is_one_sentence_with_torchs_explanation(tmp_path: Path) -> None:
    done = equibench("doctor", "--device", "cuda:99", "--results", str(tmp_path / "r"))
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.strip().splitlines()) == 1
    assert "--device 'cuda:99'" in done.stderr and "torch sees" in done.stderr and not (tmp_path / "r").exists()
