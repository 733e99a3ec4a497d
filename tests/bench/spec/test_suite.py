"""Suites, budgets, recipes and run specifications: what they accept, what they refuse, what they hash."""

import math
from fractions import Fraction
from pathlib import Path

import pytest
from equibench.bench.spec.budget import Budget, drifted, find_budget, must_stop, named_budgets, steps_in
from equibench.bench.spec.recipe import Recipe, find_recipe, named_recipes
from equibench.bench.spec.suite import RunSpec, check_names, find_suite, parse_suite, plan
from equibench.bench.tools.schema import parse
from equibench.registry import UserError
from hypothesis import example, given
from hypothesis import strategies as st

SUITE = 'dataset = "digits-rot"\nbudget = "e5"\nmodels = ["p4cnn", "z2cnn"]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SUITE + 'budgets = "e5"\n', r"unknown key 'budgets'; did you mean 'budget'"),
        (SUITE.replace('budget = "e5"\n', 'budgte = "e5"\n'), r"unknown key 'budgte'; did you mean 'budget'"),
        (SUITE.replace('budget = "e5"\n', ""), "'budget' is missing"),
        (SUITE + "seeds = 0\n", "at least one seed"),
        (SUITE + "seeds = []\n", "at least one seed"),
        (SUITE + "seeds = [1, 1]\n", "listed twice"),
        (SUITE + "seeds = [-1]\n", "not negative"),
        (SUITE + 'class = "matched"\n', "reference_parameters"),
        (SUITE + 'profile = "quick"\n', "'profile'"),
        (SUITE.replace('"z2cnn"', '"p4cnn"'), "listed twice"),
        (SUITE.replace('"e5"', "5"), "'budget'"),
        ("models = [", "not TOML"),
    ],
)
def test_wrong_suites_are_refused_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_suite("mine", text, "mine.toml")
    assert "mine.toml" in str(caught.value) and "\n" not in str(caught.value)


@given(st.dictionaries(st.text(max_size=8), st.one_of(st.integers(), st.text(max_size=5), st.lists(st.text()))))
def test_no_suite_ends_in_a_traceback(values: dict) -> None:
    from equibench.bench.spec.suite import Suite

    try:
        parse(Suite, {"name": "x", **values}, "x")
    except UserError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", "p4cn", "did you mean 'p4cnn'"),
        ("dataset", "digit-rot", "did you mean 'digits-rot'"),
        ("budget", "5e", "e<epochs>"),
        ("recipe", "comon", "did you mean 'common'"),
    ],
)
def test_unknown_names_in_a_suite(key: str, value: str, message: str) -> None:
    suite = find_suite("quickstart")
    update = {"models": [value]} if key == "model" else {key: value}
    with pytest.raises(UserError, match=message):
        check_names(suite.model_copy(update=update))


