"""Bundles on disk: validated, never half-made, and unchanged by whatever goes wrong."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, RUNGS, random_detr
from handmade import LADDER, MACS, FakeGraphs, manifest, writes

from anydepth_deploy.bundle import files, writer
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.bundle.writer import BundleWriter
from anydepth_deploy.documents import file_sha256
from anydepth_deploy.errors import BundleError, UsageError
from anydepth_deploy.exporting import export
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.manifest import Manifest

SUPPORT = ROOT / "tests" / "support"
ONE, TWO, THREE = b"one" * 100, b"two" * 200, b"three" * 300


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and modification time of every file."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {name: data for name, (data, _) in snapshot(folder).items()}


def make(
    path: Path, sha: str = "a", *, force: bool = False, full_at: str = "", **artifacts: bytes
) -> Bundle:
    """Write a bundle; the disk is full when half of the artifact ``full_at`` is written."""
    with BundleWriter(path, manifest(sha), force=force) as writer:
        for name, content in artifacts.items():
            before = disk_full if name == full_at else None
            writer.add(name, writes(content, name=name, before=before))
    return open_bundle(path)


def disk_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def is_whole(path: Path) -> bool:
    """Every artifact that the manifest names is there, with its hash."""
    content = json.loads((path / MANIFEST).read_text())
    return all(
        hashlib.sha256((path / item["file"]).read_bytes()).hexdigest() == item["sha256"]
        for item in content["artifacts"]
    )


def names(path: Path) -> list[str]:
    return [item.name for item in open_bundle(path).artifacts()]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A small bundle with one artifact."""
    return make(tmp_path / "old", one=ONE).path


# --- manifest --------------------------------------------------------------------------------


def test_manifest_reads_as_it_was_written() -> None:
    first = manifest(results={"verify": [{"passed": True, "rows": []}]})
    again = Manifest.model_validate_json(first.model_dump_json())
    assert again == first
    assert [str(depth) for depth in again.table().ladder] == list(LADDER)
    assert [row.depth for row in again.depths] == [str(depth) for depth in again.table().rows]


def test_an_opened_bundle(tmp_path: Path) -> None:
    found = make(tmp_path / "b", one=ONE, two=TWO)
    assert found.size == (64, 64)
    assert found.classes == ["circle", "square", "star"]
    assert found.macs("level:1") == {"total": MACS["FF-1"], "all": MACS["FF-1"]}
    assert found.macs("TF-2")["total"] == MACS["TF-2"]
    assert "imaginary small, 2 artifacts" in repr(found)
    one, two = found.artifacts("gated", "fp32")
    assert (one.name, one.bytes, two.name, two.bytes) == ("one", 300, "two", 600)
    assert one.sha256 == hashlib.sha256(ONE).hexdigest()
    assert found.file(one).read_bytes() == ONE
    assert found.artifacts("set") == []
    assert sorted(contents(found.path)) == ["manifest.json", "one.onnx", "two.onnx"]


def test_results_are_appended_and_limited(old: Path) -> None:
    found = open_bundle(old)
    for index in range(12):
        found.record("verify", {"index": index}, keep=5)
    found.record("eval", {"ap": 51.7})
    results = open_bundle(old).manifest.results
    assert [item["index"] for item in results["verify"]] == [7, 8, 9, 10, 11]
    assert results["eval"] == [{"ap": 51.7}]
    assert is_whole(old)


def test_results_are_limited_by_what_they_are_of(old: Path) -> None:
    found = open_bundle(old)
    for index in range(12):
        found.record("eval", {"index": index, "set": "a" if index % 4 else "b"}, keep=5, by="set")
    results = found.manifest.results["eval"]
    assert [item["index"] for item in results] == [0, 4, 6, 7, 8, 9, 10, 11]
    for index in range(12, 16):
        found.record("eval", {"index": index, "set": index}, keep=3, by="set")
    assert [item["index"] for item in found.manifest.results["eval"]] == [13, 14, 15]
    assert is_whole(old)


