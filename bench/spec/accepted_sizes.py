"""Checks that models accept the image size of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...registry import DATASETS, MODELS, UserError, allows
from ..tools.text import follow_up_command


def check_sizes(models: Iterable[str], dataset: str) -> None:
    """Refuse (UserError) models that do not accept the image size of a data set, as far as they declare it."""
    declared = {model: MODELS.find(model).get("sizes") for model in models}
    size = DATASETS.find(dataset).entry.fields["shape"][1]
    wrong = {m: f"is for {_sizes_text(sizes)}" for m, sizes in declared.items() if sizes and not allows(sizes, size)}
    refuse_sizes(dataset, size, wrong)


def refuse_sizes(dataset: str, size: int, why: dict[str, str]) -> None:
    """Refuse (UserError) models that cannot be built for images of this size in pixels, each with the reason."""
    if why:
        shown = "; ".join(f"{model} {reason}" for model, reason in why.items())
        raise UserError(
            f"images of {dataset} have {size} pixels, and {shown}; leave out these models"
            f" ({follow_up_command('list', 'models', '--for', dataset)} lists suitable ones), or use another data set"
        )


def _sizes_text(sizes: str | Sequence[int]) -> str:
    """A model's registered `sizes`, in words."""
    if not isinstance(sizes, str):
        return f"{', '.join(map(str, sizes))} pixels"
    if sizes.endswith("+"):
        return f"{sizes[:-1]} pixels or more"
    return "even sizes" if sizes == "even" else f"multiples of {sizes.removesuffix('k')} pixels"
