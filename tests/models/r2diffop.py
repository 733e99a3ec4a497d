"""Filters that the authors' `R2Diffop` makes of random weights, kept for tests that run without e2cnn.

``PYTHONPATH=docs/examples/thirdparty:… python tests/models/r2diffop.py`` writes them again, where e2cnn 0.2.3 and RBF
(commit 14ea528, of which e2cnn finds all but a switch) are on the path.
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "r2diffop.npz"
#: Discretisation, highest order, width of the stencil, and whether the input is an image.
CASES = [
    (discretisation, order, size, lifting)
    for discretisation in ("fd", "rbf", "gauss")
    for order, size, lifting in ((2, 3, True), (3, 5, True), (4, 5, True), (2, 3, False))
]


def key(discretisation: str, order: int, size: int, lifting: bool) -> str:
    """The name of a case in the file."""
    return f"{discretisation}-{order}-{size}-{'lift' if lifting else 'group'}"


if __name__ == "__main__":
    from equibench_thirdparty.diffop import authors_basis

    draw = np.random.default_rng(0)
    kept = {}
    for case in CASES:
        discretisation, order, size, lifting = case
        basis = authors_basis(8, lifting, order, discretisation, size)
        kept[key(*case)] = np.tensordot(draw.normal(size=len(basis)), basis, 1)
    np.savez(FILE, **kept)
