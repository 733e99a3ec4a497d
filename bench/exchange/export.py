"""Packs boards into archives: records with their other files, and the suites and recipes to repeat them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...registry import UserError
from ..boards.board import find_board, load_board
from ..publish.repeat_commands import suite_file, suites_of
from ..records.calibration import read_calibration
from ..records.outcomes import labels_path, outcomes_path, read_distances, read_predictions
from ..records.record import RefusedFile, RunRecord, read_all, read_board
from ..records.sidecar import read_sidecars, read_verdicts
from ..records.store import CALIBRATIONS, REPLAYS, SIDECARS, board_folder, calibrations_folder
from ..runner.tune import tables_text
from ..spec.suite import tuned_file
from ..tools.schema import read_text
from .archive import RECIPES, SUITES, write_archive


def export(boards: Sequence[str], root: Path, out: Path) -> tuple[list[str], int, list[RefusedFile]]:
    """Pack boards of a results folder into the archive `out` for `merge`. The same records give the same bytes.

    Returns:
        Names of the boards, the number of files, and the files that were refused and are not in it.

    Raises:
        UserError: there is no such board, or the archive cannot be written.
    """
    names = sorted({find_board(name, root) for name in boards})
    files: dict[str, bytes] = {}
    refused: list[RefusedFile] = []
    for name in names:
        files |= _files(root, name, refused)
    write_archive(out, files)
    return names, len(files), refused


def _files(root: Path, board: str, refused: list[RefusedFile]) -> dict[str, bytes]:
    """The packed files of a board, by their paths below the results folder."""
    records, wrong = read_board(root, board)
    refused += [*wrong, *read_sidecars(root, board)[1], *read_verdicts(root, board)[1]]
    paths = [board_folder(root, board) / record.file_name for record in records]
    for record in records:
        paths += _outcomes(root, record, refused)
    # The original text is packed: its hash is in the file's name, and this release might write another text.
    refused += read_all(calibrations_folder(root, board).glob("*.json"), read_calibration)[1]
    bad = {one.path for one in refused}
    for part in (SIDECARS, REPLAYS, CALIBRATIONS):
        paths += [path for path in (board_folder(root, board) / part).glob("*.json") if path not in bad]
    tuned = tuned_file(root, board)
    paths += [tuned] if tuned.is_file() else []
    texts = {p.relative_to(root).as_posix(): read_text(p, link=False) for p in paths} | _how_to_repeat(root, board)
    return {name: text.encode() for name, text in texts.items()}


def _outcomes(root: Path, record: RunRecord, refused: list[RefusedFile]) -> list[Path]:
    path = outcomes_path(root, record)
    if path is None:
        return []
    try:
        read_predictions(root, record)
        found, _ = read_distances(root, record)
    except UserError as error:
        refused.append(RefusedFile(path, str(error)))
        return []
    return [path, labels_path(root, record.spec.board, found)]


def _how_to_repeat(root: Path, board: str) -> dict[str, str]:
    """The suites of the runs on a board, and the recipe of each model."""
    loaded = load_board(root, board)
    recipes = {r.spec.model: r.spec.recipe.model_dump(exclude_none=True) for r, _ in loaded.chosen}
    texts = {f"{SUITES}/{name}.toml": suite_file(suite) for name, suite in suites_of(loaded).items()}
    return {f"{RECIPES}/{board}.toml": tables_text(recipes), **texts}
