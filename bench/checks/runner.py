"""All checks in their order, each guarded: what raises inside the model is a failed check, and the others go on."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace

import torch

from ...beside import files_beside
from ...datasets.images import data_root
from ...opened import watching
from ..job import Check, Events
from ..lean import spare_compiler
from ..place import place_of
from . import behaviour, costs, structure, symmetry
from .state import kept
from .subject import Subject, digest
from .verdict import Finding, failed, skipped

#: In the order in which they are made; the name is what a verdict shows.
CHECKS: dict[str, Callable[[Subject], Finding]] = {
    "citation": structure.citation,
    "build": structure.built,
    "output": structure.output,
    "parameter count": structure.parameter_count,
    "gradients": behaviour.gradients,
    "accounted for": structure.accounted,
    "seeds": behaviour.seeds,
    "deterministic": behaviour.deterministic,
    "batch independence": behaviour.batches,
    "train and eval": behaviour.modes,
    "fresh weights": behaviour.fresh_weights,
    "state dictionary": structure.state_dict,
    "deep copy": structure.deep_copy,
    "bfloat16": behaviour.bfloat16,
    "global state": behaviour.global_state,
    "invariance": symmetry.invariance,
    "other sizes": symmetry.neighbours,
    "other angles": symmetry.angles,
    "batch norm": costs.batch_norm,
    "cost": costs.cost,
    "budget": costs.budget,
}
#: Without these nothing else can be looked at.
NEEDED = ("build", "output")


def findings(subject: Subject, leave_out: tuple[str, ...] = ()) -> Iterator[tuple[str, Finding | None]]:
    """Make the checks: (name, None) before each, (name, finding) after it."""
    missing = ""
    for name, check in CHECKS.items():
        if name in leave_out:
            continue
        if missing:
            yield name, skipped(name, f"not looked at, since {missing!r} failed")
            continue
        yield name, None
        # As in a run: files are opened where it is built, and where it is called first.
        with watching(subject.resolved.key) if name in NEEDED else nullcontext():
            finding = replace(_guarded(check, subject), check=name)
        yield name, finding
        if finding.status == "fail" and name in NEEDED:
            missing = name


def _guarded(check: Callable[[Subject], Finding], subject: Subject) -> Finding:
    with kept():
        try:
            return check(subject)
        except Exception as error:  # a model may raise anything
            traceback.print_exc()
            lines = [line for line in str(error).strip().splitlines() if line] or ["no message"]
            where = place_of(error, subject.resolved.files)
            message = re.sub(r"\s+", " ", lines[0])[:200]
            return failed(f"raised {type(error).__name__}: {message}{where}", _advice(error, (check.__doc__ or "").splitlines()[0]))


def _advice(error: Exception, wanted: str) -> str:
    """What to do about an exception that many a pasted network raises."""
    text = str(error)
    if isinstance(error, ImportError):
        return "install what is missing, or import it only where it is used: a model needs no readers of images"
    if "NVIDIA driver" in text or "not compiled with CUDA" in text or "cuda" in text.lower():
        return "let tensors follow the input (device=x.device) instead of .cuda() or a named device"
    if isinstance(error, TypeError) and "np.matrix is not supported" in text:
        return "escnn cannot solve for this group beside today's scikit-learn; docs/your-model.md says how to build such nets"
    if isinstance(error, IndexError) and "Dimension out of range" in text:
        return "flatten with x.flatten(1), not x.squeeze(), which takes away the batch of one image as well"
    return f"correct what raises; wanted: {wanted}"


def perform(job: Check, events: Events) -> None:
    """Make the checks and send an event before and after each, then the digest of the initial weights."""
    torch.set_num_threads(job.threads)
    spare_compiler()
    from ...registry import include

    include(job.include)
    subject = Subject(job)
    if job.only_weights:
        subject.load()
        events.send("weights", digest=digest(subject.build()))
        events.send("done", status="ok")
        return
    for name, finding in findings(subject):
        if finding is None:
            events.send("begin", check=name)
            continue
        events.send("finding", check=name, status=finding.status, says=finding.says, do=finding.do)
        if name == NEEDED[-1]:
            events.send("made", opened=files_beside(subject.resolved.files, subject.resolved.opened, [data_root()]))
        if name == "seeds" and finding.status == "pass":
            events.send("weights", digest=digest(subject.build()))
    events.send("size", **subject.size)
    events.send("done", status="ok")
