"""Manifests: broken ones in one table that C++ reads, too; versions, past formats, odd files."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import Run, fails
from fuzzing import examples
from handmade import manifest
from hypothesis import given
from hypothesis import strategies as st
from manifests import (
    BROKEN,
    FIELDS,
    PAST,
    REMEDY,
    TEXTS,
    WHOLE,
    content,
    mutated_bytes,
    mutated_values,
)
from pydantic import BaseModel, ValidationError

from anydepth_deploy import describe
from anydepth_deploy import manifest as manifest_module
from anydepth_deploy.bundle import files
from anydepth_deploy.bundle.bundle import open_bundle
from anydepth_deploy.bundle.files import MANIFEST, read_manifest, write_manifest
from anydepth_deploy.bundle.trust import check_passed, last_passed
from anydepth_deploy.bundle.writer import BundleWriter
from anydepth_deploy.documents import Document, version_of, written_version
from anydepth_deploy.errors import AnyDepthError, BundleError
from anydepth_deploy.manifest import MINOR, VERSION, Artifact, Manifest
from anydepth_deploy.pictures.images import Preprocess
from anydepth_deploy.suppression import Suppression


def write(folder: Path, dumped: Any) -> Path:
    (folder / MANIFEST).write_text(json.dumps(dumped), encoding="utf-8")
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        read_manifest(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("name", BROKEN)
def test_broken_manifests(tmp_path: Path, name: str) -> None:
    case = BROKEN[name]
    told = refusal(write(tmp_path, case.change(content())))
    if case.says.startswith("has manifest version"):
        assert told.startswith(f"{tmp_path / MANIFEST} {case.says}")
    else:
        assert told.startswith(f"{tmp_path / MANIFEST} is not a valid manifest: {case.says}")
    assert told.endswith(f": {case.advice or REMEDY}")


@pytest.mark.parametrize("name", TEXTS)
def test_damaged_manifests(tmp_path: Path, name: str) -> None:
    data, words = TEXTS[name]
    (tmp_path / MANIFEST).write_bytes(data)
    assert refusal(tmp_path) == f"{tmp_path / MANIFEST} is damaged ({words}): {REMEDY}"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_recipes_that_are_no_numbers(value: float) -> None:
    """A manifest cannot say so, a program can."""
    for change in ({"scale": value}, {"mean": (0, value, 0)}, {"std": (1, 1, value)}):
        with pytest.raises(ValidationError, match="Input should be from"):
            Preprocess(size=(64, 64), **change)


@examples(200)
@given(data=st.data())
def test_values_in_the_place_of_others(mutated: Path, data: st.DataObject) -> None:
    show(mutated, data.draw(mutated_values()))


@examples(200)
@given(data=st.data())
def test_bytes_in_the_place_of_others(mutated: Path, data: st.DataObject) -> None:
    show(mutated, data.draw(mutated_bytes()))


@pytest.fixture(scope="module")
def mutated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated")


def show(folder: Path, data: bytes) -> None:
    """What ``inspect`` does with it, but for the hashes of files that are not there."""
    (folder / MANIFEST).write_bytes(data)
    told = ""
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files.BundleFiles, "file", lambda *_: Path())
            found = describe.describe_bundle(folder)
    except AnyDepthError as error:
        told = str(error)
    if told:
        assert str(folder) in told
        return
    for as_json in (False, True):
        describe.show(found, every=True, as_json=as_json)
    bundle = open_bundle(folder)
    for artifact in bundle.manifest.artifacts:
        with contextlib.suppress(BundleError):
            check_passed(bundle, [artifact], "fp32", "onnxruntime")


# --- what is no file -------------------------------------------------------------------------


@pytest.mark.timeout(20)
def test_what_is_no_file(tmp_path: Path, run: Run) -> None:
    path = tmp_path / MANIFEST
    os.mkfifo(path)
    expected = f"{path} cannot be read: it is a pipe, expected a file"
    assert refusal(tmp_path) == expected
    fails(run("inspect", tmp_path), 2, expected)
    path.unlink()
    path.symlink_to("/dev/zero")
    assert refusal(tmp_path) == f"{path} cannot be read: it is a device, expected a file"
    path.unlink()
    path.mkdir()
    assert refusal(tmp_path) == f"{path} cannot be read: it is a folder, expected a file"
    path.rmdir()
    (tmp_path / "elsewhere").write_text(WHOLE)
    path.symlink_to("elsewhere")
    assert read_manifest(tmp_path).classes == ["circle", "square", "star"]


def test_a_manifest_of_any_size(tmp_path: Path) -> None:
    path = tmp_path / MANIFEST
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no room
    words = "has more than 16777216 bytes, which no manifest has"
    assert refusal(tmp_path) == f"{path} {words}: {REMEDY}"


def test_another_encoding(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(WHOLE, encoding="utf-8-sig")
    assert read_manifest(tmp_path).max_detections == 5
    (tmp_path / MANIFEST).write_text(WHOLE, encoding="utf-16")
    told = f"{tmp_path / MANIFEST} is damaged (it is not text in UTF-8): {REMEDY}"
    assert refusal(tmp_path) == told


# --- versions --------------------------------------------------------------------------------


def models() -> dict[str, type[BaseModel]]:
    """The models that a manifest consists of."""
    own = inspect.getmembers(manifest_module, inspect.isclass)
    named = {name: item for name, item in own if issubclass(item, BaseModel)}
    return {name: item for name, item in named.items() if name not in ("BaseModel", "_Model")}


def test_a_field_raises_the_minor() -> None:
    """What fails here: a field was added, taken away or renamed. Say so in FIELDS, under a minor of
    its own, and raise MINOR in manifest.py and in C++; the others never change."""
    assert sorted(FIELDS) == list(range(MINOR + 1))
    wanted: dict[str, set[str]] = {}
    for added in FIELDS.values():
        for name, fields in added.items():
            assert wanted.get(name, set()).isdisjoint(fields.split())
            wanted[name] = wanted.get(name, set()) | set(fields.split())
    assert {name: set(model.model_fields) for name, model in models().items()} == wanted
    assert {Preprocess, Suppression, Artifact, Manifest} <= set(models().values())
    later = [
        (name, added)
        for minor in FIELDS
        for name, added in FIELDS[minor].items()
        if any(name in FIELDS[earlier] for earlier in range(minor))
    ]
    for name, fields in later:  # older bundles have none
        for field in fields.split():
            assert not models()[name].model_fields[field].is_required()


@pytest.mark.parametrize("path", PAST, ids=lambda path: path.stem)
def test_past_formats_open(tmp_path: Path, path: Path) -> None:
    shutil.copy(path, tmp_path / MANIFEST)
    found = open_bundle(tmp_path)
    dumped = json.loads(path.read_text())
    assert [item.name for item in found.artifacts()] == [
        item["name"] for item in dumped["artifacts"]
    ]
    assert [row.depth for row in found.manifest.depths] == [
        row["depth"] for row in dumped["depths"]
    ]
    assert found.size == (64, 96)
    assert not describe._not_understood(found.manifest.results)
    del dumped["version"]
    same = found.manifest.model_copy(update={"version": VERSION})
    assert read_manifest(write(tmp_path, dumped)) == same


@pytest.mark.parametrize(
    ("value", "version"),
    [
        (1, (1, 0)),
        ("1.2", (1, 2)),
        ("10.13", (10, 13)),
        (0, (0, 0)),
        (True, None),
        (1.5, None),
        ("1.0", None),
        ("1", None),
        ("1.02", None),
        ("01.2", None),
        ("1.2 ", None),
        ("1.2\n", None),
        ("1.-2", None),
        ("\u0661.2", None),
        ("1.1234567890", None),
        (None, None),
        ([1, 2], None),
    ],
)
def test_versions_as_they_are_written(value: object, version: tuple[int, int] | None) -> None:
    assert version_of(value) == version
    if version is not None:
        assert written_version(*version) == value


def newer(**changes: Any) -> dict[str, Any]:
    found = content(version="1.7", later=1, **changes)
    found["artifacts"][9]["engine"]["host"] = {"name": "x"}
    return found


def test_a_newer_minor_is_read_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, newer())
    found = [read_manifest(tmp_path) for _ in range(3)]  # as a command may
    assert found[0].model_copy(update={"version": VERSION}) == Manifest.model_validate(content())
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / MANIFEST} is of version 1.7, newer than 1.3, which this anydepth-deploy "
        "knows; left out what it does not know: artifacts.9.engine.host, later"
    ]


def test_many_new_fields_are_one_short_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dumped = content(version="1.7", **{f"field{index}": index for index in range(500)})
    read_manifest(write(tmp_path, dumped))
    (record,) = caplog.records
    assert record.getMessage().endswith("field0, field1, field2, field3 and 496 more")


def test_what_is_known_is_no_news(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same and older minors: what they do not have is refused as ever."""
    read_manifest(write(tmp_path, content(version="1.7")))
    known = Document(**{**vars(files.DOCUMENT), "minor": 8})
    monkeypatch.setattr(files, "DOCUMENT", known)
    assert "later: Extra inputs" not in refusal(write(tmp_path, newer()))
    assert "artifacts.9.engine.host: Extra inputs are not permitted" in refusal(tmp_path)
    assert not caplog.records


