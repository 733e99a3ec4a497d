"""Small data sets of the types of the registered ones, as files for --include: same shape, classes, bits and format."""

import zipfile
from functools import cache
from pathlib import Path

import numpy as np
from equibench.datasets.images import ImageData, balanced_order, load
from equibench.datasets.mnist_rot import AMAT_FILES
from equibench.registry import DATASETS

#: The largest intensity of each registered data set, and with it the bits of an intensity.
MAXIMUM = {
    name: 65_535 if name == "mnist-rot" else 255
    for name, entry in DATASETS.entries().items()
    if entry.origin == "equibench"
}

HEAD = """
from pathlib import Path
import numpy as np
from equibench import register_dataset
from equibench.datasets.images import ImageData, Split, load
from equibench.datasets.mnist_rot import read_archive

@register_dataset({name!r}, shape={shape}, classes={classes}, sizes={sizes}, source="made up", rotation=True)
def small(root):
"""
MADE = """
    random = np.random.RandomState(0)
    def part(count):
        labels = {labels}
        images = random.randint(0, {maximum} // 2, (count, *{shape}))
        for image, label in zip(images, labels):  # a bright line, whose place is the class
            image[:, 1 + label % ({shape}[1] - 2), : 2 + label // 10] += {maximum} // 2
        return Split(images.astype(np.{dtype}), labels.astype(np.int64))
    return ImageData({name!r}, part({sizes}[0]), part({sizes}[1]), part({sizes}[2]), {classes}, {maximum})
"""
READ = """
    return read_archive({name!r}, Path(__file__).with_suffix(".zip"), {sizes}, load("digits-rot", root).train)
"""


def made_up(
    folder: Path, name: str, shape: tuple[int, int, int], classes: int, sizes: tuple[int, int, int], maximum: int = 255,
    labels: str = "",
) -> Path:  # fmt: skip
    """A file that registers noise with a bright line. `labels`: an expression of `count`; classes in turn without."""
    dtype = "uint8" if maximum < 256 else "uint16"
    values = dict(name=name, shape=shape, classes=classes, sizes=sizes, maximum=maximum, dtype=dtype)
    path = folder / f"{name}.py"
    path.write_text((HEAD + MADE).format(labels=labels or f"np.arange(count) % {classes}", **values))
    return path


@cache
def digits() -> ImageData:
    return load("digits-rot")


def archive(path: Path, sizes: tuple[int, int, int]) -> None:
    """An archive of the published format of MNIST-rot-12k, with intensities that are no multiples of 1/255."""
    part = digits().test
    order = balanced_order(part.labels, 10, sum(sizes))
    values = (part.images[order, 0] / 255) ** 0.9
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, rows in zip(AMAT_FILES, (slice(sizes[0] + sizes[1]), slice(sizes[0] + sizes[1], None)), strict=True):
            lines = np.column_stack([values[rows].reshape(-1, 28 * 28), part.labels[order][rows]])
            file.writestr(name, "".join("".join(f"   {v:.7e}" for v in line) + "\n" for line in lines))


def small(folder: Path, dataset: str, name: str = "small", sizes: tuple[int, int, int] | None = None) -> Path:
    """A file that registers a data set called `name` of the type of a registered one."""
    fields = DATASETS.find(dataset).entry.fields
    shape, classes = tuple(fields["shape"]), fields["classes"]
    sizes = sizes or (max(80, 2 * classes), 2 * classes, 3 * classes)
    if dataset != "mnist-rot":
        return made_up(folder, name, shape, classes, sizes, MAXIMUM[dataset])
    path = folder / f"{name}.py"
    path.write_text((HEAD + READ).format(name=name, shape=shape, classes=classes, sizes=sizes))
    archive(path.with_suffix(".zip"), sizes)
    return path
