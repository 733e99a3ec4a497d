"""What docs/python.md shows, and the notebook beside it, is executed as it stands: beside made-up runs, and with runs
of a smaller budget.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import equibench
import nbformat
import numpy as np
import pytest
import torch
from equibench.bench.boards.board import load_board
from equibench.bench.records.record import RunRecord, read_board
from equibench.bench.records.verdict import Verdict
from equibench.bench.runner.head_to_head import Outcome
from equibench.bench.spec.suite import Suite
from equibench.bench.training.prepare import Loaded, build_from_seed
from equibench.bench.training.trained_network import TrainedModel
from equibench.datasets.images import load
from equibench.registry import MODELS
from equibench.tests.bench.api.test_notebook_cells import execute, main  # noqa: F401  a fixture
from equibench.tests.bench.records.test_outcomes import drawn, put
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
NOTEBOOK = ROOT / "docs" / "examples" / "head_to_head.ipynb"
BOARD = "digits-rot-e0.1-common-v2"


def block(name: str) -> str:
    """The fenced block below the comment that names it."""
    found = re.search(rf"<!-- python: {name} -->\n```\w*\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"the page shows no {name}"
    return found[1]


def test_the_public_names_are_seen_at_once() -> None:
    code = "import sys, equibench; print(dir(equibench)); print('click' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, modules = done.stdout.splitlines()
    assert eval(names) == sorted([*equibench.__all__, "__version__"]) and modules == "False False"
    assert set(equibench.__all__) == set(equibench._PUBLIC)
    for name in equibench.__all__:
        assert getattr(equibench, name).__doc__, name
    assert re.fullmatch(r"[0-9]+\.[0-9]+.*|unknown", equibench.__version__)
    with pytest.raises(AttributeError, match="no_such_name"):
        equibench.no_such_name  # noqa: B018


#: Cells that end with an error, because one of them has no source that a run could take.
WITHOUT_SOURCE = (
    "import equibench\nfrom torch import nn\nfrom equibench import register_model\nfor WIDTH in (3, 5): pass",
    "@register_model('loop-net', group='none', invariant='none', source='https://example.org')\n"
    "def loop_net(in_channels, num_classes, image_size):\n    return nn.Linear(WIDTH, num_classes)",
    "equibench.run(dataset='digits-rot', models=['loop-net'], budget='smoke', seeds=1)",
)
FAILS = {"tags": ["raises-exception"]}


def cells(whole: bool = False) -> list[str]:
    """The code of the notebook, with a smaller budget unless it is wanted whole."""
    book = nbformat.read(NOTEBOOK, as_version=4)
    text = [cell.source for cell in book.cells if cell.cell_type == "code"]
    assert sum('budget="e2"' in cell for cell in text) == 1
    assert sum("seeds=3" in cell for cell in text) == 1
    if whole:
        return text
    return [cell.replace('budget="e2"', 'budget="e0.1"').replace("seeds=3", "seeds=2") for cell in text]


def untrained(root: Path, record: RunRecord, device: str, data_root: Path | None) -> TrainedModel:
    """The network of a run with its initial weights, which the record then is of."""
    here = torch.device(device)
    data = load(record.spec.dataset)
    found = TrainedModel(build_from_seed(record.spec, data, here), Loaded(data, record.spec, here), record).eval()
    results = record.results.model_copy(update={"test_acc_pct": found.test_accuracy_pct()})
    found.record = record.model_copy(update={"results": results})
    return found


def made_up_runs(root: Path, *models: str) -> None:
    for model in models:
        for seed in range(3):
            put(root, drawn(np.random.RandomState(seed), 0.9), model=model, seed=seed)


@pytest.fixture
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Suite]:
    """Head-to-heads end at once, with made-up records; networks are not trained, and nothing is checked.

    Returns:
        the suites that would have run.
    """
    root, asked = tmp_path / "leaderboards", list[Suite]()
    made_up_runs(root, "p4cnn", "z2cnn-22")

    def run(suite: Suite, **options: Any) -> Outcome:
        assert all(MODELS.find(model) for model in suite.models)
        asked.append(suite)
        return Outcome(suite, load_board(root, suite.board()), root)

    monkeypatch.setattr("equibench.bench.api.run.run_suite", run)
    monkeypatch.setattr("equibench.bench.training.trained_network.trained_model", untrained)
    said = Verdict("blur-net", "1x28x28->10", "digits-rot", "e20")
    monkeypatch.setattr("equibench.bench.check.session.check_model", lambda model, **_: said)
    monkeypatch.setattr("equibench.bench.cli.check.text_of", repr)
    monkeypatch.delenv("EQUIBENCH_RESULTS", raising=False)
    monkeypatch.chdir(tmp_path)
    return asked


def test_every_statement_of_the_page_works_beside_made_up_runs(nothing_runs: list[Suite], main: ModuleType) -> None:  # noqa: F811
    for name in ("run", "board", "model", "own"):
        execute(main, block(name))
    head_to_head, own = nothing_runs
    assert head_to_head.board() == own.board() == "digits-rot-e2-common-v2" and own.models[0] == "blur-net"
    assert head_to_head.models == ["p4cnn", "z2cnn-22"] and head_to_head.seed_list == [0, 1, 2]
    assert Path("accuracy.pdf").stat().st_size > 1000
    (source,) = Path("leaderboards", "sources").iterdir()
    assert "equibench.run" not in source.read_text() and "blur-net" in source.read_text()


def test_every_cell_of_the_notebook_works_beside_made_up_runs(
    nothing_runs: list[Suite],
    main: ModuleType,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    made_up_runs(Path("leaderboards"), "orbit-cnn")
    for text in cells(whole=True):
        execute(main, re.sub(r"(?m)^( *)!.*", r"\1pass", text))
    ((suite,), shown) = nothing_runs, capsys.readouterr().out
    assert suite.models == ["orbit-cnn", "p4cnn", "z2cnn-22"] and suite.board() == "digits-rot-e2-common-v2"
    change, scale = (float(n) for n in re.findall(r"logit: ([0-9.e+-]+?)[,\n]", shown))
    assert 0 <= change < 1e-4 * scale, "it claims that quarter turns change nothing"
    (source,) = Path("leaderboards", "sources").glob("orbit-cnn-*.py")
    assert "class OrbitCNN" in source.read_text() and "find_spec" not in source.read_text()


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """The notebook and then `WITHOUT_SOURCE`, in one kernel: its folder, and the outputs of each cell."""
    folder = tmp_path_factory.mktemp("notebook")
    code = [nbformat.v4.new_code_cell(text) for text in (*cells(), *WITHOUT_SOURCE)]
    code[-1].metadata = FAILS
    book = nbformat.v4.new_notebook(cells=code)
    old = {name: os.environ.get(name) for name in ("EQUIBENCH_RESULTS", "PYTHONPATH")}
    os.environ.pop("EQUIBENCH_RESULTS", None)
    try:
        NotebookClient(
            book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        ).execute()
    finally:
        os.environ.update({name: value for name, value in old.items() if value is not None})
    return folder, [cell.outputs for cell in book.cells]


@pytest.mark.whole
def test_the_page_is_executed_in_its_order(executed: tuple[Path, list[Any]], tmp_path: Path) -> None:
    """`test_every_statement_of_the_page_works_beside_made_up_runs`, with runs and as a process of its own.

    All of it is one script: what its models need is found in it.

    It begins with the runs of the notebook that it asks for too; its own model is run and checked.
    """
    copied = shutil.copytree(executed[0] / "leaderboards", tmp_path / "leaderboards")
    shutil.rmtree(copied / "sources")
    for record in read_board(copied, BOARD)[0]:
        if record.spec.model == "orbit-cnn":
            for path in (copied / "runs" / BOARD).rglob(f"{record.run_id}.*"):
                path.unlink()
    text = "\n".join(block(name) for name in ("run", "board", "model", "own"))
    for long, short in (('"e2"', '"e0.1"'), ("e2-common", "e0.1-common"), ("seeds=3", "seeds=2")):
        assert long in text
        text = text.replace(long, short)
    (tmp_path / "page.py").write_text(text)
    environment = {**os.environ, "MPLBACKEND": "agg"}
    environment.pop("EQUIBENCH_RESULTS", None)
    done = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "accuracy.pdf").stat().st_size > 1000
    assert "blur-net: 1x28x28->10" in done.stdout and "citation" in done.stdout
    (source,) = (tmp_path / "leaderboards" / "sources").iterdir()
    assert "equibench.run" not in source.read_text() and "blur-net" in source.read_text()
    found = Counter(record.spec.model for record in read_board(copied, BOARD)[0])
    assert found == {"p4cnn": 2, "z2cnn-22": 2, "blur-net": 1}


@pytest.mark.whole
def test_the_notebook_is_executed(executed: tuple[Path, list[Any]]) -> None:
    """`test_every_cell_of_the_notebook_works_beside_made_up_runs`, with runs and in a kernel."""
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    assert not any(cell.get("outputs") for cell in book.cells), "outputs of one machine belong to it alone"
    text, (folder, all_outputs) = cells(), executed
    shown = [json.dumps(each, ensure_ascii=False) for each in all_outputs[: len(text)]]
    outputs = dict(zip(text, shown, strict=True))
    (table,) = [out for cell, out in outputs.items() if "equibench.run(" in cell]
    assert "<table>" in table and "orbit-cnn" in table and "reference" not in table.split("<table>")[0]
    assert re.search(r"runs\W+6/6", re.sub(r"<[^>]*>", "", table)), "the bars ended with all runs"
    (picture,) = [out for cell, out in outputs.items() if ".plot(" in cell]
    assert "image/png" in picture
    change, scale = (float(n) for n in re.findall(r"logit: ([0-9.e+-]+?)[,\\]", outputs[text[-1]]))
    assert 0 <= change < 1e-4 * scale, "it claims that quarter turns change nothing"
    (source,) = (folder / "leaderboards" / "sources").glob("orbit-cnn-*.py")
    assert "class OrbitCNN" in source.read_text() and "find_spec" not in source.read_text()


@pytest.mark.whole
def test_a_cell_that_has_no_source_is_an_error_in_the_notebook(executed: tuple[Path, list[Any]]) -> None:
    """`test_what_has_no_source_is_said` has more such cells, and no kernel."""
    (error,) = [each for each in executed[1][-1] if each.output_type == "error"]
    assert "loop_net() needs 'WIDTH', which cells change after they set it" in error.evalue


@pytest.mark.parametrize("prefix", ["equibench/", pytest.param("equibench-main/", marks=pytest.mark.whole)])
def test_the_archive_is_installed_as_colab_does(prefix: str, tmp_path: Path) -> None:
    uv = os.environ.get("UV") or shutil.which("uv")
    if not uv or not shutil.which("unzip") or not (ROOT / ".git").exists():
        pytest.skip("uv, unzip or the repository is not here")
    archive = ["git", "archive", "--format=zip", f"--prefix={prefix}", "-o", str(tmp_path / "equibench.zip"), "HEAD"]
    subprocess.run(archive, cwd=ROOT, check=True)
    first, *rest = (line.removeprefix("!") for line in block("colab").strip().splitlines())
    assert first == "pip install -q uv"
    # Into a folder of its own, and without what is installed here already.
    own = f"{uv} pip install --no-deps --target {tmp_path / 'site'} --python {sys.executable}"
    script = "\n".join(rest).replace("uv pip install --system", own)
    subprocess.run(["bash", "-ec", script], cwd=tmp_path, check=True, capture_output=True)
    code = "import equibench; print(equibench.__file__, len(equibench.list_models()))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(str(tmp_path / "site")), done.stderr
