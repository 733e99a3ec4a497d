"""Who is on a GPU: what the driver lists, and what the memory in use says where it lists too little."""

from __future__ import annotations

import pytest
from equibench.bench.tools import gpu_driver
from equibench.bench.tools.gpu_driver import Process
from equibench.bench.tools.gpu_processes import LITTLE_MIB, MUCH_MIB, judge

OWN, CONTEXT = 4242, 500.0
ME = Process(OWN, CONTEXT + 100)
#: The driver's own few MiB, which belong to no process.
REST = 4.0


def test_a_process_that_accounts_for_all_memory_is_alone() -> None:
    assert judge([ME], OWN, CONTEXT + 100 + REST).alone == "yes"
    screen = Process(7, 30.0, computes=False)
    assert judge([screen, ME], OWN, CONTEXT + 130 + REST).alone == "yes", "what only draws computes nothing"
    # In another namespace this process has another id: it is the one that holds all memory.
    assert judge([ME], 1, CONTEXT + 100 + REST).alone == "yes"


@pytest.mark.parametrize("own", [OWN, 1])
def test_other_listed_processes_are_company(own: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_driver, "process_name", {977: "python", OWN: "we"}.get)
    both = judge([ME, Process(977, CONTEXT)], own, 2 * CONTEXT + 100)
    assert both.others.startswith("not alone on its GPU: ") and "python (977)" in both.others and both.count == 2
    assert ("(4242)" in both.others) == (own != OWN), "under another number this process is one of them"
    assert both.alone.startswith("no: ") and "not alone" not in both.alone
    without = judge([Process(OWN, None), Process(977, None), Process(978, None)], own, None)
    assert without.count == 3 and without.others, "they count even if their memory is unknown"


@pytest.mark.parametrize("own", [OWN, 1])
def test_memory_that_nobody_listed_holds_is_company(own: int) -> None:
    """A context that is not listed takes memory all the same, and so does one that hides behind a list of one."""
    assert "500 MiB of it are held by processes that are not visible" in judge([ME], own, CONTEXT + 100 + 500).others
    assert judge([ME], own, CONTEXT + 100 + MUCH_MIB).others and judge([ME], own, CONTEXT + 100 + MUCH_MIB).count == 2
    for used in (LITTLE_MIB + 1, MUCH_MIB - 1):
        found = judge([ME], own, CONTEXT + 100 + used)
        assert not found.others and f"{used} MiB" in found.unknown and found.alone.startswith("unknown: ")


@pytest.mark.parametrize("processes", [None, [], [Process(OWN, None)], [Process(1, None)]])
def test_where_no_process_is_told_nobody_claims_to_be_alone(processes: list[Process] | None) -> None:
    for before in (None, 0.0, REST):
        found = judge(processes, OWN, CONTEXT + REST, before, 10.0)
        assert found.unknown and not found.others and found.alone.startswith("unknown: ")
    assert "600 MiB of it were held before" in judge(processes, OWN, 2 * CONTEXT, 600.0).others
    assert "520 MiB of it were taken by another process" in judge(processes, OWN, 2 * CONTEXT, REST, 520.0).others
    assert judge(processes, OWN, None).unknown


def test_what_draws_was_there_before_and_is_no_company() -> None:
    screen = Process(7, 400.0, computes=False)
    assert not judge([screen], OWN, 1000.0, 402.0).others
    assert judge([screen], OWN, 1000.0, 402.0 + MUCH_MIB).others


@pytest.mark.parametrize(
    ("listed", "company"),
    [
        ([OWN], ""),
        ([OWN, 8, 9], ""),
        ([OWN, 8, 9, 5], "(5)"),
        ([OWN, 5], "(5)"),
        ([107, 108, 109], ""),  # a container's own numbers
        ([107, 108, 109, 105], "(107)"),
    ],
)
def test_processes_that_take_turns_are_not_company(listed: list[int], company: str) -> None:
    there = [Process(number, CONTEXT) for number in listed]
    found = judge(there, OWN, REST + CONTEXT * len(listed), partners=[OWN, 8, 9])
    assert company in found.others and bool(found.others) == bool(company)
    hidden = judge(there, OWN, REST + CONTEXT * (len(listed) + 1), partners=[OWN, 8, 9])
    assert hidden.others, "memory that is held by none of them is somebody else's"


@pytest.mark.parametrize("listed", [None, []])
def test_without_a_list_of_processes_the_run_measures_and_company_is_unknown(listed: list[Process] | None) -> None:
    found = judge(listed, OWN, 5 * CONTEXT, partners=[8, 9])
    assert not found.others and found.unknown


def test_a_server_for_many_processes_is_company_and_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under MPS the driver lists the server beside its clients."""
    monkeypatch.setattr(gpu_driver, "process_name", lambda pid: "nvidia-cuda-mps-server" if pid == 5 else "python")
    server, neighbour = Process(5, 30.0), Process(8, CONTEXT)
    only = judge([ME, server], OWN, CONTEXT + 130 + REST)
    assert "nvidia-cuda-mps-server (5)" in only.others and only.count == 1
    assert judge([ME, server, neighbour], OWN, 2 * CONTEXT + 130 + REST).count == 2
    assert judge([Process(71, CONTEXT), Process(72, CONTEXT), server], OWN, 2 * CONTEXT + 30).count == 2, (
        "under other numbers"
    )
