"""Networks that are random in evaluation: the mean of seeded passes, the same in scores, errors, weights and
replays.
"""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from equibench.bench.measures.accuracy import logits
from equibench.bench.measures.cost import evaluation_operations
from equibench.bench.records.record import read_record
from equibench.models.random_evaluation import RandomEvaluation
from equibench.registry import MODELS, UserError, build_model, include
from equibench.scan import scan_file
from torch import nn

from ..training.test_run import TINY, equibench
from .test_operations import forward_flops

SAMPLES = 8


class Noisy(nn.Module):
    """Linear in images that are dropped at random, in evaluation as well: its expectation is linear without drops."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(F.dropout(images.flatten(1), 0.5, training=True))


def noisy(samples: int = SAMPLES, seed: int = 0) -> RandomEvaluation:
    torch.manual_seed(seed)
    return RandomEvaluation(Noisy(), samples).double().eval()


def images(count: int = 5) -> torch.Tensor:
    return torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_the_logits_are_the_mean_of_passes_that_are_drawn_one_after_the_other() -> None:
    model, x = noisy(), images()
    torch.manual_seed(model.seed)
    expected = torch.stack([model.model(x) for _ in range(SAMPLES)]).mean(0)
    assert torch.allclose(model(x), expected, rtol=0, atol=1e-12)


def test_many_passes_come_to_the_expectation() -> None:
    x = images()
    model = noisy(4000)
    expected = F.linear(x.flatten(1), model.model.head.weight, model.model.head.bias)
    # A dropped number is 0 or twice itself: the standard deviation of a term is its magnitude.
    deviation = (x.flatten(1).square() @ model.model.head.weight.square().T).sqrt() / 4000**0.5
    assert ((model(x) - expected).abs() < 5 * deviation).all()
    assert ((noisy(4)(x) - expected).abs() > 5 * deviation).any(), "few passes do not"


def test_evaluation_repeats_itself_and_leaves_the_generator_alone() -> None:
    model, x = noisy(), images()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = model(x)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    assert torch.equal(first, model(x))
    assert not torch.equal(model.train()(x), model(x)), "in training each pass draws new random numbers"


def test_the_state_dictionary_alone_says_how_it_is_scored() -> None:
    one, two, x = noisy(seed=0), noisy(seed=1), images()
    assert not torch.equal(one(x), two(x))
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(x), two(x))


def test_all_passes_are_operations_and_weights_count_once() -> None:
    x = images(1).float()
    one, many = noisy(1).float(), noisy(SAMPLES).float()
    assert forward_flops(many, x) == SAMPLES * forward_flops(one, x) == SAMPLES * 2 * 16 * 3
    assert evaluation_operations(many, x).dense_weights == evaluation_operations(one, x).dense_weights == 48


FILE = """
import torch
from equibench import register_model
from torch import nn


class Shifted(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(channels, 8, 5), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveMaxPool2d(1))
        self.head = nn.Linear(8, classes)

    def forward(self, images):
        dx, dy = torch.randint(-2, 3, (2,)).tolist()
        return self.head(self.features(images.roll((dx, dy), (2, 3))).flatten(1))


@register_model("NAME", group="none", invariant="none", source="arXiv:2010.11882", EVALUATION)
def shifted(in_channels, num_classes, image_size):
    return Shifted(in_channels, num_classes)
"""


def write(folder: Path, name: str, evaluation: str) -> Path:
    path = folder / f"{name}.py"
    path.write_text(FILE.replace("NAME", name).replace("EVALUATION", evaluation))
    return path


def test_a_whole_run_is_scored_so_says_so_and_is_replayed_to_the_bit(tmp_path: Path) -> None:
    path = write(tmp_path, "shifted-run", "evaluation='random:4'")
    root = tmp_path / "results"
    shared = (
        "--include",
        str(TINY),
        "--include",
        str(path),
        "--results",
        str(root),
        "--data-root",
        str(tmp_path / "data"),
    )
    done = equibench(
        "run", "--dataset", "bars", "--budget", "e2", "--models", "shifted-run", "--seeds", "1", "--device", "cpu",
        *shared,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "evaluation" in done.stdout and "random:4" in done.stdout
    (written,) = (root / "runs").glob("*/*.json")
    record = read_record(written)
    assert record.status == "ok" and record.provenance.registered["evaluation"] == "random:4"
    # 8 x 8 places, 8 x 25 products each, and 16 in the head, in each of 4 passes; 2 operations a product.
    assert record.cost.flops_per_image == 4 * 2 * (64 * 200 + 16)
    (csv,) = (p for p in root.glob("*.csv") if not p.name.endswith(".runs.csv"))
    assert "evaluation" in csv.read_text() and "random:4" in csv.read_text()
    done = equibench("replay", record.run_id[:8], *shared, "--json", cwd=tmp_path)
    verdict = json.loads(done.stdout)
    assert verdict["agrees"] and verdict["rule"] == "bit-exact", verdict
    both = [read_record(p) for p in (root / "runs").glob("*/*.json")]
    assert (
        len(both) == 2
        and both[0].results.trained == both[1].results.trained
        and both[0].results.init == both[1].results.init
    )


def test_the_registration_makes_it_so(tmp_path: Path) -> None:
    include(
        [write(tmp_path, "shifted-built", "evaluation='random:12'"), write(tmp_path, "shifted-plain", "note='plain'")]
    )
    torch.manual_seed(3)
    model = build_model("shifted-built+frame-c4", 1, 2, 12)
    assert isinstance(model, RandomEvaluation) and model.samples == 12 == MODELS.find("shifted-built+frame-c4").samples
    x = torch.randn(3, 1, 12, 12)
    assert torch.equal(logits(model, x, lambda x: x), logits(model, x, lambda x: x))
    assert not isinstance(build_model("shifted-plain", 1, 2, 12), RandomEvaluation)


@pytest.mark.parametrize("value", ["'random'", "'random:0'", "'random:1000'", "'stochastic:4'", "16"])
def test_another_value_is_refused_with_what_is_right(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, "shifted-wrong", f"evaluation={value}")
    with pytest.raises(UserError, match=r"evaluation=.* must be 'random:' and the number of passes.*'random:16'"):
        list(scan_file(path, "model", "wrong"))
