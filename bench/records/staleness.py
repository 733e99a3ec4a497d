"""Which records are current: their source, data and recipe are the same as today."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from ...registry import DATASETS, MODELS, UserError
from ...side_files import contents, lines_of
from ...source import data_hash, source_hash
from ..spec.recipe import COMMON, Recipe, find_recipe, is_tuned, named_recipes
from ..spec.suite import TUNING, RunSpec, training_images, tuned_file
from .record import FINAL, RunRecord


def staleness(record: RunRecord, root: Path | None = None, known: dict[object, str] | None = None) -> str:
    """Which of source, data and recipe have changed since the run; empty if none has.

    A model that is not registered here (such as a plug-in that was not included) cannot be compared and counts as
    current.

    Args:
        root: results folder with the tuned recipes; None: tuned recipes count as current.
        known: cache of hashes, for records that are judged at the same time.
    """
    changed, provenance, known = [], record.provenance, {} if known is None else known
    source = _kept(known, _source_hash, record.spec.model, *sorted(provenance.opened))
    if source and source != provenance.source_hash:
        changed.append("source")
    digest = _kept(known, _data_digest, record.spec.dataset)
    opened = sorted(provenance.data_opened)
    made = _kept(known, _data_hash, record.spec.dataset, *opened) if provenance.data_source else ""
    pairs = ((digest, provenance.data_digest), (made, provenance.data_source))
    if any(now and then and now != then for now, then in pairs):
        changed.append("data")
    if _is_another_recipe(record.spec, root):
        changed.append("recipe")
    return ", ".join(changed)


def _kept(known: dict[object, str], function: Callable[..., str], *arguments: str) -> str:
    key = (function, arguments)
    if key not in known:
        known[key] = function(*arguments)
    return known[key]


class BoardStaleness:
    """The staleness of the records of one board, which must also agree with each other.

    In some cases the current state is unknown: a data set without a digest, tuned rates from elsewhere, a model that is
    not registered here, or one that now opens other files. Then the newest run is the reference, because all rows need
    the same data, and the seeds of a model need the same code and recipe.

    Args:
        records: all records of the board.
        root: see `staleness`.
    """

    def __init__(self, records: Iterable[RunRecord], root: Path | None = None) -> None:
        self._root, self._alone, self._digest = root, {}, ""
        self._trained: dict[str, tuple[int, Recipe]] = {}
        self._source: dict[str, str] = {}
        self._files: dict[object, str] = {}
        for record in sorted(records, key=start_order):
            # By file, because two machines may have made the same attempt with different code.
            stale = self._alone[record.file_name] = staleness(record, root, self._files)
            if record.status in FINAL and not stale:
                self._digest = record.provenance.data_digest or self._digest
                self._trained[record.spec.model] = _training_setup(record.spec)
                self._source[record.spec.model] = record.provenance.source_hash

    def __call__(self, record: RunRecord) -> str:
        """Which of source, data and recipe have changed since the run, as `staleness`."""
        known = self._alone.get(record.file_name)
        found = (staleness(record, self._root, self._files) if known is None else known).split(", ")
        source = record.provenance.source_hash
        # A failed run knows only the files that it opened before the failure.
        if record.status in FINAL and source != self._source.get(record.spec.model, source):
            found.append("source")
        digest = record.provenance.data_digest
        if self._digest and digest and digest != self._digest:
            found.append("data")
        if _training_setup(record.spec) != self._trained.get(record.spec.model, _training_setup(record.spec)):
            found.append("recipe")
        return ", ".join(word for word in _WORDS if word in found)


_WORDS = ("source", "data", "recipe")


def is_known(model: str) -> bool:
    """Whether a model is registered here; only then its source can be compared."""
    return bool(_source_hash(model))


def included_files(model: str) -> list[Path]:
    """The files given with ``--include`` that register a model and its wrappers."""
    try:
        found = MODELS.find(model)
    except UserError:
        return []
    return [e.path for e in found.entries if e.origin != "equibench" and not e.is_plugin]


def _training_setup(spec: RunSpec) -> tuple[int, Recipe]:
    """Steps and recipe, which are the same for all seeds of a model; for trials, without the learning rate."""
    return spec.steps, spec.recipe.model_copy(update={"lr": 1.0}) if spec.is_trial else spec.recipe


def start_order(record: RunRecord) -> tuple[datetime, str]:
    """Sort key: the start of a run, then its file name."""
    try:
        started = datetime.fromisoformat(record.provenance.started)
    except ValueError:
        started = datetime.min
    return started.replace(tzinfo=started.tzinfo or UTC), record.file_name


def _is_another_recipe(spec: RunSpec, root: Path | None) -> bool:
    if spec.is_trial:  # today's recipe for tuning, with the learning rate of the trial
        today = named_recipes().get(COMMON + spec.recipe.name.removeprefix(TUNING))
        today = today and today.model_copy(update={"name": spec.recipe.name, "lr": spec.recipe.lr})
    else:
        today = _current_recipe(spec.recipe.name, spec.model, *_tuned(spec, root))
    if today is None:
        return False
    return today.bare != spec.recipe or (spec.budget.kind == "P" and _published_steps(spec, today) != spec.steps)


def _tuned(spec: RunSpec, root: Path | None) -> tuple[Path | None, int]:
    """The file of the board's tuned recipes, and when it was written."""
    if root is None or not is_tuned(spec.recipe.name):
        return None, 0
    path = tuned_file(root, spec.board)
    try:
        return path, path.stat().st_mtime_ns
    except OSError:
        return None, 0


@cache
def _current_recipe(name: str, model: str, tuned: Path | None, _written: int) -> Recipe | None:
    """Today's recipe of this name for a model; None if it is unknown here."""
    with suppress(UserError):
        return find_recipe(name, model, tuned)
    return None


def _published_steps(spec: RunSpec, today: Recipe) -> int:
    """Steps of a budget of published epochs; the epochs belong to the recipe and not to the spec."""
    try:
        images = training_images(spec.dataset, spec.fit, spec.train_images)
        return spec.budget.steps_for(images, today.batch, today.epochs)
    except UserError:  # a data set that is not registered here
        return spec.steps


def source_now(model: str, opened: Iterable[str]) -> str:
    """Hash of the current source of a model and of these side files; UserError if the model is not registered here."""
    resolved = MODELS.find(model)
    return source_hash(resolved, lines_of(contents(resolved.files, opened)))


def _source_hash(model: str, *opened: str) -> str:
    """As `source_now`; empty if the model is not registered here."""
    try:
        return source_now(model, opened)
    except UserError:
        return ""
    except (OSError, SyntaxError):
        return "unreadable"  # no run would be possible


def _data_hash(dataset: str, *opened: str) -> str:
    """As `_source_hash`, for the declarations and files of a data set."""
    with suppress(UserError):
        entry = DATASETS.find(dataset).entry
        return data_hash(entry, lines_of(contents([entry.path], opened)))
    return ""


def _data_digest(dataset: str) -> str:
    with suppress(UserError):
        return str(DATASETS.find(dataset).get("digest"))
    return ""
