"""Subsets of training images: nested, balanced, the same for all who ask with one seed."""

import numpy as np
import pytest
from equibench.datasets.subsets import balanced_subset
from hypothesis import given
from hypothesis import strategies as st


def slowly(labels: np.ndarray, count: int, seed: int) -> list[int]:
    """Deal them out: in rounds, each takes the next image of every class, in the order in which they were drawn."""
    order = np.random.RandomState(seed % 2**32).permutation(len(labels))
    piles: dict[int, list[int]] = {}
    for index in order:
        piles.setdefault(int(labels[index]), []).append(int(index))
    place = {int(index): rank for rank, index in enumerate(order)}
    taken: list[int] = []
    while any(piles.values()):
        taken += sorted((pile.pop(0) for pile in piles.values() if pile), key=place.__getitem__)
    return sorted(taken[:count])


CLASSES = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array)


@given(CLASSES, st.data(), st.integers(0, 2**62))
def test_subsets_are_nested_and_balanced(labels: np.ndarray, data: st.DataObject, seed: int) -> None:
    more = data.draw(st.integers(0, len(labels)))
    fewer = data.draw(st.integers(0, more))
    small, large = balanced_subset(labels, fewer, seed), balanced_subset(labels, more, seed)
    assert len(large) == more and set(small) <= set(large) and sorted(set(large)) == list(large)
    assert list(large) == slowly(labels, more, seed)
    taken, there = np.bincount(labels[large], minlength=5), np.bincount(labels, minlength=5)
    for a in range(5):
        for b in range(5):
            assert taken[a] >= taken[b] - 1 or taken[a] == there[a], "a class is short although it has more"


def test_all_images_are_all_of_them_in_their_order_and_seeds_differ() -> None:
    labels = np.arange(200) % 10
    assert list(balanced_subset(labels, 200, 3)) == list(range(200))
    assert (
        list(balanced_subset(labels, 50, 3))
        == list(balanced_subset(labels, 50, 3))
        != list(balanced_subset(labels, 50, 4))
    )


def test_an_odd_image_goes_to_no_class_by_its_number() -> None:
    labels = np.arange(100) % 10
    assert len({int(labels[balanced_subset(labels, 1, seed)][0]) for seed in range(50)}) > 5


@pytest.mark.parametrize("count", [-1, 4])
def test_more_images_than_there_are(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} images cannot be taken from 3"):
        balanced_subset(np.zeros(3, int), count, 0)
