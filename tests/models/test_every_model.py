"""Every registered model passes the checks that a contribution has to pass.

The default run checks small models of every kind for what they claim and store. The mark ``whole`` has all checks of
one small model of each kind of layer, and ``slow`` those of all others, which the widest make long: choose with -k. Of
every model up to 100 thousand parameters the verdict on its present source is shipped.
All are counted and return logits on the `meta` device in test_registered.py.
"""

from collections.abc import Iterable

import pytest
import torch
from equibench.bench.check.checked_model import Subject
from equibench.bench.check.runner import CHECKS, findings
from equibench.bench.records.kept_verdicts import SHIPPED, YES, kept_verdict
from equibench.bench.records.verdict import NAMES
from equibench.bench.training.job import Check
from equibench.registry import MODELS, WRAPPERS
from equibench.source import source_hash

torch.set_num_threads(1)

#: Parameters up to which a model is small.
SMALL = 100_000
MODELS_HERE = [e for e in MODELS.match() if e.fields.get("params")]
#: One of each kind of layer.
KINDS = ("e2cnn-c8-25k", "p4cnn", "pdo-econv-p8", "wrn-10-b9")
#: A small member of each family whose template builds more than its published networks.
MEMBERS = {
    "p4cnn-12": "1x28x28->10",
    "z2cnn-12": "1x28x28->10",
    "wrn-10-b4": "3x32x32->10",
    "pdo-econv-p8-gauss": "1x28x28->10",
    "tv-shufflenet_v2_x0_5": "3x32x32->10",
}
#: Every wrapper, around a model that claims nothing.
WRAPPED = [f"z2cnn-22+{w.name}" for w in WRAPPERS.match()]
#: One wrapper of each file, with the smallest group.
SMALLEST = [f"z2cnn-22+{w.name}" for w in {w.module: w for w in reversed(WRAPPERS.match())}.values()]
#: What a model claims, and what it stores.
CLAIMS = (
    "citation", "build", "output", "parameter count", "training", "gradients", "accounted for", "state entries",
    "seeds", "global state", "invariance",
)  # fmt: skip
#: What depends on the moment, and what is only reported.
LEFT_OUT = ("cost", "budget", "other angles", "other sizes")


def is_small(entry) -> bool:
    return max(entry.fields["params"].values()) <= SMALL


def faults(name: str, inputs: list[str], left_out: tuple[str, ...] = LEFT_OUT) -> dict[str, str]:
    """Findings of the check that are no pass, a note included that says that a claim is too small."""
    job = Check(
        model=name,
        inputs=inputs,
        dataset="digits-rot",
        budget="e20",
        steps=937,
        recipe="common",
        reference=None,
        include=[],
    )
    found = {n: f for n, f in findings(Subject(job), left_out) if f is not None}
    assert set(found) == set(NAMES) - set(left_out)
    return {
        n: f"{f.says} → {f.do}"
        for n, f in found.items()
        if f.status in ("fail", "skip") or (n == "invariance" and f.status == "note")
    }


@pytest.mark.parametrize("name", [*KINDS, *MEMBERS, *SMALLEST])
def test_a_model_is_what_it_claims(name: str) -> None:
    inputs = [MEMBERS[name]] if name in MEMBERS else list(MODELS.find(name).get("params") or ["1x28x28->10"])
    claims = _with_needs(CLAIMS)
    assert faults(name, inputs, tuple(n for n in NAMES if n not in claims)) == {}


def _with_needs(names: Iterable[str]) -> set[str]:
    """These checks, and all that have to pass before them."""
    return {n for name in names for n in (name, *_with_needs(CHECKS[name][1]))}


@pytest.mark.whole
@pytest.mark.parametrize("name", KINDS)
def test_a_small_model_passes_the_whole_check(name: str) -> None:
    """`test_a_model_is_what_it_claims` has its claims, `test_the_verdict_on_a_small_model_is_shipped` a verdict."""
    assert faults(name, list(MODELS.entries()[name].fields["params"])) == {}


@pytest.mark.parametrize("name", [e.name for e in MODELS_HERE if is_small(e)])
def test_the_verdict_on_a_small_model_is_shipped(name: str) -> None:
    """After a change of its source: ``equibench check NAME --results models``."""
    assert kept_verdict(SHIPPED, name, source_hash(MODELS.find(name))) == YES


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_model_claims_what_its_wrapper_does(name: str) -> None:
    claimed = MODELS.find(name).wrappers[0].entry.fields.get("invariant")
    assert MODELS.find(name).get("invariant") == (claimed or "none")


@pytest.mark.whole
@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_model_passes_the_whole_check(name: str) -> None:
    """`test_a_model_is_what_it_claims` has one wrapper of each file."""
    assert faults(name, ["1x28x28->10"]) == {}


@pytest.mark.whole
@pytest.mark.parametrize(("name", "shape"), MEMBERS.items())
def test_a_member_of_a_family_passes_the_whole_check(name: str, shape: str) -> None:
    """`test_a_model_is_what_it_claims` has the same members."""
    assert faults(name, [shape]) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", [e.name for e in MODELS_HERE if e.name not in KINDS])
def test_another_model_passes_the_whole_check(name: str) -> None:
    assert faults(name, list(MODELS.entries()[name].fields["params"])) == {}
