"""The profile of a process stays valid if a model changes settings through any interface of torch."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from equibench.bench.check.state import changes, restore, snapshot
from equibench.bench.measures import execution_profile
from equibench.bench.measures.equivariance import reference_arithmetic
from equibench.bench.measures.execution_profile import (
    FULL,
    REDUCED,
    ProfileChanged,
    check_profile,
    float32_precision,
    set_profile,
)
from equibench.bench.records.record import read_record

from .. import commands

#: Statements that set the precision of float32 products, by both interfaces.
PRECISIONS = [
    "torch.backends.cuda.matmul.allow_tf32 = True",
    "torch.backends.cuda.matmul.allow_tf32 = False",
    "torch.backends.cudnn.allow_tf32 = True",
    "torch.backends.cudnn.allow_tf32 = False",
    "torch.set_float32_matmul_precision('high')",
    "torch.set_float32_matmul_precision('medium')",
    "torch.backends.fp32_precision = 'tf32'",
    "torch.backends.fp32_precision = 'ieee'",
    "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "torch.backends.cudnn.fp32_precision = 'tf32'",
    "torch.backends.cudnn.conv.fp32_precision = 'tf32'",
    "torch.backends.cudnn.rnn.fp32_precision = 'ieee'",
    "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'",
    "torch.backends.mkldnn.conv.fp32_precision = 'tf32'",
]
#: Others that a profile fixes.
OTHERS = [
    "torch.set_num_threads(3)",
    "torch.set_autocast_enabled('cpu', True)",
    "torch.set_autocast_enabled('cuda', True)",
    "torch.backends.cudnn.deterministic = True",
    "torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark",
    "torch.use_deterministic_algorithms(not torch.are_deterministic_algorithms_enabled())",
    "torch.utils.deterministic.fill_uninitialized_memory = True",
]
WANTED = {"strict": FULL, "fast": REDUCED}


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    precision, held = float32_precision(), execution_profile._held
    kept, generic, filled = (
        snapshot(),
        torch.backends.fp32_precision,
        torch.utils.deterministic.fill_uninitialized_memory,
    )
    yield
    restore(kept)
    torch.set_autocast_enabled("cuda", False)
    torch.utils.deterministic.fill_uninitialized_memory = filled
    torch.backends.fp32_precision = generic
    execution_profile.set_float32_precision(precision)
    execution_profile._held = held


def older_interface() -> tuple[bool, bool, str]:
    """What it says; it raises where it is at odds with the newer one."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()


@pytest.mark.parametrize("statement", ["pass", *PRECISIONS, *OTHERS])
@pytest.mark.parametrize("profile", WANTED)
def test_a_profile_replaces_all_earlier_settings(profile: str, statement: str) -> None:
    set_profile(profile, 1)
    exec(statement)
    execution_profile.renew_profile()
    assert float32_precision() == WANTED[profile]
    assert older_interface() == ((False, False, "highest") if profile == "strict" else (True, True, "high"))
    assert torch.get_num_threads() == 1 and not torch.is_autocast_enabled("cuda")
    assert torch.get_deterministic_debug_mode() == (1 if profile == "strict" else 0)
    check_profile()


@pytest.mark.parametrize("statement", [*PRECISIONS, *OTHERS])
def test_what_a_model_sets_later_is_seen_and_named(statement: str) -> None:
    for profile in WANTED:
        set_profile(profile, 1)
        exec(statement)
        if float32_precision() == WANTED[profile] and statement in PRECISIONS:
            check_profile()  # it set what was set
            continue
        with pytest.raises(ProfileChanged, match=f"profile '{profile}'.*must not change these settings"):
            check_profile()


@pytest.mark.parametrize("statement", ["pass", *PRECISIONS])
def test_errors_are_measured_in_full_precision_and_the_rest_goes_on_as_it_was(statement: str) -> None:
    exec(statement)
    before = float32_precision()
    with reference_arithmetic():
        assert float32_precision() == FULL and older_interface() == (False, False, "highest")
    assert float32_precision() == before


