"""Options with a fixed set of values, each with one line of help."""

from __future__ import annotations

#: Execution profiles.
PROFILES = {"strict": "float32, deterministic, nothing compiled", "fast": "bfloat16 and TF32; on separate boards"}
#: The images to train on.
FITS = {"train": "without the validation images", "train+val": "with them; on separate boards"}
#: Parameter classes.
CLASSES = {"matched": "within 5 % of --reference-parameters", "as-published": "networks as published"}

#: Recipes: those of ``recipes.toml``, and two that depend on the model.
RECIPES = {
    "common": "the same for all, no augmentation",
    "common-rotate": "common, random rotations",
    "common-crop-flip": "common, crops and mirror images",
    "paper": "as the authors trained it",
    "tuned": "common, rates of equibench tune",
}
#: Environment variables that equibench reads.
VARIABLES = {
    "EQUIBENCH_RESULTS": "results folder, like --results [./leaderboards]",
    "EQUIBENCH_DATA": "folder of the data sets, like --data-root [the user's cache]",
    "EQUIBENCH_MIRROR": "address of a mirror of the data sets' files; tried first",
    "EQUIBENCH_HOST": "name of this machine in records, if it has no machine id",
}


def help_text(what: str, choices: dict[str, str]) -> str:
    """Help of an option: its meaning, then each value on its own line."""
    width = max(map(len, choices)) + 2
    return "\n".join(["\b", what, *(f"{value:<{width}}{line}" for value, line in choices.items())])
