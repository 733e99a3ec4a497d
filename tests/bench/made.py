"""Records made up for tests of what is done with records."""

from typing import Any

from equibench.bench.records.provenance import Provenance
from equibench.bench.records.record import Context, CorePoint, Results, RunRecord, Size
from equibench.bench.spec.suite import RunSpec, find_suite, plan


def spec(**changes: Any) -> RunSpec:
    made = plan(find_suite("quickstart"))[0].model_copy(update={"model": "made-up", **changes})
    if made.budget.seconds is None and "steps" not in changes:
        made = made.model_copy(update={"steps": made.budget.steps_for(3000, made.recipe.batch, made.budget.epochs)})
    return made


def record(
    accuracy: float | None = 90.0,
    status: str = "ok",
    attempt: int = 1,
    reason: str = "",
    train_s: float = 2.0,
    **changes: Any,
) -> RunRecord:
    core = CorePoint(eq_exact_c4=0.5, eq_exact_d4=0.25, eq_rot_analytic=0.125, collapsed=False)
    results = Results(
        test_acc_pct=accuracy or 0.0, val_acc_pct=1.0, test_images=1500, train_images=3000, train_s=train_s,
        step_ms=8.0,
        peak_mib=100.0, peak_kind="resident in the process", init=core, trained=core, weights_sha256="0" * 64,
    )  # fmt: skip
    size = Size(
        parameters=25_000, dense_weights=30_000, buffers=10, flops_per_image=10**6, train_flops_per_image=3 * 10**6
    )
    return RunRecord(
        schema_version=1,
        spec=spec(**changes),
        attempt=attempt,
        status=status,
        reason=reason or ("" if status == "ok" else "made up"),
        results=results if accuracy is not None else None,
        cost=size if accuracy is not None else None,
        curve=[],
        phases={"train_s": 2.0, "other_s": 0.5, "total_s": 2.5},
        provenance=Provenance(
            source_hash="", data_digest="", started="2026-01-01T00:00:00+00:00", versions={}, hardware={}, threads=1,
            command="",
        ),
        context=Context(suite="s", parameter_class="matched", reference_parameters=25_700, reference_model=None),
        warnings=[],
    )  # fmt: skip
