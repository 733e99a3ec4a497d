"""Parameters and floating-point operations against counts by hand."""

import subprocess
import sys

import pytest
import torch
from equibench.bench.measures.cost import count_numbers, measure_cost, operations_vary, peak_memory_mib
from equibench.bench.records.record import Size
from equibench.bench.runner.local import environment
from equibench.registry import build_model
from torch import nn


def cost_of(model: nn.Module, *shape: int, classes: int = 2) -> Size:
    torch.manual_seed(0)
    return measure_cost(model, torch.randn(3, *shape), torch.arange(3) % classes)


class Expanding(nn.Module):
    """A 3x3 convolution with 2 input and 4 output channels, expanded from 5 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(5))
        self.register_buffer("basis", torch.randn(5, 4 * 2 * 9))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        filters = (self.weights @ self.basis).view(4, 2, 3, 3)
        return nn.functional.conv2d(images, filters).mean((2, 3))


def test_a_convolution_and_a_matrix_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 10))
    cost = measure_cost(model, torch.randn(5, 3, 8, 8), torch.zeros(5, dtype=torch.long))
    convolution, matrix = 2 * 36 * 8 * 3 * 9, 2 * 8 * 36 * 10
    assert cost.parameters == 8 * 27 + 8 + 16 + 8 * 36 * 10 + 10
    assert cost.flops_per_image == convolution + matrix
    # Backward: weights of both, inputs of the second; the images themselves need no gradient.
    assert cost.train_flops_per_image == 2 * convolution + 3 * matrix
    assert cost.dense_weights == 8 * 27 + 8 * 36 * 10
    assert cost.buffers == 8 + 8 + 1


def test_expanded_filters_are_counted_apart_from_parameters() -> None:
    cost = measure_cost(Expanding(), torch.randn(3, 2, 6, 6), torch.zeros(3, dtype=torch.long))
    assert cost.parameters == 5 and cost.dense_weights == 72 and cost.buffers == 5 * 72
    # The expansion costs operations of the step, and none of an image.
    convolution = 2 * 16 * 4 * 2 * 9
    assert cost.flops_per_image == convolution and cost.train_flops_per_image > 2 * convolution


class Products(nn.Module):
    """Matrices on either side of the images, one of them used twice, and a product of images with themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(6, 4))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = (self.left @ (self.left @ images[:, 0])) @ self.right
        return (x.transpose(1, 2) @ x).flatten(1)


def test_dense_weights_are_what_the_images_meet() -> None:
    assert cost_of(Products(), 1, 6, 6).dense_weights == 36 + 24


class Writing(nn.Module):
    """Writes into its image and into a tensor of its own, leaves torch and comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images -= images.detach().cpu().numpy().mean().item()
        rows = torch.zeros(len(images), 6)
        rows[:, :4] = images[:, 0, 0, :4]
        return nn.functional.linear(rows, self.weight)


def test_dense_weights_of_a_model_that_writes_in_place() -> None:
    images = torch.randn(3, 1, 6, 6)
    before = images.clone()
    assert measure_cost(Writing(), images, torch.arange(3)).dense_weights == 18 and torch.equal(images, before)


class Passing(nn.Module):
    """Gives a view of a parameter to another module, as libraries do that expand filters in one (escnn)."""

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.expand = nn.Parameter(torch.randn(18)), nn.Tanh()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(images, self.expand(self.weights.view(2, 1, 3, 3))).mean((2, 3))


def test_operations_are_counted_where_modules_are_given_parameters() -> None:
    cost = measure_cost(Passing(), torch.randn(3, 1, 6, 6), torch.zeros(3, dtype=torch.long))
    assert cost.flops_per_image == 2 * 16 * 2 * 9 and cost.dense_weights == 18 and cost.parameters == 18


@pytest.mark.parametrize("name", ["e2cnn-c8-25k", "pdo-econv-p8", "p4cnn", "wrn-10-b9"])
def test_dense_weights_of_networks_are_those_of_their_dense_twins(name: str) -> None:
    """By hand: what every convolution and every linear map is called with."""
    torch.manual_seed(0)
    model, sizes = build_model(name, 1, 10, 28).eval(), {}
    convolve, multiply = torch.nn.functional.conv2d, torch.nn.functional.linear

    def seen(function):
        def call(x, weight, *args, **kwargs):
            sizes[len(sizes)] = weight.numel()
            return function(x, weight, *args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "conv2d", seen(convolve))
        patch.setattr(torch.nn.functional, "linear", seen(multiply))
        model(torch.randn(1, 1, 28, 28))
    assert cost_of(model, 1, 28, 28).dense_weights == sum(sizes.values()) > 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not carry a parent's memory into a child")
def test_memory_is_not_that_of_the_parent() -> None:
    child = (
        "import torch; from equibench.bench.measures.cost import peak_memory_mib;"
        " print(peak_memory_mib(torch.device('cpu')))"
    )
    parent = f"import subprocess, sys; x = b'x' * 2**30; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    assert 50 < float(done.stdout) < 900


def test_numbers_are_real_and_counted_once() -> None:
    """By hand: complex numbers are two; frozen ones, buffers and shared ones apart."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(2, 3), nn.Linear(2, 3, dtype=torch.complex64))
    model[0].bias.requires_grad_(False)
    model[3].bias.requires_grad_(False)
    model.register_buffer("basis", torch.zeros(5, dtype=torch.complex128))
    model.tied = nn.Linear(2, 3)
    model.tied.weight, model.tied.bias = model[2].weight, nn.Parameter(model[2].bias.data)  # the same numbers again
    model.decoder = nn.Linear(3, 2, bias=False)
    model.decoder.weight = nn.Parameter(model[2].weight.data.t())  # and transposed
    assert count_numbers(model) == {"parameters": 2 + 9 + 2 * 6, "frozen": 2 + 2 * 3, "buffers": 10}