def test_a_suite_file_may_begin_with_a_mark_of_its_encoding(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xef\xbb\xbf" + SUITE.encode())
    assert find_suite(str(tmp_path / "mine.toml")) == parse_suite("mine", SUITE, "here")


def test_budgets_are_parsed() -> None:
    assert find_budget("e20").epochs == 20 and find_budget("t2.5").seconds == 2.5
    assert find_budget("smoke").kind == "smoke"
    assert {b.kind for b in named_budgets().values()} == {"smoke", "E", "T", "P"}
    for wrong in ("e0", "x5", "20", "e-1", "t0", ""):
        with pytest.raises(UserError):
            find_budget(wrong)


def test_equal_examples_become_steps() -> None:
    assert find_budget("e5").steps_for(3000, 64) == 5 * 3000 // 64
    with pytest.raises(UserError, match="less than one batch"):
        find_budget("e1").steps_for(10, 64)


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_steps_in_a_time_budget_is_the_floor(count: int, microseconds: int) -> None:
    step_s = microseconds / 10**6
    assert steps_in(count * microseconds / 10**6, step_s) == count
    assert steps_in((2 * count + 1) * microseconds / (2 * 10**6), step_s) == count
    assert steps_in(((count + 1) * microseconds - 0.5) / 10**6, step_s) == count


def test_drift_and_hard_stop() -> None:
    assert not drifted(102.9, 100) and not drifted(97.1, 100)
    assert drifted(103.1, 100) and drifted(96.9, 100)
    assert must_stop(105, 100) and not must_stop(104.9, 100) and not must_stop(1e9, None)


def test_the_common_schedule_warms_up_and_ends_at_zero() -> None:
    recipe = find_recipe("common")
    schedule = recipe.schedule
    assert schedule.factor(0) == 0 and schedule.factor(1) == 0
    assert schedule.factor(0.05) == 1 and schedule.factor(0.025) == pytest.approx(0.5)
    assert schedule.factor(0.525) == pytest.approx(0.5)
    rates = [recipe.rate(step, 100) for step in range(100)]
    assert max(rates) <= recipe.lr and min(rates) > 0


@given(st.integers(1, 500))
def test_the_schedule_depends_on_progress_only(steps: int) -> None:
    recipe = find_recipe("common")
    for step in range(0, steps, max(1, steps // 7)):
        assert recipe.rate(step, steps) == pytest.approx(recipe.rate(step * 3 + 1, steps * 3))


def test_a_step_schedule_holds_its_factor() -> None:
    values = {**find_recipe("common").model_dump(), "schedule": {"shape": "step", "knots": [[0.0, 1.0], [0.5, 0.1]]}}
    schedule = parse(Recipe, values, "here").schedule
    assert [schedule.factor(p) for p in (0, 0.49, 0.5, 1)] == [1, 1, 0.1, 0.1]


@pytest.mark.parametrize("knots", [[], [[0.1, 1.0]], [[0.0, 1.0], [0.0, 0.5]], [[0.0, 1.0], [0.5, 0.0]], [[0.0]]])
def test_wrong_knots_are_refused(knots: list) -> None:
    values = {**find_recipe("common").model_dump(), "schedule": {"shape": "linear", "knots": knots}}
    with pytest.raises(UserError, match="progress"):
        parse(Recipe, values, "here")


def test_a_plan_takes_one_seed_of_all_models_first() -> None:
    specs = plan(find_suite("quickstart"))
    models = find_suite("quickstart").models
    assert [s.model for s in specs[: len(models)]] == models and {s.seed for s in specs[: len(models)]} == {0}
    assert len({s.digest() for s in specs}) == len(specs)
    assert len({s.board for s in specs}) == 1


def test_everything_that_determines_a_result_changes_the_hash() -> None:
    spec = plan(find_suite("quickstart"))[0]
    recipe = spec.recipe.model_copy(update={"lr": spec.recipe.lr * 2})
    changes = {"model": "z2cnn", "seed": 9, "steps": 1, "profile": "fast", "fit": "train+val", "protocol": 99}
    hashes = {spec.model_copy(update={k: v}).digest() for k, v in changes.items()}
    hashes |= {spec.digest(), spec.model_copy(update={"recipe": recipe}).digest()}
    assert len(hashes) == len(changes) + 2


def test_notes_do_not_change_the_hash() -> None:
    assert plan(find_suite("quickstart"))[0].budget.note == "" and named_recipes()["common"].note != ""


def test_boards_differ_in_everything_that_must_agree_on_a_board() -> None:
    spec = plan(find_suite("quickstart"))[0]
    other = Budget(name="e20", kind="E", epochs=20.0)
    changes = [{"dataset": "x"}, {"fit": "train+val"}, {"budget": other}, {"profile": "fast"}, {"protocol": 7}]
    changes += [{"hardware_key": "A; 1"}, {"hardware_key": "A; 2"}]
    assert len({spec.model_copy(update=c).board for c in changes} | {spec.board}) == len(changes) + 1
    assert spec.model_copy(update={"seed": 5, "model": "z2cnn"}).board == spec.board


@pytest.mark.parametrize("name", ["../x", "a/b", "a\x00b", "", "-x", "a..b", "<b>", "a b"])
def test_names_that_could_escape_a_folder_are_refused(name: str) -> None:
    values = {**plan(find_suite("quickstart"))[0].model_dump(), "model": name}
    with pytest.raises(UserError, match="'model'"):
        parse(RunSpec, values, "here")


def test_a_field_that_a_later_version_adds_leaves_digests_as_they_are() -> None:
    class Later(RunSpec):
        clipping: float | None = None

    spec = plan(find_suite("smoke"))[0]
    later = Later.model_validate(spec.model_dump())
    assert later.digest() == spec.digest()
    assert later.model_copy(update={"clipping": 1.0}).digest() != spec.digest()


# Every amount that a budget's name can say.
AMOUNTS = st.builds(
    lambda number, decimals: Fraction(number, 10**decimals).limit_denominator(10**6),
    st.integers(1, 10**13),
    st.integers(0, 6),
).filter(lambda amount: amount <= 10**7)


def written(amount: Fraction) -> str:
    """An amount as a budget's name has it."""
    whole, rest = divmod(amount.numerator * 10**6 // amount.denominator, 10**6)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")


@given(AMOUNTS, st.integers(1, 10**7), st.integers(1, 4096))
@example(Fraction("9.12"), 10_000, 64)  # floats: 1,424.9999…
@example(Fraction("0.57"), 100, 1)  # floats: 56.99999999999999
@example(Fraction("4.35"), 100, 435)  # floats: 0.9999…, a budget of no step at all
def test_the_steps_of_a_fractional_budget_are_those_of_exact_arithmetic(
    amount: Fraction, images: int, batch: int
) -> None:
    expected = math.floor(amount * images / batch)
    published = find_budget("published")
    for budget, own in ((find_budget(f"e{written(amount)}"), None), (published, float(written(amount)))):
        assert budget.whole_batches_of(images, batch, own) == expected
        if expected:
            assert budget.steps_for(images, batch, own) == expected
        else:
            with pytest.raises(UserError, match="less than one batch"):
                budget.steps_for(images, batch, own)


@given(AMOUNTS, st.integers(1, 10**9))
@example(Fraction("1.2"), 10**8)  # floats: 1.2 // 0.1 is 11
@example(Fraction("0.5"), 10**9)  # less than one step is one step, which is refused later, as any other misfit
def test_the_steps_of_a_time_budget_are_those_of_exact_arithmetic(seconds: Fraction, nanoseconds: int) -> None:
    budget, expected = float(written(seconds)), max(1, math.floor(seconds / Fraction(nanoseconds, 10**9)))
    assert steps_in(budget, nanoseconds / 10**9) == steps_in(budget, Fraction(nanoseconds, 10**9)) == expected
