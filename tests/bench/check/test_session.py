"""The acceptance test of a contribution: every check fails a model that breaks just what it looks at."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from equibench.bench.boards.board import load_board
from equibench.bench.boards.rows import model_rows
from equibench.bench.check.checked_model import Input, Subject
from equibench.bench.check.costs import _figures, _step_mib
from equibench.bench.check.runner import CHECKS, findings, perform
from equibench.bench.check.session import check_model
from equibench.bench.check.state import changes, state_restored
from equibench.bench.check.structure import wrong_output
from equibench.bench.measures.cost import measure_cost
from equibench.bench.records.record import write_record
from equibench.bench.records.verdict import NAMES, Finding
from equibench.bench.tools.text import clipped
from equibench.bench.training.job import Check, Examination
from equibench.registry import include

from .. import commands, made

HERE = Path(__file__).parents[1]
BROKEN, TINY = HERE / "broken.py", HERE / "tiny.py"
torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _included(_only_what_is_shipped: None) -> Iterator[None]:
    include([BROKEN, TINY])
    yield


def subject(
    model: str, inputs: tuple[str, ...] = ("1x12x12->2",), steps: int = 75, reference: str | None = None
) -> Subject:
    job = Check(
        model=model, inputs=list(inputs), dataset="bars", budget="e20", steps=steps, recipe="common",
        reference=reference, include=[str(BROKEN)],
    )  # fmt: skip
    return Subject(job)


def look_at(model: str, *only: str, **options) -> dict[str, Finding]:
    """The findings about a model; `build` and `output` always, since the others need them."""
    leave_out = tuple(n for n in NAMES if only and n not in (*only, "build", "output"))
    leave_out += () if only else ("cost", "budget", "other angles")
    return {name: f for name, f in findings(subject(model, **options), leave_out) if f is not None}


def failures(found: dict[str, Finding]) -> dict[str, Finding]:
    return {name: f for name, f in found.items() if f.status == "fail"}


def test_the_list_of_names_is_the_list_of_checks() -> None:
    assert list(CHECKS) == list(NAMES)


@pytest.mark.parametrize(
    ("model", "noted"),
    [("sound", {"other sizes"}), ("broken-clock", {"other sizes", "parameter count", "accounted for"})],
)
def test_a_sound_model_passes_all(model: str, noted: set[str]) -> None:
    assert {n: f.status for n, f in look_at(model).items() if f.status != "pass"} == dict.fromkeys(noted, "note")


#: A model, the one check that fails it, words of the finding, words of the advice.
ONE_FAULT = [
    ("bad-source", "citation", "'made up'", "arXiv:"),
    ("sound+cited-badly", "citation", "'somewhere'", "arXiv:"),
    ("bad-count", "parameter count", "999 parameters are declared, 86 are built", '"1x12x12->2": 86'),
    ("broken-unused", "gradients", "spare.weight, spare.bias: has no gradient", "remove it"),
    ("broken-replacesparameter", "gradients", "scale: has no gradient", "remove it"),
    ("broken-detached", "gradients", "scale: the gradient is exactly zero", "detach()"),
    ("broken-inalist", "accounted for", "'scales' is a tensor that is neither", "nn.ParameterList"),
    ("broken-inaglobal", "accounted for", "not parameters, of shape (6,)", "nn.Parameter"),
    ("broken-forgetful", "state entries", "does not contain the parameters head.bias", "do not override state_dict()"),
    ("broken-keepsfilter", "state entries", "other entries in evaluation than in training:"
        " filter", "a plain attribute"),
    ("broken-plaintensor", "accounted for", "'mask' is a tensor", "register_buffer"),
    ("broken-numpyweights", "seeds", "built twice from one seed, head.weight differ", "no numpy"),
    ("broken-ownseed", "seeds", "two seeds give the same initial weights", "generator of your own"),
    ("broken-reseeds", "seeds", "the forward pass sets the seed", "torch.manual_seed()"),
    ("broken-noisy", "deterministic", "differ in", "from torch only"),
    ("broken-batchstatistics", "batch independence", "when it is evaluated alone", "running statistics"),
    ("broken-counting", "batch independence", "in a batch of", "dimension 0"),
    ("broken-shy", "batch independence", "beside an image of large values", "dimension 0"),
    ("broken-manyonly", "batch independence", "in a batch of 32", "dimension 0"),
    ("broken-scoringonly", "batch independence", "in a batch of 125", "dimension 0"),
    ("broken-hoards", "memory", "2 entries of lists and dictionaries behind", "do not append"),
    ("broken-hoardstensors", "memory", "4 bytes of tensors behind", "do not append"),
    ("broken-hoardshooks", "memory", "entries of lists and dictionaries behind", "hook"),
    ("broken-firstimage", "memory", "depend on which images were evaluated before", "only training changes"),
    ("broken-inplace", "output", "it changes its input images", "x.clone()"),
    ("broken-inplacelayer", "training", "in training, for 8 images of 1x12x12->2 it changes its input"
        " images", "inplace=True"),
    ("broken-tupleintraining", "training", "it returns a tuple", "return only out[0]"),
    ("broken-alwaysdropout", "repeatable", "other logits the second time", "self.training"),
    ("random-sound", "repeatable", "two passes in evaluation agree", "remove evaluation="),
    ("random-batch", "batch independence", "in a batch of 32", "dimension 0"),
    ("broken-nan", "training", "are not finite", "division by zero"),
    ("broken-raises", "training", "raised RuntimeError: no training today (broken.py, line ", "correct the code"),
    ("broken-counts", "train and eval", "evaluation changes calls", "if self.training"),
    ("broken-nevereval", "train and eval", "eval() leaves odd in training mode", "super().train(mode)"),
    ("broken-remembers", "train and eval", "after an evaluation a training pass differs", "keep nothing"),
    ("broken-stale", "fresh weights", "by load_state_dict()", "expand it in every forward pass"),
    ("broken-neverclears", "fresh weights", "trained a step, evaluated again", "expand it in every forward pass"),
    ("broken-hiddendraw", "state dictionary", "gives other logits", "make it a buffer"),
    ("broken-keepsactivation", "deep copy", "copy.deepcopy fails", "do not keep results"),
    ("broken-shares", "deep copy", "changes the original", "part of it"),
    ("broken-onlyfloat", "bfloat16", "TypeError: expected float32", "x.dtype"),
    ("broken-needsprecision", "bfloat16", "not finite", "in float32"),
    ("broken-keepsreduced", "bfloat16", "a bfloat16 filter was kept", "dtype"),
    ("broken-seedsnumpy", "global state", "running changes numpy's random generator", "torch's generator"),
    ("broken-setsthreads", "global state", "building changes torch's number of threads", "restore it"),
    ("broken-setsenvironment", "global state", "(EQUIBENCH_TEST_TOUCHED)", "restore it"),
    ("claims-c4", "invariance", "claimed C4, but its logits change by", "invariant='none'"),
    ("claims-c8", "invariance", "the pixel grid is not invariant under this group", "claim one of"),
    ("loses-c4", "invariance", "after a change of the weights", "training breaks the invariance"),
    ("broken-slowstatistics", "batch norm", "0.1 time constants", "nn.BatchNorm2d"),
    ("broken-pacedstatistics", "batch norm", "'norm' (PacedNorm) do not become those of the"
        " batch", "torch's layer"),
]  # fmt: skip


def with_needs(check: str) -> set[str]:
    """A check and all checks that have to pass before it."""
    return {check}.union(*(with_needs(needed) for needed in CHECKS[check][1]))


@pytest.mark.parametrize(("model", "check", "says", "do"), ONE_FAULT, ids=[f[0] for f in ONE_FAULT])
def test_a_fault_fails_its_check(model: str, check: str, says: str, do: str) -> None:
    found = failures(look_at(model, *with_needs(check)))
    assert list(found) == [check], found
    assert says in found[check].says and do in found[check].do


@pytest.mark.parametrize(
    ("model", "check", "says", "do"),
    [pytest.param(*f, id=f[0], marks=[] if n % 5 == 0 else pytest.mark.whole) for n, f in enumerate(ONE_FAULT)],
)
def test_a_fault_fails_its_check_and_no_other(model: str, check: str, says: str, do: str) -> None:
    found = failures(look_at(model))
    assert list(found) == [check], found
    assert says in found[check].says and do in found[check].do


def test_another_default_dtype_is_not_taken_for_changed_images() -> None:
    here = subject("sound")
    model = here.build()
    model.register_forward_hook(lambda *_: torch.set_default_dtype(torch.float64))
    try:
        assert wrong_output(model, here, 2, Input.of("1x12x12->2")) is None
    finally:
        torch.set_default_dtype(torch.float32)


def test_every_need_is_a_check_that_is_made_before() -> None:
    names = list(CHECKS)
    assert all(names.index(needed) < names.index(name) for name, (_, needs) in CHECKS.items() for needed in needs)


#: Checks whose finding hangs on how many images are shown.
OF_BATCHES = (
    "training", "repeatable", "gradients", "deterministic", "train and eval", "batch independence", "memory",
    "invariance", "batch norm",
)  # fmt: skip
FEW = [f for f in ONE_FAULT if f[1] in OF_BATCHES and "8 images" not in f[2]]
#: The first model of each check, and those whose fault is in how many images there are.
FIRST = {f[0] for f in FEW if "in a batch of" in f[2]} | {f[0] for f in {f[1]: f for f in reversed(FEW)}.values()}


@pytest.mark.parametrize(
    ("model", "check", "says", "do"),
    [pytest.param(*f, id=f[0], marks=[] if f[0] in FIRST else pytest.mark.whole) for f in FEW],
)
def test_faults_of_a_heavy_model_are_found_with_few_images(
    monkeypatch: pytest.MonkeyPatch, model: str, check: str, says: str, do: str
) -> None:
    monkeypatch.setattr("equibench.bench.check.checked_model.HEAVY_FLOPS", 0)
    found = failures(look_at(model, *OF_BATCHES))
    assert list(found) == [check] and says in found[check].says and do in found[check].do, found


def test_a_heavy_model_is_shown_few_images_and_a_sound_one_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    light, heavy = subject("sound"), subject("sound")
    list(findings(light, tuple(n for n in NAMES if n not in ("build", "output"))))
    monkeypatch.setattr("equibench.bench.check.checked_model.HEAVY_FLOPS", 0)
    found = dict(findings(heavy, ("cost", "budget", "other angles", "other sizes")))
    assert (light.batch, light.shown, heavy.batch, heavy.shown) == (8, 7, 2, 3)
    assert found and {n: f.says for n, f in found.items() if f is not None and f.status != "pass"} == {}


def test_the_other_process_shows_a_heavy_model_the_same_few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equibench.bench.check.checked_model.HEAVY_FLOPS", 0)
    sent: dict[str, dict] = {}

    class Sink:
        def send(self, event: str, **values: object) -> None:
            sent[event] = values

    job = subject("sound").job
    seen = []
    for only_weights in (False, True):
        perform(job.model_copy(update={"only_weights": only_weights}), Sink())
        seen.append(sent["weights"])
    assert len(seen[0]["logits"]) == 3 and seen[0] == seen[1]


def test_the_cost_of_a_heavy_model_that_normalises_single_values_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch normalisation of a vector has no variance over one image."""
    monkeypatch.setattr("equibench.bench.check.checked_model.HEAVY_FLOPS", 0)
    found = look_at("e2cnn-bench-c1", "training", "cost", inputs=("1x28x28->10",))
    assert failures(found) == {} and "MiB" in found["cost"].says


