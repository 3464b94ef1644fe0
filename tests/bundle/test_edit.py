"""Names changed in place: the rest of a bundle stays, and exports go on recognising it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Run
from handmade import manifest, writes

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.edit import edit_bundle, listed_classes
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.bundle.writer import BundleWriter
from anydepth_deploy.errors import BundleError, DepthError, UsageError
from anydepth_deploy.manifest import Manifest
from anydepth_deploy.serve.names import safe_name

CLASSES = ["circle", "square", "star"]
NEW = ["Kreis", "Quadrat", "Stern ★"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One graph, and results."""
    out = tmp_path / "b"
    with BundleWriter(out, manifest()) as writer:
        writer.add("gated-fp32-shared", writes(b"graph"))
    bundle = open_bundle(out)
    bundle.record("verify", {"when": "now", "artifacts": []})
    bundle.record("eval", {"when": "now"})
    return out


def stays(one: Manifest, other: Manifest, *fields: str) -> None:
    assert one.model_dump(exclude={*fields}) == other.model_dump(exclude={*fields})


def test_classes(folder: Path) -> None:
    before = open_bundle(folder).manifest
    bundle = open_bundle(folder)
    found = edit_bundle(bundle, classes=NEW)
    after = open_bundle(folder).manifest
    assert bundle.manifest == after
    assert (after.classes, after.exported_classes) == (NEW, CLASSES)
    assert found.changed == {"classes": (CLASSES, NEW)}
    assert after.results == {"verify": before.results["verify"]}
    assert "average precision that was measured is no more" in found.notes[0]
    assert "Triton repositories" in found.notes[1]
    stays(before, after, "classes", "exported_classes", "results")
    edit_bundle(bundle, classes=["a", "b", "c"])
    assert open_bundle(folder).manifest.exported_classes == CLASSES  # of the export, still
    edit_bundle(bundle, classes=CLASSES)
    assert open_bundle(folder).manifest.exported_classes is None


def test_an_export_that_goes_on_recognises_it(folder: Path) -> None:
    """By the names of the export and by those of now; by no others."""
    edit_bundle(open_bundle(folder), classes=NEW, name="shapes")
    for number, classes in enumerate((CLASSES, NEW)):
        with BundleWriter(folder, manifest(classes=classes)) as writer:
            assert writer.find("gated-fp32-shared") is not None
            writer.add(f"other-{number}", writes(b"other", name=f"other-{number}"))
        after = open_bundle(folder).manifest
        assert (after.classes, after.exported_classes, after.name) == (NEW, CLASSES, "shapes")
        assert len(after.artifacts) == number + 2
    with pytest.raises(BundleError, match="holds another export: classes Kreis"):
        BundleWriter(folder, manifest(classes=["a", "b", "c"]))
    with pytest.raises(BundleError, match="holds another export: checkpoint "):
        BundleWriter(folder, manifest(sha="b", classes=NEW))


def test_the_ladder_in_use(folder: Path, tmp_path: Path) -> None:
    before = open_bundle(folder).manifest
    bundle = open_bundle(folder)
    rungs = ["TT-1", "TF-2", "FF-2"]
    found = edit_bundle(bundle, ladder=",".join(rungs))
    after = open_bundle(folder).manifest
    assert found.changed == {"ladder": (before.ladder, rungs)}
    assert [row.depth for row in after.depths] == [row.depth for row in before.depths]
    assert {row.depth: row.level for row in after.depths if row.level is not None} == {
        "TT-1": 0,
        "TF-2": 1,
        "FF-2": 2,
    }
    assert bundle.table.ladder == open_bundle(folder).table.ladder
    stays(before, after, "ladder", "depths")
    with BundleWriter(folder, manifest()) as writer:  # rows begin with what they began with
        assert writer.find("gated-fp32-shared") is not None
    file = tmp_path / "ladder.json"
    file.write_text(json.dumps(before.ladder))
    edit_bundle(bundle, ladder=str(file))
    assert open_bundle(folder).manifest == before


