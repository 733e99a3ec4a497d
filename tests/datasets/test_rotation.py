"""The recipe of rotated data sets: split before they are turned, turned well, nothing around an image tells its
angle.
"""

import math

import numpy as np
import pytest
from equibench.datasets import digits, rotation
from equibench.datasets.images import Split
from equibench.datasets.rotation import make_rotated, rotate_images
from equibench.datasets.subsets import split_stratified
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def upright() -> Split:
    return digits._upright_digits()


def test_no_source_image_is_in_two_parts(upright: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the turning left out, the parts hold every upright image exactly once."""
    monkeypatch.setattr(rotation, "rotate_images", lambda images, angles, disc: images)
    assert len(np.unique(upright.images, axis=0)) == 5000
    data = make_rotated("turned", [upright], (3000, 500, 1500), 10)
    together = np.concatenate([p.images for p in (data.train, data.val, data.test)])
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


def test_turning_happens_after_the_split(upright: Split) -> None:
    """Each image of the set is its own source image, turned by an angle all over the circle."""
    images, labels = upright.images, upright.labels
    random = np.random.RandomState(0)
    train = split_stratified(labels, (3000, 500, 1500), random)[0]
    angles = random.uniform(0, 2 * math.pi, 5000)[train]
    # Published as two parts, it is the same set: they are put together.
    halves = [Split(images[:3500], labels[:3500]), Split(images[3500:], labels[3500:])]
    data = make_rotated("turned", halves, (3000, 500, 1500), 10)
    assert np.array_equal(data.train.images[:20], rotate_images(images[train[:20]], angles[:20]))
    assert np.array_equal(data.train.labels, labels[train]) and (data.classes, data.maximum) == (10, 255)
    assert np.histogram(angles, 8, (0, 2 * math.pi))[0].min() > 300


def test_a_set_made_here_has_the_sizes_and_no_source_twice() -> None:
    # Every source image is told by its own intensity, which turning about the middle leaves in the middle.
    images = np.repeat(np.arange(70, dtype=np.uint8) + 1, 28 * 28).reshape(70, 1, 28, 28)
    data = make_rotated("turned", [Split(images, np.arange(70) % 10)], (10, 2, 50), 10)
    parts = (data.train, data.val, data.test)
    sources = np.concatenate([p.images[:, 0, 14, 14] for p in parts])
    assert [len(p.labels) for p in parts] == [10, 2, 50] and len(set(sources)) == 62
    for part in parts:
        assert ((part.images[:, 0, 14, 14] - 1) % 10 == part.labels).all()


ANGLES = np.radians([0.0, 7.0, 45.0, 90.0, 123.0, 270.0, 359.0])


def distance(size: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return np.hypot(x, y)


@pytest.mark.parametrize("size", [31, 32])
def test_outside_of_the_disc_is_the_median_of_the_border_at_every_angle(size: int) -> None:
    image = np.random.RandomState(0).randint(0, 256, (3, size, size)).astype(np.uint8)
    turned = rotate_images(np.stack([image] * len(ANGLES)), ANGLES, disc=True)
    outside = distance(size) >= (size - 1) / 2
    assert outside[0, 0] and outside[-1, -1] and not outside[size // 2, 1]
    for channel in range(3):
        border = sorted(int(image[channel, y, x]) for y in range(size) for x in range(size) if {y, x} & {0, size - 1})
        middle = (border[(len(border) - 1) // 2] + border[len(border) // 2]) / 2
        assert (turned[:, channel, outside] == round(middle)).all()
    assert (turned[0][:, distance(size) < (size - 3) / 2] == image[:, distance(size) < (size - 3) / 2]).all()


def test_a_round_image_keeps_no_trace_of_the_angle_in_a_disc() -> None:
    """Corners of a square image, and black that comes in at its edges, tell how far it was turned."""
    image = np.rint(140 + 90 * np.cos(distance(32) / 3)).astype(np.uint8)[None]
    pictures = np.stack([image] * len(ANGLES))
    inside, square = (rotate_images(pictures, ANGLES, disc).astype(int) for disc in (True, False))
    assert np.abs(inside - inside[0]).max() <= 3 < 50 < np.abs(square - square[0]).max()
    flat = np.full_like(pictures, 201)
    assert (rotate_images(flat, ANGLES, disc=True) == flat).all()


def test_colours_are_turned_together_and_agree_with_the_closed_form_in_the_disc() -> None:
    image = np.stack([np.rint(30 + 150 * blobs(angle, 32)) for angle in (0.0, 0.0, 1.0)]).clip(0, 255).astype(np.uint8)
    turned = rotate_images(image[None], np.array([2.0]), disc=True)[0]
    assert (turned[0] == turned[1]).all() and not (turned[0] == turned[2]).all()
    for channel, angle in ((0, 2.0), (2, 3.0)):
        wanted = (30 + 150 * blobs(angle, 32)).clip(0, 255)
        assert np.abs(turned[channel] - wanted)[distance(32) <= 14.5].max() < 4
    quarters = rotate_images(np.stack([image] * 4), np.arange(4) * math.pi / 2, disc=True)
    assert all(np.array_equal(quarters[k], np.rot90(quarters[0], k, (1, 2))) for k in range(4))
