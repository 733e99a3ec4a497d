"""Models, data sets and suites: lists, and networks to build, to check, and to load after training."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...registry import DATASETS, MODELS, UserError, include, option, parse_shape
from ...registry import build_model as build
from ..tools.files import WriteError, results_root
from .notebook_cells import include_cells
from .public import public

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from ..records.verdict import Verdict
    from ..training.trained_network import TrainedModel

#: The input for models that declare none.
_INPUT = "1x28x28->10"


@public
def list_models(*patterns: str, dataset: str | None = None, includes: Iterable[str | Path] = ()) -> pd.DataFrame:
    """The registered models that match any of the shell patterns; all models without patterns.

    Args:
        dataset: only models that can be built for its images.
        includes: files that register models.

    Raises:
        UserError: no model matches.
    """
    from ..cli.list import model_rows

    include(includes)
    include_cells(None)
    return _frame(model_rows(patterns, dataset), "model", patterns)


@public
def list_datasets(*patterns: str, includes: Iterable[str | Path] = ()) -> pd.DataFrame:
    """The registered data sets that match any of the shell patterns; all data sets without patterns.

    Raises:
        UserError: no data set matches.
    """
    from ..cli.list import dataset_rows

    include(includes)
    include_cells(None)
    return _frame(dataset_rows(patterns), "data set", patterns)


@public
def list_suites(*patterns: str) -> pd.DataFrame:
    """The shipped suites that match any of the shell patterns; all suites without patterns.

    The column `examples` is the number of training examples.

    Raises:
        UserError: no suite matches.
    """
    from ..cli.list import suite_rows

    return _frame(suite_rows(patterns), "suite", patterns)


def _frame(rows: list[dict[str, Any]], kind: str, patterns: Iterable[str]) -> pd.DataFrame:
    import pandas as pd

    from ..cli.list import refuse_no_match

    refuse_no_match(rows, kind, patterns)
    return pd.DataFrame(rows)


@public
def build_model(
    name: str,
    in_channels: int | None = None,
    num_classes: int | None = None,
    image_size: int | None = None,
    *,
    dataset: str | None = None,
    seed: int | None = None,
) -> nn.Module:
    """A network by its registered name, with wrappers (``+…``), with initial weights.

    It maps normalised images (batch, channels, size, size) to logits (batch, classes).

    Args:
        in_channels, num_classes, image_size: of the images; default: those of `dataset`, else the first input that the
            model declares.
        dataset: a registered data set.
        seed: of a run, whose initial weights it gets; torch's global generator is left as it is. Without one, weights
            come from that generator.

    Raises:
        UserError: the name is unknown, or an argument is wrong.
        ValueError: with a seed, if its logits do not have the shape (batch, classes).
    """
    sizes = {"in_channels": in_channels, "num_classes": num_classes, "image_size": image_size}
    for key, value in sizes.items():
        if value is not None and value < 1:
            raise UserError(f"equibench.build_model: {key} should be at least 1, not {value}")
    include_cells(None, [name])
    resolved = MODELS.find(name)
    if dataset is not None:
        fields = DATASETS.find(dataset).entry.fields
        channels, size, classes = fields["shape"][0], fields["shape"][1], fields["classes"]
    else:
        channels, size, classes = parse_shape(next(iter(resolved.get("params") or {}), _INPUT), resolved.entry.where)
    images = in_channels or channels, num_classes or classes, image_size or size
    if seed is None:
        return build(name, *images)
    if seed < 0:
        raise UserError(f"equibench.build_model: seed should be at least 0, not {seed}")
    import torch

    from ..training.prepare import initial_model

    with torch.random.fork_rng([]):
        return initial_model(name, *images, seed)


@dataclass(frozen=True)
class Checked:
    """The result of `check`. It prints the same text as ``equibench check``.

    Attributes:
        verdict: all findings; see docs/check.md.
    """

    verdict: Verdict

    @property
    def accepted(self) -> bool:
        """Whether the model may enter the registry."""
        return self.verdict.accepted

    def table(self) -> pd.DataFrame:
        """One row per check: `check`, `status` (pass, fail, note, skip), the finding `says`, and the advice `do`."""
        import pandas as pd

        return pd.DataFrame([vars(f) for f in self.verdict.findings])[["check", "status", "says", "do"]]

    def __repr__(self) -> str:
        from ..cli.check import text_of

        return text_of(self.verdict)


@public
def check(
    model: str,
    *,
    dataset: str | None = None,
    budget: str | None = None,
    includes: Iterable[str | Path] = (),
    results: str | Path | None = None,
    deadline: float = 120.0,
) -> Checked:
    """Check whether a model may enter the registry. Takes under a minute on a CPU for 25 thousand parameters.

    The verdict is kept in the results folder, and the records of runs of the same source say it.

    Args:
        model: its registered name.
        dataset: of the board that it is to enter; default: the first data set with an input that the model declares.
        budget: of that board; default ``e20``.
        includes: files that register models or data sets.
        results: results folder; default ``EQUIBENCH_RESULTS``, else ``./leaderboards``.
        deadline: seconds that each check may take, above 0.

    Raises:
        UserError: model, data set or budget do not exist, or an argument is wrong.
    """
    from ..check.session import BUDGET, check_model
    from ..records.kept_verdicts import keep_verdict
    from .display import line

    root, includes = results_root(results), list(includes)
    if not deadline > 0:
        raise UserError(f"{option('deadline', 'SECONDS')} should be above 0, not {deadline}")
    include(includes)
    files = [*includes, *include_cells(root, filter(None, (model, dataset)))]
    say = line()
    try:
        verdict = check_model(
            model, dataset=dataset, budget=budget or BUDGET, includes=files, deadline_s=deadline,
            listen=lambda name: say(f"{name} …"),
        )  # fmt: skip
    finally:
        say("")
    try:
        keep_verdict(root, verdict)
    except WriteError as error:  # the verdict took a minute
        warnings.warn(f"the verdict could not be written: {error}", stacklevel=3)
    return Checked(verdict)


@public
def load_model(
    run: str,
    *,
    results: str | Path | None = None,
    data_root: str | Path | None = None,
    includes: Iterable[str | Path] = (),
    device: str = "cpu",
) -> TrainedModel:
    """The network of a finished run with its final weights and its normalisation, in evaluation mode.

    It takes images as the data set has them, integers (batch, channels, size, size), and returns logits (batch,
    classes). Its attributes are `network`, `normalise`, `data` and `record`.

    Args:
        run: the beginning of its id; see the column `run` of `load_runs`.
        results: results folder; default ``EQUIBENCH_RESULTS``, else ``./leaderboards``.
        data_root: folder of the data sets; default ``EQUIBENCH_DATA``, else the user's cache.
        includes: files that register the model or the data set; not needed if a notebook registered it.
        device: ``cpu``, ``cuda`` or ``cuda:<i>``; ``auto``: a GPU if there is one.

    Raises:
        UserError: there is no such run, its weights do not exist here, or its source or data have changed.
    """
    from ..records.find import find_finished
    from ..records.store import SOURCES
    from ..tools.gpus import one_device
    from ..training.trained_network import trained_model

    root, device = results_root(results), one_device(device)
    record = find_finished(run, root, "load_model")
    include(includes)
    include_cells(root)
    own = [root / SOURCES / name.strip() for name in record.provenance.origin.split(",")]
    try:
        MODELS.find(record.spec.model)
    except UserError:
        include(path for path in own if path.is_file())
    return trained_model(root, record, device, data_root)
