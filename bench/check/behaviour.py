"""Checks of behaviour: gradients, seeds, determinism, batches, modes, precision, global state of the process."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from ...models.random_evaluation import RandomEvaluation
from ...registry import DATASETS
from ..measures.accuracy import EVAL_BATCH, logits
from ..measures.equivariance import BLOB_DRAWS, scale_of, zero_logits
from ..measures.equivariance_full import FULL_DRAWS, ORBIT_IMAGES
from ..records.verdict import Finding, failed, noted, passed
from ..tools.text import clipped, error_line, error_text, listed
from ..training.run import CORE_IMAGES
from ..training.train import optimizer_for, train_step
from .checked_model import Input, Subject, all_tensors, differing, same_bits, tensors_of
from .libraries import is_library_property, library_note, raised_in
from .state import changes, state_restored
from .structure import wrong_output

#: Images of the pass under bfloat16, which is ten times slower on many processors; batch norm needs two.
REDUCED_IMAGES = 2
#: Largest difference of logits, relative to their scale, that counts as rounding.
ROUNDING = 1e-4
#: A tensor with at least this many numbers is called large.
LARGE = 500
#: A batch is left out if its pass takes longer.
LONG_PASS_S = 45.0


def training(subject: Subject) -> Finding:
    """In a few steps of the recipe, the loss and all gradients are finite."""
    if not any(p.requires_grad for p in subject.build().parameters()):
        return failed("there is nothing to train", "register the weights: nn.Parameter, and layers as attributes")
    if wrong := wrong_output(subject.build().train(), subject, subject.batch, subject.input):
        return replace(wrong, says=f"in training, {wrong.says}")
    done = subject.trained
    steps = f"{len(done.losses)} steps of recipe {subject.recipe.name!r}"
    bad = [n for n, seen in done.gradients.items() if seen == "not finite"]
    if bad or not all(map(math.isfinite, done.losses)):
        of = f" of {listed(bad, 3)}" if bad else ""
        says = f"within {steps} the loss or the gradients{of} are not finite"
        do = "look for a division by zero, the square root or norm of zero, a logarithm; start with smaller weights"
        return failed(says, do)
    return passed(f"{steps}: loss and gradients are finite")


def repeatable(subject: Subject) -> Finding:
    """In evaluation the same images give the same logits twice, bit for bit."""
    samples = subject.resolved.samples
    if samples and not subject.trained.varies:
        says = f"evaluation='random:{samples}' is declared, but two passes in evaluation agree"
        return failed(says, "remove evaluation=: it would not change the score, but take more time")
    if not same_bits(*subject.trained.twice):
        says = "in evaluation the same images give other logits the second time"
        do = "pass self.training to functions such as F.dropout, and keep nothing from one pass to the next; if the"
        do += " network is random in evaluation on purpose, use torch's generator and declare evaluation='random:16'"
        return failed(says, do)
    if samples:
        mean = f"the mean of {samples} seeded passes"
        return passed(f"random in evaluation, as declared; {mean} is the same twice, bit for bit")
    return passed("in evaluation the same images give the same logits, bit for bit")


def gradients(subject: Subject) -> Finding:
    """Every trainable parameter has a nonzero gradient within a few steps."""
    done = subject.trained
    bad = {how: [n for n, seen in done.gradients.items() if seen == how] for how in ("none", "zero")}
    if bad["none"]:
        says = f"{listed(bad['none'], 3)}: has no gradient, so it is counted but never trained"
        return failed(says, "use it in forward(), or remove it; make weights that are fixed on purpose a buffer")
    if bad["zero"]:
        says = f"{listed(bad['zero'], 3)}: the gradient is exactly zero in each of {len(done.losses)} steps"
        do = "look for detach(), no_grad(), argmax or rounding after it, or a factor of zero that never changes"
        return failed(says, do)
    return passed(f"all {len(done.gradients)} parameter tensors have a nonzero gradient")


def seeds(subject: Subject) -> Finding:
    """One seed gives one set of initial weights, another seed another; the model does not set torch's seed."""
    first, twin = all_tensors(subject.build(0)), all_tensors(subject.build(0))
    if changed := differing(first, twin):
        says = f"built twice from one seed, {listed(changed, 3)} differ"
        return failed(says, "draw initial weights from torch's global generator only: no numpy, no random, no clock")
    subject.build(0)
    after = torch.get_rng_state()
    other = all_tensors(subject.build(1))
    reseeds = torch.equal(after, torch.get_rng_state())
    if not differing(first, other):
        says = "two seeds give the same initial weights, so all seeds of a board would be the same run"
        return failed(says, "do not call torch.manual_seed() or use a generator of your own in the model")
    if reseeds or _forward_reseeds(subject):
        says = f"{'building' if reseeds else 'the forward pass'} sets the seed of torch's generator"
        return failed(says, "remove torch.manual_seed() from the model; a run seeds the generator before it builds")
    if fixed := {n: v.numel() for n, v in first.items() if _random(v) and torch.equal(v, other[n])}:
        says = f"{sum(fixed.values()):,} numbers that look random are the same for all seeds"
        do = "if they are a fixed random basis on purpose, state this in note=; else draw them from torch's generator"
        return noted(f"{says}: {listed(list(fixed), 3)}", do)
    return passed("one seed gives the same initial weights, another gives others")