def test_a_name(folder: Path) -> None:
    bundle = open_bundle(folder)
    assert edit_bundle(bundle, name="Halle 3").changed == {"name": (None, "Halle 3")}
    assert open_bundle(folder).manifest.name == "Halle 3"
    stamp = (folder / MANIFEST).stat().st_mtime_ns
    assert not edit_bundle(bundle, name="Halle 3").changed
    assert (folder / MANIFEST).stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({}, UsageError, "nothing to change is named"),
        ({"classes": ["a", "b"]}, UsageError, "2 class names are given, the network of .* has 3"),
        ({"classes": ["a", "b", "a"]}, UsageError, "class names occur twice: a; expected each"),
        ({"classes": ["a", "", "c"]}, UsageError, "the class name '' is empty"),
        ({"classes": ["a", "b\n", "c"]}, UsageError, "characters that cannot be shown"),
        ({"name": ""}, UsageError, "the name '' is empty"),
        ({"name": "x" * 101}, UsageError, "or more than 100"),
        ({"ladder": "TT-1"}, DepthError, "a ladder goes from base"),
        ({"ladder": "TT-1,GG-1,FF-2"}, DepthError, "unknown depth 'GG-1'"),
        ({"ladder": "TT-1,FF-1,FT-1,FF-2"}, DepthError, "the ladder does not rise: FT-1"),
    ],
)
def test_refused(folder: Path, options: dict[str, Any], error: type[Exception], told: str) -> None:
    """Nothing is changed, also not what was right beside it."""
    before = (folder / MANIFEST).read_bytes()
    with pytest.raises(error, match=told) as caught:
        edit_bundle(open_bundle(folder), **({"name": "n"} | options if options else {}))
    assert "\n" not in str(caught.value)
    assert (folder / MANIFEST).read_bytes() == before


def test_class_names_of_the_command_line(tmp_path: Path) -> None:
    assert listed_classes("a, b,c") == ["a", "b", "c"]
    file = tmp_path / "names.txt"
    file.write_text("one, two\nthree\n", encoding="utf-8")
    assert listed_classes(str(file)) == ["one, two", "three"]
    with pytest.raises(UsageError, match="class name '' is empty"):
        listed_classes("a,,b")
    assert len(listed_classes(",".join(f"class {index}" for index in range(999)))) == 999


def test_a_newer_manifest_is_left_alone(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, "version": "1.99", "later": 1}))
    with pytest.raises(BundleError, match="would lose what is new in it"):
        edit_bundle(open_bundle(folder), name="x")


def test_a_bundle_that_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("anydepth_deploy.bundle.edit.write_manifest", full)
    bundle = open_bundle(folder)
    with pytest.raises(BundleError, match="cannot be written: No space left on device; free space"):
        edit_bundle(bundle, name="x")
    assert bundle.manifest.name is None


def test_exports_of_a_real_network(bundle_copy: Path, checkpoint: Path, run: Run) -> None:
    """The same command adds to it and keeps the names; with --force, too."""
    bundle = open_bundle(bundle_copy)
    names = [f"Klasse {index}" for index in range(len(bundle.classes))]
    before = {item.name: item for item in bundle.artifacts()}
    words = ("--classes", ",".join(names), "--name", "shapes")
    told = run("bundle", "edit", bundle_copy, *words, "--json").json
    assert told["changed"]["name"] == [None, "shapes"]
    for force in ((), ("--force",), ()):
        words = ("--layout", "gated,set", "--weights", "shared,folded", *force)
        assert run("export", checkpoint, "--out", bundle_copy, *words).code == 0
        after = open_bundle(bundle_copy)
        assert (after.classes, after.manifest.name) == (names, "shapes")
        assert {item.name: item for item in after.artifacts()} == before
    assert run("verify", bundle_copy, "--layout", "gated").code == 0
    assert "name: shapes" in run("inspect", bundle_copy).out
    assert "nothing is changed" in run("bundle", "edit", bundle_copy, "--name", "shapes").out
    assert "none ->" not in run("bundle", "edit", bundle_copy, "--name", "other").out


def test_triton_calls_its_models_so(bundle: Bundle) -> None:
    from anydepth_deploy.serve.plan import ServeOptions, plan

    named = Bundle(bundle.path, bundle.manifest.model_copy(update={"name": "Halle 3"}))
    options = ServeOptions(device="cpu", layouts=("gated",))
    assert plan(named, None, options).names.ensemble == safe_name("Halle 3")
    assert plan(named, "other", options).names.ensemble == "other"
    assert plan(bundle, None, options).names.ensemble == safe_name(bundle.path.name)
