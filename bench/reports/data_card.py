"""Cards of data sets: registered facts, facts about the images, their boards, and a sheet of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...datasets.fetch import needed
from ...datasets.images import PARTS, ImageData, cached, data_root, load
from ...registry import DATASETS, UserError
from ..boards.board import load_board
from ..boards.statistics import mean
from ..records.store import board_names
from ..tools.schema import visible
from ..tools.text import command, plural

#: Number of images of each class on a sheet, and the largest number of classes with rows of their own.
IMAGES, ROWS = 12, 20
#: Approximate side of an image on a sheet in pixels. Images are enlarged by whole numbers, so nothing is resampled.
SIDE = 56


def data_card(name: str, root: Path, data_folder: str | None = None, out: str | None = None) -> dict[str, Any]:
    """Everything about a data set, ready for JSON. The data set is prepared if needed, but nothing is downloaded.

    Args:
        root, data_folder: folders of the results and of the data sets.
        out: file for the `sheet`.

    Raises:
        UserError: there is no such data set, it or `out` cannot be written, or there are no images for `out`.
    """
    if out is not None and Path(out).suffix != ".png":
        raise UserError(f"--out {out}: the sheet is a PNG picture; the name must end in .png")
    entry, folder = DATASETS.find(name).entry, data_root(data_folder)
    keys = ("shape", "classes", "sizes", "task", "rotation", "source", "licence", "citation", "note")
    card: dict[str, Any] = {"dataset": name, "about": entry.doc, **{key: entry.fields.get(key, "") for key in keys}}
    card |= {"rotation": bool(card["rotation"]), "registered_digest": entry.fields.get("digest", "")}
    card |= {"file": f"{entry.path.name}:{entry.line}", "origin": entry.origin, "folder": str(folder)}
    found, card["problem"] = _images(name, folder)
    card["images"] = None
    if found is not None:
        means, deviations = found.statistics()
        counts = {p: np.bincount(getattr(found, p).labels, minlength=found.classes).tolist() for p in PARTS}
        card["images"] = {"mean": means, "deviation": deviations, "counts": counts}
        card["images"] |= {"bits": 8 if found.maximum < 256 else 16, "digest": found.digest()}
    card["boards"] = boards_on(name, root)
    if out is not None:
        if found is None:
            raise UserError(f"{name} cannot be drawn: {card['problem']}")
        card["sheet"] = str(draw(found, Path(out).absolute()))
    return card


def _images(name: str, folder: Path) -> tuple[ImageData | None, str]:
    """The data set from its cache or from its downloaded files; None and the reason if both are missing."""
    entry = DATASETS.find(name).entry
    found = cached(entry, folder)
    if found is None and entry.missing:
        return None, f"it {entry.missing}"
    if found is None and any(not (folder / file.folder / file.path).is_file() for file in needed(entry, folder)):
        return None, f"its files are not in {folder}; {command('data', 'fetch', name, trains=True)} downloads them"
    return found or load(name, folder), ""


def boards_on(name: str, root: Path) -> list[dict[str, Any]]:
    """The boards of a data set: numbers of models and runs, the highest mean accuracy, and the possibly best models."""
    found = []
    for loaded in (load_board(root, board) for board in board_names(root) if board.startswith(f"{name}-")):
        if loaded.is_table and loaded.chosen[0][0].spec.dataset == name:
            means = {model: mean(list(own.values())) for model, own in loaded.values.items()}
            first = max(means, key=lambda model: means[model] or 0.0, default="")
            row = {"board": loaded.name, "models": len(loaded.runs), "runs": len(loaded.chosen), "highest": first}
            found.append(row | {"highest_acc_mean_pct": means.get(first), "may_be_best": sorted(loaded.best)})
    return found


def data_card_text(card: dict[str, Any]) -> str:
    """A card as Markdown that reads well in a terminal."""
    numbers = card["images"]
    lines = [f"# {card['dataset']}", "", *(t for t in (card["about"], card["note"]) if t), ""]
    lines += [f"- {name}: {value}" for name, value in _facts(card) if value]
    lines += ["", "## Images", ""]
    if numbers is None:
        lines.append(f"- not available: {card['problem']}")
    else:
        for key in ("mean", "deviation"):
            lines.append(f"- {key} of the training images, 0 to 1: {', '.join(f'{v:.4f}' for v in numbers[key])}")
        lines += [f"- bits: {numbers['bits']}", f"- digest: {numbers['digest']}"]
        lines += ["", *_counts(numbers["counts"])]
    lines += ["", "## Boards", "", *(f"- {_board_line(row)}" for row in card["boards"])]
    lines += [] if card["boards"] else ["- none yet"]
    lines += ["", "## Citation", "", card["citation"] or "nothing is registered"]
    lines += ["", f"sheet: {card['sheet']}"] if "sheet" in card else []
    return "\n".join(visible(line) for line in lines)


def _facts(card: dict[str, Any]) -> list[tuple[str, str]]:
    channels, size, _ = card["shape"]
    colour = {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
    return [
        ("task", f"{card['task']}, {card['classes']} classes" if card["task"] else f"{card['classes']} classes"),
        ("images", f"{size}x{size} pixels, {colour}"),
        ("train / val / test", " / ".join(f"{n:,}" for n in card["sizes"])),
        ("labels correct under rotation", "yes" if card["rotation"] else "no, or not stated"),
        ("source", card["source"]),
        ("licence", card["licence"] or "none stated"),
        ("registered in", card["file"]),
        ("registered digest", "" if card["images"] else card["registered_digest"]),
    ]


def _counts(counts: dict[str, list[int]]) -> list[str]:
    """A table of numbers of images by class and part; for many classes, the smallest and the largest number."""
    from tabulate import tabulate

    classes = len(counts[PARTS[0]])
    if classes > ROWS:
        each = f"images in each of {classes} classes"
        return [f"- {part}: {min(own):,} to {max(own):,} {each}" for part, own in counts.items()]
    rows = [{"class": c, **{part: f"{counts[part][c]:,}" for part in PARTS}} for c in range(classes)]
    table = tabulate(rows, headers="keys", tablefmt="simple", stralign="right", disable_numparse=True)
    return table.splitlines()


def _board_line(row: dict[str, Any]) -> str:
    highest = f"highest mean {row['highest_acc_mean_pct']:.2f} % ({row['highest']})" if row["highest"] else "no result"
    others = len(set(row["may_be_best"]) - {row["highest"]})
    highest += f", {plural(others, 'other')} may be as good" if others and row["highest"] in row["may_be_best"] else ""
    return f"{row['board']}: {plural(row['models'], 'model')}, {plural(row['runs'], 'run')}, {highest}"


def sheet(data: ImageData) -> tuple[np.ndarray, list[str]]:
    """A grid of training images in the order of the data, each enlarged by a whole number.

    Up to `ROWS` classes have a row each, with the first `IMAGES` images; of more classes, the first image is shown.

    Returns:
        uint8 (height, width, 3), and the label of each row.
    """
    by_class = [np.flatnonzero(data.train.labels == c) for c in range(data.classes)]
    if data.classes <= ROWS:
        rows, names = [own[:IMAGES] for own in by_class], [f"class {c}" for c in range(data.classes)]
    else:
        order = np.concatenate([own[:1] for own in by_class])
        rows = [order[i : i + IMAGES] for i in range(0, len(order), IMAGES)]
        names = [f"{IMAGES * k}…{IMAGES * k + len(row) - 1}" for k, row in enumerate(rows)]
    channels, size = data.train.images.shape[1:3]
    shown = [0, 1, 2] if channels >= 3 else [0, 0, 0]
    factor = max(1, round(SIDE / size))
    step, columns = size * factor + 2, max(map(len, rows))
    canvas = np.full((step * len(rows) - 2, step * columns - 2, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, index in enumerate(row):
            image = data.train.images[index][shown]
            scaled = np.rint(image * (255 / data.maximum)).astype(np.uint8).transpose(1, 2, 0)
            tile = scaled.repeat(factor, axis=0).repeat(factor, axis=1)
            canvas[y * step : y * step + len(tile), x * step : x * step + len(tile)] = tile
    return canvas, names


def draw(data: ImageData, path: Path) -> Path:
    """Draw the `sheet` of a data set in its own pixels, with its name and classes; WriteError if that is impossible."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    from ..publish.plots.style import INK, house_style, save

    canvas, names = sheet(data)
    (height, width), (left, top, edge), dpi = canvas.shape[:2], (80, 44, 12), 100
    whole = (left + width + edge, top + height + edge)
    with house_style():
        figure = Figure(figsize=(whole[0] / dpi, whole[1] / dpi), dpi=dpi)
        axes = figure.add_axes((left / whole[0], edge / whole[1], width / whole[0], height / whole[1]))
        axes.imshow(canvas, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        step = (height + 2) / len(names)
        for row, name in enumerate(names):
            axes.text(-8, (row + 0.5) * step - 1, name, ha="right", va="center", color=INK, fontsize=10)
        shown = f"first {IMAGES} training images" if data.classes <= ROWS else "first training image"
        axes.text(0, -12, f"{data.name}: the {shown} of each class", ha="left", va="bottom", color=INK, fontsize=11)
        rcParams["savefig.dpi"] = dpi  # within the house style only
        return save(figure, path.parent, path.stem, ("png",))[0]
