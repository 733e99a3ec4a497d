"""Cards of runs: the record, the paths of the files, and what has changed since the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...registry import UserError
from ..boards.claims import claim_columns
from ..records.find import find_run
from ..records.outcomes import outcomes_path, read_predictions
from ..records.provenance import harness_hash
from ..records.record import CORE_ERRORS, RunRecord
from ..records.staleness import staleness
from ..records.store import REPLAYS, SIDECARS, board_folder, log_path, weights_path
from ..tools.schema import visible


def run_card(run: str, root: Path) -> dict[str, Any]:
    """The record of the run whose id begins with `run`, with further facts; `root` is the results folder.

    Raises:
        UserError: no id or several ids begin with `run`, or the record is refused.
    """
    record = find_run(run, root)
    claimed = claim_columns([record], record.provenance.registered.get("invariant", ""))
    found = {**_further_facts(root, record), "claim": claimed["claim"], **record.model_dump(mode="json")}
    return found | {"outcomes": _outcomes(root, record)}


#: Largest number of classes for which a confusion matrix is shown; ``--json`` has all classes.
MOST_SHOWN = 20


def _outcomes(root: Path, record: RunRecord) -> dict[str, Any]:
    """Accuracy by class in %, and images by label (rows) and predicted class; last column: non-finite logits."""
    import numpy as np

    try:
        predicted, labels, classes = read_predictions(root, record)
    except UserError as error:
        return {"missing": str(error)}
    shape = classes, classes + 1
    counts = np.bincount(labels * (classes + 1) + predicted, minlength=np.prod(shape)).reshape(shape)
    counts = counts if counts[:, classes].any() else counts[:, :classes]
    images = zip(counts.diagonal(), counts.sum(axis=1), strict=True)
    by_class = [100 * int(right) / int(n) if n else None for right, n in images]
    return {"by_class_pct": by_class, "confusion": counts.tolist()}


def _further_facts(root: Path, record: RunRecord) -> dict[str, Any]:
    """Facts that are not in the record; ``changed`` names what differs now: source, data, recipe, harness."""
    board, run = record.spec.board, record.run_id
    kept = {"record": board_folder(root, board) / record.file_name, "weights": weights_path(root, board, run)}
    kept["log"] = log_path(root, board, run)
    if outcomes := outcomes_path(root, record):
        kept["outcomes"] = outcomes
    for what, part in (("equivariance", SIDECARS), ("replay", REPLAYS)):
        paths = sorted((board_folder(root, board) / part).glob(f"{run}.*.json"))
        kept |= {f"{what} {i}": path for i, path in enumerate(paths, 1)}
    changed = [part for part in staleness(record, root).split(", ") if part]
    if record.provenance.harness_hash not in ("", harness_hash()):
        changed.append("harness")
    files = {name: str(path) for name, path in kept.items() if path.is_file()}
    return {"run": run, "board": board, "changed": changed, "files": files}


def run_text(card: dict[str, Any]) -> str:
    """The card of a run as text: paragraphs of names and values; all texts are safe for a terminal."""
    spec, provenance, results = card["spec"], card["provenance"], card["results"]
    parts = [("", _what(card, spec)), ("Result", _result(card, results)), ("Provenance", _origin(card, provenance))]
    parts += _outcome_parts(card["outcomes"])
    parts.append(("Hardware", {k.replace("_", " "): v for k, v in sorted(provenance["hardware"].items())}))
    parts.append(("Versions", dict(sorted(provenance["versions"].items()))))
    phases = {k.removesuffix("_s").replace("_", " "): f"{v:.3f} s" for k, v in card["phases"].items() if v}
    parts += [("Wall clock of the process", phases), ("Files", card["files"])]
    parts.append(("Warnings", {str(i): w for i, w in enumerate(card["warnings"], 1)}))
    width = max(len(name) for _, values in parts for name in values)
    paragraphs = []
    for title, values in parts:
        shown = {name: value for name, value in values.items() if value not in (None, "", [])}
        if shown:
            lines = [f"{visible(name):<{width}}  {visible(value)}" for name, value in shown.items()]
            paragraphs.append("\n".join([f"{title}:", *lines] if title else lines))
    return "\n\n".join(paragraphs)


def _outcome_parts(found: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    if "missing" in found:
        return [("Outcomes by image", {"missing": found["missing"]})]
    classes = list(enumerate(zip(found["by_class_pct"], found["confusion"], strict=True)))
    shares = {f"class {c}": "no image" if share is None else f"{share:.2f} %" for c, (share, _) in classes}
    if len(classes) > MOST_SHOWN:
        title = f"Accuracy by class (the first {MOST_SHOWN} of {len(classes)})"
        return [(title, dict(list(shares.items())[:MOST_SHOWN]))]
    names = [*map(str, range(len(classes))), "none"][: len(found["confusion"][0])]
    width = max(len(str(n)) for n in [*names, *(n for row in found["confusion"] for n in row)])
    lines = {f"class {c}": " ".join(f"{n:>{width}}" for n in row) for c, (_, row) in classes}
    head = {"predicted": " ".join(f"{n:>{width}}" for n in names)}
    return [("Accuracy by class", shares), ("Confusion: images of each class, by predicted class", head | lines)]


def _what(card: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    recipe, budget = spec["recipe"], spec["budget"]
    knots = ", ".join(f"{p:g}: {f:g}" for p, f in recipe["schedule"]["knots"][:8])
    details = [f"{recipe['optimizer']}, rate {recipe['lr']:g}, weight decay {recipe['weight_decay']:g}"]
    details += [f"momentum {recipe['momentum']:g}"] if recipe["momentum"] else []
    details += [f"batch {recipe['batch']}", f"{recipe['schedule']['shape']} schedule ({knots})"]
    details += [f"augmentation {', '.join(recipe['augment'])}" if recipe["augment"] else "no augmentation"]
    details += [f"batch norm {recipe['batch_norm']}"]
    context = card["context"]
    asked = f"{context['suite']}, class {context['parameter_class']}"
    asked += f" of {context['reference_parameters']:,} parameters" if context["reference_parameters"] else ""
    asked += f", reference {context['reference_model']}" if context["reference_model"] else ""
    return {
        "run": f"{card['run']}, attempt {card['attempt']}",
        "board": card["board"],
        "model": spec["model"],
        "data set": f"{spec['dataset']}, trained on {spec['fit']}",
        "seed": str(spec["seed"]),
        "budget": f"{budget['name']}: {spec['steps']:,} steps",
        "recipe": f"{recipe['name']}: {'; '.join(details)}",
        "profile": f"{spec['profile']}, protocol {spec['protocol']}",
        "hardware key": spec["hardware_key"],
        "suite": asked,
    }


def _result(card: dict[str, Any], results: dict[str, Any] | None) -> dict[str, Any]:
    found: dict[str, Any] = {"status": card["status"] + (f": {card['reason']}" if card["reason"] else "")}
    if results is not None:
        found["test accuracy"] = f"{results['test_acc_pct']:.2f} % of {results['test_images']:,} images"
        if results["val_acc_pct"] is not None:
            found["validation accuracy"] = f"{results['val_acc_pct']:.2f} %"
        found["trained on"] = f"{results['train_images']:,} images"
        found["training"] = f"{results['train_s']:.3f} device-seconds, {results['step_ms']:.3f} ms per step"
        if results["host_ms"] is not None:
            found["launches"] = f"{results['host_ms']:.3f} ms of the host per step"
        found["peak memory"] = f"{results['peak_mib']:.1f} MiB, {results['peak_kind']}"
        if results["evaluation_peak_mib"] is not None:
            found["peak memory"] += f"; {results['evaluation_peak_mib']:.1f} MiB in evaluation"
        for name in ("eq_claimed", *CORE_ERRORS):
            before, after = (results[moment][name] for moment in ("init", "trained"))
            found[name] = " → ".join("-" if v is None else f"{v:.3g}" for v in (before, after))
        found["claim"] = card["claim"]
    if card["cost"] is not None:
        found["parameters"] = f"{card['cost']['parameters']:,}"
        found["FLOPs per image"] = f"{card['cost']['flops_per_image']:,}"
    return found


def _files(opened: dict[str, str]) -> str:
    return ", ".join(f"{name} {content or '(missing)'}" for name, content in opened.items())


def _origin(card: dict[str, Any], provenance: dict[str, Any]) -> dict[str, Any]:
    results, changed = card["results"], card["changed"]

    def now(part: str) -> str:
        return " (changed since)" if part in changed else ""

    unknown = "not recorded"
    return {
        "started": provenance["started"],
        "command": provenance["command"] or unknown,
        "registered by": provenance["origin"] or unknown,
        "registered as": ", ".join(f"{k} {v}" for k, v in provenance["registered"].items() if v) or unknown,
        "source hash": (provenance["source_hash"] or unknown) + now("source"),
        "side files": _files(provenance["opened"]),
        "passed its check": provenance["checked"] or unknown,
        "data source hash": provenance["data_source"] or unknown,
        "data side files": _files(provenance["data_opened"]),
        "data digest": (provenance["data_digest"] or unknown) + now("data"),
        "recipe": "changed since" if "recipe" in changed else "unchanged",
        "commit": provenance["commit"] or unknown,
        "harness hash": (provenance["harness_hash"] or unknown) + now("harness"),
        "weights SHA-256": results and results["weights_sha256"],
        "threads": str(provenance["threads"]),
    }
