"""Learned canonicalisation: its steps one by one, exact invariance around any network, ties, and its gradients."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from equibench.bench.measures.equivariance import draw_blobs
from equibench.models.canonicalisation import Canonicalised, Votes, canonicalised
from equibench.models.frame_averaging import FrameAverage, eighth_turn_taps
from equibench.registry import MODELS, UserError, build_model
from torch import nn

torch.set_num_threads(1)


def inner(size: int) -> nn.Sequential:
    """A network without any symmetry of its own."""
    torch.manual_seed(0)
    side = (size + 1) // 2
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, stride=2, padding=1), nn.ELU(), nn.Flatten(), nn.Linear(5 * side**2, 3)
    ).double()


def wrapped(group: str, size: int = 16, seed: int = 0) -> Canonicalised:
    model = inner(size)
    torch.manual_seed(seed)
    whole = Canonicalised(model, 2, group).double().eval()
    for module in whole.votes.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            nn.init.uniform_(module.weight, 0.5, 1.5), nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean), nn.init.uniform_(module.running_var, 0.5, 1.5)
    return whole


def images(count: int = 6, size: int = 16, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 2, size, size, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def votes_by_hand(votes: Votes, x: torch.Tensor) -> list[float]:
    """Of one image over C4: every filter turned by `rot90`, one pair of fields and elements at a time."""
    features = x[0, :, None]  # (fields, elements, n, n)
    for module in votes:
        if isinstance(module, nn.ReLU):
            features = features.clamp(min=0)
        elif isinstance(module, nn.BatchNorm2d):
            mean, var, scale, shift = (
                getattr(module, n)[:, None, None, None] for n in ("running_mean", "running_var", "weight", "bias")
            )
            features = (features - mean) / (var + module.eps).sqrt() * scale + shift
        else:
            fields, elements, size = features.shape[0], features.shape[1], features.shape[-1] - 4
            weight = module.weight.detach().view(-1, fields, elements, 5, 5)
            out = torch.zeros(len(weight), 4, size, size, dtype=torch.double)
            for o, c, g, h in itertools.product(range(len(weight)), range(fields), range(4), range(elements)):
                kernel = weight[o, c, (h - g) % elements].rot90(g, (-2, -1))
                out[o, g] += F.conv2d(features[None, c : c + 1, h], kernel[None, None])[0, 0]
            features = out
    return features.mean((0, 2, 3)).tolist()


def turned_by_hand(x: torch.Tensor, eighths: int) -> torch.Tensor:
    """One image turned counter-clockwise, pixel by pixel where by an odd multiple of 45 degrees."""
    found = x.numpy().copy()
    if eighths % 2:
        indices, weights = eighth_turn_taps(x.shape[-1])
        flat = found.reshape(2, -1)
        found = np.array(
            [
                [sum(w * c[i] for i, w in zip(*row, strict=True)) for row in zip(indices, weights, strict=True)]
                for c in flat
            ]
        )
        found = found.reshape(x.shape)
    return torch.from_numpy(np.rot90(found, eighths // 2, (-2, -1)).copy())


@pytest.mark.parametrize(("group", "order"), [("C4", 4), ("C8", 8)])
def test_equals_its_steps_one_by_one(group: str, order: int) -> None:
    """Votes of each image, the first largest, the image turned back, the network."""
    model, x = wrapped(group), images()
    chosen = set()
    for image in x.split(1):
        votes = votes_by_hand(model.votes, image) if group == "C4" else model.votes(image)[0].tolist()
        torch.testing.assert_close(model.votes(image)[0], torch.tensor(votes, dtype=torch.double), rtol=0, atol=1e-12)
        element = votes.index(max(votes))
        chosen.add(element)
        back = turned_by_hand(image, (-element * 8 // order) % 8)
        torch.testing.assert_close(model(image), model.model(back), rtol=0, atol=1e-12)
    assert len(chosen) > 1


@pytest.mark.parametrize("size", [13, 16, 17])
@pytest.mark.parametrize("group", ["C4", "C8"])
def test_invariance_is_exact_and_to_rotations_alone(group: str, size: int) -> None:
    model, x = wrapped(group, size), images(size=size)
    y, votes = model(x), model.votes(x)
    steps = model.votes.order // 4
    for k in (1, 2, 3):
        moved = x.rot90(k, (-2, -1))
        torch.testing.assert_close(model.votes(moved), votes.roll(k * steps, 1), rtol=0, atol=1e-13)
        assert (model(moved) - y).abs().max() <= 1e-12
        assert (model.model(moved) - model.model(x)).abs().max() > 0.01  # by itself the network is not
        if group == "C4":  # the network sees the same numbers, to the bit
            assert torch.equal(model.turned_back(moved), model.turned_back(x))
    assert (model(x.flip(-1)) - y).abs().max() > 0.01


def test_a_tie_of_a_symmetric_image_changes_nothing() -> None:
    """Orientations that turn the image back to the same image: whichever is taken."""
    model, x = wrapped("C4"), images()
    half = x + x.rot90(2, (-2, -1))
    votes = model.votes(half)
    torch.testing.assert_close(votes, votes.roll(2, 1), rtol=0, atol=1e-13)
    for symmetric in (half, half + half.rot90(1, (-2, -1)), torch.ones_like(x), torch.zeros_like(x)):
        for k in (1, 2, 3):
            torch.testing.assert_close(model(symmetric.rot90(k, (-2, -1))), model(symmetric), rtol=0, atol=1e-12)


@pytest.mark.parametrize("group", ["C4", "C8"])
def test_a_tie_of_other_images_takes_the_first_and_breaks_the_invariance(group: str) -> None:
    """If all votes are 0 for every image, nothing is turned, and the network stays as variant as before."""
    model, x = wrapped(group), images()
    nn.init.zeros_(model.votes[-1].weight)
    assert torch.equal(model.turned_back(x), x)
    moved = x.rot90(1, (-2, -1))
    assert torch.equal(model(moved), model.model(moved)) and (model(moved) - model(x)).abs().max() > 0.01


def test_two_of_four_that_tie() -> None:
    """Two orientations with the same number of votes: the first is taken, so a turned image may be turned otherwise."""
    model, x = wrapped("C4"), images(1)
    ways = {}
    for k in range(4):
        votes = torch.tensor([[3.0, 1.0, 0.0, 3.0]], dtype=torch.double).roll(k, 1)
        model.votes.forward = lambda _, votes=votes: votes
        back = model.turned_back(x.rot90(k, (-2, -1)))
        ways[k] = next(j for j in range(4) if torch.equal(back, x.rot90(j, (-2, -1))))
    assert set(ways.values()) == {0, 1}  # the inverses of elements 0 and 3, and no third


def test_the_choice_is_a_step_forward_and_a_softmax_backward() -> None:
    model, x = wrapped("C4").train(), images(3)
    votes = torch.randn(3, 4, dtype=torch.double, requires_grad=True)
    model.votes.forward = lambda _: votes
    choice = model.choice(x)
    assert torch.equal(choice.detach(), F.one_hot(votes.argmax(1), 4).double())
    weights = torch.randn(3, 3, dtype=torch.double)
    (model(x) * weights).sum().backward()
    # By hand: the loss by the share of each copy, then by the votes through the softmax.
    seen = model.turned_back(x).detach().requires_grad_()
    (by_image,) = torch.autograd.grad((model.model(seen) * weights).sum(), seen)
    by_share = torch.stack([(by_image * x.rot90(-g, (-2, -1))).sum((1, 2, 3)) for g in range(4)], 1)
    soft = votes.detach().softmax(1)
    wanted = soft * (by_share - (soft * by_share).sum(1, keepdim=True))
    torch.testing.assert_close(votes.grad, wanted, rtol=0, atol=1e-12)
    assert not model.eval().choice(x).requires_grad


def test_votes_learn_the_orientation_that_the_network_reads() -> None:
    """A fixed network reads one half of the image; classes are known by the half beside a mark, in any orientation."""
    torch.manual_seed(0)
    count = 64
    upright, labels = torch.zeros(count, 1, 16, 16), torch.arange(count) % 2
    upright[:, 0, 1:4, 4:12] = 2.0  # the mark
    upright[labels == 0, 0, 7:10, 2:5] = 1.0
    upright[labels == 1, 0, 7:10, 11:14] = 1.0
    x = torch.stack([u.rot90(k % 4, (-2, -1)) for k, u in enumerate(upright.repeat_interleave(4, 0))])
    labels = labels.repeat_interleave(4)
    reader = nn.Sequential(nn.Flatten(), nn.Linear(256, 2, bias=False)).requires_grad_(False)
    nn.init.zeros_(reader[1].weight)
    for label, columns in ((0, slice(2, 5)), (1, slice(11, 14))):
        reader[1].weight.view(2, 16, 16)[label, 7:10, columns] = 1.0
    accuracies = []
    model = Canonicalised(reader, 1, "C4")
    optimiser = torch.optim.Adam(model.votes.parameters(), 1e-2)
    for step in range(41):
        logits = model.train()(x + 0.1 * torch.randn_like(x))
        if step in (0, 40):
            accuracies.append((logits.argmax(1) == labels).float().mean().item())
        optimiser.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimiser.step()
    assert accuracies[0] < 0.8 and accuracies[1] > 0.95, accuracies


def test_eighth_turns_move_the_votes_nearly_as_they_should() -> None:
    """Images in closed form and the same turned by 45 degrees: over C8 most win the next element, and see the same."""
    blobs = draw_blobs(60, 2, 29)
    plain, turned = (blobs.sample(29, angle, [0.0, 0.0]).double() for angle in (0.0, 45.0))
    same, changes = [], {}
    for group in ("C4", "C8"):
        model = wrapped(group, 29, seed=3)
        y = model(plain)
        changes[group] = ((model(turned) - y).norm(dim=1) / y.norm(dim=1)).median().item()
        if group == "C8":
            votes = model.votes(plain) - model.votes(plain).mean(1, keepdim=True)
            moved = model.votes(turned) - model.votes(turned).mean(1, keepdim=True)
            assert (moved.roll(-1, 1) - votes).norm() < 0.4 * votes.norm()
            same = moved.argmax(1) == (votes.argmax(1) + 1) % 8
    assert same.float().mean() > 0.7 and changes["C8"] < 0.5 * changes["C4"], (same.float().mean(), changes)


def test_wrappers_nest() -> None:
    x = images()
    model = wrapped("C4")
    torch.testing.assert_close(FrameAverage(model, "C4")(x), model(x), rtol=0, atol=1e-12)
    for name in ("z2cnn-4+canon-c4+ti-c4", "z2cnn-4+ti-c4+canon-c8", "z2cnn-4+frame-c4+canon-c4", "p4cnn-4+canon-c8"):
        built = build_model(name, 1, 10, 28).eval()
        pixels = torch.randn(2, 1, 28, 28)
        scale = built(pixels).abs().max()
        assert (built(pixels.rot90(1, (-2, -1))) - built(pixels)).abs().max() <= 1e-4 * scale


def test_forward_derivatives_are_those_of_the_network_on_the_image_that_it_sees() -> None:
    model, x, tangent = wrapped("C8"), images(), images(seed=2)
    _, found = torch.func.jvp(model, (x,), (tangent,))
    step = 1e-6
    torch.testing.assert_close(
        found, (model(x + step * tangent) - model(x - step * tangent)) / (2 * step), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(("group", "count"), [("C4", 2_116), ("C8", 508)])
def test_the_parameters_of_the_vote_count(group: str, count: int) -> None:
    """Filters of 4 fields: 25 numbers (C4) or 3 (C8) for each pair of channel and element; two norms of 4 fields."""
    pixels, order = {"C4": (25, 4), "C8": (3, 8)}[group]
    assert count == pixels * (4 + order * 4 * 4 + order * 4) + 2 * 2 * 4
    width = {"C4": 21, "C8": 22}[group]  # as many fields of z2cnn as make the class of 25,700 with the votes
    name = f"z2cnn-{width}+canon-{group.lower()}"
    plain, whole = (sum(p.numel() for p in build_model(n, 1, 10, 28).parameters()) for n in (f"z2cnn-{width}", name))
    assert whole - plain == count and 0.95 * 25_700 <= whole <= 1.05 * 25_700
    assert MODELS.find(name).get("invariant") == "C4"


def test_what_cannot_be_built_is_named() -> None:
    with pytest.raises(UserError, match=r"\+canon-c4: .* needs images of 13 pixels or more, not 12"):
        canonicalised(nn.Flatten(), 1, 12, "C4")
    assert canonicalised(nn.Flatten(), 1, 13, "C4")(torch.zeros(2, 1, 13, 13)).shape == (2, 169)
    assert Votes(3, "C8")(torch.zeros(2, 3, 1, 1)).shape == (2, 8)
    assert build_model("z2cnn-4+canon-c8", 3, 5, 30)(torch.zeros(2, 3, 30, 30)).shape == (2, 5)
    with pytest.raises(ValueError, match="'D4'"):
        Canonicalised(nn.Identity(), 1, "D4")
    with pytest.raises(ValueError, match="square"):
        wrapped("C4")(torch.zeros(1, 2, 16, 17, dtype=torch.double))
