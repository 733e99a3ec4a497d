"""Training batches: the same for every model of a seed, each example once an epoch."""

import pytest
import torch
from equibench.bench.spec.seeds import derive
from equibench.datasets.batches import AUGMENTATIONS, Batches, Normalise
from equibench.registry import UserError
from hypothesis import given, settings
from hypothesis import strategies as st

CPU = torch.device("cpu")


def identity() -> Normalise:
    return Normalise([0.0], [1.0], 1, CPU)


def stream(count: int, batch: int, seed: int = 0, augment: list[str] | None = None) -> Batches:
    images = torch.arange(count, dtype=torch.int16)[:, None, None, None].expand(count, 1, 6, 6).contiguous()
    labels = torch.arange(count)
    return Batches(images, labels, identity(), batch, lambda *labels: derive(seed, *labels), augment)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 4))
def test_every_epoch_has_every_example_once(count: int, batch: int, epochs: int) -> None:
    batches = stream(count, batch)
    steps = -(-epochs * count // batch)
    seen = torch.cat([batches(step)[1] for step in range(steps)])
    for epoch in range(epochs):
        assert seen[epoch * count : (epoch + 1) * count].sort().values.equal(torch.arange(count))


def test_images_and_labels_stay_together() -> None:
    batches = stream(10, 4)
    for step in range(7):
        images, labels = batches(step)
        assert images[:, 0, 0, 0].equal(labels.float())


def test_one_seed_gives_the_same_batches_and_another_does_not() -> None:
    first, again, other = (stream(50, 8, seed, ["flip", "crop4"]) for seed in (0, 0, 1))
    same = [all(a.equal(b) for a, b in zip(first(s), again(s), strict=True)) for s in range(10)]
    assert all(same) and not first(0)[1].equal(other(0)[1])


def test_a_batch_does_not_depend_on_which_were_asked_before() -> None:
    walked, jumped = stream(20, 8, augment=["flip"]), stream(20, 8, augment=["flip"])
    for step in range(9):
        last = walked(step)
    assert all(a.equal(b) for a, b in zip(last, jumped(8), strict=True))


def test_augmentation_leaves_order_and_other_augmentations_alone() -> None:
    # One more augmentation must not change the base batches, or a control would not be paired.
    plain, both = stream(50, 8, augment=["flip"]), stream(50, 8, augment=["flip", "crop4"])
    assert all(plain(s)[1].equal(both(s)[1]) for s in range(10))
    assert plain._epoch(0)[1][0].equal(both._epoch(0)[1][0])


def test_a_flip_is_a_mirror_image() -> None:
    images = torch.rand(4, 2, 5, 5)
    flipped = AUGMENTATIONS["flip"][1](images, torch.tensor([[1.0], [0.0], [1.0], [0.0]]))
    assert flipped[0].equal(images[0].flip(-1)) and flipped[1].equal(images[1])


def test_a_shift_moves_by_whole_pixels_and_fills_with_zero() -> None:
    images = torch.rand(1, 2, 7, 7)
    moved = AUGMENTATIONS["crop4"][1](images, torch.tensor([[2.0, -3.0]]))
    expected = torch.zeros_like(images)
    expected[:, :, :5, 3:] = images[:, :, 2:, :4]
    assert moved.equal(expected)


def test_shifts_reach_every_offset_equally() -> None:
    draws = AUGMENTATIONS["crop4"][0](torch.Generator().manual_seed(0), 90_000)
    counts = torch.bincount((draws[:, 0] + 4).long())
    assert len(counts) == 9 and counts.min() > 9_500


def test_normalisation_is_mean_zero_and_deviation_one() -> None:
    images = torch.randint(0, 256, (200, 3, 8, 8), dtype=torch.uint8)
    scaled = images.double() / 255
    mean, std = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3), correction=0)
    out = Normalise(mean.tolist(), std.tolist(), 255, CPU)(images).double()
    assert out.mean((0, 2, 3)).abs().max() < 1e-5 and (out.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [None, *AUGMENTATIONS])
def test_batches_have_one_memory_layout_for_every_augmentation(name: str | None, channels: int) -> None:
    """Torch takes a stride of 1 between channels for a layout, even of one channel, and chooses kernels by it."""
    images = torch.randint(0, 256, (8, channels, 10, 10), dtype=torch.uint8)
    normalise = Normalise([0.5] * channels, [0.25] * channels, 255, torch.device("cpu"))
    batches = Batches(images, torch.arange(8), normalise, 4, lambda purpose, epoch: epoch, [name] if name else [])
    found, _ = batches(0)
    assert found.stride() == (channels * 100, 100, 10, 1) and found.shape == (4, channels, 10, 10)


def test_an_unknown_augmentation_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'flip'"):
        stream(10, 2, augment=["flop"])
