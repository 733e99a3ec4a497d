"""E2CNN networks: published counts, equality with the same network made of escnn's modules, invariance."""

import pytest
import torch
from equibench.models import e2cnn_wide
from equibench.models.escnn_adapter import SteerableConv2d, _gspace, escnn_nn, tamed
from equibench.registry import MODELS, build_model, parse_shape
from torch import nn

ENTRIES = [e for e in MODELS.entries().values() if e.path.stem in ("e2cnn", "e2cnn_wide")]
#: Kernels of D16 take a few seconds; the counts of these nets are checked in the slow run (15 s).
HEAVY = ("e2cnn-bench-d16", "e2cnn-d16-c16")


def heavy_last(names: list[str], heavy: tuple[str, ...]) -> list:
    return [pytest.param(n, marks=pytest.mark.slow) if n in heavy else n for n in names]


@pytest.mark.parametrize("name", heavy_last([e.name for e in ENTRIES], HEAVY))
def test_parameter_counts(name: str) -> None:
    entry = MODELS.entries()[name]
    assert entry.fields["params"]
    for shape, count in entry.fields["params"].items():
        channels, size, classes = parse_shape(shape, entry.where)
        with torch.device("meta"):
            model = entry.load()(channels, classes, size, **entry.arguments)
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


def test_published_counts_are_registered() -> None:
    counts = {e.name: next(iter(e.fields["params"].values())) for e in ENTRIES}
    assert counts["e2cnn-bench-c8"] == 1_019_010 and counts["e2cnn-bench-c16"] == 1_199_858
    assert counts["e2cnn-c16"] == 2_692_690 and counts["e2cnn-d16-c16"] == 3_069_353
    assert counts["e2wrn-28-10-d8d4d1"] == 37_183_014
    for name in ("e2cnn-c8-25k", "e2cnn-c16-25k"):
        assert 24_415 <= counts[name] <= 26_985


