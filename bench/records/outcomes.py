"""The outcomes of a run: the predicted class of every test image, in a file beside its record.

They are in ``runs/<board>/outcomes/``: ``<spec hash>.<attempt>.<content hash>.json`` for each run, and one
``labels.<content hash>.json`` with the labels of the test set. Both are as immutable as records. A run's file is
written before its record; the record contains the SHA-256 of the file's text.

A prediction is stored as its distance from the label, (predicted - label) mod (classes + 1); 0 means right. Most are 0,
so 50,000 images need some kilobytes. If the logits of an image are not numbers, its prediction is `classes`, which
is one more than the last class.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ...registry import UserError
from ..tools.files import write_exclusively
from ..tools.schema import Strict, Version
from .provenance import Sha256
from .record import RunRecord, read_document
from .store import OUTCOMES, board_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Upper limits of test images and classes, because files may come from anybody.
MOST_IMAGES, MOST_CLASSES = 10**7, 65_534


class _Packed(Strict):
    schema_version: Version
    images: int = Field(gt=0, le=MOST_IMAGES)
    classes: int = Field(ge=2, le=MOST_CLASSES)


class Outcomes(_Packed):
    """The predictions of a run.

    Attributes:
        labels_sha256: hash of the labels' file; two runs with the same value have the same test images.
        distances: (predicted - label) mod (classes + 1) of every image in the order of the test set, as `_pack` writes.
    """

    kind: Literal["outcomes"]
    labels_sha256: Sha256
    distances: str


class Labels(_Packed):
    """The labels of a test set, in its order."""

    kind: Literal["labels"]
    labels: str


def write_outcomes(
    root: Path, board: str, run: str, predicted: NDArray[Any], labels: NDArray[Any], classes: int
) -> str:
    """Write the predictions of a run, by its id, and the labels if they do not exist yet.

    Args:
        predicted, labels: (images,) of whole numbers; predictions from 0 to `classes`.

    Returns:
        SHA-256 of the run's file, for its record. Raises WriteError if it cannot be written.
    """
    import numpy as np

    predicted, labels = np.asarray(predicted, dtype=np.int64), np.asarray(labels, dtype=np.int64)
    known = Labels(schema_version=1, kind="labels", images=len(labels), classes=classes, labels=_pack(labels, classes))
    folder = board_folder(root, board) / OUTCOMES
    _write(folder, "labels", known.canonical())
    made = Outcomes(
        schema_version=1, kind="outcomes", images=len(labels), classes=classes,
        labels_sha256=_sha256(known.canonical()),
        distances=_pack((predicted - labels) % (classes + 1), classes),
    )  # fmt: skip
    _write(folder, run, made.canonical())
    return _sha256(made.canonical())


def _write(folder: Path, stem: str, text: str) -> None:
    with suppress(FileExistsError):  # the same file exists already
        write_exclusively(folder / f"{stem}.{_sha256(text)[:16]}.json", text.encode() + b"\n")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def outcomes_path(root: Path, record: RunRecord) -> Path | None:
    """The file of a run's outcomes; None if its record names none."""
    if record.results is None or not record.results.outcomes_sha256:
        return None
    name = f"{record.run_id}.{record.results.outcomes_sha256[:16]}.json"
    return board_folder(root, record.spec.board) / OUTCOMES / name


def labels_path(root: Path, board: str, outcomes: Outcomes) -> Path:
    """The file of the labels that belong to outcomes on a board."""
    return board_folder(root, board) / OUTCOMES / f"labels.{outcomes.labels_sha256[:16]}.json"


def read_distances(root: Path, record: RunRecord) -> tuple[Outcomes, NDArray[Any]]:
    """The outcomes that a record names, and their distances from the labels, (images,): 0 is right.

    Raises UserError if the record names no file, the file is missing, or a field of it is wrong.
    """
    path, results = outcomes_path(root, record), record.results
    if path is None or results is None:
        raise UserError(f"run {record.run_id} has no recorded predictions")
    text, found = read_document(path, Outcomes)
    if _sha256(text.removesuffix("\n")) != results.outcomes_sha256:
        raise UserError(f"{path}: the content does not match 'outcomes_sha256' of the run's record")
    if found.images != results.test_images:
        recorded = f"the run's record has {results.test_images:,} test images"
        raise UserError(f"{path}: 'images': {found.images:,}, but {recorded}")
    distances = _unpack(found.distances, found, "distances", found.classes, path)
    accuracy = 100 * float((distances == 0).mean())
    if abs(accuracy - results.test_acc_pct) > 1e-6:
        recorded = f"the run's record says {results.test_acc_pct:.4f} %"
        raise UserError(f"{path}: 'distances': {accuracy:.4f} % are right, but {recorded}")
    return found, distances


def read_predictions(root: Path, record: RunRecord) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Predictions and labels of a run, (images,) each, and the number of classes, which is also "no prediction".

    Raises UserError as `read_distances`.
    """
    found, distances = read_distances(root, record)
    path = labels_path(root, record.spec.board, found)
    text, known = read_document(path, Labels)
    if _sha256(text.removesuffix("\n")) != found.labels_sha256:
        raise UserError(f"{path}: the content does not match 'labels_sha256' of the outcomes")
    if (known.images, known.classes) != (found.images, found.classes):
        wanted = f"{found.images:,}, {found.classes}"
        raise UserError(f"{path}: 'images', 'classes': {known.images:,}, {known.classes}, not {wanted}")
    labels = _unpack(known.labels, known, "labels", known.classes - 1, path)
    return (labels + distances.astype("int64")) % (found.classes + 1), labels.astype("int64"), found.classes


def _pack(values: NDArray[Any], classes: int) -> str:
    """Bytes (pairs of bytes if there are many classes), compressed, as base64."""
    data = values.astype(_type(classes)).tobytes()
    plain = zlib.compress(data, 9)
    coder = zlib.compressobj(9, strategy=zlib.Z_HUFFMAN_ONLY)  # smaller for data without repetitions
    return base64.b64encode(min(plain, coder.compress(data) + coder.flush(), key=len)).decode()


def _type(classes: int) -> str:
    return "u1" if classes < 256 else "<u2"


def _unpack(text: str, of: _Packed, field: str, largest: int, path: Path) -> NDArray[Any]:
    import numpy as np

    size = int(_type(of.classes)[-1])
    try:
        reader = zlib.decompressobj()
        # Unpack at most the expected size.
        data = reader.decompress(base64.b64decode(text, validate=True), of.images * size + 1)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise UserError(f"{path}: {field!r} is not compressed base64: {error}") from error
    if len(data) != of.images * size or not reader.eof:
        more = "more" if len(data) > of.images * size or not reader.eof else f"{len(data) // size:,}"
        raise UserError(f"{path}: {field!r} has {more} values for {of.images:,} images")
    values = np.frombuffer(data, dtype=_type(of.classes))
    if int(values.max()) > largest:
        image = int((values > largest).argmax())
        raise UserError(f"{path}: {field!r}: {int(values[image])} at image {image}; 0 to {largest} are possible")
    return values
