"""Checks of structure: parameters as declared, buffers, state dictionary, copies."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ...registry import allows
from ..measures.cost import count_parameters
from ..records.verdict import Finding, failed, noted, passed
from ..tools.text import clipped, error_line, first_line, listed
from ..training.probe import USUAL
from .checked_model import Input, Subject, all_tensors, differing, same_bits
from .libraries import NOTHING, is_library_property, library_note, library_text, package_of

_SOURCE = re.compile(
    r"arXiv:(\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7})(v\d+)?"
    r"|(doi:|https://doi\.org/)?10\.\d{4,9}/\S+"
    r"|https?://[^\s/.]+(\.[^\s/.]+)+(/\S*)?"
)
#: Attributes of every module that contain its registered parameters, buffers and modules.
_REGISTERED = ("_parameters", "_buffers", "_modules")
_ALONE = "auxiliary outputs and losses are not supported"


def citation(subject: Subject) -> Finding:
    """Readers can look up the sources of the model and of its wrappers."""
    entries = subject.resolved.entries
    sources = [str(e.fields["source"]) for e in entries]
    for entry, source in zip(entries, sources, strict=True):
        if not _SOURCE.fullmatch(source):
            says = f"source={source!r} of {entry.name!r} cannot be looked up"
            do = "write arXiv:2007.10408, doi:10.1000/xyz or a URL; for your own design, the URL of its code"
            return failed(says, do)
    if not subject.resolved.entry.doc:
        do = "describe the model in one sentence, because cards show it"
        return noted(f"{', '.join(sources)}; the function has no docstring", do)
    return passed(", ".join(sources))


def built(subject: Subject) -> Finding:
    """The model can be built for every declared input, and for the registered image sizes."""
    subject.load()
    counts = {str(of): count_parameters(subject.build(of=of)) for of in subject.inputs}
    said = subject.resolved.get("sizes")
    for size in said if isinstance(said, list) else [n for n in USUAL if said and allows(said, n)]:
        of, wrong = replace(subject.input, size=size), ""
        try:
            if found := wrong_output(subject.build(of=of).eval(), subject, 1, of):
                wrong = found.says
        except Exception as error:  # a model may raise anything
            wrong = f"it cannot be built for {of}: {clipped(first_line(error))}"
        if wrong:
            do = "register the sizes for which the model can be built"
            return failed(f"sizes={said!r} is registered, but {wrong}", do)
    return passed("; ".join(f"{of}: {count:,} parameters" for of, count in counts.items()))


def output(subject: Subject) -> Finding:
    """The model maps any number of images to logits, also a single image."""
    for of in subject.inputs:
        model = subject.build(of=of).eval()
        for count in (2, 1, 5):
            if wrong := wrong_output(model, subject, count, of):
                return wrong
        if shares := _softmax(model, subject, of):
            says = f"for every image of {of} it returns {shares}, not logits: cross entropy applies the softmax again,"
            says += " which makes gradients small"
            return failed(says, "return the input of the softmax")
    subject.use_fewer_images_if_heavy(subject.build())
    return passed(f"logits of shape (batch, {subject.input.classes}), float32")


def wrong_output(model: nn.Module, subject: Subject, count: int, of: Input) -> Finding | None:
    """The problem with a model's output; None if there is none."""
    images, before = subject.images(count, of), subject.images(count, of)
    of_images, wanted = f"for {count} images of {of}", (count, of.classes)
    with torch.no_grad():
        out = model(images)
    if not torch.equal(images, before):
        says = f"{of_images} it changes its input images"
        do = "look for inplace=True in the first layer and for operations such as +=, mul_() or x[…] = on the input;"
        do += " write to a copy: x = x.clone()"
        return failed(says, do)
    if not isinstance(out, torch.Tensor):
        says = f"{of_images} it returns a {type(out).__name__}; it must return the logits alone"
        return failed(says, _where_logits_are(out, wanted))
    if out.shape != wanted:
        says = f"{of_images} it returns the shape {tuple(out.shape)}; it must return logits of shape {wanted}"
        return failed(says, _for_shape(out, wanted))
    if out.dtype != torch.float32:
        says = f"for float32 images it returns {out.dtype}; logits must be float32"
        do = "look for a constant with another dtype: from numpy (float64 by default), .double(), .half() or complex"
        do += " numbers; write dtype=torch.float32, or use the real part"
        return failed(says, do)
    return None


