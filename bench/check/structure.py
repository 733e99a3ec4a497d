"""Is it built as declared, and is all of it accounted for: parameters, buffers, state dictionary, copies."""

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
from ..tools.text import clipped, first_line, raised
from ..training.image_sizes import USUAL
from .libraries import NOTHING, habit_text, is_habit, noted_habit, package_of
from .subject import Input, Subject, differing, everything, loss_of, names, same_bits

_SOURCE = re.compile(
    r"arXiv:(\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7})(v\d+)?"
    r"|(doi:|https://doi\.org/)?10\.\d{4,9}/\S+"
    r"|https?://[^\s/.]+(\.[^\s/.]+)+(/\S*)?"
)
#: Attributes of every module that hold what is registered.
_REGISTERED = ("_parameters", "_buffers", "_modules")


def citation(subject: Subject) -> Finding:
    """The sources of model and wrappers are such that a reader can look them up."""
    entries = [subject.resolved.entry, *(w.entry for w in subject.resolved.wrappers)]
    sources = [str(e.fields["source"]) for e in entries]
    for entry, source in zip(entries, sources, strict=True):
        if not _SOURCE.fullmatch(source):
            return failed(
                f"source={source!r} of {entry.name!r} is nothing that a reader can look up",
                "write arXiv:2007.10408, doi:10.1000/xyz or a URL; for a design of your own, the URL of its code",
            )
    if not subject.resolved.entry.doc:
        return noted(
            f"{', '.join(sources)}; the function has no docstring",
            "say in one sentence what the model is: cards show it",
        )
    return passed(", ".join(sources))


def built(subject: Subject) -> Finding:
    """It can be built for every declared input, and for images of the sizes that it registers."""
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
            return failed(f"sizes={said!r} is registered, but {wrong}", "register the sizes that it can be built for")
    return passed("; ".join(f"{of}: {count:,} parameters" for of, count in counts.items()))


def output(subject: Subject) -> Finding:
    """It maps any number of images to logits, also one image."""
    for of in subject.inputs:
        model = subject.build(of=of).eval()
        wrong = next((f for count in (2, 1, 5) if (f := wrong_output(model, subject, count, of))), None)
        if wrong:
            return wrong
        shares = _softmax(model, subject, of)
        if shares:
            return failed(
                f"for every image of {of} it returns {shares}, not logits: cross entropy takes the softmax once more,"
                " which"
                " flattens its gradients",
                "return what goes into the softmax",
            )
    subject.weigh(subject.build())
    return passed(f"logits of shape (batch, {subject.input.classes}), float32")


def wrong_output(model: nn.Module, subject: Subject, count: int, of: Input) -> Finding | None:
    """What is wrong with that which a model makes of images, if anything."""
    images, before = subject.images(count, of), subject.images(count, of)
    with torch.no_grad():
        out = model(images)
    if not torch.equal(images, before):
        return failed(
            f"for {count} images of {of} it changes the images that it is given",
            "look for inplace=True in the first layer and for operations such as +=, mul_() or x[…] = on the input;"
            " write to a"
            " copy: x = x.clone()",
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
            "look for a constant that makes them so: from numpy (float64 by default), of .double(), .half() or"
            " complex numbers;"
            " write dtype=torch.float32, or take the part that is real",
        )
    return None


def _where_logits_are(out: Any, wanted: tuple[int, int]) -> str:
    """What to do about an output that is no tensor, with the place of the logits in it where there is one."""

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
            f"return out{places[0]} alone, which has the shape of logits; auxiliary outputs and losses have no"
            " place here"
        )
    return "return one tensor of logits; auxiliary outputs and losses have no place here"


def _for_shape(out: torch.Tensor, wanted: tuple[int, int]) -> str:
    if out.dim() < 2:
        return "flatten with x.flatten(1), not x.squeeze(), which takes away the batch of one image as well"
    if out.dim() > 2:
        return "pool over all positions and orientations before the head, and flatten with x.flatten(1)"
    if out.shape[0] != wanted[0]:
        return (
            "keep dimension 0 for the images: flatten with x.flatten(1), not x.view(-1, …) with a wrong number of"
            " features"
        )
    return f"give the last layer num_classes outputs ({wanted[1]} here), which the registered function is called with"


def _softmax(model: nn.Module, subject: Subject, of: Input) -> str:
    """What it returns if that is a softmax or its logarithm; empty if it is neither."""
    with torch.no_grad():
        out = model(subject.images(5, of)).double()

    def one(sums: torch.Tensor) -> bool:
        return bool((sums - 1).abs().max() < 1e-4)

    if bool((out >= 0).all()) and one(out.sum(1)):
        return "shares that add up to 1"
    return "logarithms of shares that add up to 1" if one(out.exp().sum(1)) else ""


def parameter_count(subject: Subject) -> Finding:
    """The declared numbers of parameters are those that are built."""
    declared = {} if subject.resolved.wrappers else subject.resolved.get("params") or {}
    if not declared:
        count = count_parameters(subject.build())
        literal = f'params={{"{subject.input}": {count:_}}}'
        why = "a name with a wrapper declares none" if subject.resolved.wrappers else "the registration declares none"
        return noted(f"{count:,} parameters; {why}", "" if subject.resolved.wrappers else f"write {literal} into it")
    for text, count in declared.items():
        found = count_parameters(subject.build(of=Input.of(text)))
        if found != count:
            return failed(
                f"{text}: {count:,} parameters are declared, {found:,} are built",
                f'write params={{"{text}": {found:_}}} if the network is as published, else correct the network',
            )
    return passed("; ".join(f"{text}: {count:,}, as declared" for text, count in declared.items()))


