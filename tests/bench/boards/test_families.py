"""Families of boards: points, subsets in runs and records, budgets of examples, the table, and a whole one by
command.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from equibench.bench.boards.board import load_board
from equibench.bench.boards.families import BoardFamily, check_points, find_points, load_family, points_of
from equibench.bench.boards.family_table import cell, family_csv, family_document, family_text, rows_of, slope_rows
from equibench.bench.records.record import RunRecord, write_record
from equibench.bench.records.staleness import BoardStaleness
from equibench.bench.runner.refresh import _suites, stale_runs
from equibench.bench.runner.tune import trials
from equibench.bench.spec.budget import Budget, find_budget
from equibench.bench.spec.suite import RunSpec, Suite, examples_of, find_suite, parse_suite, plan, tuned_file
from equibench.bench.training.prepare import BN_IMAGES, Loaded, border_median
from equibench.datasets.batches import Normalise
from equibench.datasets.images import ImageData, Split
from equibench.registry import UserError, include
from hypothesis import given
from hypothesis import strategies as st

from .. import made
from ..commands import equibench

TINY, CPU = str(Path(__file__).parents[1] / "tiny.py"), torch.device("cpu")
FAMILY = {"name": "f", "dataset": "digits-rot", "budget": "n6000", "models": ["p4cnn", "z2cnn-22"], "seeds": 3}


@pytest.fixture(autouse=True)
def tiny() -> None:
    include([TINY])


def family(**changes: object) -> list[Suite]:
    return points_of({**FAMILY, "train_images": [100, 400, 3000], **changes}, "here")


# What a file says, and what it means


def test_the_shipped_family_is_three_boards_of_the_same_examples() -> None:
    points = find_points("mnist-rot-gen-data")
    check_points(points)
    assert [p.train_images for p in points] == [500, 2000, 10_000]
    assert len(points[0].models) == 6 and points[0].seed_list == [0, 1, 2, 3, 4]
    specs = [spec for p in points for spec in plan(p)]
    assert {s.steps * s.recipe.batch for s in specs} <= set(range(40_000 - 128, 40_001)) and len(
        {s.digest() for s in specs}
    ) == 90
    assert len({s.board for s in specs}) == 3


def test_several_budgets_and_numbers_of_images_are_every_combination() -> None:
    points = family(budget=["e2", "e10"], train_images=[400, 100])
    assert [(p.budget, p.train_images) for p in points] == [("e2", 100), ("e2", 400), ("e10", 100), ("e10", 400)]
    boards = [p.board() for p in points]
    assert boards[0] == "digits-rot-e2-common-n100img-v2" and len(set(boards)) == 4
    assert all(spec.board == p.board() for p in points for spec in plan(p))


def test_all_images_are_the_ordinary_board_however_that_is_said() -> None:
    every, ordinary = family()[-1], Suite.model_validate(FAMILY)
    assert every.board() == ordinary.board() == "digits-rot-n6000-common-v2"
    assert plan(every) == plan(ordinary) and plan(every)[0].train_images is None
    with_validation = points_of({**FAMILY, "fit": "train+val", "train_images": 3000}, "here")[0]
    assert "-n3000img-trainval-" in with_validation.board()


def test_ordinary_runs_keep_their_digests_and_boards() -> None:
    spec = plan(find_suite("quickstart"))[0]
    assert spec.board == "digits-rot-e2-common-v2"
    values = spec.model_dump(mode="json", exclude_defaults=True)
    assert "train_images" not in values and "examples" not in values["budget"]
    subset = spec.model_copy(update={"train_images": 500})
    assert subset.digest() != spec.digest() and subset.board != spec.board


def test_no_recipe_can_be_called_like_a_number_of_images() -> None:
    values = plan(find_suite("quickstart"))[0].model_dump()
    values["recipe"]["name"] = "common-n500img"
    with pytest.raises(ValueError, match="reads like a number of training images"):
        RunSpec.model_validate(values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_images": [100, 3001]},
            r"train_images 3,001: data set 'digits-rot' has 3,000 training images \(fit train\); use at most",
        ),
        (
            {"train_images": [9, 100]},
            "train_images 9: data set 'digits-rot' has 10 classes; use at least one image per class",
        ),
        ({"train_images": []}, "'train_images' is an empty list"),
        ({"train_images": [100, 100]}, "'train_images' has 100 twice"),
        ({"train_images": [0, 100]}, "'train_images'"),
        ({"train_images": [100.5]}, "'train_images'"),
        ({"train_images": "100"}, "'train_images'"),
        ({"train_images": list(range(100, 201))}, "101 points; a family can have at most 100"),
        ({"budget": ["e2", "e2"]}, "'budget' has 'e2' twice"),
        ({"budget": ["e2", "e"]}, "'e' is not a budget"),
        ({"budget": "n5"}, "less than one batch"),
        ({"budget": "n0"}, "zero; give more"),
        ({"budget": "n05"}, "is not a budget; write e<epochs>"),
        ({"budget": "n2.5"}, "is not a budget"),
        ({"budget": "n2000000000000"}, "more than 1,000,000,000,000 examples"),
    ],
)
def test_what_is_wrong_with_any_point_is_said_in_one_sentence(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check_points(family(**changes))
    assert "\n" not in str(caught.value)


def test_where_one_board_is_wanted_a_family_is_refused() -> None:
    with pytest.raises(UserError, match="'train_images' is a list, so this is a family of boards"):
        find_suite("mnist-rot-gen-data")
    with pytest.raises(UserError, match="'budget' is a list"):
        parse_suite("s", 'dataset = "digits-rot"\nbudget = ["e2", "e3"]\nmodels = ["p4cnn"]\n', "here")


@given(st.integers(1, 10**12), st.integers(1, 10**4), st.integers(1, 10**6))
def test_a_budget_of_examples_is_whole_batches_for_all_images(examples: int, batch: int, images: int) -> None:
    budget = find_budget(f"n{examples}")
    assert budget.kind == "E" and budget.whole_batches_of(images, batch) == examples // batch
    if examples >= batch:
        assert budget.steps_for(images, batch) * batch <= examples < (budget.steps_for(images, batch) + 1) * batch


@pytest.mark.parametrize(
    "values", [{"epochs": 1.0}, {"examples": 99}, {"examples": 100, "epochs": 1.0}, {}, {"examples": 100, "kind": "T"}]
)
def test_the_name_of_a_budget_says_its_examples(values: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Budget.model_validate({"name": "n100", "kind": "E", **values})


# What a run takes


def data_of(count: int = 300, classes: int = 3) -> ImageData:
    random = np.random.RandomState(0)
    labels = np.repeat(np.arange(classes), count // classes)
    images = random.randint(0, 256, (count, 1, 12, 12)).astype(np.uint8)
    split = Split(images, labels)
    return ImageData("bars", split, split, split, classes, 255)


def spec_of(images: int | None, model: str = "tiny", seed: int = 0) -> RunSpec:
    values = {
        "name": "s",
        "dataset": "bars",
        "budget": "n2000",
        "models": [model],
        "seeds": [seed],
        "train_images": images,
    }
    return plan(Suite.model_validate(values))[0]


def rows(loaded: Loaded, data: ImageData) -> list[int]:
    places = {image.tobytes(): place for place, image in enumerate(data.train.images)}
    return [places[image.tobytes()] for image in loaded.images.numpy()]


def test_runs_of_one_seed_take_the_same_nested_images_for_every_model() -> None:
    data = data_of()
    few, same, more, other = (
        rows(Loaded(data, spec, CPU), data)
        for spec in (spec_of(30), spec_of(30, "tiny-dropout"), spec_of(90), spec_of(30, seed=1))
    )
    assert few == same and set(few) < set(more) and set(few) != set(other)
    assert list(np.bincount(data.train.labels[few])) == [10, 10, 10]


def test_everything_that_looks_at_training_images_looks_at_those_alone() -> None:
    data = data_of()
    loaded = Loaded(data, spec_of(31), CPU)
    taken = rows(loaded, data)
    known = ImageData("bars", Split(data.train.images[taken], data.train.labels[taken]), data.val, data.test, 3, 255)
    assert torch.equal(loaded.normalise(loaded.images), Normalise.of(known, CPU)(loaded.images))
    assert loaded.background == border_median(known)
    shown = torch.cat([loaded.batches(step)[1] for step in range(15)])
    assert len(shown) == 15 * loaded.spec.recipe.batch and loaded.batches(0)[0].shape[1:] == (1, 12, 12)
    sample = sum(map(len, loaded.unaugmented()))
    assert (
        sample == min(31, BN_IMAGES) and len(loaded.data.test.labels) == 300 and loaded.data.digest() == data.digest()
    )


def test_images_that_do_not_vary_are_refused_before_the_training() -> None:
    data = data_of()
    flat = np.zeros_like(data.train.images)
    flat[0, 0, 0, 0] = 1
    still = ImageData("bars", Split(flat, data.train.labels), data.val, data.test, 3, 255)
    taken = next(s for s in range(20) if 0 not in rows(Loaded(data, spec_of(2, seed=s), CPU), data))
    with pytest.raises(
        UserError, match="channel 0 of the 2 training images that this seed selects from 'bars' is constant"
    ):
        Loaded(still, spec_of(2, seed=taken), CPU)


def record_of(spec: RunSpec, accuracy: float, **changes: object) -> RunRecord:
    record = made.record(accuracy)
    results = record.results
    assert results is not None
    results = results.model_copy(update={"train_images": spec.train_images or 3000, **changes})
    context = record.context.model_copy(update={"suite": "f"})
    return RunRecord.model_validate(
        record.model_copy(update={"spec": spec, "results": results, "context": context}).model_dump()
    )


def test_a_record_that_trained_on_other_images_or_examples_is_refused() -> None:
    spec = plan(family()[0])[0]
    assert record_of(spec, 90.0).spec.train_images == 100
    with pytest.raises(ValueError, match="'train_images' is 3,000, but the spec says 100"):
        record_of(spec, 90.0, train_images=3000)
    with pytest.raises(ValueError, match="budget 'n6000' of 100 images in batches of"):
        record_of(spec.model_copy(update={"steps": spec.steps + 1}), 90.0)


def test_a_published_budget_of_few_images_is_stale_only_where_its_recipe_is(tmp_path: Path) -> None:
    values = {**FAMILY, "budget": "published", "recipe": "paper", "models": ["p4cnn"], "train_images": 1000}
    spec = plan(points_of(values, "here")[0])[0]
    whole = plan(points_of({**values, "train_images": 3000}, "here")[0])[0]
    assert abs(spec.steps - whole.steps / 3) < 1
    record = record_of(spec, 90.0)
    assert "recipe" not in BoardStaleness([record], tmp_path)(record)


# The table


def filled(root: Path, errors: dict[tuple[str, int], list[float]]) -> BoardFamily:
    for suite in family():
        for spec in plan(suite):
            own = errors.get((spec.model, suite.train_images or 0))
            if own is not None:
                write_record(root, record_of(spec, 100 - own[spec.seed]))
    return load_family(root, family(), load_board)


ERRORS = {
    ("p4cnn", 100): [40.0, 42.0, 41.0], ("p4cnn", 400): [20.0, 21.0, 19.0], ("p4cnn", 3000): [7.0, 7.5, 7.2],
    ("z2cnn-22", 100): [60.0, 66.0, 62.0], ("z2cnn-22", 400): [45.0, 44.0, 47.0], ("z2cnn-22", 3000): [0.0, 30.0, 31.0],
}  # fmt: skip


def test_the_table_has_models_by_points_and_the_slope(tmp_path: Path) -> None:
    found = filled(tmp_path, ERRORS)
    first, second = rows_of(found)
    assert list(first) == ["model", "100 images", "400 images", "3,000 images", "slope"]
    each = [
        -np.polyfit(np.log([100, 400, 3000]), np.log([ERRORS["p4cnn", n][s] for n in (100, 400, 3000)]), 1)[0]
        for s in range(3)
    ]
    assert first["slope"].startswith(f"{np.mean(each):.2f} ± ") and second["slope"] == "-"
    for point in found.points:
        row = point.rows["p4cnn"]
        assert (
            cell(point, "p4cnn")
            == f"{row['test_acc_mean_pct']:.2f} ± {row['test_acc_ci95_pct']:.2f}"
            == first[found.label(point)]
        )
    text = family_text(found)
    assert "z2cnn-22: no slope, because an error is 0 (at 3,000), which has no logarithm" in text
    assert re.search(r"95 % interval over new seeds[;,. ]", text)


def test_a_family_that_is_half_measured_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no board of suite 'f' is in .*; equibench run f measures them"):
        load_family(tmp_path, family(), load_board)
    found = filled(
        tmp_path,
        {("p4cnn", 100): [40.0, 41.0, 42.0], ("p4cnn", 400): [20.0, 21.0, 22.0], ("z2cnn-22", 100): [60.0, 61.0, 62.0]},
    )
    text = family_text(found)
    assert "not measured yet: 3,000 images" in text and "z2cnn-22 is not measured at 400 images" in text
    assert rows_of(found)[0]["3,000 images"] == "" and rows_of(found)[1]["slope"] == "-"


def test_bold_is_the_rule_of_the_boards_ranks(tmp_path: Path) -> None:
    found = filled(tmp_path, ERRORS)
    marked = rows_of(found, lambda text: f"**{text}**")
    for point in found.points:
        assert point.board is not None
        for row in marked:
            assert row[found.label(point)].startswith("**") == (row["model"] in point.board.best)
    assert any(row["400 images"].startswith("**") for row in marked)


def test_slopes_are_against_what_differs_by_design_alone(tmp_path: Path) -> None:
    """All points see 6,000 examples: that their seconds differ is chance."""
    found = filled(tmp_path, ERRORS)
    assert set(slope_rows(found)["against"]) == {"images"}
    document = family_document(found)
    assert len(document["points"]) == 6 and len(document["boards"]) == 3
    assert {p["examples"] for p in document["points"]} == {(spec := plan(family()[0])[0]).steps * spec.recipe.batch}
    lines = family_csv(found).splitlines()
    assert len(lines) == 7 and lines[0].endswith("slope_against,slope,slope_ci95")


def test_over_budgets_the_slope_is_against_examples(tmp_path: Path) -> None:
    suites = points_of({**FAMILY, "budget": ["n6000", "n60000"], "models": ["p4cnn"]}, "here")
    for suite, error in zip(suites, (40.0, 4.0), strict=True):
        for spec in plan(suite):
            write_record(tmp_path, record_of(spec, 100 - error))
    found = load_family(tmp_path, suites, load_board)
    assert rows_of(found)[0].keys() == {"model", "n6000", "n60000", "slope"} and found.own_axis == "examples"
    assert rows_of(found)[0]["slope"].startswith("1.00 ± ")
    assert set(slope_rows(found)["against"]) == {"examples", "flops"}  # made-up seconds are the same


# What else counts images


def test_what_is_stale_at_a_point_is_run_again_as_that_point(tmp_path: Path) -> None:
    for point in filled(tmp_path, ERRORS).points:
        assert point.board is not None
        again = _suites(stale_runs(point.board), point.board)
        assert again and all(suite.board() == point.board.name for suite, _ in again)
        assert {spec.digest() for suite, _ in again for spec in plan(suite)} == {
            r.spec.digest() for r, _ in point.board.chosen
        }


def test_every_point_is_tuned_on_its_own_images() -> None:
    few, every = family()[0], family()[-1]
    tried = trials(few, plan(few))
    assert {s.train_images for s in tried} == {100} and tried[0].board != trials(every, plan(every))[0].board
    files = {tuned_file(Path(), s.model_copy(update={"recipe": "tuned"}).board()) for s in (few, every)}
    assert len(files) == 2


def test_a_board_of_device_seconds_says_its_images_before_its_hardware() -> None:
    timed = points_of({**FAMILY, "budget": "t20", "train_images": [100]}, "here")[0]
    assert re.fullmatch(r"digits-rot-t20-common-n100img-some-gpu-[0-9a-f]{4}-v2", timed.board("Some GPU; 80 GiB"))
    assert (
        examples_of(timed) is None
        and examples_of(family()[0]) == 6 * plan(family()[0])[0].steps * plan(family()[0])[0].recipe.batch
    )


# By command


SMALL = 'dataset = "bars"\ntrain_images = [16, 240]\nbudget = "n2000"\nseeds = 3\nmodels = ["tiny"]\n'


def _is_read_by_its_file(cwd: Path, common: tuple[str, ...]) -> None:
    shown = equibench("leaderboard", "--suite", "fam.toml", *common, cwd=cwd)
    assert shown.returncode == 0 and "16 images" in shown.stdout and "240 images" in shown.stdout
    wrong = equibench("leaderboard", "--suite", "fam.toml", *common, "--against", "tiny", cwd=cwd)
    assert wrong.returncode == 2 and "--against is for single boards" in wrong.stderr
    out = equibench("publish", "--suite", "fam.toml", *common, "--out", "site", cwd=cwd)
    assert out.returncode == 0, out.stderr
    page = (cwd / "site" / "family-fam.html").read_text()
    assert "240 images" in page and 'href="family-fam.html"' in (cwd / "site" / "index.html").read_text()
    for linked in re.findall(r'(?:href|src|data-base)="([^"#]+)"', page):
        if not linked.startswith("data:"):
            name = linked if "." in Path(linked).name else f"{linked}.dark.svg"
            assert (cwd / "site" / name).is_file(), linked


def test_a_small_family_is_read_by_its_file(tmp_path: Path) -> None:
    """Made-up records of its runs, one board each."""
    (tmp_path / "fam.toml").write_text(SMALL)
    for point, accuracy in zip(find_points(str(tmp_path / "fam.toml")), (60.0, 90.0), strict=True):
        for spec in plan(point):
            write_record(tmp_path / "r", record_of(spec, accuracy + spec.seed))
    _is_read_by_its_file(tmp_path, ("--include", TINY, "--results", "r"))


@pytest.mark.whole
def test_a_small_family_from_its_file_to_its_page(tmp_path: Path) -> None:
    """`test_a_family_is_one_table` has its runs, `test_the_page_is_whole_in_both_themes` its page, and
    `test_a_small_family_is_read_by_its_file` what reads it by its file.
    """
    (tmp_path / "fam.toml").write_text(SMALL)
    common = ("--include", TINY, "--results", "r")
    done = equibench("run", "fam.toml", *common, "--data-root", "d", "--quiet", "--json", "--jobs", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["boards"] == ["bars-n2000-common-n16img-v2", "bars-n2000-common-v2"]
    assert [(p["train_images"], p["runs_ok"]) for p in document["points"]] == [(16, 3), (240, 3)]
    kept = [RunRecord.model_validate_json(p.read_text()) for p in tmp_path.glob("r/runs/*/*.json")]
    assert sorted(r.results.train_images for r in kept if r.results) == [16] * 3 + [240] * 3
    assert {r.spec.train_images for r in kept} == {16, None} and len(
        {r.results.weights_sha256 for r in kept if r.results}
    ) == 6

    _is_read_by_its_file(tmp_path, common)
    point = equibench("run", "fam.toml", *common, "--train-images", "16", "--data-root", "d", "--quiet", cwd=tmp_path)
    assert point.returncode == 0 and "2,000 examples of 16 images, drawn by the seed" in point.stdout
    assert len(list(tmp_path.glob("r/runs/*/*.json"))) == 6, "finished runs were run again"

    run = next(r for r in kept if r.spec.train_images == 16)
    again = equibench("replay", run.run_id, *common, "--data-root", "d", cwd=tmp_path)
    assert again.returncode == 0 and "agrees (" in again.stdout, again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "fam.toml", "--train-images", "16,241"), "train_images 241: data set 'bars' has 240 training images"),
        (("run", "fam.toml", "--train-images", "16,x"), "--train-images '16,x'"),
        (("tune", "fam.toml", "--train-images", "1"), "has 2 classes"),
        (("leaderboard", "--suite", "fam.toml"), "no board of suite 'fam' is in"),
        (("leaderboard", "bars-n2000-common", "--suite", "fam.toml"), "give a BOARD or --suite, not both"),
        (("publish", "--suite", "fam.toml"), "no board of suite 'fam' is in"),
        (("publish", "--suite", "nothing.toml"), "no suite file"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    (tmp_path / "fam.toml").write_text(SMALL)
    done = equibench(*arguments, "--include", TINY, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1, done
    assert not (tmp_path / "leaderboards").exists() and not (tmp_path / "published").exists()
