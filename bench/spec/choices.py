"""Options with a fixed set of values, each with one line of help."""

from __future__ import annotations

#: Execution profiles.
PROFILES = {
    "strict": "float32, deterministic, nothing compiled",
    "fast": "bfloat16 and TF32; boards of their own",
}
#: The images for training.
FITS = {
    "train": "validation images are kept apart",
    "train+val": "trained on too; boards of their own",
}
#: Classes of parameters.
CLASSES = {
    "matched": "within 5 % of --reference-parameters",
    "as-published": "every network as its authors have it",
}


#: Recipes: those of ``recipes.toml``, and two that depend on the model.
RECIPES = {
    "common": "same for all, no augmentation",
    "common-rotate": "common, images turned",
    "common-crop-flip": "common, crops and mirror images",
    "paper": "each as its authors trained it",
    "tuned": "common, rates of equibench tune",
}
#: Variables of the environment that are read.
VARIABLES = {
    "EQUIBENCH_RESULTS": "results folder, as --results [./leaderboards]",
    "EQUIBENCH_DATA": "folder of the data sets, as --data-root [the user's cache]",
    "EQUIBENCH_MIRROR": "address of copies of the data sets' files, asked first",
    "EQUIBENCH_HOST": "tells this machine from others, where it has no id of its own",
}


def lines_of(what: str, choices: dict[str, str]) -> str:
    """Help of an option: its meaning, then each value on its own line."""
    width = max(map(len, choices)) + 2
    return "\n".join(["\b", what, *(f"{value:<{width}}{line}" for value, line in choices.items())])
