"""All checks in their order. An exception in the model fails only its own check; the others continue."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace

import torch

from ...datasets.images import data_root
from ...opened_files import watching
from ...registry import UserError, include
from ...side_files import files_beside
from ..measures.compiler import avoid_compiler
from ..records.verdict import Finding, failed, skipped
from ..tools.text import clipped, error_line, location_of
from ..training.job import Check, Events
from . import behaviour, costs, structure, symmetry, traces
from .checked_model import FEW_EVAL_IMAGES, Subject, digest
from .state import state_restored
from .traces import opening_key

#: The checks in their order, by the names that a verdict shows: the function, and the checks that it needs. It is done
#: only if these did not fail, so that one cause gives one failure.
CHECKS: dict[str, tuple[Callable[[Subject], Finding], tuple[str, ...]]] = {
    "citation": (structure.citation, ()),
    "build": (structure.built, ()),
    "output": (structure.output, ("build",)),
    "parameter count": (structure.parameter_count, ("output",)),
    "state entries": (structure.entries, ("output",)),
    "training": (behaviour.training, ("output",)),
    "repeatable": (behaviour.repeatable, ("training",)),
    "gradients": (behaviour.gradients, ("training",)),
    "accounted for": (structure.accounted, ("training",)),
    "seeds": (behaviour.seeds, ("training",)),
    "deterministic": (behaviour.deterministic, ("state entries", "training")),
    "train and eval": (behaviour.modes, ("repeatable", "deterministic")),
    "batch independence": (behaviour.batches, ("repeatable", "train and eval")),
    "memory": (traces.memory, ("repeatable", "train and eval")),
    "fresh weights": (behaviour.fresh_weights, ("repeatable", "train and eval")),
    "state dictionary": (structure.state_dict, ("state entries", "repeatable")),
    "deep copy": (structure.deep_copy, ("state entries", "repeatable", "memory")),
    "bfloat16": (behaviour.bfloat16, ("state entries", "repeatable")),
    "global state": (behaviour.global_state, ("training",)),
    "data files": (traces.data_files, ("output",)),
    "invariance": (symmetry.invariance, ("state entries", "repeatable")),
    "other sizes": (symmetry.neighbours, ("repeatable",)),
    "other angles": (symmetry.angles, ("repeatable",)),
    "batch norm": (costs.batch_norm, ("repeatable",)),
    "cost": (costs.cost, ("training",)),
    "budget": (costs.budget, ("cost",)),
}
#: The checks in which the model is built and first called; a run opens files there too.
OPENING = ("build", "output")


def findings(subject: Subject, leave_out: tuple[str, ...] = ()) -> Iterator[tuple[str, Finding | None]]:
    """Make the checks: (name, None) before each, (name, finding) after it."""
    causes: dict[str, str] = {}  # for each failed or skipped check, the original failure
    with watching(opening_key(subject)):
        for name, (check, needs) in CHECKS.items():
            if name in leave_out:
                continue
            if cause := next((causes[needed] for needed in needs if needed in causes), ""):
                causes[name] = cause
                yield name, skipped(name, f"not checked, because {cause!r} failed")
                continue
            yield name, None
            with watching(subject.resolved.key) if name in OPENING else nullcontext():
                finding = replace(_guarded(check, subject), check=name)
            yield name, finding
            if finding.status == "fail":
                causes[name] = name


def _guarded(check: Callable[[Subject], Finding], subject: Subject) -> Finding:
    with state_restored():
        try:
            return check(subject)
        except Exception as error:  # a model may raise anything
            traceback.print_exc()
            says, _, do = str(error).partition("; ")
            if isinstance(error, UserError) and do:  # it says what would be right
                return failed(clipped(says), do)
            where = location_of(error, subject.resolved.files)
            wanted = (check.__doc__ or "").splitlines()[0]
            return failed(f"raised {clipped(error_line(error))}{where}", _advice(error, wanted))


def _advice(error: Exception, wanted: str) -> str:
    """Advice for exceptions that pasted networks often raise."""
    text = str(error)
    if isinstance(error, ImportError):
        return "install the missing package, or import it only where it is used: a model needs no image readers"
    if "NVIDIA driver" in text or "not compiled with CUDA" in text or "cuda" in text.lower():
        return "create tensors on the device of the input (device=x.device) instead of .cuda() or a named device"
    if isinstance(error, TypeError) and "np.matrix is not supported" in text:
        why = "escnn cannot compute kernels of this group with the current scikit-learn"
        return f"{why}; docs/escnn-models.md explains how to build such networks"
    if isinstance(error, IndexError) and "Dimension out of range" in text:
        return "flatten with x.flatten(1), not x.squeeze(), which also removes the batch dimension of a single image"
    return f"correct the code that raises it; expected: {wanted}"


def perform(job: Check, events: Events) -> None:
    """Do the checks and send an event before and after each, then the digest of the initial weights."""
    torch.set_num_threads(job.threads)
    avoid_compiler()
    include(job.include)
    subject = Subject(job)
    if job.only_weights:
        subject.load()
        events.send("weights", digest=digest(subject.build()), logits=_late_logits(subject))
        events.send("done", status="ok")
        return
    good: set[str] = set()
    for name, finding in findings(subject):
        if finding is None:
            events.send("begin", check=name)
            continue
        events.send("finding", check=name, status=finding.status, says=finding.says, do=finding.do)
        if name == OPENING[-1]:
            events.send("made", opened=files_beside(subject.resolved.files, subject.resolved.opened, [data_root()]))
        if finding.status in ("pass", "note"):
            good.add(name)
    if "seeds" in good:
        history = {"repeatable", "train and eval", "memory"} <= good
        events.send("weights", digest=digest(subject.build()), logits=_late_logits(subject) if history else None)
    events.send("size", **subject.size)
    events.send("done", status="ok")


def _late_logits(subject: Subject) -> list[list[float]] | None:
    """Logits of the initial weights; they must not depend on how many images the process has seen before."""
    try:
        model = subject.build()
        subject.evaluate(model, subject.images(1, seed=2))
        # Heavy models get the same number of images, because both processes must use the same.
        return subject.evaluate(model, subject.images(FEW_EVAL_IMAGES), FEW_EVAL_IMAGES).tolist()
    except Exception:  # the checks report exceptions of the model
        traceback.print_exc()
        return None