def accounted(subject: Subject) -> Finding:
    """Every tensor that counts is a parameter or a buffer."""
    model = subject.build()
    plain = _plain_tensors(model)
    excused = {
        name: package
        for name, (package, trains) in plain.items()
        if not trains and is_habit("accounted for", [package])
    }
    for problem in (_unregistered(plain, excused), _hidden_weights(subject, model)):
        if problem is not None:
            return problem
    notes = [habit_text("accounted for", excused.values())] if excused else []
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    if frozen:
        notes.append(f"{frozen:,} numbers are parameters that are not trained")
    learnt = subject.trained.moved
    numbers = bool(frozen or learnt)
    if learnt:
        notes.append(
            f"{sum(learnt.values()):,} numbers of buffers are changed by training and are no statistics of a"
            " normalisation"
            f" layer of torch: {names(list(learnt))}"
        )
    if notes:
        do = "nothing, for an unmatched board; a matched class counts what is learnt, and refuses them"
        return noted("; ".join(notes), do if numbers else NOTHING)
    return passed("all tensors are registered as parameters or buffers")


def _plain_tensors(model: nn.Module) -> dict[str, tuple[str, bool]]:
    """Attributes that hold tensors which are neither parameter nor buffer: the package of the module's class, and
    whether there may be something to train in them.
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
        f"attribute {where!r} holds a tensor that is neither parameter nor buffer: it stays on the CPU when the model"
        " moves to a GPU, and nobody counts it",
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
    """What views of the same numbers share; the tensor itself where there are no numbers."""
    return tensor.untyped_storage().data_ptr() or id(tensor)


def _hidden_weights(subject: Subject, model: nn.Module) -> Finding | None:
    """Leaves of the gradient's graph that are no parameters: weights in closures, globals, other people's objects."""
    model.train()
    loss = loss_of(model, subject.images(subject.batch), subject.labels(subject.batch))
    known = {id(p) for p in model.parameters()}
    hidden = [leaf for leaf in _leaves(loss.grad_fn) if id(leaf) not in known]
    if not hidden:
        return None
    shapes = names([str(tuple(leaf.shape)) for leaf in hidden])
    return failed(
        f"the logits depend on tensors that want a gradient and are no parameters, of shape {shapes}: no optimiser"
        " trains them, and nobody counts them",
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
            f"the state dictionary lacks the parameters {names(missing)}",
            "leave state_dict() and its hooks as torch has them",
        )
    subject.evaluate(model)
    changed = sorted(keys ^ set(model.state_dict()))
    if changed:
        return failed(
            f"the state dictionary has other entries in evaluation than in training: {names(changed)}",
            "keep what is computed from the weights out of it: a plain attribute that train() and"
            " load_state_dict() clear, or nothing kept at all",
        )
    other = [k for k, v in model.state_dict().items() if not isinstance(v, torch.Tensor)]
    if other:
        return failed(
            f"the state dictionary holds what is no tensor: {names(other)}", "runs save tensors only; use buffers"
        )
    return passed("all parameters, and the same in training and in evaluation")


def state_dict(subject: Subject) -> Finding:
    """A new model with the saved weights gives the same logits, bit for bit."""
    model = subject.loaded(subject.trained.state)
    expected = subject.evaluate(model)
    again = subject.evaluate(subject.loaded({k: v.clone() for k, v in model.state_dict().items()}, seed=2))
    if not same_bits(expected, again):
        return failed(
            f"a new model with the same state dictionary gives other logits (up to {_gap(expected, again):.1e} apart)",
            "something that the logits depend on is drawn when the model is built and not saved: make it a buffer",
        )
    return passed("saved, loaded into a new model: the same logits, bit for bit")


def deep_copy(subject: Subject) -> Finding:
    """`copy.deepcopy` works after use in either mode, and the copy shares nothing with the original."""
    model = subject.build()
    loss_of(model.train(), subject.images(subject.batch), subject.labels(subject.batch)).backward()
    model.eval()(subject.images(2))  # with gradients: a filter that is kept now has a graph
    kept = {package_of(module) for module in model.modules() if _keeps_a_graph(module)}
    if habit := is_habit("deep copy", kept):
        model.train()  # drops it
    try:
        twin = copy.deepcopy(model)
    except Exception as error:  # a model may raise anything
        return failed(
            f"copy.deepcopy fails after a forward pass: {clipped(raised(error))}",
            "do not keep results of a forward pass in the model, or drop them in __getstate__",
        )
    expected = subject.evaluate(model)
    if not same_bits(expected, subject.evaluate(twin)):
        return failed(
            "a deep copy gives other logits than its original",
            "a tensor or layer is not registered in the model, so that a copy does not take it along",
        )
    model.train()  # drops what evaluation may have kept
    before = everything(model)
    with torch.no_grad():
        for value in (*twin.parameters(), *twin.buffers()):
            value.zero_()
    if differing(before, everything(model)) or not same_bits(expected, subject.evaluate(model)):
        return failed(
            "changing a deep copy changes the original",
            "layers or tensors live outside the model (a global, a closure): make them part of it",
        )
    return noted_habit("deep copy", kept) if habit else passed("a deep copy agrees bit for bit, and is independent")


def _keeps_a_graph(module: nn.Module) -> bool:
    """Whether a module itself holds a tensor that was computed, which `copy.deepcopy` refuses."""
    held = {**vars(module), "_modules": None}
    return any(not tensor.is_leaf for value in held.values() for tensor in _tensors_in(value))


def _gap(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one.double() - two.double()).abs().max()) if one.shape == two.shape else float("inf")
