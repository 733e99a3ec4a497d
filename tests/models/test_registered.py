"""What every registered model declares: its counts, its logits' shape, its source; see also test_every_model.py."""

import pytest
import torch
from equibench.registry import MODELS, build_model, parse_shape
from equibench.source import source_hash

torch.set_num_threads(1)

DECLARED = [(e, shape, count) for e in MODELS.match() for shape, count in (e.fields.get("params") or {}).items()]
#: Their kernels take seconds to solve; tests/models/test_e2cnn.py counts them in the slow run.
HEAVY = ("e2cnn-bench-d16", "e2cnn-d16-c16")


@pytest.mark.parametrize(
    ("entry", "shape", "count"),
    [pytest.param(*d, id=f"{d[0].name}-{d[1]}") for d in DECLARED if d[0].name not in HEAVY],
)
def test_the_declared_count_is_what_is_built_and_it_returns_logits(entry, shape: str, count: int) -> None:
    channels, size, classes = parse_shape(shape, entry.where)
    with torch.device("meta"):
        model = build_model(entry.name, channels, classes, size).eval()
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count
        assert model(torch.zeros(2, channels, size, size)).shape == (2, classes)


def test_every_model_names_its_source_and_every_published_member_its_count() -> None:
    for entry in MODELS.match():
        assert entry.fields["source"] and entry.doc, entry.name
        if not entry.is_template:
            assert entry.fields.get("params"), f"{entry.name} declares no input"


def test_every_source_has_a_hash_of_its_own_family() -> None:
    hashes = {name: source_hash(MODELS.find(name)) for name in ("p4cnn", "z2cnn", "wrn-10-b9", "pdo-econv-p8")}
    assert hashes["p4cnn"] == hashes["z2cnn"]  # one file
    assert len(set(hashes.values())) == 3