def test_a_network_that_says_that_it_is_random_in_evaluation_passes_as_it_is_scored() -> None:
    found = look_at("random-scaled")
    assert failures(found) == {} and {f.status for f in found.values()} == {"pass", "note"}
    assert "the mean of 16 seeded passes" in found["repeatable"].says
    found = look_at("random-numpy", "training", "repeatable")["repeatable"]
    assert found.status == "fail" and "use torch's generator" in found.do


@pytest.mark.parametrize(
    ("model", "cause", "spared"),
    [
        ("broken-alwaysdropout", "repeatable", ("gradients", "seeds", "deterministic", "global state", "data files")),
        ("broken-raises", "training", ("citation", "build", "output", "data files", "state entries")),
        ("broken-forgetful", "state entries", ("gradients", "accounted for", "seeds", "global state")),
        ("broken-noisy", "deterministic", ("gradients", "seeds", "state dictionary", "bfloat16", "invariance")),
        ("broken-hoards", "memory", ("fresh weights", "state dictionary", "bfloat16", "invariance")),
    ],
)
def test_what_depends_on_a_failure_is_skipped_with_its_reason_and_the_rest_is_looked_at(
    model: str, cause: str, spared: tuple[str, ...]
) -> None:
    found = look_at(model)
    left = {name: f.says for name, f in found.items() if f.status == "skip"}
    assert left and set(left.values()) == {f"not checked, because {cause!r} failed"}, left
    assert {found[name].status for name in spared} == {"pass"}


