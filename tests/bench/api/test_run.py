"""Head-to-heads from Python: arguments, results, and what goes on from them."""

import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equibench
import numpy as np
import pytest
import torch
from equibench.bench.api.boards import load_board
from equibench.bench.api.models import build_model, check, list_datasets, list_models, list_suites, load_model
from equibench.bench.api.run import Result, _plain, run
from equibench.bench.boards.board import load_board as read
from equibench.bench.boards.notes import refresh_command
from equibench.bench.records.store import verdict_path
from equibench.bench.records.verdict import Verdict, passed
from equibench.bench.runner.head_to_head import Outcome
from equibench.bench.spec.suite import find_suite, plan, suite_names
from equibench.bench.tools.files import results_root
from equibench.bench.training.prepare import build_from_seed
from equibench.datasets.images import load
from equibench.registry import DATASETS, MODELS, PYTHON_CALL, UserError, forget, option

from ..publish.boards import BOARD, fill

torch.set_num_threads(1)
#: A few steps of training on one core.
QUICK: dict[str, Any] = {"dataset": "digits-rot", "budget": "smoke", "seeds": 1, "device": "cpu", "progress": False}
SCRIPT = '''
import sys
import torch
from torch import nn
import equibench
from equibench import register_model

WIDTH = 5


@register_model("script-net", group="none", invariant="none", source="https://example.org/script")
def script_net(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """A convolution and a mean."""
    return nn.Sequential(nn.Conv2d(in_channels, WIDTH, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(WIDTH, num_classes))


result = equibench.run({"dataset": "digits-rot", "budget": "e0.1", "models": ["script-net"], "seeds": 1}, device="cpu")
print(result)
(record,) = [r for r, _ in result.board.board.chosen]
print("run:", record.run_id, record.provenance.origin, record.provenance.command)
'''