def randomised(model: nn.Module, dtype: torch.dtype = torch.double) -> nn.Module:
    """In evaluation mode, with running statistics, scales and biases that are not trivial."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
        elif isinstance(module, SteerableConv2d) and module.bias is not None:
            nn.init.normal_(module.bias)
    return model.to(dtype).eval()


# The nets of more than a million parameters take 2 to 20 s each in float64.
CLAIMS = [e for e in ENTRIES if e.fields["invariant"] != "none"]
MILLIONS = tuple(e.name for e in CLAIMS if next(iter(e.fields["params"].values())) > 10**6)


@pytest.mark.parametrize("name", heavy_last([e.name for e in CLAIMS], MILLIONS))
def test_claimed_invariance_is_exact(name: str) -> None:
    torch.manual_seed(0)
    entry, model = MODELS.entries()[name], randomised(build_model(name, 1, 10, 28))
    x = torch.randn(1, 1, 28, 28, dtype=torch.double)
    copies = [x.rot90(1, (-2, -1)), x.rot90(2, (-2, -1))]
    copies += [x.flip(-1), x.transpose(-2, -1)] if entry.fields["invariant"].startswith("D") else []
    with torch.no_grad():
        y = model(x)
        for moved in copies:
            assert (model(moved) - y).abs().max() <= 1e-12 * y.abs().max()
        assert (model(x.roll(3, -1)) - y).abs().max() > 1e-4 * y.abs().max()


def escnn_benchmark(ours: nn.Module, group: str) -> nn.Module:
    """The benchmark net in the authors' order of layers, made of escnn's modules, with the weights of ours."""
    space = _gspace(group)
    convs = [m for m in ours.features if isinstance(m, SteerableConv2d)]
    norms = [m for m in ours.features if isinstance(m, nn.BatchNorm2d)]
    kind = escnn_nn.FieldType(space, [space.trivial_repr])
    layers: list[nn.Module] = []
    for number, (conv, norm) in enumerate(zip(convs, norms, strict=True), start=1):
        out = escnn_nn.FieldType(space, conv.out_fields * [space.regular_repr])
        theirs = escnn_nn.R2Conv(kind, out, conv.kernel_size, padding=conv.padding, recompute=True, initialize=False)
        theirs.weights.data = conv.weight.detach().flatten().clone()
        theirs.bias.data = conv.bias.detach().clone()
        layers.append(theirs)
        if number == 6:
            layers.append(escnn_nn.GroupPooling(out))
        kind = layers[-1].out_type
        layers.append(escnn_nn.InnerBatchNorm(kind))
        (inner,) = (m for m in layers[-1].modules() if isinstance(m, nn.modules.batchnorm._NormBase))
        inner.load_state_dict(norm.state_dict())
        layers.append(escnn_nn.ELU(kind))
        if number in (2, 4):
            layers.append(escnn_nn.PointwiseMaxPool(kind, 2))
    layers.append(escnn_nn.PointwiseAdaptiveMaxPool(kind, 1))
    return escnn_nn.SequentialModule(*layers)


def test_benchmark_net_equals_escnn() -> None:
    """Parameters, initialisation, order of layers and all: the same logits from the same numbers."""
    torch.manual_seed(0)
    ours = build_model("e2cnn-bench-c4", 1, 10, 28)
    with torch.no_grad():
        for norm in (m for m in ours.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.5), norm.bias.normal_(std=0.2), norm.running_mean.normal_(std=0.1)
    with tamed():
        theirs = escnn_benchmark(ours, "C4")
    theirs.train(), theirs.eval(), ours.eval()
    x = torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        expected = ours.head(theirs(theirs.in_type(x)).tensor.flatten(1))
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_sizes_of_the_maps() -> None:
    for name, expected in (
        ("e2cnn-c8-25k", [24, 24, 12, 12, 6, 2]),
        ("e2cnn-bench-c1", [24, 24, 12, 12, 6, 2]),
    ):
        sides: list[int] = []
        model = build_model(name, 1, 10, 28).eval()
        for module in model.modules():
            if isinstance(module, SteerableConv2d):
                module.register_forward_hook(lambda m, x, y, seen=sides: seen.append(y.shape[-1]))
        model(torch.zeros(1, 1, 28, 28))
        assert sides == expected


def test_same_seed_same_weights_and_a_training_step() -> None:
    twins = []
    for _ in range(2):
        torch.manual_seed(5)
        twins.append(build_model("e2cnn-c8-25k", 1, 10, 28))
    x, target = torch.randn(4, 1, 28, 28), torch.tensor([0, 1, 2, 3])
    for model in twins:
        nn.functional.cross_entropy(model(x), target).backward()
    for first, second in zip(twins[0].parameters(), twins[1].parameters(), strict=True):
        assert torch.equal(first, second) and torch.equal(first.grad, second.grad)


def test_wide_residual_net_is_invariant_at_sizes_that_its_strides_allow() -> None:
    """Two strides of 2 are symmetric at 4k + 1 pixels: exact for the last group at 33, not at 32."""
    torch.manual_seed(0)
    model = e2cnn_wide.SteerableWideResNet(3, 10, depth=10, width=2, groups=("D4", "D4", "C4"))
    randomised(model)
    changes = {}
    for size in (32, 33):
        x = torch.randn(1, 3, size, size, dtype=torch.double)
        with torch.no_grad():
            changes[size] = ((model(x.rot90(1, (-2, -1))) - model(x)).abs().max() / model(x).abs().max()).item()
    assert changes[33] <= 1e-12 and changes[32] > 1e-4


def test_wide_residual_net_with_shrinking_groups_runs_backward() -> None:
    torch.manual_seed(0)
    model = e2cnn_wide.SteerableWideResNet(3, 10, depth=10, width=1, groups=("D8", "D4", "D1"))
    y = model(torch.randn(2, 3, 16, 16))
    y.square().sum().backward()
    assert y.shape == (2, 10) and all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_width_rule_keeps_parameters() -> None:
    assert [e2cnn_wide.regular_fields(160, g) for g in ("C1", "C4", "D8")] == [160, 80, 40]
    assert e2cnn_wide.trivial_fields(640, "D1") == 905


@pytest.mark.slow  # 10 s: the largest net, which escnn's own initialisation does not finish in four minutes
def test_the_largest_net_builds_in_seconds() -> None:
    model = build_model("e2wrn-28-10-c8c4c1", 3, 10, 32)
    with torch.no_grad():
        assert model.eval()(torch.randn(1, 3, 32, 32)).isfinite().all()


def test_bad_depth_is_named() -> None:
    with pytest.raises(ValueError, match="depth=11"):
        e2cnn_wide.SteerableWideResNet(3, 10, depth=11, width=1, groups=("C4", "C4", "C4"))