def _where_logits_are(out: Any, wanted: tuple[int, int]) -> str:
    """Advice for an output that is not a tensor, with the position of the logits in it, if known."""
    if isinstance(out, list | tuple):
        out = dict(enumerate(out))
    if isinstance(out, Mapping):
        parts = {f"[{key!r}]": value for key, value in out.items()}
    else:
        parts = {f".{name}": value for name, value in getattr(out, "__dict__", {}).items()}
    for place, value in parts.items():
        if isinstance(value, torch.Tensor) and value.shape == wanted:
            return f"return only out{place}, which has the shape of logits; {_ALONE}"
    return f"return one tensor of logits; {_ALONE}"


def _for_shape(out: torch.Tensor, wanted: tuple[int, int]) -> str:
    if out.dim() < 2:
        return "flatten with x.flatten(1), not x.squeeze(), which also removes the batch dimension of a single image"
    if out.dim() > 2:
        return "pool over all positions and orientations before the head, and flatten with x.flatten(1)"
    if out.shape[0] != wanted[0]:
        shape = "not x.view(-1, …) with a wrong number of features"
        return f"keep dimension 0 for the images: flatten with x.flatten(1), {shape}"
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
    if subject.resolved.wrappers:
        return noted(f"{count_parameters(subject.build()):,} parameters; a name with a wrapper declares none")
    declared = subject.resolved.get("params") or {}
    if not declared:
        count = count_parameters(subject.build())
        do = f'add params={{"{subject.input}": {count:_}}} to it'
        return noted(f"{count:,} parameters; the registration declares none", do)
    for text, count in declared.items():
        found = count_parameters(subject.build(of=Input.of(text)))
        if found != count:
            says = f"{text}: {count:,} parameters are declared, {found:,} are built"
            do = f'write params={{"{text}": {found:_}}} if the network is as published, else correct the network'
            return failed(says, do)
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
    if plain.keys() - excused.keys():
        name = next(name for name in plain if name not in excused)
        says = f"attribute {name!r} is a tensor that is neither parameter nor buffer: it stays on the CPU when the"
        says += " model moves to a GPU, and it is not counted"
        do = "use nn.Parameter or nn.ParameterList if it is trained, nn.ModuleList for layers, else"
        return failed(says, f"{do} self.register_buffer(name, tensor, persistent=False)")
    leaves = _leaves(subject.training_loss(model).grad_fn)
    known = {id(p) for p in model.parameters()}  # those of now: some models replace parameters while they compute
    if hidden := [str(tuple(leaf.shape)) for leaf in leaves if id(leaf) not in known]:
        says = "the logits depend on tensors that require a gradient but are not parameters, of shape"
        says += f" {listed(hidden, 3)}: they are neither trained nor counted"
        return failed(says, "register them: nn.Parameter, nn.ParameterList, nn.ModuleList")
    notes = [library_text("accounted for", excused.values())] if excused else []
    if frozen := sum(p.numel() for p in model.parameters() if not p.requires_grad):
        notes.append(f"{frozen:,} numbers in parameters are not trained")
    learnt = subject.trained.moved
    if learnt:
        where = f"in buffers that are not statistics of normalisation layers of torch: {listed(list(learnt), 3)}"
        notes.append(f"training changes {sum(learnt.values()):,} numbers {where}")
    if notes:
        do = "nothing to do for boards without a matched class; a matched class does not allow these numbers"
        return noted("; ".join(notes), do if frozen or learnt else NOTHING)
    return passed("all tensors are registered as parameters or buffers")


def _plain_tensors(model: nn.Module) -> dict[str, tuple[str, bool]]:
    """Attributes with unregistered tensors: the package of the module's class, and whether they could be trained."""
    known = {_storage(t) for t in (*model.parameters(), *model.buffers())}
    found = {}
    for path, module in model.named_modules():
        for attribute, value in vars(module).items():
            held = _tensors_in(value) if attribute not in _REGISTERED else ()
            # Those on meta have no numbers; those with a graph are computed from parameters, by older weight norms.
            plain = [t for t in held if not t.is_meta and t.is_leaf and _storage(t) not in known]
            if plain:
                name = f"{path}.{attribute}" if path else attribute
                found[name] = package_of(module), any(t.is_floating_point() or t.is_complex() for t in plain)
    return found