@pytest.mark.parametrize(
    ("model", "check", "says"),
    [
        ("broken-oja", "accounted for", "training changes 6 numbers in buffers"),
        ("broken-slowstatistics", "accounted for", "training changes 6 numbers in buffers"),
        ("broken-fixedbasis", "seeds", "600 numbers that look random are the same for all seeds: basis"),
    ],
)
def test_what_is_learnt_without_gradients_and_what_ignores_the_seed_is_noted(model: str, check: str, says: str) -> None:
    found = look_at(model, "training", check)[check]
    assert found.status == "note" and says in found.says and found.do


@pytest.mark.parametrize(
    "model",
    ["sound", "broken-smoothbasis", "broken-spectral", "broken-olderspectral", "broken-skeleton", "broken-frozennorm"],
)
def test_normalisation_statistics_and_sampled_bases_are_not(model: str) -> None:
    found = look_at(model, "training", "accounted for", "seeds", "batch norm", steps=3)
    assert {f.status for f in found.values()} == {"pass"}
    assert ("no running statistics" in found["batch norm"].says) is (model == "broken-frozennorm")


@pytest.mark.parametrize(
    ("model", "check", "says"),
    [
        ("bad-build", "build", "raised ValueError: there is no such thing (broken.py"),
        ("broken-probabilities", "output", "it returns the shape (2, 1); it must return logits of shape (2, 2)"),
        ("broken-tuple", "output", "it returns a tuple; it must return the logits alone"),
        ("broken-mapping", "output", "it returns a dict; it must return the logits alone"),
        ("broken-double", "output", "it returns torch.float64; logits must be float32"),
        ("broken-maps", "output", "it returns the shape (2, 2, 1, 1)"),
        ("broken-softmax", "output", "returns probabilities that add up to 1, not logits"),
        ("broken-logsoftmax", "output", "returns logarithms of probabilities that add up to 1, not logits"),
        ("broken-abroad", "output", "raised RuntimeError: Found no NVIDIA driver"),
        ("broken-reader", "output", "raised ModuleNotFoundError"),
        ("broken-squeezed", "output", "for 1 images of 1x12x12->2 it returns the shape (2,)"),
    ],
)
def test_without_logits_nothing_else_is_looked_at(model: str, check: str, says: str) -> None:
    found = look_at(model)
    assert says in found[check].says and found[check].do
    after = list(found)[list(found).index(check) + 1 :]
    assert after and all(found[name].status == "skip" and check in found[name].says for name in after)