def _random(values: torch.Tensor) -> bool:
    """Whether a tensor is large, with different magnitudes and unrelated neighbours (sampled bases are smooth)."""
    flat = values.detach().flatten().double() if values.is_floating_point() else values.new_zeros(0).double()
    if len(flat) < LARGE or not flat.isfinite().all() or flat.abs().unique().numel() < 0.99 * len(flat):
        return False
    flat = flat - flat.mean()
    return float((flat[1:] * flat[:-1]).sum().abs() / flat.square().sum()) < 5 / len(flat) ** 0.5


def _forward_reseeds(subject: Subject) -> bool:
    """Whether a training pass always leaves torch's generator in the same state."""
    model, after = subject.build().train(), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model(subject.images(subject.batch))
        after.append(torch.get_rng_state())
    return torch.equal(*after)


def deterministic(subject: Subject) -> Finding:
    """The same weights, images and seed give the same logits and gradients, bit for bit."""
    state = tensors_of(subject.build())
    passes = []
    for _ in range(2):
        model = subject.loaded(state, seed=0)
        torch.manual_seed(7)
        out = model.train()(subject.images(subject.batch))
        out.square().mean().backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        passes.append({"the logits": out.detach(), **gradients})
    if changed := differing(*passes):
        says = f"two training passes from the same weights, images and seed differ in {listed(changed, 3)}"
        do = "take random numbers in forward() from torch only; avoid operations that are not deterministic"
        return failed(says, do)
    return passed("two training passes agree in logits and gradients, bit for bit")


def batches(subject: Subject) -> Finding:
    """In evaluation the logits of an image do not depend on the other images, on their number or on their order."""
    model, images = subject.loaded(subject.trained.state), subject.images(subject.shown)
    together = subject.evaluate(model, images)
    scale = scale_of(together, zero_logits(model, images)) or float(together.norm(dim=1).mean()) or 1.0
    order = torch.tensor([place for place in (3, 0, 6, 2, 5, 1, 4) if place < subject.shown])
    part = 3 if subject.shown > 3 else 2
    wild = torch.cat([images, 50 * subject.images(1, seed=1)])
    begun = time.perf_counter()
    variants = {
        "alone": subject.evaluate(model, images, 1),
        f"{part} at a time": subject.evaluate(model, images, part),
        "in another order": subject.evaluate(model, images[order])[order.argsort()],
        "beside an image of large values": logits(model, wild, lambda x: x)[: subject.shown],
        "2 at a time": subject.evaluate(model, images, 2),
    }
    second_an_image = (time.perf_counter() - begun) / (5 * subject.shown)
    # A model may count its images, so it is called with all batch sizes of scoring.
    scored = [size for size in _batches_of_scoring(subject.input) if size > subject.shown]
    sizes = [size for size in scored if size * second_an_image < LONG_PASS_S]
    for size in sizes:
        others = 1 + 2 * subject.images(size - subject.shown, seed=2)
        variants[f"in a batch of {size}"] = subject.evaluate(model, torch.cat([images, others]), size)[: subject.shown]
    errors = {how: float((out - together).norm(dim=1).max()) / scale for how, out in variants.items()}
    allowed = ROUNDING + _sampling_tolerance(subject, model, together) / scale
    if wrong := [how for how, error in errors.items() if not error <= allowed]:
        says = f"in evaluation the logits of an image change when it is evaluated {wrong[0]} (relative change"
        says += f" {errors[wrong[0]]:.1e}), so its score would depend on the batch size"
        do = "normalise over the batch only in training (nn.BatchNorm2d with running statistics does), and never take a"
        do += " mean, maximum or rank over dimension 0"
        return failed(says, do)
    tried = f", in batches of {', '.join(map(str, sizes))}" if sizes else ""
    says = f"alone, in parts, reordered, beside an outlier{tried}: the same within {error_text(max(errors.values()))}"
    if sizes == scored:
        return passed(says)
    takes = f"{EVAL_BATCH * second_an_image:.0f} s"
    return noted(f"{says}; a batch of {EVAL_BATCH} would take {takes} here and was left out")


def _batches_of_scoring(shape: Input) -> list[int]:
    """Sizes, rising, of all batches in which some registered data set of this input is scored."""
    scored = {BLOB_DRAWS, CORE_IMAGES, FULL_DRAWS, ORBIT_IMAGES}
    for entry in DATASETS.match():
        channels, size, _ = entry.fields["shape"]
        if Input(channels, size, entry.fields["classes"]) == shape:
            scored.update(entry.fields["sizes"][1:])
    return sorted({min(n, EVAL_BATCH) for n in scored} | {n % EVAL_BATCH for n in scored})