def _tensors_in(value: Any, depth: int = 3) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, nn.Module) and depth < 3:  # in a list or dictionary; a module itself is registered
        yield from (*value.parameters(), *value.buffers())
    elif isinstance(value, dict | list | tuple | set) and depth:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors_in(item, depth - 1)


def _storage(tensor: torch.Tensor) -> int:
    """An identifier of the memory that views of the same numbers share; for an empty tensor, of the tensor itself."""
    return tensor.untyped_storage().data_ptr() or id(tensor)


def _leaves(node: Any) -> list[torch.Tensor]:
    """The leaves of the graph of a gradient: parameters, and weights in closures, in globals or in other objects."""
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
    if missing := [n for n, _ in model.named_parameters(remove_duplicate=False) if n not in keys]:
        says = f"the state dictionary does not contain the parameters {listed(missing, 3)}"
        return failed(says, "do not override state_dict() and its hooks")
    subject.evaluate(model)
    if changed := sorted(keys ^ set(model.state_dict())):
        says = f"the state dictionary has other entries in evaluation than in training: {listed(changed, 3)}"
        do = "keep values that are computed from the weights in a plain attribute that train() and load_state_dict()"
        do += " clear, or do not keep them"
        return failed(says, do)
    if other := [k for k, v in model.state_dict().items() if not isinstance(v, torch.Tensor)]:
        says = f"the state dictionary has entries that are not tensors: {listed(other, 3)}"
        return failed(says, "runs save only tensors; use buffers")
    return passed("it has all parameters, and the same entries in training and in evaluation")


def state_dict(subject: Subject) -> Finding:
    """A new model with the saved weights gives the same logits, bit for bit."""
    model = subject.loaded(subject.trained.state)
    expected = subject.evaluate(model)
    again = subject.evaluate(subject.loaded({k: v.clone() for k, v in model.state_dict().items()}, seed=2))
    if not same_bits(expected, again):
        same_shape = expected.shape == again.shape
        gap = float((expected.double() - again.double()).abs().max()) if same_shape else float("inf")
        says = f"a new model with the same state dictionary gives other logits (they differ by up to {gap:.1e})"
        do = "the logits depend on a value that is drawn when the model is built, but is not saved: make it a buffer"
        return failed(says, do)
    return passed("saved, loaded into a new model: the same logits, bit for bit")


def deep_copy(subject: Subject) -> Finding:
    """`copy.deepcopy` works after use in either mode, and the copy shares nothing with the original."""
    model = subject.build()
    subject.training_loss(model).backward()
    model.eval()(subject.images(2))  # with gradients: a filter that is kept now has a graph
    kept = {package_of(module) for module in model.modules() if _keeps_a_graph(module)}
    if habit := is_library_property("deep copy", kept):
        model.train()  # drops it
    try:
        twin = copy.deepcopy(model)
    except Exception as error:  # a model may raise anything
        says = f"copy.deepcopy fails after a forward pass: {clipped(error_line(error))}"
        do = "do not keep results of a forward pass in the model, or remove them in __getstate__; for normalised"
        return failed(says, f"{do} weights, use torch.nn.utils.parametrizations, not the older hooks of torch.nn.utils")
    expected = subject.evaluate(model)
    if not same_bits(expected, subject.evaluate(twin)):
        says = "a deep copy gives other logits than its original"
        return failed(says, "a tensor or layer is not registered in the model, so it is not copied")
    model.train()  # drops what evaluation may have kept
    before = all_tensors(model)
    with torch.no_grad():
        for value in (*twin.parameters(), *twin.buffers()):
            value.zero_()
    if differing(before, all_tensors(model)) or not same_bits(expected, subject.evaluate(model)):
        says = "changing a deep copy changes the original"
        return failed(says, "layers or tensors are outside the model (in a global, a closure): make them part of it")
    return library_note("deep copy", kept) if habit else passed("a deep copy agrees bit for bit, and is independent")


def _keeps_a_graph(module: nn.Module) -> bool:
    """Whether a module itself has a computed tensor, which `copy.deepcopy` refuses."""
    held = {**vars(module), "_modules": None}
    return any(not tensor.is_leaf for value in held.values() for tensor in _tensors_in(value))