@pytest.mark.parametrize(
    ("model", "do"),
    [
        ("broken-abroad", "device=x.device"),
        ("broken-reader", "install the missing package"),
        ("broken-tuple", "return only out[1]"),
        ("broken-mapping", "return only out['scores']"),
        ("broken-double", "dtype=torch.float32"),
        ("broken-maps", "pool over all positions"),
        ("broken-squeezed", "x.flatten(1), not x.squeeze()"),
        ("broken-probabilities", "num_classes outputs (2 here)"),
    ],
)
def test_what_many_a_pasted_network_raises_has_its_own_advice(model: str, do: str) -> None:
    assert do in look_at(model, "output")["output"].do


def test_what_is_declared_for_several_inputs_is_built_for_all() -> None:
    found = look_at("bad-size", "invariance", inputs=("1x12x12->2", "1x13x13->2"))
    assert found["build"].status == "fail" and "it must be even" in found["build"].says


READS = """
import json
from pathlib import Path

import numpy as np
import torch
from equibench import register_dataset, register_model
from equibench.datasets.images import ImageData, Split, data_root
from torch import nn

HERE = Path(__file__).parent
AT_IMPORT


class Net(nn.Sequential):
    def __init__(self, classes):
        super().__init__(nn.Flatten(), nn.Linear(144, classes))
        AT_BUILD

    def forward(self, images):
        AT_FORWARD
        return super().forward(images)


@register_dataset("NAME-data", shape=(1, 12, 12), classes=2, sizes=(4, 2, 2), source="https://example.org/data")
def data(root):
    x = np.load(HERE / "data.npz")
    split = Split(x["images"], x["labels"])
    return ImageData("NAME-data", split, split, split, 2, 255)


@register_model("NAME", group="none", invariant="none", source="https://example.org/net")
def net(in_channels, num_classes, image_size):
    return Net(num_classes)
"""
OPEN = "np.load(HERE / 'data.npz')"
CACHE = "(data_root() / 'bars' / 'arrays.npz').read_bytes()"


