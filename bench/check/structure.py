"""Checks of structure: parameters as declared, buffers, state dictionary, copies."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ...registry import allows
from ..measures.cost import count_parameters
from ..records.verdict import Finding, failed, noted, passed
from ..tools.text import clipped, error_line, first_line
from ..training.probe import USUAL
from .checked_model import Input, Subject, all_tensors, differing, listed_names, loss_of, same_bits
from .libraries import NOTHING, is_library_property, library_note, library_text, package_of

_SOURCE = re.compile(
    r"arXiv:(\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7})(v\d+)?"
    r"|(doi:|https://doi\.org/)?10\.\d{4,9}/\S+"
    r"|https?://[^\s/.]+(\.[^\s/.]+)+(/\S*)?"
)
#: Attributes of every module that contain its registered parameters, buffers and modules.
_REGISTERED = ("_parameters", "_buffers", "_modules")


def citation(subject: Subject) -> Finding:
    """Readers can look up the sources of the model and of its wrappers."""
    entries = [subject.resolved.entry, *(w.entry for w in subject.resolved.wrappers)]
    sources = [str(e.fields["source"]) for e in entries]
    for entry, source in zip(entries, sources, strict=True):
        if not _SOURCE.fullmatch(source):
            return failed(
                f"source={source!r} of {entry.name!r} cannot be looked up",
                "write arXiv:2007.10408, doi:10.1000/xyz or a URL; for your own design, the URL of its code",
            )
    if not subject.resolved.entry.doc:
        return noted(
            f"{', '.join(sources)}; the function has no docstring",
            "describe the model in one sentence, because cards show it",
        )
    return passed(", ".join(sources))


def built(subject: Subject) -> Finding:
    """The model can be built for every declared input, and for the registered image sizes."""
    subject.load()
    counts = {str(of): count_parameters(subject.build(of=of)) for of in subject.inputs}
    said = subject.resolved.get("sizes")
    for size in said if isinstance(said, list) else [n for n in USUAL if said and allows(said, n)]:
        of = replace(subject.input, size=size)
        try:
            found = wrong_output(subject.build(of=of).eval(), subject, 1, of)
            wrong = found.says if found else ""
        except Exception as error:  # a model may raise anything
            wrong = f"it cannot be built for {of}: {clipped(first_line(error))}"
        if wrong:
            return failed(
                f"sizes={said!r} is registered, but {wrong}", "register the sizes for which the model can be built"
            )
    return passed("; ".join(f"{of}: {count:,} parameters" for of, count in counts.items()))


def output(subject: Subject) -> Finding:
    """The model maps any number of images to logits, also a single image."""
    for of in subject.inputs:
        model = subject.build(of=of).eval()
        wrong = next((f for count in (2, 1, 5) if (f := wrong_output(model, subject, count, of))), None)
        if wrong:
            return wrong
        shares = _softmax(model, subject, of)
        if shares:
            return failed(
                f"for every image of {of} it returns {shares}, not logits: cross entropy applies the softmax again,"
                " which makes gradients small",
                "return the input of the softmax",
            )
    subject.use_fewer_images_if_heavy(subject.build())
    return passed(f"logits of shape (batch, {subject.input.classes}), float32")


def wrong_output(model: nn.Module, subject: Subject, count: int, of: Input) -> Finding | None:
    """The problem with a model's output; None if there is none."""
    images, before = subject.images(count, of), subject.images(count, of)
    with torch.no_grad():
        out = model(images)
    if not torch.equal(images, before):
        return failed(
            f"for {count} images of {of} it changes its input images",
            "look for inplace=True in the first layer and for operations such as +=, mul_() or x[…] = on the input;"
            " write to a copy: x = x.clone()",
        )
    of_images, wanted = f"for {count} images of {of}", (count, of.classes)
    if not isinstance(out, torch.Tensor):
        kind = type(out).__name__
        return failed(
            f"{of_images} it returns a {kind}; it must return the logits alone", _where_logits_are(out, wanted)
        )
    if out.shape != wanted:
        return failed(
            f"{of_images} it returns the shape {tuple(out.shape)}; it must return logits of shape {wanted}",
            _for_shape(out, wanted),
        )
    if out.dtype != torch.float32:
        return failed(
            f"for float32 images it returns {out.dtype}; logits must be float32",
            "look for a constant with another dtype: from numpy (float64 by default), .double(), .half() or complex"
            " numbers; write dtype=torch.float32, or use the real part",
        )
    return None


def _where_logits_are(out: Any, wanted: tuple[int, int]) -> str:
    """Advice for an output that is not a tensor, with the position of the logits in it, if known."""

    def fits(value: Any) -> bool:
        return isinstance(value, torch.Tensor) and value.shape == wanted

    if isinstance(out, Mapping):
        places = [f"[{key!r}]" for key, value in out.items() if fits(value)]
    elif isinstance(out, list | tuple):
        places = [f"[{place}]" for place, value in enumerate(out) if fits(value)]
    else:
        places = [f".{name}" for name, value in getattr(out, "__dict__", {}).items() if fits(value)]
    if places:
        return (
            f"return only out{places[0]}, which has the shape of logits; auxiliary outputs and losses are not supported"
        )
    return "return one tensor of logits; auxiliary outputs and losses are not supported"


