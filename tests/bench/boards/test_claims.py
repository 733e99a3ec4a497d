"""Claims of invariance: measured under exactly their elements, in every run, and marked where they are false."""

import csv
import io
import re
from pathlib import Path

import pytest
import torch
from equibench.bench.boards.board import load_board
from equibench.bench.boards.claims import CLAIMS, claim_columns, exact_part
from equibench.bench.boards.notes import board_notes
from equibench.bench.boards.rows import run_rows, write_board
from equibench.bench.boards.terminal_table import board_table, narrow_rows
from equibench.bench.measures.equivariance import GRID, Scene, claimed_elements, measure_core
from equibench.bench.measures.invariance import claim_errors
from equibench.bench.publish.payload import payload
from equibench.bench.publish.tables import latex_page, markdown_page
from equibench.bench.records.record import EXACT, write_record
from equibench.bench.reports.run_card import run_card, run_text
from equibench.models.groups import PlanarGroup, transform_image
from equibench.models.pdo.layers import PDOConv, PDOLift
from equibench.registry import build_model
from torch import nn

from .. import made
from ..training import test_run as runs

BOARD, SIZE = made.spec().board, 12
GROUPS = ("C2", "C4", "D1", "D2", "D4")
IMAGES = torch.randint(0, 256, (20, 1, SIZE, SIZE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


class Averaged(nn.Module):
    """Exactly invariant under a group of grid symmetries, and under no other: the mean of a random map over it."""

    def __init__(self, group: str) -> None:
        super().__init__()
        self.group, self.calls = PlanarGroup.parse(group), 0
        self.weights = torch.randn(SIZE * SIZE, 5, generator=torch.Generator().manual_seed(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += len(images)
        own = self.group.grid_symmetries()
        return sum(transform_image(images, self.group, g).flatten(1) @ self.weights for g in own) / len(own)


def core(model: nn.Module, claim: str):
    return measure_core(model, IMAGES, Scene(SIZE, lambda x: x.float() / 255, [0.0], 255, torch.device("cpu")), claim)


@pytest.mark.parametrize("group", GROUPS)
def test_a_claim_is_measured_under_its_elements_and_no_others(group: str) -> None:
    model = Averaged(group)
    for claim in GROUPS:
        error, inside = core(model, claim).eq_claimed, {*claimed_elements(claim)} <= {*claimed_elements(group)}
        assert error < 1e-6 if inside else error > 0.1, (claim, error)


def test_the_errors_of_c4_and_d4_are_those_of_these_claims() -> None:
    model = Averaged("D1")
    assert core(model, "C4").eq_claimed == core(model, "C4").eq_exact_c4
    assert core(model, "D4").eq_claimed == core(model, "C4").eq_exact_d4
    assert core(model, "none").eq_claimed is None and core(model, "C1").eq_claimed is None


@pytest.mark.parametrize("claim", GROUPS)
def test_a_claim_costs_no_pass(claim: str) -> None:
    without, with_claim = Averaged("D2"), Averaged("D2")
    core(without, "none"), core(with_claim, claim)
    assert with_claim.calls == without.calls


def test_the_elements_of_a_group_on_the_grid_are_a_group() -> None:
    for name in (f"{kind}{n}" for kind in "CD" for n in range(1, 17)):
        found = claimed_elements(name)
        assert found[0] == 0 and {GRID.product(g, h) for g in found for h in found} == {*found}, name
        # Of each group the part that is named is that which is measured.
        assert claimed_elements(exact_part(name)) == found and claimed_elements(exact_part(exact_part(name))) == found
        assert len(found) == PlanarGroup.parse(exact_part(name)).order
    assert claimed_elements("none") == [] and all(exact_part(c) == c for c in CLAIMS)
    assert [exact_part(c) for c in ("C8", "C6", "D6", "D3", "D12", "C3", "Cx", "")] == [
        "C4", "C2", "D2", "D1", "D4", "C1", "Cx", "",
    ]  # fmt: skip


@pytest.mark.parametrize("group", ["C2", "C4", "C6", "D1", "D2", "D3", "D4", "D5", "D6"])
def test_networks_of_pdo_layers_are_exact_under_the_claims_of_their_groups(group: str) -> None:
    """A correct D1 or D3 failed where the claim took the other mirror than the layers do."""
    torch.manual_seed(0)
    order = PlanarGroup.parse(group).order
    first, second = PDOLift(1, 2, group=group, stencil="gauss"), PDOConv(2, 3, group=group, stencil="gauss")

    class Network(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return second(first(x).relu()).relu().unflatten(1, (-1, order)).mean((2, 3, 4))

    images = torch.randn(6, 1, SIZE, SIZE)
    found = claim_errors(Network(), images, lambda x: x, [group, "D4"])
    assert found[group] < EXACT
    assert group == "D4" or found["D4"] > 0.01


@pytest.mark.parametrize(("name", "claim"), [("pdo-econv-p6-26", "C2"), ("pdo-econv-p6m-26", "D2")])
def test_claims_of_our_own_networks_are_verified(name: str, claim: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, 3, 10, 32)
    found = claim_errors(model, torch.randn(3, 3, 32, 32), lambda x: x, [claim, "D4"])
    assert found[claim] < EXACT < found["D4"]


def claiming(claim: str, *errors: float | None, model: str = "made-up", recorded: str | None = None) -> list:
    """A run for each error after training; before training all is exact."""
    facts = {
        "family": "",
        "group": "",
        "invariant": claim if recorded is None else recorded,
        "source": "x",
        "treatment": "",
    }
    found = []
    for seed, error in enumerate(errors):
        record = made.record(90.0 + seed, seed=seed, model=model)
        point = record.results.trained.model_copy(
            update={"eq_claimed": error, "eq_exact_c4": None, "eq_exact_d4": None}
        )
        results = record.results.model_copy(
            update={"trained": point, "init": point.model_copy(update={"eq_claimed": None if error is None else 1e-7})}
        )
        provenance = record.provenance.model_copy(update={"registered": facts})
        found.append(record.model_copy(update={"results": results, "provenance": provenance}))
    return found


@pytest.mark.parametrize(
    ("claim", "errors", "said"),
    [
        ("C4", (1e-6, 2e-6, 0.9e-4), "C4"),
        ("D1", (1e-6, 1e-6), "D1"),
        ("D2", (0.4, 0.5), "D2 (broken)"),
        ("C2", (1e-7,) * 7 + (2e-4,), "C2 (broken)"),  # the mean over the runs would be rounding
        ("C8", (1e-6, 1e-6), "C8 (only C4 checked)"),
        ("D3", (1e-6,), "D3 (only D1 checked)"),
        ("C8", (1e-6, 0.1), "C8 (broken)"),
        ("C3", (None,), "C3 (cannot be checked)"),
        ("D1", (None,), "D1 (not measured)"),
        ("none", (None,), "none"),
        ("Cwhatever", (0.5,), "Cwhatever (broken)"),  # a record may be anybody's
    ],
)
def test_every_output_marks_a_claim_alike(claim: str, errors: tuple, said: str, tmp_path: Path) -> None:
    for record in claiming(claim, *errors):
        write_record(tmp_path, record)
    board = write_board(tmp_path, BOARD)
    assert board.frame["claim"].tolist() == [said] and board.frame["invariant"].tolist() == [claim]
    for style in ("simple", "html"):
        assert said in board_table(board, style)
    (row,) = csv.DictReader(io.StringIO((tmp_path / f"{BOARD}.csv").read_text()))
    assert row["claim"] == said
    assert said in markdown_page(board)
    marked = re.search(rf"^(1 & )?made-up[^&]* \[[^&]*{re.escape(said)}", latex_page(board), re.MULTILINE)
    assert (marked is not None) == (said != claim), "a table without claims has the marks alone"
    document = payload(board, [], [])
    assert document["rows"][0][[c["key"] for c in document["columns"]].index("claim")] == said
    assert {c["key"]: c["on"] for c in document["columns"]}["claim"]
    assert (narrow_rows(board, board.frame)[0].get("invariant") == said) == (said != claim)
    assert any("contradict" in note for note in board_notes(board, board.frame)) == said.endswith("(broken)")
    assert any("off the grid" in note for note in board_notes(board, board.frame)) == (exact_part(claim) != claim)
    # Of each run its own.
    first = claiming(claim, errors[-1])[0]
    assert run_rows(board)["claim"].tolist()[-1] == claim_columns([first], claim)["claim"] == said


def test_the_card_of_a_run_marks_its_claim(tmp_path: Path) -> None:
    (record,) = claiming("D1", 0.3)
    write_record(tmp_path, record)
    text = run_text(run_card(record.run_id[:8], tmp_path))
    assert "D1 (broken)" in text and "eq_claimed" in text


def test_what_was_measured_under_another_claim_is_not_taken_for_this_one(tmp_path: Path) -> None:
    # Measured as C2, which holds; the board's row claims D2 by now.
    records = claiming("D2", 1e-7, recorded="C2")
    assert claim_columns(records, "D2")["claim"] == "D2 (not measured)"
    assert claim_columns(records, "C2")["claim"] == "C2"
    # C4 and D4 are always measured, for every claim.
    other = made.record(90.0)
    assert claim_columns([other], "C4") == {
        "claim": "C4 (broken)", "eq_claimed_init": 0.5, "eq_claimed": 0.5, "eq_claimed_worst": 0.5,
    }  # fmt: skip


def test_a_run_measures_what_its_model_claims(tmp_path: Path) -> None:
    said = runs.head_to_head(tmp_path, "tiny,tiny-flips,tiny-claims")
    assert said.returncode == 0, said.stderr
    assert "D1 (broken)" in said.stdout and "tiny-claims claims to be invariant under D1" in said.stdout
    found = {model: own[0].results for model, own in runs.records(tmp_path).items()}
    assert found["tiny"].trained.eq_claimed is None
    assert max(found["tiny-flips"].init.eq_claimed, found["tiny-flips"].trained.eq_claimed) < EXACT
    assert min(found["tiny-claims"].init.eq_claimed, found["tiny-claims"].trained.eq_claimed) > EXACT
    assert all(r.init.scale > 0 and r.trained.scale_analytic > 0 for r in found.values())
    (board,) = (p for p in (tmp_path / "results" / "runs").iterdir())
    row = load_board(tmp_path / "results", board.name).frame.set_index("model").loc["tiny-flips"]
    assert row["claim"] == "D1" and row["eq_claimed_worst"] < EXACT and row["scale"] > 0