@pytest.mark.parametrize("statement", PRECISIONS)
def test_the_check_of_global_state_sees_every_interface(statement: str) -> None:
    set_profile("strict", 1)
    before = snapshot()
    exec(statement)
    found = changes(before)
    assert float32_precision() == FULL or any(c.startswith("torch's precision of float32 (") for c in found)
    restore(before)
    assert changes(before) == [] and float32_precision() == FULL


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("torch.backends.mkldnn.enabled = False", "mkldnn.enabled is False, not True"),
        ("torch.backends.cudnn.enabled = False", "cudnn.enabled is False"),
        ("torch.set_flush_denormal(True)", "denormal numbers become zero is True"),
        ("torch.set_default_dtype(torch.float64)", "default dtype is torch.float64"),
    ],
)
@pytest.mark.parametrize("profile", ["strict", "fast"])
def test_switches_that_decide_which_code_computes_belong_to_the_profile(
    profile: str, statement: str, said: str
) -> None:
    set_profile(profile, 1)
    exec(statement)
    with pytest.raises(ProfileChanged, match=said):
        check_profile()
    execution_profile.renew_profile()
    check_profile()


def test_a_process_without_a_profile_is_left_alone() -> None:
    execution_profile._held = None
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    execution_profile.renew_profile()
    check_profile()
    assert float32_precision()["cuda.matmul"] == "tf32"


MODELS = """
import sys

import torch
from equibench import register_model
from torch import nn

torch.backends.cuda.matmul.allow_tf32 = True
torch.backends.cudnn.conv.fp32_precision = "tf32"
torch.set_num_threads(3)


class Net(nn.Module):
    def __init__(self, channels, classes, late):
        super().__init__()
        self.convolution, self.head, self.late = nn.Conv2d(channels, 8, 5), nn.Linear(8, classes), late
        torch.set_float32_matmul_precision("medium")
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        torch.backends.mkldnn.enabled = torch.backends.cudnn.enabled = False
        torch.set_flush_denormal(True)

    def forward(self, images):
        if self.training:
            b = torch.backends
            own = [x.fp32_precision for x in (b.cuda.matmul, b.cudnn.conv, b.mkldnn.matmul)]
            assert self.late or (own == 3 * ["ieee"] and torch.get_num_threads() == 1), own
            # Operations are counted with few images, and without libraries.
            libraries = torch.backends.mkldnn.enabled and torch.backends.cudnn.enabled
            assert (libraries or len(images) < 4) and sys.float_info.min / 2 > 0
            if self.late:
                torch.backends.cuda.matmul.fp32_precision = "tf32"
        return self.head(self.convolution(images).relu().amax((2, 3)))


@register_model("early", group="none", invariant="none", source="made up")
def early(in_channels, num_classes, image_size):
    return Net(in_channels, num_classes, False)


@register_model("late", group="none", invariant="none", source="made up")
def late(in_channels, num_classes, image_size):
    return Net(in_channels, num_classes, True)
"""


def test_runs_of_models_that_set_the_precision(tmp_path: Path) -> None:
    """At import and when it is built: without effect. In training: no figure, and none at the next attempt either."""
    (tmp_path / "theirs.py").write_text(MODELS)
    command = (
        "run", "--dataset", "bars", "--models", "early,late", "--budget", "e2", "--seeds", "1", "--device", "cpu",
        "--include", "theirs.py", "--include", str(Path(__file__).parents[1] / "tiny.py"), "--results", "results",
    )  # fmt: skip
    for _ in range(2):
        commands.equibench(*command, cwd=tmp_path)
    found = [read_record(path) for path in (tmp_path / "results" / "runs").glob("*/*.json")]
    (early,) = (r for r in found if r.spec.model == "early")
    assert early.status == "ok", early.reason
    late = [r for r in found if r.spec.model == "late"]
    assert sorted(r.attempt for r in late) == [1, 2] and all(r.status == "error" for r in late)
    assert all("float32 precision of cuda.matmul is tf32, not ieee" in r.reason for r in late)