def _for_shape(out: torch.Tensor, wanted: tuple[int, int]) -> str:
    if out.dim() < 2:
        return "flatten with x.flatten(1), not x.squeeze(), which also removes the batch dimension of a single image"
    if out.dim() > 2:
        return "pool over all positions and orientations before the head, and flatten with x.flatten(1)"
    if out.shape[0] != wanted[0]:
        return (
            "keep dimension 0 for the images: flatten with x.flatten(1), not x.view(-1, …) with a wrong number of"
            " features"
        )
    return f"give the last layer num_classes outputs ({wanted[1]} here); it is an argument of the registered function"


def _softmax(model: nn.Module, subject: Subject, of: Input) -> str:
    """A description of the output if it is a softmax or its logarithm; empty if it is neither."""
    with torch.no_grad():
        out = model(subject.images(5, of)).double()

    def one(sums: torch.Tensor) -> bool:
        return bool((sums - 1).abs().max() < 1e-4)

    if bool((out >= 0).all()) and one(out.sum(1)):
        return "probabilities that add up to 1"
    return "logarithms of probabilities that add up to 1" if one(out.exp().sum(1)) else ""


def parameter_count(subject: Subject) -> Finding:
    """The declared numbers of parameters are those of the built model."""
    declared = {} if subject.resolved.wrappers else subject.resolved.get("params") or {}
    if not declared:
        count = count_parameters(subject.build())
        literal = f'params={{"{subject.input}": {count:_}}}'
        why = "a name with a wrapper declares none" if subject.resolved.wrappers else "the registration declares none"
        return noted(f"{count:,} parameters; {why}", "" if subject.resolved.wrappers else f"add {literal} to it")
    for text, count in declared.items():
        found = count_parameters(subject.build(of=Input.of(text)))
        if found != count:
            return failed(
                f"{text}: {count:,} parameters are declared, {found:,} are built",
                f'write params={{"{text}": {found:_}}} if the network is as published, else correct the network',
            )
    return passed("; ".join(f"{text}: {count:,}, as declared" for text, count in declared.items()))


def accounted(subject: Subject) -> Finding:
    """Every tensor of the model is a parameter or a buffer."""
    model = subject.build()
    plain = _plain_tensors(model)
    excused = {
        name: package
        for name, (package, trains) in plain.items()
        if not trains and is_library_property("accounted for", [package])
    }
    for problem in (_unregistered(plain, excused), _hidden_weights(subject, model)):
        if problem is not None:
            return problem
    notes = [library_text("accounted for", excused.values())] if excused else []
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    if frozen:
        notes.append(f"{frozen:,} numbers in parameters are not trained")
    learnt = subject.trained.moved
    numbers = bool(frozen or learnt)
    if learnt:
        notes.append(
            f"training changes {sum(learnt.values()):,} numbers in buffers that are not statistics of normalisation"
            f" layers of torch: {listed_names(list(learnt))}"
        )
    if notes:
        do = "nothing to do for boards without a matched class; a matched class does not allow these numbers"
        return noted("; ".join(notes), do if numbers else NOTHING)
    return passed("all tensors are registered as parameters or buffers")


def _plain_tensors(model: nn.Module) -> dict[str, tuple[str, bool]]:
    """Attributes with tensors that are neither parameters nor buffers: the package of the module's class, and whether
    the tensors could be trained.
    """
    known = {_storage(t) for t in (*model.parameters(), *model.buffers())}
    found = {}
    for path, module in model.named_modules():
        for attribute, value in vars(module).items():
            plain = [t for t in _tensors_in(value) if _storage(t) not in known] if attribute not in _REGISTERED else []
            if plain:
                name = f"{path}.{attribute}" if path else attribute
                found[name] = package_of(module), any(t.is_floating_point() or t.is_complex() for t in plain)
    return found


def _unregistered(plain: Collection[str], excused: Collection[str]) -> Finding | None:
    where = next((name for name in plain if name not in excused), None)
    if where is None:
        return None
    return failed(
        f"attribute {where!r} is a tensor that is neither parameter nor buffer: it stays on the CPU when the model"
        " moves to a GPU, and it is not counted",
        "use nn.Parameter or nn.ParameterList if it is trained, nn.ModuleList for layers, else"
        " self.register_buffer(name, tensor, persistent=False)",
    )


def _tensors_in(value: Any, depth: int = 3) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, nn.Module) and depth < 3:  # in a list or dictionary; a module itself is registered
        yield from (*value.parameters(), *value.buffers())
    elif isinstance(value, dict) and depth:
        for item in value.values():
            yield from _tensors_in(item, depth - 1)
    elif isinstance(value, list | tuple | set) and depth:
        for item in value:
            yield from _tensors_in(item, depth - 1)