class Oja(nn.Module):
    """Learns a direction without a gradient, in a buffer."""

    def __init__(self, statistics: type[nn.Module]) -> None:
        super().__init__()
        self.head, self.norm = nn.Linear(16, 2), statistics(1)
        self.register_buffer("direction", torch.ones(16))
        self.register_buffer("constant", torch.full((7,), torch.nan))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("counts", torch.zeros(16, dtype=torch.long))
        self.register_buffer("order", torch.arange(16))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.norm(images).flatten(1)
        if self.training:
            self.steps += 1
            self.counts += (x > 0).sum(0)  # whole numbers learn as well as others
            with torch.no_grad():
                self.direction += 0.1 * (x.t() @ (x @ self.direction))
        return self.head(x[:, self.order] + self.direction + self.counts)


@pytest.mark.parametrize(
    "statistics", [nn.Identity, nn.BatchNorm2d, lambda n: nn.InstanceNorm2d(n, track_running_stats=True)]
)
def test_buffers_that_learn_are_told_from_statistics_and_constants(statistics: type[nn.Module]) -> None:
    cost = cost_of(Oja(statistics), 1, 4, 4)
    assert cost.learned_buffers == 16 + 16 and cost.buffers == 2 * 16 + 7 + 1 + 16 + (
        0 if statistics is nn.Identity else 3
    )


@pytest.mark.parametrize("spectral_norm", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
def test_the_vectors_of_spectral_norm_are_statistics_in_both_its_spellings(spectral_norm) -> None:
    normed = nn.Sequential(spectral_norm(nn.Conv2d(1, 2, 3)), nn.BatchNorm2d(2), nn.Flatten())
    normed[0].register_buffer("learns", torch.zeros(7))
    normed[0].register_forward_pre_hook(lambda layer, args: (args[0] + layer.learns.add_(1)[0],))
    cost = cost_of(normed, 1, 4, 4)
    assert cost.learned_buffers == 7 and cost.buffers == 2 + 9 + 5 + 7


def test_memory_is_of_the_right_size() -> None:
    assert 50 < peak_memory_mib(torch.device("cpu")) < 100_000


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot restart the peak of a process")
def test_memory_that_was_freed_before_a_phase_is_not_part_of_its_peak() -> None:
    """The process of a run keeps what it frees for its next step, also small pieces between others."""
    child = (
        "import torch; from equibench.bench.measures.cost import peak_memory_mib, reset_peak_memory;"
        " here = torch.device('cpu'); before = peak_memory_mib(here);"
        " pieces = [torch.ones(1 << 20) for _ in range(64)];"
        " between = pieces[::2]; del pieces; high = peak_memory_mib(here); reset_peak_memory(here);"
        " print(high - before, peak_memory_mib(here) - before)"
    )
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True, env=environment(1))
    with_all, with_half = map(float, done.stdout.split())
    assert with_all > 250 and with_half == pytest.approx(128, abs=30)


class Leaves(nn.Module):
    """Images whose first logit is positive leave early; the others get a second layer of 16 x 16 products."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 2), nn.Linear(16, 16)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images.flatten(1)
        scores = self.first(x)
        hard = scores[:, 0] <= 0
        more = self.first(self.second(x[hard]).relu())
        return scores.index_put((hard.nonzero()[:, 0],), more)


def test_operations_that_depend_on_image_or_weights_are_seen() -> None:
    model, images = Leaves(), torch.randn(3, 1, 4, 4)
    with torch.no_grad():
        model.first.weight.zero_()
        model.first.bias.fill_(-1)
    counted = cost_of(model, 1, 4, 4).flops_per_image
    assert counted == 2 * (32 + 256 + 32) and not operations_vary(model, images, counted)
    with torch.no_grad():
        model.first.bias.fill_(1)  # now all images leave early
    assert operations_vary(model, images, counted) and not operations_vary(model, images, 2 * 32)
    with torch.no_grad():
        model.first.weight[0, 0], images[0, 0, 0, 0], images[1:, 0, 0, 0] = 9, -1, 1
    assert operations_vary(model, images, 2 * 32)


class KeepsItsFilters(nn.Module):
    """Expands its filters in the first pass of evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.basis, self.kept = nn.Linear(9, 8, bias=False), None

    def train(self, mode: bool = True) -> "KeepsItsFilters":
        self.kept = None
        return super().train(mode)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        filters = self.kept
        if filters is None:
            filters = (self.basis.weight @ torch.ones(9, 9)).view(8, 1, 3, 3)
        self.kept = None if self.training else filters
        return nn.functional.conv2d(images, filters).mean((2, 3))


def test_an_expansion_of_filters_is_no_variation() -> None:
    model, images = KeepsItsFilters(), torch.randn(3, 1, 4, 4)
    counted = cost_of(model, 1, 4, 4).flops_per_image
    assert counted == 2 * 4 * 72 and not operations_vary(model, images, counted)
    assert model.training and model.kept is None
