"""The page on the baselines says what is registered."""

import re
from pathlib import Path

from equibench.bench.spec.budget import find_budget
from equibench.bench.spec.recipe import named_recipes
from equibench.bench.spec.suite import suite_names
from equibench.registry import MODELS, WRAPPERS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "baselines.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([\w.-]+)` \| (\w+) \| (\w+) \| (.+) \| (\w+) \|$", re.MULTILINE)


def test_every_row_is_what_is_registered() -> None:
    rows = {name: rest for name, *rest in ROW.findall(PAGE)}
    for name, (group, invariant, counts, status) in rows.items():
        fields = MODELS.entries()[name].fields
        assert (fields["group"], fields["invariant"], fields.get("status", "ours")) == (group, invariant, status), name
        assert counts == "; ".join(f"{count:,} ({shape})" for shape, count in fields["params"].items()), name
    families = {"g-cnn", "e2cnn", "wide-resnet", "cnn", "resnet", "steerable-pdo", "f-conv", "vit"}
    named = {e.name for e in MODELS.match() if e.fields["family"] in families and not e.is_template}
    assert named == set(rows)


def test_what_the_page_names_exists() -> None:
    for suffix in re.findall(r"`\+([\w-]+)`", PAGE):
        assert suffix in WRAPPERS.entries()
    assert set(WRAPPERS.entries()) <= set(re.findall(r"`\+([\w-]+)`", PAGE))
    assert set(named_recipes()) <= set(re.findall(r"`(common[\w-]*)`", PAGE))
    assert {"digits-25k", "digits-25k-compute"} <= set(suite_names()) and find_budget("published").kind == "P"