def _storage(tensor: torch.Tensor) -> int:
    """An identifier of the memory that views of the same numbers share; for an empty tensor, of the tensor itself."""
    return tensor.untyped_storage().data_ptr() or id(tensor)


def _hidden_weights(subject: Subject, model: nn.Module) -> Finding | None:
    """A finding if the graph of the gradient has leaves that are not parameters: weights in closures, in globals or in
    other objects.
    """
    model.train()
    loss = loss_of(model, subject.images(subject.batch), subject.labels(subject.batch))
    known = {id(p) for p in model.parameters()}
    hidden = [leaf for leaf in _leaves(loss.grad_fn) if id(leaf) not in known]
    if not hidden:
        return None
    shapes = listed_names([str(tuple(leaf.shape)) for leaf in hidden])
    return failed(
        f"the logits depend on tensors that require a gradient but are not parameters, of shape {shapes}: they are"
        " neither trained nor counted",
        "register them: nn.Parameter, nn.ParameterList, nn.ModuleList",
    )


def _leaves(node: Any) -> list[torch.Tensor]:
    found, seen, waiting = [], set(), [node]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [parent for parent, _ in node.next_functions]
    return found


def entries(subject: Subject) -> Finding:
    """The state dictionary has all parameters, the same entries in training and in evaluation, and tensors only."""
    model = subject.build()
    keys = set(model.state_dict())
    missing = [n for n, _ in model.named_parameters(remove_duplicate=False) if n not in keys]
    if missing:
        return failed(
            f"the state dictionary does not contain the parameters {listed_names(missing)}",
            "do not override state_dict() and its hooks",
        )
    subject.evaluate(model)
    changed = sorted(keys ^ set(model.state_dict()))
    if changed:
        return failed(
            f"the state dictionary has other entries in evaluation than in training: {listed_names(changed)}",
            "keep values that are computed from the weights in a plain attribute that train() and load_state_dict()"
            " clear, or do not keep them",
        )
    other = [k for k, v in model.state_dict().items() if not isinstance(v, torch.Tensor)]
    if other:
        return failed(
            f"the state dictionary has entries that are not tensors: {listed_names(other)}",
            "runs save only tensors; use buffers",
        )
    return passed("it has all parameters, and the same entries in training and in evaluation")


def state_dict(subject: Subject) -> Finding:
    """A new model with the saved weights gives the same logits, bit for bit."""
    model = subject.loaded(subject.trained.state)
    expected = subject.evaluate(model)
    again = subject.evaluate(subject.loaded({k: v.clone() for k, v in model.state_dict().items()}, seed=2))
    if not same_bits(expected, again):
        return failed(
            f"a new model with the same state dictionary gives other logits (they differ by up to"
            f" {_gap(expected, again):.1e})",
            "the logits depend on a value that is drawn when the model is built, but is not saved: make it a buffer",
        )
    return passed("saved, loaded into a new model: the same logits, bit for bit")


def deep_copy(subject: Subject) -> Finding:
    """`copy.deepcopy` works after use in either mode, and the copy shares nothing with the original."""
    model = subject.build()
    loss_of(model.train(), subject.images(subject.batch), subject.labels(subject.batch)).backward()
    model.eval()(subject.images(2))  # with gradients: a filter that is kept now has a graph
    kept = {package_of(module) for module in model.modules() if _keeps_a_graph(module)}
    if habit := is_library_property("deep copy", kept):
        model.train()  # drops it
    try:
        twin = copy.deepcopy(model)
    except Exception as error:  # a model may raise anything
        return failed(
            f"copy.deepcopy fails after a forward pass: {clipped(error_line(error))}",
            "do not keep results of a forward pass in the model, or remove them in __getstate__",
        )
    expected = subject.evaluate(model)
    if not same_bits(expected, subject.evaluate(twin)):
        return failed(
            "a deep copy gives other logits than its original",
            "a tensor or layer is not registered in the model, so it is not copied",
        )
    model.train()  # drops what evaluation may have kept
    before = all_tensors(model)
    with torch.no_grad():
        for value in (*twin.parameters(), *twin.buffers()):
            value.zero_()
    if differing(before, all_tensors(model)) or not same_bits(expected, subject.evaluate(model)):
        return failed(
            "changing a deep copy changes the original",
            "layers or tensors are outside the model (in a global, a closure): make them part of it",
        )
    return library_note("deep copy", kept) if habit else passed("a deep copy agrees bit for bit, and is independent")


def _keeps_a_graph(module: nn.Module) -> bool:
    """Whether a module itself has a computed tensor, which `copy.deepcopy` refuses."""
    held = {**vars(module), "_modules": None}
    return any(not tensor.is_leaf for value in held.values() for tensor in _tensors_in(value))


def _gap(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one.double() - two.double()).abs().max()) if one.shape == two.shape else float("inf")
