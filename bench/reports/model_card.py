"""Model cards: the registration of a model, measurements of its network, and its rows on boards."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...registry import MODELS, Resolved, UserError, parse_shape
from ..boards.board import Board, load_board
from ..boards.claims import claim_columns
from ..boards.notes import refresh_command
from ..boards.statistics import mean
from ..boards.terminal_table import rank_text
from ..measures.accuracy import logits
from ..measures.angle_and_depth import Scene
from ..measures.compiler import avoid_compiler
from ..measures.cost import count_numbers, evaluation_operations, learned_buffers
from ..measures.equivariance import ANGLES, reference_arithmetic, relative_error, zero_logits
from ..measures.invariance import judge
from ..measures.operations import real_numbers
from ..publish.bibtex import entry, sources_of
from ..records.record import FINAL
from ..records.staleness import included_files
from ..records.store import board_folder, board_names
from ..spec.recipe import PAPER, find_recipe
from ..tools.schema import read_text, visible
from ..tools.text import command, error_line, first_line
from ..training.prepare import initial_model

#: Input of models that declare none.
DEFAULT_INPUT = "1x28x28->10"
#: With more operations per image, equivariance is not measured here; `equibench equivariance` measures it.
MEASURED_FLOPS = 5e8
#: Number of closed-form images for the equivariance errors.
DRAWS = 4


def model_card(name: str, root: Path) -> dict[str, Any]:
    """Everything about a model, ready for JSON; `root` is the results folder with the boards.

    Raises:
        UserError: there is no such model.
    """
    resolved = MODELS.find(name)
    registered = resolved.entry
    keys = ("family", "group", "invariant", "status", "source", "note", "params", "evaluation")
    card: dict[str, Any] = {"model": name, "about": registered.doc, **{key: resolved.get(key) for key in keys}}
    card |= {"arguments": resolved.arguments, "treatments": resolved.treatments}
    wrappers = [(w.name, w.entry) for w in resolved.wrappers]
    card["wrappers"] = [{"name": n, "about": e.doc, "note": e.fields.get("note", "")} for n, e in wrappers]
    card |= {"file": f"{registered.path.name}:{registered.line}", "origin": registered.origin} | network(resolved)
    card |= {"recipe": None, "bibtex": [entry(s) for s in sources_of([name])]}
    with suppress(UserError):  # it has no published recipe
        card["recipe"] = find_recipe(PAPER, name).model_dump(mode="json")
    return card | {"boards": boards_of(name, root)}


def network(resolved: Resolved) -> dict[str, Any]:
    """Measurements of the model, built for its first declared input; ``problem`` says why it cannot be built."""
    text = next(iter(resolved.get("params") or {}), DEFAULT_INPUT)
    channels, size, classes = parse_shape(text, resolved.entry.where)
    found: dict[str, Any] = {"input": text, "problem": ""}
    avoid_compiler()
    try:
        model = initial_model(resolved.name, channels, classes, size)
        images = torch.randn(2, channels, size, size)
        found |= {**count_numbers(model), "layers": layers(model)}
        found["learned_buffers"] = learned_buffers(model, images, torch.arange(2) % classes)
        forward = evaluation_operations(model, images)
        found |= {"flops_per_image": forward.flops_per_image, "uncounted": ", ".join(sorted(forward.unknown))}
    except Exception as error:  # a model may fail in any way; the rest of its card is still useful
        return found | {"problem": f"cannot be built: {error_line(error)}"}
    found["equivariance"] = None
    if found["flops_per_image"] <= MEASURED_FLOPS:
        found["equivariance"] = equivariance(resolved, channels, classes, size)
    return found


def layers(model: nn.Module) -> list[dict[str, Any]]:
    """The modules with own parameters, grouped by class and kernel, in the order of first occurrence."""
    found: dict[str, dict[str, Any]] = {}
    for module in model.modules():
        if own := sum(real_numbers(p) for p in module.parameters(recurse=False) if p.requires_grad):
            kernel = getattr(module, "kernel_size", None)
            kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
            label = type(module).__name__ + (" " + " x ".join(map(str, kernel)) if kernel else "")
            row = found.setdefault(label, {"layer": label, "count": 0, "parameters": 0})
            row["count"] += 1
            row["parameters"] += own
    return list(found.values())


def equivariance(resolved: Resolved, channels: int, classes: int, size: int) -> dict[str, Any]:
    """Relative change of the logits on closed-form images.

    Under the claimed group (C4 if none is claimed): at n − 1, n and n + 1 pixels, at initialisation and after a change
    of the weights. Under 15 to 75 degrees: at n pixels, at initialisation.
    """
    claim = str(resolved.get("invariant"))
    group = claim if claim != "none" else "C4"
    sizes, rotated = [], None
    for pixels in (size - 1, size, size + 1):
        row: dict[str, Any] = {"size": pixels, "error": None, "error_moved": None, "exact": False, "outcome": "ok"}
        scene = Scene(pixels, lambda images: images, [0.0] * channels, 1, torch.device("cpu"))
        try:
            model = initial_model(resolved.name, channels, classes, pixels).eval()
            rotated = _rotated(model, scene) if pixels == size else rotated
            found = judge(model, scene.image(scene.blobs(DRAWS), 0.0), scene.prepare, group)
            row |= {"error": found.built, "error_moved": found.moved, "exact": found.exact}
        except Exception as error:  # an unsupported size
            row["outcome"] = f"cannot be built: {first_line(error)}"
        sizes.append(row)
    return {"group": group, "sizes": sizes, "eq_rot_analytic": rotated}


def _rotated(model: nn.Module, scene: Scene) -> float | None:
    images = [scene.image(scene.blobs(DRAWS), angle) for angle in (0.0, *ANGLES)]
    with reference_arithmetic():
        orbit = [logits(model, image, scene.prepare) for image in images]
        return relative_error(orbit, zero_logits(model, images[0]))


def boards_of(name: str, root: Path) -> list[dict[str, Any]]:
    """The boards with rows of a model: its mean accuracy, its rank, and stale parts."""
    found = []
    for board in board_names(root):
        if _mentions(root, board, name):
            loaded = load_board(root, board)
            if loaded.is_table and name in loaded.runs:
                found.append(_on_board(name, loaded))
    return found


def _mentions(root: Path, board: str, name: str) -> bool:
    """Whether any file of a board contains the model's name; this is much faster than parsing the records."""
    word = f'"model":"{name}"'
    for path in board_folder(root, board).glob("*.json"):
        with suppress(UserError):  # the report of the board names refused files
            if word in read_text(path, link=False):
                return True
    return False


