"""Every part of the harness that builds a model from a seed gets the network of a run."""

from pathlib import Path

import pytest
import torch
from equibench.bench.api.models import build_model
from equibench.bench.check.checked_model import Subject
from equibench.bench.check.runner import findings
from equibench.bench.measures import execution_profile
from equibench.bench.reports import model_card
from equibench.bench.reports.equivariance import Sample, build_at_size
from equibench.bench.reports.estimate import step_flops
from equibench.bench.spec.suite import find_suite, plan
from equibench.bench.training.job import Check
from equibench.bench.training.prepare import WrongShape, build_from_seed, initial_model
from equibench.datasets.images import load
from equibench.registry import MODELS, UserError, include
from torch import nn

CPU = torch.device("cpu")


def registered(tmp_path: Path, layers: str, begin: str = "pass") -> str:
    """The name of a model for 28 x 28 pixels, from a file of its own."""
    name = f"made-{tmp_path.name.replace('_', '-')}"
    path = tmp_path / f"{tmp_path.name}.py"
    path.write_text(
        "import torch\nfrom equibench import register_model\nfrom torch import nn\n\n"
        f'@register_model("{name}", group="none", invariant="none", source="https://example.org")\n'
        f"def net(in_channels, num_classes, image_size):\n    {begin}\n    return nn.Sequential({layers})\n"
    )
    include([path])
    return name


def subject(name: str) -> Subject:
    return Subject(
        Check(
            model=name, inputs=["1x28x28->10"], dataset="digits-rot", budget="e1", steps=None, recipe="common",
            reference=None, include=[],
        )
    )  # fmt: skip


def test_lazy_layers_get_the_weights_of_a_run_everywhere(tmp_path: Path) -> None:
    name = registered(tmp_path, "nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(num_classes)")
    data = load("digits-rot")
    spec = plan(find_suite("quickstart"))[0].model_copy(update={"model": name, "seed": 0})
    run = build_from_seed(spec, data, CPU)
    built = {
        "api": build_model(name, dataset="digits-rot", seed=0),
        "report": build_at_size(name, Sample.of("digits-rot", None, CPU), 28),
        "check": subject(name).build(),
        "check of another": subject("p4cnn").build_named(name),
    }
    for place, model in built.items():
        assert isinstance(model, nn.Module)
        theirs, ours = dict(run.named_parameters()), dict(model.named_parameters())
        assert list(theirs) == list(ours) and all(torch.equal(theirs[n], ours[n]) for n in theirs), place
    count = sum(p.numel() for p in run.parameters())
    assert step_flops(name, (1, 28, 28), 10, 4)[1] == count
    card = model_card.network(MODELS.find(name))
    assert (card["problem"], card["parameters"]) == ("", count)
    # Built anew for each size. A constant layer before would fail in the two other sizes.
    assert [row["outcome"] for row in card["equivariance"]["sizes"]] == ["ok"] * 3


def test_a_layer_with_lazy_buffers_alone_is_built_for_the_checks(tmp_path: Path) -> None:
    name = registered(tmp_path, "nn.Flatten(), nn.LazyBatchNorm1d(affine=False), nn.Linear(784, num_classes)")
    assert subject(name).build()[1].running_mean.shape == (784,)


@pytest.mark.parametrize("last", ["nn.Linear(784, num_classes + 1)", "nn.LazyLinear(num_classes + 1)"])
def test_a_wrong_output_is_refused_with_a_seed_and_found_by_the_checks(tmp_path: Path, last: str) -> None:
    name = registered(tmp_path, f"nn.Flatten(), {last}")
    for build in (lambda: initial_model(name, 1, 10, 28), lambda: build_model(name, dataset="digits-rot", seed=0)):
        with pytest.raises(WrongShape, match=r"\(2, 11\); it must return logits of shape \(2, 10\)"):
            build()
    checked = {check: found for check, found in findings(subject(name)) if found}
    assert checked["build"].status == "pass"
    assert checked["output"].status == "fail" and "it returns the shape (2, 11)" in checked["output"].says
    assert isinstance(build_model(name, dataset="digits-rot"), nn.Module)


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("sparse", "torch.eye(3).to_sparse()"),
        ("sparse", "torch.eye(3).to_sparse_csr()"),
        ("quantised", "torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8)"),
        ("oneDNN", "torch.eye(3).to_mkldnn()"),
    ],
)
def test_tensors_that_cannot_be_counted_or_saved_are_named(tmp_path: Path, kind: str, made: str) -> None:
    name = registered(
        tmp_path,
        "nn.Flatten(), head",
        f"head = nn.Linear(784, num_classes); head.register_buffer('graph', {made})",
    )
    with pytest.raises(UserError, match=f"'1.graph' is a {kind} tensor"):
        initial_model(name, 1, 10, 28)
    checked = {check: found for check, found in findings(subject(name)) if found}
    assert checked["build"].status == "fail" and checked["build"].says.startswith(f"'1.graph' is a {kind} tensor")
    assert checked["build"].do.startswith("register dense tensors")


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (
            "torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(784, 9)), {nn.Linear})",
            "'1.extra.0._packed_params._packed_params' holds packed weights",
        ),
        (
            "torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.LSTM(784, 9)), {nn.LSTM})",
            "'1.extra.0._all_weight_values.0.param' holds packed weights",
        ),
        ("nn.LazyLinear(3)", "'1.extra.weight' has no shape yet"),
        ("nn.LazyBatchNorm2d(affine=False)", "'1.extra.running_mean' has no shape yet"),
    ],
)
def test_weights_without_numbers_of_their_own_are_named(tmp_path: Path, part: str, said: str) -> None:
    name = registered(tmp_path, "nn.Flatten(), head", f"head = nn.Linear(784, num_classes); head.extra = {part}")
    with pytest.raises(UserError, match=said):
        initial_model(name, 1, 10, 28)


@pytest.mark.parametrize("method", ["train", "eval"])
def test_a_method_for_the_mode_that_returns_nothing_is_named(tmp_path: Path, method: str) -> None:
    name = registered(
        tmp_path,
        "nn.Flatten()",
        f"Frozen = type('Frozen', (nn.Sequential,), {{'{method}': lambda self, mode=True: None}});"
        " return Frozen(nn.Flatten(), nn.Linear(784, num_classes))",
    )
    with pytest.raises(
        UserError, match=rf"{method}\(\) of Frozen does not return the network; end it with `return self`"
    ):
        initial_model(name, 1, 10, 28)


def test_a_part_that_torch_scripts_is_no_packed_weight(tmp_path: Path) -> None:
    name = registered(tmp_path, "nn.Flatten(), torch.jit.script(nn.Linear(784, num_classes))")
    assert initial_model(name, 1, 10, 28)[1].weight.shape == (10, 784)


def test_the_profile_is_renewed_after_a_build_except_where_changes_are_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = registered(
        tmp_path, "nn.Flatten(), nn.Linear(784, num_classes)", "torch.set_deterministic_debug_mode('default')"
    )
    monkeypatch.setattr(execution_profile, "_held", ("strict", torch.get_num_threads()))
    execution_profile.renew_profile()
    try:
        initial_model(name, 1, 10, 28)
        execution_profile.check_profile()
        checked = subject(name)
        checked.build()
        assert checked.build_changes
    finally:
        torch.set_deterministic_debug_mode("default")
