"""Rotation augmentation is a treatment of the training: base batches stay what they are for all other models."""

import torch
from equibench.bench.spec.seeds import derive
from equibench.datasets.batches import Batches, Normalise
from equibench.registry import MODELS, build_model

CPU = torch.device("cpu")


def stream(treatments: list[str], augment: list[str], seed: int = 0) -> Batches:
    random = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (60, 1, 12, 12), generator=random, dtype=torch.uint8)
    return Batches(
        images, torch.arange(60), Normalise([0.5], [0.25], 255, CPU), 16,
        lambda *labels: derive(seed, *labels), augment, treatments,
    )  # fmt: skip


def test_the_suffix_is_a_treatment_and_no_layer() -> None:
    assert MODELS.find("z2cnn+rot-aug").treatments == ["rotate"]
    assert MODELS.find("z2cnn+frame-c4").treatments == [] and MODELS.find("z2cnn").treatments == []
    assert MODELS.find("z2cnn+rot-aug+frame-c4").treatments == ["rotate"]
    torch.manual_seed(0)
    plain = build_model("z2cnn", 1, 10, 28)
    torch.manual_seed(0)
    treated = build_model("z2cnn+rot-aug", 1, 10, 28)
    assert type(plain) is type(treated)
    assert all(a.equal(b) for a, b in zip(plain.state_dict().values(), treated.state_dict().values(), strict=True))
    assert MODELS.find("p4cnn+rot-aug").get("invariant") == "C4"


def test_base_batches_are_identical(monkeypatch) -> None:
    # With rotation replaced by the identity, the treated stream is the plain one to the last bit.
    from equibench.datasets import batches

    draw, _ = batches.AUGMENTATIONS["rotate"]
    monkeypatch.setitem(batches.AUGMENTATIONS, "rotate", (draw, lambda images, parameters: images))
    for augment in ([], ["crop4", "flip"]):
        plain, treated = stream([], augment), stream(["rotate"], augment)
        for step in range(12):
            (images, labels), (others, other_labels) = plain(step), treated(step)
            assert images.equal(others) and labels.equal(other_labels)


def test_the_treatment_is_its_own_even_where_the_board_rotates_already() -> None:
    board, both = stream([], ["rotate"]), stream(["rotate"], ["rotate"])
    own, second = both._epoch(0)[1]
    assert own.equal(board._epoch(0)[1][0]) and not second.equal(own)


def test_treated_images_are_rotated_and_paired_by_seed() -> None:
    plain, treated, again = stream([], []), stream(["rotate"], []), stream(["rotate"], [])
    assert not treated(0)[0].equal(plain(0)[0]) and treated(0)[0].equal(again(0)[0])
    assert not stream(["rotate"], [], seed=1)(0)[0].equal(treated(0)[0])
