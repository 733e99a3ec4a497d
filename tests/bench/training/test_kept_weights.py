"""Final weights are kept only if they give a new network the same logits."""

from pathlib import Path

import pytest
from equibench.bench.measures.accuracy import accuracy_pct, logits
from equibench.bench.tools.machine import Machine
from equibench.bench.training import full_profile
from equibench.bench.training.trained_network import trained_model
from equibench.registry import UserError, include
from torch import nn

from .test_run import TINY, head_to_head, records


def test_weights_of_another_network_are_not_kept_and_other_operations_are_marked(tmp_path: Path) -> None:
    done = head_to_head(tmp_path, "tiny-counts,tiny-sharpens,tiny-deepens,tiny-pairs")  # no count fails a run
    assert done.returncode == 0 and "tiny-deepens (operations that depend on image or weights)" in done.stdout
    (counts,), (sharpens,) = records(tmp_path)["tiny-counts"], records(tmp_path)["tiny-sharpens"]
    assert counts.cost.uncounted == sharpens.cost.uncounted == ""
    assert [r.run_id for r in (counts, sharpens) if list((tmp_path / "results").rglob(f"weights/{r.run_id}.pt"))] == [
        counts.run_id
    ]
    said = "the logits also depend on passes, which no file of weights holds"
    assert not [w for w in counts.warnings if said in w] and [w for w in sharpens.warnings if said in w]
    assert done.stderr.count(said) == 1, "the user is told"
    with pytest.raises(UserError, match=f"do not exist here: .*{said}"):
        full_profile.load_weights(tmp_path / "results", sharpens, nn.Linear(1, 1))


def test_kept_weights_give_the_same_logits_in_a_new_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["expands", "centres-loose", "centres-late", "keeps", "draws", "loose-statistics"]
    assert head_to_head(tmp_path, ",".join(f"tiny-{name}" for name in names)).returncode == 0
    expands, loose, late, keeps, draws, statistics = (records(tmp_path)[f"tiny-{name}"][0] for name in names)
    include([TINY])
    kept = trained_model(tmp_path / "results", expands, "cpu", tmp_path / "data")
    assert kept.test_accuracy_pct() == expands.results.test_acc_pct
    files = {path.stem for path in (tmp_path / "results").rglob("weights/*.pt")}
    assert files == {expands.run_id, keeps.run_id, draws.run_id}
    assert "were not kept: the logits also depend on norm.running_mean, which" in " ".join(statistics.warnings)
    assert "were not kept: the logits also depend on _extra_state, centre, which" in " ".join(loose.warnings)
    assert "adds, removes or resizes centre, so a new network cannot load them" in " ".join(late.warnings)
    seen = []

    def look(model, inputs, predictions: bool):
        seen.append(accuracy_pct(logits(model, inputs.images, inputs.scene.prepare), inputs.labels))
        if len(seen) == 2:
            raise StopIteration
        return None, ""

    monkeypatch.setattr(full_profile, "measure_full", look)
    with pytest.raises(StopIteration):  # a profile evaluates the initial network first
        full_profile.measure_sidecar(tmp_path / "results", keeps, Machine("cpu", data_root=tmp_path / "data"))
    assert seen[1] == pytest.approx(keeps.results.test_acc_pct) != seen[0]