def test_results_of_a_bundle_that_cannot_be_written(
    old: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = open_bundle(old)
    before = (old / MANIFEST).read_bytes()
    monkeypatch.setattr(files, "flush", disk_full)
    found.record("verify", {"passed": True})
    assert (old / MANIFEST).read_bytes() == before
    assert found.manifest.results["verify"] == [{"passed": True}]
    assert "the result of verify is not recorded" in caplog.text
    assert "No space left" in caplog.text


def drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.pop(key)


def put(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.update({key: value})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (put("version", 2), "manifest version 2, this anydepth-deploy reads version 1"),
        (put("version", "1.0"), "version"),
        (put("format", "another bundle"), "format"),
        (put("surprise", 1), "surprise: Extra inputs are not permitted"),
        (drop("ladder"), "ladder: Field required"),
        (drop("source"), "source: Field required"),
        (put("parameters", "many"), "parameters"),
        (put("ladder", ["TT-1"]), "a ladder goes from base"),
        (put("ladder", ["TT-1", "what", "FF-2"]), "unknown depth 'what'"),
        (put("ladder", ["TT-1", "FT-1", "FF-2"]), "row 1 of the depth table has a wrong level"),
        (lambda content: content["depths"].reverse(), "does not follow from the gates"),
        (put("base", [1, 1]), "sets 3 gates"),
        (put("base", [1, 1, 9]), "'decoder' cannot be 9"),
        (put("gates", []), "unknown depth"),
        (put("gates", [{"name": "one", "group": 0, "layers": -1}]), "gates.0.layers"),
        (put("gates", [{"name": "one", "group": 0, "layers": 10**12}]), "gates.0.layers"),
        (lambda content: content["depths"].pop(), "does not follow from the gates"),
        (lambda content: content["depths"][3].update(index=7), "not numbered from 0"),
        (lambda content: content["artifacts"][0].update(sha256="x"), "artifacts.0.sha256"),
        (lambda content: content["artifacts"][0].pop("bytes"), "artifacts.0.bytes"),
        (lambda content: content["artifacts"][0].update(layout="heap"), "artifacts.0.layout"),
        (put("suppression", {"where": "host"}), "needs the raw output 'predictions'"),
        (
            lambda content: content.update(
                suppression={"where": "none"}, raw_outputs={"predictions": "p"}
            ),
            "gives no raw outputs, but suppression is not in the graph",
        ),
        (put("suppression", {"where": "moon"}), "suppression.where"),
        (lambda content: content["preprocess"].update(size=[0, 64]), "preprocess.size.0"),
    ],
)
def test_manifests_that_are_wrong(
    old: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    path = old / MANIFEST
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(BundleError) as caught:
        open_bundle(old)
    message = str(caught.value)
    assert told in message
    assert str(path) in message
    assert "\n" not in message


def test_many_gates_do_not_make_a_table_of_billions(old: Path) -> None:
    path = old / MANIFEST
    content = json.loads(path.read_text())
    content["gates"] = [{"name": f"g{index}", "group": 0} for index in range(60)]
    content["base"] = [1] * 60
    content["ladder"] = ["T" * 60, "F" * 60]
    path.write_text(json.dumps(content))
    with pytest.raises(BundleError, match="does not follow from the gates"):
        open_bundle(old)


@pytest.mark.parametrize(
    "data", [b"", b"{", b'"text"', b"[1]", b"null", b"\xff\xfe", b"[" * 200_000, b"1" * 5000]
)
def test_manifests_that_are_damaged(old: Path, data: bytes) -> None:
    (old / MANIFEST).write_bytes(data)
    with pytest.raises(BundleError) as caught:
        open_bundle(old)
    assert str(old / MANIFEST) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_that_are_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle: it has no manifest"):
        open_bundle(tmp_path)
    with pytest.raises(BundleError, match=r"does not exist; make one with 'anydepth-deploy export"):
        open_bundle(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="is a file, expected the folder of a bundle"):
        open_bundle(tmp_path / "file")


# --- artifacts that changed ------------------------------------------------------------------


def test_an_altered_artifact(old: Path) -> None:
    found = open_bundle(old)
    (artifact,) = found.artifacts()
    path = old / artifact.file
    path.write_bytes(b"O" + ONE[1:])
    with pytest.raises(BundleError, match=r"one\.onnx was altered \(sha256"):
        found.file(artifact)
    assert found.file(artifact, check=False) == path


@pytest.mark.parametrize("check", [True, False])
def test_a_truncated_and_a_missing_artifact(old: Path, check: bool) -> None:
    found = open_bundle(old)
    (artifact,) = found.artifacts()
    path = old / artifact.file
    path.write_bytes(ONE[:-1])
    with pytest.raises(BundleError, match=r"one\.onnx has 299 bytes, the manifest says 300"):
        found.file(artifact, check=check)
    path.unlink()
    with pytest.raises(BundleError, match=r"one\.onnx is missing"):
        found.file(artifact, check=check)


def test_a_session_refuses_altered_artifacts(bundle_copy: Path) -> None:
    found = open_bundle(bundle_copy)
    for artifact in found.artifacts():
        path = bundle_copy / artifact.file
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(BundleError, match="was altered"):
        found.session(artifact="gated")
    static = found.session(artifact="set")  # opened when they are used
    with pytest.raises(BundleError, match="was altered"):
        static.warm("base")


# --- where bundles may go --------------------------------------------------------------------


def test_a_folder_with_something_else(tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.tex").write_text("words")
    (folder / "model.onnx").write_bytes(b"mine")
    before = snapshot(folder)
    for force in (False, True):
        with pytest.raises(BundleError, match=r"not empty and not a bundle .*chapter1\.tex"):
            BundleWriter(folder, manifest(), force=force)
    assert snapshot(folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis"]


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("words")
    with pytest.raises(BundleError, match="is a file"):
        BundleWriter(path, manifest(), force=True)
    with (
        pytest.raises(BundleError, match="cannot be written"),
        BundleWriter(path / "below", manifest()),
    ):
        pytest.fail("there is no such folder")
    assert path.read_text() == "words"


def test_an_empty_folder_and_missing_parents(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    make(empty, one=ONE)
    make(tmp_path / "some" / "where" / "deep", one=ONE)
    assert names(empty) == names(tmp_path / "some" / "where" / "deep") == ["one"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "some"]


# --- adding and replacing --------------------------------------------------------------------


def test_adding_keeps_what_is_there(old: Path) -> None:
    before = snapshot(old)
    make(old, two=TWO)
    after = snapshot(old)
    assert names(old) == ["one", "two"]
    assert after["one.onnx"] == before["one.onnx"]
    assert is_whole(old)


def test_results_survive_adding(old: Path) -> None:
    open_bundle(old).record("eval", {"ap": 1.0})
    make(old, two=TWO)
    assert open_bundle(old).manifest.results == {"eval": [{"ap": 1.0}]}


def test_an_artifact_built_again_takes_the_place_of_the_old_one(old: Path) -> None:
    make(old, one=TWO)
    found = open_bundle(old)
    (artifact,) = found.artifacts()
    assert found.file(artifact).read_bytes() == TWO
    assert len(list(old.glob("*.onnx"))) == 1


def test_an_artifact_that_is_not_whole_does_not_count(old: Path) -> None:
    make(old, two=TWO)
    (old / "one.onnx").write_bytes(ONE[:-1])
    with BundleWriter(old, manifest()) as writer:
        assert writer.find("one") is None
        assert writer.find("three") is None
        found = writer.find("two")
        assert found is not None
        assert found.bytes == len(TWO)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (manifest("b"), "checkpoint aaaa"),
        (manifest(classes=["circle", "square", "moon"]), "classes circle,square,star (now"),
        (manifest(preprocess={"size": (32, 64)}), "input size 64x64 (now 32x64)"),
        (manifest(config="large"), "network imaginary small (now imaginary large)"),
        (manifest(said={"fine_position": "off"}), "--fine-position not said (now off)"),
    ],
)
def test_another_export_needs_force(old: Path, other: Manifest, told: str) -> None:
    before = snapshot(old)
    with pytest.raises(BundleError, match="holds another export") as caught:
        BundleWriter(old, other)
    assert told in str(caught.value)
    assert "--force" in str(caught.value)
    assert snapshot(old) == before

    with BundleWriter(old, other, force=True) as writer:
        assert writer.find("one") is None
        writer.add("one", writes(TWO, name="one"))
        assert contents(old)[MANIFEST] == before[MANIFEST][0]  # still the old bundle
        assert is_whole(old)
    found = open_bundle(old)
    assert found.manifest.source == other.source
    assert found.file(found.artifacts()[0]).read_bytes() == TWO
    assert len(contents(old)) == 2


def test_force_on_the_same_export_makes_nothing_anew(old: Path) -> None:
    before = snapshot(old)["one.onnx"]
    with BundleWriter(old, manifest(), force=True) as writer:
        assert writer.find("one") is not None
    assert snapshot(old)["one.onnx"] == before


# --- when something goes wrong ---------------------------------------------------------------


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("where", ["artifact", "flush", "manifest"])
def test_a_full_disk_leaves_the_old_bundle(
    old: Path, monkeypatch: pytest.MonkeyPatch, where: str, force: bool
) -> None:
    before = contents(old)
    sha = "b" if force else "a"
    flush = files.flush

    def failing(path: Path) -> None:
        if path.name == ".two.partial" and where == "flush":
            disk_full()
        if path.parent.joinpath("two.onnx").exists() and where == "manifest":
            disk_full()
        flush(path)

    for module in (files, writer):
        monkeypatch.setattr(module, "flush", failing)
    full_at = "two" if where == "artifact" else ""
    with pytest.raises(BundleError, match=r"cannot be written: No space left .*free space"):
        make(old, sha, force=force, full_at=full_at, two=TWO)
    after = contents(old)
    assert {name: after[name] for name in before} == before
    assert names(old) == ["one"]
    assert is_whole(old)
    assert all(data in (ONE, TWO) for name, data in after.items() if name.endswith(".onnx"))

    for module in (files, writer):
        monkeypatch.setattr(module, "flush", flush)
    make(old, sha, force=force, two=TWO)
    assert names(old) == (["two"] if force else ["one", "two"])
    assert is_whole(old)
    assert not [name for name in contents(old) if name.startswith(".")]


def test_a_full_disk_leaves_no_new_bundle(tmp_path: Path) -> None:
    path = tmp_path / "new"
    with pytest.raises(BundleError, match="No space left"):
        make(path, full_at="two", one=ONE, two=TWO)
    assert not path.exists()
    assert not list(tmp_path.rglob("two*"))
    with BundleWriter(path, manifest()) as writer:
        assert writer.find("one") is not None  # taken up where it stopped
        writer.add("two", writes(TWO, name="two"))
    assert names(path) == ["one", "two"]
    assert [item.name for item in tmp_path.iterdir()] == ["new"]


def test_an_error_in_a_builder_leaves_the_old_bundle(old: Path) -> None:
    before = contents(old)

    def fails(path: Path) -> Any:
        path.write_bytes(b"half")
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"), BundleWriter(old, manifest()) as writer:
        writer.add("two", fails)
    assert contents(old) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from handmade import manifest, writes
from anydepth_deploy.bundle.writer import BundleWriter

path, sha, force = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "force"
with BundleWriter(path, manifest(sha), force=force) as writer:
    writer.add("two", writes(b"two" * 200, name="two"))
    print("two is done", flush=True)
    die = lambda: os.kill(os.getpid(), signal.SIGKILL)
    writer.add("three", writes(b"three" * 300, name="three", before=die))
"""


def run_killed(script: str, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "done" in done.stdout


def resume(path: Path, sha: str = "a", *, force: bool = False) -> None:
    """Take up an export that was killed in the artifact ``three``; ``two`` must still count."""
    with BundleWriter(path, manifest(sha), force=force) as writer:
        found = writer.find("two")
        assert found is not None
        assert (writer.folder / found.file).read_bytes() == TWO
        assert writer.find("three") is None
        writer.add("three", writes(THREE, name="three"))
    assert is_whole(path)
    assert not [name for name in contents(path) if name.startswith(".")]


def test_killed_while_adding(old: Path) -> None:
    before = snapshot(old)["one.onnx"]
    run_killed(KILLED, str(old), "a", "")
    assert names(old) == ["one", "two"]
    assert is_whole(old)
    assert snapshot(old)["one.onnx"] == before
    resume(old)
    assert names(old) == ["one", "two", "three"]
    assert snapshot(old)["one.onnx"] == before


def test_killed_while_replacing(old: Path) -> None:
    before = contents(old)
    run_killed(KILLED, str(old), "b", "force")
    after = contents(old)
    assert {name: after[name] for name in before} == before
    assert names(old) == ["one"]
    resume(old, "b", force=True)
    assert names(old) == ["two", "three"]
    assert open_bundle(old).manifest.source.sha256 == "b" * 64


def test_killed_while_making_a_new_bundle(tmp_path: Path) -> None:
    path = tmp_path / "new"
    run_killed(KILLED, str(path), "a", "")
    assert not path.exists()
    resume(path)
    assert names(path) == ["two", "three"]
    assert [item.name for item in tmp_path.iterdir()] == ["new"]


# --- export ----------------------------------------------------------------------------------


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeGraphs:
    """Export without torch's exporter."""
    return FakeGraphs().install(monkeypatch)


def test_exporting_again_makes_nothing_anew(
    bundle_copy: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        pytest.fail("nothing is missing")

    monkeypatch.setattr(export, "export_pieces", never)
    before = snapshot(bundle_copy)
    digests = {path.name: file_sha256(path) for path in bundle_copy.glob("*.onnx")}
    assert len(digests) == 6
    export_bundle(checkpoint, bundle_copy, layouts=["gated", "set"], weights=["shared", "folded"])
    export_bundle(checkpoint, bundle_copy)
    export_bundle(checkpoint, bundle_copy, depth="super,level:1", force=True)
    after = snapshot(bundle_copy)
    assert {name: after[name] for name in digests} == {name: before[name] for name in digests}
    assert contents(bundle_copy) == {name: data for name, (data, _) in before.items()}
    assert {path.name: file_sha256(path) for path in bundle_copy.glob("*.onnx")} == digests


def test_export_makes_what_is_missing(tmp_path: Path, checkpoint: Path, fake: FakeGraphs) -> None:
    out = tmp_path / "b"
    export_bundle(checkpoint, out)
    assert fake.saved == ["gated shared"]
    before = snapshot(out)["gated-fp32-shared.onnx"]
    export_bundle(checkpoint, out, weights=["folded", "shared"])
    assert fake.saved[1:] == ["gated folded"]
    export_bundle(checkpoint, out, depth="base,FTFT-F-1")
    assert fake.saved[2:] == [f"static {RUNGS[0]}", "static FTFT-F-1"]
    found = export_bundle(checkpoint, out, layouts=["set"])
    assert fake.saved[4:] == [f"static {RUNGS[1]}", f"static {RUNGS[2]}", f"static {RUNGS[3]}"]
    assert fake.exports == 4
    assert snapshot(out)["gated-fp32-shared.onnx"] == before
    assert [(item.depth, item.row, item.level) for item in found.artifacts("set")] == [
        (RUNGS[0], 0, 0),
        ("FTFT-F-1", found.table.row("FTFT-F-1"), None),
        (RUNGS[1], 1, 1),
        (RUNGS[2], 2, 2),
        (RUNGS[3], 3, 3),
    ]
    assert is_whole(out)


def test_export_repairs_what_is_damaged(tmp_path: Path, checkpoint: Path, fake: FakeGraphs) -> None:
    out = tmp_path / "b"
    export_bundle(checkpoint, out, weights=["shared", "folded"])
    path = out / "gated-fp32-folded.onnx"
    whole = path.read_bytes()
    path.write_bytes(whole[:10])
    export_bundle(checkpoint, out, weights=["shared", "folded"])
    assert fake.saved[2:] == ["gated folded"]
    assert path.read_bytes() == whole
    assert is_whole(out)


def test_raw_outputs_are_added_once(tmp_path: Path, checkpoint: Path, fake: FakeGraphs) -> None:
    out = tmp_path / "b"
    for raw, count in ((False, 1), (True, 2), (True, 2), (False, 2)):
        found = export_bundle(checkpoint, out, raw=raw)
        assert len(fake.saved) == count
        assert len(list(out.glob("*.onnx"))) == 1
        assert is_whole(out)
    assert found.artifacts()[0].raw


def test_export_of_another_checkpoint(tmp_path: Path, checkpoint: Path, fake: FakeGraphs) -> None:
    out = tmp_path / "b"
    export_bundle(checkpoint, out)
    other = tmp_path / "other.pth"
    torch.save(random_detr(seed=5).state_dict(), other)
    before = snapshot(out)
    with pytest.raises(BundleError, match="holds another export: checkpoint"):
        export_bundle(other, out)
    with pytest.raises(BundleError, match="ladder"):
        export_bundle(checkpoint, out, ladder="base,super")
    with pytest.raises(BundleError, match=r"input size 160x160 \(now 64x96\)"):
        export_bundle(checkpoint, out, input_size=(64, 96))
    assert snapshot(out) == before
    found = export_bundle(other, out, force=True)
    assert found.manifest.source.file == "other.pth"
    assert found.manifest.source.sha256 == file_sha256(other)
    assert is_whole(out)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"layouts": ["heap"]}, "unknown layout 'heap': expected gated or set"),
        ({"layouts": []}, "unknown layout ''"),
        ({"weights": ["light"]}, "unknown weights 'light': expected shared or folded"),
        ({"weights": []}, "unknown weights ''"),
        ({"layouts": ["gated"], "depth": "super"}, "a gated graph holds every depth"),
    ],
)
def test_options_that_do_not_go_together(
    tmp_path: Path, checkpoint: Path, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        export_bundle(checkpoint, tmp_path / "b", **options)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_during_export(tmp_path: Path, checkpoint: Path, fake: FakeGraphs) -> None:
    out = tmp_path / "b"
    export_bundle(checkpoint, out)
    before = contents(out)
    fake.before = disk_full
    with pytest.raises(BundleError, match="No space left"):
        export_bundle(checkpoint, out, weights=["shared", "folded"])
    assert contents(out) == before
    fake.before = None
    found = export_bundle(checkpoint, out, weights=["shared", "folded"])
    assert [item.name for item in found.artifacts()] == ["gated-fp32-shared", "gated-fp32-folded"]
    assert is_whole(out)


KILLED_EXPORT = """
import os, signal, sys
import pytest
from handmade import FakeGraphs
from anydepth_deploy.exporting.export import export_bundle

checkpoint, out = sys.argv[1:]
fake = FakeGraphs().install(pytest.MonkeyPatch())

def die(graph):
    if "static FFFF-F-3" in graph:
        print("the first is done", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

fake.before = die
export_bundle(checkpoint, out, layouts=["set"], depth="base,super")
"""


def test_killed_during_export(tmp_path: Path, checkpoint: Path, fake: FakeGraphs) -> None:
    out = tmp_path / "b"
    export_bundle(checkpoint, out)
    before = snapshot(out)["gated-fp32-shared.onnx"]
    run_killed(KILLED_EXPORT, str(checkpoint), str(out))
    assert names(out) == ["gated-fp32-shared", f"static-fp32-{RUNGS[0]}"]
    assert is_whole(out)
    done = snapshot(out)[f"static-fp32-{RUNGS[0]}.onnx"]
    export_bundle(checkpoint, out, layouts=["set"], depth="base,super")
    assert fake.saved == ["gated shared", f"static {RUNGS[3]}"]
    after = snapshot(out)
    assert after["gated-fp32-shared.onnx"] == before
    assert after[f"static-fp32-{RUNGS[0]}.onnx"] == done
    assert names(out)[2:] == [f"static-fp32-{RUNGS[3]}"]
    assert is_whole(out)
    assert not [name for name in after if name.startswith(".")]


def test_files_of_others_are_left_alone(old: Path) -> None:
    (old / "notes.onnx").write_bytes(b"mine")
    (old / "static-mine.onnx").write_bytes(b"mine")
    make(old, one=TWO)
    assert (old / "notes.onnx").read_bytes() == b"mine"
    assert (old / "static-mine.onnx").read_bytes() == b"mine"


def test_an_empty_folder_is_filled_where_it_is(tmp_path: Path) -> None:
    """It may be a mount point, or reached through a link: neither can be renamed onto."""
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    with pytest.raises(BundleError, match="No space left"):
        make(link, one=ONE, two=TWO, full_at="two")
    with pytest.raises(BundleError, match="not a bundle"):
        open_bundle(folder)
    with BundleWriter(link, manifest()) as writer:
        assert writer.find("one") is not None
    assert link.is_symlink()
    assert is_whole(folder)
    assert sorted(item.name for item in folder.iterdir()) == [MANIFEST, "one.onnx"]


def test_one_writer_at_a_time(old: Path) -> None:
    with (
        BundleWriter(old, manifest()),
        pytest.raises(BundleError, match="another export or build is writing"),
        BundleWriter(old, manifest()),
    ):
        pass
    with BundleWriter(old, manifest()):
        pass


def test_results_recorded_during_an_export_stay(old: Path) -> None:
    with BundleWriter(old, manifest()) as writer:
        kept = open_bundle(old).manifest
        results = {"verify": [{"passed": True}]}
        changed = kept.model_copy(update={"results": results})
        (old / MANIFEST).write_text(changed.model_dump_json())
        writer.add("two", writes(TWO, name="two"))
    assert open_bundle(old).manifest.results == results


def test_a_run_with_nothing_to_do_writes_nothing(old: Path) -> None:
    before = snapshot(old)
    with BundleWriter(old, manifest()):
        pass
    assert snapshot(old) == before
