"""The registry: found without importing, unique names, the nearest names in errors."""

import functools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from equibench import scan, source
from equibench.registry import (
    MODELS,
    Entry,
    Registry,
    UserError,
    build_model,
    include,
    parse_shape,
    register_model,
)
from equibench.scan import scan_file
from equibench.source import data_hash, source_hash

GOOD = '''
import nothing_of_this_name
from equibench import register_model

@register_model("tiny-{width}", group="C4", invariant="none", source="arXiv:0000.00000",
    members={"tiny": {"args": {"width": 3}, "params": {"1x28x28->10": 7}, "invariant": "C4"}})
def tiny(in_channels: int, num_classes: int, image_size: int, *, width: int):
    """One line about it.

    More.
    """
'''


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def registry_with(*paths: Path) -> Registry:
    registry = Registry("model", "models")
    for path in paths:
        registry.include(path)
    return registry


def test_a_listing_imports_nothing(tmp_path: Path) -> None:
    # The file imports a module that does not exist: reading its registrations must not run it.
    entries = registry_with(write(tmp_path, GOOD)).entries()
    assert entries["tiny"].fields["params"] == {"1x28x28->10": 7}
    assert entries["tiny"].fields["invariant"] == "C4" and entries["tiny-{width}"].fields["invariant"] == "none"
    assert entries["tiny"].doc == "One line about it."


def test_listing_models_loads_no_torch() -> None:
    code = "import sys; from equibench.registry import MODELS; MODELS.entries(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_names_are_exact_then_members_then_templates(tmp_path: Path) -> None:
    registry = registry_with(write(tmp_path, GOOD))
    assert registry.find("tiny").arguments == {"width": 3}
    assert registry.find("tiny-5").arguments == {"width": 5}
    assert registry.find("tiny-5").get("invariant") == "none"
    with pytest.raises(UserError, match="tiny-x"):
        registry.find("tiny-x")


def test_a_name_that_fits_two_templates_is_refused(tmp_path: Path) -> None:
    other = GOOD.replace("tiny-{width}", "t{kind}-{width}").replace('"tiny":', '"tiny-own":')
    other = other.replace("width: int)", "width: int, kind: str)")
    registry = registry_with(write(tmp_path, GOOD), write(tmp_path, other, "other.py"))
    with pytest.raises(UserError, match="more than one family"):
        registry.find("tiny-5")