@pytest.mark.parametrize(
    ("place", "line", "says"),
    [
        ("AT_IMPORT", OPEN, "which belongs to data set '{name}-data'"),
        ("AT_BUILD", OPEN, "which belongs to data set '{name}-data'"),
        ("AT_FORWARD", OPEN, "which belongs to data set '{name}-data'"),
        ("AT_FORWARD", "__import__('os').open(HERE / 'data.npz', 0)", "which belongs to data set '{name}-data'"),
        ("AT_BUILD", CACHE, "below the folder of the data sets"),
        ("AT_BUILD", "json.loads((HERE / 'config.json').read_text())", ""),
    ],
)
def test_a_model_that_opens_files_of_a_data_set_is_refused_and_one_with_a_file_of_its_own_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, line: str, says: str
) -> None:
    root = tmp_path / "root"
    monkeypatch.setenv("EQUIBENCH_DATA", str(root))
    (root / "bars").mkdir(parents=True)
    (root / "bars" / "arrays.npz").write_bytes(b"images")
    (tmp_path / "config.json").write_text("{}")
    np.savez(tmp_path / "data.npz", images=np.zeros((4, 1, 12, 12), np.uint8), labels=np.array([0, 1, 0, 1]))
    name = f"reads-{tmp_path.name.replace('_', '-')}"
    text = READS.replace("NAME", name).replace(place, line)
    for other in ("AT_IMPORT", "AT_BUILD", "AT_FORWARD"):
        text = text.replace(other, "pass")
    path = tmp_path / "reads.py"
    path.write_text(text)
    include([path])
    found = look_at(name, "training", "data files")["data files"]
    assert (found.status == "fail") is bool(says), found
    assert says.format(name=name) in found.says and (
        not says or ("only through forward()" in found.do and "/" in found.says)
    )


def test_a_long_message_ends_at_a_word() -> None:
    text = "the kernel of layer four " * 20
    short = clipped(text, 60)
    assert len(short) <= 62 and short.endswith(" …") and text.startswith(short[:-2]) and text[len(short) - 2] == " "
    assert clipped("short,\n and whole", 60) == "short, and whole" and clipped("x" * 80, 60) == "x" * 60 + " …"


def test_sizes_and_angles_are_reported_and_never_failed() -> None:
    found = look_at("bad-size", "other sizes", "other angles")
    assert found["other sizes"].status == "note"
    assert found["other sizes"].says.count("cannot be built at this size (image_size=1") == 2
    assert found["other angles"].status == "note" and "at 45°" in found["other angles"].says