def test_a_suites_rows_are_changed_by_keywords(tmp_path: Path) -> None:
    done = run("smoke", results=tmp_path, models=["z2cnn-22"], device="cpu", progress=False)
    assert [s for s, _ in done.ran.values()] == ["ok"] and done.failed == [] and done.skipped == 0
    assert "z2cnn-22  seed 0  ok" in repr(done) and "smoke runs, which are not shown in tables" in repr(done)
    again = run(models=["z2cnn-22"], results=tmp_path, **QUICK)
    assert again.ran == {} and again.skipped == 1, "the same run, however it is asked for"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"suite": "quickstrat"}, "did you mean 'quickstart'"),
        ({"dataset": "digits-rot"}, "models and budget are missing"),
        ({"dataset": "digits-rot", "budget": "e1"}, "models is missing"),
        ({"suite": {}}, "dataset, models and budget are missing"),
        ({"suite": "quickstart", "seeds": 10**9}, "'seeds': input should be less than or equal to"),
        ({"suite": "quickstart", "reciepe": "paper"}, "unknown key 'reciepe'; did you mean 'recipe'"),
        ({"suite": "quickstart", "models": ["p4cn"]}, "did you mean 'p4cnn'"),
        ({"suite": {"dataset": "digits-rot", "models": ["p4cnn"], "budget": 5}}, "'budget'"),
        ({"suite": "quickstart", "seeds": 1.5}, "seeds"),
        ({"dataset": "digits-rot", "budget": "e1", "models": "p4cnn"}, "should be a valid list, not 'p4cnn'"),
        ({"dataset": "digits-rot", "budget": "e1", "models": 7}, "should be a valid list, not 7"),
        ({"suite": 42}, "the suite should be the name of a suite, the path of its file, a dictionary"),
        (
            {"suite": "quickstart", "includes": "net.py"},
            "includes should be a list of files, as ['my_net.py'], not 'net.",
        ),
        ({"suite": "quickstart", "includes": ["net.py"]}, "includes=['net.py']: there is no such file"),
        ({"suite": "quickstart", "jobs": "2"}, "jobs should be a whole number, not '2'"),
        ({"suite": "quickstart", "device": "tpu"}, "device='tpu': use auto, cpu, cuda or cuda:<number>"),
        ({"suite": "quickstart", "budget": "t5", "device": "cpu"}, "(budget='e5'), or device='cuda'"),
        ({"suite": "quickstart", "jobs": 0}, "jobs=0: give a whole number of at least 1"),
        ({"suite": "quickstart", "machine": "cpu"}, "machine should be a Machine, not 'cpu'"),
        ({"suite": "quickstart", "refresh": "no"}, "refresh should be True or False, not 'no'"),
        ({"suite": "quickstart", "includes": [3]}, "includes should be a list of files, as ['my_net.py'], not [3]"),
        ({"suite": "quickstart", "data_rot": "x"}, "unknown key 'data_rot'; did you mean 'data_root'"),
        ({"suite": "quickstart", "seds": 1}, "unknown key 'seds'; did you mean 'seeds'?"),
        ({"suite": "quickstart", "models": ["z2cnn-22"], "data_root": __file__}, "another folder with data_root=… or"),
        (
            {"suite": "quickstart", "models": ["z2cnn-22"], "recipe": "tuned"},
            "equibench tune --models z2cnn-22 --dataset digits-rot --budget e2 --results ",
        ),
        (
            {"suite": "quickstart", "models": np.array(["z2cnn-22", "p4cnn"]), "recipe": "tuned"},
            "equibench tune --models z2cnn-22,p4cnn --dataset digits-rot --budget e2 --results ",
        ),
        (
            {"suite": {"dataset": "digits-rot", "models": ["z2cnn-2"], "budget": "e1", "train_images": 100}}
            | {"recipe": "tuned"},
            "equibench tune --models z2cnn-2 --dataset digits-rot --budget e1 --train-images 100 --results ",
        ),
        (
            {"dataset": "digits-rot", "models": ["tv-vit_b_32"], "budget": "e1"},
            "(equibench.list_models(dataset='digits-rot') lists suitable ones)",
        ),
    ],
)
def test_a_wrong_argument_is_one_sentence_and_leaves_nothing(given: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        run(results=tmp_path / "results", progress=False, **given)
    assert says in str(error.value) and not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: build_model("p4cn"), "(includes=[…] adds models of your own); did you mean 'p4cnn'"),
        (lambda: build_model(torch.nn.Linear(2, 2)), "equibench.build_model: name should be a text, not Linear("),
        (lambda: check("nope"), "includes=[…]"),
        (lambda: check(3), "equibench.check: model should be a text, not 3"),
        (lambda: list_models("zzz"), "there is no model 'zzz'"),
        (lambda: list_datasets("zzz*"), "no data set matches zzz*"),
        (lambda: list_suites("quikstart"), "did you mean 'quickstart'"),
        (lambda: list_models(includes="net.py"), "includes should be a list of files"),
        (lambda: load_board(4), "equibench.load_board: name should be a text, not 4"),
        (
            lambda: load_board("b", results=__file__),
            "test_run.py is a file, not a folder; give the results folder with re",
        ),
        (lambda: run("quickstart", results=f"{__file__}/below"), "give the results folder with results=…"),
        (lambda: load_model("00", device="tpu"), "device='tpu': use auto, cpu, cuda or cuda:<number>"),
        (lambda: build_model("zzzzzzzzzz"), "see: equibench.list_models()"),
        (lambda: build_model("p4cnn", -1), "equibench.build_model: in_channels should be at least 1, not -1"),
        (lambda: build_model("p4cnn", seed=-1), "equibench.build_model: seed should be at least 0, not -1"),
        (lambda: check("p4cnn", deadline=0), "deadline=… should be above 0, not 0"),
        (lambda: load_board("b", results="/nowhere/r"), "equibench.run('quickstart', results='/nowhere/r') makes one"),
    ],
)
def test_messages_in_python_name_arguments_and_not_options(
    call: Callable[[], object], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for registry in (MODELS, DATASETS):
        monkeypatch.setattr(registry, "_included", [])
    with pytest.raises(UserError) as error:
        call()
    assert says in str(error.value) and "--" not in str(error.value)
    assert option("include", "FILE") == "--include FILE", "only inside of a call"


def test_numbers_and_lists_of_other_libraries_are_those_of_a_suite_file() -> None:
    values = {"seeds": np.arange(2), "models": (m for m in ("p4cnn",)), "train_images": np.int64(300)}
    assert _plain(values) == {"seeds": [0, 1], "models": ["p4cnn"], "train_images": 300}
    assert [type(v) for v in _plain((np.int64(2), range(2), torch.tensor(3), Path("a"), np.str_("b")))] == [
        int, list, int, str, str,
    ]  # fmt: skip
    assert _plain(b"e2") == b"e2" and _plain(True) is True, "the schema refuses them in its own words"


def test_a_refused_file_does_not_stay(tmp_path: Path) -> None:
    """Else each later call of the same notebook would be refused for it."""
    head = "from equibench import register_model\n"
    rest = ", group='none', invariant='none', source='x')\ndef net(in_channels, num_classes, image_size): ...\n"
    texts = {"name": "@register_model(N", "taken": "@register_model('p4cnn'", "syntax": "@register_model(("}
    for name, text in texts.items():
        path = tmp_path / f"{name}.py"
        path.write_text(head + text + rest)
        with pytest.raises(UserError, match=path.name):
            list_models(includes=[path])
        assert path not in MODELS.included and len(list_models("p4cnn")) == 1


def test_a_removed_file_is_no_error_of_later_calls(tmp_path: Path) -> None:
    path = tmp_path / "gone.py"
    path.write_text(
        "from equibench import register_model\n@register_model('gone', group='none', invariant='none', source='x')\n"
        "def net(in_channels, num_classes, image_size): ...\n"
    )
    try:
        assert len(list_models("gone", includes=[path])) == 1
        path.write_text("from equibench import register_model\n@register_model((")
        with pytest.raises(UserError, match=r"gone\.py"):
            list_models("p4cnn")
        path.unlink()
        assert len(list_models("p4cnn")) == 1
    finally:
        forget(path)


@pytest.mark.parametrize("kind", ["finding", pytest.param("deadline", marks=pytest.mark.whole)])
def test_advice_of_a_check_names_arguments(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The checks are in another process, which does not know who asks."""
    inputs = {"1x30x30->7": 14} if kind == "finding" else None
    net = tmp_path / "net.py"
    net.write_text(
        "import time\nimport torch\nfrom equibench import register_model\nfrom torch import nn\n\n"
        f"@register_model('advice-{kind}', group='none', invariant='none', source='made up', params={inputs})\n"
        "def net(in_channels, num_classes, image_size):\n"
        f"    time.sleep({0 if kind == 'finding' else 60})\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, num_classes))\n"
    )
    limit, shown = math.inf if kind == "finding" else 8.0, list[str]()
    monkeypatch.setattr("equibench.bench.api.display.line", lambda: shown.append)
    found = check(f"advice-{kind}", includes=[net], results=tmp_path, deadline=limit)
    assert shown[0] == "citation …" and len(shown) > 2 and shown[-1] == "", "the checks, while they are made"
    assert "--" not in repr(found).replace("---", "")
    assert ("dataset=…" if kind == "finding" else "use deadline=…") in " ".join(found.table()["do"])


def test_a_verdict_that_cannot_be_kept_is_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Verdict("p4cnn", "1x28x28->10", "digits-rot", "e2", "0" * 16, [passed("fine")])
    monkeypatch.setattr("equibench.bench.check.session.check_model", lambda *_, **__: found)
    verdict_path(tmp_path, "p4cnn", "0" * 16).parent.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match=r"the verdict could not be written: .*is a file, not a folder"):
        assert check("p4cnn", results=tmp_path).accepted


def test_the_title_of_a_suite_is_that_of_its_own_rows(tmp_path: Path) -> None:
    fill(tmp_path)
    suite = find_suite("quickstart")
    outcomes = [Outcome(suite, read(tmp_path, BOARD), tmp_path)]
    assert suite.title in repr(Result(outcomes)) and "suite quickstart" in repr(Result(outcomes))
    changed = repr(Result(outcomes, is_changed=True))
    assert suite.title not in changed and ", suite" not in changed


def test_a_family_is_one_table(tmp_path: Path) -> None:
    suite = {"dataset": "digits-rot", "models": ["z2cnn-2"], "budget": "e1", "train_images": [200, 400], "seeds": 1}
    data = tmp_path.parent / "data sets"
    options: dict[str, Any] = {"results": tmp_path, "data_root": data, "device": "cpu", "progress": False}
    with pytest.raises(UserError, match="did you mean"):
        run({**suite, "models": ["p4cn"]}, **options)
    assert not list(tmp_path.iterdir()), "all points are looked at before the first is run"
    done = run(suite, **options)
    assert len(done.ran) == 2 == len(done.boards) and done.table()["train_images"].tolist() == [200, 400]
    again = refresh_command(done.boards[0].board, ["z2cnn-2"])
    assert shlex.split(again)[-2:] == ["--data-root", str(data)], "what it prints later names it too"
    assert "200 images" in repr(done) and "200 images" in done._repr_html_()
    with pytest.raises(UserError, match="family of 2 boards"):
        done.board  # noqa: B018


def test_a_result_shows_the_suites_rows_alone(tmp_path: Path) -> None:
    fill(tmp_path)
    suite = find_suite("quickstart").model_copy(update={"models": ["p4cnn", "z2cnn-22"], "seeds": 3})
    done = Result([Outcome(suite, read(tmp_path, BOARD), tmp_path, stale={"p4cnn seed 0": "source"})])
    assert set(done.table()["model"]) == {"p4cnn", "z2cnn-22"} == set(done.board.models)
    assert done.table()["runs"].tolist() == [3, 3]
    for shown in (repr(done), done._repr_html_()):
        assert "p4cnn seed 0: not run again, although its source changed since; refresh=True runs it again" in shown


def test_lists_have_what_is_registered() -> None:
    assert set(list_models()["name"]) == set(MODELS.entries())
    assert set(list_models("p4*", dataset="digits-rot")["name"]) < set(list_models("p4*")["name"])
    assert set(list_datasets()["name"]) == set(DATASETS.entries())
    assert list_suites()["name"].tolist() == suite_names()


def test_a_network_is_built_as_runs_build_it() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    model = build_model("z2cnn-22", dataset="digits-rot", seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    spec = plan(find_suite("quickstart"))[0].model_copy(update={"model": "z2cnn-22", "seed": 3})
    theirs = build_from_seed(spec, load("digits-rot"), torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), theirs.parameters(), strict=True))
    assert build_model("z2cnn-22", 3, 7, 32)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    with pytest.raises(UserError, match="did you mean"):
        build_model("p4cn")


def test_a_script_registers_its_model_and_its_network_is_loaded_elsewhere(tmp_path: Path) -> None:
    """The script runs once: the processes of runs import its model alone."""
    script = tmp_path / "study.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "EQUIBENCH_RESULTS": str(tmp_path / "results")}
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("digits-rot-e0.1-common") == 1 and "script-net" in done.stdout
    ident, origin, command = done.stdout.split("run: ")[1].strip().split(" ", 2)
    source = tmp_path / "results" / "sources" / origin
    assert "WIDTH = 5" in source.read_text() and "equibench.run" not in source.read_text()
    assert command.startswith("equibench.run(") and str(tmp_path) not in command

    before = torch.get_rng_state()
    trained = load_model(ident[:6], results=tmp_path / "results")
    assert torch.equal(torch.get_rng_state(), before) and not trained.training
    (path,) = (tmp_path / "results" / "runs").glob("*/*.json")
    recorded = json.loads(path.read_text())["results"]
    assert trained.test_accuracy_pct() == recorded["test_acc_pct"]
    images = torch.from_numpy(trained.data.test.images[:4])
    with torch.no_grad():
        assert torch.equal(trained(images), trained.network(trained.normalise(images)))
        assert torch.equal(trained(images), trained(images.float()))
        with pytest.warns(
            UserWarning, match="no intensity of these images is above 1, but full intensity is 255 here"
        ) as said:
            trained(images / 255)
    assert said[0].filename == __file__
    source.write_text(source.read_text().replace("WIDTH = 5", "WIDTH = 6"))
    with pytest.raises(UserError, match="source of 'script-net' has changed"):
        load_model(ident[:6], results=tmp_path / "results")


def test_a_run_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="load_model 'abcd'"):
        load_model("abcd", results=tmp_path)


def test_the_home_folder_is_found_without_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"in {tmp_path}/r;"):
        load_board("b", results="~/r")
    with pytest.raises(UserError, match=rf"includes=\['{tmp_path}/net.py'\]: there is no such file"):
        list_models(includes=[Path("~/net.py")])
    with pytest.raises(UserError, match=rf"{tmp_path}/none.toml"):
        run("~/none.toml", results="~/r")
    assert not list(tmp_path.iterdir())


def test_a_wrong_keyword_names_the_function() -> None:
    with pytest.raises(TypeError, match=r"list_models\(\) got an unexpected keyword argument 'datset'"):
        equibench.list_models(datset="digits-rot")  # type: ignore[call-arg]


def test_a_file_in_capitals_is_named() -> None:
    with pytest.raises(UserError, match=r"'MY-NET\.PY'"):
        equibench.list_models(includes=["MY-NET.PY"])


def test_a_results_folder_without_permission_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: object, *options: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.stat", forbidden)  # the tests may run as an administrator, who may read everything
    assert results_root("/closed/results") == Path("/closed/results")


def test_an_option_with_the_name_of_a_keyword_can_be_pasted() -> None:
    before = PYTHON_CALL.set({})
    try:
        assert eval(f"dict({option('class', 'as-published')})") == {"class": "as-published"}
        assert eval(f"dict({option('include', 'a.py')})") == {"includes": ["a.py"]}
    finally:
        PYTHON_CALL.reset(before)