def _on_board(name: str, board: Board) -> dict[str, Any]:
    runs, counted, averaged = board.runs[name], board.counted[name], board.averaged[name]
    results = [r.results for r in averaged if r.status in FINAL and r.results is not None]
    completed = [r.results for r in averaged if r.status == "ok" and r.results is not None]
    return {
        "board": board.name,
        "test_acc_mean_pct": mean([r.test_acc_pct for r in results]),
        "runs_ok": sum(r.status == "ok" for r in counted),
        "runs": len(runs),
        "run_ids": {str(r.spec.seed): r.run_id for r, _ in runs},
        "rank": rank_text(board.ranks.get(name)),
        **claim_columns((r for r in averaged if r.status == "ok"), str(MODELS.find(name).get("invariant", "none"))),
        "eq_exact_c4": mean([r.trained.eq_exact_c4 for r in completed]),
        "eq_rot_analytic": mean([r.trained.eq_rot_analytic for r in completed]),
        "stale": ", ".join(sorted({stale for _, stale in runs if stale})),
        "refresh": refresh_command(board, [name]),
    }


def card_text(card: dict[str, Any]) -> str:
    """A card as Markdown that reads well in a terminal."""
    lines = [f"# {card['model']}", "", *(t for t in (card["about"], card["note"]) if t), ""]
    lines += [f"- with {w['name']}: {w['about'] or w['note']}" for w in card["wrappers"]]
    lines += [f"- {name}: {value}" for name, value in _facts(card) if value]
    parts = [f"{la['count']} × {la['layer']}: {la['parameters']:,} parameters" for la in card.get("layers", [])]
    lines += ["", *_section("Layers", parts), *_section("Equivariance", _equivariance_lines(card))]
    lines += _section("Boards", [_board_line(b) for b in card["boards"]] or ["none yet"])
    lines += ["## Citation", "", "```bibtex", *"\n\n".join(card["bibtex"] or ["% no source"]).splitlines(), "```"]
    return "\n".join(visible(line) for line in lines)