def test_registered_sizes_are_built() -> None:
    found = look_at("bad-sizes")["build"]
    assert found.status == "fail" and "register the sizes" in found.do
    assert found.says.startswith("sizes=[12, 13] is registered, but it cannot be built for 1x13x13->2: image_size=13")
    assert look_at("good-sizes", "build")["build"].status == "pass"


def test_an_invariance_that_is_not_claimed_is_pointed_out() -> None:
    found = look_at("has-c4", "invariance")["invariance"]
    assert found.status == "note" and "invariant under C4" in found.says and "'C4'" in found.do


def test_slow_statistics_are_no_fault_where_the_budget_is_long_enough() -> None:
    # 5 time constants of 1000 steps each.
    for steps, status in ((4_900, "fail"), (5_100, "note")):
        found = look_at("broken-slowstatistics", "batch norm", steps=steps)["batch norm"]
        assert found.status == status and "with momentum 0.001" in found.says


def test_buffers_that_are_new_or_have_another_shape_are_no_averages() -> None:
    assert look_at("broken-rereads", "batch norm", steps=3)["batch norm"].status == "pass"


def test_cumulative_averages_are_no_momentum_of_zero() -> None:
    found = look_at("broken-cumulative", "batch norm", steps=3)["batch norm"]
    assert found.status == "pass" and "1 layer, cumulative averages" in found.says


def test_the_published_momentum_is_held_against_the_budget() -> None:
    """0.001 for 184 steps left a network at chance level; under 'common' the statistics are re-estimated."""
    job = Check(
        model="pdo-econv-p8-paper", inputs=["1x28x28->10"], dataset="digits-rot", budget="e4", steps=184,
        recipe="common",
        reference=None, include=[],
    )  # fmt: skip
    found = CHECKS["batch norm"][0](Subject(job))
    assert found.status == "note" and "near chance" in found.says and "at least 5,000 steps" in found.do


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "import torch; torch.set_default_dtype(torch.float64)",
            "importing changes torch's default dtype (torch.float32 → torch.float64)",
        ),
        ("import os; os.environ['OMP_NUM_THREADS'] = '3'", "importing changes the environment (OMP_NUM_THREADS)"),
        ("import warnings; warnings.simplefilter('ignore')", "importing changes the filter of warnings"),
        ("import warnings; warnings.simplefilter('always', FutureWarning)", "importing changes the filter of warnings"),
        ("import warnings; Own = type('Own', (Warning,), {}); warnings.simplefilter('always', Own)", ""),
        ("import torch; torch.manual_seed(3)", "importing draws from torch's generator, or seeds it"),
        ("import random; random.seed(3)", "importing changes Python's random generator"),
        ("import os; os.chdir('/')", "importing changes the working folder ({here} → /)"),
        ("import torch; torch.set_grad_enabled(False)", "importing changes torch's gradient mode (True → False)"),
        ("import os; os.environ['A_LIBRARY_SAYS'] = '3'", ""),
        # What torch's compiler does when torchvision, or timm, imports it.
        ("import os; os.environ['TORCHINDUCTOR_CACHE_DIR'] = '/a/folder'", ""),
        ("import torch._dynamo, torch._inductor.config", ""),
        (
            "import torch; torch.backends.mkldnn.set_flags(False)",
            "importing changes torch's backends (mkldnn_enabled: True → False)",
        ),
        (
            "import torch; torch.backends.mha.set_fastpath_enabled(False)",
            "importing changes torch's backends (mha_fastpath: True → False)",
        ),
        (
            "import torch; torch.backends.cuda.enable_math_sdp(False)",
            "importing changes torch's backends (math_sdp_enabled: True → False)",
        ),
        (
            "import torch; torch.set_flush_denormal(True)",
            "importing changes the treatment of denormal numbers as zero (False → True)",
        ),
        ("import torch; torch.set_default_device('meta')", "importing changes torch's default device (cpu → meta)"),
        (
            "import torch; torch.set_autocast_dtype('cpu', torch.float16)",
            "importing changes torch's autocast mode (cpu: (False, torch.bfloat16) → (False, torch.float16))",
        ),
    ],
)
def test_what_importing_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, says: str) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    here, dtype = Path.cwd(), torch.get_default_dtype()
    path = tmp_path / "touches.py"
    name = f"touches-{tmp_path.name.replace('_', '-')}"
    path.write_text(
        f"{line}\nfrom equibench import register_model\nfrom torch import nn\n\n"
        f'@register_model("{name}", group="none", invariant="none", source="https://example.org")\n'
        "def net(in_channels, num_classes, image_size):\n    return nn.Sequential(nn.Flatten(),"
        " nn.LazyLinear(num_classes))\n"
    )
    include([path])
    found = failures(look_at(name, "global state", "gradients"))
    assert [f.says for f in found.values()] == ([says.format(here=here)] if says else []), found
    assert set(found) <= {"global state"}
    assert (Path.cwd(), torch.get_default_dtype(), torch.is_grad_enabled()) == (here, dtype, True)