def test_a_newer_minor_is_not_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What this version does not know would be lost."""
    folder = write(tmp_path, newer(artifacts=content()["artifacts"]))
    before = (folder / MANIFEST).read_bytes()
    bundle = open_bundle(folder)
    bundle.record("verify", {"passed": True})
    assert "the result of verify is not recorded" in caplog.text
    assert "is of version 1.7, and this anydepth-deploy, which knows 1.3, would lose" in caplog.text
    with pytest.raises(BundleError, match=r"is of version 1\.7.*use the version that made it"):
        BundleWriter(folder, bundle.manifest)
    assert (folder / MANIFEST).read_bytes() == before


def test_what_is_written_has_the_version_of_its_fields(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest())
    assert json.loads((tmp_path / MANIFEST).read_text())["version"] == written_version(1, MINOR)


# --- recorded results ------------------------------------------------------------------------

SHA = "c" * 64
GOOD = {"sha256": SHA, "precision": "fp32", "passed": True}
WHEN = "2025-01-01T00:00:00+00:00"
ODD_RECORDS: tuple[dict[str, Any], ...] = (
    {"runtime": "onnxruntime", "artifacts": [GOOD]},
    {"runtime": "onnxruntime", "when": 3, "artifacts": [GOOD]},
    {"runtime": "onnxruntime", "when": WHEN, "artifacts": {"a": GOOD}},
    {"runtime": "onnxruntime", "when": WHEN, "artifacts": ["passed"]},
    {"runtime": "onnxruntime", "when": WHEN, "artifacts": [{**GOOD, "passed": "no"}]},
    {"runtime": "onnxruntime", "when": WHEN, "artifacts": [{**GOOD, "sha256": None}]},
    {"runtime": "onnxruntime", "when": WHEN, "artifacts": [{**GOOD, "precision": 32}]},
    {"runtime": ["onnxruntime"], "when": WHEN, "artifacts": 7},
)


def with_records(folder: Path, *records: dict[str, Any]) -> Path:
    plain = [{**item, "sha256": SHA} for item in content()["artifacts"][:1]]
    return write(folder, content(artifacts=plain, results={"verify": list(records)}))


@pytest.mark.parametrize("record", ODD_RECORDS)
def test_odd_records_do_not_decide(tmp_path: Path, record: dict[str, Any]) -> None:
    sound = {"runtime": "onnxruntime", "when": WHEN, "artifacts": [GOOD]}
    bundle = open_bundle(with_records(tmp_path, sound, record))
    with pytest.raises(BundleError, match="record of 'verify' that is not understood") as caught:
        check_passed(bundle, bundle.artifacts(), "fp32", "onnxruntime")
    assert str(tmp_path) in str(caught.value)
    # A newer one that is understood decides, and so does one of another runtime not.
    bundle = open_bundle(with_records(tmp_path, record, sound))
    check_passed(bundle, bundle.artifacts(), "fp32", "onnxruntime")
    assert last_passed(bundle, bundle.artifacts(), "fp32", "onnxruntime") == WHEN
    elsewhere = open_bundle(with_records(tmp_path, {**record, "runtime": "openvino"}))
    check_passed(elsewhere, elsewhere.artifacts(), "fp32", "onnxruntime")


def test_records_of_before_the_precision_was_kept(tmp_path: Path) -> None:
    old = {"runtime": "onnxruntime", "when": WHEN, "artifacts": [{"sha256": SHA, "passed": False}]}
    bundle = open_bundle(with_records(tmp_path, old))
    with pytest.raises(BundleError, match="failed 'verify'"):
        check_passed(bundle, bundle.artifacts(), "fp32", "onnxruntime")
    check_passed(bundle, bundle.artifacts(), "bf16", "onnxruntime")


def test_odd_records_are_shown_as_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_records(tmp_path, *ODD_RECORDS)
    dumped = json.loads((folder / MANIFEST).read_text())
    dumped["results"]["eval"] = [{"data": 3}, {"data": "a", "pictures": 1, "rows": [{"ap": {}}]}]
    dumped["results"]["other"] = [{"what": "ever"}]
    write(folder, dumped)
    monkeypatch.setattr(files.BundleFiles, "file", lambda *_: Path())
    describe.show(describe.describe_bundle(folder), every=False, as_json=False)
    shown = capsys.readouterr().out
    assert "results that are not understood: 8 of 'verify', 1 of 'eval'" in shown
    assert "not verified yet: 1 of 1 artifacts" in shown


def test_rows_with_other_parts_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = content()
    found["depths"][0]["macs"] = {"total": 107_000_000, "neck": 44_000_000}
    monkeypatch.setattr(files.BundleFiles, "file", lambda *_: Path())
    describe.show(describe.describe_bundle(write(tmp_path, found)), every=True, as_json=False)
    shown = capsys.readouterr().out
    assert "neck" in shown
    assert "44.0 M" in shown


# --- labels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [-2, -1, 3, 2**40])
def test_labels_without_a_class(tmp_path: Path, label: int) -> None:
    bundle = open_bundle(write(tmp_path, content()))
    assert [bundle.class_name(place) for place in range(3)] == ["circle", "square", "star"]
    words = f"its graphs find the label {label}, its manifest names 3 classes"
    with pytest.raises(BundleError, match=words) as caught:
        bundle.class_name(label)
    assert str(tmp_path) in str(caught.value)