def test_a_duplicate_name_names_both_places(tmp_path: Path) -> None:
    registry = registry_with(write(tmp_path, GOOD), write(tmp_path, GOOD, "again.py"))
    with pytest.raises(UserError, match=r"again\.py:5.*mine\.py:5"):
        registry.entries()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('group="C4"', 'group="C" + str(4)'), r"mine\.py:5: 'group' must be a literal"),
        (('group="C4"', 'group="Z4"'), r"mine\.py:5: group='Z4' is not a group"),
        (('group="C4", ', ""), "has no 'group', which is required"),
        (('group="C4"', 'grup="C4"'), r"no argument 'grup'; did you mean 'group'"),
        (("width: int)", "width)"), "keyword-only parameter 'width'"),
        (('"1x28x28->10"', '"28"'), "channels x size x size -> classes"),
        (("import nothing_of_this_name", "import ("), "not a Python file"),
        (('"tiny-{width}"', '"=tiny-{width}"'), "is not a valid name"),
        (('"tiny-{width}"', '"NA"'), r"mine\.py:5: tables use 'NA' for a missing value"),
        (('"tiny-{width}"', '"None"'), "'None' "),
        (('{"tiny": {', '{"null": {'), "tables use 'null' for a missing value"),
    ],
)
def test_wrong_registrations_say_file_and_line(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    registry = registry_with(write(tmp_path, GOOD.replace(*change)))
    with pytest.raises(UserError, match=message):
        registry.entries()


def test_unknown_names_say_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'p4cnn'"):
        MODELS.find("p4cn")


def test_an_unknown_wrapper_is_refused() -> None:
    with pytest.raises(UserError, match="no wrapper 'nonsense'"):
        MODELS.find("p4cnn+nonsense")


def test_a_wrapper_gets_of_the_images_what_it_asks_for(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
from equibench import register_model, register_wrapper

@register_model("listed", group="none", invariant="none", source="arXiv:0000.00000")
def listed(in_channels: int, num_classes: int, image_size: int):
    return [in_channels, num_classes, image_size]

@register_wrapper("ask-{times}", source="arXiv:0000.00000")
def ask(model, *, times: int, image_size: int, in_channels: int):
    return [model, times, image_size, in_channels]

@register_wrapper("no-question", source="arXiv:0000.00000")
def no_question(model):
    return [model]
""",
    )
    include([path])
    assert build_model("listed+ask-2+no-question+ask-3", 5, 6, 7) == [[[[5, 6, 7], 2, 7, 5]], 3, 7, 5]


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match="no such file"):
        Registry("model", "models").include("not-there.py")


def test_shapes_are_square() -> None:
    assert parse_shape("3x32x32->100", "here") == (3, 32, 100)
    with pytest.raises(UserError):
        parse_shape("3x32x31->100", "here")


def test_patterns_list_in_natural_order() -> None:
    names = [e.name for e in MODELS.match(["wrn-[12]*-[0-9]*"]) if e.name[-1].isdigit()]
    widths = [tuple(int(part) for part in name.split("-")[1:]) for name in names]
    assert len(names) > 3 and widths == sorted(widths) and (16, 8) in widths


def test_files_without_registrations_are_passed_over(tmp_path: Path) -> None:
    assert list(scan_file(write(tmp_path, "x = 1\n"), "model", "x")) == []


def test_a_template_spells_no_missing_value(tmp_path: Path) -> None:
    registry = registry_with(write(tmp_path, TEMPLATE))
    assert registry.find("no").arguments == {"rest": "o"}
    for name in ("na", "nan", "null", "none"):
        with pytest.raises(UserError, match=f"no model '{name}'"):
            registry.find(name)


TEMPLATE = '''
from equibench import register_model

@register_model("n{rest}", group="C4", invariant="none", source="arXiv:0000.00000")
def tiny(in_channels: int, num_classes: int, image_size: int, *, rest: str):
    """One line about it."""
'''


def test_a_file_that_begins_with_a_mark_of_its_encoding_is_read_and_hashed_without_it(tmp_path: Path) -> None:
    with_mark, without = tmp_path / "a" / "mine.py", tmp_path / "b" / "mine.py"
    for path, mark in ((with_mark, b"\xef\xbb\xbf"), (without, b"")):
        path.parent.mkdir()
        path.write_bytes(mark + GOOD.encode())
    found = [registry_with(path).find("tiny-7") for path in (with_mark, without)]
    assert found[0].arguments == found[1].arguments == {"width": 7}
    assert source_hash(found[0]) == source_hash(found[1])


def test_the_sizes_of_images_that_a_model_is_for_are_words(tmp_path: Path) -> None:
    """They leave its hash alone, where those of a data set are what it is."""
    said = GOOD.replace('source="arXiv', 'sizes="4k", source="arXiv').replace('"params"', '"sizes": [28, 32], "params"')
    assert said.count("sizes") == 2
    hashes = set()
    for number, text in enumerate((GOOD, said)):
        (folder := tmp_path / str(number)).mkdir()
        registry = registry_with(write(folder, text))
        hashes |= {(name, source_hash(registry.find(name))) for name in ("tiny", "tiny-5")}
    assert len(hashes) == 2
    assert registry.find("tiny").get("sizes") == [28, 32] and registry.find("tiny-5").get("sizes") == "4k"

    declared = {"shape": (1, 28, 28), "classes": 10, "sizes": (10, 5, 5), "source": "here"}
    whole = Entry("dataset", "some", tmp_path, 1, "some", "some", declared)
    assert data_hash(whole) == data_hash(replace(whole, fields=declared | {"package": "some", "licence": "none"}))
    assert data_hash(whole) != data_hash(replace(whole, fields=declared | {"sizes": (11, 5, 5)}))


@pytest.mark.parametrize(
    "sizes", ["'odd'", "'1k'", "'k'", "28", "[]", "['28']", "[0]", "'0+'", "'+28'", "(28.0,)", "'4k+1'", "True"]
)
def test_sizes_that_are_none(tmp_path: Path, sizes: str) -> None:
    with pytest.raises(
        UserError,
        match=r"mine.py:5: sizes=.* must be 'any', 'even', multiples such as '4k', a minimum such as '28\+', or a list",
    ):
        registry_with(write(tmp_path, GOOD.replace('source="arXiv', f'sizes={sizes}, source="arXiv'))).entries()


class Silent(SyntaxError):
    def __str__(self) -> str:
        return ""


@pytest.mark.parametrize("error", [Silent(), RecursionError(), MemoryError()])
def test_an_error_without_a_text_is_named_by_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(scan.ast, "parse", fail)
    with pytest.raises(
        UserError, match=rf"mine.py: this is not a Python file that can be read: {type(error).__name__}$"
    ):
        list(scan_file(write(tmp_path, GOOD), "model", "mine"))


SETS = '''
import nothing_of_this_name
from equibench import register_dataset

@register_dataset("squares", shape=(1, 28, 28), classes=10, sizes=(10, 0, 10), source="here", digest="ab",
  licence="mine",
  package="nothing_of_this_name", members={"squares-64": {"args": {"size": 64}, "shape": (1, 64, 64), "digest": "cd"}})
def squares(root, *, size: int = 28):
    """Squares."""
'''


def sets_with(path: Path) -> Registry:
    registry = Registry("dataset", "datasets")
    registry.include(path)
    return registry


def test_a_data_set_may_have_further_ones_of_the_same_function(tmp_path: Path) -> None:
    registry = sets_with(write(tmp_path, SETS))
    small, large = registry.find("squares").entry, registry.find("squares-64").entry
    assert (small.arguments, large.arguments) == ({}, {"size": 64}) and small.function == large.function
    assert large.fields == small.fields | {"shape": (1, 64, 64), "digest": "cd"}
    assert data_hash(small) != data_hash(large)
    # What a set is does not depend on whether others stand beside it.
    alone = SETS.replace(', members={"squares-64": {"args": {"size": 64}, "shape": (1, 64, 64), "digest": "cd"}}', "")
    (folder := tmp_path / "alone").mkdir()
    assert data_hash(sets_with(write(folder, alone)).find("squares").entry) == data_hash(small)


def test_a_package_that_is_missing_is_said_with_what_to_install(tmp_path: Path) -> None:
    entry = sets_with(write(tmp_path, SETS)).find("squares-64").entry
    assert (
        entry.missing
        == "needs the package nothing_of_this_name, which is not installed: pip install nothing_of_this_name"
    )
    assert replace(entry, fields=entry.fields | {"package": "numpy"}).missing == ""
    ours = replace(entry, origin="equibench")
    assert "uv run --extra nothing_of_this_name, or pip install" in ours.missing


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"squares",', '"squares-{size}",', "the name of a data set has no fields; list its versions as members"),
        ('"squares-64": ', '"squares-{size}": ', "the name of a data set has no fields; list its versions as members"),
        ('"nothing_of_this_name"', '"no name"', "package='no name' must be the name under which a package is imported"),
        ('"shape": (1, 64, 64)', '"shape": (64, 64)', r"shape=\(64, 64\) must be three whole numbers"),
        (
            '"shape": (1, 64, 64)',
            '"shapes": (1, 64, 64)',
            "register_dataset has no argument 'shapes'; did you mean 'shape'",
        ),
        ('members={"squares-64": {', 'members={"squares-64": 64, "b": {', "must be a dictionary of dictionaries"),
    ],
)
def test_a_wrong_registration_of_a_data_set_is_refused(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in SETS
    with pytest.raises(UserError, match=rf"mine.py:5: .*{expected}"):
        sets_with(write(tmp_path, SETS.replace(old, new))).entries()


def test_a_decorator_before_what_no_scan_finds_is_refused() -> None:
    class Net: ...

    given = {"group": "none", "invariant": "none", "source": "made up"}
    for wrong, what in ((Net, "a class"), (functools.partial(print), "a partial object")):
        with pytest.raises(UserError, match=rf"@register_model\('net'\) goes before a function \(def\), not .* {what}"):
            register_model("net", **given)(wrong)


def test_the_source_of_an_editable_package_counts_because_its_version_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, facts = (
        tmp_path / "repo" / "src" / "edited_package",
        tmp_path / "site-packages" / "edited_package-0.1.dist-info",
    )
    for folder in (package, facts):
        folder.mkdir(parents=True)
        monkeypatch.syspath_prepend(str(folder.parent))
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: edited-package\nVersion: 0.1\n")
    for name in ("__init__", "nets", "layers", "unused"):
        (package / f"{name}.py").write_text("from .layers import layer" if name == "nets" else "layer = 3")
    uses = GOOD.replace("import nothing_of_this_name", "from edited_package.nets import layer")
    tiny = registry_with(write(tmp_path, uses)).find("tiny")

    def hashes(editable: bool) -> list[str]:
        (facts / "direct_url.json").write_text(
            json.dumps({"url": (tmp_path / "repo").as_uri(), "dir_info": {"editable": editable}})
        )
        found = []
        for changed in ("nets", "unused", "layers"):
            source._editable.cache_clear()
            source._editable_roots.cache_clear()
            path = package / f"{changed}.py"
            path.write_text(f"{path.read_text()}\nanother = {len(found) + 10}")
            found.append(source_hash(tiny))
        return found

    copied = hashes(editable=False)
    assert copied == copied[:1] * 3, "the version says what a copy is"
    assert not source.is_installed_editable("edited_package")
    first, second, third = hashes(editable=True)
    assert source.is_installed_editable("edited_package")
    assert copied[0] != first == second != third
    monkeypatch.undo()
    source._editable.cache_clear()
    source._editable_roots.cache_clear()


def test_editable_packages_are_found_in_the_project_whose_environment_has_equibench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also all parts of a namespace package, and from a plug-in that is installed as a copy."""
    repo, site = tmp_path / "repo", tmp_path / "repo" / ".venv" / "site-packages"
    facts = site / "edited_space-0.1.dist-info"
    parts = [repo / part / "edited_space" / f"{part}.py" for part in ("first", "second")]
    for folder in (facts, *(part.parent for part in parts)):
        folder.mkdir(parents=True)
        monkeypatch.syspath_prepend(str(folder.parent))
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: edited-space\nVersion: 0.1\n")
    (facts / "direct_url.json").write_text(json.dumps({"url": repo.as_uri(), "dir_info": {"editable": True}}))
    for part in parts:
        part.write_text("layer = 3")
    plugin = site / "plugin_net.py"
    plugin.write_text("import edited_space.second\nfrom edited_space import first")
    monkeypatch.setattr(source, "PACKAGE", site / "equibench")
    source._editable.cache_clear()
    source._editable_roots.cache_clear()
    assert sorted(source.closure([plugin])) == sorted([plugin, *parts])
    monkeypatch.undo()
    source._editable.cache_clear()
    source._editable_roots.cache_clear()