def _sampling_tolerance(subject: Subject, model: nn.Module, together: torch.Tensor) -> float:
    """The largest allowed difference of means over random passes: in another batch an image gets other numbers."""
    if not isinstance(model, RandomEvaluation):
        return 0.0
    seed, drifts = model.seed, []
    for other in range(4):
        model.seed = other
        drifts.append(float((subject.evaluate(model) - together).norm(dim=1).max()))
    model.seed = seed
    return 3 * max(drifts)


def modes(subject: Subject) -> Finding:
    """Evaluation changes nothing, and training continues as if there had been no evaluation."""
    state = tensors_of(subject.build())
    model, twin = subject.loaded(state, seed=0), subject.loaded(state, seed=0)
    images = subject.images(subject.batch)
    model.train().eval()
    if left := [n or "the model" for n, m in model.named_modules() if m.training]:
        do = "leave train() to torch, or call super().train(mode)"
        return failed(f"eval() leaves {listed(left, 3)} in training mode", do)
    before = all_tensors(model)
    subject.evaluate(model)
    if changed := differing(before, all_tensors(model)):
        do = "update running statistics only `if self.training`"
        return failed(f"evaluation changes {listed(changed, 3)}", do)
    passes = []
    for network in (model, twin):
        torch.manual_seed(11)
        passes.append(network.train()(images).detach())
    if not same_bits(*passes):
        says = "after an evaluation a training pass differs from that of a model that was never evaluated"
        return failed(says, "keep nothing from evaluation to training; leave train() to torch")
    return passed("evaluation changes nothing; training after it is as before")


def fresh_weights(subject: Subject) -> Finding:
    """Values computed from the weights are updated: after a step, and when weights are loaded into a used model."""
    model, images, labels = subject.build(), subject.images(subject.batch), subject.labels(subject.batch)
    subject.evaluate(model)
    train_step(model.train(), optimizer_for(model, subject.recipe), images, labels, "strict")
    if stale := _stale(subject, model):
        return failed(f"evaluated, trained a step, evaluated again: {stale}", _FRESH)
    subject.evaluate(model)
    model.load_state_dict(subject.trained.state)  # in evaluation mode, like the weights of a finished run
    if stale := _stale(subject, model):
        return failed(f"evaluated, then given other weights by load_state_dict(): {stale}", _FRESH)
    return passed("evaluation follows the weights: after a training step, and after load_state_dict()")


_FRESH = (
    "a filter computed from old weights is kept: expand it in every forward pass, or compare the weights before"
    " reuse; statistics of training images belong in a buffer"
)


def _stale(subject: Subject, model: nn.Module) -> str:
    now, expected = subject.evaluate(model), subject.evaluate(subject.loaded(tensors_of(model), seed=0))
    return "" if same_bits(now, expected) else "the logits are not those of a new model with the same weights"


def bfloat16(subject: Subject) -> Finding:
    """Under autocast to bfloat16, as in profile `fast`, logits and gradients are finite, and no result is kept."""
    model = subject.loaded(subject.trained.state)
    before = subject.evaluate(model)
    images, labels = subject.images(REDUCED_IMAGES), subject.labels(REDUCED_IMAGES)
    try:
        model.train()  # drops what evaluation may have kept
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            model.eval()(images)
        after = subject.evaluate(model)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model.train()(images)
            loss = F.cross_entropy(out.float(), labels)
        loss.backward()
    except Exception as error:  # a model may raise anything
        if is_library_property("bfloat16", [package := raised_in(error)]):
            return library_note("bfloat16", [package])
        says = f"a step under autocast to bfloat16 raises {clipped(error_line(error))}"
        do = "use the dtype of the input (x.dtype) instead of float32; otherwise profile `fast` cannot run the model"
        return failed(says, do)
    if not all(v.isfinite().all() for v in (out, *(p.grad for p in model.parameters())) if v is not None):
        says = "under autocast to bfloat16 the logits or gradients are not finite"
        do = "compute operations that need range or precision (norms, exponentials, variances) in float32"
        return failed(says, do)
    if not same_bits(before, after):
        says = "a pass under autocast changes the later float32 logits in evaluation: a bfloat16 filter was kept"
        return failed(says, "keep no filter that was computed under autocast, or compare its dtype before reuse")
    return passed("a step under autocast to bfloat16: logits and gradients are finite, no result is kept")


def global_state(subject: Subject) -> Finding:
    """Importing, building and running the model do not change the state of the process."""
    found = [f"importing changes {c}" for c in subject.import_changes]
    found += ["importing draws from torch's generator, or seeds it"] if subject.import_draws else []
    found += [f"building changes {c}" for c in subject.build_changes]
    with state_restored() as before:
        model = subject.build()
        subject.training_loss(model).backward()
        with torch.no_grad():
            model.eval()(subject.images(2))
        found += [f"running changes {c}" for c in changes(before)]
    if found:
        do = "do not change settings of the process; if one is needed, set it in a `with` block and restore it; draw"
        return failed("; ".join(found), f"{do} random numbers from torch's generator")
    return passed("types, threads, modes, switches, precision, generators, environment and folder are unchanged")