@pytest.mark.parametrize(
    "line",
    [
        "torch.set_float32_matmul_precision('high')",
        "torch.backends.cuda.matmul.allow_tf32 = not torch.backends.cuda.matmul.allow_tf32",
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
        "torch.backends.fp32_precision = 'tf32'",
        "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'",
    ],
)
def test_the_precision_of_float32_is_seen_in_its_old_and_its_new_spelling_and_put_back(line: str) -> None:
    with state_restored() as before:
        exec(line)
        assert any(c.startswith("torch's precision of float32 (") for c in changes(before))
    assert changes(before) == []


@pytest.mark.parametrize(("module", "fails"), [("imported_late", False), ("switched_late", True)])
def test_what_a_forward_pass_imports_may_set_where_its_files_lie_and_no_switch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, fails: bool
) -> None:
    (tmp_path / "imported_late.py").write_text("import os\nos.environ['TORCHINDUCTOR_CACHE_DIR'] = '/a/folder'\n")
    (tmp_path / "switched_late.py").write_text("import torch\ntorch.backends.mkldnn.enabled = False\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)

    class Late(torch.nn.Sequential):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            importlib.import_module(module)
            return super().forward(images)

    here = subject("sound")
    monkeypatch.setattr(here, "build", lambda *_, **__: Late(torch.nn.Flatten(), torch.nn.Linear(144, 2)))
    sys.modules.pop(module, None)
    found = CHECKS["global state"][0](here)
    os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
    assert (found.status == "fail") is fails
    if fails:
        assert (
            found.says == "running changes torch's backends (mkldnn_enabled: True → False)" and "restore it" in found.do
        )


# --- the command ---------------------------------------------------------------------------------------------------


def equibench(*arguments: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as results:  # verdicts are kept
        return commands.equibench("check", *arguments, EQUIBENCH_RESULTS=results)


INCLUDED = ("--include", str(BROKEN), "--include", str(TINY))


def test_a_sound_file_is_accepted_with_the_row_that_it_adds(tmp_path: Path) -> None:
    done = equibench("sound", *INCLUDED, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["accepted"] and document["dataset"] == "bars" and document["input"] == "1x12x12->2"
    assert {c["status"] for c in document["checks"]} == {"pass", "note"}
    assert {c["check"] for c in document["checks"]} == {*NAMES, "another process"}
    row = document["row"]
    assert (row["parameters"], row["group"], row["invariant"], row["steps"]) == (86, "none", "none", 75)
    # 10 x 10 places, 6 x 9 products each, and 12 in the head; 2 operations a product.
    assert row["flops_per_image"] == 2 * (100 * 54 + 12)
    assert row["test_acc_mean_pct"] is None and row["runs"] == 0 and row["train_s_mean"] is None
    write_record(tmp_path, made.record(90.0))
    assert list(row) == list(model_rows(load_board(tmp_path, made.spec().board)).columns)


def test_the_sizes_are_those_that_a_run_records() -> None:
    """A run measures its first batch; here few images are enough."""
    here, model = subject("sound"), subject("sound").build()
    images, labels = here.images(here.recipe.batch), here.labels(here.recipe.batch)
    assert _figures(here, "sound") == measure_cost(model, images, labels).model_dump()


def test_the_memory_of_a_step_counts_images_and_weights_once_each() -> None:
    """One linear layer keeps its input for backward, and nothing else that grows with the batch."""
    here = subject("sound")
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 2))
    # 64 images of 144 numbers, and 290 weights with gradient and two moments; 4 bytes each.
    assert _step_mib(here, model, 8) * 2**20 == 4 * (64 * 144 + 4 * 290)


def test_the_cost_stands_beside_that_of_the_reference() -> None:
    here = subject("sound", reference="broken-shy")
    found = CHECKS["cost"][0](here)
    assert found.status == "note" and "(broken-shy = 1;" in found.says and "1 × (broken-shy" in found.says
    assert here.step_s is not None and 0 < here.step_s < 1
    assert CHECKS["budget"][0](here).status == "pass"
    here.step_s = 3600.0
    found = CHECKS["budget"][0](here)
    assert found.status == "note" and "not feasible here" in found.says and "75 steps" in found.says


def test_a_broken_file_is_refused_with_what_to_do() -> None:
    done = equibench("broken-inalist", "--dataset", "bars", "--budget", "e40", *INCLUDED)
    text = " ".join(done.stdout.split())  # lines are wrapped
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "FAIL accounted for attribute 'scales' is a tensor" in text and "→ use nn.Parameter" in text
    assert "NOT acceptable: 1 of 27 checks fails" in text
    assert "150 steps of 64 images" in text and "no reference model has this input" in text
    assert 'params={"1x12x12->2": 86}' in text
    assert "bars-e40-common" in text and "broken-inalist" in done.stdout.splitlines()[-3]


def test_a_figure_of_the_first_image_in_a_global_is_found_by_the_other_process() -> None:
    verdict = check_model("broken-firstimageofall", dataset="bars", includes=[BROKEN, TINY])
    found = {f.check: f for f in verdict.findings if f.status not in ("pass", "note")}
    assert list(found) == ["another process"], found
    assert "evaluated other images before" in found["another process"].says and "global" in found["another process"].do


@pytest.mark.parametrize("copied", [True, pytest.param(False, marks=pytest.mark.whole)], ids=["copied", "new"])
@pytest.mark.parametrize(
    ("model", "says"),
    [("broken-hangs", "took longer than {seconds} s and was ended"), ("broken-ends", "the process ended, exit code 3")],
)
def test_a_model_that_hangs_or_ends_its_process_fails_the_check_that_it_happened_in(
    model: str, says: str, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 8 if copied else 60  # a copy needs 1 s to the training; a new interpreter imports torch first
    if copied:
        monkeypatch.setattr("equibench.bench.runner.local.Check", Examination)
    verdict = check_model(model, dataset="bars", includes=[BROKEN, TINY], deadline_s=seconds)
    found = {f.check: f for f in verdict.findings}
    assert (
        found["training"].status == "fail"
        and says.format(seconds=seconds) in found["training"].says
        and found["training"].do
    )
    assert found["output"].status == "pass" and found["invariance"].status == "skip"
    assert set(found) == set(NAMES) and not verdict.accepted and not verdict.row


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("z2cnn-2x",), "there is no model 'z2cnn-2x'"),
        (("z2cnn-22", "--dataset", "digits"), "digits-rot"),
        (("z2cnn-22", "--budget", "5"), "'5' is not a budget"),
        (("z2cnn-22", "--deadline", "0"), "'--deadline': 0.0 is not in the range x>0"),
        (("z2cnn-22", "--include", "nothing.py"), "no such file"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(arguments: tuple[str, ...], says: str) -> None:
    done = equibench(*arguments)
    assert done.returncode == 2 and says in done.stderr and done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(("step_s", "says"), [(0.3, "66 steps"), (20.0, "1 step"), (20.1, "less than one step")])
def test_the_steps_of_device_seconds_are_those_that_fit(step_s: float, says: str) -> None:
    here = subject("sound")
    here.job, here.step_s = here.job.model_copy(update={"budget": "t20"}), step_s
    assert CHECKS["budget"][0](here).says.startswith(f"t20: {says} on this CPU;")