def _facts(card: dict[str, Any]) -> list[tuple[str, str]]:
    claim, buffers = card["invariant"], ""
    if card.get("buffers"):
        learned = card["learned_buffers"]
        buffers = f"{card['buffers']:,} numbers" + (f", {learned:,} of them changed by training" if learned else "")
    return [
        ("group of its layers", card["group"]),
        ("logits claimed invariant", "no" if claim == "none" else f"under {claim}, exactly"),
        ("family", card["family"]),
        ("status", card["status"]),
        ("extra augmentation", ", ".join(card["treatments"])),
        ("evaluation", card["evaluation"] and f"{card['evaluation']}, the mean of the logits over several passes"),
        ("arguments", ", ".join(f"{k} = {v}" for k, v in card["arguments"].items())),
        ("input", card["input"]),
        ("parameters", f"{card['parameters']:,}" if "parameters" in card else card["problem"]),
        ("frozen parameters", f"{card['frozen']:,}" if card.get("frozen") else ""),
        ("buffers", buffers),
        ("declared", ", ".join(f"{count:,} ({shape})" for shape, count in (card["params"] or {}).items())),
        ("operations", f"{card['flops_per_image'] / 1e6:,.1f} MFLOPs per image" if "flops_per_image" in card else ""),
        ("some operations are not counted", card.get("uncounted", "")),
        ("published recipe", _recipe(card["recipe"])),
        ("registered in", card["file"]),
    ]


def _recipe(recipe: dict[str, Any] | None) -> str:
    if recipe is None:
        return "none known; boards train it with `common`"
    epochs = f", {recipe['epochs']:g} epochs" if recipe.get("epochs") else ""
    augment = f", {', '.join(recipe['augment'])}" if recipe.get("augment") else ""
    return f"{recipe['name']}: {recipe['optimizer']}, rate {recipe['lr']:g}, batch {recipe['batch']}{epochs}{augment}"


def _equivariance_lines(card: dict[str, Any]) -> list[str]:
    found = card.get("equivariance")
    if card["problem"]:
        return [card["problem"]]
    if found is None:
        again = command("equivariance", card["model"], include=included_files(card["model"]))
        return [f"not measured here, because the model is large; to measure it: {again}"]
    lines = []
    for row in found["sizes"]:
        what = row["outcome"] if row["outcome"] != "ok" else "undefined: the logits hardly depend on the image"
        if row["error"] is not None and row["error_moved"] is not None:
            what = "exact" if row["exact"] else "not exact"
            what += f", relative change of the logits {row['error']:.1g} at initialisation"
            what += f" and {row['error_moved']:.1g} after a change of the weights"
        lines.append(f"{found['group']} at {row['size']} pixels: {what}")
    if found["eq_rot_analytic"] is not None:
        lines.append(f"15 to 75 degrees at {found['sizes'][1]['size']} pixels: {found['eq_rot_analytic']:.2g}")
    meaning = "0 means invariant, 1 means a change as large as for another image"
    return [*lines, f"measured on rotated images in closed form; {meaning}"]


def _board_line(row: dict[str, Any]) -> str:
    score = "no result" if row["test_acc_mean_pct"] is None else f"{row['test_acc_mean_pct']:.2f} %"
    parts = [score, f"{row['runs_ok']} of {row['runs']} runs", f"rank {row['rank']}" if row["rank"] else ""]
    parts += [f"C4 error {row['eq_exact_c4']:.1g} after training" if row["eq_exact_c4"] is not None else ""]
    parts += [f"claim {row['claim']}"] if " (" in row["claim"] else []
    parts += [f"stale: {row['stale']} changed; {row['refresh']}" if row["stale"] else ""]
    ids = "; ".join(f"seed {seed} {run}" for seed, run in row["run_ids"].items())
    return f"{row['board']}: " + ", ".join(p for p in parts if p) + f"; runs: {ids}"


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {line}" for line in lines), ""] if lines else []
